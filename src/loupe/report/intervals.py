"""Estimates a mean over seeds with its confidence interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

CONFIDENCE = 0.95
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        mean: mean over the seeds.
        deviation: sample standard deviation, at least 0.
        seeds: number of seeds, at least 2.
    """

    mean: float
    deviation: float
    seeds: int

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.mean - _compute_half_width(self.deviation, self.seeds)

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.mean + _compute_half_width(self.deviation, self.seeds)


def estimate_mean(values: np.ndarray) -> Estimate:
    """Estimate the mean of (n,) values, one per seed, n >= 2."""
    # np.std of equal values can be greater than 0.
    deviation = float(np.std(values, ddof=1)) if np.ptp(values) else 0.0
    return Estimate(float(np.mean(values)), deviation, len(values))


@dataclass(frozen=True)
class Region:
    """The values from `low` to `high`."""

    low: float = -math.inf
    high: float = math.inf

    def check(self, estimates: Sequence[Estimate]) -> list[str]:
        """Return HOLDS (inside), FAILS (outside) or UNDECIDED per mean; see `correct_p_values` for several means."""
        margins = [self.compute_margin(estimate.mean) for estimate in estimates]
        p_values = correct_p_values(
            [_compute_p_value(margin, estimate) for margin, estimate in zip(margins, estimates, strict=True)]
        )
        return [
            UNDECIDED if p_value > 1 - CONFIDENCE else HOLDS if margin >= 0 else FAILS
            for margin, p_value in zip(margins, p_values, strict=True)
        ]

    def compute_margin(self, mean: float) -> float:
        """Return the distance of a mean to the nearest bound: negative outside."""
        return min(mean - self.low, self.high - mean)


# A difference of exactly 0 is not an improvement.
BELOW_ZERO = Region(high=math.nextafter(0, -1))
ABOVE_ZERO = Region(low=math.nextafter(0, 1))


def correct_p_values(p_values: Sequence[float]) -> np.ndarray:
    """Correct p-values for several comparisons with Holm's method (1979); SciPy does not have this method."""
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    return corrected


def _compute_p_value(margin: float, estimate: Estimate) -> float:
    """Return the p-value of Student's test of a mean against the nearest bound."""
    if estimate.deviation == 0:
        return 0.0
    return float(2 * t.sf(abs(margin) * np.sqrt(estimate.seeds) / estimate.deviation, estimate.seeds - 1))


def _compute_half_width(deviation: float, seeds: int) -> float:
    """Compute half the width of Student's interval, t_{n-1} s / sqrt(n); SciPy returns NaN for a deviation of 0."""
    return float(t.interval(CONFIDENCE, seeds - 1)[1] * deviation / np.sqrt(seeds))
