"""Estimates the quality of a JPEG from its quantisation table, and converts qualities to artefact strengths."""

from typing import Any

import numpy as np
from PIL import Image

MAX_QUALITY = 100
FULL_STRENGTH_QUALITY = 10  # the strength is 1 at this quality and below
# Quantisation table for luminance at quality 50 (ITU-T T.81, table K.1)
LUMINANCE_TABLE = np.array(
    [16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
     51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121,
     120, 101, 72, 92, 95, 98, 112, 100, 103, 99]
)  # fmt: skip


def read_jpeg_quality(image: Image.Image) -> int | None:
    """Return the quality of an opened JPEG, 1 to 100; None for other files.

    This is the quality at which libjpeg's table is closest to the table of the file, by the sum of the absolute
    differences of the logarithms.
    """
    tables: dict[int, Any] = getattr(image, "quantization", None) or {}
    # The table with the lowest number is for luminance.
    table = np.maximum(np.array(tables[min(tables)]) if tables else 0, 1)
    if table.size != LUMINANCE_TABLE.size:
        return None
    percents = compute_table_percent(np.arange(1, MAX_QUALITY + 1))[:, None]
    libjpeg_tables = np.clip((LUMINANCE_TABLE * percents + 50) // 100, 1, 255)
    return int(np.abs(np.log(libjpeg_tables) - np.log(table)).sum(axis=1).argmin()) + 1


def compute_table_percent(quality: Any) -> Any:
    """Return libjpeg's factor for a quality (1 to 100), in percent.

    libjpeg multiplies the tables of quality 50 by this factor, and rounds.
    """
    return np.where(np.less(quality, 50), 5000 // np.maximum(quality, 1), 200 - 2 * quality)


def compute_strength(quality: Any) -> Any:
    """Convert JPEG qualities to the strength of the artefacts, from 0 (quality 100) to 1.

    The strength is logarithmic in the smallest quantisation step. `quality` is a number or an array.
    """
    step = _compute_smallest_step(np.clip(quality, 1, MAX_QUALITY))
    return np.minimum(np.log1p(step) / np.log1p(_compute_smallest_step(FULL_STRENGTH_QUALITY)), 1)


def _compute_smallest_step(quality: Any) -> Any:
    """Return the smallest quantisation step of a quality, not rounded."""
    return compute_table_percent(quality) / 10  # the smallest step of quality 50 is 10: 10 * percent / 100
