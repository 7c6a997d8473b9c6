"""Converts opened images to 8 bits, and the errors of decoders to PhotoError."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from loupe.errors import LoupeError
from loupe.imaging.conversion import to_8_bits

BITS_PER_SAMPLE = 258  # number of a TIFF tag
# Pillow's errors for intact files of an unsupported kind contain one of these words.
UNSUPPORTED = re.compile("unsupported|not supported|cannot handle", re.IGNORECASE)
MAX_PIXELS = 178_956_970  # Pillow's limit, which Pillow checks only for the first image of a file
PngImagePlugin.MAX_TEXT_CHUNK = 2**24  # bytes of a profile or text; some profiles exceed Pillow's default of 1 MB


class PhotoError(LoupeError):
    """The photo cannot be used; the message is the reason."""


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise every error of a decoder as PhotoError."""
    try:
        yield
    except PhotoError:
        raise
    except Image.UnidentifiedImageError:
        raise PhotoError("not an image") from None
    except Image.DecompressionBombError as error:
        raise make_pixel_count_error(error) from None
    except Exception as error:
        if "MAX_TEXT_" in str(error):
            limits = f"{PngImagePlugin.MAX_TEXT_CHUNK:,} bytes each and {PngImagePlugin.MAX_TEXT_MEMORY:,} together"
            raise PhotoError(f"profiles and texts: must have at most {limits}, got more") from None
        if isinstance(error, MemoryError):
            raise PhotoError(
                "damaged: decoding takes more memory than an image of this size and format needs"
            ) from None
        if isinstance(error, OSError) and error.strerror:
            raise PhotoError(error.strerror[0].lower() + error.strerror[1:]) from None
        text = " ".join(str(error).split()) or type(error).__name__
        cause = "not supported" if UNSUPPORTED.search(text) else "damaged"
        raise PhotoError(f"{cause}: {text}") from None


def make_pixel_count_error(pixels: int | Image.DecompressionBombError) -> PhotoError:
    """Create the error for an image with too many pixels.

    `pixels` is the number of pixels, or Pillow's error, whose message contains this number.
    """
    number = re.search(r"\d+", str(pixels))
    count = f"{int(number[0]):,}" if number else "an unknown number"
    return PhotoError(f"too many pixels: must be at most {MAX_PIXELS:,}, got {count}")


def validate_pixel_count(pixels: int) -> None:
    """Raise PhotoError if an image has more than MAX_PIXELS pixels."""
    if pixels > MAX_PIXELS:
        raise make_pixel_count_error(pixels)


def get_raw_mode(image: Image.Image) -> str:
    """Return Pillow's name of the pixel format of an opened PNG, such as `L;4`; "" after the pixels are loaded."""
    tiles: list[Any] = getattr(image, "tile", [])
    return str(tiles[0][3]) if tiles else ""


def scale_transparent_value(image: Image.Image) -> None:
    """Scale the transparent value of a grey PNG with 2 or 4 bits in place, as Pillow scales the pixels."""
    factor = {"L;2": 85, "L;4": 17}.get(get_raw_mode(image))
    if factor and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= factor


def has_12_bit_grey(image: Image.Image) -> bool:
    """Return whether an opened image is a TIFF with grey values in [0, 4095]."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(BITS_PER_SAMPLE) == (12,)


def expand_12_bit_values(image: Image.Image) -> Image.Image:
    """Scale grey values in [0, 4095] to 16 bits."""
    return Image.fromarray((np.asarray(image).astype(np.uint32) * 65535 // 4095).astype(np.uint16))


def to_8_bit_mode(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to `L`, `RGB`, `LA` or `RGBA`.

    Raises:
        PhotoError: the range of the values is unknown (modes `I` and `F`).
    """
    if image.mode == "1" and "transparency" in image.info:
        grey = image.convert("L")
        alpha = np.where((np.asarray(grey) > 0) == bool(image.info["transparency"]), 0, 255).astype("uint8")
        grey.putalpha(Image.fromarray(alpha))
        return grey
    if image.mode in ("L", "RGB") and "transparency" in image.info:
        return image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode in ("L", "RGB", "LA", "RGBA"):
        return image
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype("uint16")
        grey = Image.fromarray(to_8_bits(deep))
        if isinstance(transparent := image.info.get("transparency"), int):
            grey.putalpha(Image.fromarray(np.where(deep == transparent, 0, 255).astype("uint8")))
        return grey
    if image.mode in ("I", "F"):
        raise PhotoError(f"pixels must have a known range, got Pillow's mode {image.mode!r}")
    if image.mode in ("P", "PA", "RGBa"):
        has_transparency = image.mode != "P" or "transparency" in image.info
        return image.convert("RGBA" if has_transparency else "RGB")
    return image.convert("L" if image.mode == "1" else "RGB")
