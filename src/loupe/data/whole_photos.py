"""Makes one pair from each whole photo, as in papers on super-resolution: the label is the photo's luma."""

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from loupe.cli.progress import print_skipped
from loupe.data import reservations
from loupe.data.sources import SourcePhoto
from loupe.errors import LoupeError, UsageError
from loupe.imaging.conversion import to_floats
from loupe.imaging.decoder import PhotoError
from loupe.imaging.grey import GreyPhoto

MIN_SIDE = 11  # minimum side without the border, in pixels: the window of SSIM


def compute_border(scale: Fraction) -> int:
    """Return the width of the border that scores ignore, in pixels: the scale factor, rounded up."""
    return -(-scale.numerator // scale.denominator)


class WholePhotos:
    """One pair per photo, of any size. A photo is decoded each time its pair is used.

    The label is the rounded luma, from 16 to 235. For a grey photo, the label has the photo's values, from 0 to 255.
    Height and width of the label are cropped to multiples of p, for the scale factor p/q. The input is the
    downscaled label, as from MATLAB's imresize: cubic convolution (Keys 1981, a = -1/2) without rounding, with
    mirrored borders.

    Args:
        photos: the result of `list_photos`; unusable photos are skipped and reported.
        scale: the scale factor p/q.
        quiet: do not report skipped photos.

    Raises:
        UsageError: no photo is usable.
        LoupeError: a photo is unreadable or has changed since the listing; `batches` and `subsample` also raise it.
    """

    def __init__(self, photos: list[SourcePhoto], scale: Fraction, quiet: bool = False) -> None:
        self.scale = scale
        self._photos: list[SourcePhoto] = []
        self.rows: list[dict[str, Any]] = []
        reasons: list[str] = []
        for photo in photos:
            try:
                height, width = _load_label(photo, scale).shape
            except PhotoError as error:
                reasons.append(f"{photo.path}: {error}")
                continue
            self._photos.append(photo)
            self.rows.append({"path": photo.path, "sha256": photo.sha256, "height": height, "width": width})
        if not self.rows:
            first = reasons[0] if reasons else "none"
            got = f"got {len(photos)} files; the first unusable file: {first}"
            raise UsageError(f"photos: must contain a usable image, {got}")
        print_skipped(reasons, len(photos), quiet)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield input and label of each photo, float32, (1, height, width, 1); `size` has no effect.

        Labels are in [-1, 1]. Inputs can be slightly outside of this range, because they are not clipped.
        """
        for photo in self._photos:
            label = to_floats(_load_label(photo, self.scale))
            yield shrink_bicubic(label, self.scale)[None, ..., None], label[None, ..., None]

    def subsample(self, limit: int) -> "WholePhotos":
        """Return up to `limit` evenly spaced photos."""
        indices = np.unique(np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(int))
        return WholePhotos([self._photos[index] for index in indices], self.scale)


def shrink_bicubic(label: np.ndarray, scale: Fraction) -> np.ndarray:
    """Downscale a label by p/q with an antialiased bicubic filter and mirrored borders.

    Args:
        label: float32, (height, width), multiples of p.
        scale: the scale factor p/q.

    Returns:
        float32, (height q/p, width q/p), not clipped.
    """
    p, q = scale.numerator, scale.denominator
    margin = 3  # p x p blocks added per side; the filter reads at most 2 of them
    padded = np.pad(label, margin * p, mode="symmetric")
    height, width = (side // p * q for side in padded.shape)
    small = np.asarray(Image.fromarray(padded).resize((width, height), Image.Resampling.BICUBIC))
    return small[margin * q : -margin * q, margin * q : -margin * q]


def _load_label(photo: SourcePhoto, scale: Fraction) -> np.ndarray:
    """Return the luma, uint8, cropped to multiples of p.

    Raises:
        PhotoError: the photo is unusable or too small.
        LoupeError: the photo is unreadable or has changed since the listing.
    """
    if photo.reason:
        raise PhotoError(photo.reason)
    content = _read_verified(photo)
    with reservations.reserve() as reserve_bytes:
        luma = GreyPhoto(content, reserve_bytes).read("studio")
    height, width = (side // scale.numerator * scale.numerator for side in luma.shape)
    smallest = MIN_SIDE + 2 * compute_border(scale)
    if min(height, width) < smallest:
        crop = f" after the crop to multiples of {scale.numerator}" if scale.numerator > 1 else ""
        raise PhotoError(f"smaller than {smallest}x{smallest}{crop}: {luma.shape[1]}x{luma.shape[0]}")
    return luma[:height, :width]


def _read_verified(photo: SourcePhoto) -> bytes:
    """Return the bytes of a photo; raise LoupeError if they are unreadable or have changed since the listing."""
    try:
        content = photo.read_bytes()
        reason = "" if hashlib.sha256(content).hexdigest() == photo.sha256 else "its content has changed"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise LoupeError(f"photos: {photo.path!r} must not change during the step: {reason}")
    return content
