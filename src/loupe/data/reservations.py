"""Shares the memory budget for photos between the worker processes of a preparation.

A worker reads from the header of a photo how much memory the photo takes. Then the worker waits until other workers
have released enough memory, and reserves the memory for the photo. A header can be wrong. Therefore, during the
decoding, the system limits the memory of the worker to the reservation.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from loupe.imaging.decoder import PhotoError
from loupe.imaging.limits import read_data_bytes, return_freed_blocks, set_limit
from loupe.imaging.memory import get_default_budget
from loupe.imaging.threads import count_cores

UNIT_BYTES = 16 * 10**6  # memory per unit of the semaphore that the workers share
PROCESS_BYTES = 150 * 10**6  # memory per worker that is not for photos, including a share of the parent process
SPARE_BYTES = 64 * 10**6  # memory for strips, libraries and threads in addition to a reservation
LARGE_BLOCK_BYTES = 2**22  # a freed block of at least this size is returned to the system

# The workers share a semaphore, whose units are free memory. `_semaphore` is None if a process is not a worker.
_semaphore: Any = None
# Only one worker at a time waits for units, because two waiting workers could block each other.
_waiting_lock: Any = None


@cache  # the system calls would take a tenth of the time in which a small photo is prepared
def get_budget() -> int:
    """Return how many bytes the photos of all workers may take together.

    The result is the default budget minus the other memory of the processes, but at least half of the default budget.
    """
    budget = get_default_budget()
    return max(budget - count_cores() * PROCESS_BYTES, budget // 2) // UNIT_BYTES * UNIT_BYTES


def create_memory_locks(context: Any) -> tuple[Any, Any]:
    """Create the arguments of `use_memory_locks`; `context` is a context of multiprocessing."""
    return context.Semaphore(get_budget() // UNIT_BYTES), context.Lock()


def use_memory_locks(semaphore: Any, waiting_lock: Any) -> None:
    """Make `reserve` wait for free memory in this process, and give freed blocks back to the system immediately."""
    global _semaphore, _waiting_lock
    _semaphore, _waiting_lock = semaphore, waiting_lock
    return_freed_blocks(LARGE_BLOCK_BYTES)


@contextmanager
def reserve() -> Iterator[Callable[[int], None]]:
    """Reserve memory for one photo until the block exits.

    Yields:
        A function that reserves a number of bytes for the photo. A second call with a larger number first releases
        the bytes of the first call, so that waiting workers do not block each other. The function raises PhotoError
        if the number exceeds the budget. In a process that is not a worker, the function only checks the number.
    """
    budget = get_budget()
    units = 0

    def release() -> None:
        nonlocal units
        while units:
            units -= 1
            _semaphore.release()

    def reserve_bytes(size: int) -> None:
        nonlocal units
        if size > budget:
            raise PhotoError(f"memory: must be at most {budget // 10**6} MB per photo, got {-(-size // 10**6)} MB")
        required_units = -(-size // UNIT_BYTES)
        if _semaphore is None or required_units <= units:
            return
        release()
        with _waiting_lock:
            while units < required_units:
                _semaphore.acquire()
                units += 1
        set_limit(resource.RLIMIT_DATA, read_data_bytes() + size + SPARE_BYTES)

    try:
        yield reserve_bytes
    finally:
        set_limit(resource.RLIMIT_DATA, None)
        release()
