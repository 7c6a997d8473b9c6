"""Whole photos as papers on super-resolution pair them: studio luma, shrunk by an antialiased bicubic filter."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from loupe.cli.progress import print_left_out
from loupe.data.sources import SourcePhoto
from loupe.errors import UsageError
from loupe.imaging.conversion import to_floats
from loupe.imaging.decoder import PhotoError, open_photo
from loupe.imaging.luminance import compute_luminance

LEAST = 11  # pixels a side of what is left inside the border: the window of ssim


def compute_border(scale: Fraction) -> int:
    """Pixels of a large image's border that do not count: the scale, rounded up."""
    return -(-scale.numerator // scale.denominator)


class WholePhotos:
    """Pairs of any size, decoded when they are asked for, so that memory holds one photo at a time.

    The label is the photo's luma (16 to 235, rounded; grey photos as they are), cropped to a multiple of the
    scale. The input is the label shrunk as MATLAB's imresize does: cubic convolution (Keys 1981, a = -1/2)
    widened by the scale, the border mirrored, not rounded.

    Args:
        photos: as listed; those that cannot be used are left out, which is told.
        scale: label side over input side, p/q.
        quiet: do not tell it.

    Raises:
        UsageError: not one photo can be used.
    """

    def __init__(self, photos: list[SourcePhoto], scale: Fraction, quiet: bool = False) -> None:
        self.scale = scale
        self._photos: list[SourcePhoto] = []
        self.rows: list[dict[str, Any]] = []
        reasons: list[str] = []
        for photo in photos:
            try:
                height, width = _label(photo, scale).shape
            except PhotoError as error:
                reasons.append(f"{photo.path}: {error}")
                continue
            self._photos.append(photo)
            self.rows.append({"path": photo.path, "sha256": photo.sha256, "height": height, "width": width})
        if not self.rows:
            first = reasons[0] if reasons else "there is none"
            raise UsageError(f"photos: not one of {len(photos)} can be used; the first: {first}")
        print_left_out(reasons, len(photos), quiet)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One at a time, since each has its own size: input (1, h, w, 1) and label, float32 in [-1, 1]."""
        for photo in self._photos:
            label = to_floats(_label(photo, self.scale))
            yield shrink_bicubic(label, self.scale)[None, ..., None], label[None, ..., None]

    def subsample(self, limit: int) -> "WholePhotos":
        """Up to `limit` of them, evenly spread over their order."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(int))
        return WholePhotos([self._photos[index] for index in chosen], self.scale)


def shrink_bicubic(label: np.ndarray, scale: Fraction) -> np.ndarray:
    """Shrink float32 (height, width), multiples of p, by p/q with a bicubic filter, the border mirrored."""
    p, q = scale.numerator, scale.denominator
    around = 3  # blocks: the filter reaches 2 small pixels beyond
    padded = np.pad(label, around * p, mode="symmetric")
    height, width = (side // p * q for side in padded.shape)
    small = np.asarray(Image.fromarray(padded).resize((width, height), Image.Resampling.BICUBIC))
    return small[around * q : -around * q, around * q : -around * q]


def _label(photo: SourcePhoto, scale: Fraction) -> np.ndarray:
    if photo.reason:
        raise PhotoError(photo.reason)
    luma = compute_luminance(open_photo(photo.opened()), "studio")
    height, width = (side // scale.numerator * scale.numerator for side in luma.shape)
    least = LEAST + 2 * compute_border(scale)
    if min(height, width) < least:
        raise PhotoError(f"smaller than {least}x{least}: {luma.shape[1]}x{luma.shape[0]}")
    return luma[:height, :width]
