"""The table of runs, a row a run, as a Parquet file and back: what a report is rebuilt from without a store."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from loupe.errors import UsageError
from loupe.imaging.atomic import write_atomically

FACTS = ("run_id", "name", "kind", "sweep", "state", "started", "dataset", "digest", "code", "commit")
SETTING, METRIC, CURVE, STEP = "settings.", "metrics.", "curve.", "curve.step"


def write(table: pd.DataFrame, path: Path) -> None:
    """Write the table, beside its name first: runs by the time they started, columns by name.

    Args:
        table: columns FACTS and settings.<field> (texts), metrics.<name> (numbers), curve.step (lists of
            int) and curve.<name> (lists of numbers); None or NaN where a run has none.
        path: of the Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet

    rest = sorted(
        set(table.columns) - set(FACTS), key=lambda name: ((SETTING, METRIC, CURVE).index(_kind(name)), name)
    )
    ordered = table.sort_values(["started", "run_id"])
    fields, columns = [], []
    for name in (*FACTS, *rest):
        kind = {SETTING: pa.string(), METRIC: pa.float64(), CURVE: pa.list_(pa.float64())}.get(
            _kind(name), pa.string()
        )
        fields.append(pa.field(name, pa.list_(pa.int64()) if name == STEP else kind))
        columns.append(pa.array([_plain(value) for value in ordered[name]], fields[-1].type))
    with write_atomically(path) as partial:
        pyarrow.parquet.write_table(pa.table(columns, schema=pa.schema(fields)), partial, compression="zstd")


def read(path: Path) -> pd.DataFrame:
    """Read what `write` wrote: texts and lists with None, numbers with NaN, where a run has none.

    Raises:
        UsageError: the file is missing, or no such table.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
    except OSError as error:
        raise UsageError(f"from: {str(path)!r} cannot be read: {error.strerror or 'it is no Parquet file'}") from None
    except pa.ArrowException:
        raise UsageError(f"from: {str(path)!r} is no Parquet file") from None
    missing = [name for name in FACTS if name not in table.column_names]
    if missing:
        raise UsageError(f"from: {str(path)!r} is no table of runs: it has no column {missing[0]}")
    columns = {}
    for name in table.column_names:
        numbers = _kind(name) == METRIC
        columns[name] = pd.Series(table[name].to_pylist(), dtype=float if numbers else object)
    return pd.DataFrame(columns)


def _kind(name: str) -> str:
    return next((kind for kind in (SETTING, METRIC, CURVE) if name.startswith(kind)), "")


def _plain(value: Any) -> Any:
    """A value as Arrow takes it: None for what is missing, lists for arrays."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(part) for part in value]
    return None if pd.isna(value) else value
