"""Limits the memory (Linux only) and the CPU time of this process, and reads the memory that it uses."""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

STATUS = Path("/proc/self/status")  # Linux only
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt

_lock = threading.Lock()
_active = 0  # number of threads in blocks of `limit_process`


@contextmanager
def limit_process(data_bytes: int, cpu_s: int) -> Iterator[None]:
    """Limit memory and CPU time of this process until the blocks of all threads have exited.

    Beyond the limit of memory, allocations fail. Beyond the limit of CPU time, the system kills the process.

    Args:
        data_bytes: maximum memory of the process in bytes, including the memory that it uses now.
        cpu_s: further CPU time in seconds, for each thread that is in a block of this function.
    """
    global _active
    with _lock:
        _active += 1
        used = resource.getrusage(resource.RUSAGE_SELF)
        set_limit(resource.RLIMIT_CPU, round(used.ru_utime + used.ru_stime) + 1 + cpu_s * _active)
        set_limit(resource.RLIMIT_DATA, data_bytes)
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if not _active:
                set_limit(resource.RLIMIT_CPU, None)
                set_limit(resource.RLIMIT_DATA, None)


def set_limit(kind: int, value: int | None) -> None:
    """Set a limit of this process, such as `resource.RLIMIT_DATA`, at most to the hard limit.

    None restores the original limit.
    """
    soft, hard = _get_original(kind)
    if value is None:
        value = soft
    elif hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, hard))


@cache
def _get_original(kind: int) -> tuple[int, int]:
    return resource.getrlimit(kind)


def read_data_bytes() -> int:
    """Return the used memory that RLIMIT_DATA limits, in bytes; 0 if the system is not Linux."""
    # Reading this number from STATUS would take four times as long.
    try:
        with open("/proc/self/statm", "rb", buffering=0) as stream:
            data_pages = int(stream.read().split()[5])  # `data` in proc_pid_statm
            return data_pages * resource.getpagesize()
    except FileNotFoundError:
        return 0


def read_status_bytes(name: str) -> int:
    """Return a number of bytes from STATUS, such as `VmHWM`, the maximum memory so far; 0 if not on Linux."""
    lines = STATUS.read_text(encoding="utf-8", errors="replace").splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def return_freed_blocks(block_bytes: int) -> None:
    """Make malloc return freed blocks of at least this size to the system, so that limits do not count them."""
    import ctypes

    with suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, block_bytes)
        # glibc's default threshold of 128 kB makes the preparation of small photos 10 % slower.
        libc.mallopt(M_TRIM_THRESHOLD, block_bytes)
