"""Cuts labels (target images) from a photo in grey or colour, and shrinks them."""

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
    "hamming": Image.Resampling.HAMMING,
}
BANDS = 4  # number of grey labels that Pillow resizes in one call


@dataclass(frozen=True)
class Label:
    """A label, and the position of its left and top edges in the photo that is resized by the factor `shrunk`."""

    pixels: np.ndarray  # uint8, (label_size, label_size), or with a third axis for 3 colours
    x: int
    y: int
    shrunk: float = 1.0


def cut_labels(grey: np.ndarray, settings: Pairing, crop: str, seed: int, sha256: str) -> list[Label]:
    """Cut the labels of one photo.

    Args:
        grey: uint8, (height, width), or (height, width, 3) in colour.
        settings: the fields label_size, crops, crops_per_megapixel and recompress are used.
        crop: `centre` (one label from the centre), `fit` (one label from the centre, after the photo is shrunk so
            that its shorter side is label_size), `tiles` (as many labels as fit next to each other) or `random`.
        seed: determines the positions of crop=random, together with the content hash.
        sha256: the photo's content hash, in hexadecimal.

    Returns:
        The labels, uint8 (label_size, label_size) or (label_size, label_size, 3) each.

    Raises:
        PhotoError: the photo is smaller than a label.
    """
    size = settings.label_size
    height, width = grey.shape[:2]
    if min(height, width) < size:
        raise PhotoError(f"smaller than {size}x{size}: {width}x{height}")
    if crop == "random":
        labels = _cut_random(grey, settings, np.random.default_rng([seed, int(sha256[:16], 16)]))
    elif crop == "tiles":
        labels = [
            Label(grey[y : y + size, x : x + size], x, y)
            for y in range((height % size) // 2, height - size + 1, size)
            for x in range((width % size) // 2, width - size + 1, size)
        ]
    else:
        factor = size / min(height, width) if crop == "fit" else 1.0
        grey = _resize(grey, factor)
        x, y = (grey.shape[1] - size) // 2, (grey.shape[0] - size) // 2
        labels = [Label(grey[y : y + size, x : x + size], x, y, factor)]
    if settings.recompress is None:
        return labels
    return [
        Label(compress_jpeg(label.pixels, settings.recompress), label.x, label.y, label.shrunk) for label in labels
    ]


def _cut_random(grey: np.ndarray, settings: Pairing, rng: np.random.Generator) -> list[Label]:
    """Cut labels at random positions, every second label from a copy that is downscaled by a factor from 0.5 to 1."""
    size, rate = settings.label_size, settings.crops_per_megapixel
    rows, columns = grey.shape[:2]
    labels = []
    for number in range(settings.crops if rate is None else max(1, round(rate * rows * columns / 1e6))):
        factor = float(rng.uniform(max(0.5, size / min(rows, columns)), 1)) if number % 2 else 1.0
        height, width = _scale_sides(grey, factor)
        y, x = (int(rng.integers(side - size + 1)) for side in (height, width))
        if factor == 1.0 or rate is None:
            # The pixels are copied, because a view would keep the resized photo in memory.
            pixels = _resize(grey, factor)[y : y + size, x : x + size].copy()
        else:
            # Only the pixels of the label are resized. This is 19 times as fast for photos of 1 megapixel, and 1 of
            # 5000 pixels is rounded differently.
            right, bottom = (x + size) * columns / width, (y + size) * rows / height
            box = (x * columns / width, y * rows / height, right, bottom)
            pixels = np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.LANCZOS, box))
        labels.append(Label(pixels, x, y, factor))
    return labels


def _resize(grey: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1.0:
        return grey
    height, width = _scale_sides(grey, factor)
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.LANCZOS))


def _scale_sides(grey: np.ndarray, factor: float) -> tuple[int, int]:
    """Return height and width of a photo that is shrunk by a factor."""
    height, width = (max(1, round(side * factor)) for side in grey.shape[:2])
    return height, width


def shrink_label(label: np.ndarray, scale: Fraction, shrink: str) -> np.ndarray:
    """Shrink a label by the scale with an antialiased filter, and round the values to 8 bits, as in a photo.

    Args:
        label: uint8, (label_size, label_size), or (label_size, label_size, 3) in colour.
        scale: the scale factor from the result to the label.
        shrink: a key of FILTERS.

    Returns:
        uint8, with sides of label_size / scale.
    """
    return np.asarray(_shrink(Image.fromarray(label), scale, shrink))


def shrink_labels(labels: list[np.ndarray], scale: Fraction, filters: list[str]) -> list[np.ndarray]:
    """Shrink each label with its own filter; see `shrink_label`.

    BANDS grey labels with the same filter take half the time of single labels, because Pillow computes the weights of
    the filter once per call. The results are equal.
    """
    if len(labels) != BANDS or any(label.ndim > 2 for label in labels) or len(set(filters)) > 1:
        return [shrink_label(label, scale, shrink) for label, shrink in zip(labels, filters, strict=True)]
    image = Image.merge("CMYK", [Image.fromarray(label) for label in labels])  # Pillow multiplies RGBA by alpha
    return list(np.moveaxis(np.asarray(_shrink(image, scale, filters[0])), 2, 0))


def _shrink(image: Image.Image, scale: Fraction, shrink: str) -> Image.Image:
    side = image.height * scale.denominator // scale.numerator
    return image.resize((side, side), FILTERS[shrink])
