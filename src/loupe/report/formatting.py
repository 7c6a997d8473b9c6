"""Formats numbers and verdicts as text, identically on every machine."""

import math

from loupe.report.intervals import Estimate
from loupe.report.trends import Trend
from loupe.report.verdicts import NOT_RUN, ClaimVerdict, Comparison

DASH = "–"


def format_number(value: float | None, digits: int = 4) -> str:
    """Format a number with `digits` significant digits; None, NaN and infinity become a dash."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:#.{digits}g}".rstrip(".").replace("-", "−")


def format_percent(share: float) -> str:
    """Format a fraction as a percentage without `%`, such as `3.2`; NaN and infinity become a dash."""
    return f"{100 * share:.1f}" if math.isfinite(share) else DASH


def fill(text: str, scores: dict[str, str]) -> str:
    """Replace the names in braces in a text with their scores; return a dash if a score is a dash (missing).

    `scores` must contain all names. The text itself must not contain DASH.
    """
    result = text.format(**scores)
    return DASH if DASH in result else result


def format_estimate(estimate: Estimate) -> str:
    """Format a mean with its interval: `0.0266 (0.0265 to 0.0267)`."""
    mean, low, high = (format_number(value, 3) for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean} ({low} to {high})"


def format_difference(verdict: ClaimVerdict) -> str:
    """Format the weakest comparison: the estimate, and the claim's `change_to`, bounds and `higher` if set.

    The metric is added unless it is `val/best_mae`, and the arms are added if there are several comparisons or
    `change_to`. For a claim that was not run, return the reason.
    """
    weakest, claim = verdict.weakest, verdict.claim
    if weakest is None:
        return verdict.reason if verdict.outcome == NOT_RUN else DASH
    text, count = format_estimate(weakest.estimate), len(verdict.comparisons)
    if claim.change_to:
        changes = ", ".join(f"{name}={value}" for name, value in claim.change_to.items())
        text = f"increase with {changes}, {format_comparison(weakest).partition(' (')[0]}: {text}"
    if claim.metric != "val/best_mae":
        text = f"{' − '.join(filter(None, (claim.metric, claim.other_metric)))}: {text}"
    if claim.between is not None or claim.within is not None:
        text += f"; bounds {weakest.region.low:g} and {weakest.region.high:g}".replace("-", "−")
    elif claim.higher:
        text += "; higher is better"
    return text if count == 1 else f"{text}; weakest of {count}: {format_comparison(weakest)}"


def format_trend(trend: Trend | None) -> str:
    """Format a trend: `0.0286, 0.0132, 0.0107`, or `mae 0.0947, 0.0821, 0.0783` for one arm."""
    if trend is None:
        return DASH
    return ("" if trend.is_difference else "mae ") + ", ".join(format_number(value, 3) for value in trend.values)


def format_comparison(comparison: Comparison) -> str:
    """Format a comparison, such as `tanh − sigmoid`; the common settings follow in brackets."""
    if not comparison.other:
        return comparison.name
    first, second = comparison.name.split(", "), comparison.other.split(", ")
    common = [field for field in first if field in second]
    sides = [[field for field in side if field not in common] for side in (first, second)]
    if not all(sides):
        return f"{comparison.name} − {comparison.other}"
    suffix = f" ({', '.join(common)})" if common else ""
    return " − ".join(", ".join(side) for side in sides) + suffix


def format_seeds(verdict: ClaimVerdict) -> str:
    """Format the number of seeds per comparison: `5`, or `3 to 5`."""
    counts = sorted({comparison.estimate.seeds for comparison in verdict.comparisons})
    if not counts:
        return DASH
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def format_metric(verdict: ClaimVerdict) -> str:
    """Format the metric and the rule of a claim: `val/best_mae, lower is better`.

    The settings `change_to`, `worst_over` and `each` of the claim follow.
    """
    claim = verdict.claim
    rule = "higher is better" if claim.higher else "lower is better"
    if claim.between is not None:
        rule = f"from {claim.between[0]:g} to {claim.between[1]:g}"
    elif claim.within is not None:
        rule = f"difference of at most {claim.within:g}"
    change = ", ".join(f"{name}={value}" for name, value in claim.change_to.items())
    parts = {"change by {}": change, "worst over {} per seed": claim.worst_over, "for each {}": claim.each}
    return ", ".join([claim.metric, rule, *(text.format(value) for text, value in parts.items() if value)])
