"""Sends the records of runs (metrics, tags, files) to the tracking server, or buffers them for a later upload.

Logging to an open run does not wait for the server: each record goes to a file (see `buffer`), from which a thread
sends it. Records of other runs, and records for a store that is not a server, are sent directly.
"""
# MLflow's own functions are not sufficient. While the server is unreachable, their retries block for 247 s. MLflow's
# asynchronous logging drops records during this time, and does not support artifacts, datasets and models.

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow.entities import LifecycleStage
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException

from loupe.cli.progress import print_line
from loupe.cli.signals import defer_signals
from loupe.config.steps import UNSENT_RUNS_FOLDER
from loupe.errors import LoupeError, describe_error, mask_values
from loupe.tracking import liveness
from loupe.tracking.buffer import SUFFIX, RunBuffer, lock_buffer
from loupe.tracking.record_handlers import RECORD_HANDLERS, get_time_ms
from loupe.tracking.server import (
    PROBE_TIMEOUT_S,
    describe_unreachable_server,
    is_reachable,
    is_server,
    is_unreachable_error,
    is_wrong_answer,
    limit_requests,
)
from loupe.tracking.store import create_store

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # the pause between two attempts to send doubles each time
SERVER_ERRORS = (MlflowException, requests.RequestException)
# The types of the values that `_describe_run` returns, by name
DESCRIPTION_TYPES = {
    "run_id": str, "experiment": str, "name": str, "start_time": int, "tags": dict, "params": dict
}  # fmt: skip
_UPLOADERS: dict[str, "RunUploader"] = {}  # the uploaders of open runs, by run id


def log_record(run_id: str, kind: str, body: dict[str, Any], file: Path | None = None) -> None:
    """Log a record to a run, with masked secrets in `body`.

    `kind` is a key of RECORD_HANDLERS. The handler gets `body` and `file`.
    """
    body, uploader = mask_values(body), _UPLOADERS.get(run_id)
    if uploader is not None:
        uploader.log_record(kind, body, file)
        return
    with defer_signals():
        RECORD_HANDLERS[kind](run_id, body, file)


def start_buffering(run_id: str, quiet: bool) -> None:
    """Buffer the records of an open run until `end_run`, if the store is a server. For `quiet`, see `RunUploader`."""
    if is_server():
        file = Path(UNSENT_RUNS_FOLDER).resolve() / f"{run_id}{SUFFIX}"
        _UPLOADERS[run_id] = RunUploader(RunBuffer.create(file, _describe_run(run_id)), quiet)


def end_run(run_id: str, status: str) -> None:
    """End the open run with a status; if the status is FINISHED, also remove the checkpoint of the run.

    If the server does not receive all records in time (see `RunUploader.finish`), the buffer of the run is kept. For
    another status than FINISHED, this is only printed.

    Raises:
        LoupeError: the status is FINISHED, and the server did not receive all records in time.
        Exception: a record failed for another reason than an unreachable server, such as a rejection. The run ends
            as FAILED, and the buffer is kept.
    """
    uploader = _UPLOADERS.pop(run_id, None)
    if uploader is None:
        _close_run(run_id, status)
        return
    buffer, is_finished = uploader.buffer, status == "FINISHED"
    try:
        if uploader.finish(MLFLOW_HTTP_REQUEST_TIMEOUT.get() if is_finished else PROBE_TIMEOUT_S):
            _close_run(run_id, status)
            buffer.remove()
            return
    except Exception as error:
        if not is_unreachable_error(error):
            buffer.close()
            _close_run(run_id, "FAILED")
            raise
    buffer.append("end", {"status": status, "end_time": get_time_ms()})
    if is_finished:
        buffer.append("remove checkpoint", {})
    buffer.close()
    with suppress(*SERVER_ERRORS), limit_requests(), defer_signals():
        mlflow.end_run(status)  # if the server is unreachable, the run ends only in MLflow's client
    message = f"{describe_unreachable_server()}; run {run_id} is buffered in {buffer.file}: `loupe sync` uploads it"
    if is_finished:
        raise LoupeError(message)
    print_line(message, uploader.quiet)


@defer_signals()
def _close_run(run_id: str, status: str) -> None:
    mlflow.end_run(status)
    # The checkpoint is removed last, because a run that is killed before it ends needs the checkpoint.
    if status == "FINISHED":
        log_record(run_id, "remove checkpoint", {})


def upload_buffered_runs(folder: Path, quiet: bool) -> int:
    """Upload the buffered runs of ended processes, delete their files, and return the number of runs.

    A run that the server does not have is created. The file of a run that was deleted on the server is removed and
    reported. A file that is damaged, or has a record that the server rejects, is kept and reported.

    Raises:
        LoupeError: the server is unreachable.
        MlflowException, requests.RequestException: the server became unreachable during the upload.
    """
    uploaded = 0
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with lock_buffer(file, wait=False) as is_locked:
                uploaded += is_locked and _upload_buffered_run(file, quiet)
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # a damaged record
            print_line(f"tracking: {file} is not uploaded and stays as it is: {describe_error(error)}", quiet)
        except SERVER_ERRORS as error:
            if is_unreachable_error(error):
                raise
            print_line(f"tracking: {file} is not uploaded completely: {describe_error(error)}", quiet)
        except OSError:
            if file.exists():  # a missing file was uploaded by another process
                raise
    with suppress(OSError):  # the folder is not empty
        folder.rmdir()
    return uploaded


def _upload_buffered_run(file: Path, quiet: bool) -> bool:
    """Upload a run, delete its file, and return True.

    If the run is still open in a live process, or was deleted on the server, return False.
    """
    buffer = RunBuffer(file)
    description, unsent = buffer.description, buffer.list_unsent()
    for name, kind in DESCRIPTION_TYPES.items():
        if not isinstance(description.get(name), kind):
            raise ValueError(f"{name}: must be {kind.__name__}, got {description.get(name)!r}")
    unknown = {record.kind for record in unsent} - RECORD_HANDLERS.keys()
    if unknown:
        raise ValueError(f"kind: must be one of {', '.join(RECORD_HANDLERS)}, got {min(unknown)!r}")
    if not is_reachable():
        raise LoupeError(f"{describe_unreachable_server()}; the runs in {file.parent} are not uploaded")
    has_ended = any(record.kind == "end" for record in unsent)
    run = _find_run(description["run_id"])
    # A network file system may not show the lock of another machine. Therefore the heartbeat is also checked.
    if run is not None and not has_ended and liveness.is_alive(run.data.tags):
        return False
    if run is not None and run.info.lifecycle_stage == LifecycleStage.DELETED:  # MLflow rejects all its records
        buffer.remove()
        run_text = f"run {run.info.run_id} ({description['name']})"
        print_line(f"tracking: {run_text} was deleted on the server; {file} is removed", quiet)
        return False
    run_id = str(run.info.run_id) if run else _create_run(buffer)
    upload_records(buffer)
    liveness.mark_killed(run_id)  # has no effect if a record has ended the run
    buffer.remove()
    if unsent:
        print_line(f"run {run_id} ({description['name']}): uploaded {len(unsent)} records", quiet)
    return True


def upload_records(buffer: RunBuffer) -> None:
    """Send the unsent records in order. A rejected record counts as sent, and its error is raised."""
    run_id = buffer.description["run_id"]
    for record in buffer.list_unsent():
        with buffer.extract_file(record) as file:
            try:
                RECORD_HANDLERS[record.kind](run_id, record.body, file)
            except SERVER_ERRORS as error:
                if not is_unreachable_error(error):
                    buffer.mark_sent(record.number)
                raise
        buffer.mark_sent(record.number)


class RunUploader:
    """A thread that sends the records of a run whenever the server is reachable.

    Args:
        buffer: the records of the run.
        quiet: do not print that the server is unreachable.
    """

    def __init__(self, buffer: RunBuffer, quiet: bool) -> None:
        self.buffer, self.quiet = buffer, quiet
        self._error: Exception | None = None
        self._has_wrong_answer = self._always_fails = False
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._upload, daemon=True)
        self._thread.start()

    def log_record(self, kind: str, body: dict[str, Any], file: Path | None) -> None:
        """Buffer a record; raise the error of an earlier record, unless that error means an unreachable server."""
        self.buffer.append(kind, body, file)
        self._wake.set()
        self._raise_error()

    def finish(self, seconds: float) -> bool:
        """Wait at most `seconds` for all records to be sent, stop the thread, and return whether all are sent.

        After a wrong answer of the server (see `is_wrong_answer`), wait at most PROBE_TIMEOUT_S. Raise the error of a
        record as `log_record` does.
        """
        start = time.monotonic()
        # After an error that does not come from the server, waiting is useless: the thread would fail again.
        while (
            not self.buffer.is_sent()
            and time.monotonic() - start < (min(PROBE_TIMEOUT_S, seconds) if self._has_wrong_answer else seconds)
            and not self._always_fails
        ):
            self._wake.set()
            time.sleep(0.05)
        is_sent = self.buffer.is_sent()
        self._closing.set()
        self._wake.set()
        self._thread.join(PROBE_TIMEOUT_S)  # the thread may be in a request that MLflow repeats for minutes
        self._raise_error()
        return is_sent

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _upload(self) -> None:
        pause = 0.0
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            self._has_wrong_answer = self._always_fails = False
            try:
                self.buffer.delete_old_checkpoints()
                if not self.buffer.is_sent() and is_reachable():
                    upload_records(self.buffer)
            except Exception as error:
                self._has_wrong_answer = is_wrong_answer(error)
                self._always_fails = not isinstance(error, SERVER_ERRORS)
                if not is_unreachable_error(error):
                    self._error = self._error or error  # a later error can be a result of the first one
            if self._closing.is_set():  # the buffer may be closed
                return
            if self.buffer.is_sent():
                pause = 0.0
                continue
            if not pause and not is_reachable():  # only at the first failed attempt
                print_line(f"{describe_unreachable_server()}; buffered in {self.buffer.file}", self.quiet)
            pause = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * pause))
            self._closing.wait(pause)
            self._wake.set()


def _describe_run(run_id: str) -> dict[str, Any]:
    """Return the data from which `_create_run` can create the run again."""
    run = mlflow.get_run(run_id)
    return {
        "run_id": run_id,
        "experiment": mlflow.get_experiment(run.info.experiment_id).name,
        "name": run.info.run_name,
        "start_time": run.info.start_time,
        "tags": run.data.tags,
        "params": run.data.params,
    }


def _find_run(run_id: str) -> Any:
    """Return a run; None if the server does not have the run."""
    create_store()
    try:
        return mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return None


def _create_run(buffer: RunBuffer) -> str:
    """Create the run of a buffer on the server, and return its id."""
    description, client = buffer.description, mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(description["experiment"])
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(description["experiment"])
    run = client.create_run(experiment_id, description["start_time"], description["tags"], description["name"])
    run_id = str(run.info.run_id)
    RECORD_HANDLERS["params"](run_id, description["params"], None)
    buffer.mark_sent(0)  # the new run has no records yet, so all are unsent
    buffer.describe(description | {"run_id": run_id})
    return run_id
