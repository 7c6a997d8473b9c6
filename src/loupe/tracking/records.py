"""Logs metrics, tags, files, images and tables of a step to its run."""

import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlflow
import numpy as np
from PIL import Image

from loupe.errors import mask_secrets, mask_values
from loupe.tracking import delivery
from loupe.tracking.record_handlers import get_time_ms

_RUN_ID: ContextVar[str | None] = ContextVar("run to log to", default=None)


@contextmanager
def log_to_run(run_id: str) -> Iterator[None]:
    """Log to this run, instead of the open run, until the block exits."""
    token = _RUN_ID.set(run_id)
    try:
        yield
    finally:
        _RUN_ID.reset(token)


def log_record(kind: str, body: dict[str, Any], file: Path | None = None) -> None:
    """Log a record to the run of `log_to_run`, or else to the open run; see `delivery.log_record`."""
    delivery.log_record(_RUN_ID.get() or str(mlflow.active_run().info.run_id), kind, body, file)


def log_metrics(
    metrics: Mapping[str, float], step: int | None = None, link: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Log metrics. Values that are NaN or infinite are omitted.

    Args:
        metrics: the metrics.
        step: the training step; None is step 0.
        link: the model and dataset that the metrics describe, as `model_id`, `dataset_name`, `dataset_digest`; or {}.
    """
    values = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
    if values:
        log_record("metrics", {"values": values, "step": step or 0, "time": get_time_ms(), "link": dict(link)})


def log_tags(tags: dict[str, str]) -> None:
    log_record("tags", tags)


def log_model_tags(name: str, device: str) -> None:
    """Log the name of a model or method. Also log the device of an ONNX network; "" logs no device."""
    log_tags({"loupe.model": name} | ({"loupe.device": device} if device else {}))


def log_model_inputs(model_ids: Iterable[str | None]) -> None:
    """Log MLflow models, by their ids, as inputs of the run; None is skipped."""
    for model_id in filter(None, model_ids):
        log_record("model input", {"model_id": model_id})


def log_file(file: Path, folder: str | None = None) -> None:
    """Log a file to a folder of the artifacts; None is the root."""
    log_record("file", {"folder": folder}, file)


def log_figure(figure: Any, name: str) -> None:
    """Log a matplotlib figure as a file, such as `plots/curves.png`."""
    with _create_temporary_file(name) as (file, folder):
        figure.savefig(file)
        log_file(file, folder)


def log_image(image: np.ndarray, key: str, step: int) -> None:
    """Log an image, uint8 (height, width), of a training step; `key` names the series."""
    with _create_temporary_file("image.png") as (file, _):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        file.write_bytes(stream.getvalue())
        log_record("image", {"key": key, "step": step, "timestamp": get_time_ms()}, file)


def log_json(value: Any, name: str) -> None:
    """Log a dict or list as a JSON file with masked secrets."""
    log_text(json.dumps(mask_values(value), indent=2, default=str), name)


def log_text(text: str, name: str) -> None:
    """Log a text file with masked secrets."""
    with _create_temporary_file(name) as (file, folder):
        file.write_text(mask_secrets(text), encoding="utf-8")
        log_file(file, folder)


def log_table(table: Any, name: str) -> None:
    """Log a pandas table, with masked secrets, as a .json file that MLflow shows as a table."""
    with _create_temporary_file(name) as (file, _):
        table.map(mask_values).to_json(file, orient="split", index=False, double_precision=15)
        log_record("table", {"name": name}, file)


def log_array(array: np.ndarray, name: str) -> None:
    """Log an array as .npy."""
    with _create_temporary_file(name) as (file, folder):
        stream = io.BytesIO()  # np.save to a file would ignore a full disk
        np.save(stream, array)
        file.write_bytes(stream.getvalue())
        log_file(file, folder)


@contextmanager
def _create_temporary_file(name: str) -> Iterator[tuple[Path, str | None]]:
    """Yield the path of a temporary file for an artifact, and the artifact's folder, or None for the root."""
    parent = str(Path(name).parent)
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / Path(name).name, None if parent == "." else parent
