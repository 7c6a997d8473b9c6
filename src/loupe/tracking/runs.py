"""One step, one MLflow run: opened, filled, and closed with the right state whatever ends it."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import psutil
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException

import loupe
from loupe.config.base import Settings
from loupe.config.steps import UNSENT_RUNS_FOLDER
from loupe.errors import LoupeError, UsageError
from loupe.tracking import delivery, liveness
from loupe.tracking.store import create_store

EXPERIMENT = "loupe"
SETTINGS = "loupe.settings"
WAKING = 10.0  # seconds that a step waits at its start for a server that does not answer


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
        open_store(settings.quiet)
    reopened = continues if continues and not joined else None
    if reopened:
        mlflow.set_experiment(experiment_id=mlflow.get_run(reopened).info.experiment_id)
    texts = settings.to_texts()
    tags = build_tags(settings, settings.STEP) | ({"loupe.continues": continues} if continues else {})
    run = mlflow.start_run(run_id=reopened, run_name=name, nested=nested, tags=tags, log_system_metrics=True)
    mlflow.set_tag("mlflow.runName", name)  # of a run that was joined, too
    with close_run_at_exit(texts, settings.quiet):
        yield run.info.run_id


def build_tags(settings: Settings, step: str) -> dict[str, str]:
    """What a run is opened with: what it does, with which code and settings, and who owns it."""
    texts = settings.to_texts()
    tags = {"loupe.step": step, "loupe.commit": find_commit(), SETTINGS: json.dumps(texts), **liveness.process_tags()}
    return tags | {f"loupe.{field}": texts[field] for field in ("scale", "smoke") if field in texts}


@contextmanager
def close_run_at_exit(params: dict[str, str], quiet: bool) -> Iterator[None]:
    """Give the open run those params that it has not, and close it at the end.

    FINISHED, FAILED by an error, KILLED by a signal; `outbox.end` tells of what it raises.
    """
    status, run_id = RunStatus.FAILED, mlflow.active_run().info.run_id
    try:
        there = mlflow.get_run(run_id).data.params
        mlflow.log_params({name: text for name, text in params.items() if name not in there})
        delivery.start_buffering(run_id, quiet)
        yield
        status = RunStatus.FINISHED
    except (KeyboardInterrupt, SystemExit):
        status = RunStatus.KILLED
        raise
    finally:
        delivery.end_run(run_id, RunStatus.to_string(status))


def open_store(quiet: bool = True) -> None:
    """Make the store where it is new, choose the experiment, and close what dead processes left open.

    Raises:
        LoupeError: the server does not answer.
    """
    until = time.monotonic() + WAKING
    while not delivery.is_reachable():
        if time.monotonic() > until:
            raise LoupeError(f"tracking: {mlflow.get_tracking_uri()} does not answer")
        time.sleep(1.0)
    if "MLFLOW_EXPERIMENT_ID" in os.environ:  # `mlflow run` has chosen both
        _find_the_store()
    create_store()
    if "MLFLOW_EXPERIMENT_ID" in os.environ:
        tag_project_run()
    else:
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
    if delivery.is_server():
        delivery.upload_buffered_runs(Path(UNSENT_RUNS_FOLDER), quiet)
    liveness.close_orphaned_runs()


def connect(tracking_uri: str, experiment_id: str) -> None:
    """Use the store and experiment of another process's run."""
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(experiment_id=experiment_id)


def locate_run(run_id: str) -> tuple[str, str]:
    """Store and experiment of a run, as `connect` takes them."""
    uri = mlflow.get_tracking_uri()
    file = uri.removeprefix("sqlite:///")
    absolute = f"sqlite:///{Path(file).resolve()}" if file != uri else uri
    return absolute, str(mlflow.get_run(run_id).info.experiment_id)


def get_store_folder() -> Path:
    """The folder of a store in a file; of a server's, the current one."""
    _find_the_store()
    uri = mlflow.get_tracking_uri()
    file = uri.removeprefix("sqlite:///")
    return Path(file).resolve().parent if file != uri else Path.cwd()


def tag_project_run() -> None:
    """Sign the run that `mlflow run` made before the work starts, so that it is closed if this process dies."""
    if "MLFLOW_RUN_ID" in os.environ:
        _find_the_store()
        for key, value in liveness.process_tags().items():
            mlflow.MlflowClient().set_tag(os.environ["MLFLOW_RUN_ID"], key, value)


def read_settings(run: Any) -> dict[str, str]:
    """The settings of a run, field -> text, as they were understood."""
    found: dict[str, str] = json.loads(run.data.tags.get(SETTINGS, "{}"))
    return found


@cache
def find_commit() -> str:
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


def get_run(run_id: str, field: str) -> Any:
    """A run by its id; raises UsageError, naming the field that it was given in."""
    create_store()
    try:
        return mlflow.get_run(run_id)
    except MlflowException:
        raise UsageError(f"{field}: no run {run_id!r} in {mlflow.get_tracking_uri()}") from None


def find_best_run(scale: str, smoke: bool) -> str:
    """The id of the finished train run of a scale with the lowest mae on its validation split.

    Args:
        scale: its text.
        smoke: whether runs that were shrunk by smoke=true count.
    """
    create_store()
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
