"""Limits the number, size and age of the files of the demo's visitors."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MAX_BYTES, MAX_FILES = 1_000_000_000, 3000
LIFETIME_S = 600.0
MIN_LIFETIME_S = 60.0  # newer files may be in use


def delete_old_files(folder: Path, before: float) -> None:
    """Delete files and empty folders that were last changed before a time (seconds, as in `time.time`)."""
    for path in _walk(folder):
        with suppress(OSError):  # the folder is not empty, or the path was moved
            if path.stat().st_mtime < before:
                path.rmdir() if path.is_dir() else path.unlink()


def make_room(folder: Path, more_bytes: int) -> bool:
    """Delete the oldest files until MAX_BYTES and MAX_FILES allow one more file of `more_bytes` bytes.

    Files that are newer than MIN_LIFETIME_S are not deleted.

    Returns:
        Whether the limits allow the file.
    """
    files = []
    for path in _walk(folder):
        with suppress(OSError):
            if path.is_file():
                files.append((path.stat().st_mtime, path.stat().st_size, path))
    files.sort(reverse=True)
    free_bytes, deletable_before = MAX_BYTES - sum(size for _, size, _ in files), time.time() - MIN_LIFETIME_S
    while files and (free_bytes < more_bytes or len(files) >= MAX_FILES):
        changed, size, path = files.pop()
        if changed > deletable_before:
            return False
        path.unlink(missing_ok=True)
        free_bytes += size
    return free_bytes >= more_bytes


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files and folders in a folder, the content of each folder before the folder.

    `Path.rglob` of Python 3.11 fails if another thread deletes a folder at the same time.
    """
    for parent, folders, files in os.walk(folder, topdown=False):
        yield from (Path(parent, name) for name in (*files, *folders))
