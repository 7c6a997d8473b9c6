"""Opens one MLflow run per step; finds runs, and reads their settings."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

import loupe
from loupe.cli.progress import print_line
from loupe.cli.signals import defer_signals, is_signalled
from loupe.config.base import RunSettings, Settings
from loupe.config.steps import UNSENT_RUNS_FOLDER
from loupe.errors import LoupeError, UsageError, mask_secrets
from loupe.tracking import buffered_runs, delivery, liveness, logged_models, run_notes, server
from loupe.tracking.context_tags import list_masked_tags, mask_tags
from loupe.tracking.project_run import tag_project_run
from loupe.tracking.store import (
    MISSING_CODES,
    check_store,
    create_store,
    describe_failure,
    search_runs,
    set_experiment,
)

EXPERIMENT = "loupe"
SETTINGS_TAG = "loupe.settings"
NAME_TAG = "mlflow.runName"
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_ID"
_chosen_experiment: str | None = None  # the id in EXPERIMENT_VARIABLE that the last `set_experiment` of Loupe has set
RANDOM_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")  # MLflow's default names, such as funny-owl-12


@contextmanager
def open_step_run(settings: Settings, name: str, continues: str | None = None) -> Iterator[str]:
    """Open the run of a step, log the settings, and close the run with a status; see `open_run`.

    Under `mlflow run`, the step joins the run that `mlflow run` created. If the run of another step is open, the new
    run is a child of that run. Otherwise, `open_store` is called first.

    Args:
        settings: the settings of the step.
        name: the default name of the run.
        continues: the id of a run to open again, or None. Under `mlflow run`, that run stays closed, and its id
            is logged as the tag `loupe.continues` of the joined run.

    Yields:
        The run's id.

    Raises:
        UsageError: the run to open again has finished or is still running.
        LoupeError: see `open_store` and `open_run`.
    """
    is_joined, is_nested = "MLFLOW_RUN_ID" in os.environ, mlflow.active_run() is not None
    if not is_nested:
        open_store(settings.quiet)
    reopened_id = continues if continues and not is_joined else None
    tags = build_tags(settings, settings.STEP)
    if reopened_id:
        run = mlflow.get_run(reopened_id)
        validate_interrupted(run)  # another process may have resumed or finished the run since the step started
        mlflow.set_experiment(experiment_id=run.info.experiment_id)
    elif continues:
        tags["loupe.continues"] = continues
    name = mask_secrets(_choose_name(settings, name, reopened_id))
    start = partial(
        mlflow.start_run, run_id=reopened_id, run_name=name, nested=is_nested, tags=tags, log_system_metrics=True
    )
    with open_run(start, settings.to_texts(), settings.quiet) as run_id:
        mlflow.set_tag(NAME_TAG, name)  # `start_run` may ignore `run_name` for a run that exists
        if is_joined:
            _print_typed_params(run_id, settings)
        yield run_id


def _print_typed_params(run_id: str, settings: Settings) -> None:
    """Print the names of params that `mlflow run` logged as typed, if these texts differ from those of the settings.

    MLflow refuses to change logged params.
    """
    params, texts = mlflow.get_run(run_id).data.params, settings.to_texts()
    if names := ", ".join(name for name, text in texts.items() if params.get(name, text) != text):
        line = f"params: {names} are logged as typed; to search by their values, use the tag {SETTINGS_TAG}"
        print_line(line, settings.quiet)


def build_tags(settings: Settings, step: str) -> dict[str, str]:
    """Return the initial tags of a run: step, settings, commit, process, and the user's tags and note.

    If tags that MLflow adds contain secrets, masked copies replace them.
    """
    texts = settings.to_texts()
    tags = {"loupe.step": step, "loupe.commit": find_commit(), SETTINGS_TAG: json.dumps(texts)}
    tags |= liveness.make_process_tags()
    tags |= {f"loupe.{field}": texts[field] for field in ("scale", "smoke") if field in texts}
    if isinstance(settings, RunSettings):
        tags |= {key: mask_secrets(text) for key, _, text in (tag.partition("=") for tag in settings.tags)}
        tags |= {run_notes.NOTE_TAG: mask_secrets(settings.note)} if settings.note else {}
    return tags | list_masked_tags()


def _choose_name(settings: Settings, name: str, reopened_id: str | None) -> str:
    """Return the name of a run: `run_name`, else the name of the existing run, else `name`.

    The run that `mlflow run` created also gets `name` if it has one of MLflow's random names.

    Args:
        settings: the settings of the step.
        name: the default.
        reopened_id: the id of the run that the step opens again, or None.
    """
    if isinstance(settings, RunSettings) and settings.run_name:
        return settings.run_name
    existing_id = reopened_id or os.environ.get("MLFLOW_RUN_ID")
    existing_name = mlflow.get_run(existing_id).info.run_name if existing_id else None
    is_random = reopened_id is None and RANDOM_NAME.fullmatch(existing_name or "")
    return name if existing_name is None or is_random else existing_name


@contextmanager
def open_run(start: Callable[[], Any], params: dict[str, str], quiet: bool) -> Iterator[str]:
    """Open a run, log the params that it lacks, send heartbeats, and close the run when the block exits.

    The status is FINISHED, FAILED after an error, or KILLED after a signal.

    Args:
        start: starts the run and returns it.
        params: the params of the run.
        quiet: do not print that the server is unreachable.

    Yields:
        The run's id.

    Raises:
        LoupeError: see `delivery.end_run`.
    """
    status, run_id, tags = "FAILED", None, dict[str, str]()
    try:
        with defer_signals():
            run_id = str(start().info.run_id)
            data = mlflow.get_run(run_id).data
            tags = run_notes.remove_failure_tags(run_id, data.tags)
            mlflow.log_params({name: text for name, text in params.items() if name not in data.params})
            # `mlflow run` logs the URL of the project, which may contain a password.
            mlflow.set_tags(mask_tags(tags))
            delivery.start_buffering(run_id, quiet)
        with liveness.send_heartbeats(run_id):
            yield run_id
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        if is_signalled():  # a native library has replaced the exception of the signal by one of its own
            status = "KILLED"
        elif run_id is not None:
            with suppress(Exception):  # an error of the store must not replace the error of the step
                delivery.log_record(run_id, "tags", run_notes.make_failure_tags(tags, run_notes.explain(error)))
        raise
    finally:
        if run_id is not None:
            delivery.end_run(run_id, status)


def open_store(quiet: bool = True) -> None:
    """Create the store if it is missing, choose the experiment, upload buffered runs, and close orphaned runs.

    Raises:
        LoupeError: the store cannot be used.
    """
    global _chosen_experiment
    check_store()
    server.check_reachable(server.STARTUP_TIMEOUT_S)
    create_store()
    is_given = os.environ.get(EXPERIMENT_VARIABLE, _chosen_experiment) != _chosen_experiment
    if is_given or "MLFLOW_RUN_ID" in os.environ:  # the user or `mlflow run` has chosen the experiment
        tag_project_run()
    else:
        set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
        _chosen_experiment = os.environ.get(EXPERIMENT_VARIABLE)
    if server.is_server():
        buffered_runs.upload_buffered_runs(Path(UNSENT_RUNS_FOLDER), quiet)
    liveness.close_orphaned_runs()


def read_settings(run: Any, *required: str) -> dict[str, str]:
    """Return the settings of a run as texts; raise UsageError if the tag is malformed or lacks a required field."""
    text = run.data.tags.get(SETTINGS_TAG, "{}")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        rule = f"must be a JSON object of texts in run {run.info.run_id}"
        raise UsageError(f"{SETTINGS_TAG}: {rule}, got {text[:40]!r}")
    for name in required:
        if name not in settings:
            raise UsageError(f"{SETTINGS_TAG}: must contain {name} in run {run.info.run_id}, got {text[:40]!r}")
    return settings


def read_dataset(run: Any) -> tuple[str, str]:
    """Return the name and digest of a run's dataset; raise UsageError if their tags are missing."""
    texts = [run.data.tags.get(name) for name in ("loupe.dataset", "loupe.digest")]
    if None in texts:
        raise UsageError(f"run: must have the tags loupe.dataset and loupe.digest, got run {run.info.run_id}")
    return texts[0], texts[1]


@cache
def find_commit() -> str:
    """Return the Git commit of the code, with `-changed` if files differ; without a commit, the version of Loupe."""
    package = Path(loupe.__file__).parent
    git = ["git", "-C", str(package)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", str(package)], capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return loupe.__version__
    return head.stdout.strip() + ("-changed" if dirty.returncode else "")


def get_run(run_id: str, field: str) -> Any:
    """Return a run.

    Raises:
        UsageError: the run does not exist. The message names `field`, the setting that contains the id.
        LoupeError: the store cannot be used.
    """
    create_store()
    server.check_reachable(server.STARTUP_TIMEOUT_S)
    try:
        return mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in MISSING_CODES:
            raise LoupeError(describe_failure(error)) from None
        raise UsageError(f"{field}: must be a run in {mlflow.get_tracking_uri()}, got {run_id!r}") from None


def validate_interrupted(run: Any) -> None:
    """Raise UsageError if a run cannot be resumed because it has finished or is still running."""
    if run.info.status == "FINISHED":
        raise UsageError(f"resume: must be a run that was interrupted, got {run.info.run_id}, which has finished")
    if run.info.status == "RUNNING" and liveness.is_alive(run.data.tags):
        raise UsageError(f"resume: must be a run that has ended, got {run.info.run_id}, which is still running")


def find_best_run(scale: str, include_smoke: bool) -> Any:
    """Return the train run or trial of the current experiment that has a model and the lowest validation mae.

    Only finished train runs and trials of this scale factor, on the dataset of the newest one, are compared. If none
    of them has a model, the run with the lowest validation mae is returned. Runs with smoke=true are compared only
    with `include_smoke`. `scale` is a text such as `3:2`.

    Raises:
        UsageError: no run matches.
    """
    create_store()
    experiment_id, name = (os.environ.get(f"MLFLOW_EXPERIMENT_{part}") for part in ("ID", "NAME"))
    name = name or EXPERIMENT
    experiment = mlflow.get_experiment(experiment_id) if experiment_id else mlflow.get_experiment_by_name(name)
    without_smoke = "" if include_smoke else " and tags.`loupe.smoke` = 'false'"
    condition = "attributes.status = 'FINISHED' and tags.`loupe.step` LIKE 'tr%' and metrics.`val/best_mae` >= 0"
    condition += f" and tags.`loupe.scale` = '{scale}'{without_smoke} and tags.`loupe.digest` != ''"
    newest = search_runs(condition, 1, experiment=experiment.experiment_id) if experiment else []
    if not newest:
        name = experiment.name if experiment else name
        advice = "" if include_smoke else ", and `--include-smoke` also uses short tests"
        raise UsageError(
            f"run: must be a finished train run or trial of scale {scale} in the experiment {name!r} of "
            f"{mlflow.get_tracking_uri()}, got none; `loupe train` creates such a run{advice}"
        )
    same_dataset = f" and tags.`loupe.digest` = '{newest[0].data.tags['loupe.digest']}'"
    ranking = search_runs(
        condition + same_dataset, order_by=["metrics.`val/best_mae` ASC"], experiment=experiment.experiment_id
    )
    # A sweep deletes the models of all trials except for the best ones.
    return next((run for run in ranking if logged_models.find_model(run.info.run_id)), ranking[0])
