"""Runs a sweep: runs the trials of a sweep file in worker processes, and registers the best network."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.cli.progress import print_line
from loupe.config import parse_settings
from loupe.config.checkout import find_in_checkout
from loupe.config.fields import format_value, parse_scale
from loupe.config.steps import Sweep
from loupe.errors import UsageError, is_masked, mask_secrets
from loupe.search.trial_attributes import RUN

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from loupe.data.dataset import Dataset
    from loupe.search.study import SweepStudy
    from loupe.search.sweep_file import SweepFile
    from loupe.search.worker_job import WorkerJob


def run(settings: Sweep) -> str | None:
    """Run a sweep; return the id of the best trial's run, or None if no complete trial satisfies the constraints."""
    from loupe.data import storage
    from loupe.search import study_results, worker_pool
    from loupe.search.study import SweepStudy
    from loupe.search.sweep_loader import load_sweep
    from loupe.tracking import dataset_inputs, project_run, records, run_notes, runs, store, trials
    from loupe.web import dashboard

    project_run.begin_step(settings.quiet)
    if settings.dashboard:
        dashboard.check_installed()
    file = find_in_checkout(settings.sweep)
    sweep = load_sweep(file, settings)
    location = settings.storage or str(store.get_store_folder() / "optuna.journal")
    # Count the workers before any file is written, because this call fails if the scheduler does not answer.
    default_workers = worker_pool.count_workers(settings.scheduler, sweep)
    workers, total = settings.workers or default_workers, sweep.count_trials()
    # An arm is a group of points that differ only in the fields of `tune` in the sweep file.
    arms = f"{len(sweep.group_arms())} arms, " if sweep.is_grid else ""
    print_line(f"sweep {sweep.name}: {arms}{total} trials, {workers} workers", settings.quiet)
    database = _open_database(location)
    source = _describe_source(settings, sweep)
    dataset = _open_dataset(settings, sweep, source)
    shown_location = mask_secrets(storage.make_absolute(location))
    _refuse_running_sweep(sweep.name, shown_location)
    study = SweepStudy(sweep, database or _open_journal(location), dataset.digest, parent="")
    _check_runs(study, shown_location)
    with runs.open_step_run(settings, f"sweep {sweep.name}") as run_id, _show_dashboard(settings, location):
        records.log_tags({trials.SWEEP_TAG: sweep.name, trials.STORAGE_TAG: shown_location})
        records.log_text(file.read_text(encoding="utf-8"), file.name)
        dataset_inputs.log_dataset(dataset, "training", "validation")
        study.parent = run_id
        for earlier_run in sorted(study.list_parents() - {run_id}):
            trials.adopt_trials(earlier_run, run_id)
        started = time.monotonic()
        job = _create_job(settings, study, location, dataset, source)
        worker_seconds = worker_pool.run_workers(settings, study, job, workers)
        best_run = study_results.log_study(study, time.monotonic() - started, worker_seconds)
        study_results.check_failures(study)
        kept_runs = study_results.delete_other_models(study)
        if best_run and settings.register_best:
            best_run = _register_best(settings, kept_runs, dataset, best_run)
        run_notes.log_note(settings, study_results.describe_study(study, best_run))
    study_results.print_summary(study, best_run, location, settings.quiet)
    return best_run


@contextmanager
def _show_dashboard(settings: Sweep, location: str) -> Iterator[None]:
    """With `dashboard`, serve the study in optuna-dashboard until the block exits."""
    if not settings.dashboard:
        yield
        return
    from loupe.search import study_storage
    from loupe.web import dashboard

    with dashboard.serve_dashboard(study_storage.open_storage(location)) as address:
        print_line(f"optuna-dashboard: {address}", settings.quiet)
        yield


def _open_database(location: str) -> "BaseStorage | None":
    """Open the storage if it is a database. For a journal, only check the file and return None.

    Opening a journal can change the file.
    """
    from loupe.search import study_storage

    if "://" in location:
        return study_storage.open_storage(location)
    study_storage.check_journal(Path(location))
    return None


def _open_journal(location: str) -> "BaseStorage":
    from loupe.search import study_storage

    study_storage.repair_journal(Path(location))
    return study_storage.open_storage(location)


def _refuse_running_sweep(name: str, location: str) -> None:
    """Raise UsageError if another process runs the sweep with this name and study."""
    from loupe.tracking import liveness, trials

    for other in trials.find_sweep_runs(name):
        tags = other.data.tags
        if tags.get(trials.STORAGE_TAG) != location:
            continue
        if other.info.status == "RUNNING" and liveness.is_alive(tags):
            raise UsageError(
                f"sweep: process {tags.get('loupe.pid')} of {tags.get('loupe.host')} already runs {name!r} "
                f"(run {other.info.run_id})"
            )


def _check_runs(study: "SweepStudy", location: str) -> None:
    """Raise UsageError if MLflow lacks the run of a running or kept trial of an earlier sweep."""
    from loupe.tracking import runs

    for trial in study.list_needed_trials():
        try:
            is_deleted = runs.get_run(str(trial.user_attrs[RUN]), "run").info.lifecycle_stage == "deleted"
        except UsageError:
            is_deleted = True
        if is_deleted:
            raise UsageError(
                f"storage: must be a study whose runs exist in MLflow, got {location!r}, without the run "
                f"{trial.user_attrs[RUN]} of trial {trial.number}; restore the run, or set `name` or `storage`"
            )


def _open_dataset(settings: Sweep, sweep: "SweepFile", source: dict[str, Any]) -> "Dataset":
    """Open or prepare the dataset.

    Raises:
        UsageError: a split is empty, or the inputs do not fit a point of the sweep.
    """
    from loupe.data import preparation

    shared = settings.select(["quiet", "data_dir", "scheduler"])
    given = {name: value for name, value in source.items() if name != "scales"}
    trained = parse_settings("train", given | shared)
    dataset = preparation.open_or_prepare(trained, trained.dataset, *map(parse_scale, source["scales"]))
    for split in ("train", "validation", *(["test"] if settings.register_best else [])):
        dataset.find_rows(split)
    for scale, crop in _list_inputs(sweep):
        dataset.validate_inputs(scale, crop)
    return dataset


def _list_inputs(sweep: "SweepFile") -> list[tuple[Fraction, int]]:
    """Return the scale factors of the points, each with the sides of crops that occur with it."""
    points = map(sweep.create_settings, sweep.iterate_checked_points())
    return sorted({(point.scale, point.crop_side) for point in points})


def _describe_source(settings: Sweep, sweep: "SweepFile") -> dict[str, Any]:
    """Return the `source` of `WorkerJob`."""
    scales = {format_value(scale): None for scale, _ in _list_inputs(sweep)}
    name = str(sweep.train.get("dataset", "sample"))
    return {"dataset": name, "smoke": settings.smoke, "seed": settings.seed, "scales": list(scales)}


def _create_job(
    settings: Sweep, study: "SweepStudy", location: str, dataset: "Dataset", source: dict[str, Any]
) -> "WorkerJob":
    from loupe.data import storage
    from loupe.search.worker_job import WorkerJob
    from loupe.tracking import store

    uri, experiment = store.locate_run(study.parent)
    return WorkerJob(
        sweep=study.sweep.to_json(),
        storage=storage.make_absolute(location),
        tracking_uri=uri,
        experiment_id=experiment,
        parent=study.parent,
        dataset=storage.make_absolute(dataset.location),
        digest=dataset.digest,
        source=source,
        data_dir=settings.data_dir,
        threads=settings.threads,
        max_trials=settings.max_trials or 0,
        timeout=settings.timeout or math.inf,
        fresh=settings.fresh,
    )


def _register_best(settings: Sweep, kept_runs: list[str], dataset: "Dataset", best_run: str) -> str:
    """Score the networks of `kept_runs` on the test split, and register the network of the best trial's run.

    If this network cannot be registered, print the reason.

    Returns:
        `best_run`, or the id of a new run if the network of `best_run` was deleted.
    """
    from loupe.search import study_results
    from loupe.steps import register, train
    from loupe.tracking import curves, dataset_inputs, logged_models, models, records, runs, training_runs, trials
    from loupe.upscalers import ridge

    for run_id in kept_runs:
        run = runs.get_run(run_id, "run")
        # The run can come from an earlier sweep. The `dataset` of its settings can now mean other photos, or be a
        # masked URL. Therefore the location of the open dataset replaces it.
        location = {"data_dir": settings.data_dir, "dataset": dataset.location}
        train_settings = parse_settings("train", runs.read_settings(run) | location | {"quiet": True})
        if logged_models.find_model(run_id) is None:
            if run_id == best_run:  # an earlier sweep trained this run's network, and has deleted it
                best_run = train.run(train_settings).run_id
                records.log_tags({study_results.BEST_RUN_TAG: best_run})
            continue
        if trials.SCORED_TAG in run.data.tags:
            continue
        model = models.load_keras(models.ModelReference.from_run(run_id))
        weights = ridge.load_or_fit(dataset, train_settings.scale)
        with records.log_to_run(run_id):
            points = curves.load_points(run_id)
            training_runs.log_result(model, train_settings, dataset, weights, points)
            models.log_model_metrics(points)
            validation = dataset.load_pairs("validation", train_settings.scale)
            training_runs.log_predictions(model, validation, points[-1]["step"] if points else 0)
            training_runs.log_ridge(weights, train_settings)
            dataset_inputs.log_dataset(dataset, "training", "validation", "test")
            records.log_tags({trials.SCORED_TAG: "true"})
    fields = {"run": best_run, "quiet": True, "data_dir": settings.data_dir}
    if is_masked(mask_secrets(dataset.location)):
        fields["data_dir"] = dataset.location.rstrip("/").rpartition("/")[0]
    try:
        registered = register.run(parse_settings("register", fields))
        print_line(str(registered), settings.quiet)
    except UsageError as error:  # such as a gate dataset with another luminance formula
        print_line(f"the best network is not registered: {error}", settings.quiet)
    return best_run
