"""Reads and writes the manifest of a dataset, and assigns the splits.

The manifest is a Parquet file with one row per label, and one row per skipped photo.
"""

import bisect
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from loupe.data import storage
from loupe.errors import LoupeError, describe_error
from loupe.imaging.jpeg_quality import MAX_QUALITY

MANIFEST = "manifest.parquet"
# Keys of the metadata of the file. Parquet has checksums of pages, but not of metadata.
METADATA, METADATA_CHECKSUM = b"loupe", b"loupe.sha256"
SPLITS = {"train": 0.75, "validation": 0.875, "test": 1.0}  # a `_hash_fraction` below 0.75 means train
SMALL_COLLECTION = 200  # with fewer hashes, splits by hash can be far from 75, 12.5 and 12.5 %
ROWS_PER_GROUP = 1 << 16
QUALITY_COLUMN = "jpeg_quality"
DEGRADATION_COLUMNS = [QUALITY_COLUMN, "noise"]  # only in datasets with degraded inputs
INDEX_COLUMNS = ["split", "shard", "row"]
TABLES_PER_WRITE = 256


@dataclass(frozen=True)
class Row:
    """A label of a photo, or a skipped photo with the reason."""

    path: str
    category: str
    sha256: str
    width: int | None = None  # of the upright photo, in pixels
    height: int | None = None
    x: int | None = None  # left edge of the label, after the photo was resized by the factor `shrunk`
    y: int | None = None  # top edge
    shrunk: float | None = None  # the factor by which the photo was resized, at most 1
    split: str | None = None
    shard: int | None = None  # number of the label's shard
    row: int | None = None  # index in the shard
    reason: str | None = None
    group: str | None = None  # smallest content hash in its group of near-duplicates; None without near-duplicates


class ManifestRows(Sequence[dict[str, Any]]):
    """Rows of a manifest as dicts, read on first use.

    Args:
        file: the manifest.
        numbers: (n,), the numbers of the rows in the file, in ascending order.
    """

    def __init__(self, file: Path, numbers: np.ndarray) -> None:
        self._file = file
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Return one row, or a list of rows."""
        return self._rows[index]

    def select(self, indices: np.ndarray) -> "ManifestRows":
        """Return the rows at these indices, (n,), which must be in ascending order."""
        return ManifestRows(self._file, self._numbers[indices])

    def read_jpeg_qualities(self) -> np.ndarray | None:
        """Return the JPEG quality of each input (100: no compression); None if the inputs are not degraded."""
        with open_manifest(self._file) as file:
            names = file.schema_arrow.names
        if QUALITY_COLUMN not in names:
            return None
        column = self._read([QUALITY_COLUMN])[QUALITY_COLUMN]
        qualities: np.ndarray = column.fill_null(MAX_QUALITY).to_numpy()
        return qualities

    def read_column(self, name: str) -> np.ndarray:
        """Return one column of these rows as text."""
        return np.array(self._read([name])[name].to_pylist(), dtype=str)

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._read(None).to_pylist()
        return rows

    def _read(self, columns: list[str] | None) -> Any:
        """Read columns of these rows; None reads all columns. Row groups without these rows are not read."""
        import pyarrow as pa

        tables, start = [], 0
        with open_manifest(self._file) as file:
            tables.append(file.schema_arrow.empty_table().select(columns or file.schema_arrow.names))
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                first, last = np.searchsorted(self._numbers, [start, stop])
                if first < last:
                    row_group = file.read_row_group(group, columns, use_threads=False)
                    tables.append(row_group.take(self._numbers[first:last] - start))
                start = stop
        return pa.concat_tables([table.replace_schema_metadata() for table in tables])


@contextmanager
def open_manifest(file: Path) -> Iterator[Any]:
    """Open a manifest, and verify the checksums of all pages that the block reads.

    Yields:
        The `ParquetFile`.

    Raises:
        LoupeError: the file is unreadable or damaged, also if the block detects it.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file, page_checksum_verification=True) as manifest:
            yield manifest
    except (OSError, pa.ArrowException) as error:  # pyarrow raises OSError for damaged pages
        raise LoupeError(
            f"dataset: {str(file)!r} cannot be read or is damaged: {describe_error(error)}; if it is damaged, remove "
            "the dataset and prepare it again"
        ) from None


def read_metadata(manifest: Any) -> Any:
    """Return the metadata that `write_manifest` stored in an open `ParquetFile`.

    Raises:
        KeyError, TypeError, ValueError or RecursionError: the file has no valid metadata of Loupe.
        OSError: they differ from their checksum, or have none.
    """
    found = manifest.schema_arrow.metadata
    text = found[METADATA]
    if found.get(METADATA_CHECKSUM) != _compute_checksum(text):
        raise OSError("the metadata have no valid checksum")
    return json.loads(text)


def _compute_checksum(content: bytes) -> bytes:
    """Return the SHA-256 as text."""
    return hashlib.sha256(content).hexdigest().encode()


def build_table(rows: list[dict[str, Any]], degraded: bool = False) -> Any:
    """Convert rows to an Arrow table, to save memory. If `degraded`, the table has DEGRADATION_COLUMNS."""
    import pyarrow as pa

    types = {
        **dict.fromkeys(("shrunk", "noise"), pa.float64()),
        **dict.fromkeys(("width", "height", "x", "y", "shard", "row", QUALITY_COLUMN), pa.int32()),
    }
    names = [*Row.__dataclass_fields__, *(DEGRADATION_COLUMNS if degraded else ())]
    columns = [(name, types.get(name, pa.string())) for name in names]
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))


def assign_splits(tables: list[Any], groups: dict[str, str]) -> Iterator[Any]:
    """Yield the tables with filled columns `split` (None for a skipped photo) and `group` (see `Row`).

    The last 64 bits of a photo's content hash decide its split, so that a photo keeps its split when photos are
    added. For near-duplicates, the smallest content hash of the group decides. Therefore, a new near-duplicate with a
    smaller hash can move its whole group to another split. With fewer than SMALL_COLLECTION hashes, the rank of the
    last 64 bits decides, and new photos can change the splits of others. The setting `limit` keeps the photos with
    the smallest hashes. The first bits of a hash decide whether it is small, so `limit` does not depend on the
    splits.

    `tables` are results of `build_table`, and `groups` is the result of `near_duplicates.find_groups`.
    """
    import pyarrow as pa

    def list_keys(table: Any) -> list[str | None]:
        """Return the hash that decides the split of each row; None for a skipped photo."""
        rows = zip(table["sha256"].to_pylist(), table["row"].to_pylist(), strict=True)
        return [None if row is None else groups.get(key, key) for key, row in rows]

    names = set(groups.values())
    small = _rank_splits({key for table in tables for key in list_keys(table) if key})
    for table in tables:
        keys = list_keys(table)
        columns = {
            "split": [key and (small.get(key) or _find_split(key)) for key in keys],
            "group": [key if key in names else None for key in keys],
        }
        for name, values in columns.items():
            table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
        yield table


def _hash_fraction(sha256: str) -> float:
    """Convert the last 64 bits of a hash to a number in [0, 1)."""
    return (int(sha256[-16:], 16) >> 11) / 2**53


def _find_split(sha256: str) -> str:
    return [*SPLITS][bisect.bisect_right([*SPLITS.values()], _hash_fraction(sha256))]


def _rank_splits(hashes: set[str]) -> dict[str, str]:
    """Map each content hash of a small collection to its split; {} for a large collection.

    With three or more hashes, no split is empty.
    """
    count = len(hashes)
    if count >= SMALL_COLLECTION:
        return {}
    size = -(-count // 8)  # hashes in the validation split; with three or more hashes, the test split has as many
    names = ["train"] * max(1, count - 2 * size) + ["validation"] * size + ["test"] * size
    return dict(zip(sorted(hashes, key=lambda key: (_hash_fraction(key), key)), names, strict=False))


def write_manifest(location: str, tables: list[Any], metadata: dict[str, Any]) -> None:
    """Write the tables and the metadata to the manifest; add `counts` and `skip_reasons` (see `Dataset`).

    Args:
        location: the folder or URL of the dataset.
        tables: the result of `assign_splits`.
        metadata: version, digest, settings, statistics, and `shards` (the checksum of each shard by file name). It is
            stored as JSON in the metadata of the file.
    """
    import pyarrow as pa
    import pyarrow.parquet

    metadata = metadata | {"counts": _count_labels(tables), "skip_reasons": _count_reasons(tables)}
    text = json.dumps(metadata, sort_keys=True)
    schema = tables[0].schema.with_metadata({METADATA: text, METADATA_CHECKSUM: _compute_checksum(text.encode())})
    remaining = iter(tables)
    with (
        storage.create_file(location, MANIFEST) as path,
        pyarrow.parquet.ParquetWriter(path, schema, write_page_checksum=True) as file,
    ):
        while group := list(itertools.islice(remaining, TABLES_PER_WRITE)):
            file.write_table(pa.concat_tables(group).replace_schema_metadata(schema.metadata), ROWS_PER_GROUP)


def _count_labels(tables: list[Any]) -> dict[str, int]:
    """Return the numbers of photos and labels; see `Dataset.counts`."""
    import pyarrow as pa

    rows = pa.concat_tables([table.select(["path", "sha256", "split", "group"]) for table in tables])
    labels = rows.filter(rows["split"].is_valid())
    per_split = {count["values"]: count["counts"] for count in labels["split"].value_counts().to_pylist()}
    photos = labels.group_by(["path", "sha256", "group"]).aggregate([])
    return {
        "photos": len(photos),
        "near_duplicates": len(photos) - photos["group"].null_count,
        "near_duplicate_groups": len(photos["group"].drop_null().unique()),
        "skipped": len(rows) - len(labels),
        "labels": len(labels),
    } | {f"{name}_labels": per_split.get(name, 0) for name in SPLITS}


def _count_reasons(tables: list[Any]) -> dict[str, int]:
    """Return the number of skipped photos per reason; the details after a colon are omitted."""
    reasons = (reason.split(":")[0] for table in tables for reason in table["reason"].drop_null().to_pylist())
    return dict(Counter(reasons))
