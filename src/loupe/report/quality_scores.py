"""Reads the scores of `loupe evaluate --degrade jpeg` from the table of runs."""

import re

import pandas as pd

from loupe.evaluation.figures import plot_psnr
from loupe.report.charts import encode_png
from loupe.report.contents import QualityScores, ReportImage
from loupe.report.formatting import DASH

# Such as `metrics.photos/q75/psnr` of the model, or `metrics.photos/q75/lanczos/psnr` of another method
METRIC = re.compile(r"metrics\.[\w-]+/q(?P<quality>\d+)/((?P<method>[^/]+)/)?psnr")
CAPTION = "PSNR by JPEG quality of the inputs. Higher is better."


def read_quality_scores(table: pd.DataFrame) -> tuple[QualityScores, ...]:
    """Return the scores of the evaluations by JPEG quality, oldest first.

    Of several evaluations with the same run name, scale factor and other models, only the newest counts.

    Args:
        table: the table of runs; see `results.write`.
    """
    matches = {column: match for column in table.columns if (match := METRIC.fullmatch(column))}
    newest: dict[tuple[str, ...], QualityScores] = {}
    for _, run in table[table["kind"] == "evaluate"].sort_values(["started", "run_id"]).iterrows():
        scores: dict[str, dict[int, float]] = {}
        for column, match in matches.items():
            if pd.notna(run[column]):
                scores.setdefault(match["method"] or "model", {})[int(match["quality"])] = run[column]
        if scores:
            key = tuple(str(run.get(name)) for name in ("name", "settings.scale", "settings.others"))
            newest.pop(key, None)
            newest[key] = _format_scores(run, pd.DataFrame(scores))
    return tuple(newest.values())


def _format_scores(run: pd.Series, psnr: pd.DataFrame) -> QualityScores:
    """Format the scores of a run; `psnr` has a row per quality and a column per method."""
    psnr = psnr.sort_index(ascending=False)[psnr.mean().sort_values().index]
    header = ("method", *map(str, psnr.index))
    rows = [
        (str(name), *(DASH if pd.isna(value) else f"{value:.2f}" for value in values))
        for name, values in psnr.items()
    ]
    figure = ReportImage(f"qualities-{run['run_id']}", encode_png(plot_psnr(psnr)), CAPTION)
    return QualityScores(f"{run['name']} (run {run['run_id'][:8]})", [header, *rows], figure)
