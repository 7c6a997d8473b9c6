"""Detects open runs whose process has died, and closes them."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

import mlflow
import psutil
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException

HEARTBEAT_TAG = "loupe.heartbeat"
HEARTBEAT_TIMEOUT_S = 180.0  # a process on another machine counts as dead after this time without a heartbeat
CLOCK_TOLERANCE_S = 5.0  # between two readings of a start time: the clock may be adjusted


def process_tags() -> dict[str, str]:
    """Return the host, id and start time of this process, as tags for its runs."""
    return {
        "loupe.host": socket.gethostname(),
        "loupe.pid": str(os.getpid()),
        "loupe.started": f"{psutil.Process().create_time():.2f}",
    }


def send_heartbeat(run_id: str) -> None:
    """Tag a run with the time, so that other machines know that its process is alive."""
    with suppress(MlflowException):  # a lost heartbeat is harmless: the next one follows
        mlflow.MlflowClient().set_tag(run_id, HEARTBEAT_TAG, f"{time.time():.0f}")


def is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that opened a run is alive.

    A process on another machine counts as alive if its last heartbeat is recent, or if the run has no heartbeat.

    Args:
        tags: the tags of the run.
    """
    if tags.get("loupe.host") != socket.gethostname():
        return time.time() - float(tags.get(HEARTBEAT_TAG, "inf")) < HEARTBEAT_TIMEOUT_S
    try:
        started = psutil.Process(int(tags["loupe.pid"])).create_time()
        return abs(started - float(tags["loupe.started"])) < CLOCK_TOLERANCE_S
    except (psutil.Error, KeyError, ValueError):
        return False


def is_running(run_id: str) -> bool:
    """Whether the status of a run is RUNNING."""
    return bool(mlflow.get_run(run_id).info.status == "RUNNING")


def mark_killed(run_id: str) -> None:
    """Set the status of a run to KILLED if it is RUNNING."""
    if is_running(run_id):
        mlflow.MlflowClient().set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))


def close_orphaned_runs() -> None:
    """Mark all open runs whose process is dead as KILLED."""
    open_runs = mlflow.search_runs(
        filter_string="attributes.status = 'RUNNING'", search_all_experiments=True, output_format="list"
    )
    for run in open_runs:
        tags = run.data.tags
        alive = is_alive(tags) if "loupe.host" in tags else not _died_before_tagging(run.info.run_id, tags)
        if not alive:
            mark_killed(run.info.run_id)  # checks the status again: the run may have ended since the search


def _died_before_tagging(run_id: str, tags: Mapping[str, str]) -> bool:
    """Whether `mlflow run` created the run on this machine and died before the step could tag the run."""
    if tags.get("mlflow.source.type") != "PROJECT" or not mlflow.get_tracking_uri().startswith("sqlite:"):
        return False
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            is_mlflow_run = "run" in words and "mlflow" in " ".join(words[:2])
            if is_mlflow_run or process.environ().get("MLFLOW_RUN_ID") == run_id:
                return False
        except psutil.Error:
            continue
    return True
