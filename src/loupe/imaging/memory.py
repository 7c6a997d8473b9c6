"""The memory budget for images, which several threads share."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loupe.imaging.decoder import PhotoError

MEGABYTE = 1_000_000
MAX_DEFAULT_BYTES = 2000 * MEGABYTE
# Linux control groups, versions 2 and 1: name in /proc/self/cgroup, folder, and file with the limit
CONTROL_GROUPS = (
    ("", Path("/sys/fs/cgroup"), "memory.max"),
    ("memory", Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
)


class MemoryBudget:
    """A number of bytes that several threads share."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self) -> Iterator[Callable[[int, str], None]]:
        """Yield a function that reserves bytes for one thread, until the block exits.

        Yields:
            A function of the number of bytes and their purpose (for the error message). A call replaces the previous
            reservation, and waits until enough bytes are free. It raises PhotoError if the number exceeds the
            budget. The caller must let only one thread at a time increase its reservation; otherwise, two threads
            could wait for each other.
        """
        reserved = 0

        def reserve_bytes(size: int, purpose: str) -> None:
            nonlocal reserved
            if size > self.total:
                needed = -(-size // MEGABYTE)
                got = f"got {self.total // MEGABYTE} MB; --memory {needed} allows it"
                raise PhotoError(f"memory: must be at least {needed} MB for {purpose}, {got}")
            with self._changed:
                self._changed.wait_for(lambda: size <= reserved or self._used - reserved + size <= self.total)
                self._used += size - reserved
                reserved = size
                self._changed.notify_all()

        try:
            yield reserve_bytes
        finally:
            reserve_bytes(0, "")


def get_default_budget() -> int:
    """Return the default memory for images in bytes: MAX_DEFAULT_BYTES, but at most half of all memory."""
    return min(MAX_DEFAULT_BYTES, read_total_memory() // 2)


def read_total_memory() -> int:
    """Return the memory of the machine in bytes, or the limit of the container if the limit is lower."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_read_container_limits(Path("/proc/self/cgroup"))])


def _read_container_limits(membership: Path) -> Iterator[int]:
    """Yield the limits of the control groups of this process and of their parents."""
    if not membership.exists():  # not Linux
        return
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        for controller, folder, name in CONTROL_GROUPS:
            if controller in controllers.split(","):
                # The last `part` is "." or "", for `folder` itself. In a container, `folder` is often the group of
                # this process.
                for part in (group.lstrip("/"), *map(str, Path(group.lstrip("/")).parents)):
                    file = folder / part / name
                    if file.is_file() and (text := file.read_text(encoding="utf-8").strip()).isdecimal():
                        yield int(text)
