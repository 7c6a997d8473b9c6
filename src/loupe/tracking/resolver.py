"""Resolves the name of a model, in the same way for every step.

MLflow and Keras are imported only for names that need them, so that `loupe upscale` works without both.
"""

import importlib.util
import os
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.errors import UsageError
from loupe.photos.networks import LoadedModel, Networks, get_bundled_networks, load_bundled, wrap_model
from loupe.upscalers import bundled
from loupe.upscalers.baselines import FILTERS, FilterUpscaler
from loupe.upscalers.onnx import OnnxUpscaler

if TYPE_CHECKING:
    from loupe.tracking.models import ModelReference

BUNDLED, CHAMPION, RIDGE = "bundled", "champion", "ridge"
NAMES = (CHAMPION, BUNDLED, *bundled.SIZES, *FILTERS, RIDGE)
SCALES = bundled.list_scales(bundled.DEFAULT_SIZE)
REGISTRY_SCHEMES = ("models:/", "runs:/")


@dataclass(frozen=True)
class ResolveOptions:
    """How models are loaded.

    Args:
        ensemble: use the self-ensemble of each network.
        keras: load models of MLflow with Keras; False loads the ONNX file next to them if there is one.
        threads: threads per image of an ONNX network; 0 is one per core.
        data_dir: folder of the prepared sample dataset, on which the model `ridge` is fitted.
    """

    ensemble: bool = False
    keras: bool = False
    threads: int = 1
    data_dir: str = "data"


def resolve_model(name: str, options: ResolveOptions = ResolveOptions()) -> Networks:
    """Resolve a model's name to its networks.

    Args:
        name: `champion`, `bundled`, a bundled size (tiny, small, base), a baseline (nearest, bilinear, bicubic,
            lanczos, ridge), a registry or run URI of MLflow, or a `.keras` or `.onnx` file. The champion is looked
            up if MLFLOW_TRACKING_URI is set or `mlflow.db` is in the current folder. Scale factors without a
            champion get the bundled network.
        options: how models are loaded.

    Returns:
        The networks; a file or URI has one scale factor.

    Raises:
        UsageError: no such model.
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
    if name.startswith(REGISTRY_SCHEMES):
        return wrap_model(_load_from_mlflow(name, options), options.ensemble)
    return wrap_model(_load_file(name, options), options.ensemble)


def has_store() -> bool:
    """Whether a store of MLflow exists; opening one would create it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = Path(uri.removeprefix("sqlite:///"))
    return not uri.startswith("sqlite:///") or (file.is_file() and file.stat().st_size > 0)


def _load_champion(scale: Fraction, options: ResolveOptions) -> LoadedModel:
    if has_store() and importlib.util.find_spec("mlflow") is not None:
        from loupe.tracking import models

        found = models.find_model(CHAMPION, scale)
        if found is not None:
            return _load_found(found, options)
    loaded = load_bundled(bundled.DEFAULT_SIZE, scale, options.threads)
    return LoadedModel(f"{loaded.name} (no champion)", loaded.model)


def _load_ridge(scale: Fraction, data_dir: str) -> LoadedModel:
    from loupe.data.preparation import open_sample
    from loupe.upscalers import ridge

    weights = ridge.load_or_fit(open_sample(data_dir), scale)
    return LoadedModel(RIDGE, ridge.RidgeUpscaler(weights, scale, "rec601"))


def _load_from_mlflow(name: str, options: ResolveOptions) -> LoadedModel:
    if not has_store():
        raise UsageError(f"model: {name} needs MLFLOW_TRACKING_URI, or mlflow.db in the current folder")
    from loupe.tracking import models

    found = models.find_model(name, SCALES[0])
    assert found is not None  # None means "no champion"
    return _load_found(found, options)


def _load_file(name: str, options: ResolveOptions) -> LoadedModel:
    file = Path(name)
    if file.suffix not in (".keras", ".onnx") or not file.is_file():
        raise UsageError(
            f"model: must be {', '.join(NAMES)}, a registry or run URI, or a .keras or .onnx file that exists, "
            f"got {name!r}"
        )
    if file.suffix == ".onnx":
        return LoadedModel(name, OnnxUpscaler(file, options.threads))
    from loupe.tracking import models

    return _load_found(models.ModelReference(name, name), options)


def _load_found(found: "ModelReference", options: ResolveOptions) -> LoadedModel:
    from loupe.tracking import models

    if not options.keras:
        with tempfile.TemporaryDirectory() as folder:
            file = models.download_artifact(found.run_id, models.ONNX_FILE, folder)
            if file is not None:
                return LoadedModel(found.shown, OnnxUpscaler(file, options.threads), found.run_id)
    from loupe.models.builder import KerasUpscaler

    return LoadedModel(found.shown, KerasUpscaler(models.load_keras(found)), found.run_id)
