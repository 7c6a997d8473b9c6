"""Writes the table of runs to a Parquet file and reads it, for reports without MLflow."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from loupe.errors import UsageError
from loupe.imaging.atomic import write_atomically

# Other columns have one of the prefixes SETTING, METRIC and CURVE.
RUN_COLUMNS = ("run_id", "name", "kind", "sweep", "state", "started", "dataset", "digest", "code", "commit")
RULE = "must be a results.parquet of a report"
SETTING, METRIC, CURVE, STEP = "settings.", "metrics.", "curve.", "curve.step"


def write(table: pd.DataFrame, path: Path) -> None:
    """Write the table: rows sorted by start; RUN_COLUMNS first, then the other columns by prefix and name.

    Args:
        table: one row per run, with the columns RUN_COLUMNS, settings.<field> (texts), metrics.<name> (numbers),
            curve.step (lists of int) and curve.<name> (lists of numbers); None or NaN for missing values.
        path: the Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet

    others = set(table.columns) - set(RUN_COLUMNS)
    names = sorted(others, key=lambda name: ((SETTING, METRIC, CURVE).index(_get_prefix(name)), name))
    rows = table.sort_values(["started", "run_id"])
    fields, columns = [], []
    for name in (*RUN_COLUMNS, *names):
        column_type = {SETTING: pa.string(), METRIC: pa.float64(), CURVE: pa.list_(pa.float64())}.get(
            _get_prefix(name), pa.string()
        )
        fields.append(pa.field(name, pa.list_(pa.int64()) if name == STEP else column_type))
        columns.append(pa.array([_convert(value) for value in rows[name]], fields[-1].type))
    with write_atomically(path) as partial:
        pyarrow.parquet.write_table(pa.table(columns, schema=pa.schema(fields)), partial, compression="zstd")


def read(path: Path) -> pd.DataFrame:
    """Read a table that `write` wrote. Missing texts and lists are None; missing numbers are NaN.

    Raises:
        UsageError: the file cannot be read, or is not a table of runs.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if path.exists() and not path.is_file():  # opening a FIFO would block
            raise OSError(errno.EINVAL, "not a file")
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
    except OSError as error:
        raise UsageError(f"from: {RULE}, got {str(path)!r}: {error.strerror or 'not a Parquet file'}") from None
    except pa.ArrowException:
        raise UsageError(f"from: {RULE}, got {str(path)!r}: not a Parquet file") from None
    missing = [name for name in RUN_COLUMNS if name not in table.column_names]
    if missing:
        raise UsageError(f"from: {RULE}, got {str(path)!r}: the column {missing[0]} is missing")
    wrong_column = next((field.name for field in table.schema if not _has_type(field)), None)
    if wrong_column is not None:
        raise UsageError(f"from: {RULE}, got {str(path)!r}: the column {wrong_column!r} has an unknown name or type")
    if len(set(table.column_names)) < len(table.column_names):
        raise UsageError(f"from: {RULE}, got {str(path)!r}: several columns have the same name")
    types = {name: float if _get_prefix(name) == METRIC else object for name in table.column_names}
    try:
        return pd.DataFrame({name: pd.Series(table[name].to_pylist(), dtype=types[name]) for name in types})
    except UnicodeDecodeError:
        raise UsageError(f"from: {RULE}, got {str(path)!r}: a text is not UTF-8") from None


def _has_type(field: Any) -> bool:
    """Return whether a column has a known name and the type that belongs to this name."""
    type_name, prefix = str(field.type), _get_prefix(field.name)
    if prefix in (METRIC, CURVE):
        item = "int64" if field.name == STEP else "double"
        return (
            type_name == "double"
            if prefix == METRIC
            else type_name.startswith("list<") and type_name.endswith(f": {item}>")
        )
    return type_name == "string" and (prefix == SETTING or field.name in RUN_COLUMNS)


def _get_prefix(name: str) -> str:
    return next((prefix for prefix in (SETTING, METRIC, CURVE) if name.startswith(prefix)), "")


def _convert(value: Any) -> Any:
    """Replace missing values by None, also in lists and arrays. Arrays become lists."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_convert(part) for part in value]
    return None if pd.isna(value) else value
