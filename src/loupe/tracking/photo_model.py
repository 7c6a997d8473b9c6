"""The code of `loupe-photo`: photos in base64 to larger photos in base64, by networks as ONNX.

MLflow runs this file where the model is loaded; it needs onnxruntime, numpy and pillow beside MLflow.
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

LARGEST_FILE = 32_000_000  # bytes of a photo, before base64
LARGEST_RESULT = 64_000_000  # pixels of all its pages together
AT_ONCE = 2  # photos in work; other requests wait


class RefusedError(MlflowException):
    """A request that cannot be served, told in one line: MLflow's server would put the request itself before it."""

    def __init__(self, line: str) -> None:
        self._line = line
        super().__init__(line, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """What is wrong: the field, the rule, and the value."""
        return self._line

    @message.setter
    def message(self, text: str) -> None:
        pass


class PhotoModel(PythonModel):
    """Photo in, photo out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Find the networks: an artifact a scale, named as `3x2`."""
        files = {Fraction(name.replace("x", "/")): Path(path) for name, path in context.artifacts.items()}
        self._networks = Networks(
            sorted(files), lambda scale: LoadedModel(files[scale].name, OnnxUpscaler(files[scale]))
        )
        self._turns = threading.Semaphore(AT_ONCE)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # MLflow would read hints
        """Upscale photos.

        Args:
            context: of the model.
            model_input: a table whose column `photo` holds image files in base64.
            params: `scale` from 1 to 8; `format`: same, jpg, png, webp, tif, avif, gif or bmp.

        Returns:
            Image files in base64, in the same order.

        Raises:
            RefusedError: one of them is no photo, or too large, or a parameter is out of range.
        """
        given = params or {}
        scale = _scale(given.get("scale", 1.5))
        suffix = _suffix(given.get("format", "same"))
        if list(model_input) != ["photo"]:
            raise RefusedError(f"input: must have the one column photo, got {', '.join(map(str, model_input))}")
        return [self._upscaled(number, text, scale, suffix) for number, text in enumerate(model_input["photo"])]

    def _upscaled(self, number: int, text: Any, scale: Fraction, suffix: str | None) -> str:
        try:
            with self._turns, tempfile.TemporaryDirectory() as folder:
                photo = read_photo(_decoded(text))
                target = Target(scale)
                size = compute_size(photo.size, target, self._networks).upscaled
                pixels = size[0] * size[1] * photo.count
                if pixels > LARGEST_RESULT:
                    limit = f"at most {LARGEST_RESULT / 1e6:.0f} million pixels"
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


def _decoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise PhotoError(f"must be an image file in base64, got {type(text).__name__}")
    if len(text) > LARGEST_FILE * 4 / 3 + 4:
        raise PhotoError(f"must have at most {LARGEST_FILE / 1e6:.0f} MB, got {len(text) * 0.75 / 1e6:.0f} MB")
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError):
        raise PhotoError("must be an image file in base64, got other text") from None


def _scale(value: Any) -> Fraction:
    try:
        scale = Fraction(value).limit_denominator(1000)
    except (TypeError, ValueError, OverflowError):
        scale = Fraction(0)
    if not 1 <= scale <= LARGEST_SCALE:
        raise RefusedError(f"scale: must be from 1 to {LARGEST_SCALE}, got {value}")
    return scale


def _suffix(value: Any) -> str | None:
    suffixes = [suffixes[0] for suffixes in SUFFIXES.values()]
    if value != "same" and f".{value}" not in suffixes:
        names = ", ".join(suffix[1:] for suffix in suffixes)
        raise RefusedError(f"format: must be same, {names}, got {str(value)[:40]}")
    return None if value == "same" else f".{value}"


if __name__ != "loupe.tracking.photo_model":  # MLflow loads the file as a model; an import only reads it
    mlflow.telemetry.set_telemetry_client()  # MLflow read its switch before this file, and so `loupe`, was imported
    mlflow.models.set_model(PhotoModel())
