"""Computes how the difference between two arms, or the error of one arm, changes during the training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from loupe.report.claims import Claim
from loupe.report.verdicts import ClaimVerdict, check_claim, select_runs

STEPS, CURVE = "curve.step", "curve.val/mae"
SHARES = (0.25, 0.5, 1.0)  # a trend shows the values at these shares of the steps


@dataclass(frozen=True)
class Trend:
    """Means over seeds of the validation mae at SHARES of the steps.

    Args:
        values: differences between two arms, or values of one arm.
        is_difference: whether the values are differences.
    """

    values: tuple[float, ...]
    is_difference: bool

    @property
    def change(self) -> str:
        """How the values change: `reverses` (another sign at the end), `shrinks` (by more than half) or `steady`."""
        first, last = self.values[0], self.values[-1]
        if first * last < 0:
            return "reverses"
        return "shrinks" if abs(last) < abs(first) / 2 else "steady"

    @property
    def still_falls(self) -> bool:
        """Whether the mae decreases by more than 10 % in the second half of the steps; False for differences."""
        return not self.is_difference and self.values[-1] < 0.9 * self.values[1]


def compute_trend(verdict: ClaimVerdict, arms: pd.DataFrame) -> Trend | None:
    """Compute the trend of the weakest comparison of a claim.

    The trend is a difference if the claim states that one arm has a lower validation mae than other arms, learning
    curves show this mae (see `has_other_curve`), and all arms of the claim have learning curves. Otherwise, the trend
    is the mae of one arm: the first arm of the comparison, or the second if the first has no learning curves.

    Args:
        verdict: verdict of the claim.
        arms: the runs, as for `check_claim`.

    Returns:
        The trend; None if the claim has no comparison, or no compared arm has learning curves.
    """
    claim, weakest = verdict.claim, verdict.weakest
    if weakest is None:
        return None
    curves = np.array([read_curve(run, SHARES) for _, run in arms.iterrows()])
    arms = arms.assign(**{f"metrics.{share}": curves[:, index] for index, share in enumerate(SHARES)})
    if claim.beats and not has_other_curve(claim):
        means = [_find_difference(claim, arms, share, (weakest.name, weakest.other)) for share in SHARES]
        if not any(np.isnan(means)):
            return Trend(tuple(means), True)
    runs = select_runs(claim, arms)
    return _average_arm(runs, weakest.name) or _average_arm(runs, weakest.other)


def has_other_curve(claim: Claim) -> bool:
    """Return whether a claim compares arms by a value that the learning curves do not show.

    The learning curves show the validation mae with `recompose=concatenate`.
    """
    return bool(claim.others) and (claim.metric != "val/best_mae" or "recompose" in claim.fields)


def read_curve(run: pd.Series, shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """Interpolate the validation mae of a run at shares of its steps; NaN if its curve has fewer than 3 points."""
    steps, curve = run.get(STEPS), run.get(CURVE)
    if not (isinstance(steps, list) and isinstance(curve, list) and len(steps) == len(curve) > 2):
        return np.full(len(shares), np.nan)
    return np.interp(np.asarray(shares) * steps[-1], steps, curve)


def _find_difference(claim: Claim, arms: pd.DataFrame, share: float, names: tuple[str, str]) -> float:
    verdict = check_claim(claim.model_copy(update={"metric": str(share)}), arms)
    means = {(each.name, each.other): each.estimate.mean for each in verdict.comparisons}
    return means.get(names, float("nan"))


def _average_arm(runs: Mapping[str, pd.DataFrame], name: str) -> Trend | None:
    if name not in runs:
        return None
    means = runs[name][[f"metrics.{share}" for share in SHARES]].mean()
    return None if means.isna().any() else Trend(tuple(means), False)
