"""One variant of a network, trained on a prepared dataset."""

import os
import time
from dataclasses import dataclass
from typing import Any

from loupe.cli.progress import print_line, print_lines
from loupe.config import parse_settings
from loupe.config.fields import format_value
from loupe.config.training import Train
from loupe.errors import UsageError


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
    from loupe.data import preparation
    from loupe.tracking import runs

    runs.tag_project_run()
    if settings.resume:
        settings = continued(settings)
    if settings.threads:  # read by TensorFlow when it is first imported
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(settings.threads)
    from loupe.evaluation import scoring
    from loupe.tracking import checkpoints, models, records, runs, training_runs
    from loupe.training.variant import build_network, describe
    from loupe.upscalers import ridge

    if settings.resume:
        before = runs.get_run(str(settings.resume), "resume").data
        checkpoint = checkpoints.load_checkpoint(str(settings.resume))
        dataset = preparation.reopen(
            settings, before.tags["loupe.dataset"], before.tags["loupe.digest"], settings.dataset
        )
    else:
        checkpoint, dataset = None, preparation.open_or_prepare(settings, settings.dataset)
    train = dataset.load_pairs("train", settings.scale, settings.limit)
    validation = dataset.load_pairs("validation", settings.scale)
    dataset.load_pairs("test", settings.scale)  # where there is none, that is said before the training
    started = time.perf_counter()
    weights = ridge.load_or_fit(dataset, settings.scale)
    luminance = dataset.settings["luminance"]
    model = build_network(settings, train, luminance, weights, training_runs.load_start(settings))
    building_seconds = time.perf_counter() - started
    with runs.step_run(settings, describe(settings), settings.resume) as run_id:
        records.log_dataset(dataset, "training")
        training_runs.log_ridge(weights, settings)
        fit = training_runs.fit_network(model, settings, train, validation, checkpoint)
        seconds = fit.seconds or building_seconds
        diagnostics = training_runs.log_diagnostics(model, settings, fit.points, train, validation)
        best_mae = diagnostics["val/best_mae"]
        records.log_metrics({"training_seconds": seconds})
        summary = training_runs.log_result(model, settings, dataset, weights, fit.points)
        models.log_model(model, fit.points)
        print_lines(scoring.format_scores(summary), settings.quiet)
        checkpoints.remove_checkpoint()
    print_line(
        f"run {run_id}: {describe(settings)}, trained {seconds:.0f} s, validation mae {best_mae:.4f}",
        settings.quiet,
    )
    return Result(run_id, settings.network, seconds, best_mae, summary)


def continued(settings: Train) -> Any:
    """The settings of the run that is resumed; what is given beside `resume` must agree with them.

    Raises:
        UsageError: the run is no train run, or another value is given than it was started with.
    """
    from loupe.tracking import liveness, runs

    run = runs.get_run(str(settings.resume), "resume")
    if run.data.tags.get("loupe.step") != "train":
        raise UsageError(f"resume: run {settings.resume} is no train run")
    if run.info.status == "RUNNING" and liveness.is_alive(run.data.tags):
        raise UsageError(f"resume: run {settings.resume} is still running")
    before = runs.read_settings(run)
    free = {"resume", "data_dir", "scheduler", "quiet"}
    given = {name: format_value(getattr(settings, name)) for name in settings.model_fields_set}
    for name in sorted(given.keys() - free):
        default = type(settings).model_fields[name].default
        if given[name] not in (before.get(name), format_value(default)):
            raise UsageError(f"{name}: run {settings.resume} was started with {before.get(name)}, got {given[name]}")
    old = {name: value for name, value in before.items() if name not in free}
    return parse_settings("train", old | {name: value for name, value in given.items() if name in free})


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("train")
