"""Numbers and verdicts as words: the same table gives the same text, on every machine."""

import math

from loupe.report.intervals import UNDECIDED, Estimate
from loupe.report.verdicts import NOT_RUN, Comparison, Verdict

NOTHING = "–"


def number(value: float | None, digits: int = 4) -> str:
    """So many significant digits, with a minus sign that does not break from them; a dash for no number."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:#.{digits}g}".rstrip(".").replace("-", "−")


def percent(share: float) -> str:
    """A share as a percentage without its sign: `3.2`; a dash for no number."""
    return f"{100 * share:.1f}" if math.isfinite(share) else NOTHING


def with_interval(found: Estimate, digits: int = 4) -> str:
    """`0.02661 (0.02655 to 0.02667)`."""
    return f"{number(found.mean, digits)} ({number(found.low, digits)} to {number(found.high, digits)})"


def standing(verdict: Verdict) -> str:
    """The verdict, and what is missing to one: `undecided: 4 more seeds`."""
    if verdict.verdict != UNDECIDED:
        return verdict.verdict
    more = verdict.more_seeds
    count = "more than 1,000" if more is None else str(more)
    return f"{UNDECIDED}: {count} more seed{'' if more == 1 else 's'}"


def difference(verdict: Verdict) -> str:
    """What the verdict hangs on, with its interval; of several comparisons, which one of how many it is."""
    part = verdict.decisive
    if part is None:
        return verdict.reason if verdict.verdict == NOT_RUN else NOTHING
    text = with_interval(part.estimate, 3)
    count = len(verdict.comparisons)
    return text if count == 1 else f"{text}; weakest of {count}: {against(part)}"


def against(part: Comparison) -> str:
    """The two sides of a comparison: `tanh − sigmoid`; what both have in common stands behind, in brackets."""
    if not part.against:
        return part.name
    ours, theirs = part.name.split(", "), part.against.split(", ")
    both = [field for field in ours if field in theirs]
    sides = [[field for field in side if field not in both] for side in (ours, theirs)]
    if not all(sides):
        return f"{part.name} − {part.against}"
    shared = f" ({', '.join(both)})" if both else ""
    return " − ".join(", ".join(side) for side in sides) + shared


def seeds(verdict: Verdict) -> str:
    """How many seeds each comparison has: `5`, or `3 to 5`."""
    counts = sorted({part.estimate.seeds for part in verdict.comparisons})
    if not counts:
        return NOTHING
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def measure(verdict: Verdict) -> str:
    """What is compared: `val/best_mae, the lower the better, worst over hidden`."""
    claim = verdict.claim
    parts = [claim.metric]
    if claim.between is not None:
        parts.append(f"from {claim.between[0]:g} to {claim.between[1]:g}")
    elif claim.within is not None:
        parts.append(f"no difference beyond {claim.within:g}")
    else:
        parts.append("the higher the better" if claim.higher else "the lower the better")
    if claim.change_to:
        after = ", ".join(f"{name}={value}" for name, value in claim.change_to.items())
        parts.append(f"its change when {after}")
    if claim.worst_over:
        parts.append(f"for each seed the worst over {claim.worst_over}")
    if claim.each:
        parts.append(f"at each {claim.each}")
    return ", ".join(parts)
