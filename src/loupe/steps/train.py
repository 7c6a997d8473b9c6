"""Trains one network on a prepared dataset."""

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loupe.cli.progress import print_line, print_lines
from loupe.config import parse_settings
from loupe.config.base import RunSettings
from loupe.config.fields import format_value
from loupe.config.training import THREAD_VARIABLES, Train
from loupe.errors import UsageError, is_masked, mask_secrets

if TYPE_CHECKING:
    import numpy as np

    from loupe.data.dataset import Dataset

# Settings that may change when a run is resumed
CHANGEABLE_FIELDS = frozenset({"resume", "data_dir", "scheduler", *RunSettings.model_fields})
# `mlflow run -e train -P resume=RUN_ID` also passes the defaults of these fields.
PROJECT_FIELDS = frozenset({"dataset", "network", "scale", "smoke"})


@dataclass(frozen=True)
class Training:
    """A finished training.

    Args:
        run_id: the id of the MLflow run.
        network: the name of the network.
        seconds: duration of the training steps; for ridge, of fitting and building the network.
        validation_mae: the mae of the best weights on whole images of the validation split.
        summary: test scores of the network and the baselines, from `scoring.summarise`.
    """

    run_id: str
    network: str
    seconds: float
    validation_mae: float
    summary: dict[str, Any]


def run(settings: Train) -> Training:
    """Train a network; log the weights with the lowest validation mae, and the scores of network and baselines.

    Raises:
        UsageError: the dataset, the network of `initial_weights` or the run to resume cannot be used, or the network
            does not fit the dataset.
        LoupeError: the loss is NaN or infinite, the dataset is damaged, or the MLflow store cannot be used.
    """
    from loupe.tracking import project_run, runs

    project_run.begin_step(settings.quiet)
    if settings.resume:
        settings = load_resumed_settings(settings)
    if settings.threads:
        os.environ |= dict.fromkeys(THREAD_VARIABLES, str(settings.threads))
    from loupe.evaluation import scoring
    from loupe.tracking import dataset_inputs, models, records, training_runs
    from loupe.training.variant import build_network, describe
    from loupe.upscalers import ridge

    dataset, checkpoint = _open_dataset(settings)
    train = dataset.load_pairs("train", settings.scale, settings.limit)
    validation = dataset.load_pairs("validation", settings.scale)
    dataset.load_pairs("test", settings.scale)  # raises UsageError for an empty split
    start_time = time.perf_counter()
    ridge_weights = ridge.load_or_fit(dataset, settings.scale)
    initial_network = None if checkpoint else training_runs.load_initial_network(settings)
    model = build_network(settings, train, dataset.settings["luminance"], ridge_weights, initial_network)
    building_seconds = time.perf_counter() - start_time
    with runs.open_step_run(settings, describe(settings), settings.resume) as run_id:
        dataset_inputs.log_dataset(dataset, "training", "validation", "test")
        training_runs.log_ridge(ridge_weights, settings)
        fit = training_runs.fit_network(model, settings, train, validation, checkpoint)
        dataset.finish_verification()
        seconds = fit.seconds or building_seconds
        diagnostics = training_runs.log_diagnostics(model, settings, fit.points, train, validation)
        mae = diagnostics["val/best_mae"]
        records.log_metrics({"training_seconds": seconds})
        summary = training_runs.log_result(model, settings, dataset, ridge_weights, fit.points)
        models.log_model(model, fit.points)
        print_lines(scoring.format_scores(summary), settings.quiet)
    text = f"run {run_id}: {describe(settings)}, trained {seconds:.0f} s, validation mae {mae:.4f}"
    print_line(text, settings.quiet)
    return Training(run_id, settings.network, seconds, mae, summary)


def load_resumed_settings(settings: Train) -> Train:
    """Return the settings and the note of the run that is resumed, but with the given CHANGEABLE_FIELDS.

    Raises:
        UsageError: the run does not exist or is not an interrupted train run; a setting that must not change
            is neither that of the run nor the default; or a URL is stored without its password, and no dataset or
            data_dir is given.
    """
    from loupe.data import storage
    from loupe.tracking import run_notes, runs

    run_id = str(settings.resume)
    run = runs.get_run(run_id, "resume")
    if run.data.tags.get("loupe.step") != "train":
        raise UsageError(f"resume: must be a train run, got {run_id}")
    runs.validate_interrupted(run)
    stored = runs.read_settings(run)
    given = {name: format_value(getattr(settings, name)) for name in settings.model_fields_set}
    if not given.keys() & {"data_dir", "dataset"}:
        for name in ("dataset", "data_dir"):
            storage.refuse_masked_url(stored.get(name, ""), name)
    for name in sorted(given.keys() - CHANGEABLE_FIELDS):
        default = type(settings).model_fields[name].default
        if mask_secrets(given[name]) == stored.get(name):
            stored[name] = given[name]  # the stored URL is masked; the given URL contains the password
        elif name not in PROJECT_FIELDS or given[name] != format_value(default):
            raise UsageError(f"{name}: must be {stored.get(name)} as in run {run_id}, got {given[name]}")
    fixed = {name: value for name, value in stored.items() if name not in CHANGEABLE_FIELDS}
    fixed["note"] = run_notes.read_note(run.data.tags)  # a new generated note must not replace it
    if not is_masked(stored.get("data_dir", "")):
        fixed["data_dir"] = stored["data_dir"]
    return parse_settings("train", fixed | {name: given[name] for name in CHANGEABLE_FIELDS & given.keys()})


def _open_dataset(settings: Train) -> "tuple[Dataset, dict[str, np.ndarray] | None]":
    """Open the dataset, and load the checkpoint of a resumed run (None for a new run)."""
    from loupe.data import preparation
    from loupe.tracking import checkpoints, runs

    if not settings.resume:
        return preparation.open_or_prepare(settings, settings.dataset, settings.scale), None
    resumed = runs.get_run(settings.resume, "resume")
    checkpoint = checkpoints.load_checkpoint(settings.resume)
    return preparation.reopen(settings, *runs.read_dataset(resumed), settings.dataset, settings.scale), checkpoint
