"""The default memory budget for images, and the memory of the machine or container."""

import os
from collections.abc import Iterator
from pathlib import Path

MAX_DEFAULT_BYTES = 2_000_000_000
# For each version of Linux control groups: the name of the controller in /proc/self/cgroup, the folder of the groups,
# and the file of a group's limit.
CONTROL_GROUPS = (
    ("", Path("/sys/fs/cgroup"), "memory.max"),
    ("memory", Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
)


def get_default_budget() -> int:
    """Return how many bytes images may take by default: MAX_DEFAULT_BYTES, or half of the memory if that is less."""
    return min(MAX_DEFAULT_BYTES, read_total_memory() // 2)


def read_total_memory() -> int:
    """Return the bytes of memory that this process may use: those of the machine, or the limit of its container."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_read_container_limits(Path("/proc/self/cgroup"))])


def _read_container_limits(membership: Path) -> Iterator[int]:
    """Yield the limits of the control groups of this process and of all groups above them."""
    if not membership.exists():  # not Linux
        return
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        for controller, folder, name in CONTROL_GROUPS:
            if controller in controllers.split(","):
                # inside a container, the group's own folder is often mounted as the root
                for part in (group.lstrip("/"), *map(str, Path(group.lstrip("/")).parents)):
                    file = folder / part / name
                    if file.is_file() and (text := file.read_text(encoding="utf-8").strip()).isdecimal():
                        yield int(text)
