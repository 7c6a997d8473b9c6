"""Any image through any model: pad, tile, overlap, cut, clip."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from loupe.upscalers.geometry import Geometry


class UpscalingModel(Protocol):
    """The face of a model: what it must be given, and what it makes of it."""

    geometry: Geometry

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Float32 (n, h, w, 1) in [-1, 1], h and w multiples of q, to (n, h p/q, w p/q, 1)."""
        ...


class SelfEnsemble:
    """The mean of what a model makes of the eight turns and flips of a image, each turned back.

    The errors that depend on the direction cancel out, in eight times the time (Timofte et al. 2016, enhanced
    prediction; «self-ensemble»).

    Args:
        model: that is asked eight times.
    """

    def __init__(self, model: UpscalingModel) -> None:
        self.geometry = model.geometry
        self._model = model

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Float32 (n, h, w, 1) in [-1, 1] to (n, h p/q, w p/q, 1); h, w multiples of q."""
        total = np.zeros((), "float32")
        for flipped in (False, True):
            for quarters in range(4):
                turned = np.rot90(images[:, :, ::-1] if flipped else images, quarters, axes=(1, 2))
                large = np.rot90(self._model(np.ascontiguousarray(turned)), -quarters, axes=(1, 2))
                total = total + (large[:, :, ::-1] if flipped else large)
        return total / 8


def upscale(model: UpscalingModel, images: np.ndarray, recompose: str = "concatenate", tile: int = 256) -> np.ndarray:
    """Upscale images of any size, from 1x1.

    Args:
        model: a network, by Keras or onnxruntime, or a baseline.
        images: float32, (n, h, w, 1) in [-1, 1].
        recompose: `concatenate`: blocks side by side. `gaussian`: the image is upscaled once for every
            aligned shift of the blocks, and each block counts by a Gaussian around its middle, so that no
            seam is left; a model whose blocks are the smallest of the scale has nothing to overlap.
        tile: side, in small pixels, of what the model is given at once beside its halo. The result does not
            depend on it, but for rounding.

    Returns:
        float32, (n, floor(h scale + 1/2), floor(w scale + 1/2), 1), clipped to [-1, 1].
    """
    geometry = model.geometry
    height, width = images.shape[1:3]
    images = images.astype("float32", copy=False)
    shifts = _shifts(geometry) if recompose == "gaussian" else [0]
    if len(shifts) == 1:
        large = _padded(model, images, 0, 0, tile)
    else:
        large = np.zeros((), "float32")
        total = np.zeros((), "float32")
        for down in shifts:
            for right in shifts:
                weights = _block_gaussian(geometry, height, width, down, right)
                large = large + weights * _padded(model, images, down, right, tile)
                total = total + weights
        large = large / total
    rows, columns = (int(side * geometry.scale + 0.5) for side in (height, width))
    return np.clip(large[:, :rows, :columns], -1, 1)


def upscale_rows(
    model: UpscalingModel, rows: Callable[[int, int], np.ndarray], height: int, top: int, bottom: int, tile: int = 256
) -> np.ndarray:
    """Some rows of an upscaled image, equal to those of the whole; blocks overlap where they can.

    Args:
        model: as `upscale` takes it.
        rows: gives rows of the small image from one to before another, float32 (rows, width) in [-1, 1].
        height: of the small image.
        top: the first row of the large image to make.
        bottom: the row behind the last.
        tile: as `upscale` takes it.

    Returns:
        float32, (bottom - top, floor(width scale + 1/2)), clipped to [-1, 1].
    """
    geometry = model.geometry
    margin = geometry.halo + geometry.q  # a block shifted against the others begins a block further out
    begin = max(0, int(top / geometry.scale) - margin) // geometry.q * geometry.q
    end = min(height, int(bottom / geometry.scale) + 1 + margin)
    large = upscale(model, rows(begin, end)[None, ..., None], "gaussian", tile)[0, ..., 0]
    above = int(begin * geometry.scale)
    return large[top - above : bottom - above]


def _shifts(geometry: Geometry) -> list[int]:
    """Shifts of the blocks that fall on whole large pixels: steps of at most half a block that divide it."""
    aligned = geometry.scale.denominator
    steps = [step for step in range(aligned, geometry.q // 2 + 1, aligned) if geometry.q % step == 0]
    return list(range(0, geometry.q, steps[-1])) if steps else [0]


def _covered(side: int, shift: int, geometry: Geometry) -> int:
    """The padded side: whole blocks that cover `shift` pixels in front and the image."""
    return max(-(-(side + shift) // geometry.q) * geometry.q, geometry.min_side)


def _padded(model: UpscalingModel, images: np.ndarray, down: int, right: int, tile: int) -> np.ndarray:
    """Upscale with `down` rows and `right` columns mirrored in front, and cut those off again.

    Returns at least (n, ceil(h scale), ceil(w scale), 1), cut to the same size for every shift.
    """
    geometry = model.geometry
    _, height, width, _ = images.shape
    rows, columns = _covered(height, down, geometry), _covered(width, right, geometry)
    beyond = ((0, 0), (down, rows - height - down), (right, columns - width - right), (0, 0))
    large = _tiled(model, np.pad(images, beyond, mode="symmetric"), tile)
    top, left = (int(shift * geometry.scale) for shift in (down, right))
    bottom, end = (-int(-side * geometry.scale // 1) for side in (height, width))  # rounded up
    return large[:, top : top + bottom, left : left + end]


def _tiled(model: UpscalingModel, images: np.ndarray, tile: int) -> np.ndarray:
    geometry = model.geometry
    count, height, width, _ = images.shape
    core = max(geometry.min_side, tile // geometry.q * geometry.q)
    core = -(-core // geometry.q) * geometry.q
    if height <= core and width <= core:
        return model(images)
    scale = geometry.scale
    large = np.empty((count, int(height * scale), int(width * scale), 1), "float32")
    for y, from_y, to_y in _spans(height, core, geometry):
        for x, from_x, to_x in _spans(width, core, geometry):
            part = model(images[:, from_y:to_y, from_x:to_x])
            at_y, at_x, side = int(y * scale), int(x * scale), int(core * scale)
            inner_y, inner_x = int((y - from_y) * scale), int((x - from_x) * scale)
            part = part[:, inner_y : inner_y + side, inner_x : inner_x + side]
            large[:, at_y : at_y + side, at_x : at_x + side] = part[
                :, : large.shape[1] - at_y, : large.shape[2] - at_x
            ]
    return large


def _spans(side: int, core: int, geometry: Geometry) -> list[tuple[int, int, int]]:
    """Along one side: where each tile starts, and from where to where the model looks for it."""
    spans = []
    for start in range(0, side, core):
        stop = min(side, start + core + geometry.halo)
        begin = min(max(0, start - geometry.halo), stop - geometry.min_side)
        spans.append((start, max(0, begin) // geometry.q * geometry.q, stop))
    return spans


def _block_gaussian(geometry: Geometry, height: int, width: int, down: int, right: int) -> np.ndarray:
    """How much each large pixel counts: a Gaussian of a quarter block around the middle of its block."""
    p = geometry.p
    along = np.exp(-0.5 * np.square((np.arange(p) - (p - 1) / 2) / (p / 4))).astype("float32")
    sides = []
    for side, shift in ((height, down), (width, right)):
        start, count = int(shift * geometry.scale), -int(-side * geometry.scale // 1)
        sides.append(along[(start + np.arange(count)) % p])
    return (sides[0][:, None] * sides[1][None, :])[None, ..., None]
