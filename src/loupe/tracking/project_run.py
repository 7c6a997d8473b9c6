"""Tags the run that `mlflow run` created for a step, before the step opens it."""

import os
from contextlib import suppress
from pathlib import Path

import mlflow

from loupe.config.steps import UNSENT_RUNS_FOLDER
from loupe.config.training import validate_backend
from loupe.tracking import buffered_runs, liveness, run_notes, server
from loupe.tracking.store import check_store


def begin_step(quiet: bool) -> None:
    """Wait up to STARTUP_TIMEOUT_S for the server, write the tags of this process, and upload buffered runs.

    First, check the backend of Keras. Steps call this function before other requests, because MLflow repeats failed
    requests for minutes, and because the step may read a buffered run. For the tags, see `tag_project_run`.

    Args:
        quiet: do not print the uploaded runs.

    Raises:
        UsageError: Loupe does not support the backend of Keras.
        LoupeError: the store cannot be used.
    """
    validate_backend()
    check_store(writes=False)
    server.check_reachable(server.STARTUP_TIMEOUT_S)
    tag_project_run()
    if server.is_server():
        buffered_runs.upload_buffered_runs(Path(UNSENT_RUNS_FOLDER), quiet)


def tag_project_run() -> None:
    """Write the tags of this process to the run that `mlflow run` created, if there is one.

    If the process dies, a later step detects this from the tags, and closes the run.
    """
    if "MLFLOW_RUN_ID" in os.environ:
        _set_project_tags(liveness.make_process_tags())


def log_project_failure(text: str) -> None:
    """Log to the run of `mlflow run` why the step did not start, if the store answers."""
    with suppress(Exception), server.limit_requests(server.PROBE_TIMEOUT_S):
        check_store(server.PROBE_TIMEOUT_S)
        server.check_reachable()
        _set_project_tags(run_notes.make_failure_tags({}, text))


def _set_project_tags(tags: dict[str, str]) -> None:
    for key, value in tags.items():
        mlflow.MlflowClient().set_tag(os.environ["MLFLOW_RUN_ID"], key, value)
