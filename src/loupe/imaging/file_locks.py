"""Locks files for one process. The system releases the lock of a killed process, also in another container."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock_file(file: Path, wait: bool = True) -> Iterator[bool]:
    """Create a file that only one process has at a time, and remove it when the block exits.

    On a file system without locks, several processes can have it.

    Args:
        file: the file, next to what it protects.
        wait: whether to wait until no other process has it.

    Yields:
        True; False if another process has the file and `wait` is False.
    """
    while True:
        stream = file.open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            stream.close()
            yield False
            return
        except OSError:
            break
        if _is_file_of(stream.fileno(), file):  # else the process before has removed it meanwhile
            break
        stream.close()
    try:
        yield True
    finally:
        file.unlink(missing_ok=True)
        stream.close()


def _is_file_of(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
