"""Finds in a table of runs those that belong to the points of a grid, whichever sweep trained them."""

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import pandas as pd

from loupe.config import parse_settings
from loupe.config.base import SettingsError
from loupe.config.fields import format_value
from loupe.search.sweep_file import PLACE, Chosen, SweepFile


def of_sweep(sweep: SweepFile, table: pd.DataFrame) -> pd.DataFrame:
    """The finished trials that belong to a grid, whichever sweep trained them.

    Args:
        sweep: the file.
        table: of runs on one dataset, with `settings.*` and `metrics.*`.

    Returns:
        A row for each arm and seed that there is a run of, newest first where there are several: `seed`, a
        column for each key of [search] (texts; None where its condition does not hold), and the table's. Of
        tuned fields each arm has the one value that was best with the first seed.
    """
    if sweep.study.sampler != "grid" or table.empty:
        return pd.DataFrame()
    rows = table[(table["kind"] == "trial") & (table["state"] == "COMPLETE")]
    rows = rows.assign(_what=[_what(row) for _, row in rows.iterrows()])
    rows = rows.sort_values("started", ascending=False)
    by_what = dict(list(rows.groupby("_what")))
    value, sign = f"metrics.{sweep.value}", 1 if sweep.study.direction == "minimize" else -1
    kept: list[dict[str, Any]] = []
    for points in sweep.arms().values():
        candidates: list[tuple[float, int, Chosen, pd.DataFrame]] = []
        for chosen in points:
            found = by_what.get(_key(sweep.settings(chosen).to_texts()))
            if found is not None:
                of_seed = found.drop_duplicates("settings.seed").set_index("settings.seed", drop=False)
                first = str(sweep.seeds()[0])
                if first in of_seed.index or not sweep.study.tune:
                    best = sign * of_seed.loc[first, value] if first in of_seed.index else math.nan
                    candidates.append((math.inf if math.isnan(best) else best, len(candidates), chosen, of_seed))
        for _, _, chosen, of_seed in [min(candidates)] if candidates and sweep.study.tune else candidates:
            for _, row in of_seed.iterrows():
                fields = {key: format_value(chosen[key]) if key in chosen else None for key in sweep.search}
                kept.append(row.to_dict() | fields | {"seed": int(row["settings.seed"])})
    return pd.DataFrame(kept)


def _what(row: pd.Series) -> str:
    """What a run was of."""
    return _completed(
        frozenset(
            (name.removeprefix("settings."), value)
            for name, value in row.items()
            if str(name).startswith("settings.") and isinstance(value, str)
        )
    )


@cache
def _completed(texts: frozenset[tuple[str, str]]) -> str:
    """The key of a run's settings; a field that came later than the run had the default."""
    try:
        return _key(parse_settings("train", dict(texts)).to_texts())
    except SettingsError:  # of a field or value that there no longer is
        return _key(dict(texts))


def _key(texts: Mapping[str, str]) -> str:
    return json.dumps({name: value for name, value in texts.items() if name not in PLACE}, sort_keys=True)
