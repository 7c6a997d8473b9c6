"""Cuts labels (high-resolution images) from photos, and downscales them to inputs."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image

from loupe.config.datasets import Preprocess
from loupe.imaging.conversion import compress_jpeg
from loupe.imaging.decoder import PhotoError

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
BATCHED_LABELS = 4  # grey labels that Pillow resizes in one call


@dataclass(frozen=True)
class Label:
    """A label, cut from a photo that was resized by a factor.

    Args:
        pixels: uint8, (label_size, label_size), or (label_size, label_size, 3) in colour.
        x: the left edge in the resized photo, in pixels.
        y: the top edge.
        factor: the factor by which the photo was resized, at most 1.
    """

    pixels: np.ndarray
    x: int
    y: int
    factor: float = 1.0


def cut_labels(photo: np.ndarray, settings: Preprocess, crop: str, seed: int, sha256: str) -> list[Label]:
    """Cut the labels of one photo, in grey or colour like the photo.

    Args:
        photo: uint8, (height, width), or (height, width, 3).
        settings: label_size, labels_per_photo, labels_per_megapixel and recompress.
        crop: `centre`; `fit` (the centre, after downscaling the shorter side to label_size); `tiles` (as many labels
            as fit next to each other); `random`.
        seed: determines random positions, together with the content hash.
        sha256: the photo's content hash.

    Raises:
        PhotoError: the photo is smaller than a label.
    """
    size = settings.label_size
    height, width = photo.shape[:2]
    if min(height, width) < size:
        raise PhotoError(f"smaller than {size}x{size}: {width}x{height}")
    if crop == "random":
        labels = _cut_random(photo, settings, np.random.default_rng([seed, int(sha256[:16], 16)]))
    elif crop == "tiles":
        labels = [
            Label(photo[y : y + size, x : x + size], x, y)
            for y in range((height % size) // 2, height - size + 1, size)
            for x in range((width % size) // 2, width - size + 1, size)
        ]
    else:
        factor = size / min(height, width) if crop == "fit" else 1.0
        photo = _resize(photo, factor)
        x, y = (photo.shape[1] - size) // 2, (photo.shape[0] - size) // 2
        labels = [Label(photo[y : y + size, x : x + size], x, y, factor)]
    if settings.recompress is None:
        return labels
    return [
        Label(compress_jpeg(label.pixels, settings.recompress), label.x, label.y, label.factor) for label in labels
    ]


def _cut_random(photo: np.ndarray, settings: Preprocess, rng: np.random.Generator) -> list[Label]:
    """Cut labels at random positions, every second label after resizing the photo by a random factor of 0.5 to 1."""
    size, rate = settings.label_size, settings.labels_per_megapixel
    rows, columns = photo.shape[:2]
    labels = []
    for number in range(settings.labels_per_photo if rate is None else max(1, round(rate * rows * columns / 1e6))):
        factor = float(rng.uniform(max(0.5, size / min(rows, columns)), 1)) if number % 2 else 1.0
        height, width = _scale_sides(photo, factor)
        y, x = (int(rng.integers(side - size + 1)) for side in (height, width))
        if factor == 1.0 or rate is None:
            # Without `labels_per_megapixel`, resize the whole photo: the faster method below would give other pixels
            # than in existing datasets. The copy of the label lets Python free the resized photo.
            pixels = _resize(photo, factor)[y : y + size, x : x + size].copy()
        else:
            # Resizing only the label is 19 times as fast, but rounds 1 of 5000 pixels differently.
            right, bottom = (x + size) * columns / width, (y + size) * rows / height
            box = (x * columns / width, y * rows / height, right, bottom)
            pixels = np.asarray(Image.fromarray(photo).resize((size, size), Image.Resampling.LANCZOS, box))
        labels.append(Label(pixels, x, y, factor))
    return labels


def _resize(photo: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1.0:
        return photo
    height, width = _scale_sides(photo, factor)
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))


def _scale_sides(photo: np.ndarray, factor: float) -> tuple[int, int]:
    """Return height and width of a resized photo."""
    height, width = (max(1, round(side * factor)) for side in photo.shape[:2])
    return height, width


def shrink_label(label: np.ndarray, scale: Fraction, filter_name: str) -> np.ndarray:
    """Downscale a label, uint8 (side, side) or (side, side, 3), by the scale factor with a filter of FILTERS."""
    return np.asarray(_shrink(Image.fromarray(label), scale, filter_name))


def shrink_labels(labels: list[np.ndarray], scale: Fraction, filters: list[str]) -> list[np.ndarray]:
    """Downscale each label with its own filter, like `shrink_label`.

    If there are exactly BATCHED_LABELS labels, all grey and with the same filter, Pillow resizes them in one call.
    This halves the time.
    """
    if len(labels) != BATCHED_LABELS or any(label.ndim > 2 for label in labels) or len(set(filters)) > 1:
        return [shrink_label(label, scale, name) for label, name in zip(labels, filters, strict=True)]
    # The labels become the bands of a CMYK image. In an RGBA image, Pillow would multiply the colours by alpha.
    image = Image.merge("CMYK", [Image.fromarray(label) for label in labels])
    return list(np.moveaxis(np.asarray(_shrink(image, scale, filters[0])), 2, 0))


def _shrink(image: Image.Image, scale: Fraction, filter_name: str) -> Image.Image:
    side = image.height * scale.denominator // scale.numerator
    return image.resize((side, side), FILTERS[filter_name])
