"""Logs what a training produced: curves, diagnostics, test scores and figures of the network."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from loupe.config.fields import CHAMPION
from loupe.config.training import GradientTrain, Train
from loupe.data.dataset import Dataset, Pairs
from loupe.errors import UsageError
from loupe.evaluation import figures, scoring
from loupe.models.builder import KerasUpscaler
from loupe.tracking import checkpoints, models, records, trials
from loupe.training import diagnostics, loop


@dataclass(frozen=True)
class Fit:
    """The result of a training.

    Args:
        points: the points of its curves, empty for a network in closed form.
        seconds: that the steps took; 0 for a network in closed form.
    """

    points: list[dict[str, Any]]
    seconds: float


def fit_network(
    model: keras.Model, settings: Train, train: Pairs, validation: Pairs, checkpoint: loop.Checkpoint | None
) -> Fit:
    """Train a network that is trained by steps, and log its points and checkpoints to the open run.

    Args:
        model: with its initial weights; has the best weights afterwards.
        settings: of the variant.
        train: the training split.
        validation: the validation split.
        checkpoint: of the run that is resumed, or None.
    """
    if not isinstance(settings, GradientTrain):
        return Fit([], 0.0)

    def report(point: loop.Point, arrays: loop.Checkpoint) -> None:
        records.log_metrics(point.metrics, point.step)
        checkpoints.save_checkpoint(arrays, point.step)

    for point in loop.load_points(checkpoint):  # the new run shows the whole curves
        records.log_metrics(point["metrics"], point["step"])
    progress = loop.fit(model, settings, loop.Splits(train, validation), report, checkpoint)
    return Fit(progress.points, progress.seconds)


def load_start(settings: Train) -> keras.Model | None:
    """Load the network of `start`: the champion, a URI of MLflow, or a .keras file; None if the settings name none.

    Raises:
        UsageError: the network does not exist or cannot be loaded.
    """
    name = settings.start if isinstance(settings, GradientTrain) else None
    if name is None:
        return None
    try:
        found = models.find_champion(settings.scale) if name == CHAMPION else models.find_model(name)
        if found is None:
            raise UsageError(f"model: must exist, got {name!r}, which this scale does not have yet")
        return models.load_keras(found)
    except UsageError as error:
        raise UsageError(str(error).replace("model:", "start:", 1)) from None


def log_ridge(weights: np.ndarray, settings: Train) -> None:
    """Keep the dataset's ridge with the run: the network is compared with it wherever it goes."""
    records.log_array(weights, f"ridge-{settings.scale.numerator}x{settings.scale.denominator}.npy")


def log_diagnostics(
    model: keras.Model, settings: Train, points: list[dict[str, Any]], train: Pairs, validation: Pairs
) -> dict[str, float]:
    """Log, and give, what the network as it is kept shows on validation, and its curve: see `diagnostics`.

    Args:
        model: with its best weights.
        settings: that it was trained with.
        points: of its curve; [] for one that is not trained by steps.
        train: what it was trained on.
        validation: what it was chosen on.
    """
    upscaler = KerasUpscaler(model)
    found = diagnostics.diagnose_network(upscaler, settings, train, validation)
    if points:
        found |= diagnostics.diagnose_curve(points) | {"training_steps": points[-1]["step"]}
        trials.log_curve(points)
    else:  # so that curves of runs can be compared in one chart
        for name, pairs, limit in (("train", train, loop.CURVE_TRAIN_IMAGES), ("val", validation, len(validation))):
            scores = loop.score_whole_images(upscaler, pairs, limit)
            records.log_metrics({f"{name}/{score}": value for score, value in scores.items()}, 0)
    records.log_metrics(found)
    return found


def log_result(
    model: keras.Model, settings: Train, dataset: Dataset, weights: np.ndarray, points: list[dict[str, Any]]
) -> dict[str, Any]:
    """Log the network's test scores beside the baselines', the study's protocol, and images; gives the summary."""

    upscaler, recompose = KerasUpscaler(model), diagnostics.choose_recompose(settings)
    test, validation = (dataset.load_pairs(split, settings.scale) for split in ("test", "validation"))
    others = scoring.build_baselines(test, weights, dataset.settings["luminance"])
    table = scoring.score({"model": upscaler, **others}, test, recompose)
    summary = scoring.summarise(table)
    nearest = summary["model"]["over"]["nearest"]
    draws = scoring.score_patches({"model": upscaler}, test, settings.seed)["mae"]
    records.log_metrics(
        scoring.to_metrics(summary)
        | {"test/gain": nearest["gain"], "test/nearest_wins": nearest["baseline_wins"]}
        | {"test/patches_mae": draws.mean(), "test/draw_difference": draws.diff().abs().mean() / draws.mean()}
    )
    records.log_table(table, "test.json")
    records.log_json(summary, "test-summary.json")
    if points:
        on_validation = scoring.score(others, validation, names=("mae",)).groupby("method")["mae"].mean()
        records.log_figure(figures.plot_learning_curves(points, on_validation.to_dict()), "curves.png")
    records.log_figure(figures.plot_predictions(upscaler, test), "predictions.png")
    return summary
