"""Runs functions in threads, on all cores that this process may use."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def count_cores() -> int:
    """Return the number of cores that this process may use, which can be less than the cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_order(tasks: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Run tasks in one thread per core and yield the results in the order of the tasks.

    With n cores, at most 2 n + 1 tasks have started whose results the caller has not received. This limits the memory
    of the results.

    Args:
        tasks: functions that spend their time in code that releases the GIL: numpy, Pillow, zlib, onnxruntime.
    """
    thread_count = count_cores()
    waiting: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(thread_count)
    try:
        for task in tasks:
            waiting.append(threads.submit(task))
            if len(waiting) > 2 * thread_count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except GeneratorExit:
        # The garbage collector can close this generator in a thread that holds a lock of `threading`. If this block
        # waited for the worker threads, it could block forever. The worker threads end when the executor is deleted.
        for future in waiting:
            future.cancel()
        raise
    except BaseException:
        threads.shutdown(cancel_futures=True)
        raise
    threads.shutdown()
