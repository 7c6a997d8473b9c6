"""Opens the storage of an Optuna study (a database or a journal file), and repairs a journal."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from loupe.errors import UsageError, describe_error

LOCK_TIMEOUT_S = 60.0  # maximum wait for a locked SQLite database
RETRY_TIMEOUT_S = 120.0  # maximum wait for an unreachable database, such as during a restart
RETRY_INTERVAL_S = 1.0
JOURNAL_START = b'{"op_code":0,"worker_id":"'  # start of the first record, which creates a study
MAX_FIRST_LINE_BYTES = 65536
MAX_NAME_BYTES = 200  # the name of Optuna's lock file is up to 48 bytes longer
Result = TypeVar("Result")


def open_storage(location: str, timeout: float = 0.0) -> BaseStorage:
    """Open an Optuna storage.

    Args:
        location: the URL of a database, or the path of a journal file.
        timeout: maximum wait in seconds for an unreachable database that is not an SQLite file.

    Raises:
        UsageError: the storage cannot be opened, or `check_journal` refuses the file.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if "://" not in location:
            check_journal(Path(location))
            Path(location).parent.mkdir(parents=True, exist_ok=True)
            # Optuna's lock is a symbolic link to the path that Optuna gets. A link to a relative path can be broken,
            # and Optuna does not remove a broken link of a killed process.
            return JournalStorage(JournalFileBackend(os.path.abspath(location)))
        if not location.startswith("sqlite"):
            # `pool_pre_ping` replaces connections that a restart of the database has closed.
            return retry_database(lambda: RDBStorage(location, {"pool_pre_ping": True}), timeout)
        storage = RDBStorage(location, {"connect_args": {"timeout": LOCK_TIMEOUT_S}})
        event.listen(storage.engine, "begin", _lock_database)
        return storage
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"storage: {location!r} cannot be opened: {describe_error(error, location)}") from None


def retry_database(work: Callable[[], Result], timeout: float = RETRY_TIMEOUT_S) -> Result:
    """Call an idempotent function until the database answers, and return its result.

    After `timeout` seconds, raise the error of the last call.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return work()
        except (StorageInternalError, OperationalError):
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_INTERVAL_S)


def _lock_database(connection: Connection) -> None:
    """Lock the SQLite database at the start of a transaction, so that Optuna assigns each trial to one worker."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def check_journal(file: Path) -> None:
    """Raise UsageError if a file is not an Optuna journal, or its name is too long.

    Only the first line is checked. Empty and missing files are valid; folders are not checked.
    """
    if len(os.fsencode(file.name)) > MAX_NAME_BYTES:
        raise UsageError(f"storage: must have a file name of at most {MAX_NAME_BYTES} bytes, got {file.name!r}")
    is_other = file.exists() and not file.is_dir() and not file.is_file()  # opening a FIFO would block
    if file.is_file():
        with file.open("rb") as stream:
            first_line = stream.readline(MAX_FIRST_LINE_BYTES)
        is_other = not JOURNAL_START.startswith(first_line[: len(JOURNAL_START)]) or (
            first_line.endswith(b"\n") and not _is_record(first_line)
        )
    if is_other:
        raise UsageError(f"storage: must be an Optuna journal, a new file or a database URL, got {str(file)!r}")


def repair_journal(journal: Path) -> None:
    """Remove the unreadable end of a journal, which a killed process or a power loss can cause.

    Optuna cannot read records after an unreadable line. Optuna's lock makes this function wait for a process that
    writes a record. The lock of a killed process ends after 30 s.

    Raises:
        UsageError: `check_journal` refuses the file, or a complete line follows an unreadable line. The file then
            does not change.
    """
    check_journal(journal)
    if journal.is_file() and _find_end(journal) < journal.stat().st_size:
        lock = JournalFileSymlinkLock(os.path.abspath(journal))
        lock.acquire()
        try:
            os.truncate(journal, _find_end(journal))
        finally:
            lock.release()


def _find_end(journal: Path) -> int:
    """Return the position in bytes after the last record of a journal.

    One unreadable line may follow the record, and then one line without a line break.

    Raises:
        UsageError: a complete line follows an unreadable line.
    """
    end, unreadable = 0, 0
    with journal.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                break
            if unreadable:
                raise UsageError(
                    f"storage: must be an undamaged Optuna journal, got {str(journal)!r}, whose line {unreadable} is "
                    "not a record; restore a copy, or give another file"
                )
            if _is_record(line):
                end += len(line)
            else:
                unreadable = number
    return end


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(record, dict)
        and isinstance(record.get("op_code"), int)
        and isinstance(record.get("worker_id"), str)
    )
