"""One variant of a network, trained on a prepared dataset."""

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loupe.config import settings_of
from loupe.config.variants import Ridge, Train, Trained
from loupe.errors import UsageError
from loupe.fields import text_of
from loupe.progress import say, say_lines

if TYPE_CHECKING:
    import keras
    import numpy as np

    from loupe.data.dataset import Dataset, Pairs


@dataclass(frozen=True)
class Result:
    """What became of a training."""

    run_id: str
    name: str
    seconds: float
    validation_mae: float
    summary: dict[str, Any]


def run(settings: Train) -> Result:
    """Train, keep what was best on validation, and log it beside the baselines."""
    from loupe.data import preparing
    from loupe.tracking import runs

    runs.claim()
    if settings.resume:
        settings = continued(settings)
    if settings.threads:  # read by TensorFlow when it is first imported
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(settings.threads)
    from loupe import evaluation, ridge
    from loupe.geometry import Geometry
    from loupe.tracking import checkpoints, models, records, runs

    if settings.resume:
        before = runs.run_of(str(settings.resume), "resume").data
        checkpoint = checkpoints.load(str(settings.resume))
        dataset = preparing.reopen(
            settings, before.tags["loupe.dataset"], before.tags["loupe.digest"], settings.dataset
        )
    else:
        checkpoint, dataset = None, preparing.open_or_prepare(settings, settings.dataset)
    train = dataset.pairs("train", settings.scale, settings.limit)
    validation = dataset.pairs("validation", settings.scale)
    dataset.pairs("test", settings.scale)  # where there is none, that is said before the training
    started = time.perf_counter()
    weights = ridge.kept(dataset, settings.scale)
    model = network(settings, train, dataset.settings["luminance"], weights)
    fitted = time.perf_counter() - started
    with runs.step_run(settings, describe(settings), settings.resume) as run_id:
        records.log_dataset(dataset, "training")
        log_ridge(weights, settings)
        points = _fitted(model, settings, train, validation, checkpoint)
        seconds = points.pop() or fitted
        best_mae = log_diagnostics(model, settings, points, train, validation)["val/best_mae"]
        records.log_metrics({"training_seconds": seconds})
        summary = log_result(model, settings, dataset, weights, points)
        models.log_keras_model(model, Geometry.of_name(model.name))
        models.log_model_metrics(points)
        say_lines(evaluation.as_text(summary), settings.quiet)
        checkpoints.drop()
    say(
        f"run {run_id}: {describe(settings)}, trained {seconds:.0f} s, validation mae {best_mae:.4f}",
        settings.quiet,
    )
    return Result(run_id, settings.network, seconds, best_mae, summary)


def continued(settings: Train) -> Any:
    """The settings of the run that is resumed; what is given beside `resume` must agree with them.

    Raises:
        UsageError: the run is no train run, or another value is given than it was started with.
    """
    from loupe.tracking import owners, runs

    run = runs.run_of(str(settings.resume), "resume")
    if run.data.tags.get("loupe.step") != "train":
        raise UsageError(f"resume: run {settings.resume} is no train run")
    if run.info.status == "RUNNING" and owners.is_alive(run.data.tags):
        raise UsageError(f"resume: run {settings.resume} is still running")
    before = runs.settings_of(run)
    free = {"resume", "data_dir", "scheduler", "quiet"}
    given = {name: text_of(getattr(settings, name)) for name in settings.model_fields_set}
    for name in sorted(given.keys() - free):
        default = type(settings).model_fields[name].default
        if given[name] not in (before.get(name), text_of(default)):
            raise UsageError(f"{name}: run {settings.resume} was started with {before.get(name)}, got {given[name]}")
    old = {name: value for name, value in before.items() if name not in free}
    return settings_of("train", old | {name: value for name, value in given.items() if name in free})


def describe(settings: Train) -> str:
    """A name by which a person tells runs apart: `perceptron 10:15 2048,1024 tanh rmsprop`."""
    if not isinstance(settings, Trained):
        return f"{settings.network} {text_of(settings.scale)}"
    parts = {
        "perceptron": ("patch", "hidden", "activation", "optimizer"),
        "convolutional": ("scale", "filters", "layers", "optimizer"),
    }
    chosen = [text_of(getattr(settings, name)) for name in parts[settings.network]]
    return " ".join([settings.network, *chosen, *(["skip"] if settings.skip == "ridge" else [])])


def network(settings: Train, train: "Pairs", luminance: str, weights: "np.ndarray") -> "keras.Model":
    """The Keras model of the settings, as it is before training; a ridge is fitted here already.

    Raises:
        UsageError: its training pictures do not fit into the inputs, or `start` has no layer like its own.
    """
    from loupe import models, ridge

    if isinstance(settings, Ridge):
        if settings.alpha != ridge.ALPHA:
            weights = ridge.fit(train, settings.alpha)
        return models.build_ridge(weights, settings.scale, luminance)
    assert isinstance(settings, Trained)
    from loupe import training

    training.patches_of(settings, train, models.geometry(settings, train.sides[0], luminance))
    model = models.build(settings, train.sides[0], luminance, weights)
    if settings.start is not None:
        from loupe.tracking.models import find, load_keras

        other = find(settings.start, settings.scale)
        if other is None or not models.start_from(model, load_keras(other)):
            raise UsageError(f"start: must be a network with layers of the same shapes, got {settings.start!r}")
    return model


def log_ridge(weights: "np.ndarray", settings: Train) -> None:
    """Keep the dataset's ridge with the run: the network is compared with it wherever it goes."""
    from loupe.tracking import records

    records.log_array(weights, f"ridge-{settings.scale.numerator}x{settings.scale.denominator}.npy")


def _fitted(model: Any, settings: Train, train: Any, validation: Any, checkpoint: Any) -> list[Any]:
    """Train where the network is trained by steps; gives the points of the curves, and last the seconds."""
    from loupe.tracking import checkpoints, records

    if not isinstance(settings, Trained):
        return [0.0]
    from loupe import training

    def report(point: Any, arrays: Any) -> None:
        records.log_metrics(point.metrics, point.step)
        checkpoints.save(arrays, point.step)

    for point in training.points_of(checkpoint):  # so that a new run shows whole curves
        records.log_metrics(point["metrics"], point["step"])
    progress = training.fit(model, settings, train, validation, report, checkpoint)
    return [*progress.points, progress.seconds]


def log_diagnostics(
    model: "keras.Model", settings: Train, points: list[dict[str, Any]], train: "Pairs", validation: "Pairs"
) -> dict[str, float]:
    """Log, and give, what the network as it is kept shows on validation, and its curve: see `diagnostics`.

    Args:
        model: with its best weights.
        settings: that it was trained with.
        points: of its curve; [] for one that is not trained by steps.
        train: what it was trained on.
        validation: what it was chosen on.
    """
    from loupe import diagnostics, training
    from loupe.models import KerasEnlarger
    from loupe.tracking import records, trials

    enlarger = KerasEnlarger(model)
    found = diagnostics.of_network(enlarger, settings, train, validation)
    if points:
        found |= diagnostics.of_curve(points) | {"training_steps": points[-1]["step"]}
        trials.keep_curve(points)
    else:  # so that curves of runs can be compared in one chart
        for name, pairs, limit in (("train", train, training.TRAIN_PICTURES), ("val", validation, len(validation))):
            scores = training.whole_scores(enlarger, pairs, limit)
            records.log_metrics({f"{name}/{score}": value for score, value in scores.items()}, 0)
    records.log_metrics(found)
    return found


def log_result(
    model: "keras.Model", settings: Train, dataset: "Dataset", weights: "np.ndarray", points: list[dict[str, Any]]
) -> dict[str, Any]:
    """Log the network's test scores beside the baselines', the study's protocol, and pictures; gives the summary."""
    from loupe import diagnostics, evaluation, figures
    from loupe.models import KerasEnlarger
    from loupe.tracking import records

    enlarger, recompose = KerasEnlarger(model), diagnostics.recomposed(settings)
    test, validation = (dataset.pairs(split, settings.scale) for split in ("test", "validation"))
    others = evaluation.baselines(test, weights, dataset.settings["luminance"])
    table = evaluation.score({"model": enlarger, **others}, test, recompose)
    summary = evaluation.summarise(table)
    nearest = summary["model"]["over"]["nearest"]
    draws = evaluation.score_patches({"model": enlarger}, test, settings.seed)["mae"]
    records.log_metrics(
        metrics_of(summary)
        | {"test/gain": nearest["gain"], "test/nearest_wins": nearest["baseline_wins"]}
        | {"test/patches_mae": draws.mean(), "test/draw_difference": draws.diff().abs().mean() / draws.mean()}
    )
    records.log_table(table, "test.json")
    records.log_json(summary, "test-summary.json")
    if points:
        on_validation = evaluation.score(others, validation, names=("mae",)).groupby("method")["mae"].mean()
        records.log_figure(figures.learning_curves(points, on_validation.to_dict()), "curves.png")
    records.log_figure(figures.prediction_rows(enlarger, test), "predictions.png")
    return summary


def metrics_of(summary: dict[str, Any], split: str = "test") -> dict[str, float]:
    """A summary as metrics: `test/mae` of the model, `test/lanczos/mae` of a baseline."""
    return {
        f"{split}/{score}" if name == "model" else f"{split}/{metric_part(name)}/{score}": means[score]
        for name, means in summary.items()
        for score in ("mae", "psnr", "ssim", "mse")
    }


def metric_part(name: str) -> str:
    """A name without the characters that MLflow refuses in metric names, and without slashes."""
    return re.sub(r"[^\w. -]+", "-", name, flags=re.ASCII)


if __name__ == "__main__":
    from loupe.command_line import entry

    entry("train")
