"""Runs one trial: reuses the result of an equal trial or trains the network, and reports to MLflow and Optuna.

Trials are equal if they have the same dataset, the same training code, and the same values of all settings that
affect the result.
"""

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.trial import Trial, TrialState

from loupe.config import parse_settings
from loupe.config.fields import format_value, parse_scale
from loupe.config.training import GradientTrain, Train
from loupe.data import preparation, storage
from loupe.data.dataset import Dataset
from loupe.data.manifest import MANIFEST
from loupe.errors import LoupeError, UsageError, mask_secrets
from loupe.search import constraints
from loupe.search.sampling import suggest_params, suggest_seed
from loupe.search.study import SweepStudy
from loupe.search.sweep_file import SweepFile
from loupe.search.training_code import hash_training_code
from loupe.search.trial_attributes import FAILED, LAST_VALUE, ORPHANED, RESUMED_RUN, REUSED, RUN, WORK_SECONDS
from loupe.search.worker_job import WorkerJob
from loupe.tracking import curves, dataset_inputs, models, records, run_notes, server, training_runs, trials
from loupe.tracking.delivery import UnsentRecordsError
from loupe.tracking.store import describe_failure
from loupe.training.variant import build_network, describe


class Stopwatch:
    """Sums the seconds in its `with` blocks, without those in blocks of `pause`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self.seconds -= time.perf_counter()
        return self

    def __exit__(self, *reason: object) -> None:
        self.seconds += time.perf_counter()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Do not measure until the block exits."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


@dataclass(frozen=True)
class TrialContext:
    """The inputs of one trial; `trial` is the result of `SweepStudy.claim_trial`."""

    trial: Trial
    study: SweepStudy
    job: WorkerJob
    settings: Train
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def resumed_run(self) -> str | None:
        """The id of the newest run of the trials that this trial replaces, or None.

        A trial replaces the trials of its item whose workers crashed. A worker can crash before it opens a run.
        """
        run_id: str | None = self.trial.user_attrs.get(RESUMED_RUN)
        return run_id

    @property
    def key(self) -> str:
        """A hash that is the same for equal trials; see `trials.compute_key`."""
        return trials.compute_key(self.settings, self.job.digest, hash_training_code())


class TrialLostError(SystemExit):
    """The trial ended during its training, because the sweep counted this worker as crashed."""


def run_trial(trial: Trial, study: SweepStudy, job: WorkerJob) -> None:
    """Run a claimed trial until it is complete, pruned, failed or lost (see TrialLostError).

    After the errors below, and after unexpected errors, the trial stays open. The sweep ends it as ORPHANED. Unless
    the item is given up (see `items`), the sweep enqueues a new trial, which continues from the last checkpoint.

    Raises:
        KeyboardInterrupt or Terminated: the worker is interrupted.
        SystemExit or StorageInternalError: the database is unreachable.
    """
    sweep = study.sweep
    try:
        params, seed = suggest_params(sweep, trial), suggest_seed(sweep, trial)
        settings = sweep.create_settings(params, seed=seed, quiet=True, data_dir=job.data_dir, threads=job.threads)
        context = TrialContext(trial, study, job, settings)
        existing_run = _find_result(context)
        state, value = _reuse_result(context, existing_run) if existing_run else _train(context)
        if not study.complete_trial(trial, state, value) and existing_run is None:
            # The sweep counted this worker as crashed, and ended the trial. The result must not be used.
            trials.discard_result(trial.user_attrs[RUN])
    except TrialLostError:
        return
    except optuna.exceptions.StorageInternalError:
        raise  # the worker exits; a new trial continues from the last checkpoint
    except UnsentRecordsError as error:  # the network is trained, but the server does not have its result
        study.fail_trial(trial, ORPHANED, str(error))
    except (LoupeError, optuna.exceptions.OptunaError, ValueError) as error:
        study.fail_trial(trial, FAILED, str(error))
    except Exception as error:
        if not server.is_wrong_answer(error):
            raise  # the worker crashes, and another worker tries the same parameters and seed again
        study.fail_trial(trial, FAILED, describe_failure(error))  # other workers would get the same answer


def _find_result(context: TrialContext) -> Any:
    """Return the run whose result the trial can reuse, or None.

    This is `resumed_run` if this run is finished and its tag STATE_TAG is COMPLETE or PRUNED. Otherwise, it is the
    newest run of an equal complete trial. With `fresh`, equal trials are not used. With `initial_weights`, they are
    not used either, because the network that it names can have changed.
    """
    if context.resumed_run and (ended := trials.get_ended_run(context.resumed_run)):
        return ended
    must_train = context.job.fresh or getattr(context.settings, "initial_weights", None)
    return None if must_train else trials.find_finished_run(context.key)


def _reuse_result(context: TrialContext, run: Any) -> tuple[TrialState, list[float] | None]:
    """Report the learning curve of a finished run to Optuna; return the trial's state and values (None if pruned)."""
    trial, sweep = context.trial, context.study.sweep
    trial.set_user_attr(RUN, run.info.run_id)
    trial.set_user_attr(REUSED, run.data.tags.get("mlflow.parentRunId") != context.job.parent)
    for number, (step, value) in enumerate(curves.load_curve(run.info.run_id, sweep.study.metric)):
        _report_point(context, number, step, value)
    state = TrialState[run.data.tags[trials.STATE_TAG]]
    if state == TrialState.COMPLETE:
        _set_constraints(context, run.data.metrics)
        return state, [run.data.metrics[name] for name in sweep.objectives]
    return state, None


def _set_constraints(context: TrialContext, metrics: dict[str, float]) -> list[str]:
    """Report to Optuna by how much the metrics violate each constraint, and return the violated constraints."""
    violations = constraints.compute_violations(context.study.sweep.study.constraints, metrics)
    for text, violation in violations.items():
        context.trial.set_constraint(text, violation)
    return constraints.list_violated(violations)


def _train(context: TrialContext) -> tuple[TrialState, list[float] | None]:
    """Train the network in a new run; return the state of the trial, and its values (None if pruned)."""
    from loupe.upscalers import ridge

    trial, study, settings = context.trial, context.study, context.settings
    checkpoint = trials.load_checkpoint(context.resumed_run) if context.resumed_run else None
    # MLflow's table of runs shows about 14 characters of a name: the number comes first, because it is unique.
    name = f"{trial.number} {_format_params(study.sweep, trial.params) or describe(settings)} ({study.sweep.name})"
    tags = {trials.SWEEP_TAG: study.sweep.name, trials.TRIAL_TAG: str(trial.number), trials.KEY_TAG: context.key}
    values_text = ", ".join(f"{key}={value}" for key, value in trial.params.items())
    note = f"Trial {trial.number} of the sweep {study.sweep.name}: {values_text}."
    tags |= {trials.CODE_TAG: hash_training_code(), run_notes.NOTE_TAG: mask_secrets(note)}
    continued = context.resumed_run if checkpoint else None
    with (
        trials.open_trial_run(settings, name, context.job.parent, tags, continued) as run_id,
        _convert_study_errors(),
    ):
        trial.set_user_attr(RUN, run_id)
        state, values, violated = TrialState.COMPLETE, None, list[str]()
        with context.stopwatch:
            dataset = open_dataset(context.job)
            train = dataset.load_pairs("train", settings.scale, settings.limit)
            validation = dataset.load_pairs("validation", settings.scale)
            ridge_weights = ridge.load_or_fit(dataset, settings.scale)
            initial_network = None if checkpoint else training_runs.load_initial_network(settings)
            model = build_network(settings, train, dataset.settings["luminance"], ridge_weights, initial_network)
        try:
            dataset_inputs.log_dataset(dataset, "training", "validation")
            with context.stopwatch:
                points = _fit(context, model, (train, validation), checkpoint)
                with context.stopwatch.pause():
                    dataset.finish_verification()
                metrics = training_runs.log_diagnostics(model, settings, points, train, validation)
                values = [metrics[objective] for objective in study.sweep.objectives]
                violated = _set_constraints(context, metrics)
            if not violated and study.is_among_best(values[0]):
                models.log_model(model, points)
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        trial.set_user_attr(WORK_SECONDS, context.stopwatch.seconds)  # raises an error if the trial has ended
        tags = {trials.VIOLATED_TAG: ", ".join(violated)} if violated else {}
        records.log_tags({trials.STATE_TAG: state.name} | tags)
    return state, values


def _format_params(sweep: SweepFile, params: dict[str, Any]) -> str:
    """Return the parameters of a trial as text, with the seed if the sweep has several seeds."""
    values = [params[key] for key in sweep.order_keys() if key in params]
    texts = [f"{value:.3g}" if isinstance(value, float) else format_value(value) for value in values]
    return " ".join([*texts, *([f"seed {params['seed']}"] if "seed" in params and sweep.study.repeats > 1 else [])])


@contextmanager
def _convert_study_errors() -> Iterator[None]:
    """Convert errors of the study to SystemExit, so that the run becomes KILLED.

    Raises:
        TrialLostError: the sweep has already ended the trial.
        SystemExit: the database is unreachable.
    """
    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError:
        raise TrialLostError from None
    except optuna.exceptions.StorageInternalError as error:
        raise SystemExit(f"storage: the database of the study is unreachable: {error}") from None


def _fit(context: TrialContext, model: Any, pairs: Any, checkpoint: Any) -> list[Any]:
    """Train the network in place, report each point of its learning curve, and return the points ([] for ridge).

    Raises:
        TrialPruned: the pruner stops the trial.
        LoupeError: see `loop.fit`. The newest checkpoint is saved first.
    """
    from loupe.training import loop

    trial, settings = context.trial, context.settings
    if not isinstance(settings, GradientTrain):
        return []
    periodic, numbers = trials.PeriodicCheckpoint(), itertools.count()

    def log_point(step: int, metrics: dict[str, float]) -> None:
        records.log_metrics(metrics, step)
        _report_point(context, next(numbers), step, metrics[context.study.sweep.study.metric])

    def report(point: loop.Point, arrays: loop.Checkpoint) -> None:
        with context.stopwatch.pause():
            log_point(point.step, point.metrics)
            periodic.save_if_due(arrays, point.step)
            if not context.study.sweep.has_front and trial.should_prune():
                raise optuna.TrialPruned

    for earlier in loop.load_points(checkpoint):
        log_point(earlier["step"], earlier["metrics"])
    try:
        progress = loop.fit(model, settings, loop.Splits(*pairs), report, checkpoint)
    except LoupeError:  # such as a loss that is NaN or infinite
        periodic.save()
        raise
    records.log_metrics({"training_seconds": progress.seconds})
    return progress.points


def _report_point(context: TrialContext, number: int, step: int, value: float) -> None:
    """Store the value of a point of the learning curve; with one objective, also report it to the pruner.

    The point at step 0 is ignored.
    """
    if step:
        context.trial.set_user_attr(LAST_VALUE, value)
        if not context.study.sweep.has_front:
            context.trial.report(value, number)


def open_dataset(job: WorkerJob) -> Dataset:
    """Open the sweep's dataset. If it is not found, search the job's `data_dir`, or prepare it from `source`.

    Raises:
        UsageError: the dataset cannot be opened or prepared, or the prepared dataset has another digest.
    """
    if storage.exists(job.dataset, MANIFEST, "dataset"):
        return _fetch_dataset(job.dataset)
    given = dict(job.source)
    scales = map(parse_scale, given.pop("scales"))
    settings = parse_settings("train", given | {"data_dir": job.data_dir})
    try:
        return preparation.reopen(settings, Path(job.dataset).name, job.digest, settings.dataset, *scales)
    except UsageError as error:
        raise UsageError(
            f"dataset: {socket.gethostname()} can neither read {job.dataset!r} nor prepare it; use a URL or a folder "
            f"that all machines share ({error})"
        ) from None


@cache
def _fetch_dataset(location: str) -> Dataset:
    dataset = Dataset(location)
    dataset.fetch_shards()
    return dataset
