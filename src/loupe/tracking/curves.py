"""Loads and logs learning curves of runs. MLflow stores each curve as a metric with several points.

A search for runs returns all tags, but only the last point of each metric. Therefore CURVE_TAG stores the curve of
METRIC.
"""

import json
from contextlib import suppress
from typing import Any

import mlflow
import numpy as np

from loupe.tracking import records

METRIC = "val/mae"  # CURVE_TAG stores the curve of this metric
CURVE_TAG = "loupe.curve"
MAX_TAG_LENGTH = 5000  # in characters


def load_curve(run_id: str, metric: str) -> list[tuple[int, float]]:
    """Return the step and value of each point of a metric, sorted by step."""
    history = mlflow.MlflowClient().get_metric_history(run_id, metric)
    return sorted({point.step: point.value for point in history}.items())


def load_points(run_id: str) -> list[dict[str, Any]]:
    """Return a dictionary with `step` and `metrics` for each step at which a run has METRIC.

    `metrics` contains the mae and psnr of training and validation at this step, by name, such as `train/psnr`.
    """
    names = [f"{split}/{score}" for split in ("train", "val") for score in ("mae", "psnr")]
    curves = {name: dict(load_curve(run_id, name)) for name in names}
    return [
        {"step": step, "metrics": {name: curves[name][step] for name in names if step in curves[name]}}
        for step in sorted(curves[METRIC])
    ]


def log_curve_tag(points: list[dict[str, Any]]) -> None:
    """Log the curve of METRIC as a tag of the open run, unless the text exceeds MAX_TAG_LENGTH.

    Points with a value that is NaN or infinite are omitted.
    """
    curve = [(point["step"], float(point["metrics"][METRIC])) for point in points]
    text = json.dumps([pair for pair in curve if np.isfinite(pair[1])], separators=(",", ":"))
    if len(text) <= MAX_TAG_LENGTH:
        records.log_tags({CURVE_TAG: text})


def read_curve(run: Any) -> list[tuple[int, float]]:
    """Return the curve of METRIC from the tag of a run, else from its metrics, else []."""
    # These errors mean that the tag is missing, or that another client has changed it.
    with suppress(ValueError, TypeError, OverflowError, RecursionError):
        return [(int(step), float(value)) for step, value in json.loads(run.data.tags.get(CURVE_TAG, ""))]
    return load_curve(run.info.run_id, METRIC) if METRIC in run.data.metrics else []
