"""Finds the networks of a model name; imports MLflow and Keras only if necessary."""

import importlib.util
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.cli.progress import print_error
from loupe.config.fields import BUNDLED_SIZES, CHAMPION, URI_SCHEMES
from loupe.config.photos import MODELS, RESTORE_MODELS
from loupe.errors import LoupeError, UsageError
from loupe.photos.networks import LoadedModel, Networks, load_bundled
from loupe.tracking.locations import get_sqlite_file
from loupe.upscalers import bundled
from loupe.upscalers.baselines import FILTERS, FilterUpscaler
from loupe.upscalers.isolated import IsolatedOnnxUpscaler
from loupe.upscalers.tiling import UpscalingModel

if TYPE_CHECKING:
    from loupe.tracking.models import ModelReference

BUNDLED, RIDGE = "bundled", "ridge"
SCALES = [scale for scale in bundled.list_scales(bundled.DEFAULT_SIZE) if scale > 1]
LOOKUP_TIMEOUT_S = 5.0  # maximum time to find and download a model of MLflow
FILE_LOOKUP_TIMEOUT_S = 30.0  # the same for an SQLite file, which MLflow opens slowly


class StoreError(LoupeError):
    """The store cannot be used."""


@dataclass(frozen=True)
class ResolveOptions:
    """Options for loading models.

    Args:
        ensemble: use the self-ensemble.
        keras: load models of MLflow with Keras; False prefers their ONNX files.
        threads: number of threads that an ONNX network uses for one image; 0: one per core.
        data_dir: folder or URL of the prepared datasets; `ridge` is fitted on the dataset `sample` in it.
        device: the device of ONNX networks; see `OnnxUpscaler`.
        restore: True selects the scale factor 1:1, False all other scale factors, None all scale factors.
    """

    ensemble: bool = False
    keras: bool = False
    threads: int = 1
    data_dir: str = "data"
    device: str = "auto"
    restore: bool | None = False


def resolve_model(name: str, options: ResolveOptions = ResolveOptions()) -> Networks:
    """Return the networks of a model name.

    Args:
        name: one of MODELS. Bundled networks replace missing and unusable champions.
        options: the options for loading the model.

    Returns:
        One network per scale factor. Except for files and MLflow URIs, they are loaded on first use.

    Raises:
        UsageError: the model does not exist, cannot be loaded, or has none of the selected scale factors.
        StoreError: the store of an MLflow URI cannot be used.
        LoupeError: the disk or the memory fails when a Keras model is loaded.
    """
    networks = _find_networks(name, options)
    if options.restore is not None:
        networks.scales = [scale for scale in networks.scales if (scale == 1) == options.restore]
    if not networks.scales:
        rule = "the scale factor 1:1" if options.restore else "a scale factor above 1:1"
        raise UsageError(f"model: must have {rule}, got {name!r}")
    return networks


def _find_networks(name: str, options: ResolveOptions) -> Networks:
    make_networks = partial(Networks, ensemble=options.ensemble, device=options.device)
    if name in (BUNDLED, *BUNDLED_SIZES):
        size = bundled.DEFAULT_SIZE if name == BUNDLED else name
        load_network = partial(load_bundled, size, threads=options.threads, device=options.device)
        return make_networks(bundled.list_scales(size), load_network)
    if name == CHAMPION:
        return make_networks([Fraction(1), *SCALES], ChampionLoader(options).load)
    if name in FILTERS:
        return make_networks(SCALES, lambda scale: LoadedModel(name, FilterUpscaler(name, scale)))
    if name == RIDGE:
        return make_networks(SCALES, lambda scale: _load_ridge(scale, options.data_dir))
    loaded = (_load_from_mlflow if name.startswith(URI_SCHEMES) else _load_file)(name, options)
    return make_networks([loaded.model.geometry.scale], lambda _: loaded)


def has_store() -> bool:
    """Return False if the store is an SQLite file that is missing or empty. Other stores are not checked.

    MLflow is not used, because it would create a missing file.
    """
    file = get_sqlite_file(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    return file is None or (file.exists() and not (file.is_file() and file.stat().st_size == 0))


class ChampionLoader:
    """Loads the champion of a scale factor. Without a usable champion, it loads the bundled network.

    If the store cannot be used, the loader prints one line, and does not use the store again.
    """

    def __init__(self, options: ResolveOptions) -> None:
        self._options = options
        self._reason = "no champion"
        self._is_usable = has_store()
        if self._is_usable and importlib.util.find_spec("mlflow") is None:
            self._reason, self._is_usable = "mlflow is not installed", False

    def load(self, scale: Fraction) -> LoadedModel:
        """Load the network of a scale factor."""
        reason = None
        if self._is_usable:
            from loupe.tracking import models

            try:
                loaded = _load_from_store(lambda: models.find_champion(scale), self._options)
                if loaded is not None:
                    return loaded
            except StoreError as error:
                print_error(f"{error}; the bundled networks are used")
                self._reason, self._is_usable = "the store cannot be used", False
            except (LoupeError, ModuleNotFoundError) as error:
                print_error(f"{error}; the bundled network is used")
                reason = "the champion cannot be used"
        loaded = load_bundled(bundled.DEFAULT_SIZE, scale, self._options.threads, self._options.device)
        return replace(loaded, name=f"{loaded.name} ({reason or self._reason})")


def _load_ridge(scale: Fraction, data_dir: str) -> LoadedModel:
    from loupe.data.preparation import open_sample
    from loupe.upscalers import ridge

    weights = ridge.load_or_fit(open_sample(data_dir, scale), scale)
    return LoadedModel(RIDGE, ridge.RidgeUpscaler(weights, scale, "rec601"))


def _load_from_mlflow(uri: str, options: ResolveOptions) -> LoadedModel:
    if not has_store():
        raise UsageError(f"model: {uri} needs an MLflow store that exists: MLFLOW_TRACKING_URI, or ./mlflow.db")
    from loupe.tracking import models

    loaded = _load_from_store(lambda: models.find_model(uri), options)
    assert loaded is not None
    return loaded


def _load_file(name: str, options: ResolveOptions) -> LoadedModel:
    file = Path(name)
    if file.suffix not in (".keras", ".onnx") or not os.path.isfile(file):
        names = RESTORE_MODELS if options.restore else MODELS
        raise UsageError(f"model: must be {names} that exists, got {name!r}")
    if file.suffix == ".onnx":
        return LoadedModel(name, IsolatedOnnxUpscaler(file, options.threads, options.device))
    from loupe.tracking import models

    return _load_keras(models.find_model(name))


def _load_from_store(find: Callable[[], "ModelReference | None"], options: ResolveOptions) -> LoadedModel | None:
    """Find a model, download its file, and load it; return None if `find` returns None.

    Raises:
        StoreError: the store failed or took too long.
        UsageError: the model does not exist or cannot be loaded.
    """
    from loupe.tracking import models, server, store
    from loupe.tracking.deadline import call_within

    def download() -> "tuple[ModelReference, Path] | None":
        store.check_store(LOOKUP_TIMEOUT_S, writes=False)
        reference = find()
        if reference is None:
            return None
        file = None if options.keras else models.download_onnx(reference, folder)
        return reference, file or models.download_keras_file(reference, folder)

    # A download that took too long continues in its thread. It may write to the folder while the folder is removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            seconds = FILE_LOOKUP_TIMEOUT_S if store.is_file() else LOOKUP_TIMEOUT_S
            with server.limit_requests(LOOKUP_TIMEOUT_S):
                download_result = call_within(seconds, download)
        except UsageError as error:
            if str(error).startswith("model:"):
                raise
            raise StoreError(str(error)) from None
        except LoupeError as error:
            raise StoreError(str(error)) from None
        except Exception as error:  # a damaged store, or a server that is not MLflow's, can cause any error
            is_unreachable = server.is_server() and server.is_unreachable_error(error)
            raise StoreError(
                server.describe_unreachable_server() if is_unreachable else store.describe_failure(error)
            ) from None
        if download_result is None:
            return None
        reference, file = download_result
        if file.suffix == ".onnx":
            return _make_loaded_model(reference, IsolatedOnnxUpscaler(file, options.threads, options.device))
        return _load_keras(replace(reference, uri=str(file)))


def _load_keras(reference: "ModelReference") -> LoadedModel:
    from loupe.config.training import validate_backend

    validate_backend()
    from loupe.models.builder import KerasUpscaler
    from loupe.tracking import models

    return _make_loaded_model(reference, KerasUpscaler(models.load_keras(reference)))


def _make_loaded_model(reference: "ModelReference", model: UpscalingModel) -> LoadedModel:
    return LoadedModel(reference.name, model, reference.run_id, reference.model_id, reference.evidence)
