"""Writes files and folders atomically. A file or folder gets its final name only when it is complete.

A partial file or folder is not complete yet, and has a temporary name.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from loupe.errors import UsageError

# A process cannot always see the locks of processes on other machines. `remove_leftovers` therefore removes a partial
# file of another machine only if the file has not changed for this time.
LEFTOVER_AGE_S = 86_400.0
AT_FDCWD, RENAME_NOREPLACE = -100, 1  # constants of Linux's renameat2
PREFIX, SUFFIX = ".loupe-", ".part"  # start and end of the name of a partial file


@contextmanager
def write_atomically(file: Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield the path of a temporary file next to `file`.

    When the block exits, the temporary file is renamed to `file`. After an exception, the temporary file is removed.

    Raises:
        OSError: `file` is a device, pipe, socket or stream.
        FileExistsError: `overwrite` is False and `file` exists at the end of the block.
    """
    if _is_special(file):
        raise OSError(errno.EINVAL, "Not a regular file", str(file))
    with create_partial(file.parent, Path.touch) as partial:
        yield partial
        if overwrite:
            publish(partial, file)
        else:
            _publish_new(partial, file)


def write_file(file: Path, content: str | bytes, overwrite: bool = True) -> None:
    """Write a file atomically. Text is encoded as UTF-8; invalid characters become `?`."""
    with write_atomically(file, overwrite) as partial:
        partial.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)


def publish(partial: Path, final: Path, flush_name: bool = True) -> None:
    """Give a complete file or folder its final name. Flush content and name, so that they survive a power failure.

    The files in a folder must already be flushed.

    Args:
        partial: the path with the temporary name.
        final: the final path.
        flush_name: whether to flush the name; False for a file in a folder that is published later.
    """
    _sync(partial)
    partial.rename(final)
    if flush_name:
        _sync(final.parent)


@contextmanager
def create_partial(folder: Path, create: Callable[[Path], object]) -> Iterator[Path]:
    """Create and lock a file or folder with a temporary name, and yield its path.

    When the block exits, the file or folder is removed if it still has the temporary name. If the process is killed,
    the system releases the lock, and `remove_leftovers` can remove the file or folder.

    Args:
        folder: the parent folder; it must exist.
        create: `Path.touch` or `Path.mkdir`.
    """
    while True:
        partial = folder / f"{PREFIX}{_identify_kernel()}-{secrets.token_hex(8)}{SUFFIX}"
        create(partial)
        # Another process can remove the partial file before this process locks the file. Then create a new file.
        try:
            descriptor = _open(partial)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # the file system may have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if partial.exists():
            break
        os.close(descriptor)
    try:
        yield partial
    finally:
        _remove(partial)
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the partial files and folders in `folder` if the processes that created them have ended."""
    for partial in folder.glob(f"{PREFIX}*{SUFFIX}"):
        try:
            descriptor = _open(partial)
        except OSError:
            continue  # the partial file was renamed or removed, or belongs to another user
        try:
            with suppress(OSError):  # the user may not have the right to remove the file
                if _is_abandoned(partial, descriptor):
                    _remove(partial)
        finally:
            os.close(descriptor)


def validate_output_file(field: str, file: Path) -> None:
    """Raise UsageError, with the name of the field, if a path is too long, not in a folder, or not a regular file.

    A missing file is valid.
    """
    # For a path that is too long, os.path.isdir returns False, but Path.is_dir raises an error.
    if not os.path.isdir(file.parent):
        raise UsageError(f"{field}: must be in a folder that exists, got {str(file)!r}")
    try:
        os.lstat(file)
    except FileNotFoundError:
        pass
    except OSError as error:  # such as a name of more than 255 bytes
        rule = "must be the name of a file that can be written"
        raise UsageError(f"{field}: {rule}, got {str(file)!r}: {error.strerror}") from None
    if os.path.isdir(file):
        raise UsageError(f"{field}: must be a file, got the folder {str(file)!r}")
    if _is_special(file):
        raise UsageError(f"{field}: must be a regular file, got the device, pipe or stream {str(file)!r}")


def _is_special(file: Path) -> bool:
    """Return whether a path is a device, pipe, socket or stream such as `/dev/stdout`, which must not be replaced."""
    is_stream = os.path.islink(file) and os.readlink(file).startswith("/proc/")
    return is_stream or (os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file))


def _publish_new(partial: Path, final: Path) -> None:
    """Give a complete file its final name, or raise FileExistsError. A rename would replace an existing file."""
    _sync(partial)
    try:
        os.link(partial, final)
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links
        _rename_new(partial, final)
    _sync(final.parent)


def _rename_new(partial: Path, final: Path) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # None on other systems than Linux
    if rename and not rename(AT_FDCWD, os.fsencode(partial), AT_FDCWD, os.fsencode(final), RENAME_NOREPLACE):
        return
    if rename and ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    final.touch(exist_ok=False)  # reserves the name; if the process is killed now, an empty file remains
    partial.rename(final)


@cache
def _identify_kernel() -> str:
    """Return an id of the running kernel. Processes of one kernel see each other's locks, even across containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        import uuid

        return f"{uuid.getnode():012x}"


def _open(partial: Path) -> int:
    # On NFS, a lock needs a writable descriptor, but a folder can only be opened for reading.
    return os.open(partial, (os.O_RDONLY if partial.is_dir() else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)


def _is_abandoned(partial: Path, descriptor: int) -> bool:
    """Return whether the process that created a file or folder has ended.

    If its lock cannot show this, return whether the file or folder is older than LEFTOVER_AGE_S.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        is_lock_visible = False
    else:  # the lock seems free, but a lock of another machine may be invisible
        is_lock_visible = partial.name.startswith(f"{PREFIX}{_identify_kernel()}-")
    return is_lock_visible or _get_age(partial) > LEFTOVER_AGE_S


def _get_age(partial: Path) -> float:
    """Return the seconds since the last change of a file or folder.

    The current time is the time of a new file in the folder, because the clocks of machines differ.
    """
    with tempfile.TemporaryFile(dir=partial.parent) as new_file:
        return os.fstat(new_file.fileno()).st_mtime - partial.stat().st_mtime


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # Ignore these errors for a folder: some file systems cannot flush folders, and some folders are not readable.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)
