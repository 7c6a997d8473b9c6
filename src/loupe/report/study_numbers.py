"""The numbers of the 2016 study, their meaning according to its notebooks, and Loupe's numbers."""

from typing import Any

import pandas as pd

from loupe.report.contents import Table
from loupe.report.formatting import DASH, format_number, format_percent

FULL_SCALE = 2.0  # largest possible difference between two images in [-1, 1]
HEADER = ("the study's number", "meaning", "Loupe with the study's protocol", "Loupe with whole images")

# The columns of HEADER; names in braces are replaced by scores
ROWS = (
    (
        "0.064, «6 %»",
        "On [-1, 1] a difference can reach 2: 0.064 is 3.2 % of full scale.",
        "mae {patches_mae} on random patches: {patches_percent} % of full scale",
        "mae {mae} on whole images: {percent} % of full scale",
    ),
    (
        "«R2»",
        "An error, not R2: the loss is the mean squared error, and the printed scores are mean absolute errors.",
        "mse {mse}, mae {mae} on whole images",
        "mse {mse}, mae {mae} on whole images",
    ),
    (
        "0.064 / 0.063 on test",
        "Scores on random patches at any offset. Three of four patches are shifted by half a pixel. The photos were "
        "compressed twice with JPEG quality 75.",
        "mae {patches_mae} on random patches; two draws differ by {draws} %",
        "mae {mae} on whole images",
    ),
    (
        "0.092 against nearest's 0.120",
        "Scores on one random image: the error of nearest is 1.30 times as large (gain 1.30). The study also printed "
        "0.108 against 0.126, a gain of 1.17.",
        "gain {gain} over nearest on all test photos; nearest wins on {wins} % of them",
        "gain {gain} over nearest on all test photos; nearest wins on {wins} % of them",
    ),
    (
        "bicubic 0.052, nearest 0.105",
        "The output of an earlier version of the study. Bicubic alone already has half of the error of nearest.",
        "bicubic {bicubic}, nearest {nearest}",
        "bicubic {bicubic}, nearest {nearest}",
    ),
    (
        "0.060 with pre-upscaled input",
        "The filter that the study calls bicubic was Lanczos. On the printed image, the error of the network (0.110) "
        "is higher than the error of its input (0.089).",
        DASH,
        "mae on validation photos: network {pre_upscaled}, its input (upscaled by {filter}) {input}",
    ),
)


def make_study_table(table: pd.DataFrame, best: pd.Series | None, study_run: pd.Series | None) -> Table:
    """Make the table of the study's numbers.

    Args:
        table: all runs.
        best: the best run with test scores, or None.
        study_run: the result of `find_study_run`.
    """
    pre_upscaled = _find_best(table, "metrics.val/input_mae", _has_value(table, "settings.pre_upscale"))
    rows = [
        (number, meaning, _fill(with_protocol, study_run, None), _fill(with_images, best, pre_upscaled))
        for number, meaning, with_protocol, with_images in ROWS
    ]
    return Table(HEADER, tuple(rows))


def find_study_run(table: pd.DataFrame, dataset: str) -> Any:
    """Find the best perceptron that was trained on crops at any offset and scored on patches, or None.

    Runs on another dataset take precedence: it was probably prepared with `recompress=75`, as in the study.

    Args:
        table: all runs.
        dataset: name of the dataset of the report.
    """
    if not {"settings.crops", "settings.network"} <= set(table.columns):
        return None
    matches = (table["settings.crops"] == "any") & (table["settings.network"] == "perceptron")
    for group in (table["dataset"] != dataset, table["dataset"] == dataset):
        run = _find_best(table, "metrics.test/patches_mae", matches & group)
        if run is not None:
            return run
    return None


def _fill(text: str, run: pd.Series | None, pre_upscaled: pd.Series | None) -> str:
    """Insert the scores of runs into a text; return a dash if a score is missing.

    Args:
        text: text with field names in braces.
        run: the run with test scores, or None.
        pre_upscaled: the best run with `pre_upscale`, or None.
    """

    def read_metric(run: pd.Series | None, name: str) -> float:
        return float("nan") if run is None else float(run.get(f"metrics.{name}", float("nan")))

    mae, patches = read_metric(run, "test/mae"), read_metric(run, "test/patches_mae")
    result = text.format(
        mae=format_number(mae),
        percent=format_percent(mae / FULL_SCALE),
        patches_mae=format_number(patches),
        patches_percent=format_percent(patches / FULL_SCALE),
        mse=format_number(read_metric(run, "test/mse")),
        draws=format_percent(read_metric(run, "test/draw_difference")),
        gain=format_number(read_metric(run, "test/gain"), 3),
        wins=format_percent(read_metric(run, "test/nearest_wins")),
        bicubic=format_number(read_metric(run, "test/bicubic/mae")),
        nearest=format_number(read_metric(run, "test/nearest/mae")),
        pre_upscaled=format_number(read_metric(pre_upscaled, "val/best_mae")),
        filter=DASH if pre_upscaled is None else pre_upscaled["settings.pre_upscale"],
        input=format_number(read_metric(pre_upscaled, "val/input_mae")),
    )
    return DASH if DASH in result else result


def _has_value(table: pd.DataFrame, column: str) -> pd.Series:
    """Return for each run whether a setting is not `none`."""
    if column not in table:
        return pd.Series(False, index=table.index)
    return table[column].notna() & (table[column] != "none")


def _find_best(table: pd.DataFrame, metric: str, matches: pd.Series) -> Any:
    """Find the matching run with a metric and the lowest validation mae, or None."""
    if not {metric, "metrics.val/best_mae"} <= set(table.columns):
        return None
    rows = table[matches & table[metric].notna()].sort_values(["metrics.val/best_mae", "run_id"])
    return rows.iloc[0] if len(rows) else None
