"""Trials of a sweep in MLflow: children of the sweep's run, found again by what was trained, and as a table."""

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from loupe.cli import signals
from loupe.config.base import Settings
from loupe.tracking import checkpoints, liveness, models, records, runs
from loupe.tracking.record_handlers import remove_artifact
from loupe.tracking.store import create_store
from loupe.upscalers.geometry import Geometry

TRIAL_TAG = "loupe.trial"
SWEEP_TAG = "loupe.sweep"
KEY_TAG = "loupe.key"
CODE_TAG = "loupe.code"
STATE_TAG = "trial.state"
CHECKPOINT_INTERVAL_S = 10.0  # of training that a killed trial may lose
CURVE = "val/mae"
CURVE_TAG = "loupe.curve"
TAG_LENGTH = 5000  # that every store takes
PAGE = 1000
ASKING = 8  # requests at a time


def compute_key(settings: Settings, digest: str, code: str) -> str:
    """What a result depends on: settings with the seed, the dataset's digest, the code; as a hash."""
    place = ("dataset", "data_dir", "scheduler", "threads", "resume")
    texts = {name: text for name, text in settings.to_texts().items() if name not in place}
    return hashlib.sha256(json.dumps([texts, digest, code], sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def trial_run(
    settings: Settings, name: str, parent: str, tags: dict[str, str], continues: str | None
) -> Iterator[str]:
    """Open the run of a trial as a child of the sweep's run, and close it as `step_run` does.

    Args:
        settings: of train at this point.
        name: that a person can tell from others.
        parent: id of the sweep's run.
        tags: SWEEP, TRIAL, KEY and CODE.
        continues: the killed run whose checkpoint it goes on from.

    Yields:
        The run's id.
    """
    tags = runs.build_tags(settings, "trial") | tags | ({"loupe.continues": continues} if continues else {})
    with signals.raise_on_signals():
        run = mlflow.start_run(run_name=name, parent_run_id=parent, tags=tags, log_system_metrics=False)
        with runs.close_run_at_exit(settings.to_texts(), settings.quiet):
            yield run.info.run_id


class PeriodicCheckpoint:
    """Keeps a checkpoint of the open run now and then: what is lost is less than writing them all costs."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._newest: tuple[dict[str, np.ndarray], int] | None = None

    def offer(self, arrays: dict[str, np.ndarray], step: int) -> None:
        """Keep this one if the last was kept, or the trial opened, more than CHECKPOINT_SECONDS ago."""
        self._newest = arrays, step
        if time.monotonic() - self._last > CHECKPOINT_INTERVAL_S:
            self.keep()

    def keep(self) -> None:
        """Keep the newest that was offered, if there is one."""
        if self._newest is not None:
            checkpoints.save_checkpoint(*self._newest)
            self._last, self._newest = time.monotonic(), None


def find_finished(key: str) -> Any:
    """The newest completed trial of this key in the store, or None."""
    found = mlflow.search_runs(
        filter_string=f"attributes.status = 'FINISHED' and tags.`{KEY_TAG}` = '{key}'"
        f" and tags.`{STATE_TAG}` = 'COMPLETE'",
        search_all_experiments=True,
        max_results=1,
        output_format="list",
    )
    return found[0] if found else None


def get_ended(run_id: str) -> Any:
    """The run, if it is a trial that came to its end, else None."""
    run = mlflow.get_run(run_id)
    return run if run.info.status == "FINISHED" and STATE_TAG in run.data.tags else None


def load_checkpoint(run_id: str) -> dict[str, np.ndarray] | None:
    """The last checkpoint of a killed trial, if it came to one."""
    return checkpoints.load_checkpoint(run_id) if checkpoints.has_checkpoint(run_id) else None


def log_model(model: Any, points: list[dict[str, Any]]) -> None:
    """Log the network of the open run, with the metrics of the best of these points of its curve."""
    models.log_keras_model(model, Geometry.from_name(model.name))
    models.log_model_metrics(points)


def load_curve(run_id: str, metric: str) -> list[tuple[int, float]]:
    """Step and value of each point of a run's metric."""
    history = mlflow.MlflowClient().get_metric_history(run_id, metric)
    return sorted({point.step: point.value for point in history}.items())


def log_curve(points: list[dict[str, Any]]) -> None:
    """Write the open run's curve into a tag: a report gets it with the run, not by a request for each.

    Args:
        points: as `points_of` gives them; too many for a tag, and there is none.
    """
    kept = [(point["step"], float(point["metrics"][CURVE])) for point in points]
    text = json.dumps([pair for pair in kept if np.isfinite(pair[1])], separators=(",", ":"))
    if len(text) <= TAG_LENGTH:
        records.log_tags({CURVE_TAG: text})


def _kept_curve(run: Any) -> list[tuple[int, float]]:
    if CURVE_TAG in run.data.tags:
        return [(step, value) for step, value in json.loads(run.data.tags[CURVE_TAG])]
    return load_curve(run.info.run_id, CURVE) if CURVE in run.data.metrics else []


def find_sweep_runs(sweep: str) -> list[Any]:
    """The runs of this sweep, newest first."""
    create_store()
    return list(
        mlflow.search_runs(
            filter_string=f"tags.`loupe.step` = 'sweep' and tags.`{SWEEP_TAG}` = '{sweep}'",
            search_all_experiments=True,
            output_format="list",
        )
    )


def find_trials(parent: str) -> list[Any]:
    """The trials' runs under a sweep's run."""
    return list(
        mlflow.search_runs(
            filter_string=f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}' and tags.`loupe.step` = 'trial'",
            search_all_experiments=True,
            max_results=100_000,
            output_format="list",
        )
    )


def adopt_trials(old: str, new: str) -> None:
    """Make the trials of an older run of the sweep children of the new one; close what its death left open."""
    client = mlflow.MlflowClient()
    for child in find_trials(old):
        client.set_tag(child.info.run_id, MLFLOW_PARENT_RUN_ID, new)
    liveness.mark_killed(old)
    client.set_tag(old, "loupe.continued_by", new)


def get_tags(run_id: str | None) -> dict[str, str]:
    """The tags of a run; {} where there is none yet."""
    return dict(mlflow.get_run(run_id).data.tags) if run_id else {}


def load_points(run_id: str) -> list[dict[str, Any]]:
    """The points of a run's curve as `training` has them: step, and metrics of whole images."""
    names = [f"{split}/{score}" for split in ("train", "val") for score in ("mae", "psnr")]
    curves = {name: dict(load_curve(run_id, name)) for name in names}
    return [
        {"step": step, "metrics": {name: curves[name][step] for name in names if step in curves[name]}}
        for step in sorted(curves[CURVE])
    ]


def has_model(run_id: str) -> bool:
    """Whether a run's network is kept."""
    return bool(_models(run_id))


def delete_model(run_id: str) -> None:
    """Remove the network of a run that is no longer among the best."""
    for model in _models(run_id):
        remove_artifact(model.artifact_location, "")
        mlflow.MlflowClient().delete_logged_model(model.model_id)


def _models(run_id: str) -> list[Any]:
    """The networks of a run that have not been removed: its outputs name those, too."""
    outputs, found = mlflow.get_run(run_id).outputs, []
    for output in outputs.model_outputs if outputs else ():
        with suppress(MlflowException):
            found.append(mlflow.MlflowClient().get_logged_model(output.model_id))
    return found


def load_results() -> pd.DataFrame:
    """Every finished training of the store, a row a run, newest first.

    Returns:
        run_id, name, kind (trial, train, evaluate), sweep, state (COMPLETE, PRUNED), started (ISO, UTC), dataset,
        digest, code, commit; settings.<field>: texts; metrics.<name>: last values; curve.step and
        curve.val/mae: lists. Runs that were shrunk by smoke=true are left out.
    """
    create_store()
    client = mlflow.MlflowClient()
    rows: list[dict[str, Any]] = []
    experiments = [found.experiment_id for found in client.search_experiments()]
    token: str | None = None
    while True:
        page = client.search_runs(experiments, "attributes.status = 'FINISHED'", max_results=PAGE, page_token=token)
        wanted = [run for run in page if _counts(run.data.tags)]
        with ThreadPoolExecutor(ASKING) as threads:
            rows += map(_row, wanted, threads.map(_kept_curve, wanted))
        token = page.token
        if not token:
            return pd.DataFrame(rows)


def _counts(tags: dict[str, str]) -> bool:
    return tags.get("loupe.step") in ("trial", "train", "evaluate") and tags.get("loupe.smoke") == "false"


def _row(run: Any, points: list[tuple[int, float]]) -> dict[str, Any]:
    tags, texts = run.data.tags, runs.read_settings(run)
    return (
        {
            "run_id": run.info.run_id,
            "name": run.info.run_name,
            "kind": tags["loupe.step"],
            "sweep": tags.get(SWEEP_TAG),
            "state": tags.get(STATE_TAG, "COMPLETE"),
            "started": pd.Timestamp(run.info.start_time, unit="ms").isoformat(timespec="seconds"),
            "dataset": tags.get("loupe.dataset"),
            "digest": tags.get("loupe.digest"),
            "code": tags.get(CODE_TAG),
            "commit": tags.get("loupe.commit"),
        }
        | {f"settings.{name}": text for name, text in texts.items()}
        | {f"metrics.{name}": value for name, value in run.data.metrics.items() if not name.startswith("system/")}
        | {"curve.step": [step for step, _ in points], "curve.val/mae": [value for _, value in points]}
    )
