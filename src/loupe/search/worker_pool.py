"""Keeps a sweep's workers at work: starts them, shares the trials out, sees the dead, and ends with the last."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import psutil

from loupe.cli.progress import ProgressBar, print_lines
from loupe.config.steps import Sweep
from loupe.data.tasks import client
from loupe.errors import LoupeError, describe_error
from loupe.imaging import threads
from loupe.search import jobs, study_storage
from loupe.search.jobs import Job
from loupe.search.study import ATTEMPTS, OWNER, RUN, Trials
from loupe.tracking import delivery, liveness, trials

TRIALS_A_WORKER = 25  # then its process ends, and its memory with it
LOOK = 0.5  # seconds between looks at the workers
REAP = 3.0  # seconds between looks for trials whose workers died
AWAY = 600.0  # seconds that a sweep waits for MLflow's server
SPARE = 8  # trials that wait beside two for each worker
DEATHS = 2 * ATTEMPTS  # of workers in a row that end a sweep: more than one item that kills them can cause


def supervise(settings: Sweep, held: Trials, job: Job, workers: int) -> float:
    """Keep workers at work until nothing is wanted any more, or no trial may start; gives their seconds.

    Args:
        settings: of the sweep.
        held: its trials.
        job: of all workers together: each gets a share of its trials.
        workers: at a time, to begin with; one a core, where `settings` say so, follows a cluster that grows.

    Raises:
        LoupeError: DEATHS workers died in a row.
    """
    crew: dict[Future[int], tuple[int, float]] = {}  # trials that a worker may run, and its start
    left, deaths, reaped, seconds = job.trials, 0, 0.0, 0.0
    title, total = f"sweep {held.sweep.name}", held.sweep.trials()
    with _executor(settings, workers) as (executor, cores_now), ProgressBar(title, total, settings.quiet) as bar:
        while True:
            workers = settings.workers or cores_now()
            if time.monotonic() - reaped > REAP:
                delivery.retry_while_unreachable(
                    lambda: study_storage.patiently(lambda: _reap(held, job.parent)), AWAY, settings.quiet
                )
                reaped = time.monotonic()
            still_open = study_storage.patiently(partial(_open_trials, held, bar, 2 * workers + SPARE))
            may_start = left > 0 and (job.deadline is None or time.time() < job.deadline)
            while may_start and left > 0 and len(crew) < min(workers, still_open):
                share = min(TRIALS_A_WORKER, -(-left // (workers - len(crew))))
                crew[executor.submit(jobs.start, replace(job, trials=share))] = share, time.monotonic()
                left -= share
            if not crew and not (may_start and still_open):
                return seconds
            for done in wait(crew, LOOK, FIRST_COMPLETED).done:
                share, since = crew.pop(done)
                seconds += time.monotonic() - since
                error = done.exception()
                if error is None:
                    deaths, left = 0, left + share - done.result()
                    continue
                deaths, left = deaths + 1, left + share
                print_lines(f"sweep {held.sweep.name}: {error}", settings.quiet)
                if deaths == DEATHS:
                    raise LoupeError(f"workers: {DEATHS} died in a row; the last: {describe_error(error)}")
            if not crew:
                time.sleep(LOOK)


def _open_trials(held: Trials, bar: ProgressBar, most: int) -> int:
    """Enqueue what is wanted, and show where the sweep stands; gives how many trials wait or are at work."""
    held.enqueue(most)
    bar.update(held.ended(), _best_so_far(held))
    return held.at_work() + held.waiting()


def _reap(held: Trials, parent: str) -> None:
    """Close what dead workers left open, in MLflow and in Optuna."""

    def is_alive(trial: Any) -> bool:
        # a trial without a run has no heartbeat yet: its start counts
        taken = {liveness.HEARTBEAT_TAG: str(trial.datetime_start.timestamp())}
        return liveness.is_alive(taken | trials.get_tags(trial.user_attrs.get(RUN)) | trial.user_attrs[OWNER])

    liveness.send_heartbeat(parent)
    for trial in held.reap(is_alive):
        if RUN in trial.user_attrs:
            liveness.mark_killed(trial.user_attrs[RUN])
    liveness.close_orphaned_runs()


@contextmanager
def _executor(settings: Sweep, workers: int) -> Iterator[tuple[Executor, Callable[[], int]]]:
    """What starts workers, threads of this process or a Dask cluster, and its cores; what still runs ends with it."""
    if settings.scheduler:
        with client(settings.scheduler) as cluster:
            yield cluster.get_executor(pure=False), lambda: _cores_of(cluster)
        return
    with ThreadPoolExecutor(workers) as executor:
        try:
            yield executor, lambda: workers
        finally:
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):
                    child.terminate()


def _best_so_far(held: Trials) -> str:
    best = held.best()
    return f"best {held.sweep.study.metric} {best.value:.5f}" if best else ""


def cores(scheduler: str | None) -> int:
    """The cores that trials may have, here or on a Dask cluster; raises UsageError where none answers."""
    if scheduler:
        with client(scheduler) as cluster:
            return _cores_of(cluster)
    return threads.count_cores()


def _cores_of(cluster: Any) -> int:
    return max(1, sum(cluster.nthreads().values()))
