"""Logs steps on photo files to MLflow, only if a run is open or `mlflow run` started the step."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loupe.config.photos import PhotoSettings
from loupe.photos.processing import Outcome


@contextmanager
def photo_run(settings: PhotoSettings) -> Iterator[None]:
    """Open a run under `mlflow run` or inside another step's run; elsewhere do nothing and create no store."""
    if "MLFLOW_RUN_ID" not in os.environ and not _is_inside_run():
        yield
        return
    from loupe.tracking import runs

    runs.tag_project_run()
    with runs.step_run(settings, f"{settings.STEP} {Path(settings.inputs[0]).name}"):
        yield


def log_outcomes(settings: PhotoSettings, outcomes: Sequence[Outcome], by: str) -> None:
    """Log the model's name, the number of results and failures, and the result of a single photo.

    Args:
        settings: of the step.
        outcomes: of all photos.
        by: the name of the model or method.
    """
    if not _is_inside_run():
        return
    from loupe.tracking import records

    records.log_tags({"loupe.model": by})
    records.log_metrics(
        {
            settings.VERB: sum(outcome.size is not None for outcome in outcomes),
            "failed": sum(outcome.reason != "" for outcome in outcomes),
        }
    )
    if len(outcomes) == 1 and outcomes[0].size:
        records.log_file(outcomes[0].job.out)


def _is_inside_run() -> bool:
    mlflow = sys.modules.get("mlflow")
    return mlflow is not None and mlflow.active_run() is not None
