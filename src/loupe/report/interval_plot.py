"""A claim's differences with their intervals, as a few lines of SVG that stand in a table's cell."""

import math

from loupe.report.verdicts import Verdict

WIDTH, ROW, EDGE = 180.0, 12.0, 4.0


def interval_plot(verdict: Verdict) -> str:
    """One interval a comparison, below each other, on one scale; the shaded part is where the claim holds.

    Returns:
        An svg element without colours: the page's style sheet has a class for each part; empty where there
        is no comparison.
    """
    parts = verdict.comparisons
    if not parts:
        return ""
    region = parts[0].region
    bounds = [bound for bound in (region.low, region.high) if math.isfinite(bound)]
    ends = [end for part in parts for end in (part.estimate.low, part.estimate.high)] + bounds
    low, high = min(ends), max(ends)
    span = (high - low) or abs(high) or 1.0

    def across(value: float) -> float:
        return round(min(WIDTH, max(0.0, EDGE + (value - low) / span * (WIDTH - 2 * EDGE))), 1)

    height = ROW * len(parts)
    start, stop = (across(bound) if math.isfinite(bound) else edge
                   for bound, edge in ((region.low, 0.0), (region.high, WIDTH)))  # fmt: skip
    lines = [
        f'<svg class="intervals" role="img" aria-label="intervals of the differences" width="{WIDTH:g}" '
        f'height="{height:g}" viewBox="0 0 {WIDTH:g} {height:g}">',
        f'<rect class="region" x="{start:g}" y="0" width="{stop - start:.4g}" height="{height:g}"/>',
    ]
    for bound in bounds:
        lines.append(_line("bound", across(bound), 0, across(bound), height))
    for number, part in enumerate(parts):
        y = ROW * (number + 0.5)
        kind = part.verdict.replace(" ", "-")
        lines.append(_line(f"interval {kind}", across(part.estimate.low), y, across(part.estimate.high), y))
        lines.append(f'<circle class="mean {kind}" cx="{across(part.estimate.mean):g}" cy="{y:g}" r="3"/>')
    return "".join([*lines, "</svg>"])


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'
