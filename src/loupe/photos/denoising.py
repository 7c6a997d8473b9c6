"""Removes noise from photos by non-local means."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loupe.imaging.formats import has_alpha
from loupe.imaging.image_data import ImageData, ImageStream
from loupe.photos.sizes import Size
from loupe.upscalers.non_local_means import MARGIN, denoise, estimate_noise

STRIP_PIXELS = 300_000  # larger strips do not fit into a core's cache, and take 1.5 times as long
STRIP_BYTES = 120  # memory to denoise a strip, in bytes per pixel of the strip
NOISE_BYTES = 32  # memory to estimate the noise, in bytes per pixel
NOISE_SIDE = 2000  # maximum side in pixels of the central part in which the noise is estimated


@dataclass(frozen=True)
class DenoiseTransform:
    """Denoises the images of photo files; see `Transform`.

    The strips of the results contain floats and no alpha. `BlendTransform` rounds them and keeps the photo's alpha.

    Args:
        noise: standard deviation of the noise, on a scale from 0 to 255; None estimates it per image.
    """

    noise: float | None = None

    def compute_size(self, size: Size) -> Size:
        """Return `size`, which the denoising does not change."""
        return size

    def estimate_memory(self, size: Size, pixel_bytes: int) -> int:
        """Estimate the bytes for the denoising."""
        noise_pixels = 0 if self.noise is not None else math.prod(min(side, NOISE_SIDE) for side in size)
        rows = min(max(16, STRIP_PIXELS // size[0]) + 4 * MARGIN, size[1])
        return noise_pixels * NOISE_BYTES + rows * size[0] * (STRIP_BYTES + 2 * pixel_bytes)

    def __call__(self, image: ImageData) -> ImageStream:
        """Denoise an image; rows are computed on demand."""
        height, width, bands = image.pixels.shape
        strips = _denoise_strips(image.pixels, self.noise)
        return ImageStream((width, height), bands, image.pixels.dtype, strips, image.metadata)


def _denoise_strips(pixels: np.ndarray, noise: float | None) -> Iterator[np.ndarray]:
    """Yield strips of the denoised image without alpha, float32 (rows, width, colours), on the scale of `pixels`."""
    white = np.iinfo(pixels.dtype).max
    height, width, bands = pixels.shape
    colours = bands - has_alpha(bands)
    noise = _estimate_mean_noise(pixels[..., :colours], white) if noise is None else noise / 255
    rows = max(16, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        begin, end = max(0, top - MARGIN), min(height, bottom + MARGIN)
        part = pixels[begin:end, :, :colours].astype("float32") / white
        yield denoise(part, noise)[top - begin : bottom - begin] * np.float32(white)


def _estimate_mean_noise(colours: np.ndarray, white: int) -> float:
    """Return the mean noise of the bands in the central part of an image, on a scale from 0 (black) to 1 (white)."""
    height, width = colours.shape[:2]
    top, left = (max(0, side // 2 - NOISE_SIDE // 2) for side in (height, width))
    part = colours[top : top + NOISE_SIDE, left : left + NOISE_SIDE].astype("float32") / white
    return float(np.mean([estimate_noise(part[..., band]) for band in range(part.shape[2])]))
