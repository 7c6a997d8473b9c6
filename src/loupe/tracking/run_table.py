"""Loads the results of all runs as one table."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlflow
import pandas as pd

from loupe.errors import mask_secrets
from loupe.tracking import curves, runs, trials
from loupe.tracking.store import create_store

RUNS_PER_REQUEST = 1000
THREADS = 8  # number of curves that are requested at the same time


def load_run_table() -> pd.DataFrame:
    """Load all finished train runs, trials and evaluations of the store whose tag `loupe.smoke` is `false`.

    Returns:
        One row per run, newest first: run_id, name, kind (trial, train, evaluate), sweep (name), state (COMPLETE,
        PRUNED), started (ISO, UTC), dataset (name), digest, code (hash of the training code), commit;
        settings.<field> (texts); metrics.<name> (last values, without system metrics); curve.step and curve.val/mae
        (lists).
    """
    create_store()
    client = mlflow.MlflowClient()
    rows: list[dict[str, Any]] = []
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    token: str | None = None
    while True:
        page = client.search_runs(
            experiments, "attributes.status = 'FINISHED'", max_results=RUNS_PER_REQUEST, page_token=token
        )
        results = [run for run in page if _is_result(run.data.tags)]
        with ThreadPoolExecutor(THREADS) as threads:
            rows += map(_make_row, results, threads.map(curves.read_curve, results))
        token = page.token
        if not token:
            return pd.DataFrame(rows)


def _is_result(tags: dict[str, str]) -> bool:
    return tags.get("loupe.step") in ("trial", "train", "evaluate") and tags.get("loupe.smoke") == "false"


def _make_row(run: Any, curve: list[tuple[int, float]]) -> dict[str, Any]:
    tags, texts = run.data.tags, runs.read_settings(run)
    return (
        {
            "run_id": run.info.run_id,
            "name": run.info.run_name,
            "kind": tags["loupe.step"],
            "sweep": tags.get(trials.SWEEP_TAG),
            "state": tags.get(trials.STATE_TAG, "COMPLETE"),
            "started": pd.Timestamp(run.info.start_time, unit="ms").isoformat(timespec="seconds"),
            "dataset": tags.get("loupe.dataset"),
            "digest": tags.get("loupe.digest"),
            "code": tags.get(trials.CODE_TAG),
            "commit": tags.get("loupe.commit"),
        }
        | {f"settings.{name}": mask_secrets(text) for name, text in texts.items()}
        | {f"metrics.{name}": value for name, value in run.data.metrics.items() if not name.startswith("system/")}
        | {"curve.step": [step for step, _ in curve], "curve.val/mae": [value for _, value in curve]}
    )
