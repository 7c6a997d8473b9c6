"""The items of a sweep, each a network to train: a grid point with a seed, or a point of a sampler."""

import json
import math
from collections.abc import Iterator

from optuna.trial import FrozenTrial, TrialState

from loupe.search import constraints, sampling
from loupe.search.sweep_file import Params, SweepFile
from loupe.search.trial_attributes import FAILED, FAILURE, ORPHANED, PARENT

MAX_ATTEMPTS = 3  # an item is given up after this number of worker crashes in one run of the sweep
TrialsByItem = dict[str, list[FrozenTrial]]  # a retry is a new trial of the same item


class SweepItems:
    """The items of a sweep.

    Args:
        sweep: the sweep file.
        parent: the id of the sweep's run. An item whose training raised an error in this run is not tried again.
    """

    def __init__(self, sweep: SweepFile, parent: str) -> None:
        self._sweep, self.parent = sweep, parent
        self._points = list(sweep.iterate_points()) if sweep.is_grid else []
        self._arms = sweep.group_arms() if sweep.study.tune else []
        self._startup_points = [] if sweep.is_grid else sampling.draw_startup_points(sweep)

    def iterate_missing(self, by_item: TrialsByItem) -> Iterator[tuple[str, Params]]:
        """Yield the items that have not ended and have no waiting or running trial, with their fixed parameters.

        If an item has no fixed parameters ({}), the sampler chooses its parameters.
        """
        for item, params in self._iterate(by_item):
            trials = by_item.get(item, [])
            if all(trial.state == TrialState.FAIL for trial in trials) and not self._is_given_up(trials):
                yield item, params

    def has_ended(self, trials: list[FrozenTrial]) -> bool:
        """Return whether the item with these trials is complete, pruned or given up."""
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        return any(trial.state in ended for trial in trials) or self._is_given_up(trials)

    def _iterate(self, by_item: TrialsByItem) -> Iterator[tuple[str, Params]]:
        """Yield all items. With `tune`, only the best point of an arm gets further seeds.

        The points of an arm differ only in the fields of `tune`. The best point is known when all of them
        have ended with the first seed.
        """
        if not self._sweep.is_grid:
            for slot in range(self._sweep.study.trials):
                yield f"slot {slot}", self._startup_points[slot] if slot < len(self._startup_points) else {}
            return
        first, *others = self._sweep.seeds
        yield from _add_seeds(self._points, [first])
        best = [self._find_tuned_point(arm, first, by_item) for arm in self._arms]
        yield from _add_seeds([point for point in best if point] if self._arms else self._points, others)

    def _find_tuned_point(self, arm: list[Params], first: int, by_item: TrialsByItem) -> Params | None:
        """Return the point of an arm with the lowest loss (`SweepFile.get_loss`) for the first seed.

        Return None if a point of the arm has not ended, or if no complete trial satisfies the constraints.
        """
        trials_of_points = [by_item.get(_name_item(params | {"seed": first}), []) for params in arm]
        if not all(map(self.has_ended, trials_of_points)):
            return None
        losses = [
            min(
                (
                    self._sweep.get_loss(trial)
                    for trial in trials
                    if trial.state == TrialState.COMPLETE and constraints.is_feasible(trial)
                ),
                default=math.inf,
            )
            for trials in trials_of_points
        ]
        return None if math.isinf(min(losses)) else arm[losses.index(min(losses))]

    def _is_given_up(self, trials: list[FrozenTrial]) -> bool:
        failures = [trial.user_attrs.get(FAILURE) for trial in trials if trial.user_attrs.get(PARENT) == self.parent]
        return FAILED in failures or failures.count(ORPHANED) >= MAX_ATTEMPTS


def _add_seeds(points: list[Params], seeds: list[int]) -> Iterator[tuple[str, Params]]:
    for point in points:
        for seed in seeds:
            params = point | {"seed": seed}
            yield _name_item(params), params


def _name_item(params: Params) -> str:
    return json.dumps(params, sort_keys=True)
