"""Images whose rows are computed on demand, to limit the memory.

A row does not depend on which other rows are requested.
"""

import math
from typing import Protocol

import numpy as np
from PIL import Image

from loupe.imaging.formats import has_alpha
from loupe.imaging.luminance import compute_relative_luminance, get_weights
from loupe.upscalers.tiling import UpscalingModel, upscale_rows

LANCZOS_RADIUS = 3  # radius of Lanczos in source pixels; larger if it shrinks the image (see `_find_source_rows`)
# Transparent pixels up to 2**5 pixels from a visible pixel take visible colours. The halo of the bundled networks is
# smaller.
SPREAD_LEVELS = 5


class Rows(Protocol):
    """A grey image, float32; -1 is black, 1 is white. Values of `ResizedRows` can be outside of this range.

    Attributes:
        size: width and height.
        extent: the width and height before `size` was rounded up: at 3:2, 5 pixels become 7.5, and `size` has 8. If
            `size` was rounded down, `extent` is equal to `size`.
    """

    size: tuple[int, int]
    extent: tuple[float, float]

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """Compute rows from `top` to `bottom` (exclusive), (bottom - top, width)."""
        ...


class VisibleColours:
    """The colours of an image; transparent pixels take colours of nearby visible pixels (see `_spread_colour`).

    The stored colours of transparent pixels, often black, would cause a dark fringe.

    Args:
        pixels: uint8 or uint16, (height, width, bands), as in `ImageData`.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self._alpha = has_alpha(pixels.shape[2])
        self.bands = pixels.shape[2] - self._alpha
        self.height, self.width = pixels.shape[:2]

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """Compute rows from `top` to `bottom` (exclusive), (bottom - top, width, 1 or 3), dtype of the pixels."""
        if not self._alpha:
            return self._pixels[top:bottom]
        step = 2**SPREAD_LEVELS
        # Blocks begin at multiples of `step`, so that the colours do not depend on `top`.
        begin = max(0, top - 2 * step) // step * step
        part = self._pixels[begin : bottom + 2 * step]
        colour = part[..., :-1]
        if part[..., -1].all():
            return colour[top - begin : bottom - begin]
        spread = _spread_colour(colour.astype("float32"), part[..., -1:].astype("float32"), SPREAD_LEVELS)
        filled = np.where(part[..., -1:] > 0, colour, np.rint(spread).astype(part.dtype))
        return filled[top - begin : bottom - begin]


def _spread_colour(colour: np.ndarray, alpha: np.ndarray, levels: int) -> np.ndarray:
    """Fill each transparent pixel with the mean colour of a block around it, weighted by alpha.

    The image is divided into blocks of 2x2, 4x4, ... pixels. The smallest block with a visible pixel is used. If even
    the largest block has no visible pixel, its 8 neighbours are used; without a visible pixel there, the colour is 0.

    Args:
        colour: (height, width, bands).
        alpha: (height, width, 1); 0 is transparent.
        levels: the largest blocks have 2**levels x 2**levels pixels.
    """
    if alpha.all():
        return colour
    if levels == 0:
        return _fill_from_neighbours(colour, alpha)
    height, width = alpha.shape[:2]
    padding = ((0, height % 2), (0, width % 2), (0, 0))

    def sum_2x2(values: np.ndarray) -> np.ndarray:
        values = np.pad(values, padding)
        return values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]

    weight = sum_2x2(alpha)
    mean = np.where(weight > 0, sum_2x2(colour * alpha) / np.maximum(weight, 1e-6), 0)
    coarse = _spread_colour(mean, weight, levels - 1)
    doubled = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(alpha > 0, colour, doubled)


def _fill_from_neighbours(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Fill transparent pixels with the mean colour of the visible pixels among their 8 neighbours, weighted by alpha.

    Without a visible neighbour, the colour is 0.
    """
    height, width = alpha.shape[:2]
    padding = ((1, 1), (1, 1), (0, 0))
    padded = np.pad(np.concatenate([colour * alpha, alpha], axis=2), padding)
    windows = [padded[top : top + height, left : left + width] for top in range(3) for left in range(3)]
    sums = np.sum(windows, axis=0)
    weight = sums[..., -1:]
    return np.where(alpha > 0, colour, sums[..., :-1] / np.where(weight > 0, weight, 1))


class LuminanceRows:
    """The luminance of an image by the formula rec601, rec709 or relative, in [-1, 1] and not rounded."""

    def __init__(self, colours: VisibleColours, luminance: str) -> None:
        self._colours, self._luminance = colours, luminance
        self.size = colours.width, colours.height
        self.extent = float(colours.width), float(colours.height)

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """Compute rows; see `Rows`."""
        colour = self._colours(top, bottom)
        half = np.float32(np.iinfo(colour.dtype).max / 2)
        if colour.shape[2] == 3 and self._luminance == "relative":
            return 2 * compute_relative_luminance(colour.astype("float32") / (2 * half)) - 1
        if colour.shape[2] == 1:
            return colour[..., 0].astype("float32") / half - 1
        weights = get_weights(self._luminance)
        total = colour[..., 0] * weights[0]
        for band in (1, 2):
            total += colour[..., band] * weights[band]
        return total / half - 1


class ChromaRows:
    """Red minus green and blue minus green, float32 (rows, width, 2); from -255 to 255 for 8-bit pixels."""

    def __init__(self, colours: VisibleColours) -> None:
        self._colours = colours
        self.height, self.width = colours.height, colours.width

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """Compute rows from `top` to `bottom` (exclusive)."""
        colour = self._colours(top, bottom).astype("float32")
        return colour[..., ::2] - colour[..., 1:2]


class UpscaledRows:
    """The rows of `source`, upscaled by a network."""

    def __init__(self, source: Rows, model: UpscalingModel) -> None:
        self._source, self._model = source, model
        scale = model.geometry.scale
        self.size = int(source.size[0] * scale + 0.5), int(source.size[1] * scale + 0.5)
        exact = (side * float(scale) for side in source.extent)
        width, height = (min(side, rounded) for side, rounded in zip(exact, self.size, strict=True))
        self.extent = width, height

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """Compute rows; see `Rows`."""
        return upscale_rows(self._model, self._source, self._source.size[1], range(top, bottom))


class ResizedRows:
    """The rows of `source`, resized by Lanczos."""

    def __init__(self, source: Rows, size: tuple[int, int]) -> None:
        self._source, self.size = source, size
        self.extent = float(size[0]), float(size[1])

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """Compute rows; see `Rows`."""
        step = self._source.extent[1] / self.size[1]
        begin, end = _find_source_rows(top, bottom, step, self._source.size[1])
        image = Image.fromarray(self._source(begin, end))
        box = (0, top * step - begin, self._source.extent[0], min(bottom * step - begin, image.height))
        return np.asarray(image.resize((self.size[0], bottom - top), Image.Resampling.LANCZOS, box=box))


def resize_bands(
    source: VisibleColours | ChromaRows, top: int, bottom: int, width: int, steps: tuple[float, float]
) -> list[np.ndarray]:
    """Compute rows from `top` to `bottom` (exclusive) of each band by Lanczos.

    Args:
        source: the bands.
        top: the first row of the result.
        bottom: the row after the last row.
        width: the width of the result.
        steps: source pixels per pixel of the result, horizontally and vertically.

    Returns:
        One float32 array, (bottom - top, width), per band.
    """
    step_x, step_y = steps
    begin, end = _find_source_rows(top, bottom, step_y, source.height)
    part = source(begin, end)
    ends = bottom * step_y - begin, width * step_x  # bottom and right end of the area to resize, in pixels of `part`
    missing = [max(0, math.ceil(end - side - 1e-6)) for end, side in zip(ends, part.shape[:2], strict=True)]
    if any(missing):  # at 3:2, for example, the area can end a third of a source pixel outside of the image
        part = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    box = (0.0, top * step_y - begin, min(ends[1], part.shape[1]), min(ends[0], part.shape[0]))

    def resize(band: int) -> np.ndarray:
        # Pillow would clip 8-bit values between its horizontal and its vertical pass.
        plane = Image.fromarray(part[..., band].astype("float32"))
        return np.array(plane.resize((width, bottom - top), Image.Resampling.LANCZOS, box=box))

    return [resize(band) for band in range(part.shape[2])]


def _find_source_rows(top: int, bottom: int, step: float, height: int) -> tuple[int, int]:
    """Return the range of source rows that Lanczos reads for the result rows from `top` to `bottom`.

    `step` is the number of source rows per result row, and `height` is the number of all source rows.
    """
    reach = LANCZOS_RADIUS * max(step, 1) + 1
    return max(0, math.floor(top * step - reach)), min(height, math.ceil(bottom * step + reach))
