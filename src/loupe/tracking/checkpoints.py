"""Checkpoints of trainings: arrays to an artifact of the run, and back."""

import tempfile
from pathlib import Path

import mlflow
import numpy as np

from loupe.errors import UsageError, first_line
from loupe.tracking import records, runs
from loupe.tracking.record_handlers import CHECKPOINT


def save(arrays: dict[str, np.ndarray], step: int) -> None:
    """Keep a checkpoint with the open run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{step}.npz"
        np.savez(file, allow_pickle=False, **arrays)
        records.tell("checkpoint", {}, file)


def has(run_id: str) -> bool:
    """Whether a run has a checkpoint."""
    return CHECKPOINT in mlflow.get_run(run_id).data.tags


def load(run_id: str) -> dict[str, np.ndarray]:
    """The last whole checkpoint of a run; raises UsageError where the run or its checkpoint is gone."""
    name = runs.run_of(run_id, "resume").data.tags.get(CHECKPOINT)
    if not name:
        raise UsageError(f"resume: run {run_id} has no checkpoint: it ended, or never came to one")
    with tempfile.TemporaryDirectory() as folder:
        file = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=folder)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # what is no archive of arrays raises whatever it leads numpy to
            why = first_line(error)
            raise UsageError(f"resume: the checkpoint of run {run_id} cannot be read: {why}") from None


def drop() -> None:
    """Remove the open run's checkpoint: it has ended."""
    records.tell("no checkpoint", {})
