"""Logs models to MLflow, finds them by name, and loads them."""

import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

from loupe.config.fields import CHAMPION, URI_SCHEMES
from loupe.errors import LoupeError, UsageError, describe_error
from loupe.tracking import records
from loupe.tracking.store import MISSING_CODES, create_store
from loupe.upscalers.geometry import Geometry

KERAS_FILE = "data/model.keras"  # path in a logged model
ONNX_FILE = "onnx/model.onnx"  # path in a logged model; `register` adds this file
TEST_SUMMARY = "test-summary.json"  # artifact of a train run or trial: the result of `scoring.summarise`
EVIDENCE_TAG = "loupe.evidence"  # tag of a model version: the reason why it is champion or not
NO_EVIDENCE = "not compared with another model by `loupe register`"
MODEL_ID = re.compile(r"\bm-[0-9a-f]{32}\b")
PHOTO_MODEL = "loupe-photo"  # the registered model that upscales image files
REGISTERED_NAMES = {
    Fraction(1): "loupe-1x",
    Fraction(3, 2): "loupe",
    Fraction(2): "loupe-2x",
    Fraction(3): "loupe-3x",
    Fraction(4): "loupe-4x",
}


@dataclass(frozen=True)
class ModelReference:
    """The location of a model.

    Args:
        name: the name in messages.
        uri: an MLflow URI, the location of the artifacts of a logged model, or the path of a `.keras` file.
        run_id: the run that logged the model, or None.
        model_id: the logged model, or None.
        evidence: for a champion, the reason why it is champion (EVIDENCE_TAG or NO_EVIDENCE); otherwise "".
    """

    name: str
    uri: str
    run_id: str | None = None
    model_id: str | None = None
    evidence: str = ""

    @classmethod
    def from_run(cls, run_id: str, name: str | None = None) -> "ModelReference":
        """Create a reference to the model that a run logged."""
        return cls(name or run_id, f"runs:/{run_id}/model", run_id)

    @classmethod
    def from_logged_model(cls, model_id: str, name: str, evidence: str = "") -> "ModelReference":
        """Create a reference to a logged model; raise UsageError if the model was deleted."""
        try:
            model = mlflow.MlflowClient().get_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UsageError(f"model: {name} cannot be loaded: the model was deleted") from None
        return cls(name, model.artifact_location, model.source_run_id, model_id, evidence)

    @classmethod
    def from_version(cls, version: Any, name: str = "", evidence: str = "") -> "ModelReference":
        """Create a reference to a model version; raise UsageError if its logged model was deleted."""
        name, found = name or f"{version.name} version {version.version}", MODEL_ID.search(version.source)
        if found is None:
            return cls(name, version.source, version.run_id, evidence=evidence)
        return cls.from_logged_model(found[0], name, evidence)


def log_model(model: Any, points: list[dict[str, Any]]) -> None:
    """Log a Keras model and its geometry to the open run, and link metrics to the model; see `log_model_metrics`."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        # The saved copy of the model does not contain the variables of the optimizer.
        keras.Model(model.input, model.output, name=model.name).save(file)
        records.log_record("model", make_geometry_metadata(Geometry.from_name(model.name)), file)
    log_model_metrics(points)


def log_model_metrics(points: list[dict[str, Any]]) -> None:
    """Link the metrics of the best step, and the metrics logged once without a step, to the run's model and dataset.

    `points` is the learning curve. The best step has the lowest val/mae; for [], it is step 0.
    """
    best = min(points, key=lambda point: point["metrics"]["val/mae"])["step"] if points else 0
    records.log_record("model metrics", {"step": best})


def make_geometry_metadata(geometry: Geometry) -> dict[str, str]:
    """Return the geometry as metadata of a logged model."""
    names = ("q", "p", "min_side", "halo", "luminance", *(["condition"] if geometry.channels > 1 else []))
    return {name: str(getattr(geometry, name)) for name in names}


def load_keras(reference: ModelReference) -> Any:
    """Load a `.keras` file or a Keras model that is logged in MLflow.

    MLflow's own loader is not used, because it runs any code that a model contains.

    Raises:
        UsageError: the file is missing, damaged or too large, contains code, or is not a network of Loupe.
        LoupeError: MLflow, its storage, the disk or the memory fails.
    """
    from loupe.models import keras_file

    try:
        if Path(reference.uri).is_file():
            return keras_file.load(Path(reference.uri))
        with tempfile.TemporaryDirectory() as folder:
            return keras_file.load(download_keras_file(reference, folder))
    except LoupeError:
        raise
    except Exception as error:
        # A full disk or a lack of memory must not raise UsageError: after a UsageError, `register` would compare with
        # the bundled network instead of the champion.
        error_class = LoupeError if isinstance(error, OSError | MemoryError) else UsageError
        cause = str(error).rpartition("Exception encountered: ")[2]  # Keras's message ends with the cause
        cause = describe_error(ValueError(cause or type(error).__name__))
        raise error_class(f"model: {reference.name} cannot be loaded: {cause}") from None


def find_model(name: str) -> ModelReference:
    """Find a model by a file name or MLflow URI; raise UsageError if it does not exist, LoupeError if MLflow fails.

    Args:
        name: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `models:/MODEL_ID`, `runs:/RUN_ID/NAME`, or a file.
    """
    if name.startswith(URI_SCHEMES):
        create_store()
        try:
            info = mlflow.models.get_model_info(name)
            if info.model_id is None:
                return ModelReference(name, name, info.run_id)
            found = ModelReference.from_logged_model(info.model_id, name)
            if found.run_id is None:
                return found
            return replace(found, name=f"{mlflow.get_run(found.run_id).info.run_name} ({name})")
        except UsageError:  # of `from_logged_model`
            raise
        except Exception as error:  # a damaged MLmodel or a wrong answer of a server can cause any error
            error_class = UsageError if getattr(error, "error_code", "") in MISSING_CODES else LoupeError
            raise error_class(f"model: {name!r} cannot be loaded: {describe_error(error)}") from None
    if os.path.isfile(name):  # Path.is_file would raise an error for a name that is too long
        return ModelReference(name, name)
    raise UsageError(f"model: must be {CHAMPION}, an MLflow URI, or a file that exists, got {name!r}")


def find_champion(scale: Fraction) -> ModelReference | None:
    """Find the champion of a scale factor, or None."""
    version = get_champion(scale)
    if version is None:
        return None
    name = f"models:/{version.name}@{CHAMPION} (version {version.version})"
    return ModelReference.from_version(version, name, version.tags.get(EVIDENCE_TAG, NO_EVIDENCE))


def get_champion(scale: Fraction) -> Any:
    """Return the model version that is the champion of a scale factor, or None."""
    if scale not in REGISTERED_NAMES:
        return None
    create_store()
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(REGISTERED_NAMES[scale], CHAMPION)
    except UnsupportedModelRegistryStoreURIException:
        raise
    except MlflowException as error:
        # Other codes, such as that of an unreachable server, do not mean a missing champion.
        if error.error_code not in MISSING_CODES:
            raise
        return None


def get_registered_tags(name: str) -> dict[str, str]:
    """Return the tags of a registered model; {} if it does not exist."""
    try:
        return dict(mlflow.MlflowClient().get_registered_model(name).tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def download_artifact(run_id: str | None, name: str, folder: str) -> Path | None:
    """Download an artifact of a run to a folder; return None if the artifact does not exist or `run_id` is None."""
    if run_id is None:
        return None
    parent = str(Path(name).parent)
    artifacts = mlflow.MlflowClient().list_artifacts(run_id, None if parent == "." else parent)
    if name not in [artifact.path for artifact in artifacts]:
        return None
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=folder))


def download_onnx(reference: ModelReference, folder: str) -> Path | None:
    """Download the ONNX file of a model to a folder; return None if it does not exist."""
    if reference.model_id is None:
        return None
    artifacts = mlflow.MlflowClient().list_logged_model_artifacts(reference.model_id, str(Path(ONNX_FILE).parent))
    if ONNX_FILE not in [artifact.path for artifact in artifacts]:
        return None
    return Path(mlflow.artifacts.download_artifacts(f"{reference.uri}/{ONNX_FILE}", dst_path=folder))


def download_keras_file(reference: ModelReference, folder: str) -> Path:
    """Download the `.keras` file of a model; raise UsageError if it does not exist, LoupeError if MLflow fails."""
    try:
        return Path(mlflow.artifacts.download_artifacts(f"{reference.uri}/{KERAS_FILE}", dst_path=folder))
    except Exception as error:  # clients of object stores, such as botocore, have their own classes of errors
        reason, error_class = describe_error(error), LoupeError
    # A failed download must not raise UsageError: after a UsageError, `register` would compare with the bundled
    # network instead of the champion.
    with suppress(Exception):
        files = mlflow.artifacts.list_artifacts(artifact_uri=f"{reference.uri}/{Path(KERAS_FILE).parent}")
        if Path(KERAS_FILE).name not in [Path(file.path).name for file in files]:
            reason, error_class = f"it does not contain {KERAS_FILE}", UsageError
    raise error_class(f"model: {reference.name} cannot be loaded: {reason}")
