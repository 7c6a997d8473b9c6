"""Detects open runs whose process has died, and closes these runs."""

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import mlflow
import psutil

from loupe.tracking.clock import read_clock
from loupe.tracking.locations import get_sqlite_file
from loupe.tracking.store import search_runs

HEARTBEAT_TAG = "loupe.heartbeat"
HEARTBEAT_INTERVAL_S = 30.0
# After this time without a heartbeat, a process on another machine or in another container counts as dead.
HEARTBEAT_TIMEOUT_S = 180.0
SHUTDOWN_TIMEOUT_S = 1.0  # maximum wait for a heartbeat that is being sent when the run ends
# `mlflow run` creates a run and may install packages for this time before the step starts and tags the run. The limit
# applies only in a container, because a container hides whether the process of `mlflow run` is alive outside.
UNTAGGED_TIMEOUT_S = 3600.0
HOST_NAMESPACE = "pid:[4026531836]"  # the namespace of a Linux host, from which all processes are visible


def make_process_tags() -> dict[str, str]:
    """Return tags that identify this process and contain a first heartbeat; see `is_alive`.

    The host name and the process id do not identify a process, because processes in two containers can have the same
    host name and process id.
    """
    return {
        "loupe.host": socket.gethostname(),
        "loupe.pid": str(os.getpid()),
        "loupe.namespace": _identify_namespace(),
        "loupe.started": _read_start("self") or "",
        HEARTBEAT_TAG: f"{read_clock():.0f}",
    }


@contextmanager
def heartbeats(run_id: str) -> Iterator[None]:
    """Send heartbeats of a run until the block exits, so that other machines know that this process is alive."""
    stopped = threading.Event()

    def send() -> None:
        while not stopped.wait(HEARTBEAT_INTERVAL_S):
            send_heartbeat(run_id)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(SHUTDOWN_TIMEOUT_S)


def send_heartbeat(run_id: str) -> None:
    """Set the heartbeat tag of a run to the time of the store."""
    with suppress(Exception):  # a lost heartbeat is harmless, because the next heartbeat follows
        mlflow.MlflowClient().set_tag(run_id, HEARTBEAT_TAG, f"{read_clock():.0f}")


def is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that opened a run is alive.

    A process in the namespace of this process is identified by its id and its start time. A process in another
    container or on another machine counts as alive if its last heartbeat is recent.

    Args:
        tags: the tags of the run.
    """
    namespace = _identify_namespace()
    if namespace and tags.get("loupe.namespace") == namespace:
        return _read_start(tags.get("loupe.pid", "")) == tags.get("loupe.started")
    try:
        return read_clock() - float(tags[HEARTBEAT_TAG]) < HEARTBEAT_TIMEOUT_S
    except (KeyError, ValueError):
        return False


def is_running(run_id: str) -> bool:
    """Whether the status of a run is RUNNING."""
    return bool(mlflow.get_run(run_id).info.status == "RUNNING")


def mark_killed(run_id: str) -> None:
    """Set the status of a run to KILLED if it is RUNNING."""
    if is_running(run_id):
        mlflow.MlflowClient().set_terminated(run_id, "KILLED")


def close_orphaned_runs() -> None:
    """Mark all open runs whose process is dead as KILLED."""
    for run in search_runs("attributes.status = 'RUNNING'"):
        tags, started = run.data.tags, run.info.start_time / 1000
        if "loupe.host" in tags:
            alive = is_alive({HEARTBEAT_TAG: str(started)} | tags)  # the start counts as the first heartbeat
        else:  # another program has created the run
            alive = tags.get("mlflow.source.type") != "PROJECT" or _may_be_tagged(run.info.run_id, started)
        if not alive:
            mark_killed(run.info.run_id)  # checks the status again: the run may have ended since the search


def _may_be_tagged(run_id: str, started: float) -> bool:
    """Whether the step of a run that `mlflow run` created may still start and tag the run."""
    if get_sqlite_file(mlflow.get_tracking_uri()) is None:  # `mlflow run` may run on another machine
        return True
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            is_mlflow_run = "run" in words and "mlflow" in " ".join(words[:2])
            if is_mlflow_run or process.environ().get("MLFLOW_RUN_ID") == run_id:
                return True
        except psutil.Error:
            continue
    return not _identify_namespace().endswith(HOST_NAMESPACE) and read_clock() - started < UNTAGGED_TIMEOUT_S


@cache
def _identify_namespace() -> str:
    """Return the id of this process's namespace, in which process ids are unique; "" if the id is unknown."""
    try:
        if os.readlink("/proc/self") == str(os.getpid()):  # otherwise /proc shows the processes of another namespace
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # the system is not Linux
        pass
    return ""


def _read_start(pid: str) -> str | None:
    """Return the start time of a process in clock ticks since the start of the system; None if the process has ended.

    psutil is not used, because its start times change when the system's clock is set.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the name of the command, before ")", can contain spaces
    is_dead = state in "ZX"  # zombie or dead
    return None if is_dead else fields[18]  # starttime in `man proc_pid_stat`
