"""A network as an ONNX file, with the interface of an upscaling model."""

from pathlib import Path

import numpy as np

from loupe.errors import UsageError, describe_error
from loupe.upscalers.geometry import Geometry


class OnnxUpscaler:
    """A network as ONNX, with the face that `upscale` asks for.

    Args:
        file: with the geometry in its metadata, as `export` wrote it.
        threads: that work on one image; 0 is one a core. Several images, or strips of one, are done sooner by
            one each, asked for from as many threads.

    Raises:
        UsageError: it is no such file, or its result on a grey image is not as large as the geometry says.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, too
        options.intra_op_num_threads = threads
        # Threads that wait busily for the next image would hold the cores that colour this one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for every way a file can be wrong
            raise UsageError(f"model: {str(file)!r} is no ONNX network: {describe_error(error)}") from None
        self.geometry = Geometry.from_name(self._session.get_modelmeta().custom_metadata_map.get("loupe", str(file)))
        self._inputs = [part.name for part in self._session.get_inputs()]
        self._refuse_another(file)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Float32 (n, h, w, 1) in [-1, 1] to (n, h p/q, w p/q, 1); h, w multiples of q."""
        return np.asarray(self._session.run(None, dict.fromkeys(self._inputs, images))[0])

    def _refuse_another(self, file: Path) -> None:
        side, scale = self.geometry.min_side, self.geometry.scale
        try:
            found = self(np.zeros((1, side, side, 1), "float32"))
        except Exception as error:  # as above
            raise UsageError(f"model: {str(file)!r} takes no grey images: {describe_error(error)}") from None
        expected = (1, int(side * scale), int(side * scale), 1)
        if found.shape != expected or found.dtype != np.float32:
            raise UsageError(f"model: {str(file)!r} gives {found.dtype} {found.shape}, must give float32 {expected}")
