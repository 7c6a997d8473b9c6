"""Turns the luminance of a photo into labels, and a label into the small input that a network upscales."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image

from loupe.config.steps import Pairing
from loupe.imaging.conversion import compress_jpeg
from loupe.imaging.decoder import PhotoError

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}


@dataclass(frozen=True)
class Label:
    """A label and where it was cut: x, y count in the photo after it was shrunk by the factor `shrunk`."""

    pixels: np.ndarray  # uint8, (label_size, label_size)
    x: int
    y: int
    shrunk: float = 1.0


def cut_labels(grey: np.ndarray, settings: Pairing, crop: str, seed: int, sha256: str) -> list[Label]:
    """Cut the labels of one photo.

    Args:
        grey: uint8, (height, width).
        settings: label_size, crops, recompress.
        crop: `centre`, `fit`, `tiles` or `random`.
        seed: of crop=random, together with the photo's content hash.
        sha256: the photo's content hash, in hexadecimal.

    Raises:
        PhotoError: the photo is smaller than a label.
    """
    size = settings.label_size
    height, width = grey.shape
    if min(height, width) < size:
        raise PhotoError(f"smaller than {size}x{size}: {width}x{height}")
    if crop == "random":
        labels = _random(grey, settings, np.random.default_rng([seed, int(sha256[:16], 16)]))
    elif crop == "tiles":
        labels = [
            Label(grey[y : y + size, x : x + size], x, y)
            for y in range((height % size) // 2, height - size + 1, size)
            for x in range((width % size) // 2, width - size + 1, size)
        ]
    else:
        factor = size / min(height, width) if crop == "fit" else 1.0
        grey = _resized(grey, factor)
        x, y = (grey.shape[1] - size) // 2, (grey.shape[0] - size) // 2
        labels = [Label(grey[y : y + size, x : x + size], x, y, factor)]
    if settings.recompress is None:
        return labels
    return [
        Label(compress_jpeg(label.pixels, settings.recompress), label.x, label.y, label.shrunk) for label in labels
    ]


def _random(grey: np.ndarray, settings: Pairing, rng: np.random.Generator) -> list[Label]:
    """Every second label is from the photo shrunk by a random factor, down to a half."""
    size = settings.label_size
    labels = []
    for number in range(settings.crops):
        least = max(0.5, size / min(grey.shape))
        factor = float(rng.uniform(least, 1)) if number % 2 else 1.0
        photo = _resized(grey, factor)
        y, x = (int(rng.integers(side - size + 1)) for side in photo.shape)
        labels.append(Label(photo[y : y + size, x : x + size], x, y, factor))
    return labels


def _resized(grey: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1.0:
        return grey
    height, width = (max(1, round(side * factor)) for side in grey.shape)
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.LANCZOS))


def shrink_label(label: np.ndarray, scale: Fraction, settings: Pairing) -> np.ndarray:
    """Shrink a label, uint8 (label_size, label_size), by the scale: uint8 (input side, input side).

    The filter is antialiased, and the result rounded to 8 bits, as a small photo is.
    """
    side = int(label.shape[0] / scale)
    small = np.asarray(Image.fromarray(label).resize((side, side), FILTERS[settings.shrink]))
    return small if settings.recompress is None else compress_jpeg(small, settings.recompress)
