"""One trial: taken from the store if it has been run before, else trained, tracked, and told to Optuna."""

import ast
import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.trial import Trial, TrialState

import loupe
from loupe.config import parse_settings
from loupe.config.training import GradientTrain, Train
from loupe.data import preparation, storage
from loupe.data.dataset import Dataset
from loupe.data.manifest import MANIFEST
from loupe.errors import LoupeError, UsageError
from loupe.search.jobs import Job
from loupe.search.sampling import seed_of, suggest
from loupe.search.study import FAILED, RESUME, REUSED, RUN, WORK, Trials
from loupe.tracking import checkpoints, records, training_runs, trials
from loupe.training.variant import build_network, describe

# Files whose code decides which weights result from which settings and images.
TRAINING_CODE = (
    "data/dataset.py",
    "data/patches.py",
    "evaluation/metrics.py",
    "models",
    "training",
    "upscalers/baselines.py",
    "upscalers/geometry.py",
    "upscalers/ridge.py",
    "upscalers/tiling.py",
)


Live = Callable[[str | None], None]


class PrunedError(Exception):
    """The pruner ends the trial."""


class Clock:
    """Counts the seconds of a trial's own work: building, training, scoring; not those of keeping track."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self.seconds -= time.perf_counter()
        return self

    def __exit__(self, *reason: object) -> None:
        self.seconds += time.perf_counter()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count for a while."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


def run(trial: Trial, held: Trials, job: Job, live: Live) -> None:
    """Bring a taken trial to its end, whatever that is.

    Args:
        trial: from `Trials.take`.
        held: the study that it is of.
        job: of the worker.
        live: told the trial's run while it is at work.

    Raises:
        KeyboardInterrupt: the worker is to end; the trial is left to be found as an orphan.
    """
    sweep = held.sweep
    try:
        settings = sweep.settings(suggest(sweep, trial), seed=seed_of(sweep, trial), quiet=True, **job.place)
        key = trials.compute_key(settings, job.digest, code())
        before = trial.user_attrs.get(RESUME)
        known = (trials.get_ended(before) if before else None) or (None if job.fresh else trials.find_finished(key))
        if known is None:
            state, value = _trained(trial, held, settings, key, job, live, before)
        else:
            trial.set_user_attr(RUN, known.info.run_id)
            trial.set_user_attr(REUSED, known.data.tags.get("mlflow.parentRunId") != job.parent)
            for number, (step, found) in enumerate(trials.load_curve(known.info.run_id, sweep.study.metric)):
                _report(trial, number, step, found)
            state, value = TrialState[known.data.tags[trials.STATE_TAG]], known.data.metrics.get(sweep.value)
        held.study.tell(trial, value if state == TrialState.COMPLETE else None, state)
    except optuna.exceptions.StorageInternalError:
        raise  # the study's database is away: the worker ends, and the trial goes on from its checkpoint later
    except (LoupeError, optuna.exceptions.OptunaError, ValueError) as error:
        held.fail(trial, FAILED, str(error))


def _trained(
    trial: Trial,
    held: Trials,
    settings: Train,
    key: str,
    job: Job,
    live: Live,
    before: str | None,
) -> tuple[TrialState, float | None]:
    """Train and track; gives how it ended, and the value."""
    from loupe.upscalers import ridge

    checkpoint = trials.load_checkpoint(before) if before else None
    clock = Clock()
    with clock:
        dataset = dataset_of(job)
        pairs = dataset.pairs("train", settings.scale, settings.limit), dataset.pairs("validation", settings.scale)
        weights = ridge.load_or_fit(dataset, settings.scale)
        model = build_network(
            settings, pairs[0], dataset.settings["luminance"], weights, training_runs.load_start(settings)
        )
    tags = {
        trials.SWEEP_TAG: held.sweep.name,
        trials.TRIAL_TAG: str(trial.number),
        trials.KEY_TAG: key,
        trials.CODE_TAG: code(),
    }
    name = f"{held.sweep.name} {trial.number}: {describe(settings)}"
    with trials.trial_run(settings, name, job.parent, tags, before if checkpoint else None) as run_id, _broken_off():
        trial.set_user_attr(RUN, run_id)
        live(run_id)
        try:
            records.log_dataset(dataset, "training")
            with clock:
                points = _fitted(trial, held, model, settings, pairs, checkpoint, clock)
                value = training_runs.log_diagnostics(model, settings, points, *pairs)[held.sweep.value]
            if held.is_among_the_best(value):
                trials.log_model(model, points)
            state = TrialState.COMPLETE
        except PrunedError:
            state, value = TrialState.PRUNED, None
        finally:
            live(None)
        trial.set_user_attr(WORK, clock.seconds)
        records.log_tags({trials.STATE_TAG: state.name})
        checkpoints.remove_checkpoint()
    return state, value


@contextmanager
def _broken_off() -> Iterator[None]:
    """Where the study's database is away, the process ends, and its run is KILLED: it has not failed."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise SystemExit(f"the study's database is away: {error}") from None


def _fitted(
    trial: Trial, held: Trials, model: Any, settings: Train, pairs: Any, checkpoint: Any, clock: Clock
) -> list[Any]:
    """Train, and tell MLflow and Optuna of each point; gives the points of the curve."""
    from loupe.training import loop

    if not isinstance(settings, GradientTrain):
        return []
    kept, before = trials.PeriodicCheckpoint(), loop.load_points(checkpoint)
    number = len(before)
    for at, point in enumerate(before):
        records.log_metrics(point["metrics"], point["step"])
        _report(trial, at, point["step"], point["metrics"][held.sweep.study.metric])

    def report(point: loop.Point, arrays: loop.Checkpoint) -> None:
        nonlocal number
        with clock.stopped():
            records.log_metrics(point.metrics, point.step)
            _report(trial, number, point.step, point.metrics[held.sweep.study.metric])
            number += 1
            kept.offer(arrays, point.step)
            if trial.should_prune():
                raise PrunedError

    try:
        progress = loop.fit(model, settings, loop.Splits(*pairs), report, checkpoint)
    except LoupeError:  # it diverged
        kept.keep()
        raise
    records.log_metrics({"training_seconds": progress.seconds})
    return progress.points


def _report(trial: Trial, number: int, step: int, value: float) -> None:
    """Tell the pruner of a point of the curve; that of step 0 says how a network starts, not how it learns."""
    if step:
        trial.report(value, number)


@cache
def code() -> str:
    """Return a hash of the training code without comments and docstrings: other code gives another result."""
    package = Path(loupe.__file__).parent
    files = [file for name in TRAINING_CODE for file in sorted([package / name, *(package / name).glob("*.py")])]
    text = "".join(code_without_prose(file.read_text()) for file in files if file.is_file())
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def code_without_prose(source: str) -> str:
    """Return Python source without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def dataset_of(job: Job) -> Dataset:
    """The sweep's dataset: where it is kept, if this machine sees it, else prepared here from the same source.

    Raises:
        UsageError: neither can be.
    """
    if storage.exists(job.dataset, MANIFEST, "dataset"):
        return _opened(job.dataset)
    settings = parse_settings("train", job.source | {"data_dir": job.place["data_dir"]})
    try:
        return preparation.reopen(settings, Path(job.dataset).name, job.digest, job.source["dataset"])
    except UsageError as error:
        raise UsageError(
            f"dataset: {job.dataset!r} is neither seen by {socket.gethostname()} nor can it be prepared there: keep "
            f"it at an address or in a folder that all machines share ({error})"
        ) from None


@cache
def _opened(place: str) -> Dataset:
    dataset = Dataset(place)
    dataset.fetch()
    return dataset
