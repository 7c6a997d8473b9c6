"""ONNX networks as upscaling models."""

import io
import threading
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from loupe.errors import UsageError, describe_error
from loupe.upscalers.geometry import Geometry

CPU = "cpu"
# onnxruntime's providers and their options. TF32 would change pixels. Without HEURISTIC, CUDA would measure the speed
# of all convolution algorithms for each tile size.
PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    CPU: ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
    "coreml": ("CoreMLExecutionProvider", {}),
    "directml": ("DmlExecutionProvider", {}),
}
FALLBACK = "device: {} cannot be used: {}; the CPU is used"
# `auto` does not choose Core ML, which may compute in float16.
AUTO_DEVICES = ("cuda", "directml")


class OnnxUpscaler:
    """An ONNX network as an upscaling model.

    Attributes:
        device: the device that runs the network.
        fallback: why the CPU replaces the requested device, in one line; "" if the CPU does not replace it.

    Args:
        file: ONNX file with the geometry in its metadata, from `models.onnx_export.export`.
        threads: onnxruntime's threads per image; 0: one per core. For several images, it is faster to call this
            object from several Python threads, with `threads=1`.
        device: a value of `config.fields.Device`. The CPU replaces a device that cannot be used.
        content: the content of the file; None reads the file.

    Raises:
        UsageError: the file is not an ONNX network, its metadata has no valid geometry, its input or result does not
            match the geometry, or onnxruntime is incomplete.
    """

    def __init__(self, file: Path, threads: int = 1, device: str = CPU, content: bytes | None = None) -> None:
        self.device, self.fallback = _choose_device(device)
        source = file if content is None else content
        try:
            self._load(file, source, threads)
        except UsageError as error:
            if self.device == CPU:
                raise
            # `error.__context__` is onnxruntime's own error, without the text that `_load` adds.
            reason = describe_error(error.__context__ or error)
            self.fallback = FALLBACK.format(self.device, reason)
            self.device = CPU
            self._load(file, source, threads)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`."""
        with self._lock:
            return np.asarray(self._session.run(None, dict.fromkeys(self._inputs, images))[0])

    def _load(self, file: Path, source: Path | bytes, threads: int) -> None:
        try:
            self._session = _create_session(source, threads, self.device)
        except Exception as error:
            raise UsageError(f"model: {str(file)!r} is not an ONNX network: {describe_error(error)}") from None
        # Only the CPU runs several calls at a time: DirectML refuses them, and the memory of a GPU is limited.
        self._lock: AbstractContextManager[Any] = nullcontext() if self.device == CPU else threading.Lock()
        self.geometry = Geometry.from_name(self._session.get_modelmeta().custom_metadata_map.get("loupe", str(file)))
        self._inputs = [part.name for part in self._session.get_inputs()]
        self._validate_result(file)

    def _validate_result(self, file: Path) -> None:
        side, scale = self.geometry.min_side, self.geometry.scale
        shape = (1, side, side, self.geometry.channels)
        try:
            result = self(np.zeros(shape, "float32"))
        except Exception as error:
            raise UsageError(f"model: {str(file)!r} must take float32 {shape}: {describe_error(error)}") from None
        expected = (1, int(side * scale), int(side * scale), 1)
        if result.shape != expected or result.dtype != np.float32:
            got = f"{result.dtype} {result.shape}"
            raise UsageError(f"model: {str(file)!r} must return float32 {expected} for float32 {shape}, got {got}")


def _choose_device(setting: str) -> tuple[str, str]:
    """Return the device to try, and the value of `OnnxUpscaler.fallback`.

    Raises:
        UsageError: onnxruntime is incomplete.
    """
    import onnxruntime

    try:
        available = onnxruntime.get_available_providers()
    except AttributeError:  # onnxruntime and onnxruntime-gpu share files, and one of them was uninstalled
        raise UsageError("onnxruntime: must be complete: install onnxruntime or onnxruntime-gpu again") from None
    if setting == "auto":
        return next((device for device in AUTO_DEVICES if PROVIDERS[device][0] in available), CPU), ""
    provider = PROVIDERS[setting][0]
    if provider in available:
        return setting, ""
    return CPU, FALLBACK.format(setting, f"the installed onnxruntime has no {provider}")


def _create_session(source: Path | bytes, threads: int, device: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # log only fatal errors
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # True would double the memory if the sizes of images differ
    # Threads that spin while they wait would take the cores that process the colour of the image.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device == CPU:
        return onnxruntime.InferenceSession(source, options, providers=[PROVIDERS[CPU][0]])
    onnxruntime.set_default_logger_severity(4)
    with redirect_stdout(io.StringIO()):  # hides hints of onnxruntime
        onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(
            source, options, providers=[PROVIDERS[device], PROVIDERS[CPU]], enable_fallback=0
        )
    if PROVIDERS[device][0] not in session.get_providers():
        raise RuntimeError("onnxruntime does not find the device or its libraries")
    return session
