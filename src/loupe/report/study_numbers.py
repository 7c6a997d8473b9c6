"""Reads the scores of runs for the table in `report.md.jinja` that compares Loupe with the 2016 study."""

from collections.abc import Collection
from typing import Any

import pandas as pd

from loupe.report.formatting import DASH, format_number, format_percent

FULL_SCALE = 2.0  # largest possible difference between two images in [-1, 1]


def read_scores(run: pd.Series | None) -> dict[str, str]:
    """Read the test scores and the precision and learning rate of a run as texts, by the names in `report.md.jinja`.

    Missing values are dashes.
    """

    def read(name: str) -> float:
        return float("nan") if run is None else float(run.get(f"metrics.test/{name}", float("nan")))

    names = ("mae", "mse", "patches_mae", "bicubic/mae", "nearest/mae")
    return {name.removesuffix("/mae"): format_number(read(name)) for name in names} | {
        "percent": format_percent(read("mae") / FULL_SCALE),
        "patches_percent": format_percent(read("patches_mae") / FULL_SCALE),
        "draws": format_percent(read("draw_difference")),
        "gain": format_number(read("gain"), 3),
        "wins": format_percent(read("nearest_wins")),
        "precision": DASH if run is None else str(run.get("settings.precision", DASH)),
        "learning_rate": _format_rate(None if run is None else run.get("settings.learning_rate")),
    }


def _format_rate(rate: Any) -> str:
    """Format a learning rate with up to two significant digits, such as `4.9e-6`; None and NaN become a dash."""
    return DASH if pd.isna(rate) else f"{float(rate):.2g}".replace("e-0", "e-")


def read_pre_upscaled_scores(rows: pd.DataFrame) -> dict[str, str]:
    """Read the scores of the best network whose setting `pre_upscale` is a filter, as texts.

    Returns:
        `network`: the validation mae of the network. `filter`: the filter. `input`: the validation mae of the filter.
        Without such a network, all are dashes.
    """
    column = "settings.pre_upscale"
    has_filter = rows[column].notna() & (rows[column] != "none") if column in rows else None
    run = None if has_filter is None else _find_best(rows, "metrics.val/input_mae", has_filter)
    if run is None:
        return dict.fromkeys(("network", "filter", "input"), DASH)
    names = {"network": "val/best_mae", "input": "val/input_mae"}
    return {"filter": run[column]} | {key: format_number(run[f"metrics.{name}"]) for key, name in names.items()}


def find_study_run(table: pd.DataFrame, datasets: Collection[str]) -> Any:
    """Find the best perceptron that was trained on crops at any position and scored on patches, or None.

    Runs on a dataset that is not in `datasets` take precedence, because such a dataset was probably prepared with
    `recompress=75`, as in the study. `datasets` are the names of the datasets of the report.
    """
    if not {"settings.crop_positions", "settings.network"} <= set(table.columns):
        return None
    matches = (table["settings.crop_positions"] == "any") & (table["settings.network"] == "perceptron")
    is_of_report = table["dataset"].isin(datasets)
    for group in (~is_of_report, is_of_report):
        run = _find_best(table, "metrics.test/patches_mae", matches & group)
        if run is not None:
            return run
    return None


def _find_best(table: pd.DataFrame, metric: str, matches: pd.Series) -> Any:
    """Find the run with the lowest validation mae among the matching runs that have `metric`, or None."""
    if not {metric, "metrics.val/best_mae"} <= set(table.columns):
        return None
    rows = table[matches & table[metric].notna()].sort_values(["metrics.val/best_mae", "run_id"])
    return rows.iloc[0] if len(rows) else None
