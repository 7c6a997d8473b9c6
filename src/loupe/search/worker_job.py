"""The job of a worker process, and the functions that run the process."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from loupe.config.training import THREAD_VARIABLES
from loupe.search.gpus import VARIABLE

MAX_STDERR_LINES = 40  # the message about a failed worker has at most this many lines of its standard error


@dataclass(frozen=True)
class WorkerJob:
    """Everything that a worker process needs. Dask logs the `repr`, which omits fields that can contain passwords.

    Args:
        sweep: the content of the sweep file; see `SweepFile.to_json`.
        storage: the path of a journal file, or the URL of a database.
        tracking_uri: MLflow's tracking URI.
        experiment_id: the experiment's id in MLflow.
        parent: the id of the sweep's run.
        dataset: folder or URL of the prepared dataset.
        digest: the digest of the dataset.
        source: the settings `dataset`, `smoke` and `seed`, and the scale factors `scales`. A machine that cannot read
            the dataset prepares it from them.
        data_dir: the folder or URL for prepared datasets.
        threads: CPU threads per trial; 0: one per core.
        max_trials: maximum number of trials of this worker. In the job that `run_workers` gets, it is the maximum of
            all workers together, and 0 means no limit.
        timeout: the worker starts no trial after this many seconds; infinity means no limit. In the job that
            `run_workers` gets, the time counts from the start of the sweep.
        fresh: do not reuse the results of equal trials; see `trial`.
    """

    sweep: dict[str, Any] = field(repr=False)
    storage: str = field(repr=False)
    tracking_uri: str = field(repr=False)
    experiment_id: str
    parent: str
    dataset: str = field(repr=False)
    digest: str
    source: dict[str, Any] = field(repr=False)
    data_dir: str = field(repr=False)
    threads: int
    max_trials: int
    timeout: float
    fresh: bool


class WorkerError(RuntimeError):
    """A worker process failed after it had run `trial_count` trials."""

    def __init__(self, message: str, trial_count: int) -> None:
        super().__init__(message)
        self.trial_count = trial_count

    def __reduce__(self) -> Any:  # for Dask, which pickles errors
        return WorkerError, (str(self), self.trial_count)


def start_worker(job: WorkerJob, gpus: str | None = None) -> subprocess.Popen[str]:
    """Start a worker process, with `gpus` as CUDA_VISIBLE_DEVICES if given. `wait_for_worker` sends the job to it."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    if job.threads:
        names = (*THREAD_VARIABLES, "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        environment |= dict.fromkeys(names, str(job.threads))
    if gpus is not None:
        environment[VARIABLE] = gpus
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "loupe.search.worker", str(os.getpid())]
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="backslashreplace", env=environment
    )


def wait_for_worker(process: subprocess.Popen[str], job: WorkerJob) -> int:
    """Send the job to a worker process, wait until it exits, and return the number of trials.

    Raises:
        WorkerError: the process failed. The message contains the end of its standard error.
    """
    output, errors = process.communicate(json.dumps(asdict(job)))
    trial_count = max((int(line) for line in output.splitlines() if line.isdecimal()), default=0)
    if process.returncode:
        lines = errors.strip().splitlines()[-MAX_STDERR_LINES:] or ["it printed nothing"]
        summary = f"a worker exited with status {process.returncode}: {lines[-1]}"
        raise WorkerError("\n  ".join([summary, *lines]), trial_count)
    return trial_count


def run_worker(job: WorkerJob) -> int:
    """Run a worker process until it exits, and return the number of trials; see `wait_for_worker`."""
    return wait_for_worker(start_worker(job), job)
