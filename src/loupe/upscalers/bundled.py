"""Finds the ONNX files of the bundled networks by size and scale factor."""

from fractions import Fraction
from pathlib import Path

from loupe.config.fields import format_value
from loupe.errors import UsageError

DEFAULT_SIZE = "small"
FOLDER = Path(__file__).parent / "weights"


def find_file(size: str, scale: Fraction) -> Path:
    """Return the file of the network of this size (one of BUNDLED_SIZES) and scale factor.

    Raises:
        UsageError: the size has no network for this scale factor.
    """
    available = list_scales(size)
    if scale not in available:
        rule = ", ".join(format_value(found) for found in available)
        raise UsageError(f"scale: must be {rule} for the bundled network {size}, got {format_value(scale)}")
    return FOLDER / f"{size}-{scale.numerator}x{scale.denominator}.onnx"


def list_scales(size: str) -> list[Fraction]:
    """Return the scale factors of the networks of a size."""
    return sorted(Fraction(path.stem.partition("-")[2].replace("x", "/")) for path in FOLDER.glob(f"{size}-*.onnx"))
