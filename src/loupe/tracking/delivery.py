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
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException

from loupe.cli.progress import print_line
from loupe.cli.signals import defer_signals
from loupe.config.steps import UNSENT_RUNS_FOLDER
from loupe.errors import LoupeError, describe_error, mask_secrets, mask_values
from loupe.tracking.buffer import SUFFIX, RunBuffer
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

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # the pause between two attempts to send doubles each time
SERVER_ERRORS = (MlflowException, requests.RequestException)
_UPLOADERS: dict[str, "RunUploader"] = {}  # the uploaders of open runs, by run id


class UnsentRecordsError(LoupeError):
    """The server did not receive all records of a finished run. Its buffer is kept."""


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
        UnsentRecordsError: the status is FINISHED, and the server did not receive all records in time.
        Exception: a record failed for another reason than an unreachable server, such as a rejection. The run ends
            as FAILED, and the buffer is kept.
    """
    uploader = _UPLOADERS.pop(run_id, None)
    if uploader is None:
        _close_run(run_id, status)
        return
    buffer, is_finished = uploader.buffer, status == "FINISHED"
    try:
        if uploader.finish(MLFLOW_HTTP_REQUEST_TIMEOUT.get() if is_finished else PROBE_TIMEOUT_S, is_finished):
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
    message = f"{uploader.describe_failure()}; run {run_id} is buffered in {buffer.file}: `loupe sync` uploads it"
    if is_finished:
        raise UnsentRecordsError(message)
    print_line(message, uploader.quiet)


@defer_signals()
def _close_run(run_id: str, status: str) -> None:
    mlflow.end_run(status)
    # The checkpoint is removed last, because a run that is killed before it ends needs the checkpoint.
    if status == "FINISHED":
        log_record(run_id, "remove checkpoint", {})


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
        self._last_error: Exception | None = None  # the last error of the server
        self._has_wrong_answer = self._always_fails = False
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._upload, daemon=True)
        self._thread.start()

    def log_record(self, kind: str, body: dict[str, Any], file: Path | None) -> None:
        """Buffer a record; raise the error of an earlier record, unless that error means an unreachable server."""
        self.buffer.append(kind, body, file)
        self._wake.set()
        self._raise_error()

    def finish(self, seconds: float, extends: bool = False) -> bool:
        """Wait at most `seconds` for all records to be sent, stop the thread, and return whether all are sent.

        If `extends`, the time starts again when records were sent. After a wrong answer of the server (see
        `is_wrong_answer`), wait at most PROBE_TIMEOUT_S. Raise the error of a record as `log_record` does.
        """
        start, sent = time.monotonic(), self.buffer.sent_number
        # After an error that does not come from the server, waiting is useless: the thread would fail again.
        while not self.buffer.is_sent() and not self._always_fails:
            if extends and self.buffer.sent_number > sent:
                start, sent = time.monotonic(), self.buffer.sent_number
            limit = min(PROBE_TIMEOUT_S, seconds) if self._has_wrong_answer else seconds
            if time.monotonic() - start >= limit:
                break
            self._wake.set()
            time.sleep(0.05)
        is_sent = self.buffer.is_sent()
        self._closing.set()
        self._wake.set()
        self._thread.join(PROBE_TIMEOUT_S)  # the thread may be in a request that MLflow repeats for minutes
        self._raise_error()
        return is_sent

    def describe_failure(self) -> str:
        """Return a message about records that the server did not receive."""
        if not is_reachable():
            return describe_unreachable_server()
        uri = mlflow.get_tracking_uri()
        reason = f": {describe_error(self._last_error, uri)}" if self._last_error else " in time"
        return f"tracking: {mask_secrets(uri)} did not accept all records{reason}"

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _upload(self) -> None:
        pause = 0.0
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            self._has_wrong_answer, self._always_fails, self._last_error = False, False, None
            try:
                self.buffer.delete_old_checkpoints()
                if not self.buffer.is_sent() and is_reachable():
                    upload_records(self.buffer)
            except Exception as error:
                self._last_error, self._has_wrong_answer = error, is_wrong_answer(error)
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
