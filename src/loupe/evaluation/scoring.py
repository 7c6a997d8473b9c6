"""Methods times images: a table of scores, one row an image and method, and its summary with intervals."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from loupe.config.training import DEFAULT_PATCHES
from loupe.data.dataset import Pairs
from loupe.data.patches import Patches
from loupe.data.whole_photos import WholePhotos
from loupe.evaluation import metrics
from loupe.imaging.conversion import to_bytes, to_floats
from loupe.upscalers.baselines import FILTERS, FilterUpscaler
from loupe.upscalers.ridge import RidgeUpscaler
from loupe.upscalers.tiling import UpscalingModel, upscale

RESAMPLES = 2000
DRAWS = 20
LOW, HIGH = 2.5, 97.5  # percentiles of a 95 % interval


def build_baselines(pairs: Pairs | WholePhotos, ridge: np.ndarray, luminance: str) -> dict[str, UpscalingModel]:
    """What every score stands beside: the classical filters, and ridge with these weights."""
    methods: dict[str, UpscalingModel] = {name: FilterUpscaler(name, pairs.scale, luminance) for name in FILTERS}
    return methods | {"ridge": RidgeUpscaler(ridge, pairs.scale, luminance)}


def score(
    methods: Mapping[str, UpscalingModel],
    pairs: Pairs | WholePhotos,
    recompose: str = "concatenate",
    names: tuple[str, ...] = metrics.SCORES,
    border: int | None = None,
) -> pd.DataFrame:
    """Score methods on whole images.

    Args:
        methods: by the names that the table shows.
        pairs: images to score on.
        recompose: as `upscale` takes it.
        names: of the scores.
        border: where it is given, so many pixels of each side do not count, and what a method makes is rounded
            to 8 bits first, as in papers.

    Returns:
        Columns path, photo (content hash), image (its number), method, and the scores named.
    """
    tables, start = [], 0
    for inputs, labels in pairs.batches(16):
        rows = pairs.rows[start : start + len(inputs)]
        for name, method in methods.items():
            large, labels_inside = upscale(method, inputs, recompose), labels
            if border is not None:
                inside = np.s_[:, border:-border, border:-border]
                large, labels_inside = to_floats(to_bytes(large[inside])), labels[inside]
            tables.append(
                pd.DataFrame(
                    {
                        "path": [row["path"] for row in rows],
                        "photo": [row["sha256"] for row in rows],
                        "image": range(start, start + len(inputs)),
                        "method": name,
                        **metrics.scores(large, labels_inside, names),
                    }
                )
            )
        start += len(inputs)
    return pd.concat(tables, ignore_index=True)


def score_patches(methods: Mapping[str, UpscalingModel], pairs: Pairs, seed: int) -> pd.DataFrame:
    """The study's protocol: one random patch of each photo, at any offset, upscaled alone; 20 draws.

    A patch is the model's own block where that is 8 pixels or more, else the study's size for the scale.

    Returns:
        Columns draw, method, mae, psnr, ssim, mse: a row a draw, the mean over its patches.
    """
    first = next(iter(methods.values())).geometry
    side = first.q if first.q >= 8 else int(DEFAULT_PATCHES[pairs.scale].split(":")[0])
    patches = Patches(pairs.one_a_photo(), side, "any", augment=False, seed=seed)
    rows = []
    for draw in range(DRAWS):
        inputs, labels = patches.one_of_each(draw)
        for name, method in methods.items():
            found = metrics.scores(upscale(method, inputs), labels)
            rows.append({"draw": draw, "method": name} | {key: value.mean() for key, value in found.items()})
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Means by method; over photos, with 95 % bootstrap intervals; over draws, with their spread.

    Returns:
        method -> {mae, psnr, ssim, mse, interval: {score: [low, high]}}, of photos also `over`: for nearest
        and lanczos {gain: baseline's mae over ours, mae: ours minus the baseline's, interval of that,
        baseline_wins: share of photos where the baseline's mae is lower}; of draws `spread`: {score: std}.
    """
    methods = {str(name): rows for name, rows in table.groupby("method", sort=False)}
    if "photo" not in table:
        return {
            name: _means(rows) | {"spread": {key: float(rows[key].std()) for key in metrics.SCORES}}
            for name, rows in methods.items()
        }
    methods = {name: rows.sort_values("image") for name, rows in methods.items()}
    photos = methods[next(iter(methods))]["photo"].to_numpy()
    columns = {(name, key): rows[key].to_numpy() for name, rows in methods.items() for key in metrics.SCORES}
    pairs = [(name, other) for name in methods for other in ("nearest", "lanczos") if other in methods]
    columns |= {pair: columns[pair[0], "mae"] - columns[pair[1], "mae"] for pair in pairs}
    ends = bootstrap_intervals(np.stack([*columns.values()], axis=1), photos).tolist()
    intervals = dict(zip(columns, ends, strict=True))
    found = {
        name: _means(rows) | {"interval": {key: intervals[name, key] for key in metrics.SCORES}, "over": {}}
        for name, rows in methods.items()
    }
    for name, other in pairs:
        mae, difference = found[name]["mae"], columns[name, other]
        by_photo = pd.Series(difference).groupby(photos).mean()
        found[name]["over"][other] = {
            "gain": float((mae - difference.mean()) / mae) if mae else float("inf"),
            "mae": float(difference.mean()),
            "interval": intervals[name, other],
            "baseline_wins": float((by_photo > 0).mean()),
        }
    return found


def _means(rows: pd.DataFrame) -> dict[str, Any]:
    return {key: float(rows[key].mean()) for key in metrics.SCORES}


def bootstrap_intervals(values: np.ndarray, photos: np.ndarray, seed: int = 0) -> np.ndarray:
    """The 95 % bootstrap intervals of means; photos, not their tiles, are drawn again.

    Args:
        values: (n, k), a row an image, a column for each mean.
        photos: (n,), the photo that each image was cut from.
        seed: of the draws, which are the same for all columns.

    Returns:
        (k, 2), the low and the high end of each.
    """
    names, index = np.unique(photos, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    counts = np.bincount(index)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        means.append(times @ sums / (times @ counts))
    return np.percentile(means, [LOW, HIGH], axis=0).T


def compute_mae_differences(table: pd.DataFrame, name: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """The difference in mae of two methods on each image, ours minus the other's, and the image's photo."""
    ours = table[table["method"] == name].sort_values("image")
    theirs = table[table["method"] == other].sort_values("image")
    return ours["mae"].to_numpy() - theirs["mae"].to_numpy(), ours["photo"].to_numpy()


def format_scores(summary: dict[str, dict[str, Any]], seconds: dict[str, float] | None = None) -> str:
    """The summary as a table for people, best mae last; `seconds` are training times by method."""
    width = max(16, 1 + max(map(len, summary)))
    header = f"{'method':<{width}}{'mae':>9}{'psnr':>9}{'ssim':>9}{'gain over nearest':>20}"
    lines = [header + (f"{'training':>12}" if seconds else "")]
    for name, means in sorted(summary.items(), key=lambda item: -item[1]["mae"]):
        gain = means.get("over", {}).get("nearest", {}).get("gain")
        line = f"{name:<{width}}{means['mae']:>9.4f}{means['psnr']:>9.2f}{means['ssim']:>9.4f}"
        line += f"{gain:>19.2f}x" if gain is not None else f"{'':>20}"
        if seconds:
            line += f"{seconds[name]:>10.1f} s" if name in seconds else f"{'-':>12}"
        lines.append(line)
    return "\n".join(lines)


def to_metrics(summary: dict[str, Any], split: str = "test") -> dict[str, float]:
    """A summary as metrics: `test/mae` of the model, `test/lanczos/mae` of a baseline."""
    return {
        f"{split}/{score}" if name == "model" else f"{split}/{to_metric_name(name)}/{score}": means[score]
        for name, means in summary.items()
        for score in ("mae", "psnr", "ssim", "mse")
    }


def to_metric_name(name: str) -> str:
    """Return a name without slashes and without the characters that MLflow refuses in metric names."""
    return re.sub(r"[^\w. -]+", "-", name, flags=re.ASCII)
