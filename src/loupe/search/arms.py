"""Finds the runs of a grid's points in a table of runs. These runs may come from other sweeps.

An arm is a group of points that differ only in tuned fields (`tune` in the sweep file).
"""

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import pandas as pd

from loupe.config import parse_settings
from loupe.config.base import SettingsError
from loupe.config.fields import format_value
from loupe.search import constraints
from loupe.search.sweep_file import EXECUTION_FIELDS, Params, SweepFile


class _Candidate(NamedTuple):
    """A point with its runs, one per seed, and the loss with the first seed (infinite if it is missing)."""

    loss: float
    params: Params
    runs: pd.DataFrame


def find_runs(sweep: SweepFile, table: pd.DataFrame) -> pd.DataFrame:
    """Find the finished trials of the points of a grid.

    Args:
        sweep: the sweep file.
        table: the runs; for the columns, see `run_table.load_run_table`.

    Returns:
        The newest run per point and seed of the sweep file, with the columns of `table`, a column `seed`, and a
        column per key of [search] (None if the condition of the key does not hold). The categories of this column are
        the values of the key in the sweep file. Further seeds, which other sweeps may have, do not count: the number
        of seeds is fixed before a sweep starts. All runs are on one dataset: that with the most runs or, in a tie,
        with the most runs of this sweep. With `tune`, the table contains only the best point of each arm, without the
        run with the first seed. The best point has the lowest loss with the first seed, among the points whose run
        with this seed satisfies the constraints. The column `at_grid_end` then shows whether the learning rate is the
        lowest or the highest one of the arm (None if the arm does not have different ones). If the sweep is not a
        grid, the table is empty.
    """
    if not sweep.is_grid or table.empty:
        return pd.DataFrame()
    rows = table[(table["kind"] == "trial") & (table["state"] == "COMPLETE")]
    rows = rows.assign(_key=[_make_run_key(row) for _, row in rows.iterrows()])
    rows = rows.sort_values("started", ascending=False)
    selections = [_select_runs(sweep, runs) for _, runs in rows.groupby("dataset", dropna=False)]

    def count_runs(runs: pd.DataFrame) -> tuple[int, int]:
        return len(runs), int((runs["sweep"] == sweep.name).sum()) if len(runs) else 0

    return max(selections, key=count_runs, default=pd.DataFrame())


def _select_runs(sweep: SweepFile, rows: pd.DataFrame) -> pd.DataFrame:
    """Select the first row (the newest run) per point and seed; see `find_runs`."""
    by_key = dict(list(rows.groupby("_key")))
    selected_rows: list[dict[str, Any]] = []
    for arm in sweep.group_arms():
        for params, runs in _select_points(sweep, arm, by_key):
            fields = {key: format_value(params[key]) if key in params else None for key in sweep.search}
            for _, row in runs.iterrows():
                selected_rows.append(row.to_dict() | fields | {"seed": int(row["settings.seed"])})
    selected = pd.DataFrame(selected_rows)
    values = {key: list(map(format_value, sweep.list_choices(key))) for key in sweep.search if key in selected}
    return selected.assign(**{key: pd.Categorical(selected[key], texts) for key, texts in values.items()})


def _select_points(
    sweep: SweepFile, arm: list[Params], by_key: dict[str, pd.DataFrame]
) -> Iterator[tuple[Params, pd.DataFrame]]:
    """Yield the points of an arm with one run per seed; with `tune`, only the best point, without the first seed."""
    seeds, metric = [str(seed) for seed in sweep.seeds], f"metrics.{sweep.objective}"
    first = seeds[0]
    sign = 1 if sweep.study.direction == "minimize" else -1
    candidates = []
    for params in arm:
        runs = by_key.get(_join_settings(sweep.create_settings(params).to_texts()))
        if runs is not None:
            by_seed = runs[runs["settings.seed"].isin(seeds)].drop_duplicates("settings.seed")
            if by_seed.empty:
                continue
            by_seed = by_seed.set_index("settings.seed", drop=False)
            value = sign * by_seed.loc[first, metric] if first in by_seed.index else math.nan
            candidates.append(_Candidate(math.inf if math.isnan(value) else value, params, by_seed))
    if sweep.study.tune:
        with_first_seed = [
            each for each in candidates if first in each.runs.index and _is_feasible(sweep, each, first)
        ]
        best = min(with_first_seed, key=lambda candidate: candidate.loss, default=None)
        # The loss with the first seed is a minimum over points, so an arm with more points would have an advantage.
        runs = best.runs.drop(index=first).assign(at_grid_end=_is_at_grid_end(best, candidates)) if best else None
        candidates = [best._replace(runs=runs)] if best else []
    yield from ((candidate.params, candidate.runs) for candidate in candidates)


def _is_at_grid_end(best: _Candidate, candidates: list[_Candidate]) -> bool | None:
    """Return whether the learning rate of the best point is the lowest or the highest one.

    None if the points do not have different learning rates.
    """

    def read_rate(candidate: _Candidate) -> float:
        return float(candidate.runs.iloc[0].get("settings.learning_rate") or math.nan)

    rates = {rate for rate in map(read_rate, candidates) if not math.isnan(rate)}
    return read_rate(best) in (min(rates), max(rates)) if len(rates) > 1 else None


def _is_feasible(sweep: SweepFile, candidate: _Candidate, seed: str) -> bool:
    """Return whether the run of a seed satisfies the constraints of the sweep."""
    metrics = {str(name).removeprefix("metrics."): value for name, value in candidate.runs.loc[seed].items()}
    return not constraints.list_violated(constraints.compute_violations(sweep.study.constraints, metrics))


def _make_run_key(row: pd.Series) -> str:
    return _make_key(
        frozenset(
            (name.removeprefix("settings."), value)
            for name, value in row.items()
            if str(name).startswith("settings.") and isinstance(value, str)
        )
    )


@cache
def _make_key(texts: frozenset[tuple[str, str]]) -> str:
    """Return the key of a run's settings, with the defaults of missing fields."""
    fields = dict(texts)
    try:
        return _join_settings(parse_settings("train", fields).to_texts())
    except SettingsError:  # an old run can have a field or a value that no longer exists
        return _join_settings(fields)


def _join_settings(texts: Mapping[str, str]) -> str:
    return json.dumps({name: value for name, value in texts.items() if name not in EXECUTION_FIELDS}, sort_keys=True)
