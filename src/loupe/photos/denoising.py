"""Removes noise from photos by non-local means."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from loupe.imaging.formats import has_alpha
from loupe.imaging.image_data import ImageData, ImageStream
from loupe.imaging.threads import count_cores, run_in_order
from loupe.photos.sizes import Size
from loupe.upscalers.non_local_means import MARGIN, denoise, estimate_noise, estimate_white_noise

STRIP_PIXELS = 300_000  # larger strips do not fit into a core's cache, and take 1.5 times as long
STRIP_BYTES = 120  # memory to denoise a strip, in bytes per pixel of the strip
NOISE_BYTES = 32  # memory to estimate the noise, in bytes per pixel
NOISE_SIDE = 2000  # maximum side in pixels of the central part in which the noise is estimated
# Photos with less estimated noise are upscaled as they are. At a noise of 3, the networks small are 0.5 to 1.1 dB
# better after the denoising. For photos without noise, the largest estimates are below 2.
MIN_NOISE = 3.0
MAX_NOISE = 30.0  # higher estimates come from graphics, such as dithered images
MIN_SIDE = (
    128  # shorter sides have too few pixels: of clean crops of 64 pixels, 0.7 % have an estimate above MIN_NOISE
)


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
        return estimate_memory(size, pixel_bytes, self.noise)

    def __call__(self, image: ImageData) -> ImageStream:
        """Denoise an image; rows are computed on demand."""
        height, width, bands = image.pixels.shape
        strips = _denoise_strips(image.pixels, self.noise)
        return ImageStream((width, height), bands, image.pixels.dtype, strips, image.metadata)


def estimate_memory(size: Size, pixel_bytes: int, noise: float | None) -> int:
    """Estimate the bytes for denoising an image, without its result.

    Args:
        size: width and height.
        pixel_bytes: bytes per pixel of the image.
        noise: the noise to remove; None: it is estimated.
    """
    noise_pixels = math.prod(min(side, NOISE_SIDE) for side in size) if noise is None else 0
    rows = min(max(16, STRIP_PIXELS // size[0]) + 4 * MARGIN, size[1])
    strips_bytes = rows * size[0] * (STRIP_BYTES + 2 * pixel_bytes) * count_cores()
    return max(noise_pixels * NOISE_BYTES, strips_bytes)


def choose_noise(image: ImageData) -> float:
    """Return the noise to remove before a network: `image.noise`, or else an estimate that excludes texture."""
    if image.noise is not None:
        return image.noise
    if min(image.pixels.shape[:2]) < MIN_SIDE:
        return 0.0
    noise = 255 * _average_noise(image.pixels, estimate_white_noise)
    return noise if MIN_NOISE <= noise <= MAX_NOISE else 0.0


def remove_noise(pixels: np.ndarray, noise: float) -> np.ndarray:
    """Return pixels, as in `ImageData`, without the noise, whose standard deviation is `noise` (white is 255)."""
    result, top = pixels.copy(), 0
    for strip in _denoise_strips(pixels, noise):
        colours = np.clip(np.rint(strip), 0, np.iinfo(pixels.dtype).max)
        result[top : top + len(strip), :, : strip.shape[2]] = colours
        top += len(strip)
    return result


def _denoise_strips(pixels: np.ndarray, noise: float | None) -> Iterator[np.ndarray]:
    """Yield strips of the denoised image without alpha, float32 (rows, width, colours), on the scale of `pixels`."""
    height, width, bands = pixels.shape
    noise = _average_noise(pixels, estimate_noise) if noise is None else noise / 255
    rows = max(16, STRIP_PIXELS // width)
    colours = pixels[..., : bands - has_alpha(bands)]
    yield from run_in_order(partial(_denoise_rows, colours, top, rows, noise) for top in range(0, height, rows))


def _denoise_rows(colours: np.ndarray, top: int, rows: int, noise: float) -> np.ndarray:
    """Denoise up to `rows` rows from row `top`; `noise` is on a scale from 0 (black) to 1 (white)."""
    white, begin = np.iinfo(colours.dtype).max, max(0, top - MARGIN)
    part = colours[begin : top + rows + MARGIN].astype("float32") / white
    return denoise(part, noise)[top - begin : top - begin + rows] * np.float32(white)


def _average_noise(pixels: np.ndarray, estimate: Callable[[np.ndarray], float]) -> float:
    """Return the mean noise of the colours in the central part of an image, on a scale from 0 to 1 (white)."""
    height, width, bands = pixels.shape
    top, left = (max(0, side // 2 - NOISE_SIDE // 2) for side in (height, width))
    part = pixels[top : top + NOISE_SIDE, left : left + NOISE_SIDE]
    white = np.float32(np.iinfo(pixels.dtype).max)
    return float(np.mean([estimate(part[..., band] / white) for band in range(bands - has_alpha(bands))]))
