"""Cuts batches from pairs: random crops, which can be flipped and rotated at random."""

from dataclasses import dataclass

import numpy as np

from loupe.data.pairs import Pairs, add_strengths
from loupe.errors import UsageError
from loupe.imaging.conversion import to_floats

MEMORY_LIMIT_BYTES = 2**28  # pairs up to this size are copied into memory: draws are then four times as fast


@dataclass(frozen=True)
class Positions:
    """The positions of the crops of a batch, and their flips and rotations.

    Args:
        pair_numbers: (n,).
        input_corners: (n, 2), y and x of the top left corners in the inputs, in pixels.
        label_corners: (n, 2), the same in the labels.
        symmetries: (n,), 0 to 7, see `apply_symmetry`.
    """

    pair_numbers: np.ndarray
    input_corners: np.ndarray
    label_corners: np.ndarray
    symmetries: np.ndarray


class Patches:
    """Draws the batch of each training step. Equal arguments, steps and batch sizes give equal batches.

    Args:
        pairs: images to cut from.
        side: side of a crop of the input, in pixels.
        crops: `aligned`: only positions in the input that match a whole pixel of the label. `any`: all positions;
            the position in the label is rounded down, as in the 2016 study.
        augment: flip and rotate each crop at random.
        seed: determines the random numbers.

    Raises:
        UsageError: the crop is larger than the inputs.
    """

    def __init__(self, pairs: Pairs, side: int, crops: str, augment: bool, seed: int) -> None:
        if side > pairs.sides[0]:
            raise UsageError(f"patch, crop_size: must be at most the inputs' side of {pairs.sides[0]}, got {side}")
        self._pairs = pairs
        pair_bytes = sum(side**2 for side in pairs.sides)
        self._arrays = pairs.copy_to_memory() if len(pairs) * pair_bytes <= MEMORY_LIMIT_BYTES else None
        self._side = side
        self._stride = pairs.scale.denominator if crops == "aligned" else 1
        self._augment = augment
        self._seed = seed

    @property
    def sides(self) -> tuple[int, int]:
        """The sides of a crop of the input and of the label."""
        return self._side, int(self._side * self._pairs.scale)

    @property
    def pairs(self) -> Pairs:
        """The pairs."""
        return self._pairs

    def draw_batch(self, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the batch of a step: inputs and labels, as in `Pairs.batches`."""
        return self._cut_floats(self.draw_positions(step, size))

    def draw_from_each(self, draw: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw one crop of every pair, in the order of the pairs; `draw` and the seed determine the positions."""
        rng = np.random.default_rng([self._seed, draw])
        return self._cut_floats(self._draw_positions(np.arange(len(self._pairs)), rng))

    def draw_positions(self, step: int, size: int) -> Positions:
        """Draw the positions of a step's crops."""
        rng = np.random.default_rng([self._seed, step])
        return self._draw_positions(rng.integers(len(self._pairs), size=size), rng)

    def cut(self, positions: Positions) -> tuple[np.ndarray, np.ndarray]:
        """Cut crops, flip and rotate them, and return uint8 inputs and labels, (n, side, side)."""
        corners = (positions.input_corners, positions.label_corners)
        if self._arrays is not None:
            inputs, labels = (
                cut_squares(images, positions.pair_numbers, at, side)
                for images, at, side in zip(self._arrays, corners, self.sides, strict=True)
            )
        else:
            inputs, labels = self._pairs.cut(positions.pair_numbers, corners, self.sides)
        for symmetry in np.unique(positions.symmetries[positions.symmetries > 0]):
            chosen = positions.symmetries == symmetry
            inputs[chosen] = apply_symmetry(inputs[chosen], symmetry)
            labels[chosen] = apply_symmetry(labels[chosen], symmetry)
        return inputs, labels

    def _draw_positions(self, pair_numbers: np.ndarray, rng: np.random.Generator) -> Positions:
        size, scale = len(pair_numbers), self._pairs.scale
        positions_per_axis = (self._pairs.sides[0] - self._side) // self._stride + 1
        corners = rng.integers(positions_per_axis, size=(size, 2)) * self._stride
        symmetries = rng.integers(8, size=size) if self._augment else np.zeros(size, int)
        return Positions(pair_numbers, corners, (corners * scale.numerator) // scale.denominator, symmetries)

    def _cut_floats(self, positions: Positions) -> tuple[np.ndarray, np.ndarray]:
        inputs, labels = self.cut(positions)
        strengths = self._pairs.strengths
        chosen = None if strengths is None else strengths[positions.pair_numbers]
        return add_strengths(to_floats(inputs), chosen), to_floats(labels)[..., None]


def cut_squares(images: np.ndarray, numbers: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Cut n squares from images.

    Args:
        images: (count, height, width).
        numbers: (n,), the number of each square's image.
        corners: (n, 2), y and x of the top left corners.
        side: the side of the squares, in pixels.
    """
    views = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2))
    return views[numbers, corners[:, 0], corners[:, 1]]


def apply_symmetry(images: np.ndarray, symmetry: int) -> np.ndarray:
    """Apply one of the 8 symmetries of a square to images (…, side, side).

    Symmetries 4 to 7 first flip the images horizontally. Then, each symmetry rotates the images counter-clockwise by
    symmetry % 4 quarter turns.
    """
    if symmetry >= 4:
        images = images[..., ::-1]
    return np.rot90(images, symmetry % 4, axes=(-2, -1))
