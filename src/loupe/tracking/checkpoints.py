"""Saves the checkpoints of a training as artifacts of the run, and loads them."""

import tempfile
from pathlib import Path

import mlflow
import numpy as np

from loupe.errors import UsageError, describe_error
from loupe.tracking import records, runs
from loupe.tracking.record_handlers import CHECKPOINT_TAG


def save_checkpoint(arrays: dict[str, np.ndarray], step: int) -> None:
    """Save a checkpoint to the open run, in place of the previous one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{step}.npz"
        np.savez(file, allow_pickle=False, **arrays)
        records.log_record("checkpoint", {}, file)


def has_checkpoint(run_id: str) -> bool:
    """Return whether a run has a checkpoint."""
    return CHECKPOINT_TAG in mlflow.get_run(run_id).data.tags


def load_checkpoint(run_id: str) -> dict[str, np.ndarray]:
    """Load the last complete checkpoint of a run.

    Raises:
        UsageError: the run does not exist or has no checkpoint, or the file of the checkpoint is damaged.
        LoupeError: the store cannot be used.
        Exception: the file cannot be downloaded; clients of object stores have their own classes of errors.
    """
    name = runs.get_run(run_id, "resume").data.tags.get(CHECKPOINT_TAG)
    if not name:
        raise UsageError(f"resume: run {run_id} has no checkpoint: it ended before its first checkpoint")
    with tempfile.TemporaryDirectory() as folder:
        file = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=folder)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:
            reason = describe_error(error)
            raise UsageError(f"resume: the checkpoint of run {run_id} cannot be read: {reason}") from None
