"""The size of a result, and the networks that a photo goes through to reach it."""

from collections.abc import Iterable
from fractions import Fraction

from loupe.data.photos import PhotoError

Size = tuple[int, int]  # width and height

LARGEST = 8  # large side over small side


def scaled(size: Size, scale: Fraction) -> Size:
    """Width and height times a scale, halves rounded up."""
    width, height = (int(side * scale + Fraction(1, 2)) for side in size)
    return width, height


def fitted(size: Size, wanted: Size) -> Size:
    """The size asked for, where it has the photo's shape to a pixel and is not smaller.

    Raises:
        PhotoError: naming both shapes.
    """
    width, height = size
    by_width = scaled(size, Fraction(wanted[0], width))
    by_height = scaled(size, Fraction(wanted[1], height))
    told = f"size: {wanted[0]}x{wanted[1]} "
    if abs(by_width[1] - wanted[1]) > 1 and abs(by_height[0] - wanted[0]) > 1:
        raise PhotoError(
            f"{told}has another shape than the photo's {width}x{height}; "
            f"{by_width[0]}x{by_width[1]} and {by_height[0]}x{by_height[1]} have its shape"
        )
    if wanted[0] < width or wanted[1] < height or max(wanted[0] / width, wanted[1] / height) > LARGEST + 0.01:
        raise PhotoError(f"{told}must be 1 to {LARGEST} times the photo's {width}x{height}")
    return wanted


def passes(size: Size, wanted: Size, scales: Iterable[Fraction]) -> list[Fraction]:
    """The scales of the networks, one after another, whose result is then shrunk or enlarged by Lanczos.

    That of the smallest network that reaches the size. Where none does: the pair with the smallest product that
    does (twice 2:1 for 4), which beats the largest network with Lanczos behind it by 0.2 dB at 4:1 on kodak24.

    Args:
        size: width and height of the photo.
        wanted: of the result.
        scales: of the networks that there are.

    Returns:
        None at all for the photo's own size.
    """
    if wanted == size:
        return []
    there = sorted(scales)
    pairs = sorted(
        ((first, second) for second in there for first in there if first >= second), key=lambda two: two[0] * two[1]
    )
    for several in [*((single,) for single in there), *pairs]:
        reached = size
        for scale in several:
            reached = scaled(reached, scale)
        if reached[0] >= wanted[0] and reached[1] >= wanted[1]:
            return list(several)
    return [there[-1], there[-1]]
