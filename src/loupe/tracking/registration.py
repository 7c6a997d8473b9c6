"""Compares a model with the champion and registers it in MLflow's model registry."""

import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlflow

import loupe
from loupe.config.fields import CHAMPION, format_value
from loupe.data.dataset import Pairs
from loupe.errors import UsageError
from loupe.evaluation import scoring
from loupe.models.builder import KerasUpscaler
from loupe.tracking import logged_models, models
from loupe.upscalers import bundled
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.tiling import UpscalingModel

MIN_PHOTOS = 30  # a bootstrap interval over fewer photos is unreliable


@dataclass(frozen=True)
class GateResult:
    """The comparison of a new model (the challenger) with the champion (the defender).

    Both are scored on the validation photos of the challenger. Without a champion, nearest is the defender.

    Args:
        mae: the mean absolute error of the challenger.
        defender: the name of the defender.
        defender_mae: the mean absolute error of the defender.
        difference: the mean of the challenger's mae minus the defender's over all images.
        interval: the 95 % bootstrap interval of the difference; None for fewer than MIN_PHOTOS photos.
        photos: the number of photos.
    """

    mae: float
    defender: str
    defender_mae: float
    difference: float
    interval: tuple[float, float] | None
    photos: int

    @property
    def won(self) -> bool:
        """Whether the whole interval is below 0, or, without an interval, the difference."""
        return (self.interval[1] if self.interval else self.difference) < 0

    @property
    def reason(self) -> str:
        """The comparison in one sentence."""
        text = (
            f"mae {self.mae:.5f} against {self.defender_mae:.5f} of {self.defender} on {self.photos} validation "
            f"photo{'' if self.photos == 1 else 's'}, difference {self.difference:+.5f}"
        )
        return text + (f", 95 % interval {self.interval[0]:+.5f} to {self.interval[1]:+.5f}" if self.interval else "")

    @property
    def tags(self) -> dict[str, str]:
        """The comparison as tags of a run or model version."""
        return {
            "mae": f"{self.mae:.6f}",
            "defender": self.defender,
            "defender_mae": f"{self.defender_mae:.6f}",
            "gate": "interval" if self.interval else "weak",
            "why": self.reason,
        }

    @property
    def metrics(self) -> dict[str, float]:
        """The comparison as metrics of a run."""
        return {
            "gate/mae": self.mae,
            "gate/defender_mae": self.defender_mae,
            "gate/difference": self.difference,
        }


def compare_with_champion(challenger: UpscalingModel, champion: Any, pairs: Pairs) -> GateResult:
    """Score a challenger and the champion, or nearest if there is none, on the same images.

    Args:
        challenger: the upscaler of the new model.
        champion: the model version of the champion, or None.
        pairs: the validation split of the challenger's dataset.
    """
    defender: UpscalingModel
    if champion is None:
        name, defender = "nearest", FilterUpscaler("nearest", challenger.geometry.scale)
    else:
        name, uri = f"{champion.name} version {champion.version}", f"models:/{champion.name}/{champion.version}"
        defender = KerasUpscaler(models.load_keras(models.ModelReference(name, uri)))
    table = scoring.score({"challenger": challenger, "defender": defender}, pairs, names=("mae",))
    difference, photos = scoring.compute_mae_differences(table, "challenger", "defender")
    low, high = scoring.bootstrap_intervals(difference[:, None], photos)[0].tolist()
    maes, count = table.groupby("method")["mae"].mean(), len(set(photos))
    interval = (low, high) if count >= MIN_PHOTOS else None
    return GateResult(maes["challenger"], name, maes["defender"], float(difference.mean()), interval, count)


def log_onnx(file: Path, run_id: str) -> str:
    """Log an ONNX file to the run that trained its network; returns the artifact's URI."""
    mlflow.MlflowClient().log_artifact(run_id, str(file), str(Path(models.ONNX_FILE).parent))
    return f"runs:/{run_id}/{models.ONNX_FILE}"


def register_model(run_id: str, scale: Fraction, description: str, tags: dict[str, str]) -> Any:
    """Register the model of a run as a version of the registered model of its scale factor.

    A run has at most one version: a second call updates the description and tags.

    Returns:
        The model version.

    Raises:
        UsageError: the run has no model.
    """
    client, name = mlflow.MlflowClient(), models.REGISTERED_NAMES[scale]
    _create_registered_model(
        name, f"Upscales grey images, (n, height, width, 1) in [-1, 1], by {format_value(scale)}. Trained by Loupe."
    )
    versions = [found for found in client.search_model_versions(f"name = '{name}'") if found.run_id == run_id]
    if not versions:
        model = logged_models.find_model(run_id)
        if model is None:
            raise UsageError(f"run: must be a run with a model, got {run_id}")
        versions = [client.create_model_version(name, model.artifact_location, run_id, model_id=model.model_id)]
    client.update_model_version(name, versions[0].version, description)
    for key, value in tags.items():
        client.set_model_version_tag(name, versions[0].version, key, value)
    return versions[0]


def set_champion(scale: Fraction, version: str) -> None:
    """Make a version the champion of its scale factor."""
    mlflow.MlflowClient().set_registered_model_alias(models.REGISTERED_NAMES[scale], CHAMPION, version)


def register_photo_model(scale: Fraction, onnx: Path, name: str) -> str:
    """Register a version of `loupe-photo` with a new network for one scale factor, and make it the champion.

    The other scale factors keep the networks of their champions, or get the bundled networks.

    Args:
        scale: the scale factor of the new network.
        onnx: the new network; networks of other champions are downloaded to its folder.
        name: the name of the new network.

    Returns:
        The URI of the version.
    """
    files, names = {scale: onnx}, [name]
    for other in sorted(models.REGISTERED_NAMES.keys() - {scale}):
        version, file = models.get_champion(other), None
        if version:
            folder = onnx.parent / models.REGISTERED_NAMES[other]
            file = models.download_artifact(version.run_id, models.ONNX_FILE, str(folder))
        files[other] = file or bundled.find_file(bundled.DEFAULT_SIZE, other)
        names.append(
            f"{version.name} version {version.version}" if file else f"the bundled network of {format_value(other)}"
        )
    model_uri = _log_photo_model(files)
    _create_registered_model(models.PHOTO_MODEL, "Upscales photos: takes and returns image files in base64.")
    client, run_id = mlflow.MlflowClient(), mlflow.active_run().info.run_id
    created = client.create_model_version(
        models.PHOTO_MODEL, model_uri, run_id, description=f"Upscales photos with {', '.join(names)}."
    )
    client.set_registered_model_alias(models.PHOTO_MODEL, CHAMPION, created.version)
    return f"models:/{models.PHOTO_MODEL}/{created.version}"


def _log_photo_model(onnx: dict[Fraction, Path]) -> str:
    """Log a model that upscales photos to the open run; returns its URI.

    Args:
        onnx: the ONNX file of each scale factor.
    """
    from importlib.metadata import version

    with warnings.catch_warnings():
        # MLflow recommends type hints and examples, although a signature replaces them. It also resets the filters.
        warnings.showwarning = lambda *_, **__: None
        from loupe.tracking import photo_model

        logged = mlflow.pyfunc.log_model(
            name="photo",
            python_model=photo_model.__file__,
            code_paths=[str(Path(loupe.__file__).parent)],
            artifacts={f"{scale.numerator}x{scale.denominator}": str(file) for scale, file in onnx.items()},
            signature=_signature_of_photo_model(),
            pip_requirements=[f"{name}=={version(name)}" for name in ("onnxruntime", "numpy", "pillow")],
            metadata={"largest_file": photo_model.MAX_FILE_BYTES, "largest_result": photo_model.MAX_RESULT_PIXELS},
        )
    return str(logged.model_uri)


def _signature_of_photo_model() -> Any:
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return mlflow.models.ModelSignature(
        Schema([ColSpec("string", "photo")]),
        Schema([ColSpec("string")]),
        ParamSchema([ParamSpec("scale", "double", 1.5), ParamSpec("format", "string", "same")]),
    )


def _create_registered_model(name: str, description: str) -> None:
    client = mlflow.MlflowClient()
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description=description)
