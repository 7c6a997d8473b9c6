"""Scores upscaling methods on images."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from loupe.config.networks import DEFAULT_PATCHES
from loupe.data.pairs import Pairs
from loupe.data.patches import Patches
from loupe.data.whole_photos import WholePhotos
from loupe.errors import UsageError
from loupe.evaluation import metrics
from loupe.imaging.conversion import from_floats, to_floats
from loupe.upscalers.baselines import build_classical
from loupe.upscalers.ridge import RidgeUpscaler
from loupe.upscalers.tiling import UpscalingModel, upscale

DRAWS = 20  # number of draws in `score_patches`
CONFIDENCE = 0.95
MIN_PHOTOS = 8  # for fewer photos, intervals would not have the coverage CONFIDENCE
MIN_PATCH_SIDE = 8  # in pixels; `score_patches` does not use smaller blocks as patches


def build_baselines(
    pairs: Pairs | WholePhotos, ridge: np.ndarray | None, luminance: str
) -> dict[str, UpscalingModel]:
    """Return the baselines by name, with ridge only if its weights are given."""
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
        methods: upscaling models by name.
        pairs: the images.
        recompose: as in `upscale`.
        names: the scores to compute.
        border: for the protocol `classical`, pixels to crop from each side; results are then rounded to 8 bits. None
            neither crops nor rounds.

    Returns:
        Columns path, method, one column per score, image (number), photo (content hash); one row per image and
        method. MLflow shows only the first columns, so the scores are among them.
    """
    tables, start = [], 0
    for inputs, labels in pairs.batches(16):
        rows = pairs.rows[start : start + len(inputs)]
        for name, method in methods.items():
            large, cropped_labels = upscale(method, inputs, recompose), labels
            if border is not None:
                inside = np.s_[:, border:-border, border:-border]
                large, cropped_labels = to_floats(from_floats(large[inside])), labels[inside]
            scores = metrics.compute_scores(large, cropped_labels, names)
            columns = {"path": [row["path"] for row in rows], "method": name, **scores}
            columns |= {"image": range(start, start + len(inputs)), "photo": [row["sha256"] for row in rows]}
            tables.append(pd.DataFrame(columns))
        start += len(inputs)
    return pd.concat(tables, ignore_index=True)


def choose_patch_side(method: UpscalingModel, scale: Fraction) -> int:
    """Return the side of the patches for `score_patches`, in pixels of the input.

    This is the side of the method's input blocks, or the default if these blocks are smaller than MIN_PATCH_SIDE.
    """
    block_side = method.geometry.q
    return block_side if block_side >= MIN_PATCH_SIDE else int(DEFAULT_PATCHES[scale].split(":")[0])


def score_patches(methods: Mapping[str, UpscalingModel], pairs: Pairs, seed: int) -> pd.DataFrame:
    """Score methods as the 2016 study does: on DRAWS random patches of the first label of each photo.

    Patches are upscaled separately. They have the side `choose_patch_side` of the first method.

    Returns:
        Columns draw, method, photos (their number), mae, psnr, ssim, mse: means over the patches, one row per draw
        and method.

    Raises:
        UsageError: the patches are larger than the inputs.
    """
    side = choose_patch_side(next(iter(methods.values())), pairs.scale)
    if side > pairs.sides[0]:
        rule = f"must not be study-patches for inputs smaller than a patch of {side}x{side} pixels"
        raise UsageError(f"protocol: {rule}, got inputs of {pairs.sides[0]}x{pairs.sides[0]} pixels")
    patches = Patches(pairs.select_first_per_photo(), side, "any", augment=False, seed=seed)
    rows = []
    for draw in range(DRAWS):
        inputs, labels = patches.draw_from_each(draw)
        for name, method in methods.items():
            scores = metrics.compute_scores(upscale(method, inputs), labels)
            means = {key: value.mean() for key, value in scores.items()}
            rows.append({"draw": draw, "method": name, "photos": len(labels)} | means)
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Summarise a table from `score`, with all SCORES, or from `score_patches`.

    Returns:
        A dictionary per method: the number of photos, the mean mae, psnr, ssim and mse, and the PSNR of the mean mse
        (`psnr_of_mse`), which a few nearly perfect images cannot raise much. For a table from `score_patches`, the
        dictionary also contains `spread`, the standard deviation of each score over draws. For a table from `score`,
        it also contains:

        interval: the 95 % interval of each mean, [low, high]; None with fewer than MIN_PHOTOS photos.
        over: comparisons with nearest and lanczos; at 1:1, with the input. `gain` is the mae of the baseline
            divided by the mae of the method. `mae` is the mae of the method minus the mae of the baseline, and
            `interval` is the interval of this difference. `baseline_wins` is the share of photos on which the
            baseline is better.
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
    intervals = dict(zip(columns, compute_intervals(values, photos), strict=True))
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
    means = {key: float(rows[key].mean()) for key in metrics.SCORES}
    psnr_of_mse = float(metrics.convert_to_psnr(np.array(means["mse"])))
    return {"photos": count_photos(rows)} | means | {"psnr_of_mse": psnr_of_mse}


def count_photos(table: pd.DataFrame) -> int:
    """Return the number of photos of a table of scores."""
    return int(table["photo"].nunique() if "photo" in table else table["photos"].iloc[0])


def count_images(table: pd.DataFrame) -> int:
    """Return the number of images of a table of scores; `score_patches` uses one image per photo."""
    return int(table["image"].nunique()) if "image" in table else count_photos(table)


def compute_intervals(values: np.ndarray, photos: np.ndarray) -> list[list[float] | None]:
    """Compute 95 % intervals of means with Student's t; the images of a photo are one observation.

    The standard error is that of the jackknife (Efron and Stein 1981), which computes the mean without each photo in
    turn. Percentile bootstrap intervals would be too narrow for a few photos.

    Args:
        values: (n, k), one row per image.
        photos: (n,), the photo of each image.

    Returns:
        The interval [low, high] per column; None with fewer than MIN_PHOTOS photos.
    """
    from scipy.special import stdtrit  # the import of scipy.stats takes 0.5 s more

    names, index = np.unique(photos, return_inverse=True)
    photo_count = len(names)
    if photo_count < MIN_PHOTOS:
        return [None] * values.shape[1]
    means = values.mean(axis=0)
    residuals = np.zeros((photo_count, values.shape[1]))  # sums over the images of a photo
    np.add.at(residuals, index, values - means)
    changes = residuals / (len(values) - np.bincount(index))[:, None]  # change of the mean without each photo
    errors = np.sqrt((photo_count - 1) / photo_count * np.square(changes).sum(axis=0))
    half_widths = stdtrit(photo_count - 1, (1 + CONFIDENCE) / 2) * errors
    return np.stack([means - half_widths, means + half_widths], axis=1).tolist()


def format_scores(summary: dict[str, dict[str, Any]], seconds: dict[str, float] | None = None) -> str:
    """Format a summary as a text table with the highest mae first; `seconds` are training times by method."""
    width = max(16, 1 + max(map(len, summary)))
    first = next(iter(summary.values()))
    simplest = next(iter(first.get("over", {})), None)  # None for scores from `score_patches`
    header = f"{'method':<{width}}{'mae':>9}{'psnr':>9}{'psnr of mse':>13}{'ssim':>9}"
    header += f"{f'gain over {simplest}':>20}" if simplest else ""
    lines = [header + (f"{'training':>12}" if seconds else "")]
    for name, means in sorted(summary.items(), key=lambda item: -item[1]["mae"]):
        line = f"{name:<{width}}{means['mae']:>9.4f}{means['psnr']:>9.2f}{means['psnr_of_mse']:>13.2f}"
        line += f"{means['ssim']:>9.4f}" + (f"{means['over'][simplest]['gain']:>19.2f}x" if simplest else "")
        if seconds:
            line += f"{seconds[name]:>10.1f} s" if name in seconds else f"{'-':>12}"
        lines.append(line)
    photos = format_count(first["photos"])
    items = f"the images of {photos}" if "over" in first else f"{photos}, {DRAWS} patches per photo"
    return "\n".join([*lines, f"means over {items}"])


def format_count(count: int, noun: str = "photo") -> str:
    """Return a number with a noun, such as `1 photo` or `3 photos`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def to_metrics(summary: dict[str, Any], split: str = "test") -> dict[str, float]:
    """Convert a summary to MLflow metrics: `test/mae` for the method `model`, `test/lanczos/mae` for `lanczos`."""
    prefixes = {name: split if name == "model" else f"{split}/{to_metric_name(name)}" for name in summary}
    keys = (*metrics.SCORES, "psnr_of_mse")
    count = {f"{split}/photo_count": next(iter(summary.values()))["photos"]}
    return count | {f"{prefixes[name]}/{key}": means[key] for name, means in summary.items() for key in keys}


def to_metric_name(name: str) -> str:
    """Replace each sequence of characters other than ASCII letters, digits, `_`, `.`, `-` and spaces by a hyphen.

    MLflow refuses many other characters in the names of metrics. It allows a slash, but here a slash separates the
    parts of such a name.
    """
    return re.sub(r"[^\w. -]+", "-", name, flags=re.ASCII)
