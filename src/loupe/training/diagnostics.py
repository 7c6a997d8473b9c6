"""Computes diagnostics of a trained network, as a dictionary of metrics. The report uses them to check claims."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from loupe.config.training import GradientTrain, Train
from loupe.data.pairs import Pairs
from loupe.evaluation import metrics
from loupe.upscalers.baselines import build_classical, get_references
from loupe.upscalers.tiling import UpscalingModel, upscale

GAP_TRAIN_IMAGES = 128
BATCH_SIZE = 16
MIN_DECREASE = 0.01  # a larger relative decrease of val/mae counts as progress
SATURATION_POINTS = 2  # a curve saturates at this number of consecutive points without progress


def choose_recompose(settings: Train) -> str:
    """Return the argument `recompose` of `upscale` for the network of the settings."""
    return getattr(settings, "recompose", "concatenate")


def diagnose_network(model: UpscalingModel, settings: Train, train: Pairs, validation: Pairs) -> dict[str, float]:
    """Compute diagnostics of a trained network on whole images.

    Returns:
        val/best_mae, val/best_mse, val/best_psnr: means over the validation images.
        val/nearest/mae, val/lanczos/mae: mean mae of these baselines; at 1:1, the baseline `input` replaces both.
        val/gain: nearest's mae divided by the network's mae.
        val/nearest_wins: share of photos on which nearest is better; see `compute_win_share`.
        val/gap: validation mae minus training mae, minus the same difference for Lanczos.
        val/dark_lost: share of dark pixels that became bright, see `metrics.compute_lost_dark_share`.
        val/gradient_energy: gradient energy of the results divided by the gradient energy of the labels.
        val/seams: mean error at the borders of blocks divided by the mean error inside; NaN if no pixel is inside.
            This and the other quotients are NaN if the divisor is 0.
        val/input_mae: mae of the input after the filter `pre_upscale`, without the network; missing without a filter.
    """
    pre_upscale = settings.pre_upscale if isinstance(settings, GradientTrain) else "none"
    simplest, best = get_references(validation.scale)
    names = {simplest, best, pre_upscale} - {"none"}
    baselines = {name: baseline for name, baseline in build_classical(validation.scale).items() if name in names}
    batches: dict[str, list[np.ndarray]] = {}
    for inputs, labels in validation.batches(BATCH_SIZE):
        large = upscale(model, inputs, choose_recompose(settings))
        border, inside = metrics.compute_seam_errors(large, labels, model.geometry.p)
        values = metrics.compute_scores(large, labels, ("mae", "mse", "psnr")) | {
            "dark": metrics.compute_lost_dark_share(large, labels), "border": border, "inside": inside,
            "energy": metrics.compute_gradient_energy(large), "label energy": metrics.compute_gradient_energy(labels),
        } | {name: metrics.mae(upscale(each, inputs), labels) for name, each in baselines.items()}  # fmt: skip
        for name, value in values.items():
            batches.setdefault(name, []).append(value)
    images = {name: np.concatenate(values) for name, values in batches.items()}
    mean = {
        name: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan for name, values in images.items()
    }
    diagnostics = {f"val/best_{name}": mean[name] for name in ("mae", "mse", "psnr")}
    diagnostics |= {f"val/{name}/mae": mean[name] for name in (simplest, best)}
    diagnostics |= {
        "val/gain": _divide(mean[simplest], mean["mae"]),
        f"val/{simplest}_wins": compute_win_share(images[simplest] < images["mae"], validation),
        "val/gap": mean["mae"] - mean[best] - _compare_with_baseline(model, baselines[best], settings, train),
        "val/dark_lost": mean["dark"],
        "val/gradient_energy": _divide(mean["energy"], mean["label energy"]),
        "val/seams": _divide(mean["border"], mean["inside"]),
    }
    return diagnostics if pre_upscale == "none" else diagnostics | {"val/input_mae": mean[pre_upscale]}


def diagnose_curve(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Compute diagnostics of a learning curve.

    Args:
        points: `step` and `metrics` of each point.

    Returns:
        val/lowest_mae: the lowest val/mae.
        val/saturated_mae: the lowest val/mae until the curve saturates. It saturates at the second of two successive
            points if neither lowers the minimum by more than 1 %. If it never saturates: val/lowest_mae.
        val/roughness: standard deviation of the differences between the val/mae of successive points in the second
            half; missing if there are fewer than two differences.
    """
    maes = np.array([point["metrics"]["val/mae"] for point in points])
    lowest, waited, saturated = maes[0], 0, maes.min()
    for mae in maes[1:]:
        waited = 0 if mae < (1 - MIN_DECREASE) * lowest else waited + 1
        lowest = min(lowest, mae)
        if waited == SATURATION_POINTS:
            saturated = lowest
            break
    differences = np.diff(maes[len(maes) // 2 :])
    diagnostics = {"val/lowest_mae": float(maes.min()), "val/saturated_mae": float(saturated)}
    return diagnostics | ({"val/roughness": float(differences.std())} if len(differences) > 1 else {})


def compute_win_share(wins: np.ndarray, pairs: Pairs) -> float:
    """Return the share of photos for which more than half of the pairs are wins.

    Args:
        wins: bool (n,), whether each pair is a win.
        pairs: the pairs; pairs with the same `sha256` belong to one photo.
    """
    names, index = np.unique(pairs.read_column("sha256"), return_inverse=True)
    return float((np.bincount(index, weights=wins) / np.bincount(index, minlength=len(names)) > 0.5).mean())


def _divide(value: float, divisor: float) -> float:
    return value / divisor if divisor else np.nan


def _compare_with_baseline(model: UpscalingModel, baseline: UpscalingModel, settings: Train, train: Pairs) -> float:
    """Return the mean mae of the network minus that of a baseline on up to GAP_TRAIN_IMAGES training images."""
    differences = []
    for inputs, labels in train.subsample(GAP_TRAIN_IMAGES).batches(BATCH_SIZE):
        mae = metrics.mae(upscale(model, inputs, choose_recompose(settings)), labels)
        differences.append(mae - metrics.mae(upscale(baseline, inputs), labels))
    return float(np.concatenate(differences).mean())
