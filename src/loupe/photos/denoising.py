"""Removes noise from photos by non-local means."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

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
MAX_NOISE = 40.0  # higher estimates hardly come from photos
# Maximum sum of the differences between neighbouring numbers of a histogram, divided by the number of pixels. It is
# about 0.1 for photos with noise, and about 2 for graphics with few values, such as dithered images and pixel art.
MAX_VARIATION = 0.5
# A pixel keeps its value if more than this share of the pixels within FLAT_REACH has exactly the mean of its
# neighbours. A noise of 3 causes a share of 0.02 per colour.
MIN_FLAT_SHARE, FLAT_REACH = 0.25, 7
MIN_SIDE = (
    128  # shorter sides have too few pixels: of clean crops of 64 pixels, 0.7 % have an estimate above MIN_NOISE
)


@dataclass(frozen=True)
class DenoiseTransform:
    """Denoises the images of photo files; see `Transform`.

    The strips of the results contain floats and no alpha. `BlendTransform` rounds them and keeps the photo's alpha.
    Without noise, the strips are the pixels of the image.

    Args:
        noise: standard deviation of the noise, on a scale from 0 to 255; None: `ImageData.noise` or an estimate.
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
        noise = image.noise if self.noise is None else self.noise
        if noise is None:
            noise = 255 * _average_noise(_get_centre(image.pixels), estimate_noise)
        strips = _denoise_strips(image.pixels, noise) if noise else iter([image.pixels])
        return ImageStream((width, height), bands, image.pixels.dtype, strips, image.metadata, removed_noise=noise)


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
    colours = _get_centre(image.pixels)
    if min(colours.shape[:2]) < MIN_SIDE or _has_few_values(colours):
        return 0.0
    noise = 255 * _average_noise(colours, estimate_white_noise)
    return noise if MIN_NOISE <= noise <= MAX_NOISE else 0.0


def remove_noise(pixels: np.ndarray, noise: float) -> np.ndarray:
    """Return pixels, as in `ImageData`, without the noise, whose standard deviation is `noise` (white is 255).

    Flat parts, such as the background of a drawing next to a photo, do not change.
    """
    result, top = pixels.copy(), 0
    for strip in _denoise_strips(pixels, noise):
        bottom = top + len(strip)
        colours = np.clip(np.rint(strip), 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
        flat = _find_flat_pixels(pixels[..., : strip.shape[2]], top, bottom)[..., None]
        np.copyto(result[top:bottom, :, : strip.shape[2]], colours, where=~flat)
        top = bottom
    return result


def _find_flat_pixels(colours: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """Return which pixels of the rows from `top` to `bottom` (exclusive) are in a flat part; see MIN_FLAT_SHARE."""
    begin = max(0, top - FLAT_REACH - 1)
    part = colours[begin : bottom + FLAT_REACH + 1].astype(np.int32)
    padded = np.pad(part, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] - 2 * padded[1:-1] + padded[2:]
    response = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    is_zero = Image.fromarray(np.where((response == 0).all(-1), np.uint8(255), np.uint8(0)))
    share = np.asarray(is_zero.filter(ImageFilter.BoxBlur(FLAT_REACH)))
    return share[top - begin : bottom - begin] > 255 * MIN_FLAT_SHARE


def _has_few_values(colours: np.ndarray) -> bool:
    """Return whether the histograms of the colours have gaps, without black and white; see MAX_VARIATION."""
    variations = []
    for band in range(colours.shape[2]):
        values = colours[..., band] if colours.dtype == np.uint8 else colours[..., band] >> 8
        counts = np.bincount(values.ravel(), minlength=256)[1:-1]
        if counts.any():  # a border with one colour is a single large number
            counts = np.minimum(counts, np.quantile(counts[counts > 0], 0.9))
        variations.append(np.abs(np.diff(counts, prepend=0, append=0)).sum() / max(1, counts.sum()))
    return not 0 < np.mean(variations) <= MAX_VARIATION


def _denoise_strips(pixels: np.ndarray, noise: float) -> Iterator[np.ndarray]:
    """Yield strips of the denoised image without alpha, float32 (rows, width, colours), on the scale of `pixels`."""
    height, width, bands = pixels.shape
    rows = max(16, STRIP_PIXELS // width)
    colours = pixels[..., : bands - has_alpha(bands)]
    yield from run_in_order(partial(_denoise_rows, colours, top, rows, noise / 255) for top in range(0, height, rows))


def _denoise_rows(colours: np.ndarray, top: int, rows: int, noise: float) -> np.ndarray:
    """Denoise up to `rows` rows from row `top`; `noise` is on a scale from 0 (black) to 1 (white)."""
    white, begin = np.iinfo(colours.dtype).max, max(0, top - MARGIN)
    part = colours[begin : top + rows + MARGIN].astype("float32") / white
    return denoise(part, noise)[top - begin : top - begin + rows] * np.float32(white)


def _average_noise(colours: np.ndarray, estimate: Callable[[np.ndarray], float]) -> float:
    """Return the mean noise of the colours of an image, on a scale from 0 to 1 (white)."""
    white = np.float32(np.iinfo(colours.dtype).max)
    return float(np.mean([estimate(colours[..., band] / white) for band in range(colours.shape[2])]))


def _get_centre(pixels: np.ndarray) -> np.ndarray:
    """Return the colours of the central part of an image, at most NOISE_SIDE wide; transparent pixels are black."""
    height, width, bands = pixels.shape
    top, left = (max(0, side // 2 - NOISE_SIDE // 2) for side in (height, width))
    part = pixels[top : top + NOISE_SIDE, left : left + NOISE_SIDE]
    return part[..., :-1] * (part[..., -1:] > 0) if has_alpha(bands) else part
