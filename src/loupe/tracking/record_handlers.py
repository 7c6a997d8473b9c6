"""The kinds of things that are told of a run, each with how MLflow takes it; telling twice does no harm."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_LOGGED_ARTIFACTS

CHECKPOINT_TAG = "loupe.checkpoint"
NO_STEP = -1  # has no metrics: MLflow copies those of the step that a model is logged at, without their dataset


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def remove_artifact(artifact_uri: str, name: str) -> None:
    """Remove a file or folder of artifacts."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(artifact_uri).delete_artifacts(name)


def _metrics(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    found = [Metric(name, value, body["time"], body["step"]) for name, value in body["values"].items()]
    mlflow.MlflowClient().log_batch(run_id, metrics=found)


def _tags(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(name, text) for name, text in body.items()])


def _params(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    mlflow.MlflowClient().log_batch(run_id, params=[Param(name, text) for name, text in body.items()])


def _file(run_id: str, body: dict[str, Any], file: Path | None) -> None:
    mlflow.MlflowClient().log_artifact(run_id, str(file), body["folder"])


def _table(run_id: str, body: dict[str, Any], file: Path | None) -> None:
    """Replace the table of this name: `mlflow.log_table` would append the rows to it."""
    client, name = mlflow.MlflowClient(), body["name"]
    folder, _, _ = name.rpartition("/")
    client.log_artifact(run_id, str(file), folder or None)
    tables = json.loads(client.get_run(run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    entry = {"path": name, "type": "table"}
    if entry not in tables:  # MLflow's pages show the tables that this tag lists
        client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*tables, entry]))


def _input(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    given = {name: body.get(name) for name in ("name", "digest", "source_type", "source")}
    context = InputTag(MLFLOW_DATASET_CONTEXT, body["context"])
    mlflow.MlflowClient().log_inputs(run_id, [DatasetInput(Dataset(**given), [context])])


def _model(run_id: str, body: dict[str, Any], file: Path | None) -> None:
    """A Keras model, with the signature (-1, -1, -1, 1) and its facts."""
    from importlib.metadata import version

    import keras

    images = mlflow.types.Schema([mlflow.types.TensorSpec(np.dtype("float32"), (-1, -1, -1, 1))])
    mlflow.models.Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.keras,
        run_id=run_id,
        model=keras.saving.load_model(file, compile=False),
        signature=mlflow.models.ModelSignature(images, images),
        pip_requirements=[f"{name}=={version(name)}" for name in ("keras", "tensorflow", "numpy")],
        metadata=body,
        step=NO_STEP,
    )


def _model_metrics(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    """Copy the final metrics of the run to its model: those of the best step, and those that have one value only."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    model = client.get_logged_model(run.outputs.model_outputs[-1].model_id)
    dataset = run.inputs.dataset_inputs[0].dataset
    linked = {metric.key for metric in model.metrics or ()}
    found = []
    for name in run.data.metrics:
        if name in linked or name.startswith("system/"):
            continue
        points = {point.step: point for point in client.get_metric_history(run_id, name)}
        point = points.get(body["step"]) or (points.get(0) if len(points) == 1 else None)
        if point is not None:  # with its own time and step, the run keeps it once
            of_model = {"model_id": model.model_id, "dataset_name": dataset.name, "dataset_digest": dataset.digest}
            found.append(Metric(name, point.value, point.timestamp, point.step, **of_model, run_id=run_id))
    client.log_batch(run_id, metrics=found)


def _checkpoint(run_id: str, body: dict[str, Any], file: Path | None) -> None:
    """A tag names the last whole one; the ones before make room."""
    assert file is not None
    client, name = mlflow.MlflowClient(), f"checkpoint/{file.name}"
    run = client.get_run(run_id)
    before = run.data.tags.get(CHECKPOINT_TAG)
    if before != name:
        client.log_artifact(run_id, str(file), "checkpoint")
        client.set_tag(run_id, CHECKPOINT_TAG, name)
        if before:
            remove_artifact(run.info.artifact_uri, before)


def _no_checkpoint(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    run = mlflow.get_run(run_id)
    if CHECKPOINT_TAG in run.data.tags:
        mlflow.MlflowClient().delete_tag(run_id, CHECKPOINT_TAG)
        remove_artifact(run.info.artifact_uri, "checkpoint")


def _end(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    mlflow.MlflowClient().set_terminated(run_id, body["status"], body["end_time"])


RECORD_HANDLERS: dict[str, Callable[[str, dict[str, Any], Path | None], None]] = {
    "metrics": _metrics,
    "tags": _tags,
    "params": _params,
    "file": _file,
    "table": _table,
    "input": _input,
    "model": _model,
    "model metrics": _model_metrics,
    "checkpoint": _checkpoint,
    "no checkpoint": _no_checkpoint,
    "end": _end,
}
