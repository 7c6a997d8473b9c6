"""The Optuna study of a sweep: enqueues trials, assigns each trial to one worker, and ranks the results.

The sweep's process enqueues one trial per item (see `items`). A worker claims a trial before the training. If a
worker crashes, its item is enqueued again, and the new trial continues from the checkpoint. Optuna's own retries are
not used, because they do not support a journal file, the default storage.
"""

import heapq
import itertools
import time
import warnings
from collections.abc import Callable
from functools import partial

import optuna
import pandas as pd
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from loupe.errors import UsageError, mask_secrets
from loupe.search import constraints, sampling
from loupe.search.items import SweepItems, TrialsByItem
from loupe.search.study_storage import retry_database
from loupe.search.sweep_file import SweepFile, describe_difference
from loupe.search.trial_attributes import (
    FAILURE,
    ITEM,
    LAST_VALUE,
    ORPHANED,
    OWNER,
    PARENT,
    REASON,
    RESUMED_RUN,
    REUSED,
    RUN,
    WORK_SECONDS,
)

VIOLATED = "violated"  # column of the table of trials: the constraints that a trial violates
SPACE_ATTRIBUTE = "loupe.space"  # attribute of the study: the search space
CLAIM_TIMEOUT_S = 20.0  # after this time, a worker that has not finished its claim counts as crashed
MAX_REASON_LENGTH = 500


class SweepStudy:
    """The study of a sweep.

    Args:
        sweep: the sweep file.
        storage: the result of `study_storage.open_storage`.
        digest: the digest of the dataset.
        parent: the id of the sweep's run. An item whose training raised an error in this run is not tried again.

    Raises:
        UsageError: a study with this name has another search space.
    """

    def __init__(self, sweep: SweepFile, storage: BaseStorage, digest: str, parent: str) -> None:
        self.sweep, self._storage = sweep, storage
        self.optuna_study = optuna.create_study(
            storage=storage,
            sampler=sampling.create_sampler(sweep, 0),
            pruner=sampling.create_pruner(sweep),
            study_name=sweep.name,
            directions=sweep.directions,
            load_if_exists=True,
        )
        if self.optuna_study.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.optuna_study.set_metric_names(sweep.objectives)
        self._study_id = storage.get_study_id_from_name(sweep.name)
        self._check_space(sweep.describe_space(digest))
        self._items = SweepItems(sweep, parent)
        # Monotonic time at which a trial without an owner was first seen, by trial number
        self._unowned_since: dict[int, float] = {}

    @property
    def parent(self) -> str:
        """The id of the sweep's run."""
        return self._items.parent

    @parent.setter
    def parent(self, run_id: str) -> None:
        self._items.parent = run_id

    def _check_space(self, space: str) -> None:
        existing = self.optuna_study.user_attrs.get(SPACE_ATTRIBUTE)
        if existing is None and not self._list_trials():
            self.optuna_study.set_user_attr(SPACE_ATTRIBUTE, space)
        elif existing != space:
            raise UsageError(
                "study.name: must be a new name, or that of a study with the same search space, "
                f"got {self.sweep.name!r}{describe_difference(existing, space)}"
            )

    def enqueue_missing(self, max_waiting: int) -> None:
        """Enqueue a trial for each item that has not ended and has no waiting or running trial.

        In each request to a database, Optuna reads all unfinished trials. Therefore at most `max_waiting` trials
        wait. While at least half of this number wait, no trial is enqueued.
        """
        free_places = max_waiting - self.count_waiting()
        if free_places <= max_waiting // 2:
            return
        by_item = self._group_by_item()
        for item, params in itertools.islice(self._items.iterate_missing(by_item), free_places):
            attributes = {ITEM: item}
            orphans = list(filter(_is_orphan, by_item.get(item, [])))
            if orphans:
                last = orphans[-1].user_attrs
                run_id = last.get(RUN, last.get(RESUMED_RUN))  # a worker can crash before it opens a run
                attributes |= {RESUMED_RUN: run_id} if run_id else {}
                params = params or orphans[-1].params
            self.optuna_study.enqueue_trial(params, user_attrs=attributes)

    def count_ended(self) -> int:
        """Return the number of items that are complete, pruned or given up."""
        return sum(map(self._items.has_ended, self._group_by_item().values()))

    def count_waiting(self) -> int:
        """Return the number of waiting trials."""
        return len(self._list_trials(TrialState.WAITING))

    def count_open(self) -> int:
        """Return the number of waiting and running trials."""
        return len(self._list_trials(TrialState.WAITING, TrialState.RUNNING))

    def sum_work_seconds(self) -> float:
        """Return the total seconds of training and scoring in the trials of the sweep's run (`parent`)."""
        trials = (trial for trial in self._list_trials() if trial.user_attrs.get(PARENT) == self.parent)
        return sum(float(trial.user_attrs.get(WORK_SECONDS, 0.0)) for trial in trials)

    def to_frame(self) -> pd.DataFrame:
        """Return a row per trial: number, values, parameters, state, seconds, run, reused, error message.

        MLflow shows only the first columns. With constraints, the column VIOLATED lists those that a trial violates.
        """
        rows, trials = [], self._list_trials()
        values = ("value", self.sweep.study.cost)[: len(self.sweep.objectives)]
        params = dict.fromkeys(name for trial in trials for name in trial.params)
        for trial in trials:
            row = {
                "number": trial.number,
                **dict(zip(values, trial.values or (None, None), strict=False)),
                **{name: trial.params.get(name) for name in params},
                "state": "ORPHANED" if _is_orphan(trial) else trial.state.name,
                "seconds": trial.duration.total_seconds() if trial.duration else None,
                RUN: trial.user_attrs.get(RUN),
                REUSED: bool(trial.user_attrs.get(REUSED)),
                REASON: trial.user_attrs.get(REASON),
            }
            if self.sweep.study.constraints:
                row[VIOLATED] = ", ".join(constraints.list_violated(trial.constraints))
            rows.append(row)
        return pd.DataFrame(rows)

    def claim_trial(self, owner: dict[str, str]) -> Trial | None:
        """Claim a waiting trial for one worker; return None if no trial waits.

        `Study.ask` is not used, because it creates a trial if none waits. `owner` contains the
        tags of the worker's process.
        """
        for waiting in self._list_trials(TrialState.WAITING):
            trial_id = self._find_id(waiting)
            try:
                if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    continue
                # Without retries, an error after the commit of the owner would leave a trial that never ends: it
                # runs, and its owner is alive, but claims another trial.
                return retry_database(partial(self._own_trial, trial_id, waiting.number, owner))
            except optuna.exceptions.UpdateFinishedTrialError:
                continue  # the trial has ended: another worker was faster, or this claim exceeded CLAIM_TIMEOUT_S
        return None

    def _own_trial(self, trial_id: int, number: int, owner: dict[str, str]) -> Trial:
        self._storage.set_trial_user_attr(trial_id, PARENT, self.parent)
        self._storage.set_trial_user_attr(trial_id, OWNER, owner)
        # The sampler's seed derives from the trial's number, so that it does not depend on the worker.
        self.optuna_study.sampler = sampling.create_sampler(self.sweep, number)
        return Trial(self.optuna_study, trial_id)

    def complete_trial(self, trial: Trial, state: TrialState, values: list[float] | None) -> bool:
        """End a trial as complete with a value per objective, or as pruned; return False if it had already ended.

        It can have ended, because the sweep ends a trial as ORPHANED if its worker seems to have crashed. The worker
        may in fact still be training.
        """
        try:
            self.optuna_study.tell(trial, values if state == TrialState.COMPLETE else None, state)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            if not self._storage.get_trial(self._find_id(trial)).state.is_finished():
                raise
            return False
        return True

    def fail_trial(self, trial: Trial | FrozenTrial, failure: str, reason: str = "") -> bool:
        """End a trial without a value, as FAILED or ORPHANED; return False if it had already ended."""
        trial_id = self._find_id(trial)
        try:
            self._storage.set_trial_user_attr(trial_id, FAILURE, failure)
            self._storage.set_trial_user_attr(trial_id, REASON, mask_secrets(reason)[:MAX_REASON_LENGTH])
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def fail_orphans(self, is_alive: Callable[[FrozenTrial], bool]) -> list[FrozenTrial]:
        """End trials whose owner is not alive, or that have run without an owner for CLAIM_TIMEOUT_S; return them."""
        orphans, now = [], time.monotonic()
        for trial in self._list_trials(TrialState.RUNNING):
            if OWNER in trial.user_attrs:
                is_orphan = not is_alive(trial)
            else:  # measured here, because the trial's start time can come from another machine's clock
                is_orphan = now - self._unowned_since.setdefault(trial.number, now) >= CLAIM_TIMEOUT_S
            if is_orphan and self.fail_trial(trial, ORPHANED):
                orphans.append(trial)
        return orphans

    def rank_trials(self) -> list[FrozenTrial]:
        """Return the feasible complete trials, best first; with two objectives, only the Pareto front.

        In a grid, points are ranked by their number of feasible complete trials (most first), then by their mean. The
        trials of a point are ranked by value, and those with equal values by the last value of the learning curve.
        """
        complete = self.optuna_study.best_trials if self.sweep.has_front else self._list_feasible()
        points = list(map(self._find_point, complete))
        losses_by_point: dict[object, list[float]] = {}
        losses = [self.sweep.get_loss(trial) for trial in complete]
        for point, loss in zip(points, losses, strict=True):
            losses_by_point.setdefault(point, []).append(loss)
        ranks = {point: (-len(group), sum(group) / len(group)) for point, group in losses_by_point.items()}
        last = [self.sweep.to_loss(trial.user_attrs.get(LAST_VALUE)) for trial in complete]
        keys = [(*ranks[point], *own) for point, *own in zip(points, losses, last, strict=True)]
        return [complete[index] for index in sorted(range(len(complete)), key=keys.__getitem__)]

    def list_kept(self) -> list[FrozenTrial]:
        """Return the trials whose networks are kept, at most one per run.

        These are the `keep` best trials or, with two objectives, the whole Pareto front.
        """
        by_run: dict[str, FrozenTrial] = {}
        for trial in self.rank_trials():
            if RUN in trial.user_attrs:  # another program can add trials
                by_run.setdefault(str(trial.user_attrs[RUN]), trial)
        kept = list(by_run.values())
        return kept if self.sweep.has_front else kept[: self.sweep.study.keep]

    def list_needed_trials(self) -> list[FrozenTrial]:
        """Return the trials whose runs a continued sweep needs: running trials, and those of `list_kept`."""
        running = [trial for trial in self._list_trials(TrialState.RUNNING) if RUN in trial.user_attrs]
        return running + self.list_kept()

    def list_parents(self) -> set[str]:
        """Return the ids of the sweep's runs in which the trials of the study were started."""
        return {str(trial.user_attrs[PARENT]) for trial in self._list_trials() if PARENT in trial.user_attrs}

    def find_best(self) -> FrozenTrial | None:
        """Return the first trial of `rank_trials` that has a run, or None. Trials of other programs have no run."""
        return next((trial for trial in self.rank_trials() if RUN in trial.user_attrs), None)

    def is_among_best(self, value: float) -> bool:
        """Return whether a feasible trial with this value could be one of the `keep` best.

        With two objectives, return True, because `value` alone does not show whether the trial is in the front.
        """
        if self.sweep.has_front:
            return True
        keep = self.sweep.study.keep
        losses = [self.sweep.get_loss(trial) for trial in self._list_feasible() if RUN in trial.user_attrs]
        best = heapq.nsmallest(keep, losses)
        return len(best) < keep or self.sweep.to_loss(value) <= best[-1]

    def _list_feasible(self) -> list[FrozenTrial]:
        """Return the complete trials that satisfy all constraints."""
        return [trial for trial in self._list_trials(TrialState.COMPLETE) if constraints.is_feasible(trial)]

    def _list_trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.optuna_study.get_trials(deepcopy=False, states=states or None)

    def _find_point(self, trial: FrozenTrial) -> object:
        """Return a key of the trial's grid point; each trial of a sampler is its own point."""
        if not self.sweep.is_grid:
            return trial.number
        return tuple(map(trial.params.get, self.sweep.search))

    def _find_id(self, trial: Trial | FrozenTrial) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)

    def _group_by_item(self) -> TrialsByItem:
        by_item: TrialsByItem = {}
        for trial in self._list_trials():
            if ITEM in trial.user_attrs:  # another program can add trials
                by_item.setdefault(str(trial.user_attrs[ITEM]), []).append(trial)
        return by_item


def _is_orphan(trial: FrozenTrial) -> bool:
    """Return whether a trial was ended as ORPHANED. A trial can complete after its attribute FAILURE is set."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get(FAILURE) == ORPHANED
