"""Logs the steps upscale and restore to MLflow if a run is open or `mlflow run` started the step."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from loupe.cli.progress import print_error
from loupe.config.photos import PhotoSettings
from loupe.photos.outcomes import Outcome, describe_assumptions


@contextmanager
def open_photo_run(settings: PhotoSettings) -> Iterator[None]:
    """Open a run if `mlflow run` started the step or another run is open; otherwise do nothing.

    If the run cannot be opened, the function prints the reason, and the step continues without the run.
    """
    if "MLFLOW_RUN_ID" not in os.environ and not _is_run_open():
        yield
        return
    from loupe.tracking import project_run, runs, server, store

    with server.limit_requests(server.PROBE_TIMEOUT_S), ExitStack() as stack:
        try:
            store.check_store(server.PROBE_TIMEOUT_S)
            server.check_reachable()
            project_run.tag_project_run()
            stack.enter_context(runs.open_step_run(settings, f"{settings.STEP} {Path(settings.inputs[0]).name}"))
        except Exception as error:  # the step continues without the run
            print_error(f"{store.describe_failure(error)}; the run is not logged")
        yield


def log_outcomes(settings: PhotoSettings, outcomes: Sequence[Outcome], model: str, device: str = "") -> None:
    """Log the model or method, the device, the assumed JPEG qualities, and the numbers of results and failures.

    If there is only one photo, also log the file of its result. Without an open run, do nothing.
    """
    if not _is_run_open():
        return
    from loupe.tracking import records

    results = sum(outcome.size is not None for outcome in outcomes)
    failures = sum(outcome.reason != "" for outcome in outcomes)
    records.log_model_tags(model, device)
    if assumed := describe_assumptions(outcomes):
        records.log_tags({"loupe.assumed": assumed})
    records.log_metrics({settings.VERB: results, "failed": failures})
    if len(outcomes) == 1 and results:
        records.log_file(outcomes[0].job.out)


def _is_run_open() -> bool:
    mlflow = sys.modules.get("mlflow")
    return mlflow is not None and mlflow.active_run() is not None
