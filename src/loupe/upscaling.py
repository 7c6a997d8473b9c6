"""Photo file in, photo file out: luminance by a network under onnxruntime, chroma by Lanczos; no TensorFlow."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from loupe.data.photos import PhotoError, as_bytes, as_floats, open_photo
from loupe.enlarging import Enlarger, enlarge
from loupe.errors import LoupeError, UsageError
from loupe.geometry import Geometry


class OnnxEnlarger:
    """A network as ONNX, with the face that `enlarge` asks for.

    Args:
        file: with the geometry in its metadata, as `export` wrote it.

    Raises:
        UsageError: it is no such file.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime

        try:
            self._session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for every way a file can be wrong
            raise UsageError(f"model: {str(file)!r} is no ONNX network: {str(error).splitlines()[0]}") from None
        self.geometry = Geometry.of_name(self._session.get_modelmeta().custom_metadata_map.get("loupe", str(file)))
        self._input = self._session.get_inputs()[0].name

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Float32 (n, h, w, 1) in [-1, 1] to (n, h p/q, w p/q, 1); h, w multiples of q."""
        return np.asarray(self._session.run(None, {self._input: pictures})[0])


def format_of(out: Path) -> str:
    """The format that the suffix of a file to write names; raises UsageError for what cannot be written."""
    Image.init()
    format_name = Image.registered_extensions().get(out.suffix.lower(), "")
    if format_name not in Image.SAVE:
        raise UsageError(f"out: must end in the suffix of an image format, such as .png or .jpg, got {str(out)!r}")
    if not out.resolve().parent.is_dir():
        raise UsageError(f"out: must lie in a folder that exists, got {str(out)!r}")
    return format_name


def read(photo: Path, out: Path) -> Image.Image:
    """Read a photo that is to be written as `out`; raises UsageError where either is of no use."""
    format_name = format_of(out)
    if not photo.is_file():
        raise UsageError(f"photo: must be a file that exists, got {str(photo)!r}")
    try:
        image = open_photo(photo)
    except PhotoError as error:
        raise UsageError(f"photo: {str(photo)!r} cannot be used: {error}") from None
    if format_name == "JPEG" and image.mode in ("LA", "RGBA"):
        raise UsageError(f"out: {out.suffix} has no transparency, which {str(photo)!r} has; use .png or .webp")
    return image


def upscale(model: Enlarger, image: Image.Image, out: Path) -> tuple[int, int]:
    """Enlarge what `read` gave by the model's scale and write it; it gets its name only when it is whole.

    Grey stays grey; alpha is enlarged by Lanczos. The suffix of `out` is the format.

    Returns:
        Width and height of the result.
    """
    format_name = format_of(out)
    large = enlarged(model, image)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    options = {"PNG": {"compress_level": 1}, "JPEG": {"quality": 95, "subsampling": 0}}.get(format_name, {})
    try:
        large.save(partial, format_name, **options)
        partial.rename(out)
    except (OSError, ValueError) as error:
        raise LoupeError(f"out: {str(out)!r} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return large.size


def enlarged(model: Enlarger, image: Image.Image) -> Image.Image:
    """An upright `L`, `RGB`, `LA` or `RGBA` image by the model's scale, in the same mode."""
    bands = image.getbands()
    colour = image.convert("RGB").convert("YCbCr") if "R" in bands else image.convert("L")
    luminance, *chroma = colour.split()
    large = enlarge(model, as_floats(np.asarray(luminance))[None, ..., None])[0, ..., 0]
    parts = [Image.fromarray(as_bytes(large))]
    lanczos = Image.Resampling.LANCZOS
    parts += [plane.resize(parts[0].size, lanczos) for plane in chroma]
    result = Image.merge("YCbCr", parts).convert("RGB") if chroma else parts[0]
    if "A" in bands:
        result.putalpha(image.getchannel("A").resize(result.size, lanczos))
    return result


def export(model: object, geometry: Geometry, file: Path) -> float:
    """Write a Keras model as ONNX with its geometry in the metadata, and hold the two against each other.

    Returns:
        The largest difference of the two on noise, in [-1, 1].

    Raises:
        LoupeError: they differ by more than 1e-4.
    """
    import onnx

    from loupe.models import KerasEnlarger

    side = 3 * geometry.min_side
    noise = np.random.default_rng(0).uniform(-1, 1, (1, side, side + geometry.q, 1)).astype("float32")
    expected = KerasEnlarger(model)(noise)
    model(noise)  # type: ignore[operator] # Keras exports only models that have been called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of numpy's, inside Keras' exporter
        model.export(file, format="onnx", verbose=False)  # type: ignore[attr-defined]
    network = onnx.load(file)
    onnx.helper.set_model_props(network, {"loupe": geometry.name})
    onnx.save(network, file)
    difference = float(np.abs(OnnxEnlarger(file)(noise) - expected).max())
    if not difference <= 1e-4:
        raise LoupeError(f"ONNX and Keras differ by {difference}, must be at most 1e-4")
    return difference
