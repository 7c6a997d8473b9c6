"""Buffers the records of one run (metrics, tags, files) in an SQLite file until the tracking server has all of them.

Until then, the file also keeps sent records, except old checkpoints, so that `loupe sync` can upload the whole run to
another server.
"""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loupe.errors import LoupeError
from loupe.imaging.file_locks import lock_file

SUFFIX = ".run.sqlite"
APPLICATION_ID = 0x4C6F7570  # "Loup" in ASCII: the application_id in the SQLite header of a buffer
# Record 0 describes the run.
TABLE = """
CREATE TABLE IF NOT EXISTS records (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, body TEXT NOT NULL, file_name TEXT, content BLOB
)
"""
LOCK_TIMEOUT_S = 60.0  # maximum wait for a locked SQLite database
MAX_LOCK_FILE_ATTEMPTS = 1000  # an attempt fails if another process removes the folder at the same time


@dataclass(frozen=True)
class Record:
    """One record of a run, such as metrics or a file.

    Args:
        number: the number of the record in the run, from 1; numbers of deleted records are not used again.
        kind: a key of `record_handlers.RECORD_HANDLERS`.
        body: the arguments of the handler.
        file_name: the name of the logged file, or None.
    """

    number: int
    kind: str
    body: dict[str, Any]
    file_name: str | None


def lock_buffer(file: Path, wait: bool = True) -> AbstractContextManager[bool]:
    """Lock a buffer; see `lock_file`."""
    return lock_file(file.with_name(f"{file.name}.lock"), wait)


class RunBuffer:
    """The records of a run. One thread may append records while another sends them.

    Args:
        file: a file that `create` wrote.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a run buffer, is damaged, or cannot be read.
    """

    def __init__(self, file: Path) -> None:
        if not file.exists():
            raise FileNotFoundError(file)
        self.file = file
        self._lock = ExitStack()
        try:
            # Threads can share the connection: each transaction is a single statement.
            self._database = sqlite3.connect(file, LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            if self._execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
                raise ValueError(f"{file.name} is not a run buffer")
            # Refuse damaged records and a damaged description now.
            self.list_unsent()
            self.description  # noqa: B018
        except (sqlite3.DatabaseError, OSError) as error:
            raise ValueError(str(error)) from None

    @classmethod
    def create(cls, file: Path, description: dict[str, Any]) -> "RunBuffer":
        """Lock the buffer of a run until `close`, create the file if it does not exist, and write the description.

        Args:
            file: the path, which ends in SUFFIX.
            description: run_id, experiment, name, start_time, tags and params of the run.

        Raises:
            OSError: the file cannot be written.
            LoupeError: the file exists, and its records are damaged.
        """
        lock = ExitStack()
        for attempt in range(MAX_LOCK_FILE_ATTEMPTS):
            with suppress(FileNotFoundError, FileExistsError):
                file.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.enter_context(lock_buffer(file))
                break
            except FileNotFoundError:
                if attempt == MAX_LOCK_FILE_ATTEMPTS - 1:
                    raise
        try:
            with closing(sqlite3.connect(file, LOCK_TIMEOUT_S, isolation_level=None)) as database:
                # After a crash, the file contains the table and record 0, or neither.
                database.execute("BEGIN IMMEDIATE")
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                database.execute(TABLE)
                row = [json.dumps(description)]
                database.execute("INSERT OR REPLACE INTO records (number, kind, body) VALUES (0, 'run', ?)", row)
                database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise OSError(f"{file}: {error}") from None
        try:
            buffer = cls(file)
        except ValueError as error:
            lock.close()
            raise LoupeError(f"tracking: {file} is damaged ({error}); move it to another folder") from None
        buffer._lock = lock
        return buffer

    @property
    def description(self) -> dict[str, Any]:
        """The description of the run; see `create`.

        Raises:
            ValueError: record 0 is missing or damaged.
        """
        row = self._execute("SELECT body FROM records WHERE number = 0").fetchone()
        if row is None:
            raise ValueError(f"{self.file.name} does not describe a run")
        return _parse_object(row[0])

    def describe(self, description: dict[str, Any]) -> None:
        """Replace the description of the run."""
        self._execute("UPDATE records SET body = ? WHERE number = 0", json.dumps(description))

    def append(self, kind: str, body: dict[str, Any], file: Path | None = None) -> None:
        """Add a record, and a copy of `file` if it is not None."""
        self._execute(
            "INSERT INTO records (kind, body, file_name, content) VALUES (?, ?, ?, ?)",
            *(kind, json.dumps(body), file.name if file else None, file.read_bytes() if file else None),
        )

    def list_unsent(self) -> list[Record]:
        """Return the records that are not marked as sent, in the order of their numbers."""
        rows = self._execute(
            "SELECT number, kind, body, file_name FROM records WHERE number > ? ORDER BY number",
            self.sent_number,
        )
        return [Record(number, kind, _parse_object(body), name) for number, kind, body, name in rows]

    @contextmanager
    def extract_file(self, record: Record) -> Iterator[Path | None]:
        """Yield a temporary copy of the record's file under the same name, or None if the record has no file."""
        if record.file_name is None:
            yield None
            return
        row = self._execute("SELECT content FROM records WHERE number = ?", record.number).fetchone()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(record.file_name).name
            file.write_bytes(row[0])
            yield file

    def mark_sent(self, number: int) -> None:
        """Mark the records up to this number as sent."""
        # The number is in the header of the database. A column that marks sent records would be slow, because SQLite
        # would rewrite whole rows, with the content of files.
        self._execute(f"PRAGMA user_version = {number}")

    def is_sent(self) -> bool:
        """Return whether all records are marked as sent."""
        (last,) = self._execute("SELECT max(number) FROM records").fetchone()
        return bool(last <= self.sent_number)

    def delete_old_checkpoints(self) -> None:
        """Delete all checkpoints except for the newest.

        Only the thread that sends records may call this method: another thread could delete a record that is being
        sent.
        """
        self._execute(
            "DELETE FROM records WHERE kind = 'checkpoint' AND number < "
            "(SELECT max(number) FROM records WHERE kind = 'checkpoint')"
        )

    def remove(self) -> None:
        """Delete the file, close the buffer, and delete the folder if it is empty."""
        self.file.unlink(missing_ok=True)
        self.close()
        with suppress(OSError):  # the folder is not empty
            self.file.parent.rmdir()

    def close(self) -> None:
        """Close the file and release its lock."""
        self._database.close()
        self._lock.close()

    @property
    def sent_number(self) -> int:
        """The number of the last record that is marked as sent."""
        return int(self._execute("PRAGMA user_version").fetchone()[0])

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.DatabaseError as error:
            raise OSError(f"{self.file}: {error}") from None


def _parse_object(text: Any) -> dict[str, Any]:
    """Parse the JSON object of a record; raise ValueError for other values."""
    try:
        value = json.loads(text)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(value, dict):
        raise ValueError(f"body: must be a JSON object, got {text[:40]!r}")
    return value
