"""Loads the networks for photos on first use, one per scale factor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from loupe.cli.progress import print_error_once
from loupe.imaging.jpeg_quality import compute_strength
from loupe.upscalers import bundled
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.onnx import CPU, OnnxUpscaler
from loupe.upscalers.overshoot import LimitedOvershoot
from loupe.upscalers.tiling import ArtefactSwitch, SelfEnsemble, UpscalingModel

LAYER_BYTES = 32_000_000  # memory per thread for the layers of a network, except `large`
LARGE_LAYER_BYTES = 52_000_000  # memory per thread for the layers of `large`
# `base` replaces `large`, which was trained without artefacts, for photos with a lower JPEG quality. On the photos in
# the credits, `large` is better than `base` by 0.02 dB at this quality, and worse by 0.07 dB at 94.
LARGE_MIN_QUALITY = 95


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model.

    Args:
        name: the name in messages.
        model: the upscaling model.
        run_id: the MLflow run that trained the model, or None.
        model_id: the logged model of MLflow, or None.
        evidence: for a champion, the comparison with the previous champion, in one sentence.
        device: the device that runs the network, set by `Networks`; "" if it is not an ONNX network.
        layer_bytes: maximum bytes for the layers, per thread.
        is_filter: whether the model is a classical filter; set by `Networks`.
    """

    name: str
    model: UpscalingModel
    run_id: str | None = None
    model_id: str | None = None
    evidence: str = ""
    device: str = ""
    layer_bytes: int = LAYER_BYTES
    is_filter: bool = False


class Networks:
    """Maps scale factors to networks, and loads a network on first use.

    Args:
        scales: the scale factors that have a network.
        load: loads the network of a scale factor.
        ensemble: use the self-ensemble (mean over 8 flips and rotations).
        device: the device that `load` requests for ONNX networks.
    """

    def __init__(
        self,
        scales: Sequence[Fraction],
        load: Callable[[Fraction], LoadedModel],
        ensemble: bool = False,
        device: str = "auto",
    ) -> None:
        self.scales = sorted(scales)
        # Called with the reason, in one line, if a network does not run on the requested device
        self.report_fallback: Callable[[str], None] = print_error_once
        self._load, self._ensemble, self._device = load, ensemble, device
        self._loaded: dict[Fraction, LoadedModel] = {}
        self._used: dict[Fraction, LoadedModel] = {}

    def __call__(self, scale: Fraction) -> UpscalingModel:
        """Return the network of a scale factor, and record it as used; raise LoupeError if it cannot be loaded.

        The overshoot of networks that upscale is limited.
        """
        self._used[scale] = loaded = self.get(scale)
        return loaded.model if loaded.is_filter or scale == 1 else LimitedOvershoot(loaded.model)

    def get(self, scale: Fraction) -> LoadedModel:
        """Return a network without recording it as used; raise LoupeError if it cannot be loaded."""
        if scale not in self._loaded:
            self._loaded[scale] = self._prepare(self._load(scale))
        return self._loaded[scale]

    def check(self) -> str:
        """Load the network of the smallest scale factor, to find an unusable model early, and return its device."""
        return self.get(self.scales[0]).device

    @property
    def used_names(self) -> str:
        """The names of the used networks, comma-separated, or ""."""
        return ", ".join(dict.fromkeys(self._used[scale].name for scale in sorted(self._used)))

    @property
    def used_evidence(self) -> list[str]:
        """For each used champion, its name and the comparison with the previous champion."""
        used = (self._used[scale] for scale in sorted(self._used))
        return [f"{loaded.name}: {loaded.evidence}" for loaded in used if loaded.evidence]

    @property
    def devices(self) -> str:
        """The devices of the used ONNX networks, comma-separated, or ""."""
        return ", ".join(dict.fromkeys(loaded.device for loaded in self._used.values() if loaded.device))

    def _prepare(self, loaded: LoadedModel) -> LoadedModel:
        """Set `device` and `is_filter`, and add a device other than the CPU to the name.

        Apply the self-ensemble if requested. Call `report_fallback` if the requested device does not run the network.
        """
        device = getattr(loaded.model, "device", "")
        fallback = getattr(loaded.model, "fallback", "")
        if not device and self._device not in ("auto", CPU):
            fallback = f"device: {self._device} runs only ONNX networks, not {loaded.name}"
        if fallback:
            self.report_fallback(fallback)
        name = f"{loaded.name} on {device}" if device not in ("", CPU) else loaded.name
        is_filter = isinstance(loaded.model, FilterUpscaler)
        model = SelfEnsemble(loaded.model) if self._ensemble else loaded.model
        return replace(loaded, name=name, model=model, device=device, is_filter=is_filter)


def load_bundled(size: str, scale: Fraction, threads: int = 1, device: str = CPU) -> LoadedModel:
    """Load a bundled network; raise UsageError if it does not exist, or if onnxruntime cannot run it."""
    name = f"the bundled network {size} of {scale.numerator}:{scale.denominator}"
    model: UpscalingModel = OnnxUpscaler(bundled.find_file(size, scale), threads, device)
    if size == "large":
        base = OnnxUpscaler(bundled.find_file("base", scale), threads, device)
        # 0.5, because the strengths of images are rounded to float32
        model = ArtefactSwitch(model, base, compute_strength(LARGE_MIN_QUALITY - 0.5))
        name += f" (base below JPEG quality {LARGE_MIN_QUALITY})"
    layer_bytes = LARGE_LAYER_BYTES if size == "large" else LAYER_BYTES
    return LoadedModel(name, model, layer_bytes=layer_bytes)
