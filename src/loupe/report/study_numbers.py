"""What the study's printed numbers mean, read with its notebooks beside them, and ours next to each."""

from typing import Any

import pandas as pd

from loupe.report.contents import Table
from loupe.report.formatting import NOTHING, number, percent

FULL_SCALE = 2.0  # the largest difference on [-1, 1]
HEADER = ("the study's number", "read correctly", "ours by its protocol", "ours by an honest one")

# The study's number, how it has to be read, and ours: by the study's protocol, and on whole images.
READINGS = (
    (
        "0.064, «6 %»",
        "On [-1, 1] a difference can reach 2: 0.064 is 3.2 % of full scale.",
        "mae {patches_mae} on random patches: {patches_percent} % of full scale",
        "mae {mae} on whole images: {percent} % of full scale",
    ),
    (
        "«R2»",
        "Mean squared error where it is the loss, mean absolute error where it is printed.",
        "mse {mse}, mae {mae} on whole images",
        "mse {mse}, mae {mae} on whole images",
    ),
    (
        "0.064 / 0.063 on test",
        "Random patches at any offset, three in four half a pixel off, of photos that went through JPEG quality 75 "
        "twice.",
        "mae {patches_mae} on random patches; two draws differ by {draws} %",
        "mae {mae} on whole images",
    ),
    (
        "0.092 against nearest's 0.120",
        "One random image: a gain of 1.30. Others that it printed: 0.108 against 0.126, 1.17.",
        "gain {gain} over nearest on all test photos; nearest wins on {wins} % of them",
        "gain {gain} over nearest on all test photos; nearest wins on {wins} % of them",
    ),
    (
        "bicubic 0.052, nearest 0.105",
        "Another, earlier output: without any network, bicubic has half of nearest's error there.",
        "bicubic {bicubic}, nearest {nearest}",
        "bicubic {bicubic}, nearest {nearest}",
    ),
    (
        "0.060 with pre-upscaled input",
        "Lanczos stood for «bicubic», and on its image the network (0.110) lost to its own input (0.089).",
        NOTHING,
        "on validation: network {entered}, its input by {filter} {input}",
    ),
)


def study_table(table: pd.DataFrame, best: pd.Series | None, theirs: pd.Series | None) -> Table:
    """The box «the study's numbers read correctly».

    Args:
        table: of all runs.
        best: the run of the network whose test scores the report shows; None where there is none.
        theirs: what `by_its_protocol` gave.
    """
    entered = _best(table, "metrics.val/input_mae", _some(table, "settings.pre_upscale"))
    rows = [
        (name, reading, _filled(by_protocol, theirs, None), _filled(by_ours, best, entered))
        for name, reading, by_protocol, by_ours in READINGS
    ]
    return Table(HEADER, tuple(rows))


def by_its_protocol(table: pd.DataFrame, dataset: str) -> Any:
    """The best perceptron that was trained on crops at any offset and scored on patches; None without one.

    The study's photos went through JPEG quality 75 twice: a run on another dataset than the one that is judged
    on (recompress=75) goes before one on that.

    Args:
        table: of all runs.
        dataset: that is judged on.
    """
    if not {"settings.crops", "settings.network"} <= set(table.columns):
        return None
    there = (table["settings.crops"] == "any") & (table["settings.network"] == "perceptron")
    found = [_best(table, "metrics.test/patches_mae", there & part)
             for part in (table["dataset"] != dataset, table["dataset"] == dataset)]  # fmt: skip
    return next((run for run in found if run is not None), None)


def _filled(text: str, run: pd.Series | None, entered: pd.Series | None) -> str:
    """The text with a run's scores in it; a dash where one of them is missing."""

    def metric(run: pd.Series | None, name: str) -> float:
        return float("nan") if run is None else float(run.get(f"metrics.{name}", float("nan")))

    mae, patches = metric(run, "test/mae"), metric(run, "test/patches_mae")
    filled = text.format(
        mae=number(mae),
        percent=percent(mae / FULL_SCALE),
        patches_mae=number(patches),
        patches_percent=percent(patches / FULL_SCALE),
        mse=number(metric(run, "test/mse")),
        draws=percent(metric(run, "test/draw_difference")),
        gain=number(metric(run, "test/gain"), 3),
        wins=percent(metric(run, "test/nearest_wins")),
        bicubic=number(metric(run, "test/bicubic/mae")),
        nearest=number(metric(run, "test/nearest/mae")),
        entered=number(metric(entered, "val/best_mae")),
        filter=NOTHING if entered is None else entered["settings.pre_upscale"],
        input=number(metric(entered, "val/input_mae")),
    )
    return NOTHING if NOTHING in filled else filled


def _some(table: pd.DataFrame, column: str) -> pd.Series:
    """Which runs have a value in a column that is not none."""
    if column not in table:
        return pd.Series(False, index=table.index)
    return table[column].notna() & (table[column] != "none")


def _best(table: pd.DataFrame, metric: str, there: pd.Series) -> Any:
    """Of some runs that have a metric, the one that is best on validation; None where there is none."""
    if not {metric, "metrics.val/best_mae"} <= set(table.columns):
        return None
    found = table[there & table[metric].notna()].sort_values(["metrics.val/best_mae", "run_id"])
    return found.iloc[0] if len(found) else None
