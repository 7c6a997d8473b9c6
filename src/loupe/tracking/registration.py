"""Registers networks in MLflow's model registry.

Also registers the photo model, `loupe-photo`, which upscales image files with these networks.
"""

import hashlib
import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

import loupe
from loupe.cli.signals import defer_signals
from loupe.config.fields import CHAMPION, format_value
from loupe.errors import UsageError
from loupe.tracking import logged_models, models, runs
from loupe.tracking.context_tags import list_masked_tags
from loupe.upscalers import bundled
from loupe.upscalers.isolated import IsolatedOnnxUpscaler

CONTENT_TAG = "loupe.content"  # a hash of the code and the networks of a version of `loupe-photo`


@defer_signals()
def log_onnx(file: Path, run_id: str) -> str:
    """Log an ONNX file to the run that trained its network; returns the artifact's URI."""
    mlflow.MlflowClient().log_artifact(run_id, str(file), str(Path(models.ONNX_FILE).parent))
    return f"runs:/{run_id}/{models.ONNX_FILE}"


@defer_signals()
def register_model(run_id: str, scale: Fraction, description: str, tags: dict[str, str]) -> Any:
    """Register the model of a run as a version of the registered model of its scale factor.

    A run has one version, even if two processes register the run at the same time. A second call updates the
    description and the tags of the version.

    Returns:
        The model version.

    Raises:
        UsageError: the run has no model.
    """
    client, name = mlflow.MlflowClient(), models.REGISTERED_NAMES[scale]
    _create_registered_model(
        name, f"Upscales grey images, (n, height, width, 1) in [-1, 1], by {format_value(scale)}. Trained by Loupe."
    )

    def create() -> Any:
        model = logged_models.find_model(run_id)
        if model is None:
            raise UsageError(f"run: must be a run with a model, got {run_id}")
        return client.create_model_version(name, model.artifact_location, run_id, model_id=model.model_id)

    version = _create_version_once(f"name = '{name}' and run_id = '{run_id}'", create)
    client.update_model_version(name, version.version, description)
    for key, value in tags.items():
        client.set_model_version_tag(name, version.version, key, value)
    return version


@defer_signals()
def set_champion(scale: Fraction, version: str) -> None:
    """Make a version the champion of its scale factor."""
    mlflow.MlflowClient().set_registered_model_alias(models.REGISTERED_NAMES[scale], CHAMPION, version)


@defer_signals()
def register_photo_model(scale: Fraction, onnx: Path, version: Any) -> str:
    """Register a version of `loupe-photo` that contains a new network for one scale factor.

    This version becomes the champion of `loupe-photo`. For each other scale factor, the version contains the ONNX
    file of the champion, or the bundled network if the file is missing. There is one version per commit and set of
    networks, even if two processes register the same set at the same time.

    Args:
        scale: the scale factor of the new network.
        onnx: the file of the new network. The files of the other champions are downloaded to subfolders next to it.
        version: the model version of the new network.

    Returns:
        The URI of the version.
    """
    files, network_names, run_ids = (
        {scale: onnx},
        [f"{version.name} version {version.version}"],
        {scale: version.run_id},
    )
    for other in sorted(models.REGISTERED_NAMES.keys() - {scale, Fraction(1)}):
        champion, file = models.get_champion(other), None
        if champion:
            folder = onnx.parent / models.REGISTERED_NAMES[other]
            file = models.download_artifact(champion.run_id, models.ONNX_FILE, str(folder))
            if file is not None:
                IsolatedOnnxUpscaler(file)  # raises UsageError for a file that `loupe-photo` cannot use
        files[other] = file or bundled.find_file(bundled.DEFAULT_SIZE, other)
        run_ids[other] = champion.run_id if file else ""
        network_names.append(
            f"{champion.name} version {champion.version}" if file else f"the bundled network of {format_value(other)}"
        )
    _create_registered_model(models.PHOTO_MODEL, "Upscales photos: takes and returns image files in base64.")
    client, content = mlflow.MlflowClient(), [runs.find_commit(), *map(run_ids.get, sorted(run_ids))]
    content_hash = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    def create() -> Any:
        logged = _log_photo_model(files)
        return client.create_model_version(
            models.PHOTO_MODEL,
            logged.model_uri,
            mlflow.active_run().info.run_id,
            tags={CONTENT_TAG: content_hash},
            description=f"Upscales photos with {', '.join(network_names)}.",
            model_id=logged.model_id,  # a tracking server refuses the URI of a model without its id
        )

    query = f"name = '{models.PHOTO_MODEL}' and tags.`{CONTENT_TAG}` = '{content_hash}'"
    photo_version = _create_version_once(query, create)
    client.set_registered_model_alias(models.PHOTO_MODEL, CHAMPION, photo_version.version)
    return f"models:/{models.PHOTO_MODEL}/{photo_version.version}"


def _log_photo_model(onnx: dict[Fraction, Path]) -> Any:
    """Log the model `loupe-photo` to the open run; returns its `mlflow.models.model.ModelInfo`.

    Args:
        onnx: the ONNX file of each scale factor.
    """
    from importlib.metadata import version

    import onnxruntime

    with warnings.catch_warnings():
        # MLflow warns about missing type hints and examples, although a signature replaces them. MLflow also resets
        # the filters of warnings. Therefore a filter cannot hide this warning.
        warnings.showwarning = lambda *_, **__: None
        from loupe.tracking import photo_model

        return mlflow.pyfunc.log_model(
            name="photo",
            python_model=photo_model.__file__,
            code_paths=[str(Path(loupe.__file__).parent)],
            artifacts={f"{scale.numerator}x{scale.denominator}": str(file) for scale, file in onnx.items()},
            signature=photo_model.make_signature(),
            pip_requirements=[
                # Not `version("onnxruntime")`: the installed package may be onnxruntime-gpu.
                f"onnxruntime=={onnxruntime.__version__}",
                *(f"{name}=={version(name)}" for name in ("numpy", "pillow")),
            ],
            metadata={"largest_file": photo_model.MAX_FILE_BYTES, "largest_result": photo_model.MAX_RESULT_PIXELS},
            tags=list_masked_tags(),
        )


def _create_registered_model(name: str, description: str) -> None:
    try:
        mlflow.MlflowClient().create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _create_version_once(query: str, create: Callable[[], Any]) -> Any:
    """Return the oldest model version that a query finds; create a version if the query finds none.

    Two processes may both create a version. Both processes then find the same oldest version and delete the newer
    versions.
    """
    client = mlflow.MlflowClient()

    def find() -> list[Any]:
        return sorted(client.search_model_versions(query), key=lambda version: int(version.version))

    if not find():
        create()
    oldest, *others = find()
    for version in others:
        with suppress(MlflowException):  # the other process has deleted the version
            client.delete_model_version(version.name, version.version)
    return oldest
