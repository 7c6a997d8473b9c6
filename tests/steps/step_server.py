"""Runs steps in forks of one process that has imported TensorFlow and MLflow, so that a step starts in milliseconds.

It reads one JSON request per line from standard input and writes one JSON answer per line to standard output.
The request `start` has arguments, cwd, environment, in_one_process, patch (code that runs before the step), and the
paths stdout and stderr; the answer is the id of the process. The request `wait` has the id of such a process and a
time in seconds; the answer is the exit status, negative after a signal, or null after this time. Each step has a
process and a process group of its own, as on the command line; only the imports are shared.
"""

import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

from new_stores import copy_new_stores

# `loupe.cli.main` sets the same variables, but after this process has imported the libraries.
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "GIT_PYTHON_REFRESH": "quiet", "MLFLOW_LOGGING_LEVEL": "WARNING"}

LIBRARIES = (
    *("keras", "mlflow.keras", "mlflow.pyfunc", "optuna", "pandas", "pyarrow.parquet", "scipy.special"),
    *("skimage.metrics", "sklearn.linear_model", "matplotlib.figure"),
    *("loupe.steps.main", "loupe.steps.sweep", "loupe.tracking.training_runs"),
)
RUNNING: set[int] = set()  # the ids of the processes of steps


def serve() -> None:
    """Answer requests until standard input ends, and kill the steps that still run then."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import_libraries()
    copy_new_stores()
    for line in sys.stdin:
        request = json.loads(line)
        answer = wait(**request["wait"]) if "wait" in request else start(request["start"])
        print(json.dumps(answer), file=answers, flush=True)
    for pid in RUNNING:
        os.killpg(pid, signal.SIGKILL)


def import_libraries() -> None:
    """Import the slow libraries. TensorFlow computes nothing here: its threads would be missing in a fork."""
    gc.set_threshold(100_000, 50, 50)  # as in `loupe.cli.startup`
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # so that garbage collections in forks are fast and copy no memory


def start(request: dict) -> int:
    """Start a step in a fork; returns the id of its process."""
    child = os.fork()
    if child == 0:
        run_step(request)
    os.setpgid(child, child)
    RUNNING.add(child)
    return child


def wait(pid: int, timeout: float) -> int | None:
    """Return the exit status of a fork, or None if it has not exited after this time."""
    until = time.monotonic() + timeout
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > until:
            return None
        time.sleep(0.005)
    RUNNING.remove(pid)
    return os.waitstatus_to_exitcode(ended[1])


def run_step(request: dict) -> None:
    """Run the step in this process, and exit with its status."""
    status = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        sys.argv = ["loupe", *request["arguments"]]
        if request["in_one_process"]:
            run_workers_in_this_process()
        exec(request["patch"], {})
        from loupe.cli.main import main

        status = main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_workers_in_this_process() -> None:
    """Let a sweep run its workers in threads, one after the other, instead of in processes."""
    from loupe.search import worker
    from loupe.search.worker_pool import LocalWorkers

    lock = threading.Lock()

    def run(workers: LocalWorkers, job: Any) -> int:
        counts: list[int] = []
        with lock:
            # Replace the standard streams of a worker process, which reads its job and prints a line per trial.
            worker.json = SimpleNamespace(load=lambda stream: asdict(job))
            worker.print = lambda count, flush: counts.append(count)
            worker.main(os.getppid())
        return len(counts)

    LocalWorkers.run, worker.IDLE_TIMEOUT_S = run, 0.0


if __name__ == "__main__":
    serve()
