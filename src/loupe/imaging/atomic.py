"""Files that get their final name only when they are complete."""

import glob
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loupe.errors import UsageError


@contextmanager
def write_atomically(file: Path) -> Iterator[Path]:
    """A name in the same folder that nobody else writes to, renamed to `file` at the end, or removed."""
    partial = file.with_name(f".loupe-{os.getpid()}-{threading.get_ident()}-{socket.gethostname()}.part")
    try:
        yield partial
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


def validate_output_file(field: str, file: Path) -> None:
    """Refuse an output file if its folder does not exist or if it is a folder.

    Raises:
        UsageError: with the name of the setting.
    """
    if not file.resolve().parent.is_dir():
        raise UsageError(f"{field}: must be in a folder that exists, got {str(file)!r}")
    if file.is_dir():
        raise UsageError(f"{field}: must be a file, got the folder {str(file)!r}")


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that are dead began to write in a folder."""
    for partial in folder.glob(f".loupe-*-*-{glob.escape(socket.gethostname())}.part"):
        try:
            os.kill(int(partial.name.split("-")[1]), 0)
        except (ProcessLookupError, ValueError):
            partial.unlink(missing_ok=True)
        except OSError:
            pass  # alive, and another user's
