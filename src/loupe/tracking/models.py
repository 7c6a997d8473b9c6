"""Networks in MLflow: logged with their run, found by what a user calls them, registered, promoted."""

import tempfile
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from loupe.config.fields import format_value
from loupe.errors import UsageError, describe_error
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
        raise UsageError(f"model: {found.shown} cannot be loaded: {describe_error(ValueError(within))}") from None


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
            raise UsageError(f"model: no model {model!r}: {describe_error(error)}") from None
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


def log_onnx(file: Path, run_id: str) -> str:
    """Keep the network as ONNX with the run that trained it; returns its artifact URI."""
    mlflow.MlflowClient().log_artifact(run_id, str(file), str(Path(ONNX_FILE).parent))
    return f"runs:/{run_id}/{ONNX_FILE}"


def register_model(run_id: str, scale: Fraction, description: str, tags: dict[str, str]) -> Any:
    """Make the run's model a version of its scale's registered model; the same run gets one version only."""
    client, name = mlflow.MlflowClient(), REGISTERED_NAMES[scale]
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(
            name,
            description=f"Upscales grey images in [-1, 1], (n, h, w, 1), {format_value(scale)}; trained by Loupe.",
        )
    there = [found for found in client.search_model_versions(f"name = '{name}'") if found.run_id == run_id]
    if not there:
        source = client.get_logged_model(_model_id(run_id))
        made = client.create_model_version(name, source.artifact_location, run_id, model_id=source.model_id)
        there = [made]
    client.update_model_version(name, there[0].version, description)
    for key, value in tags.items():
        client.set_model_version_tag(name, there[0].version, key, value)
    return there[0]


def _model_id(run_id: str) -> str:
    """The id of the network that a run logged; raises UsageError where it has none."""
    outputs = mlflow.get_run(run_id).outputs
    if outputs is None or not outputs.model_outputs:
        raise UsageError(f"run: {run_id} has no model")
    return str(outputs.model_outputs[-1].model_id)


def register_photo_model(onnx: dict[Fraction, Path], description: str) -> str:
    """Make the networks the champion of `loupe-photo`, which takes photos and gives photos; returns its URI.

    Args:
        onnx: a network as ONNX for each scale.
        description: of the version.
    """
    from importlib.metadata import version

    import loupe

    schema = mlflow.types.Schema([mlflow.types.ColSpec("string", "photo")])
    params = mlflow.types.ParamSchema(
        [mlflow.types.ParamSpec("scale", "double", 1.5), mlflow.types.ParamSpec("format", "string", "same")]
    )
    with warnings.catch_warnings():
        # of type hints and examples, which a signature makes needless; MLflow sets the filters back
        warnings.showwarning = lambda *_, **__: None
        from loupe.tracking import photo_model

        logged = mlflow.pyfunc.log_model(
            name="photo",
            python_model=photo_model.__file__,
            code_paths=[str(Path(loupe.__file__).parent)],
            artifacts={f"{scale.numerator}x{scale.denominator}": str(file) for scale, file in onnx.items()},
            signature=mlflow.models.ModelSignature(
                schema, mlflow.types.Schema([mlflow.types.ColSpec("string")]), params
            ),
            pip_requirements=[f"{name}=={version(name)}" for name in ("onnxruntime", "numpy", "pillow")],
            metadata={"largest_file": photo_model.LARGEST_FILE, "largest_result": photo_model.LARGEST_RESULT},
        )
    client = mlflow.MlflowClient()
    if not client.search_registered_models(f"name = '{PHOTO_MODEL}'"):
        client.create_registered_model(
            PHOTO_MODEL, description="Upscales photos: an image file in base64 in, one out."
        )
    made = client.create_model_version(
        PHOTO_MODEL, logged.model_uri, mlflow.active_run().info.run_id, description=description
    )
    client.set_registered_model_alias(PHOTO_MODEL, CHAMPION, made.version)
    return f"models:/{PHOTO_MODEL}/{made.version}"


def set_champion(scale: Fraction, version: str) -> None:
    """Make this version the champion of its scale."""
    mlflow.MlflowClient().set_registered_model_alias(REGISTERED_NAMES[scale], CHAMPION, version)
