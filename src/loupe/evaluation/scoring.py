"""Scores upscaling methods on images. The results are a table of scores and its summary.

The table of `score` has one row per image and method. The table of `score_patches` has one row per draw and method; a
draw is one random patch per photo.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from loupe.config.networks import DEFAULT_PATCHES
from loupe.data.pairs import Pairs
from loupe.data.patches import Patches
from loupe.data.whole_photos import WholePhotos
from loupe.evaluation import metrics
from loupe.imaging.conversion import from_floats, to_floats
from loupe.upscalers.baselines import build_classical
from loupe.upscalers.ridge import RidgeUpscaler
from loupe.upscalers.tiling import UpscalingModel, upscale

RESAMPLES = 2000  # number of bootstrap samples
DRAWS = 20
INTERVAL_PERCENTILES = 2.5, 97.5  # the ends of a 95 % interval
MIN_PATCH_SIDE = 8  # smallest side in pixels of the blocks that `score_patches` uses as patches


def build_baselines(
    pairs: Pairs | WholePhotos, ridge: np.ndarray | None, luminance: str
) -> dict[str, UpscalingModel]:
    """Return the baselines of a score table by name: the classical ones, and ridge unless its weights are None."""
    methods = build_classical(pairs.scale, luminance)
    return methods if ridge is None else methods | {"ridge": RidgeUpscaler(ridge, pairs.scale, luminance)}


def score(
    methods: Mapping[str, UpscalingModel],
    pairs: Pairs | WholePhotos,
    recompose: str = "concatenate",
    names: tuple[str, ...] = metrics.SCORES,
    border: int | None = None,
) -> pd.DataFrame:
    """Score methods on whole images.

    Args:
        methods: upscaling models by their names in the table.
        pairs: the images.
        recompose: as in `upscale`.
        names: the scores to compute.
        border: for the protocol `classical`, the number of pixels to crop from each side before scoring. Results are
            then also rounded to 8 bits. With None, results are neither cropped nor rounded.

    Returns:
        Columns path, photo (content hash), image (number), method, and one column per score.
    """
    tables, start = [], 0
    for inputs, labels in pairs.batches(16):
        rows = pairs.rows[start : start + len(inputs)]
        for name, method in methods.items():
            large, cropped_labels = upscale(method, inputs, recompose), labels
            if border is not None:
                inside = np.s_[:, border:-border, border:-border]
                large, cropped_labels = to_floats(from_floats(large[inside])), labels[inside]
            columns = {
                "path": [row["path"] for row in rows],
                "photo": [row["sha256"] for row in rows],
                "image": range(start, start + len(inputs)),
                "method": name,
            }
            tables.append(pd.DataFrame(columns | metrics.scores(large, cropped_labels, names)))
        start += len(inputs)
    return pd.concat(tables, ignore_index=True)


def score_patches(methods: Mapping[str, UpscalingModel], pairs: Pairs, seed: int) -> pd.DataFrame:
    """Score methods with the protocol of the 2016 study: on DRAWS random patches of each photo.

    A draw cuts one patch from each photo. Each patch is upscaled separately. A patch has the size of the input
    blocks of the first method. If the side of these blocks is below MIN_PATCH_SIDE, a patch has the default size of
    the scale factor.

    Returns:
        Columns draw, method, mae, psnr, ssim, mse: one row per draw and method, with means over the patches.
    """
    first = next(iter(methods.values())).geometry
    side = first.q if first.q >= MIN_PATCH_SIDE else int(DEFAULT_PATCHES[pairs.scale].split(":")[0])
    patches = Patches(pairs.first_per_photo(), side, "any", augment=False, seed=seed)
    rows = []
    for draw in range(DRAWS):
        inputs, labels = patches.draw_from_each(draw)
        for name, method in methods.items():
            scores = metrics.scores(upscale(method, inputs), labels)
            rows.append({"draw": draw, "method": name} | {key: value.mean() for key, value in scores.items()})
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Summarise a table of scores by method.

    Args:
        table: the result of `score` or `score_patches`.

    Returns:
        A dictionary per method with its mean mae, psnr, ssim and mse. For a table of `score_patches`, each dictionary
        also contains `spread`, the standard deviation of each score over draws. For a table of `score`, each
        dictionary also contains:

        interval: the 95 % bootstrap interval of each mean, [low, high].
        over: comparisons with nearest and lanczos, or at 1:1 with the input. `gain` is the mae of the baseline
            divided by the mae of the method. `mae` is the mae of the method minus the mae of the baseline, and
            `interval` is the interval of this difference. `baseline_wins` is the share of photos on which the
            baseline's mae is lower.
    """
    methods = {str(name): rows for name, rows in table.groupby("method", sort=False)}
    if "photo" not in table:
        return {
            name: _compute_means(rows) | {"spread": {key: float(rows[key].std()) for key in metrics.SCORES}}
            for name, rows in methods.items()
        }
    methods = {name: rows.sort_values("image") for name, rows in methods.items()}
    photos = methods[next(iter(methods))]["photo"].to_numpy()
    columns = {(name, key): rows[key].to_numpy() for name, rows in methods.items() for key in metrics.SCORES}
    baselines = [name for name in ("input", "nearest", "lanczos") if name in methods]
    pairs = [(name, baseline) for name in methods for baseline in baselines]
    columns |= {(name, baseline): columns[name, "mae"] - columns[baseline, "mae"] for name, baseline in pairs}
    values = np.stack([*columns.values()], axis=1)
    intervals = dict(zip(columns, bootstrap_intervals(values, photos).tolist(), strict=True))
    summary = {
        name: _compute_means(rows) | {"interval": {key: intervals[name, key] for key in metrics.SCORES}, "over": {}}
        for name, rows in methods.items()
    }
    for name, baseline in pairs:
        mae, difference = summary[name]["mae"], columns[name, baseline]
        by_photo = pd.Series(difference).groupby(photos).mean()
        summary[name]["over"][baseline] = {
            "gain": float((mae - difference.mean()) / mae) if mae else float("inf"),
            "mae": float(difference.mean()),
            "interval": intervals[name, baseline],
            "baseline_wins": float((by_photo > 0).mean()),
        }
    return summary


def _compute_means(rows: pd.DataFrame) -> dict[str, Any]:
    return {key: float(rows[key].mean()) for key in metrics.SCORES}


def bootstrap_intervals(values: np.ndarray, photos: np.ndarray) -> np.ndarray:
    """Compute 95 % bootstrap intervals of means. The samples consist of photos, with all images of each photo.

    Args:
        values: (n, k), one row per image; the mean of each column gets an interval.
        photos: (n,), the photo of each image.

    Returns:
        (k, 2), the low and high ends.
    """
    names, index = np.unique(photos, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    counts = np.bincount(index)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        draws = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        means.append(draws @ sums / (draws @ counts))
    return np.percentile(means, INTERVAL_PERCENTILES, axis=0).T


def format_scores(summary: dict[str, dict[str, Any]], seconds: dict[str, float] | None = None) -> str:
    """Format a summary as a text table, from the highest mae to the lowest.

    Args:
        summary: the result of `summarise`.
        seconds: training times by method; None omits the column.
    """
    width = max(16, 1 + max(map(len, summary)))
    simplest = next(iter(next(iter(summary.values())).get("over", {})), "nearest")
    header = f"{'method':<{width}}{'mae':>9}{'psnr':>9}{'ssim':>9}{f'gain over {simplest}':>20}"
    lines = [header + (f"{'training':>12}" if seconds else "")]
    for name, means in sorted(summary.items(), key=lambda item: -item[1]["mae"]):
        gain = means.get("over", {}).get(simplest, {}).get("gain")
        line = f"{name:<{width}}{means['mae']:>9.4f}{means['psnr']:>9.2f}{means['ssim']:>9.4f}"
        line += f"{gain:>19.2f}x" if gain is not None else f"{'':>20}"
        if seconds:
            line += f"{seconds[name]:>10.1f} s" if name in seconds else f"{'-':>12}"
        lines.append(line)
    return "\n".join(lines)


def to_metrics(summary: dict[str, Any], split: str = "test") -> dict[str, float]:
    """Convert a summary to MLflow metrics: `test/mae` for the method `model`, `test/lanczos/mae` for `lanczos`."""
    prefixes = {name: split if name == "model" else f"{split}/{to_metric_name(name)}" for name in summary}
    return {f"{prefixes[name]}/{key}": means[key] for name, means in summary.items() for key in metrics.SCORES}


def to_metric_name(name: str) -> str:
    """Replace slashes, and characters that MLflow refuses in metric names, with hyphens."""
    return re.sub(r"[^\w. -]+", "-", name, flags=re.ASCII)
