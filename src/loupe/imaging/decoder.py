"""Image files to pixels and pixels to image files: the only decoder, and the only way from floats to 8 bits."""

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from loupe.errors import LoupeError

BITS = 258  # a TIFF's tag: of each sample of a pixel
LARGEST = 178_956_970  # pixels of a image; Pillow itself refuses more in the first of a file
STUDIO = np.array([65.481, 128.553, 24.966], "float32")  # 219 times 0.299, 0.587, 0.114
REC_601 = np.array([0.299, 0.587, 0.114], "float32")
REC_709 = np.array([0.2126, 0.7152, 0.0722], "float32")


class PhotoError(LoupeError):
    """The file cannot be used; its text says why."""


def open_photo(source: bytes | Path) -> Image.Image:
    """Decode the first frame of an image file, upright, as 8-bit `L`, `RGB`, `LA` or `RGBA`.

    16-bit grey is divided by 257, CMYK becomes RGB, a palette its colours; EXIF orientation is applied.

    Args:
        source: the bytes of a file, or its path.

    Raises:
        PhotoError: it is no image, is damaged or too large, or its values have no known range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                if image.format == "EPS":
                    raise PhotoError("a program in PostScript, no photo: not run")
                scale_transparent_value(image)
                image.load()
                return eight_bits(ImageOps.exif_transpose(full_range(image)))
    except PhotoError:
        raise
    except Image.UnidentifiedImageError:
        raise PhotoError("not an image") from None
    except Image.DecompressionBombError as error:
        raise too_many(error) from None
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise PhotoError(f"damaged: {' '.join(str(error).split()) or type(error).__name__}") from None


def too_many(pixels: int | Image.DecompressionBombError) -> PhotoError:
    """Why a image of so many pixels, or of those that Pillow's error tells, is not decoded."""
    found = re.search(r"\d+", str(pixels))
    shown = f"{int(found[0]):,}" if found else "more than can be told"
    return PhotoError(f"too many pixels: {shown}, at most {LARGEST:,}")


def scale_transparent_value(image: Image.Image) -> None:
    """Scale the transparent grey of a PNG of 2 or 4 bits as Pillow scales its pixels; before it is loaded."""
    tiles: list[Any] = getattr(image, "tile", [])
    factor = {"L;2": 85, "L;4": 17}.get(str(tiles[0][3])) if tiles else None
    if factor and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= factor


def full_range(image: Image.Image) -> Image.Image:
    """A loaded TIFF of 12-bit grey, of which Pillow leaves 4 of 16 bits empty, in all 16; others as they are."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.tag_v2.get(BITS) != (12,):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint32) * 65535 // 4095).astype(np.uint16))


def eight_bits(image: Image.Image) -> Image.Image:
    """An image of any mode whose values have a known range as `L`, `RGB`, `LA` or `RGBA`; else a PhotoError."""
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
        return Image.fromarray(as_eight_bits(np.asarray(image).astype("uint16")))
    if image.mode in ("I", "F"):
        raise PhotoError(f"mode {image.mode} has no known range of values")
    if image.mode in ("P", "PA", "La", "RGBa"):
        transparent = image.mode != "P" or "transparency" in image.info
        return image.convert("RGBA" if transparent else "RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def as_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """uint16 of any shape to uint8, rounded; uint8 stays as it is."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def luminance_of(image: Image.Image, luminance: str) -> np.ndarray:
    """Grey of an image, its transparent parts on white.

    Args:
        image: `L`, `RGB`, `LA` or `RGBA`; grey images keep their values.
        luminance: `rec601`: Pillow's L, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601) on the encoded values;
            `rec709`: 0.2126, 0.7152, 0.0722 (ITU-R BT.709) on the encoded values; `relative`: those weights
            in linear light (IEC 61966-2-1), encoded again; `studio`: 16 + 219 times rec601 before rounding, as
            MATLAB's rgb2ycbcr gives it and papers score it.

    Returns:
        uint8, (height, width).
    """
    if image.mode in ("LA", "RGBA"):
        white = Image.new(image.mode, image.size, "white")
        image = Image.alpha_composite(white, image) if image.mode == "RGBA" else _la_on_white(image)
        image = image.convert("RGB" if image.mode == "RGBA" else "L")
    if luminance == "rec601" or image.mode == "L":
        return np.asarray(image.convert("L"))
    encoded = np.asarray(image, "float32") / 255
    if luminance == "rec709":
        grey = encoded @ REC_709
    elif luminance == "studio":
        grey = (16 + encoded @ STUDIO) / 255
    else:
        grey = relative_luminance(encoded)
    return np.rint(grey * 255).clip(0, 255).astype("uint8")


def relative_luminance(encoded: np.ndarray) -> np.ndarray:
    """Rec. 709 luminance in linear light (IEC 61966-2-1), encoded again.

    Args:
        encoded: float32 red, green and blue, (height, width, 3); 0 is black, 1 is white. The two curves go on
            beyond them.

    Returns:
        float32, (height, width), on the same scale.
    """
    curve = ((np.maximum(encoded, 0) + 0.055) / 1.055) ** 2.4
    light = np.where(encoded <= 0.04045, encoded / 12.92, curve).astype("float32") @ REC_709
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


def _la_on_white(image: Image.Image) -> Image.Image:
    grey, alpha = image.split()
    return Image.composite(grey, Image.new("L", image.size, 255), alpha)


def as_floats(grey: np.ndarray) -> np.ndarray:
    """uint8 of any shape to float32 in [-1, 1]: -1 black, 1 white."""
    return grey.astype("float32") / 127.5 - 1


def as_bytes(picture: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] of any shape, clipped and rounded, to uint8."""
    return np.rint((np.clip(picture, -1, 1) + 1) * 127.5).astype("uint8")


def through_jpeg(grey: np.ndarray, quality: int) -> np.ndarray:
    """A grey image, uint8 (height, width), as JPEG of this quality (1..95) gives it back."""
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))
