"""Estimates a mean over seeds with its confidence interval."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

CONFIDENCE = 0.95
MAX_MISSING_SEEDS = 1000
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
        return self.mean - float(_compute_half_width(self.deviation, self.seeds))

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.mean + float(_compute_half_width(self.deviation, self.seeds))


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

    def check(self, estimate: Estimate) -> str:
        """Return HOLDS for an interval inside, FAILS for one outside, otherwise UNDECIDED."""
        if self.low <= estimate.low and estimate.high <= self.high:
            return HOLDS
        if estimate.low > self.high or estimate.high < self.low:
            return FAILS
        return UNDECIDED

    def compute_margin(self, mean: float) -> float:
        """Return the distance of a mean to the nearest bound: negative outside."""
        return min(mean - self.low, self.high - mean)

    def count_missing_seeds(self, estimate: Estimate) -> int | None:
        """Return how many further seeds decide the claim, or None for more than MAX_MISSING_SEEDS.

        The mean and the deviation are assumed to stay the same.
        """
        counts = np.arange(estimate.seeds + 1, estimate.seeds + MAX_MISSING_SEEDS + 1)
        margin = abs(self.compute_margin(estimate.mean))
        enough = np.flatnonzero(_compute_half_width(estimate.deviation, counts) < margin)
        return int(enough[0]) + 1 if len(enough) else None


# A difference of exactly 0 is not an improvement.
BELOW_ZERO = Region(high=math.nextafter(0, -1))
ABOVE_ZERO = Region(low=math.nextafter(0, 1))


def _compute_half_width(deviation: float, seeds: int | np.ndarray) -> np.ndarray:
    """Compute half the width of Student's interval, t_{n-1} s / sqrt(n); SciPy returns NaN for a deviation of 0."""
    return t.interval(CONFIDENCE, seeds - 1)[1] * deviation / np.sqrt(seeds)
