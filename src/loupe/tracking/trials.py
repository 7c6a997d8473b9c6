"""Opens, finds and closes the runs of a sweep's trials. Later sweeps reuse the results in these runs."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from loupe.cli import signals
from loupe.config.base import Settings
from loupe.errors import LoupeError
from loupe.tracking import checkpoints, liveness, runs
from loupe.tracking.store import MISSING_CODES, create_store, search_runs

TRIAL_TAG = "loupe.trial"
SWEEP_TAG = "loupe.sweep"
STORAGE_TAG = "loupe.storage"  # the location of a sweep's study
KEY_TAG = "loupe.key"  # the result of `compute_key`
CODE_TAG = "loupe.code"  # the hash of the training code
CONTINUED_TAG = "loupe.continued_by"  # on an earlier run of a sweep: the id of the run that took over its trials
CONTINUES_TAG = "loupe.continues"  # on a trial that continues a killed one: the id of the killed run
STATE_TAG = "loupe.state"  # COMPLETE or PRUNED
VIOLATED_TAG = "loupe.violated"  # the constraints that a trial violates
SCORED_TAG = "loupe.scored"  # exists after the test scores, tables and figures were logged
CHECKPOINT_INTERVAL_S = 10.0  # minimum time between two saves by `PeriodicCheckpoint.save_if_due`


def compute_key(settings: Settings, digest: str, code: str) -> str:
    """Return a hash of three values: the settings that affect a result, the dataset's digest, and `code`."""
    without_effect = ("dataset", "data_dir", "scheduler", "threads", "resume")
    texts = {name: text for name, text in settings.to_texts().items() if name not in without_effect}
    return hashlib.sha256(json.dumps([texts, digest, code], sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def open_trial_run(
    settings: Settings, name: str, parent: str, tags: dict[str, str], continues: str | None
) -> Iterator[str]:
    """Open the run of a trial as a child of the sweep's run, and close it when the block exits.

    Args:
        settings: the settings of train.
        name: the name of the run.
        parent: the id of the sweep's run.
        tags: further tags: SWEEP_TAG, TRIAL_TAG, KEY_TAG, CODE_TAG and the note.
        continues: the id of the killed run that the trial continues, or None.

    Yields:
        The run's id.
    """
    tags = runs.build_tags(settings, "trial") | tags | ({CONTINUES_TAG: continues} if continues else {})
    with signals.raise_on_signals():
        start = partial(mlflow.start_run, run_name=name, parent_run_id=parent, tags=tags, log_system_metrics=False)
        with runs.open_run(start, settings.to_texts(), settings.quiet) as run_id:
            yield run_id


class PeriodicCheckpoint:
    """Saves checkpoints of the open run.

    `save_if_due` saves at most one per CHECKPOINT_INTERVAL_S. `save` saves the newest one immediately.
    """

    def __init__(self) -> None:
        self._saved_at = time.monotonic()
        self._newest: tuple[dict[str, np.ndarray], int] | None = None

    def save_if_due(self, arrays: dict[str, np.ndarray], step: int) -> None:
        """Save this checkpoint if CHECKPOINT_INTERVAL_S has passed since the last save; else keep it for `save`.

        Before the first save, the time since the creation of this object counts.
        """
        self._newest = arrays, step
        if time.monotonic() - self._saved_at > CHECKPOINT_INTERVAL_S:
            self.save()

    def save(self) -> None:
        """Save the last checkpoint of `save_if_due`, unless it is already saved."""
        if self._newest is not None:
            checkpoints.save_checkpoint(*self._newest)
            self._saved_at, self._newest = time.monotonic(), None


def find_finished_run(key: str) -> Any:
    """Return the newest run of a complete trial with this key, or None."""
    condition = f"attributes.status = 'FINISHED' and tags.`{KEY_TAG}` = '{key}' and tags.`{STATE_TAG}` = 'COMPLETE'"
    return next(iter(search_runs(condition, limit=1)), None)


def get_ended_run(run_id: str) -> Any:
    """Return a run if it is finished and has the tag STATE_TAG, otherwise None."""
    run = mlflow.get_run(run_id)
    return run if run.info.status == "FINISHED" and STATE_TAG in run.data.tags else None


def load_checkpoint(run_id: str) -> dict[str, np.ndarray] | None:
    """Load the last checkpoint of a killed trial, or of the trial that it continued; None if there is none."""
    found: str | None = run_id
    while found:
        if checkpoints.has_checkpoint(found):
            return checkpoints.load_checkpoint(found)
        found = get_tags(found).get(CONTINUES_TAG)
    return None


def find_sweep_runs(sweep: str) -> list[Any]:
    """Return the runs of the step `sweep` for the sweep with this name, newest first."""
    create_store()
    return search_runs(f"tags.`loupe.step` = 'sweep' and tags.`{SWEEP_TAG}` = '{sweep}'")


def find_trials(parent: str) -> list[Any]:
    """Return the runs of the trials that are children of the run with the id `parent`."""
    return search_runs(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}' and tags.`loupe.step` = 'trial'")


def adopt_trials(old: str, new: str) -> None:
    """Make the trials of an earlier run of a sweep children of its new run; `old` and `new` are the ids of the runs.

    The earlier run gets the tag CONTINUED_TAG. If its status is RUNNING, the status becomes KILLED. The run may be
    deleted.
    """
    client = mlflow.MlflowClient()
    for child in find_trials(old):
        client.set_tag(child.info.run_id, MLFLOW_PARENT_RUN_ID, new)
    try:
        liveness.mark_killed(old)
        client.set_tag(old, CONTINUED_TAG, new)
    except MlflowException as error:
        if error.error_code not in MISSING_CODES:
            raise


def reopen_sweep_run(run_id: str) -> None:
    """Set the status of a sweep's run to RUNNING if another process closed it.

    Raises:
        LoupeError: another run continues the sweep.
    """
    run = mlflow.get_run(run_id)
    if CONTINUED_TAG in run.data.tags:
        raise LoupeError(f"sweep: run {run.data.tags[CONTINUED_TAG]} continues the trials of this sweep")
    if run.info.status != "RUNNING":
        mlflow.MlflowClient().update_run(run_id, status="RUNNING")


def discard_result(run_id: str) -> None:
    """Set the status of a finished run to KILLED, because another worker has already stored a result of the trial."""
    mlflow.MlflowClient().set_terminated(run_id, "KILLED")


def get_tags(run_id: str | None) -> dict[str, str]:
    """Return the tags of a run; {} for None."""
    return dict(mlflow.get_run(run_id).data.tags) if run_id else {}
