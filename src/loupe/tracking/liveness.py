"""Detects and closes open runs whose process has died."""

import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path

import mlflow
import psutil
from mlflow.exceptions import MlflowException

from loupe.imaging.threads import repeat
from loupe.tracking.clock import read_clock
from loupe.tracking.locations import get_sqlite_file
from loupe.tracking.store import search_runs

HEARTBEAT_TAG = "loupe.heartbeat"
HEARTBEAT_INTERVAL_S = 30.0
HEARTBEAT_TIMEOUT_S = 180.0  # a process in another PID namespace counts as dead if its last heartbeat is older
SHUTDOWN_TIMEOUT_S = 1.0  # maximum wait for a heartbeat that is being sent
# `mlflow run` creates a run, and may install packages before the step starts and tags this run. If the store is an
# SQLite file and no process of this `mlflow run` is found, the untagged run counts as orphaned: on a Linux host
# immediately, in a container or on another system after this time.
UNTAGGED_TIMEOUT_S = 3600.0
HOST_NAMESPACE = "pid:[4026531836]"  # the PID namespace of a Linux host, in which all processes are visible


IDENTITY_TAGS = ("loupe.host", "loupe.pid", "loupe.namespace", "loupe.started")  # these tags identify a process


def make_process_tags() -> dict[str, str]:
    """Return IDENTITY_TAGS of this process, and a first heartbeat.

    Host name and process id are not sufficient: two processes in different containers can have the same values.
    """
    identity = (socket.gethostname(), str(os.getpid()), _identify_namespace(), _read_start("self") or "")
    return dict(zip(IDENTITY_TAGS, identity, strict=True)) | {HEARTBEAT_TAG: f"{read_clock():.0f}"}


def send_heartbeats(run_id: str) -> AbstractContextManager[None]:
    """Send heartbeats of a run until the block exits."""
    return repeat(lambda: send_heartbeat(run_id), HEARTBEAT_INTERVAL_S, SHUTDOWN_TIMEOUT_S)


def send_heartbeat(run_id: str) -> None:
    """Set the heartbeat tag of a run to the time of the store."""
    with suppress(Exception):  # a failed heartbeat has no effect, because the next heartbeat follows
        mlflow.MlflowClient().set_tag(run_id, HEARTBEAT_TAG, f"{read_clock():.0f}")


def is_alive(tags: Mapping[str, str]) -> bool:
    """Return whether the process that opened a run with these tags is alive.

    If that process is in the PID namespace of this process, its id and start time decide. Otherwise, the time of its
    last heartbeat decides.
    """
    namespace = _identify_namespace()
    if namespace and tags.get("loupe.namespace") == namespace:
        return _read_start(tags.get("loupe.pid", "")) == tags.get("loupe.started")
    try:
        return read_clock() - float(tags[HEARTBEAT_TAG]) < HEARTBEAT_TIMEOUT_S
    except (KeyError, ValueError):
        return False


def is_running(run_id: str) -> bool:
    """Return whether the status of a run is RUNNING."""
    return bool(mlflow.get_run(run_id).info.status == "RUNNING")


def mark_killed(run_id: str) -> None:
    """Set the status of a run to KILLED if it is RUNNING."""
    if is_running(run_id):
        mlflow.MlflowClient().set_terminated(run_id, "KILLED")


def close_orphaned_runs() -> None:
    """Mark open runs of dead processes as KILLED.

    Of the runs without Loupe's tags, only those that `mlflow run` created can be marked.
    """
    for run in search_runs("attributes.status = 'RUNNING'"):
        tags, started = run.data.tags, run.info.start_time / 1000
        if "loupe.host" in tags:
            alive = is_alive({HEARTBEAT_TAG: str(started)} | tags)
        else:
            alive = tags.get("mlflow.source.type") != "PROJECT" or _may_step_start(run.info.run_id, started)
        if not alive:
            try:
                mark_killed(run.info.run_id)
            except MlflowException as error:  # on a server with accounts, it can be the run of another user
                if error.error_code != "PERMISSION_DENIED":
                    raise


def _may_step_start(run_id: str, started: float) -> bool:
    """Return whether the `mlflow run` that created this run may still start the step."""
    if get_sqlite_file(mlflow.get_tracking_uri()) is None:  # `mlflow run` may run on another machine
        return True
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            is_mlflow_run = "run" in words and "mlflow" in " ".join(words[:3])  # also `python -m mlflow run`
            # A later `mlflow run`, such as the one that started this step, did not create the run.
            if is_mlflow_run and process.create_time() <= started:
                return True
            if process.environ().get("MLFLOW_RUN_ID") == run_id:
                return True
        except psutil.Error:
            continue
    return not _identify_namespace().endswith(HOST_NAMESPACE) and read_clock() - started < UNTAGGED_TIMEOUT_S


@cache
def _identify_namespace() -> str:
    """Return the id of the PID namespace of this process; "" if it is unknown."""
    try:
        if os.readlink("/proc/self") == str(os.getpid()):  # otherwise, /proc belongs to another namespace
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        pass
    return ""


def _read_start(pid: str) -> str | None:
    """Return the start time of a process in clock ticks since the start of the system; None if the process has ended.

    On other systems than Linux, return None. psutil is not used, because its start times change with the system's
    clock.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the name of the command is in parentheses; the fields follow
    is_dead = state in "ZX"
    return None if is_dead else fields[18]  # the field starttime; see the manual page proc_pid_stat
