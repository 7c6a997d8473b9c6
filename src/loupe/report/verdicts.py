"""Checks a claim against the runs of its sweep."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from loupe.errors import UsageError
from loupe.report.claims import MIN_SEEDS, Claim, format_full_name, normalise_value
from loupe.report.intervals import ABOVE_ZERO, BELOW_ZERO, FAILS, HOLDS, UNDECIDED, Estimate, Region, estimate_mean

NOT_RUN = "not run"
OUTCOMES = (HOLDS, FAILS, UNDECIDED, NOT_RUN)


@dataclass(frozen=True)
class ArmMean:
    """The mean of a metric over the seeds of an arm, and the learning rates of its runs."""

    name: str
    estimate: Estimate
    learning_rates: str


@dataclass(frozen=True)
class Comparison:
    """The difference between two arms or two metrics, paired by seed; or the value of one arm if `other` is "".

    The values in `region` support the claim.
    """

    name: str
    other: str
    estimate: Estimate
    region: Region
    outcome: str  # HOLDS, FAILS or UNDECIDED


@dataclass(frozen=True)
class ClaimVerdict:
    """Result of the check of a claim.

    Args:
        claim: the claim.
        outcome: one of OUTCOMES.
        budget: training budget of the runs, such as `1e12 FLOPs`.
        arms: mean of each arm.
        comparisons: the claim holds if all of them hold.
        reason: why the outcome is NOT_RUN, or "".
    """

    claim: Claim
    outcome: str
    budget: str
    arms: tuple[ArmMean, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    reason: str = ""

    @property
    def weakest(self) -> Comparison | None:
        """The comparison with the worst outcome and, among equal outcomes, the smallest margin.

        None without comparisons.
        """
        ranks = {FAILS: 0, UNDECIDED: 1, HOLDS: 2}
        return min(
            self.comparisons,
            key=lambda each: (ranks[each.outcome], each.region.compute_margin(each.estimate.mean)),
            default=None,
        )


def check_claim(claim: Claim, arms: pd.DataFrame) -> ClaimVerdict:
    """Check a claim. Each comparison uses the seeds that its two arms have in common.

    Args:
        claim: the claim.
        arms: the result of `search.arms.find_runs`: one row per point and seed, with `seed`, the searched fields
            under their keys in the sweep file, and the columns of the table of runs. A value of `each` or
            `worst_over` that is a category of its column, but has no run, gives the outcome NOT_RUN.

    Raises:
        UsageError: the claim uses a field that the sweep does not search, or an arm has two runs with the same seed.
    """
    runs = select_runs(claim, arms)
    budget = format_budget(runs.values())
    means: list[ArmMean] = []
    differences: dict[tuple[str, str], Estimate] = {}  # by the names of the arms of a comparison
    variants = _list_variants(claim, arms)
    names = name_arms(claim, variants)
    for variant in variants:
        values = {
            names[format_full_name(arm | variant)]: _read_values(claim, arms, arm | variant) for arm in claim.arms
        }
        first = next(iter(values))  # the arm that the claim is about
        if claim.other_metric is not None:
            name = f"{claim.other_metric} of {first}"
            values[name] = _read_values(claim, arms, claim.arm | variant, claim.other_metric)
        others = [name for name in values if name != first] if claim.between is None else [""]
        for other in others:
            difference = (values[first] - values[other] if other else values[first]).dropna()
            if len(difference) < MIN_SEEDS:
                reason = _explain_missing_seeds(claim, values, other, len(difference))
                return ClaimVerdict(claim, NOT_RUN, budget, reason=reason)
            differences[first, other] = estimate_mean(difference.to_numpy())
        means += [
            ArmMean(name, estimate_mean(value.to_numpy()), _format_learning_rates(runs.get(name)))
            for name, value in values.items()
        ]
    if not differences:
        return ClaimVerdict(claim, NOT_RUN, budget, reason=f"no run has a value of {claim.each}")
    region, comparisons = _make_region(claim), []
    for pair, difference in differences.items():
        estimate = replace(difference, comparisons=len(differences))
        comparisons.append(Comparison(*pair, estimate, region, region.check(estimate)))
    outcomes = [comparison.outcome for comparison in comparisons]
    outcome = next(name for name in (FAILS, UNDECIDED, HOLDS) if name in outcomes)
    return ClaimVerdict(claim, outcome, budget, tuple(means), tuple(comparisons))


def select_runs(claim: Claim, arms: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each arm; the keys are the names of the arms.

    A claim with `change_to` has each arm twice: without and with the values of `change_to`.
    """
    variants = _list_variants(claim, arms)
    names = name_arms(claim, variants)
    all_arms = claim.list_all_arms(variants)
    return {names[format_full_name(arm)]: _select_rows(claim, arms, arm) for arm in all_arms}


def name_arms(claim: Claim, variants: Iterable[dict[str, str]] = ({},)) -> dict[str, str]:
    """Name the arms of `claim.list_all_arms`: by the result of `format_arm` if it is unique, else by the full name.

    Returns:
        The name of each arm by its full name.
    """
    names = {format_full_name(arm): format_arm(arm) for arm in claim.list_all_arms(variants)}
    counts = Counter(names.values())
    return {full_name: name if counts[name] == 1 else full_name for full_name, name in names.items()}


def format_arm(arm: dict[str, str]) -> str:
    """Format an arm: `tanh`, or `activation=tanh, hidden=512,256`."""
    if not arm:
        return "all runs"
    words = [value for value in arm.values() if value[:1].isalpha() and value not in ("true", "false", "none")]
    if len(arm) == 1 and words:
        return words[0]
    short = [key.rpartition(".")[2] for key in arm]
    keys = [name if short.count(name) == 1 else key for name, key in zip(short, arm, strict=True)]
    return ", ".join(f"{key}={value}" for key, value in zip(keys, arm.values(), strict=True))


def format_budget(arms: Iterable[pd.DataFrame]) -> str:
    """Format the training budgets of arms, such as `1e12 FLOPs (12 to 15 s)`.

    The times are the medians of the fastest and the slowest arm, for budgets in FLOPs. Runs of an arm with different
    networks have different numbers of steps, and count as several arms.
    """
    names = ("settings.flops", "settings.steps", "metrics.training_steps", "metrics.training_seconds")
    medians: dict[tuple[int, float, str], list[float]] = {}  # keys: the results of `_make_budget_key`
    for runs in arms:
        times: dict[tuple[Any, ...], list[float]] = {}
        columns = (runs.get(name, pd.Series(index=runs.index)) for name in names)
        for flops, steps, done, time in zip(*columns, strict=True):
            times.setdefault((_make_budget_key(flops, steps), str(done)), []).append(time)
        for (key, _), values in times.items():
            medians.setdefault(key, []).append(pd.Series(values, dtype=float).median())
    parts = []
    for (rank, _, text), values in sorted(medians.items()):
        limits = pd.Series(values).agg(["min", "max"]).dropna()
        seconds = " to ".join(dict.fromkeys(f"{time:,.0f}" for time in limits))
        parts.append(f"{text} ({seconds} s)" if seconds and rank == 0 else text)
    return "; ".join(parts)


def _make_budget_key(flops: Any, steps: Any) -> tuple[int, float, str]:
    """Return the rank of the budget's unit, its number and its text."""
    if not pd.isna(flops) and flops != "none":
        return 0, float(flops), f"{flops} FLOPs"
    if not pd.isna(steps):
        return 1, float(steps), f"{int(steps):,} steps"
    return 2, 0.0, "closed form"


def _make_region(claim: Claim) -> Region:
    if claim.between is not None:
        return Region(*claim.between)
    if claim.within is not None:
        return Region(-claim.within, claim.within)
    return ABOVE_ZERO if claim.higher else BELOW_ZERO


def _list_variants(claim: Claim, arms: pd.DataFrame) -> list[dict[str, str]]:
    """List the settings to add to each arm: one dictionary per value of `each`."""
    missing = claim.fields - set(arms.columns) if len(arms) else set()
    if missing:
        raise UsageError(f"claim {claim.number}: must use fields that its sweep searches, got {min(missing)}")
    return [{}] if claim.each is None else [{claim.each: value} for value in _list_values(arms, claim.each)]


def _list_values(arms: pd.DataFrame, field: str) -> list[str]:
    """List the categories of a column, or its values if it has another type: numbers, then texts."""
    return sorted(arms[field].astype("category").cat.categories, key=normalise_value) if field in arms else []


def _select_rows(claim: Claim, arms: pd.DataFrame, arm: dict[str, str]) -> pd.DataFrame:
    """Select the rows of an arm: one per seed, or one per seed and value of `worst_over`."""
    for key, value in arm.items():
        if key in arms:
            wanted = normalise_value(value)
            arms = arms[[not pd.isna(other) and normalise_value(other) == wanted for other in arms[key]]]
    keys = ["seed", *([claim.worst_over] if claim.worst_over else [])]
    if len(arms) and arms.duplicated(keys).any():
        raise UsageError(f"claim {claim.number}: must name one run per seed, got two for {format_arm(arm)}")
    return arms


def _read_values(claim: Claim, arms: pd.DataFrame, arm: dict[str, str], metric: str | None = None) -> pd.Series:
    """Read one value of the metric per seed: with `change_to`, its change; with `worst_over`, the worst value."""
    column = f"metrics.{metric or claim.metric}"

    def read_table(arm: dict[str, str]) -> pd.DataFrame:
        rows = _select_rows(claim, arms, arm)
        if column not in rows or rows.empty:
            return pd.DataFrame(dtype=float)
        if claim.worst_over is None:
            return rows.set_index("seed")[[column]].astype(float)
        return rows.pivot(index="seed", columns=claim.worst_over, values=column).astype(float)

    table = read_table(arm | claim.change_to) - read_table(arm) if claim.change_to else read_table(arm)
    if claim.worst_over is not None:
        table = table.reindex(columns=_list_values(arms, claim.worst_over))
    table = table.dropna()
    return table.min(axis=1) if claim.higher else table.max(axis=1)


def _format_learning_rates(runs: pd.DataFrame | None) -> str:
    """Format the learning rates of an arm's runs."""
    if runs is None or "settings.learning_rate" not in runs:
        return ""
    return ", ".join(_list_values(runs, "settings.learning_rate"))


def _explain_missing_seeds(claim: Claim, values: dict[str, pd.Series], other: str, seeds: int) -> str:
    """Explain why the arms of a comparison do not have enough seeds."""
    empty = [name for name, value in values.items() if not len(value)]
    if empty:
        other_metric = claim.other_metric or ""
        metric = other_metric if other_metric and empty[0].startswith(other_metric) else claim.metric
        return f"{empty[0]}: no run has {metric}"
    first = next(iter(values))
    arms = f"{first} and {other}" if other else first
    return f"{arms}: at least {MIN_SEEDS} common seeds are needed, got {seeds}"
