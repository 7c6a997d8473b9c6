"""Removes noise from photos, optionally only where a mask is white."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from loupe.errors import UsageError
from loupe.imaging.conversion import to_8_bits, to_image
from loupe.imaging.decoder import PhotoError
from loupe.imaging.formats import has_alpha
from loupe.imaging.image_data import ImageData, ImageStream
from loupe.imaging.luminance import compute_luminance
from loupe.photos.non_local_means import MARGIN, denoise

STRIP_PIXELS = 300_000  # strips of 2,000,000 pixels do not fit the cache and take 1.5 times as long
STRIP_BYTES = 120  # bytes per pixel of a strip with its margins while the strip is denoised
NOISE_BYTES = 32  # bytes per pixel while the noise is estimated
NOISE_SIDE = 2000  # the noise is estimated in the middle of the image, at most this many pixels wide and high


@dataclass(frozen=True)
class DenoiseOptions:
    """Options for all photos.

    Args:
        strength: 0..1; 0 keeps the photo, 1 returns the denoised photo, values between 0 and 1 mix the two.
        mask: uint8, (height, width): 255 denoises a pixel, 0 keeps it. None denoises all pixels.
        noise: standard deviation of the noise on a scale from 0 to 255; None to estimate it.
    """

    strength: float = 0.7
    mask: np.ndarray | None = None
    noise: float | None = None


def read_mask(file: Path, feather: float, read: Callable[[Path], ImageData]) -> np.ndarray:
    """Read a mask and blur its edges.

    Args:
        file: an image.
        read: a function that reads the first frame or page of a file.
        feather: the width of the blurred edges in pixels.

    Returns:
        uint8, (height, width).

    Raises:
        UsageError: the file is not an image.
    """
    try:
        pixels = to_8_bits(read(file).pixels)
    except PhotoError as error:
        raise UsageError(f"mask: {str(file)!r} cannot be used: {error}") from None
    grey = Image.fromarray(compute_luminance(to_image(pixels), "rec601"))
    return np.asarray(grey.filter(ImageFilter.GaussianBlur(feather / 2)))


def denoise_image(image: ImageData, options: DenoiseOptions) -> ImageStream:
    """Denoise an image; its rows are computed on demand.

    Raises:
        PhotoError: the mask has another size than the image.
    """
    height, width, bands = image.pixels.shape
    mask = options.mask
    if mask is not None and mask.shape != (height, width):
        raise PhotoError(f"mask: must have the photo's {width}x{height} pixels, got {mask.shape[1]}x{mask.shape[0]}")
    strips = _denoise_strips(image.pixels, options)
    return ImageStream((width, height), bands, image.pixels.dtype, strips, image.metadata)


@dataclass(frozen=True)
class DenoiseTransform:
    """Denoises the images of photo files; see `Transform`."""

    options: DenoiseOptions

    def compute_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the result: the size of the image."""
        return size

    def estimate_memory(self, size: tuple[int, int], pixel_bytes: int) -> int:
        """Estimate how many bytes the denoising takes."""
        noise = (
            0 if self.options.noise is not None else math.prod(min(side, NOISE_SIDE) for side in size) * NOISE_BYTES
        )
        rows = min(max(16, STRIP_PIXELS // size[0]) + 4 * MARGIN, size[1])
        return noise + rows * size[0] * (STRIP_BYTES + 2 * pixel_bytes)

    def __call__(self, image: ImageData) -> ImageStream:
        """Denoise an image."""
        return denoise_image(image, self.options)


def estimate_noise(grey: np.ndarray) -> float:
    """Estimate the standard deviation of the noise of an image.

    The noise is proportional to the mean response of a filter that ignores flat and evenly sloped parts (Immerkær
    1996, Fast Noise Variance Estimation). The filter also responds to texture. Therefore the function uses the 12.5 %
    quantile of the means over 64 parts of the image. Parts where most responses are 0, such as a white border, are
    omitted.

    Args:
        grey: (height, width), of any range.

    Returns:
        The standard deviation, on the scale of `grey`.
    """
    if min(grey.shape) < 3:
        return 0.0
    rows = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    response = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    parts = [
        part[part > 0]
        for band in np.array_split(response, min(8, len(response)))
        for part in np.array_split(band, min(8, response.shape[1]), axis=1)
    ]
    largest = max(len(part) for part in parts)
    means = [part.mean() for part in parts if len(part) > largest / 2]
    return float(np.quantile(means, 0.125) * math.sqrt(math.pi / 2) / 6) if largest else 0.0


def _denoise_strips(pixels: np.ndarray, options: DenoiseOptions) -> Iterator[np.ndarray]:
    white = np.iinfo(pixels.dtype).max
    height, width, bands = pixels.shape
    colours = bands - has_alpha(bands)
    noise = _estimate_mean_noise(pixels[..., :colours], white) if options.noise is None else options.noise / 255
    rows = max(16, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        begin, end = max(0, top - MARGIN), min(height, bottom + MARGIN)
        part = pixels[begin:end, :, :colours].astype("float32") / white
        # A bandwidth of 0.7 times the noise is the best of 0.4, 0.6, 0.7 and 0.8 on kodak24.
        inner = slice(top - begin, bottom - begin)
        difference = (denoise(part, noise, 0.7 * max(noise, 1e-4)) - part)[inner]
        weight: np.ndarray = np.full((1, 1, 1), options.strength, "float32")
        if options.mask is not None:
            weight = weight * options.mask[top:bottom, :, None].astype("float32") / 255
        strip = pixels[top:bottom].copy()
        strip[..., :colours] = np.clip(np.rint((part[inner] + weight * difference) * white), 0, white)
        yield strip


def _estimate_mean_noise(colours: np.ndarray, white: int) -> float:
    """Return the mean noise of the bands on a scale from 0 (black) to 1 (white)."""
    height, width = colours.shape[:2]
    top, left = (max(0, side // 2 - NOISE_SIDE // 2) for side in (height, width))
    part = colours[top : top + NOISE_SIDE, left : left + NOISE_SIDE].astype("float32") / white
    return float(np.mean([estimate_noise(part[..., band]) for band in range(part.shape[2])]))
