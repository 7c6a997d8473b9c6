"""The prepared dataset on disk: a manifest (a row a label) beside shards of labels and inputs."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from loupe.data import places
from loupe.data.photos import as_floats
from loupe.errors import LoupeError, UsageError

SPLITS = {"train": (0.0, 0.75), "validation": (0.75, 0.875), "test": (0.875, 1.0)}
MANIFEST = "manifest.parquet"
GROUPED = 256  # parts that are written at a time


@dataclass(frozen=True)
class Row:
    """A row of the manifest: a label of a photo; a photo that was skipped has one, with the reason."""

    path: str
    category: str
    sha256: str
    width: int | None = None  # of the photo, upright
    height: int | None = None
    x: int | None = None  # of the label, in the photo after it was shrunk by the factor `shrunk`
    y: int | None = None
    shrunk: float | None = None
    split: str | None = None
    shard: int | None = None
    row: int | None = None
    reason: str | None = None


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
        folder = places.folder_of(place)
        try:
            if places.is_address(place) and not places.fetched(place, folder / MANIFEST):
                raise FileNotFoundError
            with pyarrow.parquet.ParquetFile(folder / MANIFEST) as file:
                table = file.read()
            facts = json.loads(table.schema.metadata[b"loupe"])
        except (OSError, KeyError, TypeError, ValueError):
            raise UsageError(f"dataset: {place!r} is no prepared dataset") from None
        self.place, self.folder = place, folder
        self.table = table
        self.digest: str = facts["digest"]
        self.settings: dict[str, str] = facts["settings"]
        self.statistics: dict[str, dict[str, float]] = facts["statistics"]
        self._shards: dict[str, str] = facts["shards"]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The manifest as it was written, a dict a row."""
        return self.table.to_pylist()

    def counts(self) -> dict[str, int]:
        """Photos kept and skipped, labels, and labels by split."""
        kept = self.table.filter(self.table["split"].is_valid())
        counts = {found["values"]: found["counts"] for found in kept["split"].value_counts().to_pylist()}
        return {
            "photos": len(kept.select(["path", "sha256"]).group_by(["path", "sha256"]).aggregate([])),
            "skipped": len(self.table) - len(kept),
            "labels": len(kept),
        } | {f"{name}_labels": counts.get(name, 0) for name in SPLITS}

    def reasons(self) -> dict[str, int]:
        """Why photos were skipped, in short, and how many for each reason."""
        found: dict[str, int] = {}
        for reason in self.table["reason"].drop_null().to_pylist():
            kind = reason.split(":")[0]
            found[kind] = found.get(kind, 0) + 1
        return found

    def scales(self) -> list[Fraction]:
        """The scales that it holds inputs for."""
        return [Fraction(text.replace(":", "/")) for text in self.settings["scales"].split(",")]

    def pairs(self, split: str, scale: Fraction, limit: int | None = None) -> "Pairs":
        """The inputs and labels of a split (`train`, `validation`, `test` or `all`).

        Args:
            split: which.
            scale: label side over input side.
            limit: labels of only so many photos, those of the smallest content hashes; None: of all.

        Raises:
            UsageError: there are no inputs of this scale, or the split is empty.
            LoupeError: a shard is not what the manifest says.
        """
        if scale not in self.scales():
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
            {number: self._open(name, number) for number in used} for name in (input_name(scale), "labels")
        )
        return Pairs(
            rows,
            [inputs[row["shard"]][row["row"]] for row in rows],
            [labels[row["shard"]][row["row"]] for row in rows],
            scale,
        )

    def fetch(self) -> None:
        """Bring all shards onto this machine, so that none is waited for later."""
        for name in self._shards if places.is_address(self.place) else ():
            self._whole(name)

    def _open(self, name: str, number: int) -> np.ndarray:
        return np.load(self._whole(shard_name(name, number)), mmap_mode="r", allow_pickle=False)

    def _whole(self, name: str) -> Path:
        """The file of a shard on this machine, which is what the manifest says."""
        file = self.folder / name
        if not self._is_whole(file) and not (places.fetched(self.place, file) and self._is_whole(file)):
            shard = places.inside(self.place, name)
            raise LoupeError(f"dataset: {shard} is missing or changed; remove {self.place} and prepare it again")
        return file

    def _is_whole(self, file: Path) -> bool:
        return file.exists() and sha256_of(file) == self._shards[file.name]


class Pairs:
    """Small pictures with their labels, as memory maps; a photo's pair never comes apart.

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

    def stacked(self) -> tuple[np.ndarray, np.ndarray]:
        """All inputs (n, input side, input side) and labels, uint8, copied into memory."""
        return np.stack(self._inputs), np.stack(self._labels)

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """In order, up to `size` at a time: float32 in [-1, 1], (n, input side, input side, 1) and labels."""
        for start in range(0, len(self), size):
            yield (
                as_floats(np.stack(self._inputs[start : start + size]))[..., None],
                as_floats(np.stack(self._labels[start : start + size]))[..., None],
            )

    def spread(self, limit: int) -> "Pairs":
        """Up to `limit` of the pairs, evenly spread over their order."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(int))
        return self._chosen(list(chosen))

    def one_a_photo(self) -> "Pairs":
        """The first pair of each photo."""
        first: dict[str, int] = {}
        for index, row in enumerate(self.rows):
            first.setdefault(row["sha256"], index)
        return self._chosen(list(first.values()))

    def _chosen(self, indices: list[int]) -> "Pairs":
        return Pairs(
            [self.rows[index] for index in indices],
            [self._inputs[index] for index in indices],
            [self._labels[index] for index in indices],
            self.scale,
        )


def input_name(scale: Fraction) -> str:
    """What the shards of inputs of a scale are called: `inputs-3x2`."""
    return f"inputs-{scale.numerator}x{scale.denominator}"


def shard_name(name: str, number: int) -> str:
    """What the file of a shard is called: `labels-00007.npy`."""
    return f"{name}-{number:05d}.npy"


def write_shard(file: Path, pictures: np.ndarray) -> None:
    """Write uint8 pictures (n, side, side) as np.save does, which does not tell when the disk is full."""
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(pictures))
        stream.write(np.ascontiguousarray(pictures).data)


def sha256_of(file: Path) -> str:
    """The content hash of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def table_of(rows: list[dict[str, Any]]) -> Any:
    """Rows of a manifest as an Arrow table, which takes an eighth of their memory."""
    import pyarrow as pa

    kinds = {
        "shrunk": pa.float64(),
        **dict.fromkeys(("width", "height", "x", "y", "shard", "row"), pa.int32()),
    }
    columns = [(name, kinds.get(name, pa.string())) for name in Row.__dataclass_fields__]
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))


def with_splits(parts: list[Any]) -> Iterator[Any]:
    """The parts of a manifest with the split of its photo in each row of a label.

    A photo's place between 0 and 1 is the last 64 bits of its content hash (`limit` goes by the first), so
    that adding photos moves none, and copies land together. A split that stays empty takes the photo
    nearest its bounds from a split that has another.
    """
    import pyarrow as pa

    labelled = [part["sha256"].filter(part["row"].is_valid()) for part in parts]
    moved: dict[str, str] = {}
    if {_split_at(_place(key)) for part in labelled for key in part.to_pylist()} != SPLITS.keys():
        moved = _filled({key for part in labelled for key in part.to_pylist()})
    for part in parts:
        keys, rows = part["sha256"].to_pylist(), part["row"].to_pylist()
        column = [
            None if row is None else moved.get(key) or _split_at(_place(key))
            for key, row in zip(keys, rows, strict=True)
        ]
        yield part.set_column(part.column_names.index("split"), "split", pa.array(column, pa.string()))


def _place(sha256: str) -> float:
    return (int(sha256[-16:], 16) >> 11) / 2**53


def _split_at(place: float) -> str:
    return next(name for name, (low, high) in SPLITS.items() if low <= place < high)


def _filled(keys: set[str]) -> dict[str, str]:
    """The splits of photos, none empty if there are enough of them."""
    split = {key: _split_at(_place(key)) for key in keys}
    for name, (low, high) in SPLITS.items():
        if name not in split.values():
            held = list(split.values())
            spare = [key for key in split if held.count(split[key]) > 1]
            if spare:
                split[min(spare, key=lambda key: (max(low - _place(key), _place(key) - high), key))] = name
    return split


def write_manifest(place: str, parts: Iterable[Any], facts: dict[str, Any]) -> None:
    """Write the parts, in the order given, with the facts as JSON in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet

    schema = table_of([]).schema.with_metadata({"loupe": json.dumps(facts, sort_keys=True)})
    rest = iter(parts)
    with places.written(place, MANIFEST) as whole, pyarrow.parquet.ParquetWriter(whole, schema) as file:
        while group := list(itertools.islice(rest, GROUPED)):
            file.write_table(pa.concat_tables(group).replace_schema_metadata(schema.metadata))
