"""Pages to pages of the same size with less noise: non-local means, where a mask says, its edges feathered."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from loupe.errors import UsageError
from loupe.imaging.conversion import to_8_bits
from loupe.imaging.decoder import PhotoError
from loupe.imaging.luminance import compute_luminance
from loupe.imaging.reader import LargePage, Page, read
from loupe.photos.non_local_means import MARGIN, denoise

STRIP = 300_000  # pixels per strip; the arrays of 2,000,000 pixels do not fit the cache and take 1.5 times as long


@dataclass(frozen=True)
class Cleaning:
    """How photos are cleaned.

    Args:
        strength: 0 leaves the photo as it is, 1 takes the cleaned one.
        mask: uint8, (height, width): 255 is cleaned, 0 stays; None cleans all.
        noise: standard deviation in 255 grey values; None estimates it.
    """

    strength: float = 0.7
    mask: np.ndarray | None = None
    noise: float | None = None


def mask_of(file: Path, feather: float) -> np.ndarray:
    """Read a mask, its edges blurred over so many pixels: uint8, (height, width).

    Raises:
        UsageError: it is no image.
    """
    try:
        page = next(read(file, strip=True).pages)
    except PhotoError as error:
        raise UsageError(f"mask: {str(file)!r} cannot be used: {error}") from None
    pixels = to_8_bits(page.pixels)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    grey = Image.fromarray(compute_luminance(image, "rec601"))
    return np.asarray(grey.filter(ImageFilter.GaussianBlur(feather / 2)))


def cleaned(page: Page, cleaning: Cleaning) -> LargePage:
    """A page with less noise; its rows are computed when they are asked for.

    Raises:
        PhotoError: the mask has another size.
    """
    height, width = page.pixels.shape[:2]
    if cleaning.mask is not None and cleaning.mask.shape != (height, width):
        other = f"{cleaning.mask.shape[1]}x{cleaning.mask.shape[0]}"
        raise PhotoError(f"mask: must have the photo's {width}x{height} pixels, got {other}")
    return LargePage((width, height), _strips(page.pixels, cleaning), page)


def noise_of(grey: np.ndarray) -> float:
    """Standard deviation of the noise of a image, (height, width), on its own scale.

    The mean answer to a mask that is blind to flat and evenly sloped parts (Immerkær 1996, Fast Noise Variance
    Estimation). Texture counts as noise, too, so that a low one of 64 parts of the image is taken; where it answers
    nothing, as in a white border, it says nothing of the noise elsewhere.
    """
    if min(grey.shape) < 3:
        return 0.0
    rows = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    answer = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    parts = [
        part[part > 0]
        for band in np.array_split(answer, min(8, len(answer)))
        for part in np.array_split(band, min(8, answer.shape[1]), axis=1)
    ]
    most = max(len(part) for part in parts)
    means = [part.mean() for part in parts if len(part) > most / 2]
    return float(np.quantile(means, 0.125) * math.sqrt(math.pi / 2) / 6) if most else 0.0


def _strips(pixels: np.ndarray, cleaning: Cleaning) -> Iterator[np.ndarray]:
    full = np.iinfo(pixels.dtype).max
    bands = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    height, width = pixels.shape[:2]
    sigma = cleaning.noise / 255 if cleaning.noise is not None else _noise(pixels[..., :bands], full)
    rows = max(16, STRIP // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        begin, end = max(0, top - MARGIN), min(height, bottom + MARGIN)
        part = pixels[begin:end, :, :bands].astype("float32") / full
        # 0.7 sigma is the best of 0.4, 0.6, 0.8 on kodak24
        clean = denoise(part, sigma, 0.7 * max(sigma, 1e-4))
        inner = slice(top - begin, bottom - begin)
        share: np.ndarray = np.full((1, 1, 1), cleaning.strength, "float32")
        if cleaning.mask is not None:
            share = share * cleaning.mask[top:bottom, :, None].astype("float32") / 255
        mixed = part[inner] + share * (clean[inner] - part[inner])
        large = pixels[top:bottom].copy()
        large[..., :bands] = np.clip(np.rint(mixed * full), 0, full)
        yield large


def _noise(colours: np.ndarray, full: int) -> float:
    """The mean noise of the bands, of 1; of the middle 4 megapixels of large pages."""
    height, width = colours.shape[:2]
    top, left = max(0, height // 2 - 1000), max(0, width // 2 - 1000)
    part = colours[top : top + 2000, left : left + 2000].astype("float32") / full
    return float(np.mean([noise_of(part[..., band]) for band in range(part.shape[2])]))
