"""A mean over a few seeds, with Student's t interval, and the side of a bound on which it lies."""

import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
MOST = 1000  # seeds beyond which it is not worth saying how many
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        mean: over the seeds.
        deviation: the standard deviation over them, at least 0.
        seeds: how many there are, at least 2.
    """

    mean: float
    deviation: float
    seeds: int

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval of the mean."""
        return float(_half_width(self.deviation, np.array([self.seeds]))[0])

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.mean + self.half


def estimate(values: np.ndarray) -> Estimate:
    """The mean of (n,) values, one a seed; n is at least 2."""
    spread = float(np.std(values, ddof=1)) if np.ptp(values) else 0.0  # of equal values, without rounding
    return Estimate(float(np.mean(values)), spread, len(values))


@dataclass(frozen=True)
class Region:
    """Where a mean is said to lie: from `low` to `high`, both included, either may be infinite."""

    low: float = -math.inf
    high: float = math.inf

    def verdict(self, found: Estimate) -> str:
        """HOLDS if the whole interval lies inside, FAILS if it lies outside, UNDECIDED if it reaches over a bound."""
        if self.low <= found.low and found.high <= self.high:
            return HOLDS
        if found.low > self.high or found.high < self.low:
            return FAILS
        return UNDECIDED

    def margin(self, mean: float) -> float:
        """How far inside a mean lies; below 0: how far outside."""
        return min(mean - self.low, self.high - mean)

    def seeds_missing(self, found: Estimate) -> int | None:
        """How many more seeds would decide, if mean and deviation stay; None: more than 1000."""
        counts = np.arange(found.seeds + 1, found.seeds + MOST + 1)
        enough = np.flatnonzero(_half_width(found.deviation, counts) < abs(self.margin(found.mean)))
        return int(enough[0]) + 1 if len(enough) else None


# To be below or above 0 is to be at or beyond the number next to it: a difference of exactly 0 wins nothing.
BELOW_ZERO = Region(high=math.nextafter(0, -1))
ABOVE_ZERO = Region(low=math.nextafter(0, 1))


def _half_width(deviation: float, seeds: np.ndarray) -> np.ndarray:
    """t_{n-1} s / sqrt(n) for each n of (k,) seeds."""
    from scipy.stats import t

    return t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * deviation / np.sqrt(seeds)
