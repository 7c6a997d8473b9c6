"""Fixtures of the tracking tests: a reset of the MLflow experiment, and a run in a new store."""

import os
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from new_stores import copy_new_stores


@pytest.fixture(scope="session", autouse=True)
def copied_stores():
    """Create new stores in this process as copies of the first one."""
    copy_new_stores()


@pytest.fixture(autouse=True)
def no_current_experiment(monkeypatch):
    """Reset the experiment that an earlier test has chosen: it may not exist in the store of this test."""
    from mlflow.tracking import fluent

    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        os.environ.pop(name, None)


@pytest.fixture
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The id of an open run in a new store."""
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield str(mlflow.MlflowClient().create_run("0").info.run_id)
    mlflow.set_tracking_uri(before)
