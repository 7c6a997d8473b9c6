"""Upscales images of any size with any model, in overlapping tiles."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from loupe.config.fields import get_block_sides
from loupe.upscalers.geometry import Geometry

TILE = 256  # side of a tile in input pixels, without the halo (the overlap with other tiles)


class UpscalingModel(Protocol):
    """The interface of networks, ridge and filters that upscale grey images."""

    geometry: Geometry

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images.

        Args:
            images: float32, (n, h, w, 1) in [-1, 1]; h and w are at least `min_side` and multiples of q. A
                conditioned model takes a second channel in [0, 1]; see `Geometry.condition`.

        Returns:
            float32, (n, h p/q, w p/q, 1), not clipped.
        """
        ...


class SelfEnsemble:
    """Averages a model's results for the 8 flips and rotations of an image, as in Timofte et al. (2016)."""

    def __init__(self, model: UpscalingModel) -> None:
        self.geometry = model.geometry
        self._model = model

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`."""
        total = np.zeros((), "float32")
        for flipped in (False, True):
            for quarters in range(4):
                rotated = np.rot90(images[:, :, ::-1] if flipped else images, quarters, axes=(1, 2))
                large = np.rot90(self._model(np.ascontiguousarray(rotated)), -quarters, axes=(1, 2))
                total = total + (large[:, :, ::-1] if flipped else large)
        return total / 8


def upscale(
    model: UpscalingModel, images: np.ndarray, recompose: str = "concatenate", tile: int = TILE
) -> np.ndarray:
    """Upscale images of any size, at least 1x1.

    Args:
        model: a network or a baseline.
        images: float32, (n, h, w, 1) in [-1, 1]. A second channel can contain the strength of JPEG artefacts in
            [0, 1], which is 0 by default.
        recompose: `concatenate` places blocks next to each other. `gaussian` averages overlapping blocks with
            Gaussian weights, which removes seams.
        tile: side of a tile in input pixels, without the halo. It is rounded down to whole blocks, but to at least
            `min_side`.

    Returns:
        float32, (n, floor(h scale + 1/2), floor(w scale + 1/2), 1), clipped to [-1, 1].
    """
    geometry = model.geometry
    height, width = images.shape[1:3]
    images = match_channels(images.astype("float32", copy=False), geometry.channels)
    shifts = _list_shifts(geometry) if recompose == "gaussian" else [0]
    if len(shifts) == 1:
        large = _upscale_shifted(model, images, 0, 0, tile)
    else:
        large = np.zeros((), "float32")
        total = np.zeros((), "float32")
        for down in shifts:
            for right in shifts:
                weights = _compute_block_weights(geometry, height, width, down, right)
                large = large + weights * _upscale_shifted(model, images, down, right, tile)
                total = total + weights
        large = large / total
    rows, columns = (int(side * geometry.scale + 0.5) for side in (height, width))
    return np.clip(large[:, :rows, :columns], -1, 1)


def match_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Return images, (n, h, w, 1 or 2), with this number of channels. An added channel is 0 (no artefacts)."""
    if images.shape[3] < channels:
        return np.concatenate([images, np.zeros_like(images)], axis=-1)
    return images[..., :channels]


class AssumedStrength:
    """Lets a conditioned model take grey images: all pixels get the same strength of artefacts, in [0, 1]."""

    def __init__(self, model: UpscalingModel, strength: float) -> None:
        self.geometry = replace(model.geometry, condition="none")
        self._model, self._strength = model, strength

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`."""
        return self._model(np.concatenate([images, np.full_like(images, self._strength)], axis=-1))


class ArtefactSwitch:
    """Uses one model for images with few JPEG artefacts, and a conditioned model for the others.

    Args:
        clean: an unconditioned model.
        conditioned: a model whose geometry differs only in `condition`.
        limit: the maximum strength of the artefacts for `clean`, in [0, 1].

    Attributes:
        device, fallback: as those of `clean`; see `onnx.OnnxUpscaler`.
    """

    def __init__(self, clean: UpscalingModel, conditioned: UpscalingModel, limit: float) -> None:
        self.geometry = conditioned.geometry
        self.device, self.fallback = getattr(clean, "device", ""), getattr(clean, "fallback", "")
        self._clean, self._conditioned, self._limit = clean, conditioned, limit

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`. All pixels of an image have the same strength."""
        is_clean = images[:, 0, 0, 1] <= self._limit
        if is_clean.all():
            return self._clean(np.ascontiguousarray(images[..., :1]))
        if not is_clean.any():
            return self._conditioned(images)
        return np.concatenate([self(images[index : index + 1]) for index in range(len(images))])


def upscale_rows(
    model: UpscalingModel, rows: Callable[[int, int], np.ndarray], height: int, result_rows: range, tile: int = TILE
) -> np.ndarray:
    """Compute some rows of `upscale(..., recompose="gaussian")`.

    Args:
        model: as in `upscale`.
        rows: a function that takes the number of the first row and the number of the row after the last row, and
            returns these rows of the image, float32 (rows, width) in [-1, 1].
        height: the height of the image.
        result_rows: the rows of the result to compute.
        tile: as in `upscale`.

    Returns:
        float32, (len(result_rows), floor(width scale + 1/2)), clipped to [-1, 1].
    """
    geometry = model.geometry
    margin = geometry.halo + geometry.q
    begin = max(0, int(result_rows.start / geometry.scale) - margin) // geometry.q * geometry.q
    end = min(height, int(result_rows.stop / geometry.scale) + 1 + margin)
    large = upscale(model, rows(begin, end)[None, ..., None], "gaussian", tile)[0, ..., 0]
    first_row = int(begin * geometry.scale)
    return large[result_rows.start - first_row : result_rows.stop - first_row]


def _list_shifts(geometry: Geometry) -> list[int]:
    """Return the shifts of the blocks in pixels of the image.

    The distance between shifts is the largest divisor of q, up to q/2, that the scale factor maps to whole pixels.
    Blocks of the smallest size for the scale factor are not shifted: the result is [0].
    """
    if geometry.q == get_block_sides(geometry.scale)[0]:
        return [0]
    unit = geometry.scale.denominator
    steps = [step for step in range(unit, geometry.q // 2 + 1, unit) if geometry.q % step == 0]
    return list(range(0, geometry.q, steps[-1])) if steps else [0]


def _pad_side(side: int, shift: int, geometry: Geometry) -> int:
    """Return the side of a padded image: whole blocks for `side + shift` pixels, but at least `min_side`."""
    return max(-(-(side + shift) // geometry.q) * geometry.q, geometry.min_side)


def _upscale_shifted(model: UpscalingModel, images: np.ndarray, down: int, right: int, tile: int) -> np.ndarray:
    """Upscale images with `down` mirrored rows at the top and `right` mirrored columns on the left; crop the result.

    Mirrored pixels at the bottom and on the right complete the blocks.
    """
    geometry = model.geometry
    _, height, width, _ = images.shape
    rows, columns = _pad_side(height, down, geometry), _pad_side(width, right, geometry)
    margins = ((0, 0), (down, rows - height - down), (right, columns - width - right), (0, 0))
    large = _upscale_tiles(model, np.pad(images, margins, mode="symmetric"), tile)
    top, left = (int(shift * geometry.scale) for shift in (down, right))
    rows, columns = (-int(-side * geometry.scale // 1) for side in (height, width))  # rounded up
    return large[:, top : top + rows, left : left + columns]


def compute_largest_input(geometry: Geometry) -> int:
    """Return the largest side of the tiles, with halo, that a model takes as input."""
    return _compute_core(geometry, TILE) + 2 * geometry.halo


def _compute_core(geometry: Geometry, tile: int) -> int:
    """Return the side of a tile without the halo, a multiple of q."""
    core = max(geometry.min_side, tile // geometry.q * geometry.q)
    return -(-core // geometry.q) * geometry.q


def _upscale_tiles(model: UpscalingModel, images: np.ndarray, tile: int) -> np.ndarray:
    geometry = model.geometry
    count, height, width, _ = images.shape
    core = _compute_core(geometry, tile)
    if height <= core and width <= core:
        return model(images)
    scale = geometry.scale
    large = np.empty((count, int(height * scale), int(width * scale), 1), "float32")
    for y, from_y, to_y in _list_spans(height, core, geometry):
        for x, from_x, to_x in _list_spans(width, core, geometry):
            part = model(images[:, from_y:to_y, from_x:to_x])
            top, left, side = int(y * scale), int(x * scale), int(core * scale)
            halo_rows, halo_columns = int((y - from_y) * scale), int((x - from_x) * scale)
            part = part[:, halo_rows : halo_rows + side, halo_columns : halo_columns + side]
            large[:, top : top + side, left : left + side] = part[:, : large.shape[1] - top, : large.shape[2] - left]
    return large


def _list_spans(side: int, core: int, geometry: Geometry) -> list[tuple[int, int, int]]:
    """Return for each tile along a side: its start, and the start and stop of the model's input."""
    spans = []
    for start in range(0, side, core):
        stop = min(side, start + core + geometry.halo)
        begin = min(max(0, start - geometry.halo), stop - geometry.min_side)
        spans.append((start, max(0, begin) // geometry.q * geometry.q, stop))
    return spans


def _compute_block_weights(geometry: Geometry, height: int, width: int, down: int, right: int) -> np.ndarray:
    """Return the weight of each result pixel: a Gaussian around the centre of its block, with sigma p/4."""
    p = geometry.p
    profile = np.exp(-0.5 * np.square((np.arange(p) - (p - 1) / 2) / (p / 4))).astype("float32")
    sides = []
    for side, shift in ((height, down), (width, right)):
        start, count = int(shift * geometry.scale), -int(-side * geometry.scale // 1)
        sides.append(profile[(start + np.arange(count)) % p])
    return (sides[0][:, None] * sides[1][None, :])[None, ..., None]
