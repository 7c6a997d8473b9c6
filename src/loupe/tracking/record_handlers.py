"""Sends each kind of record to MLflow. A record may be sent twice, so handlers are idempotent."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_LOGGED_ARTIFACTS
from PIL import Image

from loupe.tracking.context_tags import list_masked_tags
from loupe.tracking.logged_models import delete_models, find_model, remove_artifact

CHECKPOINT_TAG = "loupe.checkpoint"  # the artifact path of the last complete checkpoint
# Models are logged at this step. MLflow copies all metrics of a model's step to the model. This step has no metrics:
# `_send_model_metrics` chooses the metrics instead.
NO_STEP = -1


def get_time_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def _send_metrics(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    link = body.get("link") or {}
    link = link | {"run_id": run_id} if link else {}
    metrics = [Metric(name, value, body["time"], body["step"], **link) for name, value in body["values"].items()]
    mlflow.MlflowClient().log_batch(run_id, metrics=metrics)


def _send_tags(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(name, text) for name, text in body.items()])


def _send_params(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    mlflow.MlflowClient().log_batch(run_id, params=[Param(name, text) for name, text in body.items()])


def _send_file(run_id: str, body: dict[str, Any], file: Path | None) -> None:
    mlflow.MlflowClient().log_artifact(run_id, str(file), body["folder"])


def _send_image(run_id: str, body: dict[str, Any], file: Path | None) -> None:
    """Upload the image of one step, unless it is uploaded already. MLflow shows a slider for the steps."""
    client, fields = mlflow.MlflowClient(), {name: body[name] for name in ("key", "step", "timestamp")}
    prefix = "images/{key}+step+{step}+timestamp+{timestamp}+".format(**fields)  # MLflow appends a random suffix
    if not any(item.path.startswith(prefix) for item in client.list_artifacts(run_id, "images")):
        assert file is not None
        with Image.open(file) as image:
            client.log_image(run_id, image, **fields, synchronous=True)


def _send_table(run_id: str, body: dict[str, Any], file: Path | None) -> None:
    """Upload a table. `mlflow.log_table` would append the rows to a table of the same name."""
    client, name = mlflow.MlflowClient(), body["name"]
    folder, _, _ = name.rpartition("/")
    client.log_artifact(run_id, str(file), folder or None)
    entry, tables = {"path": name, "type": "table"}, []
    with suppress(ValueError, TypeError):  # another client has changed the tag
        tables = [*json.loads(client.get_run(run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))]
    if entry not in tables:  # MLflow shows the tables that this tag lists
        client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*tables, entry]))


def _send_input(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    fields = {name: body.get(name) for name in ("name", "digest", "source_type", "source", "schema", "profile")}
    context = InputTag(MLFLOW_DATASET_CONTEXT, body["context"])
    mlflow.MlflowClient().log_inputs(run_id, [DatasetInput(Dataset(**fields), [context])])


def _send_model_input(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    mlflow.MlflowClient().log_inputs(run_id, models=[LoggedModelInput(body["model_id"])])


def _send_model(run_id: str, body: dict[str, Any], file: Path | None) -> None:
    """Log a Keras model with its geometry and signature, in place of all other models of the run."""
    from importlib.metadata import version

    from loupe.models import keras_file

    assert file is not None
    delete_models(run_id)
    model = keras_file.load(file)
    input_schema, output_schema = (
        mlflow.types.Schema([mlflow.types.TensorSpec(np.dtype("float32"), (-1, -1, -1, channels))])
        for channels in (model.inputs[0].shape[-1], 1)
    )
    mlflow.models.Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.keras,
        run_id=run_id,
        model=model,
        signature=mlflow.models.ModelSignature(input_schema, output_schema),
        pip_requirements=[f"{name}=={version(name)}" for name in ("keras", "tensorflow", "numpy")],
        metadata=body,
        tags=list_masked_tags(),
        step=NO_STEP,
    )


def _send_model_metrics(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    """Link the metrics of the run to its model and its training dataset.

    Of each metric, the value at the best step is linked, or else the only value if it is at step 0. Metrics without
    such a value, system metrics, and metrics that are already linked are skipped. If the server rejected the record
    of the model, no metric is linked. If it rejected the record of the dataset, the metrics are linked only to the
    model.
    """
    client, model = mlflow.MlflowClient(), find_model(run_id)
    if model is None:
        return
    run = client.get_run(run_id)
    link = {"model_id": model.model_id}
    for found in run.inputs.dataset_inputs:
        if (MLFLOW_DATASET_CONTEXT, "training") in [(tag.key, tag.value) for tag in found.tags]:
            link |= {"dataset_name": found.dataset.name, "dataset_digest": found.dataset.digest}
    linked_names = {metric.key for metric in model.metrics or ()}
    metrics = []
    for name in run.data.metrics:
        if name in linked_names or name.startswith("system/"):
            continue
        points = {point.step: point for point in client.get_metric_history(run_id, name)}
        point = points.get(body["step"]) or (points.get(0) if len(points) == 1 else None)
        # The same point is sent again, with a link. The run gets no second point, because time and step are equal.
        if point is not None:
            metrics.append(Metric(name, point.value, point.timestamp, point.step, **link, run_id=run_id))
    client.log_batch(run_id, metrics=metrics)


def _send_checkpoint(run_id: str, body: dict[str, Any], file: Path | None) -> None:
    """Upload the checkpoint, and then remove the previous one."""
    assert file is not None
    client, name = mlflow.MlflowClient(), f"checkpoint/{file.name}"
    run = client.get_run(run_id)
    previous = run.data.tags.get(CHECKPOINT_TAG)
    if previous != name:
        client.log_artifact(run_id, str(file), "checkpoint")
        client.set_tag(run_id, CHECKPOINT_TAG, name)
        if previous:
            remove_artifact(run.info.artifact_uri, previous)


def _remove_checkpoint(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    run = mlflow.get_run(run_id)
    if CHECKPOINT_TAG in run.data.tags:
        # The tag is deleted last, so that a second try finds it if the process dies between the requests. Until then,
        # the tag names a missing file, but no step loads the checkpoint of a finished run.
        remove_artifact(run.info.artifact_uri, "checkpoint")
        mlflow.MlflowClient().delete_tag(run_id, CHECKPOINT_TAG)


def _end_run(run_id: str, body: dict[str, Any], _: Path | None) -> None:
    mlflow.MlflowClient().set_terminated(run_id, body["status"], body["end_time"])


# The handlers by kind of record. Their arguments are the id of the run, and the body and the file of the record.
RECORD_HANDLERS: dict[str, Callable[[str, dict[str, Any], Path | None], None]] = {
    "metrics": _send_metrics,
    "tags": _send_tags,
    "params": _send_params,
    "file": _send_file,
    "image": _send_image,
    "table": _send_table,
    "input": _send_input,
    "model input": _send_model_input,
    "model": _send_model,
    "model metrics": _send_model_metrics,
    "checkpoint": _send_checkpoint,
    "remove checkpoint": _remove_checkpoint,
    "end": _end_run,
}
