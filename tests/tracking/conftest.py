"""MLflow keeps the current experiment in the process: each test starts without one."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_current_experiment(monkeypatch):
    """Forget the experiment that a test before has chosen; it may not exist in the store of this test."""
    from mlflow.tracking import fluent

    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        os.environ.pop(name, None)
