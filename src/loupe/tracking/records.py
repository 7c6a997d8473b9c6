"""What a step tells of its run: numbers, tags, files, images, tables, and the dataset that it worked on."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset

from loupe.data.dataset import Dataset
from loupe.data.manifest import MANIFEST
from loupe.data.storage import make_absolute
from loupe.tracking import delivery
from loupe.tracking.record_handlers import now

_AT: ContextVar[str | None] = ContextVar("run to log with", default=None)


@contextmanager
def log_to_run(run_id: str) -> Iterator[None]:
    """Log with this run, not with the open one: it has ended, and stays so."""
    before = _AT.set(run_id)
    try:
        yield
    finally:
        _AT.reset(before)


def log_record(kind: str, body: dict[str, Any], file: Path | None = None) -> None:
    """Tell of the run; see `outbox.tell`."""
    delivery.log_record(_AT.get() or str(mlflow.active_run().info.run_id), kind, body, file)


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log numbers under their names; those that are no number (ssim of tiny images) are left out."""
    found = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
    if found:
        log_record("metrics", {"values": found, "step": step or 0, "time": now()})


def log_tags(tags: dict[str, str]) -> None:
    """Set tags on the run."""
    log_record("tags", tags)


def log_file(file: Path, folder: str | None = None) -> None:
    """Log a file into a folder of the run's artifacts."""
    log_record("file", {"folder": folder}, file)


def log_figure(figure: Any, name: str) -> None:
    """Log a matplotlib figure under `name`, such as `plots/curves.png`."""
    with _file_for(name) as (file, folder):
        figure.savefig(file)
        log_file(file, folder)


def log_json(value: Any, name: str) -> None:
    """Log a dict or list as a JSON file."""
    with _file_for(name) as (file, folder):
        file.write_text(json.dumps(value, indent=2, default=str))
        log_file(file, folder)


def log_table(table: Any, name: str) -> None:
    """Log a pandas table under `name`, which ends in .json, as MLflow's pages show and compare it."""
    with _file_for(name) as (file, _):
        table.to_json(file, orient="split", index=False)
        log_record("table", {"name": name}, file)


def log_array(array: np.ndarray, name: str) -> None:
    """Log an array as `name`, which ends in .npy."""
    with _file_for(name) as (file, folder):
        np.save(file, array)
        log_file(file, folder)


def log_dataset(dataset: Dataset, context: str) -> None:
    """Log a prepared dataset as the run's input, with its digest."""
    source = CodeDatasetSource({"manifest": make_absolute(f"{dataset.location}/{MANIFEST}"), **dataset.settings})
    shown = MetaDataset(source, name=dataset.folder.name, digest=dataset.digest).to_dict()
    log_record(
        "input", {name: shown[name] for name in ("name", "digest", "source_type", "source")} | {"context": context}
    )
    log_record("tags", {"loupe.dataset": dataset.folder.name, "loupe.digest": dataset.digest})


@contextmanager
def _file_for(name: str) -> Iterator[tuple[Path, str | None]]:
    """A file of this name to write to, and its folder among the artifacts."""
    above = str(Path(name).parent)
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / Path(name).name, None if above == "." else above
