"""Cuts training batches from pairs: random crops, flipped and rotated, determined by (seed, step)."""

import numpy as np

from loupe.data.dataset import Pairs
from loupe.errors import UsageError
from loupe.imaging.conversion import to_floats

MEMORY_LIMIT_BYTES = 2**31  # smaller splits are copied into memory, where cutting is ten times as fast


class Patches:
    """Draws the batch of any step, so that a resumed training continues with the same batches.

    Args:
        pairs: images to cut from.
        side: side of a crop of the input, in pixels.
        crops: `aligned` uses only offsets that are whole label pixels. `any` uses every offset, and rounds the
            offset in the label down, as in the 2016 study: at 3:2, labels at odd offsets are shifted by half a pixel.
        augment: flip and rotate each crop at random.
        seed: determines the random numbers, together with the step.

    Raises:
        UsageError: the crop is larger than the inputs.
    """

    def __init__(self, pairs: Pairs, side: int, crops: str, augment: bool, seed: int) -> None:
        if side > pairs.sides[0]:
            raise UsageError(f"patch, crop: must be at most the inputs' side of {pairs.sides[0]}, got {side}")
        self._pairs = pairs
        count, (small, large) = len(pairs), pairs.sides
        self._arrays = pairs.stack() if count * (small**2 + large**2) <= MEMORY_LIMIT_BYTES else None
        self._side = side
        self._stride = pairs.scale.denominator if crops == "aligned" else 1
        self._augment = augment
        self._seed = seed

    def draw_batch(self, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the batch of a step: inputs (size, side, side, 1) and labels, float32 in [-1, 1]."""
        rng = np.random.default_rng([self._seed, step])
        return self._cut(rng.integers(len(self._pairs), size=size), rng)

    def draw_from_each(self, draw: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw one crop of every pair, in order. Each `draw` has other positions. See `draw_batch`."""
        return self._cut(np.arange(len(self._pairs)), np.random.default_rng([self._seed, draw]))

    def _cut(self, chosen: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size, side, scale = len(chosen), self._side, self._pairs.scale
        large = int(side * scale)
        positions = (self._pairs.sides[0] - side) // self._stride + 1
        offsets = rng.integers(positions, size=(size, 2)) * self._stride
        symmetries = rng.integers(8, size=size) if self._augment else np.zeros(size, int)
        corners = (offsets * scale.numerator) // scale.denominator
        if self._arrays is not None:
            inputs, labels = (
                cut_squares(images, chosen, at, side)
                for images, at, side in zip(self._arrays, (offsets, corners), (side, large), strict=True)
            )
        else:
            pairs = [self._pairs[index] for index in chosen]
            inputs, labels = (
                np.stack([pair[part][y : y + side, x : x + side] for pair, (y, x) in zip(pairs, at, strict=True)])
                for part, at, side in ((0, offsets, side), (1, corners, large))
            )
        for symmetry in np.unique(symmetries[symmetries > 0]):
            chosen = symmetries == symmetry
            inputs[chosen] = apply_symmetry(inputs[chosen], symmetry)
            labels[chosen] = apply_symmetry(labels[chosen], symmetry)
        return to_floats(inputs)[..., None], to_floats(labels)[..., None]


def cut_squares(images: np.ndarray, chosen: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Cut n squares from images (count, height, width): square i is cut from image chosen[i] at corners[i]."""
    views = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2))
    return views[chosen, corners[:, 0], corners[:, 1]]


def apply_symmetry(images: np.ndarray, symmetry: int) -> np.ndarray:
    """Apply one of the 8 symmetries of a square to images (…, side, side).

    Args:
        images: arrays of any dtype.
        symmetry: 0 to 7. From 4 on, the images are flipped. Then they are rotated by symmetry % 4 quarter turns.
    """
    if symmetry >= 4:
        images = images[..., ::-1]
    return np.rot90(images, symmetry % 4, axes=(-2, -1))
