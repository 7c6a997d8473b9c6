"""Opens a prepared dataset: its manifest, and the pairs of inputs and labels in its shards."""

import json
from collections.abc import Iterator
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from loupe.config.fields import format_value
from loupe.data import storage
from loupe.data.manifest import MANIFEST, SPLITS
from loupe.data.manifest_check import find_fault
from loupe.data.shards import hash_file, name_inputs, name_shard
from loupe.errors import LoupeError, UsageError, describe_error
from loupe.imaging.conversion import to_floats


class Dataset:
    """A prepared dataset. Each shard is verified with its checksum before it is used.

    Args:
        location: the folder or URL that `prepare` created.

    Attributes:
        location: the folder or URL.
        folder: the local folder with the files: the location itself, or the cache of a URL, to which shards are
            downloaded on demand.
        table: the manifest as an Arrow table.
        digest: a hash of the photos and the settings.
        settings: the settings of preprocess, as text.
        statistics: mean and standard deviation of the pixel values, per kind of shard (labels, or inputs of a scale).

    Raises:
        UsageError: the location is not a prepared dataset.
    """

    def __init__(self, location: str | Path) -> None:
        import pyarrow.parquet

        location = str(location)
        folder = storage.get_local_folder(location)
        try:
            if storage.is_url(location) and not storage.fetch_file(location, folder / MANIFEST):
                raise FileNotFoundError
            if not (folder / MANIFEST).is_file():  # a FIFO would block the reader
                raise FileNotFoundError
            with pyarrow.parquet.ParquetFile(folder / MANIFEST) as file:
                table = file.read(use_threads=False)  # each thread would keep its own memory
            facts = json.loads(table.schema.metadata[b"loupe"])
        except (OSError, KeyError, TypeError, ValueError, RecursionError):
            raise UsageError(f"dataset: must be a prepared dataset, got {location!r}") from None
        reason = find_fault(table, facts)
        if reason:
            raise UsageError(f"dataset: must be a prepared dataset, got {location!r}: {reason}")
        self.location, self.folder = location, folder
        self.table = table
        self.digest: str = facts["digest"]
        self.settings: dict[str, str] = facts["settings"]
        self.statistics: dict[str, dict[str, float]] = facts["statistics"]
        self._shards: dict[str, str] = facts["shards"]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the manifest as dicts."""
        return self.table.to_pylist()

    @cached_property
    def counts(self) -> dict[str, int]:
        """The numbers of used and skipped photos, of labels, and of labels per split."""
        labels = self.table.filter(self.table["split"].is_valid())
        per_split = {count["values"]: count["counts"] for count in labels["split"].value_counts().to_pylist()}
        return {
            "photos": len(labels.select(["path", "sha256"]).group_by(["path", "sha256"]).aggregate([])),
            "skipped": len(self.table) - len(labels),
            "labels": len(labels),
        } | {f"{name}_labels": per_split.get(name, 0) for name in SPLITS}

    @cached_property
    def skip_reasons(self) -> dict[str, int]:
        """The number of skipped photos per reason, without the details after its colon."""
        counts: dict[str, int] = {}
        for reason in self.table["reason"].drop_null().to_pylist():
            kind = reason.split(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
        return counts

    @cached_property
    def scales(self) -> list[Fraction]:
        """The scale factors of the inputs."""
        return [Fraction(text.replace(":", "/")) for text in self.settings["scales"].split(",")]

    def load_pairs(self, split: str, scale: Fraction, limit: int | None = None) -> "Pairs":
        """Open the inputs and labels of a split as memory maps.

        Args:
            split: `train`, `validation`, `test` or `all`.
            scale: the scale factor from the inputs to the labels.
            limit: use at most this many photos: those with the smallest content hashes; None uses all.

        Returns:
            One pair per label, in the order of the manifest.

        Raises:
            UsageError: the dataset has no inputs of this scale, or the split is empty.
            LoupeError: a shard is missing or differs from its checksum.
        """
        if scale not in self.scales:
            raise UsageError(
                f"scale: must be one of {self.settings['scales']} for {self.folder.name}, got {format_value(scale)}"
            )
        import pyarrow.compute as pc

        column = self.table["split"]
        table = self.table.filter(column.is_valid() if split == "all" else pc.equal(column, split))
        if not len(table):
            raise UsageError(
                f"split: must have a photo, got none in {split} of {self.folder.name}; three photos fill all splits"
            )
        if limit is not None:
            photos = table["sha256"].unique()
            chosen = photos.take(pc.sort_indices(photos)[:limit])
            table = table.filter(pc.is_in(table["sha256"], chosen))
        rows = table.to_pylist()
        numbers = sorted({row["shard"] for row in rows})
        last = {number: max(row["row"] for row in rows if row["shard"] == number) for number in numbers}
        inputs, labels = (
            {number: self._open_shard(kind, number, last[number]) for number in numbers}
            for kind in (name_inputs(scale), "labels")
        )
        sides = {array.shape[1:] for array in inputs.values()}, {array.shape[1:] for array in labels.values()}
        if any(len(side) > 1 for side in sides):
            raise LoupeError(f"dataset: the images in {self.location} must have one size, got several")
        return Pairs(
            rows,
            [inputs[row["shard"]][row["row"]] for row in rows],
            [labels[row["shard"]][row["row"]] for row in rows],
            scale,
        )

    def fetch_shards(self) -> None:
        """Download all shards of a URL now instead of on demand."""
        for name in self._shards if storage.is_url(self.location) else ():
            self._verify_shard(name)

    def _open_shard(self, kind: str, number: int, last: int) -> np.ndarray:
        """Return the images of a shard, uint8 (n, side, side); raise LoupeError if image number `last` is missing."""
        file = self._verify_shard(name_shard(kind, number))
        try:
            images: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
            if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1] != images.shape[2]:
                raise ValueError(f"it contains {images.dtype} {images.shape}")
            if len(images) <= last:
                raise ValueError(f"it contains {len(images)} images, the manifest needs {last + 1}")
        except (OSError, ValueError, EOFError) as error:
            raise LoupeError(f"dataset: {str(file)!r} must be a shard: {describe_error(error)}") from None
        return images

    def _verify_shard(self, name: str) -> Path:
        """Return the local file of a shard, downloaded if it is missing or its checksum is wrong."""
        file = self.folder / name
        if not self._is_intact(file) and not (storage.fetch_file(self.location, file) and self._is_intact(file)):
            shard = storage.join_path(self.location, name)
            raise LoupeError(f"dataset: {shard} is missing or changed; remove {self.location} and prepare it again")
        return file

    def _is_intact(self, file: Path) -> bool:
        return file.is_file() and _hash_once(file, _get_state(file)) == self._shards[file.name]


def _get_state(file: Path) -> tuple[int, ...]:
    """Return numbers that change when a file is written or replaced."""
    state = file.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


@cache
def _hash_once(file: Path, state: tuple[int, ...]) -> str:
    """Return the content hash of a file. It is cached per state, because a step opens a dataset several times."""
    return hash_file(file)


class Pairs:
    """Inputs with their labels, as memory maps or arrays.

    Args:
        rows: the rows of the manifest, one per pair.
        inputs: uint8 arrays (input side, input side), one per pair.
        labels: uint8 arrays (label side, label side), one per pair.
        scale: the scale factor from the inputs to the labels.
    """

    def __init__(
        self, rows: list[dict[str, Any]], inputs: list[np.ndarray], labels: list[np.ndarray], scale: Fraction
    ) -> None:
        self.rows = rows
        self.scale = scale
        self._inputs = inputs
        self._labels = labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one pair: uint8 (input side, input side) and uint8 (label side, label side)."""
        return self._inputs[index], self._labels[index]

    @property
    def sides(self) -> tuple[int, int]:
        """The sides of an input and of a label, in pixels."""
        return self._inputs[0].shape[0], self._labels[0].shape[0]

    def stack(self) -> tuple[np.ndarray, np.ndarray]:
        """Copy all inputs, uint8 (n, input side, input side), and all labels into memory."""
        return np.stack(self._inputs), np.stack(self._labels)

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches of up to `size` pairs in order: inputs and labels, float32 in [-1, 1], (n, side, side, 1)."""
        for start in range(0, len(self), size):
            yield (
                to_floats(np.stack(self._inputs[start : start + size]))[..., None],
                to_floats(np.stack(self._labels[start : start + size]))[..., None],
            )

    def subsample(self, limit: int) -> "Pairs":
        """Return up to `limit` evenly spaced pairs, in their order."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(int))
        return self._select(list(chosen))

    def first_per_photo(self) -> "Pairs":
        """Return the first pair of each photo."""
        first: dict[str, int] = {}
        for index, row in enumerate(self.rows):
            first.setdefault(row["sha256"], index)
        return self._select(list(first.values()))

    def _select(self, indices: list[int]) -> "Pairs":
        return Pairs(
            [self.rows[index] for index in indices],
            [self._inputs[index] for index in indices],
            [self._labels[index] for index in indices],
            self.scale,
        )
