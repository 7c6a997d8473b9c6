"""Registers networks in MLflow's model registry, with ONNX files."""

import itertools
import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from loupe.cli.signals import defer_signals
from loupe.config.fields import format_value
from loupe.evaluation.scoring import format_count
from loupe.tracking import models
from loupe.upscalers.baselines import get_references


def export_onnx(model: Any, reference: models.ModelReference, file: Path) -> tuple[Path, float]:
    """Export a Keras model to an ONNX file, and add the file to the artifacts of the logged model.

    Returns:
        The file, and the largest difference between the results of Keras and ONNX for a noise image.

    Raises:
        LoupeError: the difference is too large; see `export`.
    """
    from loupe.models.builder import KerasUpscaler
    from loupe.models.onnx_export import export

    difference = export(model, KerasUpscaler(model).geometry, file)
    with TemporaryDirectory() as folder, defer_signals():
        named = shutil.copyfile(file, Path(folder) / Path(models.ONNX_FILE).name)
        mlflow.MlflowClient().log_model_artifact(reference.model_id, str(named), str(Path(models.ONNX_FILE).parent))
    return file, difference


def describe_scores(file: Path | None, scale: Fraction) -> str:
    """Describe the test scores of a model and of the baselines.

    `file` is a JSON file with the result of `scoring.summarise`, or None.

    Returns:
        A text with the scores; `unknown.` if `file` is None, or if another client of MLflow has changed the file.
    """
    if file is None:
        return "unknown."
    try:
        return _format_summary(json.loads(file.read_bytes()), scale)
    except (ValueError, LookupError, TypeError, RecursionError):
        return "unknown."


def _format_summary(summary: Any, scale: Fraction) -> str:
    note = "with 95 % intervals" if summary["model"]["interval"]["mae"] else "too few for intervals"
    texts = [f"mae, and psnr in dB, as means of {format_count(summary['model']['photos'])}, {note}"]
    methods, forms = dict.fromkeys(("model", *get_references(scale))), {"mae": ".4f", "psnr": ".2f"}
    for method, (name, form) in itertools.product(methods, forms.items()):
        interval = summary[method]["interval"][name]
        ends = f" ({interval[0]:{form}} to {interval[1]:{form}})" if interval else ""
        texts.append(f"{method} {name} {summary[method][name]:{form}}{ends}")
    return "; ".join(texts) + "."


@defer_signals()
def register_model(reference: models.ModelReference, scale: Fraction, description: str, tags: dict[str, str]) -> Any:
    """Register a logged model as a version of the registered model of its scale factor, and return the version.

    If the logged model is already registered, only the description and tags of its version are updated.
    """
    client, name = mlflow.MlflowClient(), models.REGISTERED_NAMES[scale]
    task = "Restores grey photos" if scale == 1 else f"Upscales grey photos by {format_value(scale)}"
    create_registered_model(name, f"{task}. The description of a version states its input and its test scores.")

    def find() -> list[Any]:
        versions = client.search_model_versions(f"name = '{name}'")
        return [version for version in versions if str(reference.model_id) in version.source]

    version = create_version_once(
        find,
        lambda: client.create_model_version(name, reference.uri, reference.run_id, model_id=reference.model_id),
    )
    client.update_model_version(name, version.version, description)
    tag_version(version, tags)
    return version


def tag_version(version: Any, tags: dict[str, str]) -> None:
    """Set tags of a model version."""
    for key, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(version.name, version.version, key, value)


def create_registered_model(name: str, description: str) -> None:
    """Create a registered model if it does not exist."""
    try:
        mlflow.MlflowClient().create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def create_version_once(search: Callable[[], Any], create: Callable[[], Any]) -> Any:
    """Create a model version if `search` finds none, and return the oldest version.

    Concurrent calls can create several versions. Each call deletes its own version unless that is the oldest.
    """

    def find() -> list[Any]:
        return sorted(search(), key=lambda version: int(version.version))

    if found := find():
        return found[0]
    own, oldest = create(), find()[0]
    if int(own.version) != int(oldest.version):
        mlflow.MlflowClient().delete_model_version(own.name, own.version)
    return oldest
