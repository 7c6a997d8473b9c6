"""Limits the overshoot of networks at the edges of text and line art.

Networks learn from photos to increase the contrast of thin lines, and would turn grey text into black text. The limit
hardly changes photos: at 3:2, it changes 0.01 % of the pixels of the 24 Kodak photos.
"""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from loupe.upscalers.tiling import UpscalingModel

RANGE_RADIUS = 1  # radius in pixels of the window whose lowest and highest value limit a result pixel
FLAT_RADIUS = 5  # radius in pixels of the window that is searched for line art
# Allowed overshoot, as a share of the highest minus the lowest value of the window of RANGE_RADIUS; Lanczos reaches
# this share
OVERSHOOT = np.float32(0.12)
LEVEL = np.float32(2 / 255)  # one grey level of 8 bits, on the scale from -1 to 1
MIN_EXCESS = np.float32(1.5) * LEVEL  # added to the allowed overshoot; smaller changes are hardly visible
# A window of FLAT_RADIUS shows line art if two conditions hold. Its lightest or darkest value alone fills at least
# FLAT_SHARE of its pixels. Of the pixels near one of these two values, at least EQUAL_SHARE have exactly this value.
# "Near" means a distance of at most NEAR_RANGE times the range of the window, plus half a grey level. In photos,
# noise causes values that are near, but not equal.
FLAT_SHARE, EQUAL_SHARE, NEAR_RANGE = 0.2, 0.8, np.float32(0.02)
CHUNK = 4096  # windows per batch


class LimitedOvershoot:
    """A model whose overshoot is limited where the image shows line art."""

    def __init__(self, model: UpscalingModel) -> None:
        geometry = model.geometry
        halo = -(-max(geometry.halo, FLAT_RADIUS) // geometry.q) * geometry.q
        self.geometry = replace(geometry, halo=halo)  # with a smaller halo, results would depend on tiles
        self._model = model

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`."""
        large = self._model(images)
        if not large.flags.writeable or np.may_share_memory(large, images):
            large = large.copy()
        for image, result in zip(images[..., 0], large[..., 0], strict=True):
            _limit(image, result, self.geometry.scale)
        return large


def _limit(image: np.ndarray, large: np.ndarray, scale: Fraction) -> None:
    """Limit the overshoot of an upscaled image in place."""
    padded = np.pad(image, FLAT_RADIUS, mode="edge")
    low, high = _compute_extreme(padded, np.minimum), _compute_extreme(padded, np.maximum)
    overshoot = OVERSHOOT * (high - low) + MIN_EXCESS
    low -= overshoot
    high += overshoot
    columns = _find_source(np.arange(large.shape[1]), scale)
    wide_low, wide_high = low[:, columns], high[:, columns]
    p, q = scale.numerator, scale.denominator
    exceeding = np.empty(large.shape, bool)
    for row in range(p):  # one row of all blocks at a time: twice as fast as one block at a time
        part, source = large[row::p], _find_source(row, scale)
        exceeding[row::p] = (part < wide_low[source::q]) | (part > wide_high[source::q])
    y, x = np.divmod(np.flatnonzero(exceeding), large.shape[1])  # faster than np.nonzero
    sources = _find_source(y, scale), _find_source(x, scale)
    affected = np.zeros(image.shape, bool)
    affected[sources] = True
    affected[affected] = _is_line_art(padded, *np.nonzero(affected))
    chosen = affected[sources]
    y, x = y[chosen], x[chosen]
    sources = _find_source(y, scale), _find_source(x, scale)
    large[y, x] = np.clip(large[y, x], low[sources], high[sources])


def _find_source(position: Any, scale: Fraction) -> Any:
    """Return the image's row (or column) that contains the centre of a row (or column) of the result."""
    return (2 * position + 1) * scale.denominator // (2 * scale.numerator)


def _compute_extreme(padded: np.ndarray, choose: np.ufunc) -> np.ndarray:
    """Compute the smallest or largest value within RANGE_RADIUS of each pixel."""
    margin = FLAT_RADIUS - RANGE_RADIUS
    padded = padded[margin:-margin, margin:-margin]
    rows = choose(choose(padded[:-2], padded[1:-1]), padded[2:])
    extreme: np.ndarray = choose(choose(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
    return extreme


def _is_line_art(padded: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return for each pixel whether the window around it shows line art, bool (n,)."""
    side, stride = 2 * FLAT_RADIUS + 1, padded.shape[1]
    offsets = (np.arange(side)[:, None] * stride + np.arange(side)).reshape(-1, 1)
    starts, values = rows * stride + columns, padded.ravel()
    result = np.zeros(len(rows), bool)
    for start in range(0, len(rows), CHUNK):
        window = values[offsets + starts[start : start + CHUNK]]  # (side * side, n)
        low, high = window.min(axis=0), window.max(axis=0)
        counts = np.stack([_count(window == low), _count(window == high)])
        flat = np.flatnonzero(counts.max(axis=0) >= FLAT_SHARE * side**2)  # in photos, few windows pass
        window, low, high, near = window[:, flat], low[flat], high[flat], NEAR_RANGE * (high - low)[flat] + LEVEL / 2
        close = np.stack([_count(window <= low + near), _count(window >= high - near)])
        result[start + flat] = (counts[:, flat] >= EQUAL_SHARE * close).any(axis=0)
    return result


def _count(mask: np.ndarray) -> np.ndarray:
    """Count the True values of each column. The counts are uint8, so a column must have at most 255 rows."""
    return np.add.reduce(mask.view(np.uint8), axis=0, dtype=np.uint8)
