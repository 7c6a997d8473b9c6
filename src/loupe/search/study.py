"""A study in Optuna: which trials are wanted, who works on them, and how it ended.

Every trial is enqueued once by the sweep's one parent, under the name of an item (a grid's point and seed, or
a slot of a sampler), and workers take waiting trials only: so that each item is trained exactly once, whatever
dies. An item whose worker died is enqueued again, to go on from its checkpoint. Few trials wait at a time, since
a database is asked anew for all that have not ended.
"""

import heapq
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import optuna
import pandas as pd
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from loupe.errors import UsageError
from loupe.search import sampling
from loupe.search.sweep_file import Chosen, SweepFile

# What is noted on a trial: its item, the run to go on from, its run, who works on it and for which run of the
# sweep, and, where it has no value, how it ended and why.
ITEM, RESUME, RUN, OWNER, PARENT, ENDED, WHY = "item", "resume", "run", "owner", "parent", "ended", "why"
REUSED, WORK = "reused", "work"  # whether its result was there already; seconds of its own work
FAILED, ORPHAN = "error", "orphan"
ENDS = (TrialState.COMPLETE, TrialState.PRUNED)
SPACE = "loupe.space"
ATTEMPTS = 3  # of an item whose workers die, by one start of the sweep
UNSIGNED = 20.0  # seconds in which a worker must have signed the trial that it took
AHEAD = 64  # trials that wait at most, unless fewer are asked for


class Trials:
    """The trials of a sweep's study: those wanted, waiting, at work, and how they ended.

    Args:
        sweep: the file.
        storage: from `storages.opened`.
        digest: of the dataset that is trained on.
        parent: id of the sweep's run: what failed by an error under it is not tried again by it.

    Raises:
        UsageError: a study of this name searches another space.
    """

    def __init__(self, sweep: SweepFile, storage: BaseStorage, digest: str, parent: str) -> None:
        self.sweep, self.parent, self._storage = sweep, parent, storage
        self.study = optuna.create_study(
            storage=storage,
            sampler=sampling.sampler(sweep, 0),
            pruner=sampling.pruner(sweep),
            study_name=sweep.name,
            direction=sweep.study.direction,
            load_if_exists=True,
        )
        self._study_id = storage.get_study_id_from_name(sweep.name)
        self._sign = 1 if sweep.study.direction == "minimize" else -1
        self._check_space(sweep.space(digest))
        self._points = {_item(chosen): chosen for chosen in sweep.points()} if sweep.study.sampler == "grid" else {}
        self._startup = (
            {} if self._points else {_slot(at): chosen for at, chosen in enumerate(sampling.startup(sweep))}
        )
        self._point_of: dict[str, str] = {}  # of a grid's items
        self._with_seeds: dict[tuple[str, tuple[int, ...]], list[tuple[str, Chosen]]] = {}

    def _check_space(self, space: str) -> None:
        there = self.study.user_attrs.get(SPACE)
        if there is None and not self._found():
            self.study.set_user_attr(SPACE, space)
        elif there != space:
            raise UsageError(
                f"study.name: {self.sweep.name!r} is a study of another space (settings, search or dataset); "
                "give another name"
            )

    def enqueue(self, ahead: int = AHEAD) -> None:
        """Enqueue items that are wanted and neither done, nor at work, nor waiting, nor given up.

        Args:
            ahead: how many trials may wait; while half of them do, none is added.
        """
        room = ahead - self.waiting()
        if room <= ahead // 2:
            return
        by_item = self._by_item()
        missing = (
            (item, params) for item, params in self._wanted(by_item) if self._is_missing(by_item.get(item, []))
        )
        for item, params in itertools.islice(missing, room):
            there = by_item.get(item, [])
            attrs, dead = {ITEM: item}, [trial for trial in there if trial.user_attrs.get(ENDED) == ORPHAN]
            if dead:
                attrs |= {RESUME: dead[-1].user_attrs[RUN]} if RUN in dead[-1].user_attrs else {}
                params = params or dead[-1].params
            self.study.enqueue_trial(params, user_attrs=attrs)

    def ended(self) -> int:
        """How many items have ended: well, early, or for good."""
        return sum(map(self._has_ended, self._by_item().values()))

    def work(self) -> float:
        """Seconds of their own work that the trials under this run of the sweep had."""
        ours = (trial for trial in self._found() if trial.user_attrs.get(PARENT) == self.parent)
        return sum(float(trial.user_attrs.get(WORK, 0.0)) for trial in ours)

    def are_open(self) -> bool:
        """Whether a trial waits or is at work."""
        return bool(self._found(TrialState.WAITING, TrialState.RUNNING))

    def waiting(self) -> int:
        """How many trials wait."""
        return len(self._found(TrialState.WAITING))

    def at_work(self) -> int:
        """How many trials are at work."""
        return len(self._found(TrialState.RUNNING))

    def table(self) -> pd.DataFrame:
        """A row a trial: number, state, value, run, reused, why it failed, seconds, and its params."""
        rows = []
        for trial in self._found():
            orphaned = trial.user_attrs.get(ENDED) == ORPHAN
            row = {
                "number": trial.number,
                "state": "ORPHANED" if orphaned else trial.state.name,
                "value": trial.value,
                "seconds": trial.duration.total_seconds() if trial.duration else None,
                RUN: trial.user_attrs.get(RUN),
                REUSED: bool(trial.user_attrs.get(REUSED)),
                WHY: trial.user_attrs.get(WHY),
            }
            rows.append(row | trial.params)
        return pd.DataFrame(rows)

    def take(self, owner: dict[str, str]) -> Trial | None:
        """Take a waiting trial and sign it: nobody else gets it; None where none waits."""
        for waiting in self._found(TrialState.WAITING):
            trial_id = self._id(waiting)
            try:
                if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    continue
            except optuna.exceptions.UpdateFinishedTrialError:
                continue
            self._storage.set_trial_user_attr(trial_id, PARENT, self.parent)
            self._storage.set_trial_user_attr(trial_id, OWNER, owner)
            self.study.sampler = sampling.sampler(self.sweep, waiting.number)  # the same in whichever process
            return Trial(self.study, trial_id)
        return None

    def fail(self, trial: Trial | FrozenTrial, how: str, why: str = "") -> None:
        """End a trial without a value, as FAILED or ORPHAN; one that somebody else has ended stays as it is."""
        trial_id = self._id(trial)
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(trial_id, ENDED, how)
            self._storage.set_trial_user_attr(trial_id, WHY, why[:500])
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def reap(self, is_alive: Callable[[FrozenTrial], bool]) -> list[FrozenTrial]:
        """Fail, and give, the trials whose owners are dead, or that nobody has signed in UNSIGNED seconds."""
        dead = []
        for trial in self._found(TrialState.RUNNING):
            since = trial.datetime_start.timestamp() if trial.datetime_start else time.time()
            if not (is_alive(trial) if OWNER in trial.user_attrs else time.time() - since < UNSIGNED):
                self.fail(trial, ORPHAN)
                dead.append(trial)
        return dead

    def best_first(self) -> list[FrozenTrial]:
        """The completed trials, the best first; of a grid's points those with most seeds first, by their mean."""
        complete, rank = self._ranked()
        return sorted(complete, key=rank)

    def best(self) -> FrozenTrial | None:
        """The first of `best_first`; None where no trial is completed."""
        complete, rank = self._ranked()
        return min(complete, key=rank, default=None)

    def _ranked(self) -> tuple[list[FrozenTrial], Callable[[FrozenTrial], tuple[float, ...]]]:
        by_point: dict[str, list[float]] = {}
        complete = self._found(TrialState.COMPLETE)
        for trial in complete:
            by_point.setdefault(self._point(trial), []).append(self._value(trial))
        places = {point: (-len(values), sum(values) / len(values)) for point, values in by_point.items()}
        return complete, lambda trial: (*places[self._point(trial)], self._value(trial))

    def is_among_the_best(self, value: float) -> bool:
        """Whether a trial of this value would be one of the `keep` best so far."""
        keep = self.sweep.study.keep
        best = heapq.nsmallest(keep, map(self._value, self._found(TrialState.COMPLETE)))
        return len(best) < keep or self._sign * value <= best[-1]

    def _found(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _point(self, trial: FrozenTrial) -> str:
        """What trials that differ in their seed alone share; a sampler's have one seed, and each stands alone."""
        if not self._points:
            return str(trial.number)
        item = str(trial.user_attrs.get(ITEM))
        if item not in self._point_of:
            self._point_of[item] = _item({key: value for key, value in trial.params.items() if key != "seed"})
        return self._point_of[item]

    def _value(self, trial: FrozenTrial) -> float:
        """Of a completed trial: the lower, the better."""
        return self._sign * float(trial.value or 0)

    def _id(self, trial: Trial | FrozenTrial) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)

    def _by_item(self) -> dict[str, list[FrozenTrial]]:
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self._found():
            found.setdefault(str(trial.user_attrs.get(ITEM)), []).append(trial)
        return found

    def _wanted(self, by_item: dict[str, list[FrozenTrial]]) -> Iterator[tuple[str, Chosen]]:
        """All items, those that come first before the others; of a tuned grid those that are known by now."""
        sweep = self.sweep
        if sweep.study.sampler != "grid":
            for slot in map(_slot, range(sweep.study.trials)):
                yield slot, self._startup.get(slot, {})
            return
        first, *others = sweep.seeds()
        points = list(self._points.values())
        yield from self._seeded(points, [first])
        if sweep.study.tune:
            points = [best for arm in sweep.arms().values() if (best := self._tuned(arm, first, by_item))]
        yield from self._seeded(points, others)

    def _seeded(self, points: list[Chosen], seeds: list[int]) -> Iterator[tuple[str, Chosen]]:
        for chosen in points:
            key = (_item(chosen), tuple(seeds))
            if key not in self._with_seeds:
                seeded = [chosen | {"seed": seed} for seed in seeds]
                self._with_seeds[key] = [(_item(each), each) for each in seeded]
            yield from self._with_seeds[key]

    def _tuned(self, arm: list[Chosen], first: int, by_item: dict[str, list[FrozenTrial]]) -> Chosen | None:
        """The best point of an arm by its first seed; None while one is open, or where none has a value."""
        trials = [by_item.get(_item(chosen | {"seed": first}), []) for chosen in arm]
        if not all(map(self._has_ended, trials)):
            return None
        values = [
            min((self._value(trial) for trial in found if trial.state == TrialState.COMPLETE), default=math.inf)
            for found in trials
        ]
        return None if math.isinf(min(values)) else arm[values.index(min(values))]

    def _has_ended(self, trials: list[FrozenTrial]) -> bool:
        return any(trial.state in ENDS for trial in trials) or self._is_given_up(trials)

    def _is_missing(self, trials: list[FrozenTrial]) -> bool:
        return all(trial.state == TrialState.FAIL for trial in trials) and not self._is_given_up(trials)

    def _is_given_up(self, trials: list[FrozenTrial]) -> bool:
        ours = [trial for trial in trials if trial.user_attrs.get(PARENT) == self.parent]
        orphans = [trial for trial in ours if trial.user_attrs.get(ENDED) == ORPHAN]
        return any(trial.user_attrs.get(ENDED) == FAILED for trial in ours) or len(orphans) >= ATTEMPTS


def _item(chosen: Chosen) -> str:
    return json.dumps(chosen, sort_keys=True)


def _slot(number: int) -> str:
    return f"slot {number}"
