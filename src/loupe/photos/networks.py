"""Loads the networks for photos on first use, one per scale factor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from loupe.upscalers import bundled
from loupe.upscalers.onnx import OnnxUpscaler
from loupe.upscalers.tiling import SelfEnsemble, UpscalingModel

LAYER_BYTES = 32_000_000  # of the layers of a network up to the size of `base`, per thread
LARGE_LAYER_BYTES = 52_000_000


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model.

    Args:
        name: the name that messages show.
        model: the upscaling model.
        run_id: the MLflow run that trained the model; None if unknown.
        layer_bytes: the memory that the layers take at most while a thread upscales a strip of a photo.
    """

    name: str
    model: UpscalingModel
    run_id: str | None = None
    layer_bytes: int = LAYER_BYTES


class Networks:
    """Maps scale factors to networks and loads each on first use.

    Args:
        scales: the scale factors that have a network.
        load: loads the network of a scale factor.
        ensemble: use the self-ensemble (mean over 8 flips and rotations) of each network.
    """

    def __init__(
        self, scales: Sequence[Fraction], load: Callable[[Fraction], LoadedModel], ensemble: bool = False
    ) -> None:
        self.scales = sorted(scales)
        self._load, self._ensemble = load, ensemble
        self._loaded: dict[Fraction, LoadedModel] = {}
        self._used: dict[Fraction, str] = {}

    def __call__(self, scale: Fraction) -> UpscalingModel:
        """Return the network of a scale factor and count it as used.

        Raises:
            UsageError: the network cannot be loaded.
        """
        loaded = self.get(scale)
        self._used[scale] = loaded.name
        return loaded.model

    def get(self, scale: Fraction) -> LoadedModel:
        """Return the network of a scale factor without counting it as used; raises UsageError in the same cases."""
        if scale not in self._loaded:
            loaded = self._load(scale)
            self._loaded[scale] = replace(loaded, model=SelfEnsemble(loaded.model)) if self._ensemble else loaded
        return self._loaded[scale]

    def check(self) -> None:
        """Load the network of the smallest scale factor, so that an unusable model fails before any photo is read."""
        self.get(self.scales[0])

    @property
    def used_names(self) -> str:
        """The names of the networks used so far, comma-separated; "" if none was used, as at the scale factor 1."""
        return ", ".join(dict.fromkeys(self._used.values()))


def get_bundled_networks(size: str = bundled.DEFAULT_SIZE, ensemble: bool = False, threads: int = 1) -> Networks:
    """Return the networks of a size that ship with the package.

    Args:
        size: one of BUNDLED_SIZES.
        ensemble: as in `Networks`.
        threads: as in `OnnxUpscaler`.
    """
    return Networks(bundled.list_scales(size), lambda scale: load_bundled(size, scale, threads), ensemble)


def load_bundled(size: str, scale: Fraction, threads: int = 1) -> LoadedModel:
    """Load a network that ships with the package; raises UsageError if no such network exists."""
    model = OnnxUpscaler(bundled.find_file(size, scale), threads)
    layer_bytes = LARGE_LAYER_BYTES if size == "large" else LAYER_BYTES
    name = f"the bundled network {size} of {scale.numerator}:{scale.denominator}"
    return LoadedModel(name, model, layer_bytes=layer_bytes)


def wrap_model(loaded: LoadedModel, ensemble: bool = False) -> Networks:
    """Return `Networks` with one model, for its own scale factor."""
    return Networks([loaded.model.geometry.scale], lambda _: loaded, ensemble)
