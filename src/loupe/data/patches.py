"""Turns pairs into training batches: crops at random places, flipped and turned, from (seed, step) alone."""

import numpy as np

from loupe.data.dataset import Pairs
from loupe.errors import UsageError
from loupe.imaging.conversion import to_floats

HELD = 2**31  # bytes of images that are held in memory, since cutting from there is ten times as fast


class Patches:
    """Draws the batch of any step anew, so that a resumed training sees what an unbroken one would have.

    Args:
        pairs: images to cut from.
        side: of a crop of the input, in pixels.
        crops: `aligned`: only offsets that fall on whole label pixels. `any`: every offset, with the label
            from the rounded-down place (the study's; at 3:2 odd ones are half a pixel off).
        augment: flips and quarter turns.
        seed: with the step, what the batch derives from.

    Raises:
        UsageError: the crop is larger than the inputs.
    """

    def __init__(self, pairs: Pairs, side: int, crops: str, augment: bool, seed: int) -> None:
        if side > pairs.sides[0]:
            raise UsageError(f"patch, crop: must be at most the inputs' side of {pairs.sides[0]}, got {side}")
        self._pairs = pairs
        count, (small, large) = len(pairs), pairs.sides
        self._held = pairs.stack() if count * (small**2 + large**2) <= HELD else None
        self._side = side
        self._stride = pairs.scale.denominator if crops == "aligned" else 1
        self._augment = augment
        self._seed = seed

    def batch(self, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Of this step: inputs (size, side, side, 1) and labels, float32 in [-1, 1]."""
        rng = np.random.default_rng([self._seed, step])
        return self._cut(rng.integers(len(self._pairs), size=size), rng)

    def draw_from_each(self, draw: int) -> tuple[np.ndarray, np.ndarray]:
        """Of this draw: one patch of every pair, in order; as `batch` gives them."""
        return self._cut(np.arange(len(self._pairs)), np.random.default_rng([self._seed, draw]))

    def _cut(self, chosen: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size, side, scale = len(chosen), self._side, self._pairs.scale
        large = int(side * scale)
        places = (self._pairs.sides[0] - side) // self._stride + 1
        offsets = rng.integers(places, size=(size, 2)) * self._stride
        turns = rng.integers(8, size=size) if self._augment else np.zeros(size, int)
        corners = (offsets * scale.numerator) // scale.denominator
        if self._held is not None:
            inputs, labels = (
                cut_squares(images, chosen, at, side)
                for images, at, side in zip(self._held, (offsets, corners), (side, large), strict=True)
            )
        else:
            pairs = [self._pairs[index] for index in chosen]
            inputs, labels = (
                np.stack([pair[part][y : y + side, x : x + side] for pair, (y, x) in zip(pairs, at, strict=True)])
                for part, at, side in ((0, offsets, side), (1, corners, large))
            )
        for turn in np.unique(turns[turns > 0]):
            those = turns == turn
            inputs[those], labels[those] = apply_symmetry(inputs[those], turn), apply_symmetry(labels[those], turn)
        return to_floats(inputs)[..., None], to_floats(labels)[..., None]


def cut_squares(images: np.ndarray, chosen: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Squares of images (count, height, width): of image chosen[i] from corners[i] on; (n, side, side)."""
    views = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2))
    return views[chosen, corners[:, 0], corners[:, 1]]


def apply_symmetry(images: np.ndarray, turn: int) -> np.ndarray:
    """Squares (…, side, side), turned by `turn` % 4 quarters, and flipped from 4 on: 8 ways in all."""
    if turn >= 4:
        images = images[..., ::-1]
    return np.rot90(images, turn % 4, axes=(-2, -1))
