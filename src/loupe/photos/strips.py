"""Upscales an image strip by strip: luminance by a network, colour and alpha by Lanczos."""

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from loupe.imaging.luminance import compute_relative_luminance, get_weights
from loupe.imaging.threads import count_cores, run_in_order
from loupe.photos.networks import LoadedModel
from loupe.photos.rows import (
    ChromaRows,
    LuminanceRows,
    ResizedRows,
    Rows,
    UpscaledRows,
    VisibleColours,
    resize_bands,
)
from loupe.photos.sizes import FittedSize
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.tiling import UpscalingModel

STRIP_ROWS = 128  # approximate number of photo rows per strip, so that a strip fits into a core's cache
MAX_PIXELS_IN_WORK = 8_000_000  # result pixels that all threads compute at a time
WORK_BYTES = 60  # memory to compute a strip, in bytes per result pixel of the strip and its margins
WAITING_COPIES = 3  # a computed strip can wait as pixels and, for PNG, also as filtered and compressed bytes
RELATIVE_STEPS = 8  # iterations of `_solve_green`; after them, the error is below 1/255


def upscale_strips(pixels: np.ndarray, size: FittedSize, model: UpscalingModel | None) -> Iterator[np.ndarray]:
    """Upscale an image, from top to bottom.

    Colour is upscaled as R - G and B - G; these differences and the luminance define all colours.

    Args:
        pixels: as in `ImageData`.
        size: Lanczos resizes the network's result to `size.upscaled`. Then the result is cropped to `size.cropped`.
        model: the network; None only crops the image.

    Yields:
        Arrays of the pixels' dtype, (rows, width, bands).
    """
    (width, height), (cropped_width, cropped_height) = size.upscaled, size.cropped
    left, top = (width - cropped_width) // 2, (height - cropped_height) // 2
    columns, end = slice(left, left + cropped_width), top + cropped_height
    if model is None:
        yield pixels[top:end, columns]
        return
    upscale = _StripUpscaler(pixels, size.upscaled, model)
    rows = _choose_strip_rows(size.upscaled, pixels.shape[0], model.geometry, count_cores())
    strips = run_in_order(partial(upscale, begin, min(begin + rows, end)) for begin in range(top, end, rows))
    yield from (strip[:, columns] for strip in strips)


def estimate_memory(size: tuple[int, int], upscaled: tuple[int, int], loaded: LoadedModel, pixel_bytes: int) -> int:
    """Estimate the maximum bytes of `upscale_strips`, without the image and the whole result.

    `size` and `upscaled` are width and height of the image and of its result before the crop. The image has
    `pixel_bytes` bytes per pixel.
    """
    geometry, thread_count = loaded.model.geometry, count_cores()
    rows = _choose_strip_rows(upscaled, size[1], geometry, thread_count)
    strips = -(-upscaled[1] // rows)
    computed_rows = min(rows + 2 * math.ceil((geometry.halo + geometry.q) * upscaled[1] / size[1]), upscaled[1])
    work_bytes = min(thread_count, strips) * (computed_rows * upscaled[0] * WORK_BYTES + loaded.layer_bytes)
    waiting_bytes = min(3 * thread_count + 1, strips) * rows * upscaled[0] * WAITING_COPIES * pixel_bytes
    return work_bytes + waiting_bytes


class _StripUpscaler:
    """Computes rows of an upscaled image before the crop."""

    def __init__(self, pixels: np.ndarray, size: tuple[int, int], model: UpscalingModel) -> None:
        self._size, self._bands, self._dtype = size, pixels.shape[2], pixels.dtype
        self._formula = model.geometry.luminance
        self._colours = VisibleColours(pixels)
        self._chroma = ChromaRows(self._colours)
        self._alpha = VisibleColours(pixels[..., -1:])  # the last band, used only if it is alpha
        self._luminance: Rows = UpscaledRows(LuminanceRows(self._colours, self._formula), model)
        step = 1 / float(model.geometry.scale)
        self._steps = step, step
        if self._luminance.size != size:
            self._luminance = ResizedRows(self._luminance, size)
            self._steps = self._colours.width / size[0], self._colours.height / size[1]

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """Compute rows from `top` to `bottom` (exclusive). The shape is (bottom - top, width, bands)."""
        width, white = self._size[0], np.iinfo(self._dtype).max
        bands = [(self._luminance(top, bottom) + 1) * np.float32(white / 2)]
        if self._colours.bands == 3:
            red, blue = resize_bands(self._chroma, top, bottom, width, self._steps)
            green = _solve_green(bands[0], (red, blue), self._formula, white)
            bands = [green + red, green, green + blue]
        if self._bands > self._colours.bands:
            bands += resize_bands(self._alpha, top, bottom, width, self._steps)
        strip = np.empty((bottom - top, width, len(bands)), self._dtype)
        for number, band in enumerate(bands):
            strip[..., number] = np.clip(np.rint(band, out=band), 0, white, out=band)
        return strip


def _choose_strip_rows(size: tuple[int, int], height: int, geometry: Geometry, thread_count: int) -> int:
    """Choose the height of strips in rows of the result, so that all threads are busy until the end.

    The network also computes a margin around each strip. Therefore thin strips are slow. `size` is width and height
    of the upscaled image, and `height` is the height of the photo.
    """
    min_rows = 4 * (geometry.halo + geometry.q)
    rounds = max(1, round(height / max(STRIP_ROWS, min_rows) / thread_count))
    count = max(1, min(rounds * thread_count, height // min_rows))
    return min(-(-size[1] // count), max(16, MAX_PIXELS_IN_WORK // thread_count // size[0]))


def _solve_green(
    grey: np.ndarray, differences: tuple[np.ndarray, np.ndarray], luminance: str, white: int
) -> np.ndarray:
    """Compute green from the luminance, red minus green, and blue minus green.

    For relative luminance, the equation for green has no closed-form solution, so the function iterates. Each step
    adds the missing luminance to all colours. This reduces the error to about half or less.

    Args:
        grey: the luminance, float32 (height, width); 0 is black. Lanczos can exceed the range from 0 to `white`.
        differences: red minus green, and blue minus green.
        luminance: `rec601`, `rec709` or `relative`.
        white: the value of white, 255 or 65535.
    """
    red, blue = differences
    weights = get_weights(luminance)
    green: np.ndarray = grey - weights[0] * red - weights[2] * blue
    for _ in range(RELATIVE_STEPS if luminance == "relative" else 0):
        colours = np.stack([green + red, green, green + blue], axis=-1) / np.float32(white)
        green = green + grey - np.float32(white) * compute_relative_luminance(colours)
    return green
