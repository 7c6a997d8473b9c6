"""A prepared dataset, opened: its manifest, and the pairs of small images and labels in its shards."""

import json
from collections.abc import Iterator
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from loupe.data import storage
from loupe.data.manifest import MANIFEST, SPLITS
from loupe.data.shards import hash_file, name_inputs, name_shard
from loupe.errors import LoupeError, UsageError
from loupe.imaging.conversion import to_floats


class Dataset:
    """A prepared dataset, opened: its files are checked against the manifest as they are used.

    `place` is where it is kept, and `folder` where its files lie on this machine: the same, or a copy into which
    shards are fetched as they are used.

    Args:
        place: the folder or the address that `prepare` made.

    Raises:
        UsageError: it is no prepared dataset.
    """

    def __init__(self, place: str | Path) -> None:
        import pyarrow.parquet

        place = str(place)
        folder = storage.get_local_folder(place)
        try:
            if storage.is_url(place) and not storage.fetch_file(place, folder / MANIFEST):
                raise FileNotFoundError
            with pyarrow.parquet.ParquetFile(folder / MANIFEST) as file:
                table = file.read(use_threads=False)  # each would keep memory of its own
            facts = json.loads(table.schema.metadata[b"loupe"])
        except (OSError, KeyError, TypeError, ValueError):
            raise UsageError(f"dataset: {place!r} is no prepared dataset") from None
        self.location, self.folder = place, folder
        self.table = table
        self.digest: str = facts["digest"]
        self.settings: dict[str, str] = facts["settings"]
        self.statistics: dict[str, dict[str, float]] = facts["statistics"]
        self._shards: dict[str, str] = facts["shards"]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The manifest as it was written, a dict a row."""
        return self.table.to_pylist()

    @cached_property
    def counts(self) -> dict[str, int]:
        """Photos kept and skipped, labels, and labels by split."""
        kept = self.table.filter(self.table["split"].is_valid())
        counts = {found["values"]: found["counts"] for found in kept["split"].value_counts().to_pylist()}
        return {
            "photos": len(kept.select(["path", "sha256"]).group_by(["path", "sha256"]).aggregate([])),
            "skipped": len(self.table) - len(kept),
            "labels": len(kept),
        } | {f"{name}_labels": counts.get(name, 0) for name in SPLITS}

    @cached_property
    def skip_reasons(self) -> dict[str, int]:
        """Why photos were skipped, in short, and how many for each reason."""
        found: dict[str, int] = {}
        for reason in self.table["reason"].drop_null().to_pylist():
            kind = reason.split(":")[0]
            found[kind] = found.get(kind, 0) + 1
        return found

    @cached_property
    def scales(self) -> list[Fraction]:
        """The scales that it holds inputs for."""
        return [Fraction(text.replace(":", "/")) for text in self.settings["scales"].split(",")]

    def load_pairs(self, split: str, scale: Fraction, limit: int | None = None) -> "Pairs":
        """The inputs and labels of a split (`train`, `validation`, `test` or `all`).

        Args:
            split: which.
            scale: label side over input side.
            limit: labels of only so many photos, those of the smallest content hashes; None: of all.

        Raises:
            UsageError: there are no inputs of this scale, or the split is empty.
            LoupeError: a shard is not what the manifest says.
        """
        if scale not in self.scales:
            raise UsageError(f"scale: {self.folder.name} has inputs for {self.settings['scales']} only")
        import pyarrow.compute as pc

        column = self.table["split"]
        table = self.table.filter(column.is_valid() if split == "all" else pc.equal(column, split))
        if not len(table):
            raise UsageError(f"split: {split} of {self.folder.name} has no photo; three photos fill all splits")
        if limit is not None:
            photos = table["sha256"].unique()
            chosen = photos.take(pc.sort_indices(photos)[:limit])
            table = table.filter(pc.is_in(table["sha256"], chosen))
        rows = table.to_pylist()
        used = sorted({row["shard"] for row in rows})
        inputs, labels = (
            {number: self._open_shard(name, number) for number in used} for name in (name_inputs(scale), "labels")
        )
        return Pairs(
            rows,
            [inputs[row["shard"]][row["row"]] for row in rows],
            [labels[row["shard"]][row["row"]] for row in rows],
            scale,
        )

    def fetch_shards(self) -> None:
        """Bring all shards onto this machine, so that none is waited for later."""
        for name in self._shards if storage.is_url(self.location) else ():
            self._verify_shard(name)

    def _open_shard(self, name: str, number: int) -> np.ndarray:
        return np.load(self._verify_shard(name_shard(name, number)), mmap_mode="r", allow_pickle=False)

    def _verify_shard(self, name: str) -> Path:
        """The file of a shard on this machine, which is what the manifest says."""
        file = self.folder / name
        if not self._is_intact(file) and not (storage.fetch_file(self.location, file) and self._is_intact(file)):
            shard = storage.join_path(self.location, name)
            raise LoupeError(f"dataset: {shard} is missing or changed; remove {self.location} and prepare it again")
        return file

    def _is_intact(self, file: Path) -> bool:
        return file.exists() and _sha256_once(file, _state_of(file)) == self._shards[file.name]


def _state_of(file: Path) -> tuple[int, ...]:
    """Numbers that change whenever a file is written or replaced."""
    state = file.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


@cache
def _sha256_once(file: Path, state: tuple[int, ...]) -> str:
    """The content hash of a file in this state: a step opens a dataset of gigabytes several times."""
    return hash_file(file)


class Pairs:
    """Small images with their labels, as memory maps; a photo's pair never comes apart.

    Args:
        rows: of the manifest, one a pair.
        inputs: uint8, (input side, input side), one a pair.
        labels: uint8, (label side, label side), one a pair.
        scale: label side over input side.
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
        """One pair: uint8 (input side, input side) and uint8 (label side, label side)."""
        return self._inputs[index], self._labels[index]

    @property
    def sides(self) -> tuple[int, int]:
        """The sides of an input and of a label, in pixels."""
        return self._inputs[0].shape[0], self._labels[0].shape[0]

    def stack(self) -> tuple[np.ndarray, np.ndarray]:
        """All inputs (n, input side, input side) and labels, uint8, copied into memory."""
        return np.stack(self._inputs), np.stack(self._labels)

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """In order, up to `size` at a time: float32 in [-1, 1], (n, input side, input side, 1) and labels."""
        for start in range(0, len(self), size):
            yield (
                to_floats(np.stack(self._inputs[start : start + size]))[..., None],
                to_floats(np.stack(self._labels[start : start + size]))[..., None],
            )

    def subsample(self, limit: int) -> "Pairs":
        """Up to `limit` of the pairs, evenly spread over their order."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(int))
        return self._select(list(chosen))

    def first_per_photo(self) -> "Pairs":
        """The first pair of each photo."""
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
