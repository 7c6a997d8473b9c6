"""Runs tasks in parallel: in processes of this machine, or on a Dask cluster."""

import itertools
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing import resource_tracker
from typing import Any

from loupe.data import reservations, scheduler
from loupe.errors import LoupeError
from loupe.imaging.threads import count_cores

DASK_TASKS = 64  # minimum number of tasks to submit in advance

Results = Generator[Any, None, None]


def run_tasks(function: Callable[..., Any], tasks: Iterator[tuple[Any, ...]], address: str | None = None) -> Results:
    """Call a function with the arguments of every task, and yield the results in the order of completion.

    If a call raises an exception, this exception is raised.

    Args:
        function: the function; other processes must be able to import it.
        tasks: the arguments of each call, read while earlier tasks run.
        address: the address of a Dask scheduler; None starts one process per core.

    Raises:
        UsageError: no usable scheduler answers.
        LoupeError: a local process was killed, or the connection was lost.
    """
    results = _run_on_dask(function, tasks, address) if address else _run_locally(function, tasks)
    with closing(results):
        yield from results


def _run_on_dask(function: Callable[..., Any], tasks: Iterator[tuple[Any, ...]], address: str) -> Results:
    from distributed import as_completed

    with scheduler.connect(address) as client:

        def submit(count: int) -> list[Any]:
            return [client.submit(function, *task, pure=False) for task in itertools.islice(tasks, count)]

        running = as_completed(submit(max(DASK_TASKS, 2 * sum(client.nthreads().values()))), with_results=True)
        for _, result in running:
            if isinstance(result, BaseException):  # the connection was lost
                raise result
            running.update(submit(1))
            yield result


def _run_locally(function: Callable[..., Any], tasks: Iterator[tuple[Any, ...]]) -> Results:
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.backend import get_context

    arguments = (os.getpid(), reservations.create_memory_locks(get_context("loky")))
    calls = (delayed(function)(*task) for task in tasks)
    with warnings.catch_warnings():
        # joblib warns when results are not consumed, and when it replaces a process
        warnings.filterwarnings("ignore", module="joblib")
        with _block_ctrl_c(), parallel_config("loky", initializer=_start_worker, initargs=arguments):
            results = Parallel(count_cores(), return_as="generator_unordered", batch_size=1)(calls)
        with closing(results):
            try:
                yield from results
            except BrokenProcessPool:
                raise LoupeError("a process was killed, probably because the machine ran out of memory") from None
            finally:  # the next call starts new processes, with the current environment variables
                get_reusable_executor(reuse=True).shutdown(kill_workers=True)


@contextmanager
def _block_ctrl_c() -> Iterator[None]:
    """Let processes that start in the `with` block ignore Ctrl-C. The parent ends these processes."""
    # The start of the resource tracker, which joblib needs, would unblock Ctrl-C.
    resource_tracker.ensure_running()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _start_worker(parent: int, locks: tuple[Any, Any]) -> None:
    reservations.use_memory_locks(*locks)

    def watch() -> None:
        """Exit soon after the parent process was killed. Otherwise, loky's processes would wait for minutes."""
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
