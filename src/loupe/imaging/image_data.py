"""Images in memory: pixels with their metadata, whole or as a stream of strips."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from loupe.imaging.metadata import Metadata


@dataclass(frozen=True)
class ImageData:
    """One image of a file: a photo, a frame of an animation or a page of a TIFF.

    Args:
        pixels: upright, uint8 or uint16, (height, width, bands). 1 to 4 bands: grey, grey and alpha, RGB, RGBA.
        metadata: the metadata of the image.
        jpeg_quality: the JPEG quality that a network must assume, 1 to 100. After reading, it is the quality of the
            JPEG file, or a lower quality of an earlier compression; None for other files.
        noise: the standard deviation of the noise to remove, 0 to 100 (white is 255); None: it is estimated.
    """

    pixels: np.ndarray
    metadata: Metadata = field(default_factory=Metadata)
    jpeg_quality: int | None = None
    noise: float | None = None


@dataclass(frozen=True)
class ImageStream:
    """An image to write, whose rows are computed on demand.

    Args:
        size: width and height.
        bands: 1 to 4, as in `ImageData`.
        dtype: uint8 or uint16.
        strips: arrays of the dtype, (rows, width, bands), from top to bottom. Those of `DenoiseTransform` can be
            floats without alpha.
        metadata: the metadata of the image.
        assumed_quality: the JPEG quality that the network assumed for the photo (100: not compressed); None without
            a network that takes a quality.
        removed_noise: the standard deviation of the noise that was removed (white is 255); 0: none was removed.
    """

    size: tuple[int, int]
    bands: int
    dtype: np.dtype
    strips: Iterator[np.ndarray]
    metadata: Metadata = field(default_factory=Metadata)
    assumed_quality: int | None = None
    removed_noise: float = 0.0
