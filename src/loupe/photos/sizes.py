"""The size of a result, and the network that a photo goes through to reach it."""

from collections.abc import Iterable
from fractions import Fraction

from loupe.imaging.decoder import PhotoError

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


def network_scale(size: Size, wanted: Size, scales: Iterable[Fraction]) -> Fraction | None:
    """The scale of the network whose result Lanczos then shrinks, or upscales further.

    That of the smallest network that reaches the size, else the largest. A second pass does not pay: at 4:1 on
    kodak24 (shrunk by Lanczos; Lanczos alone 25.50 dB) 3:1 and Lanczos reach 26.36 dB, 2:1 twice 26.33, 3:1 and 3:2
    26.36.

    Args:
        size: width and height of the photo.
        wanted: of the result.
        scales: of the networks that there are.

    Returns:
        None for the photo's own size.
    """
    if wanted == size:
        return None
    there = sorted(scales)
    reaching = (scale for scale in there if all(a >= b for a, b in zip(scaled(size, scale), wanted, strict=True)))
    return next(reaching, there[-1])
