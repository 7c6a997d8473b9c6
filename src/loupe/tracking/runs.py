"""One step, one MLflow run: opened, filled, and closed with the right state whatever ends it."""

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import mlflow
import numpy as np
import psutil
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException

import loupe
from loupe.config import Settings
from loupe.data.dataset import MANIFEST, Dataset
from loupe.data.places import absolute
from loupe.errors import UsageError
from loupe.tracking import owners

EXPERIMENT = "loupe"
CHECKPOINT = "loupe.checkpoint"
SETTINGS = "loupe.settings"
_AT: ContextVar[str | None] = ContextVar("run to log with", default=None)
RAISED_AGAIN = 5.0  # seconds after a signal, if what it raised was lost


@contextmanager
def step_run(settings: Settings, name: str, continues: str | None = None) -> Iterator[str]:
    """Open the run of a step, log its settings, and close it: FINISHED, FAILED, or KILLED by a signal.

    Under `mlflow run` the run that it made is joined; inside another step's run it becomes its child.
    Runs that processes of this machine left open when they died are closed as KILLED first.

    Args:
        settings: of the step; logged whole, but for what `mlflow run` has logged already in its own words:
            the tag `loupe.settings` has all of them as they were understood.
        name: that a person can tell from others.
        continues: a run to go on with. Outside `mlflow run` it is opened again; a run that `mlflow run`
            made is tagged with it instead.

    Yields:
        The run's id.
    """
    joined = "MLFLOW_RUN_ID" in os.environ
    nested = mlflow.active_run() is not None
    if not nested:
        open_store()
    reopened = continues if continues and not joined else None
    if reopened:
        mlflow.set_experiment(experiment_id=mlflow.get_run(reopened).info.experiment_id)
    texts = settings.texts()
    tags = first_tags(settings, settings.STEP) | ({"loupe.continues": continues} if continues else {})
    with signals_as_exits():
        run = mlflow.start_run(run_id=reopened, run_name=name, nested=nested, tags=tags, log_system_metrics=True)
        with closed_by_outcome():
            mlflow.set_tag("mlflow.runName", name)  # of a run that was joined, too
            there = mlflow.get_run(run.info.run_id).data.params
            mlflow.log_params({key: value for key, value in texts.items() if key not in there})
            yield run.info.run_id


def first_tags(settings: Settings, step: str) -> dict[str, str]:
    """What a run is opened with: what it does, with which code and settings, and who owns it."""
    texts = settings.texts()
    tags = {"loupe.step": step, "loupe.commit": commit(), SETTINGS: json.dumps(texts), **owners.owner()}
    return tags | {f"loupe.{field}": texts[field] for field in ("scale", "smoke") if field in texts}


@contextmanager
def closed_by_outcome() -> Iterator[None]:
    """Close the open run at the end: FINISHED, FAILED by an error, KILLED by a signal."""
    status = RunStatus.FAILED
    try:
        yield
        status = RunStatus.FINISHED
    except (KeyboardInterrupt, SystemExit):
        _raise_again_in(0)
        status = RunStatus.KILLED
        raise
    finally:
        mlflow.end_run(RunStatus.to_string(status))


def open_store() -> None:
    """Make the store where it is new, choose the experiment, and close what dead processes left open."""
    if "MLFLOW_EXPERIMENT_ID" in os.environ:  # `mlflow run` has chosen both
        _find_the_store()
        claim()
    else:
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
    owners.close_orphans()


def connect(tracking_uri: str, experiment_id: str) -> None:
    """Use the store and experiment of another process's run."""
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(experiment_id=experiment_id)


def where(run_id: str) -> tuple[str, str]:
    """Store and experiment of a run, as `connect` takes them."""
    uri = mlflow.get_tracking_uri()
    file = uri.removeprefix("sqlite:///")
    absolute = f"sqlite:///{Path(file).resolve()}" if file != uri else uri
    return absolute, str(mlflow.get_run(run_id).info.experiment_id)


def store_folder() -> Path:
    """The folder of a store in a file; of a server's, the current one."""
    _find_the_store()
    uri = mlflow.get_tracking_uri()
    file = uri.removeprefix("sqlite:///")
    return Path(file).resolve().parent if file != uri else Path.cwd()


def claim() -> None:
    """Sign the run that `mlflow run` made before the work starts, so that it is closed if this process dies."""
    if "MLFLOW_RUN_ID" in os.environ:
        _find_the_store()
        for key, value in owners.owner().items():
            mlflow.MlflowClient().set_tag(os.environ["MLFLOW_RUN_ID"], key, value)


def settings_of(run: Any) -> dict[str, str]:
    """The settings of a run, field -> text, as they were understood."""
    found: dict[str, str] = json.loads(run.data.tags.get(SETTINGS, "{}"))
    return found


@cache
def commit() -> str:
    """The commit of the running code; of an installed package, its version."""
    package = Path(loupe.__file__).parent
    git = ["git", "-C", str(package)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        found = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", str(package)], capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return loupe.__version__
    return found.stdout.strip() + ("-changed" if dirty.returncode else "")


@contextmanager
def at(run_id: str) -> Iterator[None]:
    """Log with this run, not with the open one: it has ended, and stays so."""
    before = _AT.set(run_id)
    try:
        yield
    finally:
        _AT.reset(before)


def _here() -> str:
    return _AT.get() or str(mlflow.active_run().info.run_id)


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log numbers under their names; those that are no number (ssim of tiny pictures) are left out."""
    found = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
    mlflow.log_metrics(found, step=step, run_id=_here())


def log_tags(tags: dict[str, str]) -> None:
    """Set tags on the run."""
    for key, value in tags.items():
        mlflow.MlflowClient().set_tag(_here(), key, value)


def log_figure(figure: Any, name: str) -> None:
    """Log a matplotlib figure under `name`, such as `curves.png`."""
    mlflow.MlflowClient().log_figure(_here(), figure, name)


def log_file(file: Path, folder: str | None = None) -> None:
    """Log a file into a folder of the run's artifacts."""
    mlflow.MlflowClient().log_artifact(_here(), str(file), folder)


def log_json(value: Any, name: str) -> None:
    """Log a dict or list as a JSON file."""
    mlflow.MlflowClient().log_dict(_here(), value, name)


def log_table(table: Any, name: str) -> None:
    """Log a pandas table under `name`, which ends in .json, as MLflow's pages show and compare it."""
    mlflow.log_table(table, name, run_id=_here())


def log_array(array: np.ndarray, name: str) -> None:
    """Log an array as `name`, which ends in .npy."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / name, array)
        log_file(Path(folder) / name)


def log_dataset(dataset: Dataset, context: str) -> None:
    """Log a prepared dataset as the run's input, with its digest."""
    source = CodeDatasetSource({"manifest": absolute(f"{dataset.place}/{MANIFEST}"), **dataset.settings})
    shown = MetaDataset(source, name=dataset.folder.name, digest=dataset.digest)
    mlflow.log_input(shown, context=context)
    mlflow.set_tags({"loupe.dataset": dataset.folder.name, "loupe.digest": dataset.digest})


def save_checkpoint(arrays: dict[str, np.ndarray], step: int) -> None:
    """Keep a checkpoint with the open run; a tag names the last whole one, the one before makes room."""
    run = mlflow.active_run()
    before = mlflow.get_run(run.info.run_id).data.tags.get(CHECKPOINT)
    name = f"checkpoint/{step}.npz"
    if before == name:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{step}.npz"
        np.savez(file, allow_pickle=False, **arrays)
        mlflow.log_artifact(str(file), "checkpoint")
    mlflow.set_tag(CHECKPOINT, name)
    if before:
        remove_artifact(run.info.artifact_uri, before)


def load_checkpoint(run_id: str) -> dict[str, np.ndarray]:
    """The last whole checkpoint of a run; raises UsageError where the run or its checkpoint is gone."""
    name = run_of(run_id, "resume").data.tags.get(CHECKPOINT)
    if not name:
        raise UsageError(f"resume: run {run_id} has no checkpoint: it ended, or never came to one")
    with tempfile.TemporaryDirectory() as folder:
        file = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=folder)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)


def drop_checkpoint() -> None:
    """Remove the open run's checkpoint: it has ended."""
    run = mlflow.get_run(mlflow.active_run().info.run_id)
    if CHECKPOINT in run.data.tags:
        mlflow.delete_tag(CHECKPOINT)
        remove_artifact(run.info.artifact_uri, "checkpoint")


def run_of(run_id: str, field: str) -> Any:
    """A run by its id; raises UsageError, naming the field that it was given in."""
    try:
        return mlflow.get_run(run_id)
    except MlflowException:
        raise UsageError(f"{field}: no run {run_id!r} in {mlflow.get_tracking_uri()}") from None


def best_run(scale: str, smoke: bool) -> str:
    """The id of the finished train run of a scale with the lowest mae on its validation split.

    Args:
        scale: its text.
        smoke: whether runs that were shrunk by smoke=true count.
    """
    shrunk = "" if smoke else " and tags.`loupe.smoke` = 'false'"
    found = mlflow.search_runs(
        filter_string="attributes.status = 'FINISHED' and tags.`loupe.step` = 'train'"
        f" and tags.`loupe.scale` = '{scale}'{shrunk}",
        order_by=["metrics.`val/best_mae` ASC"],
        search_all_experiments=True,
        max_results=1,
        output_format="list",
    )
    if not found:
        raise UsageError(f"run: no finished train run of scale {scale} in {mlflow.get_tracking_uri()}; train one")
    return found[0].info.run_id


def remove_artifact(artifact_uri: str, name: str) -> None:
    """Remove a file or folder of artifacts."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(artifact_uri).delete_artifacts(name)


def _find_the_store() -> None:
    """Under `mlflow run` of a git URI, the store's relative default path counts from where that was typed."""
    uri = mlflow.get_tracking_uri()
    file = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or file.is_absolute() or file.exists():
        return
    for parent in psutil.Process().parents():
        try:
            found = Path(parent.cwd()) / file
        except psutil.Error:
            continue
        if found.exists():
            mlflow.set_tracking_uri(f"sqlite:///{found}")
            return


@contextmanager
def signals_as_exits() -> Iterator[None]:
    """SIGTERM ends the step as SystemExit does, and Ctrl-C as KeyboardInterrupt, so that its run is closed.

    Python drops what a signal raises while a destructor or a callback of a library runs. So it is raised again
    every few seconds until `closed_by_outcome` has seen it.
    """
    received: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        if not received:
            received.append(number)
        _raise_again_in(RAISED_AGAIN)
        raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGALRM") if hasattr(signal, name)]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        _raise_again_in(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_again_in(seconds: float) -> None:
    """0 is never; where the system has no timers, it stays with the first time."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
