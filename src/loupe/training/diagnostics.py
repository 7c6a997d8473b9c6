"""What a trained network shows beyond its score: overfitting, lost darks, blur, seams, smoothness.

These are what the study's claims are about; names are those that MLflow shows (`val/gap` and so on).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from loupe.config.training import GradientTrain, Perceptron, Train
from loupe.data.dataset import Pairs
from loupe.evaluation import metrics
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.tiling import UpscalingModel, upscale

GAP_TRAIN_IMAGES = 128
BATCH = 16
LEAST_GAIN = 0.01  # of the validation mae, that a point of the curve brings before saturation
SATURATED = 2  # points in a row that bring less


def choose_recompose(settings: Train) -> str:
    """How the images of this network are put together: perceptrons may overlap their patches."""
    return settings.recompose if isinstance(settings, Perceptron) else "concatenate"


def diagnose_network(model: UpscalingModel, settings: Train, train: Pairs, validation: Pairs) -> dict[str, float]:
    """Diagnostics of a network on whole images.

    Args:
        model: the network as it is kept.
        settings: that it was trained with.
        train: its training split.
        validation: what it was chosen on.

    Returns:
        val/best_mae, val/best_mse, val/best_psnr: means over images;
        val/nearest/mae, val/lanczos/mae: of the same images;
        val/gain: nearest's mae over ours; val/nearest_wins: share of photos where nearest's mae is lower;
        val/gap: validation minus training mae, less the same difference of Lanczos, which is that of the photos;
        val/dark_lost; val/gradient_energy: over that of the labels; val/seams: error at the borders of blocks over
        that inside (see `metrics`);
        val/input_mae: of the input after pre_upscale, where there is one.
    """
    before = settings.pre_upscale if isinstance(settings, GradientTrain) else "none"
    names = ["nearest", "lanczos", *([before] if before not in ("none", "nearest", "lanczos") else [])]
    others = {name: FilterUpscaler(name, validation.scale) for name in names}
    parts: dict[str, list[np.ndarray]] = {}
    for inputs, labels in validation.batches(BATCH):
        large = upscale(model, inputs, choose_recompose(settings))
        border, inside = metrics.seam_errors(large, labels, model.geometry.p)
        values = metrics.scores(large, labels, ("mae", "mse", "psnr")) | {
            "dark": metrics.lost_dark_share(large, labels), "border": border, "inside": inside,
            "energy": metrics.gradient_energy(large), "whole": metrics.gradient_energy(labels),
        } | {name: metrics.mae(upscale(other, inputs), labels) for name, other in others.items()}  # fmt: skip
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
    images = {name: np.concatenate(values) for name, values in parts.items()}
    mean = {
        name: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan for name, values in images.items()
    }
    found = {f"val/best_{name}": mean[name] for name in ("mae", "mse", "psnr")}
    found |= {f"val/{name}/mae": mean[name] for name in ("nearest", "lanczos")}
    found |= {
        "val/gain": _ratio(mean["nearest"], mean["mae"]),
        "val/nearest_wins": compute_win_share(images["nearest"] < images["mae"], validation),
        "val/gap": mean["mae"] - mean["lanczos"] - _over_lanczos(model, settings, train),
        "val/dark_lost": mean["dark"],
        "val/gradient_energy": _ratio(mean["energy"], mean["whole"]),
        "val/seams": _ratio(mean["border"], mean["inside"]),
    }
    return found if before == "none" else found | {"val/input_mae": mean[before]}


def diagnose_curve(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Diagnostics of a learning curve.

    Args:
        points: `step` and `metrics` of each, with val/mae among them.

    Returns:
        val/lowest_mae; val/saturated_mae: the lowest up to the second of two points in a row that brought less
        than 1 %; val/roughness: the standard deviation of successive differences in the second half.
    """
    maes = np.array([point["metrics"]["val/mae"] for point in points])
    lowest, waited, saturated = maes[0], 0, maes.min()
    for value in maes[1:]:
        waited = 0 if value < (1 - LEAST_GAIN) * lowest else waited + 1
        lowest = min(lowest, value)
        if waited == SATURATED:
            saturated = lowest
            break
    steps = np.diff(maes[len(maes) // 2 :])
    found = {"val/lowest_mae": float(maes.min()), "val/saturated_mae": float(saturated)}
    return found | ({"val/roughness": float(steps.std())} if len(steps) > 1 else {})


def compute_win_share(wins: np.ndarray, pairs: Pairs) -> float:
    """Share of photos most of whose images win; `wins` (n,), one an image of the pairs."""
    photos = [row.get("sha256", number) for number, row in enumerate(pairs.rows)]
    names, index = np.unique(np.asarray(photos, str), return_inverse=True)
    return float((np.bincount(index, weights=wins) / np.bincount(index, minlength=len(names)) > 0.5).mean())


def _ratio(value: float, other: float) -> float:
    return value / other if other else np.nan


def _over_lanczos(model: UpscalingModel, settings: Train, pairs: Pairs) -> float:
    """Mean mae of the network less that of Lanczos, over some training images."""
    lanczos, over = FilterUpscaler("lanczos", pairs.scale), []
    for inputs, labels in pairs.spread(GAP_TRAIN_IMAGES).batches(BATCH):
        ours = metrics.mae(upscale(model, inputs, choose_recompose(settings)), labels)
        over.append(ours - metrics.mae(upscale(lanczos, inputs), labels))
    return float(np.concatenate(over).mean())
