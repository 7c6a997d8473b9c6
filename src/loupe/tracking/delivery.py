"""What is told of a run reaches MLflow at once, or, where its server does not answer, as soon as it does.

The record of a run on a server is kept in a folder while it is open (`journal`), and a thread tells the server of
it. So a step never waits for its server: one that is away for a while costs nothing, and one that is away for good
nothing but `loupe sync` later. A store in a file needs none of it.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow.entities import RunStatus
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException

from loupe.cli.progress import print_line
from loupe.config.steps import UNSENT_RUNS_FOLDER
from loupe.errors import LoupeError, describe_error
from loupe.tracking import liveness
from loupe.tracking.buffer import RUN, RunBuffer
from loupe.tracking.record_handlers import RECORD_HANDLERS, now
from loupe.tracking.store import create_store

PAUSES = (1.0, 30.0)  # seconds between looks at a server that does not answer: the first, the longest
PROBE = 5.0  # seconds in which a server must answer a look
_OPEN: dict[str, "RunUploader"] = {}


def is_server() -> bool:
    """Whether runs go to a server, which may be away; else to a file or database."""
    return mlflow.get_tracking_uri().startswith(("http://", "https://"))


def is_reachable() -> bool:
    """Whether the server answers now; a store that is no server always does."""
    if not is_server():
        return True
    try:
        return requests.get(f"{mlflow.get_tracking_uri().rstrip('/')}/health", timeout=PROBE).status_code < 500
    except requests.exceptions.SSLError:
        return True  # MLflow has settings of its own for certificates
    except requests.RequestException:
        return False


def is_unreachable_error(error: BaseException) -> bool:
    """Whether this is how MLflow tells that its server is away, or cannot work now."""
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() >= 500)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return bool(error.response.status_code >= 500)
    return isinstance(error, requests.RequestException)


def retry_while_unreachable(work: Callable[[], Any], seconds: float, quiet: bool) -> Any:
    """What work gives; tried again for so many seconds while the server is away. It must bear being done twice."""
    until, told = time.monotonic() + seconds, False
    while True:
        try:
            return work()
        except (MlflowException, requests.RequestException) as error:
            if not is_server() or not is_unreachable_error(error) or time.monotonic() > until:
                raise
            if not told:
                print_line(f"tracking: {mlflow.get_tracking_uri()} does not answer; waiting", quiet)
            told = True
            time.sleep(PAUSES[0])


def log_record(run_id: str, kind: str, body: dict[str, Any], file: Path | None = None) -> None:
    """Tell of a run.

    Args:
        run_id: whose.
        kind: a key of `kinds.KINDS`.
        body: what to tell, as JSON can say it.
        file: that goes with it.
    """
    box = _OPEN.get(run_id)
    if box is None:
        RECORD_HANDLERS[kind](run_id, body, file)
    else:
        box.log_record(kind, body, file)


def start_buffering(run_id: str, quiet: bool) -> None:
    """Keep the record of this open run, where it is on a server, until `end`."""
    if is_server():
        box = RunUploader(RunBuffer(Path(UNSENT_RUNS_FOLDER).resolve() / run_id), quiet)
        box.journal.run = _facts(run_id)
        _OPEN[run_id] = box


def end_run(run_id: str, status: str) -> None:
    """Close the open run in this state; after a good end it waits for its server as long as MLflow for an answer.

    Raises:
        LoupeError: the run came to its end, but its server does not answer: the record is kept.
    """
    box = _OPEN.pop(run_id, None)
    if box is None:
        mlflow.end_run(status)
        return
    finished = status == RunStatus.to_string(RunStatus.FINISHED)
    try:
        if box.all_told_within(MLFLOW_HTTP_REQUEST_TIMEOUT.get() if finished else PROBE):
            mlflow.end_run(status)
            box.journal.remove()
            return
    except (MlflowException, requests.RequestException) as error:
        if not is_unreachable_error(error):
            mlflow.end_run(RunStatus.to_string(RunStatus.FAILED))
            raise
    box.journal.append("end", {"status": status, "end_time": now()})
    with suppress(MlflowException, requests.RequestException), _without_retries():
        mlflow.end_run(status)  # that of this process
    message = f"tracking: {mlflow.get_tracking_uri()} does not answer; run {run_id} is kept in {box.journal.folder}"
    message += ": `loupe sync` brings it in"
    if finished:
        raise LoupeError(message)
    print_line(message, box.quiet)


def upload_buffered_runs(folder: Path, quiet: bool) -> int:
    """Tell the server of the runs whose record was kept in this folder and whose process is gone; gives their number.

    A run that the server does not have any more is made anew there, whole. A folder that no journal wrote stays as
    it is, and a line says so.

    Raises:
        LoupeError: the server does not answer.
    """
    told = 0
    for place in sorted(folder.glob(f"*/{RUN}")):
        with suppress(FileNotFoundError):  # another process was faster
            journal = _readable(place.parent, quiet)
            if journal is None:
                continue
            facts = journal.run
            if facts["tags"].get("loupe.host") == socket.gethostname() and liveness.is_alive(facts["tags"]):
                continue
            if not is_reachable():
                raise LoupeError(f"tracking: {mlflow.get_tracking_uri()} does not answer; {folder} stays as it is")
            run_id = _found_or_made(journal)
            count = len(journal.unsent())
            upload_records(journal)
            if liveness.is_running(run_id):
                liveness.mark_killed(run_id)
            journal.remove()
            told += 1
            if count:
                print_line(f"run {run_id} ({facts['name']}): {count} kept records are told", quiet)
    return told


def _readable(folder: Path, quiet: bool) -> RunBuffer | None:
    """The journal in a folder; None if another process removed it, or, after a line, if it cannot be uploaded."""
    try:
        journal = RunBuffer(folder)
        if not (folder / RUN).exists():
            journal.remove()
            return None
        journal.check()
        unknown = {record.kind for record in journal.unsent()} - RECORD_HANDLERS.keys()
        if unknown:
            raise ValueError(f"no record has the kind {min(unknown)!r}")
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, OSError) as error:
        print_line(f"tracking: {folder} is not uploaded and stays as it is: {describe_error(error)}", quiet)
        return None
    return journal


def upload_records(journal: RunBuffer) -> None:
    """Tell the server all that it does not know yet, in order; what it refuses is not told again."""
    run_id = journal.run["run_id"]
    for record in journal.unsent():
        try:
            RECORD_HANDLERS[record.kind](run_id, record.body, record.file)
        except (MlflowException, requests.RequestException) as error:
            if not is_unreachable_error(error):
                journal.note_told(record.number)
            raise
        journal.note_told(record.number)


class RunUploader:
    """A thread that tells a server what stands in a run's journal, whenever it answers.

    Args:
        journal: of the run.
        quiet: say nothing of a server that does not answer.
    """

    def __init__(self, journal: RunBuffer, quiet: bool) -> None:
        self.journal, self.quiet = journal, quiet
        self._refused: Exception | None = None
        self._news, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def log_record(self, kind: str, body: dict[str, Any], file: Path | None) -> None:
        """Keep it, to be told; raises what the server has said to something that was told before."""
        self.journal.append(kind, body, file)
        self._news.set()
        self._raise_refusal()

    def all_told_within(self, seconds: float) -> bool:
        """Whether the server knows it all, at the latest after so many seconds; nothing is told any more then."""
        until = time.monotonic() + seconds
        while not self.journal.all_told() and time.monotonic() < until:
            self._news.set()
            time.sleep(0.05)
        told = self.journal.all_told()
        self._closing.set()
        self._news.set()
        self._thread.join(PROBE)  # in MLflow's own patience it may stay longer
        self._raise_refusal()
        return told

    def _raise_refusal(self) -> None:
        if self._refused is not None:
            refused, self._refused = self._refused, None
            raise refused

    def _work(self) -> None:
        pause = 0.0
        while not self._closing.is_set():
            self._news.wait()
            self._news.clear()
            try:
                self.journal.prune()
                if not self.journal.all_told() and is_reachable():
                    upload_records(self.journal)
            except Exception as error:
                if not is_unreachable_error(error):
                    self._refused = error
            if self.journal.all_told():
                pause = 0.0
                continue
            if not pause and not is_reachable():
                address = mlflow.get_tracking_uri()
                print_line(f"tracking: {address} does not answer; kept in {self.journal.folder}", self.quiet)
            pause = min(PAUSES[1], max(PAUSES[0], 2 * pause))
            self._closing.wait(pause)
            self._news.set()


def _facts(run_id: str) -> dict[str, Any]:
    """What makes the open run anew on a server that has lost it."""
    run = mlflow.get_run(run_id)
    return {
        "run_id": run_id,
        "experiment": mlflow.get_experiment(run.info.experiment_id).name,
        "name": run.info.run_name,
        "start_time": run.info.start_time,
        "tags": run.data.tags,
        "params": run.data.params,
    }


def _found_or_made(journal: RunBuffer) -> str:
    """The run of a journal on the server, which is made anew where it is not there."""
    create_store()
    facts, client = journal.run, mlflow.MlflowClient()
    run_id = str(facts["run_id"])
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        found = client.get_experiment_by_name(facts["experiment"])
        experiment = found.experiment_id if found else client.create_experiment(facts["experiment"])
        made = client.create_run(experiment, facts["start_time"], facts["tags"], facts["name"])
        run_id = made.info.run_id
        RECORD_HANDLERS["params"](run_id, facts["params"], None)
        journal.note_told(0)
        journal.run = facts | {"run_id": run_id}
    return run_id


@contextmanager
def _without_retries() -> Iterator[None]:
    """MLflow would try for minutes."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
