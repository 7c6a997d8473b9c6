"""The networks that ship with the package, as ONNX: a size and a scale to a file."""

from fractions import Fraction
from pathlib import Path

from loupe.errors import UsageError

SIZES = ("tiny", "small", "base")
FALLBACK = "small"  # where there is no champion yet: there is one of every scale
FOLDER = Path(__file__).parent


def file(size: str, scale: Fraction) -> Path:
    """The network of this size and scale.

    Args:
        size: one of SIZES.
        scale: large side over small side.

    Raises:
        UsageError: none of this size and scale ships.
    """
    found = FOLDER / f"{size}-{scale.numerator}x{scale.denominator}.onnx"
    if not found.is_file():
        scales = sorted(path.stem.partition("-")[2].replace("x", ":") for path in FOLDER.glob(f"{size}-*.onnx"))
        raise UsageError(
            f"scale: the bundled network {size} is for {', '.join(scales)}, got {scale.numerator}:{scale.denominator}"
        )
    return found
