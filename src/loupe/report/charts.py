"""Draws the charts of the report, 800 pixels wide, in colours for all kinds of colour vision."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image

from loupe.report.contents import ReportImage
from loupe.report.formatting import format_number
from loupe.report.trends import CURVE, SHARES, STEPS, read_curve

# Okabe and Ito (2008), https://jfly.uni-koeln.de/color/
BLUE, VERMILION = "#0072B2", "#D55E00"
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", "-", "--", "-.")
NETWORK_METRICS = ("val/best_mae", "test/mae")  # other metrics are errors of baselines
WIDTH, DPI = 8, 100  # inches, pixels per inch
FONT_SIZE = 11
# A curve is drawn at these shares of the steps. Most curves have 17 points, so 16 intervals with 4 shares each.
CURVE_SHARES = np.linspace(0, 1, 65)


def encode_png(figure: Figure) -> bytes:
    """Encode a figure as PNG. Equal figures give equal bytes. 128 colours make the file three times smaller."""
    stream, output = io.BytesIO(), io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    Image.open(stream).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(output, "PNG", optimize=True)
    return output.getvalue()


def draw_curves(name: str, runs: Mapping[str, pd.DataFrame], groups: str = "seeds") -> ReportImage | None:
    """Draw the validation mae of arms (see docs/sweeps.md) over the share of the steps: mean and range.

    Args:
        name: stem of the file name.
        runs: rows of each arm, by label.
        groups: text for the caption after "mean and range over", such as `seeds`.

    Returns:
        The chart, or None if no run has a curve.
    """
    curves = {label: curve for label, rows in runs.items() if len(curve := _resample_curves(rows))}
    if not curves:
        return None
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLOURS, linestyle=DASHES)
    for label, values in curves.items():
        (line,) = axes.plot(100 * CURVE_SHARES, values.mean(axis=0), label=label, lw=2)
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(100 * CURVE_SHARES, low, high, color=line.get_color(), alpha=0.2, lw=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    axes.set_xticks([100 * share for share in (0, *SHARES)])
    _format_axes(axes, "% of the steps", "validation mae (log scale)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", fontsize=FONT_SIZE, ncols=2)
    caption = f"Validation mae during the training: mean and range over {groups}. Lower is better."
    return ReportImage(name, encode_png(figure), caption)


def draw_values(name: str, runs: pd.DataFrame, metrics: Mapping[str, str]) -> ReportImage | None:
    """Draw one row per metric, with a dot per run and the mean as text.

    Args:
        name: stem of the file name.
        runs: rows of one arm.
        metrics: label of each metric. The metrics are errors on the same photos.

    Returns:
        The chart, or None if no run has one of the metrics.
    """
    values = {metric: runs[f"metrics.{metric}"].dropna() for metric in metrics if f"metrics.{metric}" in runs}
    ranking = sorted((metric for metric in values if len(values[metric])), key=lambda metric: -values[metric].mean())
    if not ranking:
        return None
    figure = Figure(figsize=(WIDTH, 0.9 + 0.42 * len(ranking)), layout="constrained")
    axes = figure.subplots()
    for row, metric in enumerate(ranking):
        colour, marker = (VERMILION, "D") if metric in NETWORK_METRICS else (BLUE, "o")
        axes.plot(values[metric], np.full(len(values[metric]), row), marker, color=colour, ms=8, alpha=0.6)
        axes.annotate(format_number(values[metric].mean()), (values[metric].max(), row), (12, 0), va="center",
                      textcoords="offset points", fontsize=FONT_SIZE)  # fmt: skip
    axes.set_yticks(range(len(ranking)), [metrics[metric] for metric in ranking])
    axes.set_ylim(-0.6, len(ranking) - 0.4)
    axes.set_xlim(0, 1.2 * max(values[metric].max() for metric in ranking))
    label = f"Mae on {'test' if ranking[0].startswith('test/') else 'validation'} photos"
    _format_axes(axes, label, "")
    return ReportImage(name, encode_png(figure), f"{label}: a dot per seed, and the mean. Lower is better.")


def draw_training(name: str, run: pd.Series | None, baselines: Mapping[str, str]) -> ReportImage | None:
    """Draw the learning curve of one run over the steps, with the mae of baselines as horizontal lines.

    Args:
        name: stem of the file name.
        run: the row of the run, or None.
        baselines: label of each metric. The metrics are the mae of baselines on validation photos.

    Returns:
        The chart, or None without a run or a curve.
    """
    if run is None or np.isnan(read_curve(run, SHARES)).all():
        return None
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(run[STEPS][1:], run[CURVE][1:], color=VERMILION, lw=2)  # a logarithmic axis has no step 0
    for metric, label in baselines.items():
        if np.isfinite(value := run.get(f"metrics.{metric}", np.nan)):
            axes.axhline(value, color=BLUE, ls="--", lw=1.5)
            # The curve is far above the baselines at its first steps, so the labels on the left do not cover it.
            axes.annotate(label, (0, value), (4, 4), xycoords=axes.get_yaxis_transform(),
                          textcoords="offset points", fontsize=FONT_SIZE)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    _format_axes(axes, "steps (log scale)", "validation mae (log scale)")
    caption = "Validation mae during the training of one run, and of baselines. Lower is better."
    return ReportImage(name, encode_png(figure), caption)


def _format_axes(axes: Any, x_label: str, y_label: str) -> None:
    axes.tick_params(labelsize=FONT_SIZE, which="both")
    axes.set_xlabel(x_label, fontsize=FONT_SIZE)
    axes.set_ylabel(y_label, fontsize=FONT_SIZE)
    axes.grid(alpha=0.3, which="both", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _resample_curves(rows: pd.DataFrame) -> np.ndarray:
    """Resample the learning curves of an arm: (runs, len(CURVE_SHARES)), NaN before the second point of a curve.

    Runs with the same budget can have different numbers of steps, so points are placed by their share of the steps.
    Runs without a curve are omitted.
    """
    curves = []
    for _, run in rows.iterrows():
        values = read_curve(run, CURVE_SHARES)
        if not np.isnan(values).all():
            curves.append(np.where(run[STEPS][1] > CURVE_SHARES * run[STEPS][-1], np.nan, values))
    return np.array(curves)
