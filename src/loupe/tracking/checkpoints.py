"""Checkpoints of trainings: arrays to an artifact of the run, and back."""

import tempfile
from pathlib import Path

import mlflow
import numpy as np

from loupe.errors import UsageError, describe_error
from loupe.tracking import records, runs
from loupe.tracking.record_handlers import CHECKPOINT_TAG


def save_checkpoint(arrays: dict[str, np.ndarray], step: int) -> None:
    """Keep a checkpoint with the open run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{step}.npz"
        np.savez(file, allow_pickle=False, **arrays)
        records.log_record("checkpoint", {}, file)


def has_checkpoint(run_id: str) -> bool:
    """Whether a run has a checkpoint."""
    return CHECKPOINT_TAG in mlflow.get_run(run_id).data.tags


def load_checkpoint(run_id: str) -> dict[str, np.ndarray]:
    """The last whole checkpoint of a run; raises UsageError where the run or its checkpoint is gone."""
    name = runs.get_run(run_id, "resume").data.tags.get(CHECKPOINT_TAG)
    if not name:
        raise UsageError(f"resume: run {run_id} has no checkpoint: it ended, or never came to one")
    with tempfile.TemporaryDirectory() as folder:
        file = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=folder)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # what is no archive of arrays raises whatever it leads numpy to
            why = describe_error(error)
            raise UsageError(f"resume: the checkpoint of run {run_id} cannot be read: {why}") from None


def remove_checkpoint() -> None:
    """Remove the open run's checkpoint: it has ended."""
    records.log_record("no checkpoint", {})
