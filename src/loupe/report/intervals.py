"""Estimates a mean over seeds with its confidence interval, and compares the interval with bounds."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # the import of scipy.stats takes 0.5 s more

CONFIDENCE = 0.95
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        mean: mean over the seeds.
        deviation: sample standard deviation, at least 0.
        seeds: number of seeds, at least 2.
        comparisons: number of intervals that must all contain their true means with 95 % confidence (Bonferroni's
            method).
    """

    mean: float
    deviation: float
    seeds: int
    comparisons: int = 1

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self._compute_half_width()

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self._compute_half_width()

    def _compute_half_width(self) -> float:
        """Compute half the width of Student's interval, t_{n-1} s / sqrt(n)."""
        tail = (1 - CONFIDENCE) / self.comparisons / 2
        return float(-stdtrit(self.seeds - 1, tail) * self.deviation / np.sqrt(self.seeds))


def estimate_mean(values: np.ndarray) -> Estimate:
    """Estimate the mean of (n,) values, one per seed, n >= 2."""
    # Rounding can make np.std of equal values greater than 0.
    deviation = float(np.std(values, ddof=1)) if np.ptp(values) else 0.0
    return Estimate(float(np.mean(values)), deviation, len(values))


@dataclass(frozen=True)
class Region:
    """The values from `low` to `high`."""

    low: float = -math.inf
    high: float = math.inf

    def check(self, estimate: Estimate) -> str:
        """Return HOLDS if the interval of a mean is inside, FAILS if all of it is outside, otherwise UNDECIDED."""
        if self.low <= estimate.low and estimate.high <= self.high:
            return HOLDS
        return FAILS if estimate.high < self.low or self.high < estimate.low else UNDECIDED

    def compute_margin(self, mean: float) -> float:
        """Return the distance of a mean to the nearest bound. The distance of a mean outside is negative."""
        return min(mean - self.low, self.high - mean)


# A difference of exactly 0 is not an improvement.
BELOW_ZERO = Region(high=math.nextafter(0, -1))
ABOVE_ZERO = Region(low=math.nextafter(0, 1))
