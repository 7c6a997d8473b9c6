"""The record of one run in a folder: all that its step tells of it, in order, and how far the server knows it.

A record is a JSON file, beside it the file that it is about, if any. It is whole: a server that has lost the run, or
another one, can be told all of it.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN, TOLD, PART = "run.json", ".told", ".part"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Record:
    """One thing that was told of a run."""

    kind: str  # a key of `telling.KINDS`
    body: dict[str, Any]
    file: Path | None
    place: Path  # of its JSON

    def is_told(self) -> bool:
        """Whether the server knows it."""
        return self.place.with_suffix(TOLD).exists()


class Journal:
    """The folder of one run's records.

    Args:
        folder: is made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._count = max((int(file.stem) for file in folder.glob("[0-9]*.json")), default=0)
        self._unsent = not all(record.is_told() for record in self.records())

    @property
    def run(self) -> dict[str, Any]:
        """What the run was opened with: id, store, experiment, name, start, tags, params; {} before it is set."""
        file = self.folder / RUN
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    @run.setter
    def run(self, facts: dict[str, Any]) -> None:
        self._write(self.folder / RUN, facts)

    def append(self, kind: str, body: dict[str, Any], file: Path | None = None) -> None:
        """Keep a record; a file is copied. Of checkpoints, the newest makes room for itself."""
        self._count += 1
        place = self.folder / f"{self._count:06d}.json"
        if file is not None:
            copy = place.with_suffix("") / file.name
            copy.parent.mkdir()
            shutil.copyfile(file, copy)
        older = [record for record in self.records() if record.kind == CHECKPOINT] if kind == CHECKPOINT else []
        self._write(place, {"kind": kind, "body": body, "file": file.name if file else None})
        self._unsent = True
        for record in older:
            record.place.unlink()
            shutil.rmtree(record.place.with_suffix(""), ignore_errors=True)
            record.place.with_suffix(TOLD).unlink(missing_ok=True)

    def records(self) -> Iterator[Record]:
        """All of them, in order."""
        for place in sorted(self.folder.glob("[0-9]*.json")):
            kept = json.loads(place.read_text())
            file = place.with_suffix("") / kept["file"] if kept["file"] else None
            yield Record(kept["kind"], kept["body"], file, place)

    def unsent(self) -> list[Record]:
        """Those that the server does not know, in order."""
        return [record for record in self.records() if not record.is_told()] if self._unsent else []

    def note_told(self, record: Record) -> None:
        """Note that the server knows this record."""
        record.place.with_suffix(TOLD).touch()

    def note_all_told(self) -> None:
        """Note that the server knows them all: nobody need look."""
        self._unsent = False

    def note_none_told(self) -> None:
        """Note that the server has lost them all."""
        self._unsent = True
        for record in self.records():
            record.place.with_suffix(TOLD).unlink(missing_ok=True)

    def remove(self) -> None:
        """The server knows it all: away with the folder, and with that of all journals where it was the last."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()

    @staticmethod
    def _write(place: Path, content: dict[str, Any]) -> None:
        part = place.with_suffix(PART)
        part.write_text(json.dumps(content))
        part.rename(place)
