"""Learning curves of runs, which MLflow stores as metrics.

A search for runs returns only the last point of each metric, but all tags. Therefore CURVE_TAG stores one curve.
"""

import json
from contextlib import suppress
from typing import Any

import mlflow
import numpy as np

from loupe.tracking import records

METRIC = "val/mae"  # CURVE_TAG stores the curve of this metric
CURVE_TAG = "loupe.curve"
MAX_TAG_LENGTH = 5000


def load_curve(run_id: str, metric: str) -> list[tuple[int, float]]:
    """Return the step and value of each point of a metric."""
    history = mlflow.MlflowClient().get_metric_history(run_id, metric)
    return sorted({point.step: point.value for point in history}.items())


def load_points(run_id: str) -> list[dict[str, Any]]:
    """Return the points of a run's mae and psnr curves, each as a dictionary with `step` and `metrics`."""
    names = [f"{split}/{score}" for split in ("train", "val") for score in ("mae", "psnr")]
    curves = {name: dict(load_curve(run_id, name)) for name in names}
    return [
        {"step": step, "metrics": {name: curves[name][step] for name in names if step in curves[name]}}
        for step in sorted(curves[METRIC])
    ]


def log_curve_tag(points: list[dict[str, Any]]) -> None:
    """Log the curve of METRIC as a tag of the open run, unless the text is too long."""
    curve = [(point["step"], float(point["metrics"][METRIC])) for point in points]
    text = json.dumps([pair for pair in curve if np.isfinite(pair[1])], separators=(",", ":"))
    if len(text) <= MAX_TAG_LENGTH:
        records.log_tags({CURVE_TAG: text})


def read_curve(run: Any) -> list[tuple[int, float]]:
    """Return the curve of METRIC from the tag of a run, or from its metrics."""
    # These errors mean that the tag is missing, or that another client has changed it.
    with suppress(ValueError, TypeError, OverflowError, RecursionError):
        return [(int(step), float(value)) for step, value in json.loads(run.data.tags.get(CURVE_TAG, ""))]
    return load_curve(run.info.run_id, METRIC) if METRIC in run.data.metrics else []
