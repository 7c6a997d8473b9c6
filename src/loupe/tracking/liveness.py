"""Who works on a run, whether that process still lives, and what becomes of runs whose owner is dead."""

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
HEARTBEAT_TIMEOUT_S = 180.0  # seconds without a heartbeat after which another machine's process counts as dead


def process_tags() -> dict[str, str]:
    """Who works on a run: host, process and its start, as tags."""
    started = psutil.Process().create_time()
    return {
        "loupe.host": socket.gethostname(),
        "loupe.pid": str(os.getpid()),
        "loupe.started": f"{started:.2f}",
    }


def send_heartbeat(run_id: str) -> None:
    """Say on a run that its process still lives, for those who cannot look: it is on another machine."""
    with suppress(MlflowException):  # a server that is away hears the next one
        mlflow.MlflowClient().set_tag(run_id, HEARTBEAT_TAG, f"{time.time():.0f}")


def is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that opened a run still lives.

    Of another machine's the last heartbeat tells; without one that cannot be told: it does.
    """
    if tags.get("loupe.host") != socket.gethostname():
        return time.time() - float(tags.get(HEARTBEAT_TAG, "inf")) < HEARTBEAT_TIMEOUT_S
    try:
        started = psutil.Process(int(tags["loupe.pid"])).create_time()
        return abs(started - float(tags["loupe.started"])) < 5  # the clock may have been set since
    except (psutil.Error, KeyError, ValueError):
        return False


def is_running(run_id: str) -> bool:
    """Whether a run is still being worked on."""
    return bool(mlflow.get_run(run_id).info.status == "RUNNING")


def mark_killed(run_id: str) -> None:
    """Mark a run as KILLED whose process is gone, if that has not been done."""
    if is_running(run_id):
        mlflow.MlflowClient().set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))


def close_orphaned_runs() -> None:
    """Mark runs as KILLED whose process is gone, or, on another machine, has given no sign for long."""
    open_runs = mlflow.search_runs(
        filter_string="attributes.status = 'RUNNING'", search_all_experiments=True, output_format="list"
    )
    for run in open_runs:
        tags = run.data.tags
        alive = is_alive(tags) if "loupe.host" in tags else not _died_unsigned(run.info.run_id, tags)
        if not alive:
            mark_killed(run.info.run_id)  # which looks again: it may have ended well since it was listed


def _died_unsigned(run_id: str, tags: Mapping[str, str]) -> bool:
    """Whether a run that `mlflow run` made on this machine died with it before the step could sign it."""
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
