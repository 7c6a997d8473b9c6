"""Writes files atomically: a file has its final name only when it is complete. All files are written through here."""

import errno
import glob
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loupe.errors import UsageError


@contextmanager
def write_atomically(file: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `file` on success, remove it on failure."""
    partial = file.with_name(f".loupe-{os.getpid()}-{secrets.token_hex(4)}-{socket.gethostname()}.part")
    try:
        yield partial
        publish(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def write_file(file: Path, content: str | bytes) -> None:
    """Write a file atomically; text as UTF-8, with `?` for bytes of file names that are not text."""
    with write_atomically(file) as partial:
        partial.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)


def publish(partial: Path, final: Path) -> None:
    """Give a complete file or folder its final name. Both the content and the name survive a power failure."""
    _sync(partial)  # the content must be on the disk before the file has its final name
    partial.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # Some network file systems cannot flush a folder, and a folder may be writable without being readable.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def validate_output_file(field: str, file: Path) -> None:
    """Check that a file can be written: its folder exists, and it is not a folder itself.

    Args:
        field: the setting that names the file, for the error.
        file: the file.

    Raises:
        UsageError: the file cannot be written.
    """
    if not file.resolve().parent.is_dir():
        raise UsageError(f"{field}: must be in a folder that exists, got {str(file)!r}")
    if file.is_dir():
        raise UsageError(f"{field}: must be a file, got the folder {str(file)!r}")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in a folder that belong to processes of this machine that no longer run."""
    for partial in folder.glob(f".loupe-*-*-{glob.escape(socket.gethostname())}.part"):
        try:
            os.kill(int(partial.name.split("-")[1]), 0)
        except (ProcessLookupError, ValueError):
            partial.unlink(missing_ok=True)
        except OSError:
            pass  # the process runs, as another user
