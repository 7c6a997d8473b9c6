"""Moves the alias `champion` of a registered model, and updates `loupe-photo`, which upscales image files."""

import hashlib
import json
import tempfile
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

import loupe
from loupe.cli.progress import print_error
from loupe.cli.signals import defer_signals
from loupe.config.fields import CHAMPION, format_value
from loupe.errors import UsageError
from loupe.tracking import models, registration, runs
from loupe.tracking.context_tags import list_masked_tags
from loupe.tracking.store import create_store
from loupe.upscalers import bundled
from loupe.upscalers.isolated import IsolatedOnnxUpscaler

CONTENT_TAG = "loupe.content"  # tag of a version of `loupe-photo`: hash of the commit and of the champions' versions
REPLACED_TAG = "loupe.replaced"  # tag of a champion: version of the previous champion; "" if there was none


def get_version(scale: Fraction, number: str) -> Any:
    """Return a version of the registered model of a scale factor; raise UsageError if the version does not exist."""
    name = models.REGISTERED_NAMES[scale]
    create_store()
    try:
        return mlflow.MlflowClient().get_model_version(name, number)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UsageError(f"version: must be a version of {name}, got {number}") from None


def find_previous_champion(scale: Fraction) -> Any:
    """Return the version that the champion replaced; None if the champion replaced the bundled network.

    Raises:
        UsageError: the champion is missing, or its predecessor is unknown or was deleted.
    """
    name, champion = models.REGISTERED_NAMES[scale], models.get_champion(scale)
    if champion is None:
        raise UsageError(f"rollback: must not be used without a champion, and {name} has none")
    if REPLACED_TAG not in champion.tags:
        reason = (
            f"{name} version {champion.version}, whose alias was set without it; choose the champion with --version"
        )
        raise UsageError(f"rollback: must follow a promotion by `loupe register`, got {reason}")
    number = champion.tags[REPLACED_TAG]
    try:
        return get_version(scale, number) if number else None
    except UsageError:
        reason = f"the previous champion, version {number} of {name}, was deleted"
        raise UsageError(f"rollback: {reason}; choose the champion with --version") from None


def promote(scale: Fraction, version: Any, evidence: str) -> str:
    """Make a version the champion of its scale factor, with `evidence` as the reason, and update `loupe-photo`.

    Returns:
        The URI of the version of `loupe-photo`; "" at 1:1, because `loupe-photo` has no network for 1:1.
    """
    previous = models.get_champion(scale)
    if previous is None or str(previous.version) != str(version.version):
        registration.tag_version(version, {REPLACED_TAG: str(previous.version) if previous else ""})
    registration.tag_version(version, {models.EVIDENCE_TAG: evidence})
    return move_champion(scale, version)


@defer_signals()
def move_champion(scale: Fraction, version: Any) -> str:
    """Move the alias `champion` to a version (None deletes the alias), and update `loupe-photo`.

    Returns:
        As in `promote`.
    """
    uri = register_photo_model(scale, version) if scale > 1 else ""
    # The alias moves last. If the process is killed earlier, the old champion remains: run the command again.
    client, name = mlflow.MlflowClient(), models.REGISTERED_NAMES[scale]
    if version is None:
        client.delete_registered_model_alias(name, CHAMPION)
    else:
        client.set_registered_model_alias(name, CHAMPION, version.version)
    # Another process may have moved the champion of another scale factor meanwhile. If not, no version is created.
    return register_photo_model(scale, models.get_champion(scale)) if uri else ""


def register_photo_model(scale: Fraction, version: Any) -> str:
    """Register a version of `loupe-photo` with a new champion for one scale factor, and return the version's URI.

    A version of `loupe-photo` contains one ONNX file per scale factor above 1:1: for `scale`, that of the new
    champion `version`; for the others, those of their champions. The bundled network replaces a missing champion,
    also if `version` is None. A version of `loupe-photo` with the same networks and commit is reused. Otherwise, a
    new one is logged to the open run. In both cases, the alias `champion` of `loupe-photo` then points to it.
    """
    scales = sorted(models.REGISTERED_NAMES.keys() - {Fraction(1)})
    champions = {other: version if other == scale else _find_usable_champion(other) for other in scales}
    names = [
        f"{found.name} version {found.version}" if found else f"the bundled network of {format_value(other)}"
        for other, found in champions.items()
    ]
    registration.create_registered_model(
        models.PHOTO_MODEL, "Upscales photos: takes and returns image files in base64."
    )
    content = [
        runs.find_commit(),
        *(f"{found.name}/{found.version}" if found else "" for found in champions.values()),
    ]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    client, query = mlflow.MlflowClient(), f"name = '{models.PHOTO_MODEL}' and tags.`{CONTENT_TAG}` = '{key}'"

    def create() -> Any:
        logged = _log_photo_model(champions)
        return client.create_model_version(
            models.PHOTO_MODEL,
            logged.model_uri,
            mlflow.active_run().info.run_id,
            tags={CONTENT_TAG: key},
            description=f"Upscales photos with {', '.join(names)}.",
            model_id=logged.model_id,  # tracking servers require this argument
        )

    photo_version = registration.create_version_once(lambda: client.search_model_versions(query), create)
    client.set_registered_model_alias(models.PHOTO_MODEL, CHAMPION, photo_version.version)
    return f"models:/{models.PHOTO_MODEL}/{photo_version.version}"


def _find_usable_champion(scale: Fraction) -> Any:
    """Return the champion of a scale factor; None if there is none, or if its logged model was deleted."""
    champion = models.get_champion(scale)
    if champion is not None:
        try:
            models.ModelReference.from_version(champion)
        except UsageError as error:
            print_error(f"{error}; {models.PHOTO_MODEL} gets the bundled network of {format_value(scale)}")
            return None
    return champion


def _log_photo_model(champions: dict[Fraction, Any]) -> Any:
    """Log a model with the networks of these champions to the open run, and return the `ModelInfo` of MLflow."""
    from importlib.metadata import version

    import onnxruntime

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        # MLflow warns about missing type hints. Filters do not hide the warnings, because MLflow resets filters.
        warnings.showwarning = lambda *_, **__: None
        from loupe.tracking import photo_model

        files = {scale: _find_onnx(scale, champion, Path(folder)) for scale, champion in champions.items()}
        return mlflow.pyfunc.log_model(
            name="photo",
            python_model=photo_model.__file__,
            code_paths=[str(Path(loupe.__file__).parent)],
            artifacts={f"{scale.numerator}x{scale.denominator}": str(file) for scale, file in files.items()},
            signature=photo_model.make_signature(),
            pip_requirements=[
                # `version("onnxruntime")` would fail if the installed package is onnxruntime-gpu.
                f"onnxruntime=={onnxruntime.__version__}",
                *(f"{name}=={version(name)}" for name in ("numpy", "pillow")),
                f"pyvips[binary]=={version('pyvips')}",
            ],
            metadata={"largest_file": photo_model.MAX_FILE_BYTES, "largest_result": photo_model.MAX_RESULT_PIXELS},
            tags=list_masked_tags(),
        )


def _find_onnx(scale: Fraction, champion: Any, folder: Path) -> Path:
    """Return the ONNX file of a champion or, for None, of the bundled network.

    The file of a champion is downloaded to `folder`. If the logged model has no ONNX file, the function exports one
    to `folder` and adds it to the logged model.
    """
    if champion is None:
        return bundled.find_file(bundled.DEFAULT_SIZE, scale)
    reference = models.ModelReference.from_version(champion)
    file = models.download_onnx(reference, str(folder / champion.name))
    if file is None:  # the champion was registered without Loupe
        file, _ = registration.export_onnx(models.load_keras(reference), reference, folder / f"{champion.name}.onnx")
    IsolatedOnnxUpscaler(file)  # raises UsageError if Loupe cannot run the file
    return file
