"""Conversions between the value ranges of pixel arrays."""

import io

import numpy as np
from PIL import Image


def to_floats(grey: np.ndarray) -> np.ndarray:
    """Convert uint8 of any shape to float32 in [-1, 1]; -1 is black, 1 is white."""
    return grey.astype("float32") / 127.5 - 1


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Clip floats of any shape to [-1, 1] and round them to uint8."""
    return np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype("uint8")


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Round uint16 of any shape to uint8; return uint8 unchanged."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def to_image(pixels: np.ndarray) -> Image.Image:
    """Convert pixels, (height, width, bands), uint8 or 16-bit grey, to a Pillow image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def compress_jpeg(grey: np.ndarray, quality: int) -> np.ndarray:
    """Encode a grey image, uint8 (height, width), as JPEG of a quality (1..95) and decode it again."""
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))
