"""What the machine has that this process may use."""

import os


def cores() -> int:
    """Cores that this process may run on, which in a container are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
