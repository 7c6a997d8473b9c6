"""Draws charts and writes sentences about the validation mae over the training budget."""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from loupe.report.contents import ReportImage
from loupe.report.formatting import format_comparison, format_number
from loupe.report.verdicts import ClaimVerdict

# Axes of budgets that are not in steps. Delete `seconds` with the last run in seconds in docs/results.parquet.
BUDGETS = {"flops": "floating-point operations", "seconds": "seconds of one core"}
STEPS, CURVE = "curve.step", "curve.val/mae"
GRID_SIZE = 65  # points of a resampled curve: 4 per interval of a curve with 17 points
# Range of a steady difference at the end, divided by the difference at half of the budget
MIN_STEADY_RATIO, MAX_STEADY_RATIO = 0.75, 1.33


class _Curves(NamedTuple):
    """Resampled learning curves: GRID_SIZE positions in steps or FLOPs, and values, (runs, GRID_SIZE)."""

    positions: np.ndarray
    values: np.ndarray


def encode_png(figure: Figure) -> bytes:
    """Encode a figure as PNG, always with the same bytes; 128 colours make the file three times smaller."""
    stream, output = io.BytesIO(), io.BytesIO()
    figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
    Image.open(stream).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(output, "PNG", optimize=True)
    return output.getvalue()


def draw_trend(verdict: ClaimVerdict, runs: Mapping[str, pd.DataFrame]) -> ReportImage | None:
    """Draw the mean validation mae of each arm (see docs/sweeps.md) over the budget, and its range over seeds.

    Args:
        verdict: verdict of the claim.
        runs: rows of each arm, by name.

    Returns:
        The chart, or None if no run has a curve.
    """
    curves = {name: curve for name, rows in runs.items() if (curve := _resample_curves(rows)) is not None}
    if not curves:
        return None
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, (positions, values) in curves.items():
        (line,) = axes.plot(positions, values.mean(axis=0), label=name)
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(positions, low, high, color=line.get_color(), alpha=0.2, lw=0)
    _format_axes(axes, BUDGETS.get(_find_budget(pd.concat(runs.values())), "step"))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    other_field = verdict.claim.worst_over
    groups = f"seeds and {other_field}" if other_field else "seeds"
    caption = f"Validation mae over the budget: mean and range over {groups}."
    return ReportImage(f"claim-{verdict.claim.number}", encode_png(figure), caption)


def describe_trends(verdict: ClaimVerdict, runs: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """Describe how the difference of each comparison changes in the second half of the budget."""
    sentences = []
    for comparison in verdict.comparisons:
        first, second = (_resample_curves(runs[name]) if name in runs else None
                         for name in (comparison.name, comparison.other))  # fmt: skip
        if first is None or second is None:
            continue
        differences = first.values.mean(axis=0) - second.values.mean(axis=0)
        half, end = float(differences[GRID_SIZE // 2]), float(differences[-1])
        numbers = f"{format_number(half, 3)} at half of the budget, {format_number(end, 3)} at the end"
        sentences.append(f"{format_comparison(comparison)}: {numbers}. {_describe_change(half, end)}")
    return tuple(sentences)


def draw_leaders(rows: pd.DataFrame, baselines: Mapping[str, float]) -> ReportImage | None:
    """Draw the learning curves of some runs, with the baselines as horizontal lines."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for _, row in rows.iterrows():
        if _has_curve(row):
            axes.plot(row[STEPS][1:], row[CURVE][1:], label=row["name"], marker=".", markersize=4)
    if not axes.lines:
        return None
    for index, (name, value) in enumerate(baselines.items()):
        axes.axhline(value, label=name, linestyle=":", color=f"C{7 + index}")
    _format_axes(axes, "step")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return ReportImage("leaders", encode_png(figure), "Learning curves of the best runs: validation mae.")


def _format_axes(axes: Any, label: str) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    axes.tick_params(labelsize=7, which="both")
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel("val/mae", fontsize=8)
    axes.grid(alpha=0.3, which="both", lw=0.5)


def _describe_change(half: float, end: float) -> str:
    if half * end <= 0 or abs(end) < MIN_STEADY_RATIO * abs(half):
        return "The difference shrinks, so a longer training may change the verdict."
    return "The difference grows." if abs(end) > MAX_STEADY_RATIO * abs(half) else "The difference is steady."


def _has_curve(row: pd.Series) -> bool:
    steps, curve = row.get(STEPS), row.get(CURVE)
    return isinstance(steps, list) and isinstance(curve, list) and len(steps) == len(curve) > 2


def _find_budget(rows: pd.DataFrame) -> str:
    """Return the field of BUDGETS that all runs have, or `steps`."""
    given = {name: rows[f"settings.{name}"].fillna("none") for name in BUDGETS if f"settings.{name}" in rows}
    return next((name for name, texts in given.items() if (texts != "none").all()), "steps")


def _resample_curves(rows: pd.DataFrame) -> _Curves | None:
    """Resample the learning curves of an arm without their first points, or return None.

    Runs with the same budget in FLOPs can have different numbers of steps, so points are placed by their share of all
    steps.
    """
    rows = rows[[_has_curve(row) for _, row in rows.iterrows()]]
    if rows.empty:
        return None
    fractions = np.linspace(0, 1, GRID_SIZE)
    values = []
    for steps, curve in zip(rows[STEPS], rows[CURVE], strict=True):
        positions = np.asarray(steps, dtype=float) / steps[-1]
        values.append(np.where(fractions < positions[1], np.nan, np.interp(fractions, positions, curve)))
    budget = _find_budget(rows)
    length = max(rows[STEPS].str[-1]) if budget == "steps" else float(rows[f"settings.{budget}"].iloc[0])
    return _Curves(fractions * length, np.array(values))
