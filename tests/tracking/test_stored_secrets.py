"""No secret reaches the store, its artifacts, or the output of a step."""

from pathlib import Path

import mlflow
import pandas as pd
import pytest
from jobs import loupe

from loupe.config import parse_settings
from loupe.tracking import records, runs

SECRET = "hunter2"


def test_a_run_does_not_store_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    url = f"s3://key:{SECRET}@bucket/x?token={SECRET}"
    settings = parse_settings("preprocess", {"data_dir": url, "source": url, "quiet": True})
    try:
        with runs.open_step_run(settings, f"preprocess {url}"):
            records.log_tags({"loupe.note": url})
            records.log_json({"a": [url]}, "facts.json")
            records.log_table(pd.DataFrame({"reason": [url], "mae": [0.5]}), "table.json")
    finally:
        mlflow.set_tracking_uri(before)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"mlflow.db", "facts.json", "table.json"} <= {file.name for file in files}
    assert b"***" in (tmp_path / "mlflow.db").read_bytes()
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["register"], {"MLFLOW_TRACKING_URI": f"nosuch://u:{SECRET}@host/a"}),
        (["sweep", "smoke.toml", "--storage", f"nosuch://h/d?password={SECRET}"], {}),
        (["preprocess", "--source", f"nosuch://u:{SECRET}@bucket/photos"], {}),
        (["preprocess", "--data-dir", f"nosuch://u:{SECRET}@bucket/data", "--smoke"], {}),
    ],
)
def test_an_error_does_not_show_a_secret(arguments: list[str], variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "smoke.toml").write_bytes((Path(__file__).parents[2] / "sweeps" / "smoke.toml").read_bytes())
    try:
        done = loupe(*arguments, cwd=tmp_path, status=2, **variables)
        shown = done.stdout + done.stderr
    except AssertionError as error:  # another exit status
        shown = str(error)
    assert "error" in shown
    assert SECRET not in shown
    assert [file for file in tmp_path.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()] == []
