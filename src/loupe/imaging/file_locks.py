"""Locks files. The system releases the locks of a killed process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock_file(file: Path, wait: bool = True) -> Iterator[bool]:
    """Create and lock a file, and remove it when the block exits. Only one process at a time has the lock.

    On a file system without locks, several processes can run the block at the same time.

    Args:
        file: the file to create, next to the file or folder that it protects.
        wait: whether to wait for the lock.

    Yields:
        True; False if another process has the lock and `wait` is False.
    """
    while True:
        stream = file.open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            stream.close()
            yield False
            return
        except OSError:  # the file system has no locks
            break
        if _is_same_file(stream.fileno(), file):
            break
        # The previous owner removed the file before this process got the lock: create and lock a new file.
        stream.close()
    try:
        yield True
    finally:
        file.unlink(missing_ok=True)
        stream.close()


def _is_same_file(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
