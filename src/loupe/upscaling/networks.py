"""The networks that a photo may go through, one a scale, loaded when they are first needed."""

from collections.abc import Callable
from fractions import Fraction

from loupe import networks
from loupe.enlarging import Enlarger, Ensemble
from loupe.errors import UsageError
from loupe.upscaling.onnx import OnnxEnlarger

SCALES = networks.scales(networks.FALLBACK)
BUNDLED = "bundled"  # the size that ships for every scale


class Networks:
    """Scale to network.

    Args:
        scales: that there are.
        load: gives a scale's network, and what to call it.
        ensemble: take the mean over eight turns and flips of each.
    """

    def __init__(
        self, scales: list[Fraction], load: Callable[[Fraction], tuple[str, Enlarger]], ensemble: bool = False
    ) -> None:
        self.scales = scales
        self.names: dict[Fraction, str] = {}  # of those that were used
        self._load, self._ensemble = load, ensemble
        self._loaded: dict[Fraction, tuple[str, Enlarger]] = {}

    def __call__(self, scale: Fraction) -> Enlarger:
        """The network of a scale; raises UsageError where it cannot be loaded."""
        self.names[scale], model = self._of(scale)
        return model

    def try_one(self) -> None:
        """Load the smallest scale's network, so that what is wrong is told once, and before anything is read."""
        self._of(min(self.scales))

    def _of(self, scale: Fraction) -> tuple[str, Enlarger]:
        if scale not in self._loaded:
            name, model = self._load(scale)
            self._loaded[scale] = name, Ensemble(model) if self._ensemble else model
        return self._loaded[scale]

    @property
    def shown(self) -> str:
        """The names of those that were used."""
        return ", ".join(dict.fromkeys(self.names.values())) or "no network"


def bundled(size: str = BUNDLED, ensemble: bool = False) -> Networks:
    """The networks that ship with the package.

    Args:
        size: one of `loupe.networks.SIZES`, or BUNDLED.
        ensemble: as Networks.

    Raises:
        UsageError: there is no such size.
    """
    size = networks.FALLBACK if size == BUNDLED else size
    scales = networks.scales(size)
    if not scales:
        raise UsageError(f"model: must be one of {', '.join((BUNDLED, *networks.SIZES))}, got {size!r}")
    return Networks(scales, lambda scale: of_package(size, scale), ensemble)


def of_package(size: str, scale: Fraction) -> tuple[str, Enlarger]:
    """A network that ships with the package, and what to call it; raises UsageError where it does not."""
    return f"the bundled network {size} of {scale.numerator}:{scale.denominator}", OnnxEnlarger(
        networks.file(size, scale)
    )


def alone(name: str, model: Enlarger, ensemble: bool = False) -> Networks:
    """One network, for its own scale."""
    return Networks([model.geometry.scale], lambda _: (name, model), ensemble)
