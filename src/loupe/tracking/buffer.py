"""The record of one run in a folder: all that its step tells of it, in order, and how far the server knows it.

A record is a JSON file, beside it the file that it is about, if any. Together they are whole: a server that has lost
the run, or another one, can be told all of it.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN = "run.json"
CHECKPOINT = "checkpoint"
ATTEMPTS = 1000  # to make a folder that others remove


@dataclass(frozen=True)
class Record:
    """One thing that was told of a run: its number, a key of `kinds.KINDS`, what it says, and its file."""

    number: int
    kind: str
    body: dict[str, Any]
    file: Path | None


class Journal:
    """The folder of one run's records; one thread appends, one other may read, note and prune.

    Args:
        folder: is made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _make(folder)
        self._count = max(self._numbers(), default=0)
        self._told = int(self._read("told.json").get("number", 0))

    @property
    def run(self) -> dict[str, Any]:
        """What the run was opened with: id, experiment, name, start, tags, params."""
        return self._read(RUN)

    @run.setter
    def run(self, facts: dict[str, Any]) -> None:
        self._write(RUN, facts)

    def append(self, kind: str, body: dict[str, Any], file: Path | None = None) -> None:
        """Keep a record; a file is copied."""
        number = self._count + 1
        if file is not None:
            copy = self.folder / f"{number:06d}" / file.name
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
        self._write(f"{number:06d}.json", {"kind": kind, "body": body, "file": file.name if file else None})
        self._count = number

    def unsent(self) -> list[Record]:
        """The records that the server does not know, in order."""
        return [self._record(number) for number in self._numbers() if number > self._told]

    def note_told(self, number: int) -> None:
        """Note that the server knows the records up to this one; 0: none."""
        self._told = number
        self._write("told.json", {"number": number})

    def all_told(self) -> bool:
        """Whether the server knows all that was appended."""
        return self._told >= self._count

    def prune(self) -> None:
        """Remove checkpoints that a newer one has replaced, and that nobody is telling of."""
        found = [number for number in self._numbers() if (self.folder / f"{number:06d}").is_dir()]
        old = [number for number in found if self._record(number).kind == CHECKPOINT][:-1]
        for number in old:
            (self.folder / f"{number:06d}.json").unlink()
            shutil.rmtree(self.folder / f"{number:06d}", ignore_errors=True)

    def remove(self) -> None:
        """Away with the folder, and with that of all journals where it was the last."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # it holds others
            self.folder.parent.rmdir()

    def _numbers(self) -> list[int]:
        return sorted(int(file.stem) for file in self.folder.glob("[0-9]*.json"))

    def _record(self, number: int) -> Record:
        kept = self._read(f"{number:06d}.json")
        file = self.folder / f"{number:06d}" / kept["file"] if kept["file"] else None
        return Record(number, kept["kind"], kept["body"], file)

    def _read(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def _write(self, name: str, content: dict[str, Any]) -> None:
        part = self.folder / f"{name}.part"
        part.write_text(json.dumps(content))
        part.rename(self.folder / name)


def _make(folder: Path) -> None:
    """Make a journal's folder, though other processes may remove that of all journals between any two looks at it."""
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError, FileExistsError):
            return folder.mkdir(parents=True, exist_ok=True)
    return folder.mkdir(parents=True, exist_ok=True)
