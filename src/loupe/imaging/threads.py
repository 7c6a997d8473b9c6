"""Runs functions in threads, and counts the cores that this process may use."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Result = TypeVar("Result")

_stopped: ContextVar[threading.Event | None] = ContextVar("_stopped", default=None)


class StoppedError(Exception):
    """The event of `stop_after` is set."""


@contextmanager
def stop_after(event: threading.Event) -> Iterator[None]:
    """In the `with` statement, `run_in_order` in this thread raises StoppedError as soon as the event is set."""
    token = _stopped.set(event)
    try:
        yield
    finally:
        _stopped.reset(token)


@contextmanager
def repeat(
    function: Callable[[], object], interval_s: float, ending_timeout_s: float | None = None
) -> Iterator[None]:
    """Call a function in a thread, `interval_s` seconds after the start and after each call, until the block exits.

    Then wait until a running call returns, at most `ending_timeout_s` seconds (None: no limit).
    """
    stopped = threading.Event()

    def call() -> None:
        while not stopped.wait(interval_s):
            function()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(ending_timeout_s)


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_order(tasks: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Run tasks in one thread per core, and yield the results in the order of the tasks.

    With n cores, at most 2n + 1 submitted tasks have results that are not yielded yet. This limits the memory for
    results. If a task raises an exception, the iteration raises it, and tasks that have not started are cancelled.
    The same is true if `stop_after` raises StoppedError.

    Args:
        tasks: functions that release the GIL, as functions of numpy, Pillow, zlib and onnxruntime do.
    """
    thread_count, event = count_cores(), _stopped.get()
    waiting: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(thread_count)
    try:
        for task in tasks:
            if event is not None and event.is_set():
                raise StoppedError
            waiting.append(threads.submit(task))
            if len(waiting) > 2 * thread_count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except GeneratorExit:
        # The garbage collector can close this generator in a thread that holds a lock of `threading`. Waiting for the
        # pool's threads could then block forever.
        for future in waiting:
            future.cancel()
        raise
    except BaseException:
        threads.shutdown(cancel_futures=True)
        raise
    threads.shutdown()
