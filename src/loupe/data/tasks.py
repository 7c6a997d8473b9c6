"""The processes that prepare photos: this machine's cores, or the workers of a Dask scheduler."""

import itertools
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loupe.cli import signals
from loupe.errors import LoupeError, UsageError
from loupe.imaging.threads import count_cores

AT_A_TIME = 64  # tasks that are given out, unless there are more cores
# What Dask does beside the work, unless it is told not to: look at each thread every 10 ms, at each event loop every
# 20 ms and at each process every 500 ms, remember thousands of steps of each task, and give a image's memory back
# to the system at once, to ask for it again.
QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.low-level-log-length": 100,
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
}


@contextmanager
def client(scheduler: str | None) -> Iterator[Any]:
    """A Dask client of this scheduler, or of a cluster of this machine's cores that ends with it.

    Raises:
        UsageError: no scheduler answers there, or one that has no Loupe.
        LoupeError: it is gone, whatever exception tells.
    """
    import dask
    from distributed import Client

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="10s")
        except (OSError, ValueError) as error:
            raise UsageError(f"scheduler: no Dask scheduler answers at {scheduler!r} ({error})") from None
        with client:
            try:
                client.run_on_scheduler(pkgutil.resolve_name, "loupe:__version__")
            except ImportError:
                raise UsageError(f"scheduler: needs Loupe, on its workers too; {scheduler!r} has none") from None
            try:
                yield client
            except Exception:
                if client.status != "running":
                    raise LoupeError(f"scheduler: {scheduler!r} does not answer any more") from None
                raise
        return
    searched = list(sys.path)
    with dask.config.set(QUIET), _of_this_machine() as cluster, Client(cluster) as client:
        # Dask puts folders in front, and takes them out when it ends: an import in another thread, which walks that
        # list meanwhile, then leaves one place out, and does not find what is there. This list Dask leaves alone.
        sys.path = searched
        yield client


@contextmanager
def _of_this_machine() -> Iterator[Any]:
    """A cluster of a process a core. Dask waits for ever for one whose start or end was interrupted."""
    from distributed import LocalCluster

    with signals.held():
        cluster = LocalCluster(
            n_workers=count_cores(),
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
            memory_limit=0,
        )
    try:
        yield cluster
    finally:
        with signals.held():
            cluster.close()


def results(cluster: Any, work: Callable[..., Any], tasks: Iterator[tuple[Any, ...]], *shared: Any) -> Iterator[Any]:
    """What work gives for each task, as it comes; so few are given out at a time that they fill no memory.

    Args:
        cluster: from `client`.
        work: called with a task's arguments and the shared ones.
        tasks: the arguments of each.
        shared: what all tasks are given.
    """
    from distributed import as_completed

    def given(count: int) -> list[Any]:
        return [cluster.submit(work, *task, *shared, pure=False) for task in itertools.islice(tasks, count)]

    running = as_completed(given(max(AT_A_TIME, 2 * sum(cluster.nthreads().values()))), with_results=True)
    for _, result in running:
        running.update(given(1))
        yield result
