"""Rows of an upscaled page, computed when they are asked for: a page of any size in bounded memory.

Each class is a image of which only the rows that somebody asks for exist; it asks the one below it for what it
needs, with the margin that its filter or network looks at. The result does not depend on how the rows are asked for.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Protocol

import numpy as np
from PIL import Image

from loupe.imaging.luminance import REC_601, REC_709, relative_luminance
from loupe.imaging.threads import count_cores, run_in_order
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.tiling import UpscalingModel, upscale_rows

SUPPORT = 3  # source pixels that Lanczos looks at to each side when it upscales
STRIP = 128  # rows of the photo that a thread upscales at once: few enough to stay in the cache of its core
IN_WORK = 8_000_000  # pixels of the result that all threads together have in work at most, where photos are wide
RELATIVE_STEPS = 8  # each leaves at most half of the error, of pure blue; after them it is below 1 of 255
LEVELS = 5  # halvings over which visible colour spreads below what is transparent: 32 pixels, twice a halo


class Rows(Protocol):
    """A grey image, float32 in [-1, 1].

    Args:
        size: width and height.
        extent: width and height in exact numbers; at 3:2 an odd side ends in the middle of a pixel.
    """

    size: tuple[int, int]
    extent: tuple[float, float]

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """Rows from top to before bottom, (bottom - top, width)."""
        ...


class Visible:
    """The colours of a page; what is transparent takes the colour of what is visible around it.

    Networks and filters look beyond an edge of transparency, at colours that nobody is meant to see: often black,
    of which a fringe would be left.

    Args:
        pixels: uint8 or uint16, (height, width, 1..4); bands 2 and 4 have alpha last.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self._alpha = pixels.shape[2] in (2, 4)
        self.bands = pixels.shape[2] - self._alpha
        self.height, self.width = pixels.shape[:2]

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """Rows from top to before bottom, (bottom - top, width, 1 or 3), in the page's own type."""
        if not self._alpha:
            return self._pixels[top:bottom]
        step = 2**LEVELS
        begin = max(0, top - 2 * step) // step * step
        part = self._pixels[begin : bottom + 2 * step]
        colour = part[..., :-1]
        if part[..., -1].all():
            return colour[top - begin : bottom - begin]
        spread = _spread(colour.astype("float32"), part[..., -1:].astype("float32"), LEVELS)
        filled = np.where(part[..., -1:] > 0, colour, np.rint(spread).astype(part.dtype))
        return filled[top - begin : bottom - begin]


def _spread(colour: np.ndarray, alpha: np.ndarray, levels: int) -> np.ndarray:
    """Colours, (height, width, bands), where alpha, (height, width, 1), is 0: means of the visible ones around."""
    if levels == 0 or alpha.all():
        return colour
    height, width = alpha.shape[:2]
    even = ((0, height % 2), (0, width % 2), (0, 0))

    def halved(values: np.ndarray) -> np.ndarray:
        values = np.pad(values, even)
        return values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]

    weight = halved(alpha)
    mean = np.where(weight > 0, halved(colour * alpha) / np.maximum(weight, 1e-6), 0)
    coarse = _spread(mean, weight, levels - 1)
    doubled = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(alpha > 0, colour, doubled)


class Luminance:
    """Luminance of a page's colours, in the encoding of its file, as `compute_luminance` makes it for training.

    Args:
        visible: the colours.
        luminance: `rec601`, `rec709` or `relative`.
    """

    def __init__(self, visible: Visible, luminance: str) -> None:
        self._visible, self._luminance = visible, luminance
        self.size = visible.width, visible.height
        self.extent = float(visible.width), float(visible.height)

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """As `Rows`."""
        colour = self._visible(top, bottom)
        half = np.float32(np.iinfo(colour.dtype).max / 2)
        if colour.shape[2] == 3 and self._luminance == "relative":
            return 2 * relative_luminance(colour.astype("float32") / (2 * half)) - 1
        weights = _weights_of(self._luminance)
        grey = _weighed(colour, weights) if colour.shape[2] == 3 else colour[..., 0].astype("float32")
        return grey / half - 1


class Chroma:
    """Red minus green and blue minus green, float32 (bottom - top, width, 2): all 0 of what is grey."""

    def __init__(self, visible: Visible) -> None:
        self._visible = visible
        self.height, self.width = visible.height, visible.width

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """Rows from top to before bottom."""
        colour = self._visible(top, bottom).astype("float32")
        return colour[..., ::2] - colour[..., 1:2]


class Enlarged:
    """What a network makes of the rows below it."""

    def __init__(self, below: Rows, model: UpscalingModel) -> None:
        self._below, self._model = below, model
        scale = model.geometry.scale
        self.size = int(below.size[0] * scale + 0.5), int(below.size[1] * scale + 0.5)
        exact = (side * float(scale) for side in below.extent)
        width, height = (min(side, there) for side, there in zip(exact, self.size, strict=True))
        self.extent = width, height

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """As `Rows`."""
        return upscale_rows(self._model, self._below, self._below.size[1], range(top, bottom))


class Resized:
    """The rows below, shrunk or upscaled by Lanczos to another size."""

    def __init__(self, below: Rows, size: tuple[int, int]) -> None:
        self._below, self.size = below, size
        self.extent = float(size[0]), float(size[1])

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """As `Rows`."""
        step = self._below.extent[1] / self.size[1]
        begin, end = _reach(top, bottom, step, self._below.size[1])
        image = Image.fromarray(self._below(begin, end))
        box = (0, top * step - begin, self._below.extent[0], min(bottom * step - begin, image.height))
        return np.asarray(image.resize((self.size[0], bottom - top), Image.Resampling.LANCZOS, box=box))


def strips(pixels: np.ndarray, size: tuple[int, int], model: UpscalingModel | None) -> Iterator[np.ndarray]:
    """A page upscaled, from top to bottom: luminance by a network, colour and alpha by Lanczos.

    Two differences of colours are upscaled, which with the luminance tell all three: what is grey stays grey.

    Args:
        pixels: uint8 or uint16, (height, width, 1..4): grey, grey and alpha, RGB, or RGB and alpha.
        size: width and height of the result; Lanczos makes it of what the network makes.
        model: the network; None for the page as it is.

    Yields:
        (rows, width, bands), in the type of the page.
    """
    if model is None:
        yield pixels
        return
    visible = Visible(pixels)
    luminance: Rows = Enlarged(Luminance(visible, model.geometry.luminance), model)
    step = 1 / float(model.geometry.scale)
    steps = step, step  # small pixels to a large one, across and down
    if luminance.size != size:
        luminance = Resized(luminance, size)
        steps = visible.width / size[0], visible.height / size[1]
    full = np.iinfo(pixels.dtype).max
    chroma, opaque = Chroma(visible), Visible(pixels[..., -1:])

    def strip(top: int, bottom: int) -> np.ndarray:
        bands = [(luminance(top, bottom) + 1) * np.float32(full / 2)]
        if visible.bands == 3:
            red, blue = _lanczos(chroma, top, bottom, size[0], steps)
            green = _green_of(bands[0], red, blue, model.geometry.luminance, full)
            bands = [green + red, green, green + blue]
        if pixels.shape[2] > visible.bands:
            bands += _lanczos(opaque, top, bottom, size[0], steps)
        large = np.empty((bottom - top, size[0], len(bands)), pixels.dtype)
        for number, band in enumerate(bands):
            large[..., number] = np.clip(np.rint(band, out=band), 0, full, out=band)
        return large

    rows = _rows_of_a_strip(size, visible.height, model.geometry, count_cores())
    yield from run_in_order(partial(strip, top, min(top + rows, size[1])) for top in range(0, size[1], rows))


def _rows_of_a_strip(size: tuple[int, int], height: int, geometry: Geometry, at_once: int) -> int:
    """Rows of the result: strips are of one height, and as many as keep all threads at work to the end.

    Beside a strip the network looks at a margin, so that thin ones cost more work than threads give back.
    """
    least = 4 * (geometry.halo + geometry.q)
    turns = max(1, round(height / max(STRIP, least) / at_once))
    count = max(1, min(turns * at_once, height // least))
    return min(-(-size[1] // count), max(16, IN_WORK // at_once // size[0]))


def _weights_of(luminance: str) -> np.ndarray:
    """The weights of red, green and blue; they sum to 1."""
    return REC_601 if luminance == "rec601" else REC_709


def _green_of(grey: np.ndarray, red: np.ndarray, blue: np.ndarray, luminance: str, full: int) -> np.ndarray:
    """The green that gives a luminance together with two colour differences.

    Relative luminance has no closed form for it: a step adds the missing luminance to all three colours, of which
    the result gains at least half. Grey is exact after one step. The caller clips the colours.

    Args:
        grey: the luminance, float32 (height, width), 0 to `full`.
        red: red minus green.
        blue: blue minus green.
        luminance: `rec601`, `rec709` or `relative`.
        full: the value of white.
    """
    weights = _weights_of(luminance)
    green: np.ndarray = grey - weights[0] * red - weights[2] * blue
    for _ in range(RELATIVE_STEPS if luminance == "relative" else 0):
        colours = np.stack([green + red, green, green + blue], axis=-1) / np.float32(full)
        green = green + grey - np.float32(full) * relative_luminance(colours)
    return green


def _weighed(colour: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(height, width, 3) of any type times the weights, float32 (height, width)."""
    total = colour[..., 0] * weights[0]
    for band in (1, 2):
        total += colour[..., band] * weights[band]
    return total


def _reach(top: int, bottom: int, step: float, height: int) -> tuple[int, int]:
    """The source rows that Lanczos looks at for rows of the result; `step` source rows to a row."""
    reach = SUPPORT * max(step, 1) + 1
    return max(0, math.floor(top * step - reach)), min(height, math.ceil(bottom * step + reach))


def _lanczos(
    planes: Visible | Chroma, top: int, bottom: int, width: int, steps: tuple[float, float]
) -> list[np.ndarray]:
    """Rows of planes by Lanczos alone, float32 (bottom - top, width) each."""
    across, down = steps
    begin, end = _reach(top, bottom, down, planes.height)
    part = planes(begin, end)
    ends = bottom * down - begin, width * across
    beyond = [max(0, math.ceil(end - side - 1e-6)) for end, side in zip(ends, part.shape[:2], strict=True)]
    if any(beyond):  # half a pixel at 3:2
        part = np.pad(part, ((0, beyond[0]), (0, beyond[1]), (0, 0)), mode="edge")
    box = (0.0, top * down - begin, min(ends[1], part.shape[1]), min(ends[0], part.shape[0]))

    def resized(band: int) -> np.ndarray:
        # in floats: Pillow clips 8 bits between its two passes, in an order that depends on the sizes
        plane = Image.fromarray(part[..., band].astype("float32"))
        return np.array(plane.resize((width, bottom - top), Image.Resampling.LANCZOS, box=box))

    return [resized(band) for band in range(part.shape[2])]
