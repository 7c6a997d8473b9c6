"""Tables that are logged twice have no duplicated rows; incomplete arrays are not logged."""

import json
import resource
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from loupe.tracking import delivery, records
from loupe.tracking.buffer import SUFFIX, RunBuffer

FIRST = pd.DataFrame({"method": ["model", "nearest"], "mae": [0.1, 0.2]})
SECOND = pd.DataFrame({"method": ["model", "nearest", "ridge"], "mae": [0.3, 0.2, float("nan")]})


def table_of(run_id: str, name: str) -> pd.DataFrame:
    return mlflow.load_table(name, run_ids=[run_id])


def test_a_table_that_is_logged_again_replaces_only_the_table_of_its_name(run_id: str) -> None:
    with records.log_to_run(run_id):
        for name, table in (("a.json", FIRST), ("more/b.json", FIRST), ("a.json", FIRST), ("more/b.json", SECOND)):
            records.log_table(table, name)
    pd.testing.assert_frame_equal(table_of(run_id, "a.json"), FIRST)
    pd.testing.assert_frame_equal(table_of(run_id, "more/b.json"), SECOND)
    listed = json.loads(mlflow.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": "a.json", "type": "table"}, {"path": "more/b.json", "type": "table"}]


def test_small_numbers_of_a_table_are_not_rounded_to_zero(run_id: str) -> None:
    table = pd.DataFrame({"epsilon": [1e-12, 3.25e-11], "learning_rate": [1.2345e-6, 1e-7]})
    with records.log_to_run(run_id):
        records.log_table(table, "a.json")
    logged = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/a.json"))
    assert logged["data"] == table.to_numpy().tolist()


def test_a_buffered_table_that_is_sent_again_has_its_rows_once(run_id: str, tmp_path: Path) -> None:
    buffer = RunBuffer.create(tmp_path / f"{run_id}{SUFFIX}", {"run_id": run_id})
    FIRST.to_json(tmp_path / "test.json", orient="split", index=False)
    buffer.append("table", {"name": "test.json"}, tmp_path / "test.json")
    for _ in range(2):
        buffer.mark_sent(0)  # as if the process died after the server received the table
        delivery.upload_records(buffer)
    pd.testing.assert_frame_equal(table_of(run_id, "test.json"), FIRST)


def test_an_array_that_a_full_disk_cuts_is_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "log_record", lambda *_: pytest.fail("an incomplete file was logged"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            records.log_array(np.zeros(100, "uint8"), "weights.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
