"""Converts pixel arrays between value ranges, and to and from Pillow images; adds JPEG artefacts."""

import io

import numpy as np
from PIL import Image

PART_PIXELS = 2**20  # pixels that `to_pixels` converts in one step


def to_floats(grey: np.ndarray) -> np.ndarray:
    """Convert uint8 of any shape to float32 in [-1, 1]; -1 is black, 1 is white."""
    return grey.astype("float32") / 127.5 - 1


def from_floats(image: np.ndarray) -> np.ndarray:
    """Convert floats of any shape from [-1, 1] to uint8: clip, scale to [0, 255] and round."""
    return np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype("uint8")


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Scale uint16 of any shape to uint8 and round; return uint8 unchanged."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def to_image(pixels: np.ndarray) -> Image.Image:
    """Convert (height, width, bands), uint8 or grey uint16, to a Pillow image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def to_pixels(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image to (height, width, bands) in parts; one numpy.asarray would take twice the memory."""
    width, height = image.size
    pixels: np.ndarray | None = None
    columns = min(width, PART_PIXELS)
    rows = PART_PIXELS // columns
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            right, bottom = min(left + columns, width), min(top + rows, height)
            part = np.asarray(image.crop((left, top, right, bottom)))
            if pixels is None:
                bands = 1 if part.ndim == 2 else part.shape[2]
                pixels = np.empty((height, width, bands), part.dtype.newbyteorder("="))
            pixels[top:bottom, left:right] = part.reshape(bottom - top, right - left, -1)
    assert pixels is not None  # every image has at least one pixel
    return pixels


def compress_jpeg(pixels: np.ndarray, quality: int, subsampling: int = -1) -> np.ndarray:
    """Encode an image as JPEG and decode it.

    Args:
        pixels: uint8, (height, width) or (height, width, 3).
        quality: 1 to 100.
        subsampling: 0 is 4:4:4, 2 is 4:2:0, -1 is Pillow's default.
    """
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(stream))
