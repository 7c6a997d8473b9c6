"""The networks that ship with the package, as ONNX: a size and a scale to a file."""

from fractions import Fraction
from pathlib import Path

from loupe.errors import UsageError

SIZES = ("tiny", "small", "base")
DEFAULT_SIZE = "small"  # the only size that has a network of every scale factor
FOLDER = Path(__file__).parent / "weights"


def find_file(size: str, scale: Fraction) -> Path:
    """The network of this size and scale.

    Args:
        size: one of SIZES.
        scale: large side over small side.

    Raises:
        UsageError: none of this size and scale ships.
    """
    there = list_scales(size)
    if scale not in there:
        shown = ", ".join(f"{found.numerator}:{found.denominator}" for found in there)
        raise UsageError(
            f"scale: the bundled network {size} is for {shown}, got {scale.numerator}:{scale.denominator}"
        )
    return FOLDER / f"{size}-{scale.numerator}x{scale.denominator}.onnx"


def list_scales(size: str) -> list[Fraction]:
    """The scales that ship of this size, from the smallest."""
    return sorted(Fraction(path.stem.partition("-")[2].replace("x", "/")) for path in FOLDER.glob(f"{size}-*.onnx"))
