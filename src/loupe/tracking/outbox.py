"""What is told of a run reaches MLflow at once, or, where its server does not answer, as soon as it does.

The record of a run on a server is kept in a folder while it is open (`journal`), so that a server that is away for a
while costs nothing, and one that is away for good nothing but `loupe sync` later. A store in a file needs none of it.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException

from loupe.config import UNSENT
from loupe.errors import LoupeError
from loupe.progress import say
from loupe.tracking import owners
from loupe.tracking.journal import RUN, Journal
from loupe.tracking.kinds import KINDS, now

PATIENCE = 120.0  # seconds that the end of a run waits for its server
PAUSES = (1.0, 30.0)  # seconds between looks at a server that does not answer: the first, the longest
PROBE = 5.0  # seconds in which a server must answer a look
_OPEN: dict[str, "Outbox"] = {}


def is_server() -> bool:
    """Whether runs go to a server, which may be away; else to a file or database."""
    return mlflow.get_tracking_uri().startswith(("http://", "https://"))


def answers() -> bool:
    """Whether the server answers now; a store that is no server always does."""
    if not is_server():
        return True
    try:
        return requests.get(f"{mlflow.get_tracking_uri().rstrip('/')}/health", timeout=PROBE).status_code < 500
    except requests.exceptions.SSLError:
        return True  # MLflow has settings of its own for certificates
    except requests.RequestException:
        return False


def is_absence(error: BaseException) -> bool:
    """Whether this is how MLflow tells that its server is away, or cannot work now."""
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() >= 500)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return bool(error.response.status_code >= 500)
    return isinstance(error, requests.RequestException)


def patiently(work: Callable[[], Any], seconds: float, quiet: bool) -> Any:
    """What work gives; tried again for so many seconds while the server is away. It must bear being done twice."""
    until, told = time.monotonic() + seconds, False
    while True:
        try:
            return work()
        except (MlflowException, requests.RequestException) as error:
            if not is_server() or not is_absence(error) or time.monotonic() > until:
                raise
            if not told:
                say(f"tracking: {mlflow.get_tracking_uri()} does not answer; waiting", quiet)
            told = True
            time.sleep(PAUSES[0])


def tell(run_id: str, kind: str, body: dict[str, Any], file: Path | None = None) -> None:
    """Tell of a run.

    Args:
        run_id: whose.
        kind: a key of `kinds.KINDS`.
        body: what to tell, as JSON can say it.
        file: that goes with it.
    """
    box = _OPEN.get(run_id)
    if box is None:
        KINDS[kind](run_id, body, file)
    else:
        box.tell(kind, body, file)


def start(run_id: str, quiet: bool) -> None:
    """Keep the record of this open run, where it is on a server, until `end`."""
    if is_server():
        box = Outbox(Journal(Path(UNSENT).resolve() / run_id), quiet)
        box.journal.run = _facts(run_id)
        _OPEN[run_id] = box


def end(run_id: str, status: str) -> None:
    """Close the open run in this state.

    Raises:
        LoupeError: the run came to its end, but its server does not answer: the record is kept.
    """
    box = _OPEN.pop(run_id, None)
    if box is None:
        mlflow.end_run(status)
        return
    finished = status == RunStatus.to_string(RunStatus.FINISHED)
    told = box.all_told_within(PATIENCE if finished else 0.0)
    if told:
        try:
            mlflow.end_run(status)
            box.journal.remove()
            return
        except (MlflowException, requests.RequestException) as error:
            if not is_absence(error):
                raise
    box.journal.append("end", {"status": status, "end_time": now()})
    with suppress(MlflowException, requests.RequestException), _without_retries():
        mlflow.end_run(status)  # that of this process
    message = f"tracking: {mlflow.get_tracking_uri()} does not answer; run {run_id} is kept in {box.journal.folder}"
    message += ": `loupe sync` brings it in"
    if finished:
        raise LoupeError(message)
    say(message, box.quiet)


def bring_in(folder: Path, quiet: bool) -> int:
    """Tell the server of the runs whose record was kept in this folder and whose process is gone; gives their number.

    A run that the server does not have any more is made anew there, whole.

    Raises:
        LoupeError: the server does not answer.
    """
    told = 0
    for place in sorted(folder.glob(f"*/{RUN}")):
        with suppress(FileNotFoundError):  # another process was faster
            journal = Journal(place.parent)
            facts = journal.run
            if facts["tags"].get("loupe.host") == socket.gethostname() and owners.is_alive(facts["tags"]):
                continue
            if not answers():
                raise LoupeError(f"tracking: {mlflow.get_tracking_uri()} does not answer; {folder} stays as it is")
            run_id = _found_or_made(journal)
            count = len(journal.unsent())
            Outbox(journal, quiet).send()
            if owners.is_open(run_id):
                owners.kill(run_id)
            journal.remove()
            told += 1
            if count:
                say(f"run {run_id} ({facts['name']}): {count} kept records are told", quiet)
    return told


class Outbox:
    """Tells a server what stands in a run's journal, whenever it answers.

    Args:
        journal: of the run.
        quiet: say nothing of a server that does not answer.
    """

    def __init__(self, journal: Journal, quiet: bool) -> None:
        self.journal, self.quiet = journal, quiet
        self._pause, self._next = 0.0, 0.0

    def tell(self, kind: str, body: dict[str, Any], file: Path | None) -> None:
        """Keep it, and tell all that is kept, if the server answers."""
        self.journal.append(kind, body, file)
        if time.monotonic() >= self._next:
            self.try_to_send()

    def try_to_send(self) -> bool:
        """Tell all that is kept; False where the server does not answer: then it is left alone for a while."""
        try:
            if answers():
                self.send()
                self._pause = 0.0
                return True
        except (MlflowException, requests.RequestException) as error:
            if not is_absence(error):
                raise
        if not self._pause:
            say(f"tracking: {mlflow.get_tracking_uri()} does not answer; kept in {self.journal.folder}", self.quiet)
        self._pause = min(PAUSES[1], max(PAUSES[0], 2 * self._pause))
        self._next = time.monotonic() + self._pause
        return False

    def send(self) -> None:
        """Tell all that is kept, in order; what the server refuses is not told again."""
        run_id = self.journal.run["run_id"]
        for record in self.journal.unsent():
            try:
                KINDS[record.kind](run_id, record.body, record.file)
            except (MlflowException, requests.RequestException) as error:
                if not is_absence(error):
                    self.journal.note_told(record)
                raise
            self.journal.note_told(record)
        self.journal.note_all_told()

    def all_told_within(self, seconds: float) -> bool:
        """Whether the server knows it all, at the latest after so many seconds."""
        until = time.monotonic() + seconds
        while self.journal.unsent() and not self.try_to_send():
            if time.monotonic() >= until:
                return False
            time.sleep(PAUSES[0])
        return True


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


def _found_or_made(journal: Journal) -> str:
    """The run of a journal on the server, which is made anew where it is not there."""
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
        KINDS["params"](run_id, facts["params"], None)
        journal.note_none_told()
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
