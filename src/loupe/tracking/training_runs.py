"""Logs the results of a training: curves, checkpoints, diagnostics, test scores and figures."""

from typing import Any

import keras
import mlflow
import numpy as np

from loupe.config.fields import CHAMPION, format_value
from loupe.config.training import GradientTrain, Train
from loupe.data.dataset import Dataset
from loupe.data.pairs import Pairs
from loupe.errors import UsageError
from loupe.evaluation import figures, scoring
from loupe.models.builder import KerasUpscaler, measure_costs
from loupe.tracking import checkpoints, curves, models, records, run_notes
from loupe.training import diagnostics, loop
from loupe.training.variant import describe
from loupe.upscalers.baselines import get_references


def fit_network(
    model: keras.Model, settings: Train, train: Pairs, validation: Pairs, checkpoint: loop.Checkpoint | None
) -> loop.TrainingState:
    """Train a network in place, and log its learning curve, predictions and checkpoints to the open run.

    `checkpoint` is the checkpoint of the resumed run, or None.

    Returns:
        The state at the end of the training. For network=ridge, which needs no steps, an empty state.

    Raises:
        LoupeError or UsageError: see `loop.fit`.
    """
    if not isinstance(settings, GradientTrain):
        return loop.TrainingState()

    # A resumed run already has points. Under `mlflow run`, the training continues in a new run without points.
    run_id = str(mlflow.active_run().info.run_id)
    logged_steps = dict(curves.load_curve(run_id, curves.METRIC)) if checkpoint else {}

    def log_point(step: int, metrics: dict[str, float]) -> None:
        if step not in logged_steps:
            records.log_metrics(metrics, step)

    def report(point: loop.Point, arrays: loop.Checkpoint) -> None:
        if point.step not in logged_steps:  # the image comes first: a resumed run logs it if the metrics are missing
            log_predictions(model, validation, point.step)
        log_point(point.step, point.metrics)
        checkpoints.save_checkpoint(arrays, point.step)

    for earlier in loop.load_points(checkpoint):
        log_point(earlier["step"], earlier["metrics"])
    return loop.fit(model, settings, loop.Splits(train, validation), report, checkpoint)


def log_predictions(model: keras.Model, validation: Pairs, step: int) -> None:
    """Log the predictions for a few validation images after a training step, as one small image."""
    records.log_image(figures.render_predictions(KerasUpscaler(model), validation), "predictions", step)


def load_initial_network(settings: Train) -> keras.Model | None:
    """Load the network of the field `initial_weights`; return None if the field is not set.

    The value of the field is `champion`, an MLflow URI or a .keras file.

    Raises:
        UsageError: the network does not exist or cannot be loaded.
        LoupeError: MLflow, its storage, the disk or the memory fails.
    """
    name = settings.initial_weights if isinstance(settings, GradientTrain) else None
    if name is None:
        return None
    try:
        reference = models.find_champion(settings.scale) if name == CHAMPION else models.find_model(name)
        if reference is None:
            rule = f"must exist, but the scale factor {format_value(settings.scale)} has no champion"
            raise UsageError(f"model: {rule}, got {name!r}")
        return models.load_keras(reference)
    except UsageError as error:
        raise UsageError(str(error).replace("model:", "initial_weights:", 1)) from None


def log_ridge(weights: np.ndarray, settings: Train) -> None:
    """Log ridge weights that were fitted on the dataset; `loupe evaluate` uses them later."""
    records.log_array(weights, f"ridge-{settings.scale.numerator}x{settings.scale.denominator}.npy")


def log_diagnostics(
    model: keras.Model, settings: Train, points: list[dict[str, Any]], train: Pairs, validation: Pairs
) -> dict[str, float]:
    """Log and return the diagnostics, the costs and, except for ridge, the number of training steps of a network.

    `model` has its best weights, and `points` is the learning curve ([] for ridge). `training.diagnostics` computes
    the diagnostics of the network and of its curve, and `measure_costs` computes the costs.
    """
    upscaler = KerasUpscaler(model)
    metrics = diagnostics.diagnose_network(upscaler, settings, train, validation) | measure_costs(model)
    if points:
        metrics |= diagnostics.diagnose_curve(points) | {"training_steps": points[-1]["step"]}
        curves.log_curve_tag(points)
    else:  # ridge has no learning curve: log one point, at step 0
        for name, pairs, limit in (("train", train, loop.CURVE_TRAIN_IMAGES), ("val", validation, len(validation))):
            scores = loop.score_whole_images(upscaler, pairs, limit)
            records.log_metrics({f"{name}/{score}": value for score, value in scores.items()}, 0)
    records.log_metrics(metrics)
    return metrics


def log_result(
    model: keras.Model, settings: Train, dataset: Dataset, weights: np.ndarray, points: list[dict[str, Any]]
) -> dict[str, Any]:
    """Log a note, figures and the test scores of the network and the baselines.

    `model` has its best weights, `weights` are those of ridge, and `points` is the learning curve ([] for ridge).

    Returns:
        The result of `scoring.summarise`.
    """
    upscaler, recompose = KerasUpscaler(model), diagnostics.choose_recompose(settings)
    test, validation = (dataset.load_pairs(split, settings.scale) for split in ("test", "validation"))
    baselines = scoring.build_baselines(test, weights, dataset.settings["luminance"])
    table = scoring.score({"model": upscaler, **baselines}, test, recompose)
    summary = scoring.summarise(table)
    simplest, _ = get_references(settings.scale)
    comparison = summary["model"]["over"][simplest]
    patch_metrics = _score_patches(upscaler, test, settings.seed)
    dataset.finish_verification()
    records.log_metrics(
        scoring.to_metrics(summary)
        | {"test/gain": comparison["gain"], f"test/{simplest}_wins": comparison["baseline_wins"]}
        | patch_metrics
    )
    records.log_table(table, "test.json")
    records.log_json(summary, models.TEST_SUMMARY)
    run_notes.log_note(settings, _describe_result(settings, dataset, summary))
    if points:
        baseline_maes = scoring.score(baselines, validation, names=("mae",)).groupby("method")["mae"].mean()
        records.log_figure(figures.plot_learning_curves(points, baseline_maes.to_dict()), "curves.png")
    records.log_figure(figures.plot_predictions(upscaler, test), "predictions.png")
    return summary


def _score_patches(upscaler: KerasUpscaler, test: Pairs, seed: int) -> dict[str, float]:
    """Return the scores on random patches, as in the 2016 study; {} if the inputs are smaller than a patch.

    The differences between random draws show how precise such scores are.
    """
    if scoring.choose_patch_side(upscaler, test.scale) > test.sides[0]:
        return {}
    draws = scoring.score_patches({"model": upscaler}, test, seed)["mae"]
    return {"test/patches_mae": draws.mean(), "test/draw_difference": draws.diff().abs().mean() / draws.mean()}


def _describe_result(settings: Train, dataset: Dataset, summary: dict[str, Any]) -> str:
    scores = {name: summary[name] for name in ("model", *dict.fromkeys(get_references(settings.scale)))}
    maes = ", ".join(f"{name} {means['mae']:.4f} ({means['psnr']:.2f} dB)" for name, means in scores.items())
    return f"{describe(settings)}, trained on {dataset.folder.name}. Mean absolute error on the test photos: {maes}."
