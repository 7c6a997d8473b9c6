"""Checks that a Parquet file is the manifest of a prepared dataset."""

import re
from fractions import Fraction
from typing import Any

from pydantic import BaseModel, ValidationError

from loupe.config.fields import parse_scale
from loupe.data.manifest import INDEX_COLUMNS, SPLITS, build_table
from loupe.data.shards import name_inputs, name_shard
from loupe.errors import describe_error

# Names of shards and the digest are parts of file names. A slash in them could lead out of the dataset's folder.
SHARD_NAME = re.compile(r"(labels|inputs-\d+x\d+)-\d{5,}\.npy")
DIGEST = re.compile(r"[0-9a-f]{1,64}")
REQUIRED_SETTINGS = ("label_size", "luminance", "scales", "source")


class _Metadata(BaseModel):
    digest: str
    settings: dict[str, str]
    statistics: dict[str, dict[str, float]]
    shards: dict[str, str]
    counts: dict[str, int]
    skip_reasons: dict[str, int]


def find_fault(file: Any, metadata: Any) -> str:
    """Return why a Parquet file is not a manifest, or "" for a manifest.

    Args:
        file: the open `ParquetFile`.
        metadata: the parsed JSON from the metadata of the file.
    """
    try:
        settings = _Metadata.model_validate(metadata).settings
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the metadata of the file'}: {first['msg']}"
    expected, schema = build_table([], settings.get("degrade", "none") != "none").schema, file.schema_arrow
    if schema.names != expected.names:
        return f"the columns must be {', '.join(expected.names)}"
    for field, found in zip(expected, schema, strict=True):
        if found.type != field.type:
            return f"the column {field.name} must be {field.type}, got {found.type}"
    return _find_fault_of_settings(metadata) or _find_fault_of_rows(file, metadata)


def _find_fault_of_settings(metadata: dict[str, Any]) -> str:
    missing = [name for name in REQUIRED_SETTINGS if name not in metadata["settings"]]
    if missing:
        return f"the setting {missing[0]} is missing"
    if not re.fullmatch("[0-9]{1,9}", size := metadata["settings"]["label_size"]):
        return f"label_size: must be a number of pixels, got {size!r}"
    if not DIGEST.fullmatch(metadata["digest"]):
        return f"the digest must be hexadecimal, got {metadata['digest']!r}"
    wrong = next((name for name in metadata["shards"] if not SHARD_NAME.fullmatch(name)), None)
    if wrong is not None:
        return f"the names of shards must be like labels-00000.npy, got {wrong!r}"
    try:
        scales = _read_scales(metadata)
    except ValueError as error:
        return f"scales: {describe_error(error)}"
    if len(set(scales)) < len(scales):  # older versions wrote the inputs of a repeated scale factor twice
        return f"the scales must be different, got {metadata['settings']['scales']}"
    return ""


def _read_scales(metadata: dict[str, Any]) -> list[Fraction]:
    return [parse_scale(text) for text in metadata["settings"]["scales"].split(",")]


def _find_fault_of_rows(file: Any, metadata: dict[str, Any]) -> str:
    import pyarrow.compute as pc

    table = file.read(INDEX_COLUMNS, use_threads=False)
    labels = table.filter(table["split"].is_valid())  # skipped photos have no split
    if set(labels["split"].unique().to_pylist()) - SPLITS.keys():
        return f"the splits must be {', '.join(SPLITS)}"
    if any(_has_nulls(file, name) for name in ("path", "sha256")):
        return "each row must have a path and a content hash"
    for name in ("shard", "row"):
        if labels[name].null_count or (len(labels) and pc.min(labels[name]).as_py() < 0):
            return f"the {name} of each label must be a number of at least 0"
    kinds = ["labels", *map(name_inputs, _read_scales(metadata))]
    names = (name_shard(kind, number) for number in labels["shard"].unique().to_pylist() for kind in kinds)
    missing = next((name for name in names if name not in metadata["shards"]), None)
    return f"the shard {missing} is missing" if missing else ""


def _has_nulls(file: Any, name: str) -> bool:
    """Return True if the statistics of a row group count nulls in a column, or are missing."""
    column = file.schema_arrow.names.index(name)
    statistics = [file.metadata.row_group(number).column(column).statistics for number in range(file.num_row_groups)]
    return any(each is None or each.null_count for each in statistics)
