"""The record of one run in a folder: all that its step tells of it, in order, and how far the server knows it.

A record is a JSON file, beside it the file that it is about, if any. Together they are whole: a server that has lost
the run, or another one, can be told all of it.
"""

import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN, TOLD = "run.json", "told.json"
FACTS = {"run_id": str, "experiment": str, "name": str, "start_time": int, "tags": dict, "params": dict}
RECORD = re.compile(r"(\d{6}|[1-9]\d{6,})\.json(\.part)?")
CHECKPOINT = "checkpoint"
ATTEMPTS = 1000  # to make a folder that others remove


@dataclass(frozen=True)
class Record:
    """One thing that was told of a run: its number, a key of `kinds.KINDS`, what it says, and its file."""

    number: int
    kind: str
    body: dict[str, Any]
    file: Path | None


class RunBuffer:
    """The folder of one run's records; one thread appends, one other may read, note and prune.

    Args:
        folder: is made where it does not exist.

    Raises:
        ValueError: the folder has a file of this name that a journal does not write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _make(folder)
        self._count = max(self._numbers(), default=0)
        self._told = int(_read(folder / TOLD).get("number", 0))

    @property
    def run(self) -> dict[str, Any]:
        """What the run was opened with: id, experiment, name, start, tags, params."""
        return _read(self.folder / RUN)

    @run.setter
    def run(self, facts: dict[str, Any]) -> None:
        self._write(RUN, facts)

    def check(self) -> None:
        """Check that a process can upload the run from this folder.

        Raises:
            ValueError: a fact of the run is missing, or a record cannot be read.
        """
        facts = self.run
        for name, kind in FACTS.items():
            if not isinstance(facts.get(name), kind):
                raise ValueError(f"{RUN}: {name} must be of type {kind.__name__}, got {facts.get(name)!r}")
        self.unsent()

    def append(self, kind: str, body: dict[str, Any], file: Path | None = None) -> None:
        """Keep a record; a file is copied."""
        name = f"{self._count + 1:06d}"
        part = self._write_part(f"{name}.json", {"kind": kind, "body": body, "file": file.name if file else None})
        if file is not None:  # after the part, by which `remove` finds the copy if the process is killed here
            copy = self.folder / name / file.name
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
        part.rename(part.with_suffix(""))
        self._count += 1

    def unsent(self) -> list[Record]:
        """The records that the server does not know, in order."""
        return [self._record(number) for number in self._numbers() if number > self._told]

    def note_told(self, number: int) -> None:
        """Note that the server knows the records up to this one; 0: none."""
        self._told = number
        self._write(TOLD, {"number": number})

    def all_told(self) -> bool:
        """Whether the server knows all that was appended."""
        return self._told >= self._count

    def prune(self) -> None:
        """Remove checkpoints that a newer one has replaced, and that nobody is telling of."""
        found = [number for number in self._numbers() if (self.folder / f"{number:06d}").is_dir()]
        old = [number for number in found if self._record(number).kind == CHECKPOINT][:-1]
        for number in old:
            record = self.folder / f"{number:06d}.json"
            self._remove_record(record.rename(f"{record}.part"))

    def remove(self) -> None:
        """Delete the files that a journal writes, then the folders that are empty; all other files stay."""
        for record in filter(_is_record, self.folder.glob("*")):
            self._remove_record(record)
        for name in (TOLD, f"{TOLD}.part", f"{RUN}.part", RUN):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self.folder.rmdir()
            self.folder.parent.rmdir()

    def _remove_record(self, record: Path) -> None:
        """Delete the copy that a record, or the part of one, names; then the record."""
        try:
            file = self._parse(record).file
        except FileNotFoundError:  # another process removes it too
            return
        except ValueError:
            if record.suffix != ".part":  # not of a journal
                return
            file = None  # the process was killed while it wrote the part, before it made the copy
        if file is not None:
            file.unlink(missing_ok=True)
            with suppress(OSError):  # not empty, or the copy was not made
                file.parent.rmdir()
        record.unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        return sorted(int(file.stem) for file in self.folder.glob("*.json") if _is_record(file))

    def _record(self, number: int) -> Record:
        return self._parse(self.folder / f"{number:06d}.json")

    def _parse(self, record: Path) -> Record:
        """Read a record or a part of one; raises ValueError where a journal does not write such a file."""
        number, kept = record.name.partition(".")[0], json.loads(record.read_text())
        match kept:
            case {"kind": str(kind), "body": dict(body), "file": None}:
                return Record(int(number), kind, body, None)
            case {"kind": str(kind), "body": dict(body), "file": str(name)} if _is_plain(name):
                return Record(int(number), kind, body, self.folder / number / name)
        raise ValueError(f"{record.name} is not a record")

    def _write(self, name: str, content: dict[str, Any]) -> None:
        part = self._write_part(name, content)
        part.rename(part.with_suffix(""))

    def _write_part(self, name: str, content: dict[str, Any]) -> Path:
        part = self.folder / f"{name}.part"
        part.write_text(json.dumps(content))
        return part


def _is_record(file: Path) -> bool:
    return RECORD.fullmatch(file.name) is not None


def _is_plain(name: str) -> bool:
    return name not in ("", "..") and Path(name).name == name


def _read(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text()) if file.exists() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is not a JSON object")
    return found


def _make(folder: Path) -> None:
    """Make a journal's folder, though other processes may remove that of all journals between any two looks at it."""
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError, FileExistsError):
            return folder.mkdir(parents=True, exist_ok=True)
    return folder.mkdir(parents=True, exist_ok=True)
