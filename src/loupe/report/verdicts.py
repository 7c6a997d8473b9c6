"""A claim and the runs of its sweep, to a verdict: holds, does not hold, undecided, or not run."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from loupe.errors import UsageError
from loupe.report.claims import Claim
from loupe.report.intervals import ABOVE_ZERO, BELOW_ZERO, FAILS, HOLDS, UNDECIDED, Estimate, Region, estimate

NOT_RUN = "not run"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_RUN)
FEWEST = 2  # seeds that have an interval


@dataclass(frozen=True)
class Line:
    """One arm, or another metric of its runs: what it reached, and at which learning rates."""

    name: str
    estimate: Estimate
    rates: str


@dataclass(frozen=True)
class Comparison:
    """An arm's difference from another, paired by seed; or, against bounds, its own value (`against` is empty)."""

    name: str
    against: str
    estimate: Estimate
    region: Region

    @property
    def verdict(self) -> str:
        """HOLDS, FAILS or UNDECIDED."""
        return self.region.verdict(self.estimate)


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Args:
        claim: the claim.
        verdict: one of VERDICTS.
        budget: of all the runs that count, for people: `20 s of one core`.
        lines: each arm's mean.
        comparisons: what decides; all of them have to hold.
        reason: why it is NOT_RUN; else empty.
    """

    claim: Claim
    verdict: str
    budget: str
    lines: tuple[Line, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    reason: str = ""

    @property
    def more_seeds(self) -> int | None:
        """How many more seeds would decide what is undecided, if means and spreads stay; None: more than 1000."""
        if self.verdict != UNDECIDED:
            return 0
        open_ones = [part for part in self.comparisons if part.verdict == UNDECIDED]
        missing = {part: part.region.seeds_missing(part.estimate) for part in open_ones}
        lost = [missing[part] for part in open_ones if part.region.margin(part.estimate.mean) < 0]
        if lost:  # the first that is found to fail decides
            return min((count for count in lost if count is not None), default=None)
        return None if None in missing.values() else max((count or 0 for count in missing.values()), default=0)

    @property
    def decisive(self) -> Comparison | None:
        """The comparison that the verdict hangs on: the one that holds least."""
        ranks = {FAILS: 0, UNDECIDED: 1, HOLDS: 2}
        return min(
            self.comparisons,
            key=lambda part: (ranks[part.verdict], part.region.margin(part.estimate.mean)),
            default=None,
        )


def judge(claim: Claim, arms: pd.DataFrame) -> Verdict:
    """Judge a claim by all the seeds that its arms have in common.

    Args:
        claim: the claim.
        arms: a row an arm and seed: `seed`, the searched fields under their keys in the sweep file, and the
            columns of the table of runs.

    Raises:
        UsageError: the claim names a field that is not searched, or an arm that two runs of a seed belong to.
    """
    runs = runs_of(claim, arms)
    budget = budget_of(pd.concat(runs.values())) if runs else ""
    lines: list[Line] = []
    comparisons: list[Comparison] = []
    for variant in _variants(claim, arms):
        values = {name_of(arm | variant): _values(claim, arms, arm | variant, claim.metric) for arm in claim.arms}
        own = next(iter(values))
        if claim.other_metric is not None:
            values[f"{claim.other_metric} of {own}"] = _values(claim, arms, claim.arm | variant, claim.other_metric)
        parts = {(own, ""): values[own]}
        if claim.between is None:
            parts = {(own, other): values[own] - values[other] for other in values if other != own}
        for (name, other), found in parts.items():
            seeds = found.dropna()
            if len(seeds) < FEWEST:
                return Verdict(claim, NOT_RUN, budget, reason=_reason(claim, values, name, other, len(seeds)))
            comparisons.append(Comparison(name, other, estimate(seeds.to_numpy()), _region(claim)))
        lines += [Line(name, estimate(found.to_numpy()), _rates(runs.get(name))) for name, found in values.items()]
    if not comparisons:
        return Verdict(claim, NOT_RUN, budget, reason=f"no run has a value of {claim.each}")
    reached = {part.verdict for part in comparisons}
    verdict = next(name for name in (FAILS, UNDECIDED, HOLDS) if name in reached)
    return Verdict(claim, verdict, budget, tuple(lines), tuple(comparisons))


def runs_of(claim: Claim, arms: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows that count for a claim, by the name of their arm; after change_to, with the change in the name."""
    found = {}
    for variant in _variants(claim, arms):
        for arm in claim.arms:
            for changed in ({}, claim.change_to) if claim.change_to else ({},):
                found[name_of(arm | variant | changed)] = _rows(claim, arms, arm | variant | changed)
    return found


def name_of(arm: dict[str, str]) -> str:
    """An arm for people: `tanh` where one word says it all, else `activation=tanh, hidden=512,256`."""
    if not arm:
        return "its runs"
    words = [value for value in arm.values() if value[:1].isalpha() and value not in ("true", "false", "none")]
    if len(arm) == 1 and words:
        return words[0]
    short = [key.rpartition(".")[2] for key in arm]
    keys = [name if short.count(name) == 1 else key for name, key in zip(short, arm, strict=True)]
    return ", ".join(f"{key}={value}" for key, value in zip(keys, arm.values(), strict=True))


def budget_of(runs: pd.DataFrame) -> str:
    """What the runs were given to train with: `20 s of one core`, `400 steps`; several, where they differ."""
    seconds, steps = (runs.get(f"settings.{name}", pd.Series(index=runs.index)) for name in ("seconds", "steps"))
    budgets = set()
    for second, step in zip(seconds, steps, strict=True):
        if not pd.isna(second) and second != "none":
            budgets.add((0, float(second), f"{float(second):g} s of one core"))
        elif not pd.isna(step):
            budgets.add((1, float(step), f"{int(step):,} steps"))
        else:
            budgets.add((2, 0.0, "closed form"))
    return "; ".join(text for *_, text in sorted(budgets))


def _region(claim: Claim) -> Region:
    if claim.between is not None:
        return Region(*claim.between)
    if claim.within is not None:
        return Region(-claim.within, claim.within)
    return ABOVE_ZERO if claim.higher else BELOW_ZERO


def _variants(claim: Claim, arms: pd.DataFrame) -> list[dict[str, str]]:
    """What is added to each arm: one value of `each` after the other, or nothing."""
    missing = claim.fields - set(arms.columns) if len(arms) else set()
    if missing:
        raise UsageError(f"claim {claim.number}: {min(missing)} is no field that its sweep searches")
    return [{}] if claim.each is None else [{claim.each: value} for value in _searched(arms, claim.each)]


def _searched(arms: pd.DataFrame, field: str) -> list[str]:
    """The values of a searched field, numbers in order."""
    return sorted(arms[field].dropna().unique(), key=_normal) if field in arms else []


def _normal(value: Any) -> Any:
    """What a value is compared and sorted by: 1.0 is 1, and numbers come first."""
    if pd.isna(value):
        return None
    try:
        return (0, float(value), "")
    except ValueError:
        return (1, 0.0, value)


def _rows(claim: Claim, arms: pd.DataFrame, arm: dict[str, str]) -> pd.DataFrame:
    """The rows of an arm: one a seed, or one a seed and value of worst_over."""
    for key, value in arm.items():
        if key in arms:
            arms = arms[[_normal(there) == _normal(value) for there in arms[key]]]
    keys = ["seed", *([claim.worst_over] if claim.worst_over else [])]
    if len(arms) and arms.duplicated(keys).any():
        raise UsageError(f"claim {claim.number}: {name_of(arm)} has two runs of a seed; name what they differ in")
    return arms


def _values(claim: Claim, arms: pd.DataFrame, arm: dict[str, str], metric: str) -> pd.Series:
    """The value of each seed: after change_to minus before, and the worst over worst_over; whole ones only."""

    def table(arm: dict[str, str]) -> pd.DataFrame:
        rows, column = _rows(claim, arms, arm), f"metrics.{metric}"
        if column not in rows or rows.empty:
            return pd.DataFrame(dtype=float)
        if claim.worst_over is None:
            return rows.set_index("seed")[[column]].astype(float)
        return rows.pivot(index="seed", columns=claim.worst_over, values=column).astype(float)

    found = table(arm | claim.change_to) - table(arm) if claim.change_to else table(arm)
    if claim.worst_over is not None:
        found = found.reindex(columns=_searched(arms, claim.worst_over))
    found = found.dropna()
    return found.min(axis=1) if claim.higher else found.max(axis=1)


def _rates(runs: pd.DataFrame | None) -> str:
    """The learning rates of some runs: each arm has chosen its own, where the sweep lets it."""
    if runs is None or "settings.learning_rate" not in runs:
        return ""
    return ", ".join(_searched(runs, "settings.learning_rate"))


def _reason(claim: Claim, values: dict[str, pd.Series], name: str, other: str, seeds: int) -> str:
    empty = [name for name, found in values.items() if not len(found)]
    if empty:
        return f"{empty[0]}: no run with {claim.metric}"
    together = f"{name} and {other} have" if other else f"{name} has"
    return f"{together} {seeds} seed{'s' if seeds != 1 else ''} in common of at least {FEWEST}"
