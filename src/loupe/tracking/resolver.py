"""Finds the networks that a model name stands for, in the same way for every step.

MLflow and Keras are imported only for names that need them, so that `loupe upscale` works without them.
"""

import importlib.util
import os
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.config.fields import CHAMPION
from loupe.errors import UsageError
from loupe.photos.networks import LoadedModel, Networks, get_bundled_networks, load_bundled, wrap_model
from loupe.tracking.locations import get_sqlite_file
from loupe.upscalers import bundled
from loupe.upscalers.baselines import FILTERS, FilterUpscaler
from loupe.upscalers.isolated import IsolatedOnnxUpscaler

if TYPE_CHECKING:
    from loupe.tracking.models import ModelReference

BUNDLED, RIDGE = "bundled", "ridge"
NAMES = (CHAMPION, BUNDLED, *bundled.SIZES, *FILTERS, RIDGE)
SCALES = bundled.list_scales(bundled.DEFAULT_SIZE)
REGISTRY_SCHEMES = ("models:/", "runs:/")
MAX_RETRIES = 1  # of requests to the registry: with MLflow's default, a user waits minutes for an unreachable server


@dataclass(frozen=True)
class ResolveOptions:
    """Options for loading models.

    Args:
        ensemble: use the self-ensemble of each network.
        keras: load models of MLflow with Keras; False prefers the ONNX file of the same run.
        threads: the number of threads that an ONNX network uses per image; 0 means one per core.
        data_dir: folder of the prepared sample dataset, on which the model `ridge` is fitted.
    """

    ensemble: bool = False
    keras: bool = False
    threads: int = 1
    data_dir: str = "data"


def resolve_model(name: str, options: ResolveOptions = ResolveOptions()) -> Networks:
    """Return the networks that a model name stands for.

    Args:
        name: `champion`, `bundled`, a bundled size (tiny, small, base), a baseline (nearest, bilinear, bicubic,
            lanczos, ridge), a registry or run URI of MLflow, or a `.keras` or `.onnx` file. The champion is looked
            up if MLflow is installed and MLFLOW_TRACKING_URI is set or `mlflow.db` is in the current folder. Scale
            factors without a champion get the bundled network.
        options: the options for loading the model.

    Returns:
        The networks, one per scale factor; a file or URI has only one.

    Raises:
        UsageError: the model does not exist.
    """
    if name in (BUNDLED, *bundled.SIZES):
        size = bundled.DEFAULT_SIZE if name == BUNDLED else name
        return get_bundled_networks(size, options.ensemble, options.threads)
    if name == CHAMPION:
        return Networks(SCALES, lambda scale: _load_champion(scale, options), options.ensemble)
    if name in FILTERS:
        return Networks(SCALES, lambda scale: LoadedModel(name, FilterUpscaler(name, scale)), options.ensemble)
    if name == RIDGE:
        return Networks(SCALES, lambda scale: _load_ridge(scale, options.data_dir), options.ensemble)
    load = _load_from_mlflow if name.startswith(REGISTRY_SCHEMES) else _load_file
    return wrap_model(load(name, options), options.ensemble)


def has_store() -> bool:
    """Whether an MLflow store exists. Without this check, MLflow would create a missing store."""
    file = get_sqlite_file(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    return file is None or (file.is_file() and file.stat().st_size > 0)


def _load_champion(scale: Fraction, options: ResolveOptions) -> LoadedModel:
    reason = "no champion"
    if has_store() and importlib.util.find_spec("mlflow") is None:
        reason = "mlflow is not installed"
    elif has_store():
        from loupe.tracking import models, server

        with server.limit_retries(MAX_RETRIES):
            reference = models.find_champion(scale)
            if reference is not None:
                return _load_reference(reference, options)
    loaded = load_bundled(bundled.DEFAULT_SIZE, scale, options.threads)
    return LoadedModel(f"{loaded.name} ({reason})", loaded.model)


def _load_ridge(scale: Fraction, data_dir: str) -> LoadedModel:
    from loupe.data.preparation import open_sample
    from loupe.upscalers import ridge

    weights = ridge.load_or_fit(open_sample(data_dir), scale)
    return LoadedModel(RIDGE, ridge.RidgeUpscaler(weights, scale, "rec601"))


def _load_from_mlflow(uri: str, options: ResolveOptions) -> LoadedModel:
    if not has_store():
        raise UsageError(f"model: {uri} needs MLFLOW_TRACKING_URI, or mlflow.db in the current folder")
    from loupe.tracking import models, server

    with server.limit_retries(MAX_RETRIES):
        return _load_reference(models.find_model(uri), options)


def _load_file(name: str, options: ResolveOptions) -> LoadedModel:
    file = Path(name)
    if file.suffix not in (".keras", ".onnx") or not file.is_file():
        raise UsageError(
            f"model: must be {', '.join(NAMES)}, a registry or run URI, or a .keras or .onnx file that exists, "
            f"got {name!r}"
        )
    if file.suffix == ".onnx":
        return LoadedModel(name, IsolatedOnnxUpscaler(file, options.threads))
    from loupe.tracking import models

    return _load_reference(models.find_model(name), options)


def _load_reference(reference: "ModelReference", options: ResolveOptions) -> LoadedModel:
    from loupe.tracking import models

    if not options.keras:
        with tempfile.TemporaryDirectory() as folder:
            file = models.download_artifact(reference.run_id, models.ONNX_FILE, folder)
            if file is not None:
                return LoadedModel(reference.name, IsolatedOnnxUpscaler(file, options.threads), reference.run_id)
    from loupe.models.builder import KerasUpscaler

    return LoadedModel(reference.name, KerasUpscaler(models.load_keras(reference)), reference.run_id)
