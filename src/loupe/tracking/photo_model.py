"""The MLflow model `loupe-photo`: upscales photos in base64 with ONNX networks.

MLflow runs this file to load the model.
"""

import base64
import shutil
import string
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlflow
import mlflow.telemetry
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import DEADLINE_EXCEEDED, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel, PythonModelContext

from loupe.config.fields import LARGEST_SCALE, parse_scale
from loupe.errors import LoupeError, describe_error
from loupe.imaging.decoder import PhotoError
from loupe.imaging.formats import EXTENSIONS
from loupe.photos.worker import PhotoRequest
from loupe.photos.worker_pool import BusyError, Control, PhotoWorkers, RequestStoppedError
from loupe.tracking.serving import ServedRequest, get_request, guard_server

MAX_FILE_BYTES = 32_000_000  # size of a photo, before the encoding as base64
MAX_RESULT_PIXELS = 64_000_000  # of a photo and of its result, in all frames or pages together
MAX_PAGES = 500  # frames or pages of a photo
MAX_PHOTOS = 100  # per request to a server


class RefusedError(MlflowException):
    """The model cannot serve a request.

    `message` cannot be changed, because MLflow's server would add the whole request to the message.
    """

    def __init__(self, line: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        self._line = line
        super().__init__(line, error_code=error_code)

    @property
    def message(self) -> str:
        """The error message, in one line."""
        return self._line

    @message.setter
    def message(self, text: str) -> None:
        pass


class PhotoModel(PythonModel):
    """Upscales image files."""

    def load_context(self, context: PythonModelContext) -> None:
        """Find the networks: one artifact per scale factor, such as `3x2`."""
        files = {name.replace("x", "/"): str(path) for name, path in context.artifacts.items()}
        self._workers = PhotoWorkers("loupe.photos.worker:serve_files", {"files": files})

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # MLflow would interpret type hints
        """Upscale photos.

        Args:
            context: not used.
            model_input: a table with one column, `photo`, of image files in base64.
            params: `scale`, from 1 to 8; `format`: jpg, png, webp, tif, avif, gif, bmp or same (the format
                of the photo, or jpg if Loupe cannot write that format).

        Returns:
            Image files in base64. In MLflow's server, empty texts: `RequestGuard` sends the files in
            `ServedRequest.results`.

        Raises:
            RefusedError: a photo cannot be upscaled, a server gets more than MAX_PHOTOS photos, a column or parameter
                is invalid, the time limit passed, the client closed the connection, or the server is busy.
        """
        params = params or {}
        scale = _parse_scale(params.get("scale", 1.5))
        extension = _parse_format(params.get("format", "same"))
        if list(model_input) != ["photo"]:
            raise RefusedError(f"input: must have one column, photo, got {', '.join(map(str, model_input))[:100]}")
        texts, served = list(model_input["photo"]), get_request()
        if served is None:
            with tempfile.TemporaryDirectory() as folder:
                request = ServedRequest(Control(), Path(folder))
                files = [self._upscale(request, text, scale, extension) for text in texts]
                return [base64.b64encode(file.read_bytes()).decode() for file in files]
        if len(texts) > MAX_PHOTOS:
            raise RefusedError(f"input: must have at most {MAX_PHOTOS} photos, got {len(texts)}")
        try:
            for text in texts:
                self._upscale(served, text, scale, extension)
        finally:
            if served.control.cancelled.is_set():  # a file may have been written while the guard removed the folder
                shutil.rmtree(served.folder, ignore_errors=True)
        return [""] * len(texts)

    def _upscale(self, served: ServedRequest, text: Any, scale: Fraction, extension: str) -> Path:
        """Upscale a photo, add the resulting file to the results of the request, and return this file."""
        number = len(served.results) + 1
        folder = served.folder / str(number)
        try:
            folder.mkdir()
            photo = folder / "photo"
            photo.write_bytes(_decode(text))
            request = PhotoRequest(
                str(photo), str(folder), str(scale), extension,
                max_pixels=MAX_RESULT_PIXELS, max_result_pixels=MAX_RESULT_PIXELS, max_pages=MAX_PAGES,
            )  # fmt: skip
            answer = self._workers.upscale(request, served.control)
        except RequestStoppedError as error:
            raise RefusedError(f"photo {number}: {error}", DEADLINE_EXCEEDED) from None
        except BusyError as error:
            raise RefusedError(str(error), TEMPORARILY_UNAVAILABLE) from None
        except (LoupeError, OSError, ValueError) as error:
            raise RefusedError(f"photo {number}: {describe_error(error)}") from None
        if answer.reason:
            raise RefusedError(f"photo {number}: {answer.reason}")
        served.results.append(Path(answer.out))
        return served.results[-1]


def make_signature() -> Any:
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return mlflow.models.ModelSignature(
        Schema([ColSpec("string", "photo")]),
        Schema([ColSpec("string")]),
        ParamSchema([ParamSpec("scale", "double", 1.5), ParamSpec("format", "string", "same")]),
    )


def _decode(text: Any) -> bytes:
    if not isinstance(text, str):
        raise PhotoError(f"must be an image file in base64, got {type(text).__name__}")
    try:
        # White space is removed, because many encoders write lines of 76 characters.
        encoded = (text.partition("base64,")[2] or text).encode("ascii").translate(None, string.whitespace.encode())
        content = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise PhotoError("must be an image file in base64, got other text") from None
    if len(content) > MAX_FILE_BYTES:
        raise PhotoError(f"must have at most {MAX_FILE_BYTES / 1e6:.0f} MB, got {len(content) / 1e6:.0f} MB")
    if not content:
        raise PhotoError("is empty")
    return content


def _parse_scale(value: Any) -> Fraction:
    try:
        return parse_scale(value)
    except ValueError:
        raise RefusedError(f"scale: must be from 1 to {LARGEST_SCALE}, got {str(value)[:40]}") from None


def _parse_format(value: Any) -> str:
    extensions = [extensions[0] for extensions in EXTENSIONS.values()]
    if value != "same" and f".{value}" not in extensions:
        names = ", ".join(extension[1:] for extension in extensions)
        raise RefusedError(f"format: must be same, {names}, got {str(value)[:40]}")
    return "" if value == "same" else f".{value}"


if __name__ != "loupe.tracking.photo_model":  # MLflow runs this file under another name
    mlflow.telemetry.set_telemetry_client()  # reads the setting again, because `import loupe` changed it
    guard_server()
    mlflow.models.set_model(PhotoModel())
