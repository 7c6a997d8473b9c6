"""The MLflow model `loupe-photo`: upscales photos in base64 with ONNX networks.

MLflow runs this file when it loads the model. Besides MLflow, it needs onnxruntime, numpy and pillow.
"""

import base64
import binascii
import tempfile
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlflow
import mlflow.telemetry
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from loupe.config.fields import LARGEST_SCALE
from loupe.errors import UsageError
from loupe.imaging.decoder import PhotoError
from loupe.imaging.formats import SUFFIXES, validate_output
from loupe.imaging.reader import read_photo
from loupe.imaging.writer import EncodeOptions, write_photo
from loupe.photos.networks import LoadedModel, Networks
from loupe.photos.sizes import Target
from loupe.photos.upscaling import compute_size, upscale_photo
from loupe.upscalers.onnx import OnnxUpscaler

MAX_FILE_BYTES = 32_000_000  # the maximum size of a photo, before its conversion to base64
MAX_RESULT_PIXELS = 64_000_000  # the maximum size of a result, all frames or pages together
MAX_THREADS = 2  # maximum number of photos that are upscaled at the same time; other requests wait


class RefusedError(MlflowException):
    """A request that cannot be served.

    The message is one line. MLflow's server would add the whole request to the message of any other error.
    """

    def __init__(self, line: str) -> None:
        self._line = line
        super().__init__(line, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """The error message: the field, the rule, and the value."""
        return self._line

    @message.setter
    def message(self, text: str) -> None:
        pass


class PhotoModel(PythonModel):
    """Upscales image files."""

    def load_context(self, context: PythonModelContext) -> None:
        """Find the networks: one artifact per scale factor, with a name such as `3x2`."""
        files = {Fraction(name.replace("x", "/")): Path(path) for name, path in context.artifacts.items()}
        self._networks = Networks(
            sorted(files), lambda scale: LoadedModel(files[scale].name, OnnxUpscaler(files[scale]))
        )
        self._semaphore = threading.Semaphore(MAX_THREADS)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # MLflow would interpret type hints
        """Upscale photos.

        Args:
            context: the context of the model; not used.
            model_input: a table with one column, `photo`, that contains image files in base64.
            params: `scale`, from 1 to 8; `format`: same, jpg, png, webp, tif, avif, gif or bmp.

        Returns:
            Image files in base64, in the same order.

        Raises:
            RefusedError: a file is not a photo or too large, or a parameter is out of range.
        """
        params = params or {}
        scale = _parse_scale(params.get("scale", 1.5))
        suffix = _parse_format(params.get("format", "same"))
        if list(model_input) != ["photo"]:
            raise RefusedError(f"input: must have one column, photo, got {', '.join(map(str, model_input))}")
        return [self._upscale(number, text, scale, suffix) for number, text in enumerate(model_input["photo"])]

    def _upscale(self, number: int, text: Any, scale: Fraction, suffix: str | None) -> str:
        try:
            with self._semaphore, tempfile.TemporaryDirectory() as folder:
                photo = read_photo(_decode(text))
                target = Target(scale)
                size = compute_size(photo.size, target, self._networks).upscaled
                pixels = size[0] * size[1] * photo.count
                if pixels > MAX_RESULT_PIXELS:
                    limit = f"at most {MAX_RESULT_PIXELS / 1e6:.0f} million pixels"
                    raise PhotoError(f"result: must have {limit}, got {pixels / 1e6:.1f} million")
                out = Path(folder) / f"large{suffix or SUFFIXES[photo.format][0]}"
                large = list(upscale_photo(photo, target, self._networks))
                validate_output(out, size, photo.count, large[0].bands)
                write_photo(out, large, photo.count, photo.loop, EncodeOptions(lossless=photo.lossless))
                return base64.b64encode(out.read_bytes()).decode()
        except (PhotoError, UsageError) as error:
            raise RefusedError(f"photo {number + 1}: {error}") from None
        except (OSError, ValueError, MemoryError) as error:
            raise RefusedError(f"photo {number + 1}: cannot be upscaled: {' '.join(str(error).split())}") from None


def _decode(text: Any) -> bytes:
    if not isinstance(text, str):
        raise PhotoError(f"must be an image file in base64, got {type(text).__name__}")
    if len(text) > MAX_FILE_BYTES * 4 / 3 + 4:
        raise PhotoError(f"must have at most {MAX_FILE_BYTES / 1e6:.0f} MB, got {len(text) * 0.75 / 1e6:.0f} MB")
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError):
        raise PhotoError("must be an image file in base64, got other text") from None


def _parse_scale(value: Any) -> Fraction:
    try:
        scale = Fraction(value).limit_denominator(1000)
    except (TypeError, ValueError, OverflowError):
        scale = Fraction(0)
    if not 1 <= scale <= LARGEST_SCALE:
        raise RefusedError(f"scale: must be from 1 to {LARGEST_SCALE}, got {value}")
    return scale


def _parse_format(value: Any) -> str | None:
    suffixes = [suffixes[0] for suffixes in SUFFIXES.values()]
    if value != "same" and f".{value}" not in suffixes:
        names = ", ".join(suffix[1:] for suffix in suffixes)
        raise RefusedError(f"format: must be same, {names}, got {str(value)[:40]}")
    return None if value == "same" else f".{value}"


if __name__ != "loupe.tracking.photo_model":  # MLflow runs the file under another name
    mlflow.telemetry.set_telemetry_client()  # again: MLflow read the telemetry setting before `loupe` changed it
    mlflow.models.set_model(PhotoModel())
