"""ONNX networks as upscaling models."""

from pathlib import Path

import numpy as np

from loupe.errors import UsageError, describe_error
from loupe.upscalers.geometry import Geometry


class OnnxUpscaler:
    """An ONNX network as an upscaling model.

    Args:
        file: ONNX file with the geometry in its metadata, as `models.onnx_export.export` writes it.
        threads: number of threads per image; 0 means one per core. For several images it is faster to use one thread
            per image and to call the model from several Python threads.

    Raises:
        UsageError: the file is not an ONNX network, or the shape of the result does not match the geometry.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # only fatal errors; other errors are raised as exceptions
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False  # it doubles the memory of layers if the sizes of images differ
        # Threads that spin while waiting would use cores that process the colour of the same image.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many classes for invalid files
            raise UsageError(f"model: {str(file)!r} is not an ONNX network: {describe_error(error)}") from None
        self.geometry = Geometry.from_name(self._session.get_modelmeta().custom_metadata_map.get("loupe", str(file)))
        self._inputs = [part.name for part in self._session.get_inputs()]
        self._validate_result(file)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`."""
        return np.asarray(self._session.run(None, dict.fromkeys(self._inputs, images))[0])

    def _validate_result(self, file: Path) -> None:
        side, scale = self.geometry.min_side, self.geometry.scale
        try:
            found = self(np.zeros((1, side, side, self.geometry.channels), "float32"))
        except Exception as error:  # as above
            raise UsageError(f"model: {str(file)!r} must take grey images: {describe_error(error)}") from None
        expected = (1, int(side * scale), int(side * scale), 1)
        if found.shape != expected or found.dtype != np.float32:
            got = f"{found.dtype} {found.shape}"
            raise UsageError(f"model: {str(file)!r} must return float32 {expected} for a grey image, got {got}")
