"""Networks in MLflow: logged with their run, found by what a user calls them, registered, promoted."""

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from loupe.config.fields import text_of
from loupe.errors import UsageError, first_line
from loupe.tracking import records
from loupe.tracking.store import create_store
from loupe.upscalers.geometry import Geometry

CHAMPION = "champion"
KERAS_FILE = "data/model.keras"  # in what MLflow's Keras flavour logs
ONNX_FILE = "onnx/model.onnx"
PHOTO_MODEL = "loupe-photo"
REGISTERED_NAMES = {Fraction(3, 2): "loupe", Fraction(2): "loupe-2x", Fraction(3): "loupe-3x"}


@dataclass(frozen=True)
class ModelReference:
    """A network that a user named: where it can be loaded from, and the run that made it, where known."""

    shown: str  # for people
    uri: str  # of MLflow, or a file
    run_id: str | None = None


def log_keras_model(model: Any, geometry: Geometry) -> None:
    """Log a Keras model with the open run, uncompiled, with its geometry."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        records.log_record("model", geometry_tags(geometry), file)


def log_model_metrics(points: list[dict[str, Any]]) -> None:
    """Link the final metrics of the run to the model that it logged last, and to its dataset.

    Args:
        points: of the learning curve, each with its step and its metrics, val/mae among them; [] without a curve.
    """
    best = min(points, key=lambda point: point["metrics"]["val/mae"])["step"] if points else 0
    records.log_record("model metrics", {"step": best})


def geometry_tags(geometry: Geometry) -> dict[str, str]:
    """What must be known of a model to use it, as tags."""
    return {name: str(getattr(geometry, name)) for name in ("q", "p", "min_side", "halo", "luminance")}


def load_keras(found: ModelReference) -> Any:
    """The Keras model of a .keras file, or of what `log_keras_model` has logged.

    That one file is all that is read. MLflow's own loader would take whatever its MLmodel names, graphs of TensorFlow
    too, which may hold operations that write files.

    Raises:
        UsageError: it cannot be loaded, holds code, or takes no grey images.
    """
    from loupe.models import keras_file

    try:
        if Path(found.uri).is_file():
            return keras_file.load(Path(found.uri))
        with tempfile.TemporaryDirectory() as folder:
            return keras_file.load(_copy(found.uri, folder))
    except Exception as error:  # whatever the file leads Keras to
        within = str(error).rpartition("Exception encountered: ")[2]  # Keras tells the cause last
        raise UsageError(f"model: {found.shown} cannot be loaded: {first_line(ValueError(within))}") from None


def _copy(uri: str, folder: str) -> Path:
    """A copy in `folder` of the .keras file of what MLflow keeps at a URI; raises ValueError where it has none."""
    try:
        return Path(mlflow.artifacts.download_artifacts(f"{uri}/{KERAS_FILE}", dst_path=folder))
    except (MlflowException, OSError):
        raise ValueError(f"there is no {KERAS_FILE} in it, or it cannot be read") from None


def find_model(model: str, scale: Fraction) -> ModelReference | None:
    """Find a network by what a user calls it; None where the champion is asked for and there is none yet.

    Args:
        model: `champion`, `models:/…`, `runs:/<id>/model`, or a file.
        scale: of the champion.

    Raises:
        UsageError: there is no such model.
    """
    if model == CHAMPION:
        version = get_champion(scale)
        if version is None:
            return None
        return ModelReference(
            f"models:/{version.name}@{CHAMPION} (version {version.version})", version.source, version.run_id
        )
    if model.startswith(("runs:/", "models:/")):
        create_store()
        try:
            info = mlflow.models.get_model_info(model)
            name = mlflow.get_run(info.run_id).info.run_name
        except Exception as error:  # an MLmodel may hold anything
            raise UsageError(f"model: no model {model!r}: {first_line(error)}") from None
        return ModelReference(f"{name} ({model})", model, info.run_id)
    if Path(model).is_file():
        return ModelReference(model, model)
    raise UsageError(f"model: must be champion, a registry or run URI, a file or a baseline, got {model!r}")


def get_champion(scale: Fraction) -> Any:
    """The version of the scale's registered model that is champion, or None."""
    create_store()
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(REGISTERED_NAMES[scale], CHAMPION)
    except KeyError:
        return None
    except MlflowException as error:  # a server that does not answer is no sign that there is none
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def download_artifact(run_id: str | None, name: str, folder: str) -> Path | None:
    """A copy in `folder` of a run's artifact, or None where the run has none of this name."""
    above = str(Path(name).parent)
    if run_id is None:
        return None
    there = mlflow.MlflowClient().list_artifacts(run_id, None if above == "." else above)
    if name not in [item.path for item in there]:
        return None
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=folder))
