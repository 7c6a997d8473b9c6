"""Where studies are kept: a database that several workers may share, or a journal file that was cut by a kill."""

import json
import os
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from loupe.config.fields import hide_password
from loupe.errors import UsageError

WRITING = 2.0  # seconds in which the workers of a dead sweep notice, and end
LOCKED = 60.0  # seconds that a worker waits for the others' turns at a SQLite database
AWAY = 120.0  # seconds that a sweep which is under way waits for a database that is being restarted
JOURNAL = b'{"op_code":0,"worker_id":"'  # the first bytes of a journal, whose first record creates a study
T = TypeVar("T")


def opened(where: str, patience: float = 0.0) -> BaseStorage:
    """Open an Optuna storage: a database by its URL, anything else is a journal file.

    Args:
        where: the URL or file.
        patience: seconds in which a database that is away may come back.

    Raises:
        UsageError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if "://" in where:
            if not where.startswith("sqlite"):  # a connection that a restart has cut is noticed before it is used
                return patiently(lambda: RDBStorage(where, {"pool_pre_ping": True}), patience)
            storage = RDBStorage(where, {"connect_args": {"timeout": LOCKED}})
            event.listen(storage.engine, "begin", _lock)
            return storage
        check_journal(Path(where))
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(where))
    except UsageError:
        raise
    except Exception as error:  # of any database's driver
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(hide_password(f"storage: {where!r} cannot be opened: {why}")) from None


def patiently(work: Callable[[], T], seconds: float = AWAY) -> T:
    """What work gives; tried again for so many seconds while its database is away. It must bear being done twice."""
    until = time.monotonic() + seconds
    while True:
        try:
            return work()
        except (StorageInternalError, OperationalError):
            if time.monotonic() > until:
                raise
            time.sleep(1.0)


def _lock(connection: Connection) -> None:
    """SQLite knows no SELECT … FOR UPDATE, by which Optuna gives a waiting trial to one worker alone."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def check_journal(file: Path, lines: int | None = 1) -> None:
    """Check that a file is an Optuna journal, empty or missing; the file is only read.

    Args:
        file: of any kind.
        lines: the number of lines to check after the first bytes; None checks all lines. An incomplete last
            line is accepted: a kill leaves one.

    Raises:
        UsageError: it is another file.
    """
    if not file.is_file():
        return
    with file.open("rb") as stream:
        is_journal = JOURNAL.startswith(stream.read(len(JOURNAL)))
        stream.seek(0)
        if is_journal and all(_is_record(line) for line in islice(stream, lines) if line.endswith(b"\n")):
            return
    raise UsageError(f"storage: must be an Optuna journal, a new file or a database URL, got {str(file)!r}")


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and {"op_code", "worker_id"} <= record.keys()


def cut_half_line(journal: Path) -> None:
    """Cut the incomplete last line of a journal, unless a process still writes it.

    Raises:
        UsageError: the file is not a journal; it stays as it is.
    """
    check_journal(journal)
    if _behind_newline(journal):
        check_journal(journal, lines=None)
        time.sleep(WRITING)
        half = _behind_newline(journal)
        if half:
            os.truncate(journal, journal.stat().st_size - half)


def _behind_newline(file: Path) -> int:
    """How many bytes stand behind the last newline of a file; of one that does not exist, 0."""
    if not file.exists():
        return 0
    size = end = file.stat().st_size
    with file.open("rb") as stream:
        while end:
            start = max(0, end - 65536)
            stream.seek(start)
            found = stream.read(end - start).rfind(b"\n")
            if found >= 0:
                return size - (start + found + 1)
            end = start
    return size
