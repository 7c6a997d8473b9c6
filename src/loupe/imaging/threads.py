"""The cores of the machine that this process may use, and work for all of them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def count_cores() -> int:
    """Cores that this process may run on, which in a container are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_order(tasks: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """What tasks give, in their order, by a thread a core; only a few are begun ahead of who asks.

    Args:
        tasks: asked for one after another; they should spend their time where Python lets other threads run, in
            numpy, Pillow, zlib or onnxruntime.
    """
    at_once = count_cores()
    waiting: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(at_once)
    try:
        for task in tasks:
            waiting.append(threads.submit(task))
            if len(waiting) > 2 * at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
