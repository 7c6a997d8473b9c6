"""The manifest of a prepared dataset: a row a label, with the split that its photo fell into."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from loupe.data import storage

MANIFEST = "manifest.parquet"
SPLITS = {"train": (0.0, 0.75), "validation": (0.75, 0.875), "test": (0.875, 1.0)}
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


def build_table(rows: list[dict[str, Any]]) -> Any:
    """Rows of a manifest as an Arrow table, which takes an eighth of their memory."""
    import pyarrow as pa

    kinds = {
        "shrunk": pa.float64(),
        **dict.fromkeys(("width", "height", "x", "y", "shard", "row"), pa.int32()),
    }
    columns = [(name, kinds.get(name, pa.string())) for name in Row.__dataclass_fields__]
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))


def assign_splits(parts: list[Any]) -> Iterator[Any]:
    """The parts of a manifest with the split of its photo in each row of a label.

    A photo's place between 0 and 1 is the last 64 bits of its content hash (`limit` goes by the first), so
    that adding photos moves none, and copies land together. A split that stays empty takes the photo
    nearest its bounds from a split that has another.
    """
    import pyarrow as pa

    labelled = [part["sha256"].filter(part["row"].is_valid()) for part in parts]
    moved: dict[str, str] = {}
    if {_find_split(_hash_fraction(key)) for part in labelled for key in part.to_pylist()} != SPLITS.keys():
        moved = _fill_empty_splits({key for part in labelled for key in part.to_pylist()})
    for part in parts:
        keys, rows = part["sha256"].to_pylist(), part["row"].to_pylist()
        column = [
            None if row is None else moved.get(key) or _find_split(_hash_fraction(key))
            for key, row in zip(keys, rows, strict=True)
        ]
        yield part.set_column(part.column_names.index("split"), "split", pa.array(column, pa.string()))


def _hash_fraction(sha256: str) -> float:
    return (int(sha256[-16:], 16) >> 11) / 2**53


def _find_split(place: float) -> str:
    return next(name for name, (low, high) in SPLITS.items() if low <= place < high)


def _fill_empty_splits(keys: set[str]) -> dict[str, str]:
    """The splits of photos, none empty if there are enough of them."""
    split = {key: _find_split(_hash_fraction(key)) for key in keys}
    for name, (low, high) in SPLITS.items():
        if name not in split.values():
            held = list(split.values())
            spare = [key for key in split if held.count(split[key]) > 1]
            if spare:
                split[
                    min(spare, key=lambda key: (max(low - _hash_fraction(key), _hash_fraction(key) - high), key))
                ] = name
    return split


def write_manifest(place: str, parts: Iterable[Any], facts: dict[str, Any]) -> None:
    """Write the parts, in the order given, with the facts as JSON in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet

    schema = build_table([]).schema.with_metadata({"loupe": json.dumps(facts, sort_keys=True)})
    rest = iter(parts)
    with storage.create_file(place, MANIFEST) as whole, pyarrow.parquet.ParquetWriter(whole, schema) as file:
        while group := list(itertools.islice(rest, GROUPED)):
            file.write_table(pa.concat_tables(group).replace_schema_metadata(schema.metadata))
