"""Scores upscaling methods on inputs that are compressed as JPEG with several qualities."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from loupe.data.pairs import Pairs
from loupe.evaluation import scoring
from loupe.imaging.jpeg_quality import MAX_QUALITY
from loupe.upscalers.tiling import UpscalingModel


def score_qualities(
    methods: Mapping[str, UpscalingModel], pairs: Pairs, qualities: Iterable[int], recompose: str
) -> pd.DataFrame:
    """Score methods on inputs of each JPEG quality (100: no compression).

    Returns:
        The column `quality`, and the columns of `scoring.score`.
    """
    tables = {quality: scoring.score(methods, pairs.compress_inputs(quality), recompose) for quality in qualities}
    return pd.concat(tables, names=["quality"]).reset_index("quality").reset_index(drop=True)


def summarise_qualities(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the summaries of the scores by quality; see `scoring.summarise`."""
    return {str(quality): scoring.summarise(rows) for quality, rows in table.groupby("quality", sort=False)}


def compute_psnr(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean PSNR: one row per quality, one column per method."""
    return table.pivot_table("psnr", "quality", "method", sort=False)


def find_qualities_below(baseline: str, psnr: pd.DataFrame, names: Iterable[str]) -> dict[str, list[int]]:
    """Return, by method, the qualities at which the PSNR of the method is below the PSNR of a baseline."""
    return {name: psnr.index[psnr[name] < psnr[baseline]].tolist() for name in names}


def format_psnr(psnr: pd.DataFrame, baseline: str, below: dict[str, list[int]], photos: int) -> str:
    """Format the results of `compute_psnr` and `find_qualities_below` as text."""
    count = scoring.format_count(photos)
    lines = [f"PSNR in dB on {count} by JPEG quality of the inputs ({MAX_QUALITY}: not compressed)"]
    lines += psnr.rename_axis(index=None, columns="quality").to_string(float_format="{:.2f}".format).split("\n")
    for name, found in below.items():
        where = f"below {baseline} at quality {', '.join(map(str, found))}"
        lines.append(f"{name} is {where if found else f'not below {baseline} at any quality'}")
    return "\n".join(lines)
