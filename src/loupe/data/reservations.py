"""Shares the memory budget for photos between the local worker processes of a preparation.

A local worker reserves the memory that the header of a photo indicates. During the decoding, the system limits the
worker to the reservation, because a header can be wrong. Workers of a Dask cluster only check that a photo does not
exceed the limit and the budget. The limit is the same on all machines, so that all machines use the same photos.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from loupe.config.datasets import Preprocess
from loupe.errors import LoupeError
from loupe.imaging.decoder import PhotoError
from loupe.imaging.limits import read_data_bytes, return_freed_blocks, set_limit
from loupe.imaging.memory import MAX_DEFAULT_BYTES, get_default_budget
from loupe.imaging.threads import count_cores

UNIT_BYTES = 16 * 10**6  # memory per unit of the semaphore
# The memory budget of a machine with at least 4 GB is not lower than this limit; see `get_budget`.
MAX_PHOTO_BYTES = MAX_DEFAULT_BYTES * 3 // 4 // UNIT_BYTES * UNIT_BYTES
PROCESS_BYTES = 150 * 10**6  # memory of a worker without photos
SPARE_BYTES = 64 * 10**6  # allowed in addition to a reservation, for strips, libraries and threads
LARGE_BLOCK_BYTES = 2**22  # freed blocks of at least this size are returned to the system
# Peak memory while a label is converted to grey, and copies of the label while its inputs are made: bytes per pixel
# and band of the label
GREY_LABEL_BYTES, COPY_BYTES = 10, 2
INPUT_BYTES = {"none": 3, "jpeg": 10, "camera": 26}  # peak memory for degrading an input: bytes per pixel and band

_semaphore: Any = None  # each unit is UNIT_BYTES of free memory; None if the process is not a local worker
_waiting_lock: Any = None  # only one worker at a time waits for units: two could block each other


@cache  # the cache saves a tenth of the time for a small photo
def get_budget() -> int:
    """Return the memory budget for the photos of all local workers, in bytes.

    The result is the default budget (see `get_default_budget`) minus the workers' other memory, but at least three
    quarters of the default budget. It is rounded down to a multiple of UNIT_BYTES.
    """
    budget = get_default_budget()
    return max(budget - count_cores() * PROCESS_BYTES, budget * 3 // 4) // UNIT_BYTES * UNIT_BYTES


def estimate_label_bytes(settings: Preprocess, crop: str, bands: int) -> int:
    """Estimate the memory for the labels of a photo and for making their inputs, in bytes.

    Memory that is proportional to the photo's pixels is not included.

    Args:
        settings: the settings of the preparation.
        crop: how labels are cut; see `cut_labels`.
        bands: the bands of a label.
    """
    count = settings.labels_per_photo if crop == "random" and settings.labels_per_megapixel is None else 1
    copies = 1 if settings.recompress is None else 2
    input_bytes = COPY_BYTES + INPUT_BYTES[settings.degrade] / float(min(settings.scales)) ** 2
    return int(settings.label_size**2 * bands * (count * copies + max(GREY_LABEL_BYTES, input_bytes)))


def create_memory_locks(context: Any) -> tuple[Any, Any]:
    """Create the arguments of `use_memory_locks` with a context of multiprocessing."""
    return context.Semaphore(get_budget() // UNIT_BYTES), context.Lock()


def use_memory_locks(semaphore: Any, waiting_lock: Any) -> None:
    """Use these locks in `reserve` in this process, and make malloc return large freed blocks to the system."""
    global _semaphore, _waiting_lock
    _semaphore, _waiting_lock = semaphore, waiting_lock
    return_freed_blocks(LARGE_BLOCK_BYTES)


@contextmanager
def reserve() -> Iterator[Callable[[int], None]]:
    """Reserve memory for one photo until the block exits.

    Yields:
        A function that waits until a number of bytes is free, reserves them, and limits the memory of the process. A
        larger number replaces the earlier reservation. The function raises PhotoError if the number exceeds
        MAX_PHOTO_BYTES, and LoupeError if it exceeds the budget of this machine. Outside of a local worker, the
        function only checks the number.
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
        needed = -(-size // 10**6)
        if size > MAX_PHOTO_BYTES:
            raise PhotoError(f"memory: must be at most {MAX_PHOTO_BYTES // 10**6} MB per photo, got {needed} MB")
        if size > budget:  # skipping the photo would give another dataset than on other machines
            raise LoupeError(
                f"memory: must be at least {needed} MB for a photo, got {budget // 10**6} MB on this machine"
            )
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
