"""Opens the storage of an Optuna study (a database or a journal file), and repairs the journal of a killed sweep."""

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

from loupe.errors import UsageError, describe_error

WRITE_TIMEOUT_S = 2.0  # the workers of a killed sweep exit within this time
LOCK_TIMEOUT_S = 60.0  # how long to wait for a SQLite database that another worker has locked
RETRY_TIMEOUT_S = 120.0  # long enough for the restart of a database
RETRY_INTERVAL_S = 1.0
JOURNAL_START = b'{"op_code":0,"worker_id":"'  # the start of the first record, which creates a study
BLOCK_BYTES = 65536
T = TypeVar("T")


def open_storage(location: str, timeout: float = 0.0) -> BaseStorage:
    """Open an Optuna storage.

    Args:
        location: the URL of a database, or the path of a journal file.
        timeout: seconds to wait for an unreachable database.

    Raises:
        UsageError: the storage cannot be opened, or the file is not a journal.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if "://" not in location:
            check_journal(Path(location))
            Path(location).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(location))
        if not location.startswith("sqlite"):  # the ping replaces connections that a restart has closed
            return retry_database(lambda: RDBStorage(location, {"pool_pre_ping": True}), timeout)
        storage = RDBStorage(location, {"connect_args": {"timeout": LOCK_TIMEOUT_S}})
        event.listen(storage.engine, "begin", _lock_database)
        return storage
    except UsageError:
        raise
    except Exception as error:  # each database driver has its own exceptions
        raise UsageError(f"storage: {location!r} cannot be opened: {describe_error(error, location)}") from None


def retry_database(work: Callable[[], T], timeout: float = RETRY_TIMEOUT_S) -> T:
    """Call a function, repeat the call until the database answers, and return the result.

    Args:
        work: the function; it must be idempotent.
        timeout: seconds until the exception of the database is raised.
    """
    until = time.monotonic() + timeout
    while True:
        try:
            return work()
        except (StorageInternalError, OperationalError):
            if time.monotonic() > until:
                raise
            time.sleep(RETRY_INTERVAL_S)


def _lock_database(connection: Connection) -> None:
    """Lock SQLite, which has no SELECT … FOR UPDATE, so that Optuna assigns each trial to one worker only."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def check_journal(file: Path, lines: int | None = 1) -> None:
    """Check that a file is an Optuna journal, is empty, or does not exist. The file is not changed.

    Args:
        file: any path.
        lines: the number of lines to check; None checks all lines. An incomplete last line is accepted, because
            a killed process can leave one.

    Raises:
        UsageError: the file is not a journal.
    """
    if not file.is_file():
        return
    with file.open("rb") as stream:
        is_journal = JOURNAL_START.startswith(stream.read(len(JOURNAL_START)))
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


def remove_incomplete_line(journal: Path) -> None:
    """Remove the incomplete last line of a journal, unless a running process completes it.

    Raises:
        UsageError: the file is not a journal; it is not changed.
    """
    check_journal(journal)
    if _count_incomplete_bytes(journal):
        check_journal(journal, lines=None)
        time.sleep(WRITE_TIMEOUT_S)
        incomplete = _count_incomplete_bytes(journal)
        if incomplete:
            os.truncate(journal, journal.stat().st_size - incomplete)


def _count_incomplete_bytes(file: Path) -> int:
    """Return the number of bytes after the last newline of a file; 0 for a missing file."""
    if not file.exists():
        return 0
    size = end = file.stat().st_size
    with file.open("rb") as stream:
        while end:
            start = max(0, end - BLOCK_BYTES)
            stream.seek(start)
            position = stream.read(end - start).rfind(b"\n")
            if position >= 0:
                return size - (start + position + 1)
            end = start
    return size
