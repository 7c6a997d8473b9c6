"""Computes the size of a result, and chooses the scale factor of the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from loupe.config.fields import LARGEST_SCALE
from loupe.imaging.decoder import PhotoError

Size = tuple[int, int]  # width and height
FITS = ("inside", "exact", "cover")


class LargerPhotoError(PhotoError):
    """The photo is larger than the requested size."""


@dataclass(frozen=True)
class Target:
    """The requested size of results.

    Args:
        scale: the scale factor. If it, `box` and `megapixels` are None, the smallest scale factor that has a network
            is used.
        box: width and height of a box, instead of a scale.
        fit: `inside`, `exact` or `cover`, as in `fit_size`.
        megapixels: millions of pixels, instead of a box or a scale.
        longest_side: longest side in pixels, instead of a box, a scale or `megapixels`.
    """

    scale: Fraction | None = None
    box: Size | None = None
    fit: str = "inside"
    megapixels: float | None = None
    longest_side: int | None = None


@dataclass(frozen=True)
class FittedSize:
    """The size of the upscaled photo, before and after the crop to the centre."""

    upscaled: Size
    cropped: Size


def scale_size(size: Size, scale: Fraction) -> Size:
    """Multiply width and height by a scale factor; halves are rounded up."""
    width, height = (int(side * scale + Fraction(1, 2)) for side in size)
    return width, height


def fit_size(size: Size, box: Size, fit: str, message: str = "") -> FittedSize:
    """Fit a photo to a box.

    If the box has the photo's aspect ratio (to within a pixel), the result has the size of the box.

    Args:
        size: width and height of the photo.
        box: width and height of the box.
        fit: `inside`: the largest size in the box. `cover`: the smallest size that covers the box; the result is
            cropped to the box. `exact`: refuse another aspect ratio.
        message: the error message for a scale factor below 1 or above 8; by default, it names the field `size`.

    Raises:
        PhotoError: the box has another aspect ratio (`exact`), or the scale factor is above 8.
        LargerPhotoError: the scale factor is below 1.
    """
    fitted = _fit(size, box, fit)
    scales = [large / small for large, small in zip(fitted.upscaled, size, strict=True)]
    if min(scales) < 1 or max(scales) > LARGEST_SCALE + 0.01:  # 0.01, because sizes are rounded
        error = LargerPhotoError if min(scales) < 1 else PhotoError
        raise error(
            message
            or f"size: must be 1 to {LARGEST_SCALE} times the photo's {_format_size(size)}, got {_format_size(box)}"
        )
    return fitted


def find_uncropped_size(size: Size, result: Size) -> Size:
    """Return the size of a photo's result before the crop; `result` is the size after the crop."""
    return _fit(size, result, "cover").upscaled


def choose_scale(size: Size, result: Size, scales: Sequence[Fraction]) -> Fraction | None:
    """Choose the smallest of `scales` that reaches the size of the result, or else the largest of `scales`.

    Lanczos then resizes the network's result to the exact size. Two networks are not better than one: at 4:1, `small`
    for 4:1 has a PSNR of 26.65 dB for the 24 Kodak photos, and two passes of `small` for 2:1 have 26.48 dB.

    Returns:
        The scale factor; None if the size does not change, and no network has the scale factor 1:1.
    """
    if result == size:
        return Fraction(1) if 1 in scales else None
    ordered = sorted(scales)
    reaching = (
        scale
        for scale in ordered
        if all(large >= side for large, side in zip(scale_size(size, scale), result, strict=True))
    )
    return next(reaching, ordered[-1])


def _fit(size: Size, box: Size, fit: str) -> FittedSize:
    # Two sizes with the photo's aspect ratio: one has the box's width, the other has the box's height.
    by_width, by_height = (scale_size(size, Fraction(large, side)) for large, side in zip(box, size, strict=True))
    if fit == "inside" and size in (by_width, by_height) and size[0] <= box[0] and size[1] <= box[1]:
        return FittedSize(size, size)  # the photo fits already: do not resize it by a pixel
    if abs(by_width[1] - box[1]) <= 1 or abs(by_height[0] - box[0]) <= 1:
        return FittedSize(box, box)
    if fit == "exact":
        raise PhotoError(
            f"size: must have the aspect ratio of the photo's {_format_size(size)}, such as {_format_size(by_width)} "
            f"or {_format_size(by_height)}, got {_format_size(box)}"
        )
    if fit == "cover":
        return FittedSize(max(by_width, by_height), box)
    inside = min(by_width, by_height)
    return FittedSize(inside, inside)


def _format_size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
