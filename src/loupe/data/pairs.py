"""Inputs with their labels, as arrays or memory maps."""

import mmap
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from loupe.data.manifest import ManifestRows
from loupe.imaging.conversion import compress_jpeg, to_floats
from loupe.imaging.jpeg_quality import MAX_QUALITY, compute_strength

MAX_BATCH_PIXELS = 2**23  # of the labels of a batch


class Pairs:
    """Inputs with their labels, in stacks: arrays of images, or memory maps of shards.

    All inputs have the same size, and all labels have the same size.

    Args:
        rows: the rows of the manifest, or dictionaries with columns of such rows, one per pair.
        stacks: the stacks of inputs, uint8 (count, side, side), and the stacks of labels.
        index: (n, 2), the number of each pair's stack, and the position in the stack.
        scale: the scale factor.
        raise_if_damaged: raises LoupeError if the verification in the background has found a damaged shard.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        stacks: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
        index: np.ndarray,
        scale: Fraction,
        raise_if_damaged: Callable[[], None] = lambda: None,
    ) -> None:
        self.rows = rows
        self.scale = scale
        self.raise_if_damaged = raise_if_damaged
        self._original_stacks = stacks
        # Slicing a memory map takes six times as long as slicing a view of it as an ordinary array.
        inputs, labels = ([stack.view(np.ndarray) for stack in group] for group in stacks)
        self._stacks = inputs, labels
        self._index = index

    @classmethod
    def from_images(
        cls, rows: list[dict[str, Any]], inputs: Sequence[np.ndarray], labels: Sequence[np.ndarray], scale: Fraction
    ) -> "Pairs":
        """Copy images into pairs in memory."""
        index = np.stack([np.zeros(len(rows), np.int32), np.arange(len(rows), dtype=np.int32)], axis=1)
        return cls(rows, ([np.stack(inputs)], [np.stack(labels)]), index, scale)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the input and the label of a pair, uint8 (side, side) each."""
        stack, position = self._index[number]
        inputs, labels = self._stacks
        return inputs[stack][position], labels[stack][position]

    @property
    def sides(self) -> tuple[int, int]:
        """The sides of an input and of a label, in pixels."""
        inputs, labels = self._stacks
        return inputs[0].shape[1], labels[0].shape[1]

    def copy_to_memory(self, numbers: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Copy inputs and labels of the pairs `numbers`, by default all, into memory: uint8 (n, side, side) each."""
        index = self._index[numbers]
        copies = tuple(np.empty((len(index), side, side), np.uint8) for side in self.sides)
        order = np.argsort(index[:, 0], kind="stable")
        stack_numbers, starts = np.unique(index[order, 0], return_index=True)
        for number, chosen in zip(stack_numbers.tolist(), np.split(order, starts[1:]), strict=True):
            positions = index[chosen, 1]
            for copy, stacks, original in zip(copies, self._stacks, self._original_stacks, strict=True):
                _prefetch(original[number], int(positions.min()), int(positions.max()))
                copy[chosen] = stacks[number][positions]
        return copies[0], copies[1]

    def cut(self, numbers: np.ndarray, corners: tuple[np.ndarray, np.ndarray], sides: tuple[int, int]) -> Any:
        """Cut a square from each input and from its label.

        Args:
            numbers: (n,), the numbers of the pairs.
            corners: top left corners, (n, 2), y and x, in the inputs and in the labels.
            sides: the sides of the squares in the inputs and in the labels.

        Returns:
            The squares of the inputs and those of the labels, uint8 (n, side, side) each.
        """
        index, results = self._index[numbers].tolist(), []
        for original in self._original_stacks:
            for stack, position in index:
                _prefetch(original[stack], position, position)
        for stacks, places, side in zip(self._stacks, corners, sides, strict=True):
            squares = np.empty((len(index), side, side), np.uint8)
            for number, ((stack, position), (y, x)) in enumerate(zip(index, places.tolist(), strict=True)):
                squares[number] = stacks[stack][position, y : y + side, x : x + side]
            results.append(squares)
        return results[0], results[1]

    @cached_property
    def strengths(self) -> np.ndarray | None:
        """The strength of JPEG artefacts in each input, (n,), from 0 to 1; None if the inputs are not degraded."""
        qualities: Any = None
        if isinstance(self.rows, ManifestRows):
            qualities = self.rows.read_jpeg_qualities()
        elif "jpeg_quality" in self.rows[0]:
            qualities = np.array([row["jpeg_quality"] or MAX_QUALITY for row in self.rows])
        return None if qualities is None else compute_strength(qualities).astype("float32")

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield inputs and labels of up to `size` pairs, as `load_floats` returns them.

        MAX_BATCH_PIXELS limits the number of large labels, to at least 1.
        """
        size = min(size, max(1, MAX_BATCH_PIXELS // self.sides[1] ** 2))
        for start in range(0, len(self), size):
            yield self.load_floats(slice(start, start + size))

    def load_floats(self, numbers: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and labels of the pairs `numbers`, by default all, float32 in [-1, 1], (n, side, side, 1).

        If `strengths` is not None, it is the second channel of the inputs.
        """
        inputs, labels = self.copy_to_memory(numbers)
        strengths = None if self.strengths is None else self.strengths[numbers]
        return add_strengths(to_floats(inputs), strengths), to_floats(labels)[..., None]

    def with_strengths(self, wanted: bool) -> "Pairs":
        """Return a copy of the pairs. Its `strengths` is an array if `wanted`, otherwise None.

        If `wanted` and the inputs are not degraded, the array contains zeros. `select` and `subsample` of the copy
        return pairs with the original `strengths`.
        """
        pairs = self.select(np.arange(len(self)))
        if not wanted:
            pairs.strengths = None
        elif pairs.strengths is None:
            pairs.strengths = np.zeros(len(self), "float32")
        return pairs

    def compress_inputs(self, quality: int) -> "Pairs":
        """Return the pairs with inputs compressed as JPEG, in memory. Quality 100 does not change the inputs."""
        rows = [row | {"jpeg_quality": quality} for row in self.rows]
        inputs = self._original_stacks[0]
        if quality < MAX_QUALITY:
            inputs = [np.stack([compress_jpeg(image, quality) for image in stack]) for stack in inputs]
        return Pairs(rows, (inputs, self._original_stacks[1]), self._index, self.scale, self.raise_if_damaged)

    def subsample(self, limit: int) -> "Pairs":
        """Return up to `limit` evenly spaced pairs."""
        return self.select(np.unique(np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(int)))

    def select_first_per_photo(self) -> "Pairs":
        """Return the first pair of each photo."""
        photos = self.read_column("sha256")
        return self.select(np.sort(np.unique(photos, return_index=True)[1]))

    def read_column(self, name: str) -> np.ndarray:
        """Return a column of the rows as text, (n,).

        If rows that are not from a manifest lack the column, the result contains their numbers instead.
        """
        if isinstance(self.rows, ManifestRows):
            return self.rows.read_column(name)
        return np.array([str(row.get(name, number)) for number, row in enumerate(self.rows)])

    def select(self, numbers: np.ndarray) -> "Pairs":
        """Return the pairs with these numbers, (n,), which must be in ascending order."""
        if isinstance(self.rows, ManifestRows):
            rows: Sequence[dict[str, Any]] = self.rows.select(numbers)
        else:
            rows = [self.rows[number] for number in numbers]
        return Pairs(rows, self._original_stacks, self._index[numbers], self.scale, self.raise_if_damaged)


def add_strengths(images: np.ndarray, strengths: np.ndarray | None) -> np.ndarray:
    """Append strengths, (n,), to images, (n, h, w), as a second channel; with None, the result has one channel."""
    if strengths is None:
        return images[..., None]
    return np.stack([images, np.broadcast_to(strengths[:, None, None], images.shape)], axis=-1)


def _prefetch(images: Any, first: int, last: int) -> None:
    """Start to read images `first` to `last` of a memory map; by default, the system reads them at first use."""
    if isinstance(images, np.memmap):
        bytes_per_image = images.shape[1] * images.shape[2]
        start = images.offset + first * bytes_per_image
        page = start - start % mmap.PAGESIZE
        file: Any = images.base
        file.madvise(mmap.MADV_WILLNEED, page, images.offset + (last + 1) * bytes_per_image - page)
