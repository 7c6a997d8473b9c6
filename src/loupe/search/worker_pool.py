"""Runs the worker processes of a sweep, and replaces crashed workers."""

import math
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from loupe.cli.progress import ProgressBar, print_lines
from loupe.config.steps import Sweep
from loupe.data.scheduler import connect
from loupe.errors import LoupeError, describe_error
from loupe.imaging import threads
from loupe.search.gpus import group_gpus
from loupe.search.items import MAX_ATTEMPTS
from loupe.search.study import SweepStudy
from loupe.search.study_storage import retry_database
from loupe.search.sweep_file import SweepFile
from loupe.search.trial_attributes import OWNER, RUN
from loupe.search.worker_job import WorkerError, WorkerJob, run_worker, start_worker, wait_for_worker
from loupe.tracking import liveness, server, trials

MAX_TRIALS_PER_WORKER = 25  # TensorFlow's memory grows with each trial
POLL_INTERVAL_S = 0.5
ORPHAN_CHECK_INTERVAL_S = 3.0
SERVER_TIMEOUT_S = 600.0  # maximum wait for an unreachable MLflow server
SPARE_TRIALS = 8  # maximum number of waiting trials in addition to two per worker
# A sweep ends after this many crashes of workers in a row. One item (see `items`) causes up to MAX_ATTEMPTS crashes.
MAX_CRASHES = 2 * MAX_ATTEMPTS

WorkerFunction = Callable[[WorkerJob], int]


def run_workers(settings: Sweep, study: SweepStudy, job: WorkerJob, workers: int) -> float:
    """Run workers until every trial has ended, or until a limit of the job is reached and the workers have exited.

    Args:
        settings: the settings of the sweep.
        study: the study.
        job: the job of the workers. All workers together run at most `max_trials` trials (0: no limit), and start no
            trial after `timeout` seconds.
        workers: the number of workers at the start. On a Dask cluster, it later follows the number of cores, unless
            `settings.workers` is set.

    Returns:
        The run time of all workers together, in seconds.

    Raises:
        LoupeError: MAX_CRASHES workers crashed in a row, or another run continues the sweep.
        UsageError: the Dask scheduler does not answer.
    """
    running: dict[Future[int], tuple[int, float]] = {}  # per worker: maximum number of trials, and start time
    # `remaining`: number of trials that may still be assigned to workers
    remaining, crashes, last_check, worker_seconds = job.max_trials or math.inf, 0, 0.0, 0.0
    deadline = time.monotonic() + job.timeout
    title = f"sweep {study.sweep.name}"
    bar = ProgressBar(title, study.sweep.count_trials(), settings.quiet)
    gpus = group_gpus(study.sweep) if workers > 1 and not settings.scheduler else []
    with _open_executor(settings, workers, gpus) as (executor, run_job, count_default_workers), bar:
        while True:
            workers = settings.workers or count_default_workers()
            if time.monotonic() - last_check > ORPHAN_CHECK_INTERVAL_S:
                close_orphans = partial(retry_database, partial(_close_orphans, study))
                server.retry_while_unreachable(close_orphans, SERVER_TIMEOUT_S, settings.quiet)
                last_check = time.monotonic()
            open_trials = retry_database(partial(_enqueue_trials, study, bar, 2 * workers + SPARE_TRIALS))
            may_start = remaining > 0 and time.monotonic() < deadline
            while may_start and remaining > 0 and len(running) < min(workers, open_trials):
                equal_share = remaining / (workers - len(running))
                max_trials = math.ceil(min(MAX_TRIALS_PER_WORKER, equal_share))
                now = time.monotonic()  # workers get a duration, because the clocks of machines can differ
                share = replace(job, max_trials=max_trials, timeout=deadline - now)
                running[executor.submit(run_job, share)] = max_trials, now
                remaining -= max_trials
            if not running and not (may_start and open_trials):
                return worker_seconds
            for future in wait(running, POLL_INTERVAL_S, FIRST_COMPLETED).done:
                max_trials, started = running.pop(future)
                worker_seconds += time.monotonic() - started
                error = future.exception()
                remaining += max_trials - (_count_trials(error) if error else future.result())
                crashes = crashes + 1 if error else 0
                if error:
                    print_lines(f"{title}: {error}", settings.quiet)
                if error and crashes == MAX_CRASHES:
                    raise LoupeError(f"workers: {crashes} crashed in a row; the last error: {describe_error(error)}")
            if not running:
                time.sleep(POLL_INTERVAL_S)


def _count_trials(error: BaseException) -> int:
    """Return the number of trials that a crashed worker had run; the trial during which it crashed does not count."""
    return error.trial_count if isinstance(error, WorkerError) else 0


def _enqueue_trials(study: SweepStudy, bar: ProgressBar, max_waiting: int) -> int:
    """Enqueue trials (at most `max_waiting` wait), show the progress, and return the number of open trials.

    An open trial waits or runs.
    """
    study.enqueue_missing(max_waiting)
    best = study.find_best()
    bar.update(study.count_ended(), f"best {study.sweep.study.metric} {best.values[0]:.5f}" if best else "")
    return study.count_open()


def _close_orphans(study: SweepStudy) -> None:
    """End the trials of crashed workers, close runs of crashed processes, and reopen the sweep's run if necessary.

    Raises:
        LoupeError: another run continues the sweep.
    """

    def is_alive(trial: Any) -> bool:
        owner, tags = trial.user_attrs[OWNER], trials.get_tags(trial.user_attrs.get(RUN))
        # If the trial reuses the result of another trial, RUN is the run of another process.
        is_own_run = all(tags.get(name) == owner[name] for name in liveness.IDENTITY_TAGS)
        return liveness.is_alive(owner | tags if is_own_run else owner)

    trials.reopen_sweep_run(study.parent)
    for trial in study.fail_orphans(is_alive):
        if RUN in trial.user_attrs:
            liveness.mark_killed(trial.user_attrs[RUN])
    liveness.close_orphaned_runs()


class LocalWorkers:
    """The worker processes that this process started.

    ProcessPoolExecutor is not used: if one of its processes is killed, the tasks of all processes fail.

    Args:
        gpus: groups of GPUs; see `group_gpus`. A process gets the least used group; with (), it gets all GPUs.
    """

    def __init__(self, gpus: Sequence[str] = ()) -> None:
        self._gpus = gpus
        self._lock = threading.Lock()
        self._is_closed = False
        self._processes: dict[subprocess.Popen[str], str | None] = {}

    def run(self, job: WorkerJob) -> int:
        """Run a worker until it exits, and return the number of trials; see `wait_for_worker`.

        Raises:
            RuntimeError: the pool is closed.
        """
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the worker pool is closed")
            gpus = min(self._gpus, key=Counter(self._processes.values()).__getitem__, default=None)
            process = start_worker(job, gpus)
            self._processes[process] = gpus
        try:
            return wait_for_worker(process, job)
        finally:
            with self._lock:
                del self._processes[process]

    def close(self) -> None:
        """Terminate the running workers and start no more."""
        with self._lock:
            self._is_closed = True
            for process in self._processes:
                process.terminate()


@contextmanager
def _open_executor(
    settings: Sweep, workers: int, gpus: Sequence[str]
) -> Iterator[tuple[Executor, WorkerFunction, Callable[[], int]]]:
    """Yield an executor, the function to submit per worker, and a function that returns the number of workers."""
    if settings.scheduler:
        with connect(settings.scheduler) as cluster:
            yield cluster.get_executor(pure=False), run_worker, lambda: _count_cluster_cores(cluster)
        return
    local = LocalWorkers(gpus)
    with ThreadPoolExecutor(workers) as executor:
        try:
            yield executor, local.run, lambda: workers
        finally:
            local.close()


def count_workers(scheduler: str | None, sweep: SweepFile) -> int:
    """Return the default number of workers: one per core of this machine or of a Dask cluster.

    With JAX and without a scheduler, it is one per group of GPUs (see `group_gpus`) if this machine has GPUs.

    Raises:
        UsageError: the scheduler does not answer.
    """
    if scheduler:
        with connect(scheduler) as cluster:
            return _count_cluster_cores(cluster)
    gpus = group_gpus(sweep) if os.environ.get("KERAS_BACKEND") == "jax" else []
    return len(gpus) or threads.count_cores()


def _count_cluster_cores(cluster: Any) -> int:
    return max(1, sum(cluster.nthreads().values()))
