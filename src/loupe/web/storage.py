"""Limits the number, the size and the age of the files of the demo's visitors: uploads and results."""

import time
from contextlib import suppress
from pathlib import Path

MAX_BYTES, MAX_FILES = 1_000_000_000, 3000
LIFETIME_S = 600.0
MIN_LIFETIME_S = 60.0  # newer files are not deleted, because they may be in use


def delete_old_files(folder: Path, before: float) -> None:
    """Delete the files and the empty folders below a folder that were last changed before the time `before`."""
    for path in sorted(folder.rglob("*"), reverse=True):  # the content of a folder comes before the folder
        with suppress(OSError):  # a folder that is not empty, or a file that Gradio has moved
            if path.stat().st_mtime < before:
                path.rmdir() if path.is_dir() else path.unlink()


def make_room(folder: Path, more_bytes: int) -> bool:
    """Delete the oldest files until a new file fits; return False if the remaining files are too new to delete.

    Args:
        folder: the folder.
        more_bytes: the size of the new file.
    """
    files = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # the file was removed in the meantime
            if path.is_file():
                files.append((path.stat().st_mtime, path.stat().st_size, path))
    files.sort(reverse=True)  # the oldest file is last
    free_bytes, deletable_before = MAX_BYTES - sum(size for _, size, _ in files), time.time() - MIN_LIFETIME_S
    while files and (free_bytes < more_bytes or len(files) >= MAX_FILES):
        changed, size, path = files.pop()
        if changed > deletable_before:
            return False
        path.unlink(missing_ok=True)
        free_bytes += size
    return free_bytes >= more_bytes
