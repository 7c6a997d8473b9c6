"""Validation mae over the budget: of a claim's arms, and of the leaders; as images and as sentences."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from loupe.report.contents import Picture
from loupe.report.formatting import against, number
from loupe.report.verdicts import Verdict

STEPS, CURVE = "curve.step", "curve.val/mae"
GRID = 65  # places along the budget; 16 points and the one before the first fall on it
STEADY = (0.75, 1.33)  # the gap at the end over the gap at half of the budget


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG, the same for the same figure; 128 colours, a third of the size of all."""
    stream, small = io.BytesIO(), io.BytesIO()
    figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
    Image.open(stream).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def trend(verdict: Verdict, runs: Mapping[str, pd.DataFrame]) -> Picture | None:
    """Mean validation mae of each arm over the budget, with the range over seeds as a band.

    Args:
        verdict: of the claim.
        runs: the rows of each arm, by its name.

    Returns:
        The image, or None where no run has a curve.
    """
    curves = {name: found for name, rows in runs.items() if (found := _curves(rows)) is not None}
    if not curves:
        return None
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, (places, values) in curves.items():
        mean = values.mean(axis=0)
        (line,) = axes.plot(places, mean, label=name)
        axes.fill_between(places, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2, lw=0)
    _finish(axes, "seconds of one core" if _in_seconds(pd.concat(runs.values())) else "step")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    every = f"seeds and {verdict.claim.worst_over}" if verdict.claim.worst_over else "seeds"
    caption = f"Validation mae over the budget: the mean over {every}, and their range."
    return Picture(f"claim-{verdict.claim.number}", png(figure), caption)


def trends(verdict: Verdict, runs: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """For each pair of arms, how the gap in validation mae went over the second half of the budget."""
    found = []
    for part in verdict.comparisons:
        curves = [_curves(runs[name]) if name in runs else None for name in (part.name, part.against)]
        if curves[0] is None or curves[1] is None:
            continue
        gaps = curves[0][1].mean(axis=0) - curves[1][1].mean(axis=0)
        half, end = float(gaps[GRID // 2]), float(gaps[-1])
        found.append(
            f"{against(part)}: {number(half, 3)} at half of the budget, {number(end, 3)} at its end"
            f"{_direction(half, end)}."
        )
    return tuple(found)


def leaders(rows: pd.DataFrame, baselines: Mapping[str, float]) -> Picture | None:
    """Learning curves of some runs, with the baselines' validation mae as lines."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for _, row in rows.iterrows():
        if _has_curve(row):
            axes.plot(row[STEPS][1:], row[CURVE][1:], label=row["name"], marker=".", markersize=4)
    if not axes.lines:
        return None
    for index, (name, value) in enumerate(baselines.items()):
        axes.axhline(value, label=name, linestyle=":", color=f"C{7 + index}")
    _finish(axes, "step")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return Picture("leaders", png(figure), "Learning curves of the leaders: validation mae.")


def _finish(axes: Any, across: str) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    axes.tick_params(labelsize=7, which="both")
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel("val/mae", fontsize=8)
    axes.grid(alpha=0.3, which="both", lw=0.5)


def _direction(half: float, end: float) -> str:
    if half * end <= 0 or abs(end) < STEADY[0] * abs(half):
        return ": the gap is closing, a longer training may decide differently"
    return ": the gap is growing" if abs(end) > STEADY[1] * abs(half) else ": the gap is steady"


def _has_curve(row: pd.Series) -> bool:
    steps, curve = row.get(STEPS), row.get(CURVE)
    return isinstance(steps, list) and isinstance(curve, list) and len(steps) == len(curve) > 2


def _in_seconds(rows: pd.DataFrame) -> bool:
    return "settings.seconds" in rows and bool((rows["settings.seconds"].fillna("none") != "none").all())


def _curves(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """An arm's curves from the second point on: (65,) places along the budget, and (runs, 65) values.

    Runs of equal seconds differ in steps, so that places are shares of each run's own length.
    """
    rows = rows[[_has_curve(row) for _, row in rows.iterrows()]]
    if rows.empty:
        return None
    share = np.linspace(0, 1, GRID)
    values = []
    for steps, curve in zip(rows[STEPS], rows[CURVE], strict=True):
        at = np.asarray(steps, dtype=float) / steps[-1]
        values.append(np.where(share < at[1], np.nan, np.interp(share, at, curve)))
    length = float(rows["settings.seconds"].iloc[0]) if _in_seconds(rows) else max(rows[STEPS].str[-1])
    return share * length, np.array(values)
