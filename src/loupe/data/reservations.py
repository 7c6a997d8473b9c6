"""Shares the memory budget for photos between the worker processes of a preparation.

A worker reserves the memory that a photo takes according to its header, and waits until other workers have released
enough. A header can be wrong. Therefore the system limits the memory of a worker to the reservation during decoding.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loupe.imaging.decoder import PhotoError
from loupe.imaging.limits import read_status_bytes, return_freed_blocks, set_limit
from loupe.imaging.memory import get_default_budget
from loupe.imaging.threads import count_cores

UNIT_BYTES = 16 * 10**6
PROCESS_BYTES = 150 * 10**6  # of a worker process without photos, and the share of the step's own process per worker
SPARE_BYTES = 64 * 10**6  # for strips, libraries and threads
LARGE_BLOCK_BYTES = 2**20

_units: Any = None  # a semaphore that all workers share; None in a process that is not a worker
_turn: Any = None  # a lock: only one worker at a time waits for units, otherwise two could wait for each other


def get_budget() -> int:
    """Return how many bytes the photos of all workers may take together: the default budget less the processes."""
    budget = get_default_budget()
    return max(budget - count_cores() * PROCESS_BYTES, budget // 2) // UNIT_BYTES * UNIT_BYTES


def create_units(context: Any) -> tuple[Any, Any]:
    """Create the arguments of `use_units` with a context of multiprocessing."""
    return context.Semaphore(get_budget() // UNIT_BYTES), context.Lock()


def use_units(units: Any, turn: Any) -> None:
    """Let this process reserve memory from these units, and return the memory of photos to the system after use."""
    global _units, _turn
    _units, _turn = units, turn
    return_freed_blocks(LARGE_BLOCK_BYTES)


@contextmanager
def reserve() -> Iterator[Callable[[int], None]]:
    """Yield a function that reserves memory for one photo, until the block exits.

    Yields:
        A function that reserves a number of bytes for the photo. If it is called again with a larger number, it first
        releases the bytes of the previous call, so that waiting workers do not block each other. It raises PhotoError
        if the number exceeds the budget. In a process that is not a worker, it only checks the number.
    """
    total = get_budget()
    held = 0

    def release() -> None:
        nonlocal held
        while held:
            held -= 1
            _units.release()

    def require(size: int) -> None:
        nonlocal held
        if size > total:
            raise PhotoError(
                f"memory: must be at least {-(-size // 10**6)} MB for this photo, got {total // 10**6} MB"
            )
        wanted = -(-size // UNIT_BYTES)
        if _units is None or wanted <= held:
            return
        release()
        with _turn:
            while held < wanted:
                _units.acquire()
                held += 1
        set_limit(resource.RLIMIT_DATA, read_status_bytes("VmData") + size + SPARE_BYTES)

    try:
        yield require
    finally:
        set_limit(resource.RLIMIT_DATA, None)
        release()
