"""Writing and reading the table of runs."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from loupe.errors import UsageError
from loupe.report import results


def test_table_is_unchanged_after_writing_and_reading(table, tmp_path):
    assert isinstance(table["curve.val/mae"].iloc[0], list)
    assert table["metrics.test/mae"].isna().any()
    shuffled = table.sample(frac=1, random_state=0)[sorted(table.columns)]
    results.write(shuffled, tmp_path / "again.parquet")
    again = results.read(tmp_path / "again.parquet")
    pd.testing.assert_frame_equal(again, table)
    assert list(again.columns[: len(results.RUN_COLUMNS)]) == list(results.RUN_COLUMNS)
    assert [path.name for path in tmp_path.iterdir()] == ["again.parquet"]


def test_missing_values_survive_writing_and_reading(tmp_path):
    rows = [
        dict.fromkeys(results.RUN_COLUMNS, "a")
        | {"settings.hidden": "none", "curve.step": [0, 1], "curve.val/mae": [1, 2.5]},
        dict.fromkeys(results.RUN_COLUMNS, "b") | {"sweep": None, "metrics.val/mae": 1, "curve.step": np.array([])},
    ]
    results.write(pd.DataFrame(rows), tmp_path / "runs.parquet")
    found = results.read(tmp_path / "runs.parquet")
    assert found["settings.hidden"].tolist() == ["none", None]
    assert found["sweep"].tolist() == ["a", None]
    assert found["curve.step"].tolist() == [[0, 1], []]
    assert found["curve.val/mae"].tolist() == [[1.0, 2.5], None]
    assert found["metrics.val/mae"].tolist()[1] == 1.0


@pytest.mark.parametrize("content", [None, b"text", "other", "not UTF-8"])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "runs.parquet"
    if content == "other":
        pd.DataFrame({"run_id": ["a"], "name": ["b"]}).to_parquet(path)
    elif content == "not UTF-8":
        texts = pa.array([b"\xff"]).view(pa.string())
        pyarrow.parquet.write_table(pa.table(dict.fromkeys(results.RUN_COLUMNS, texts)), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="from: ") as caught:
        results.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
