"""Runs steps in forks of one process that has imported TensorFlow and MLflow, so that a step starts in milliseconds.

It reads one JSON request per line from standard input and writes the exit status of the step to standard output.
A request has arguments, cwd, environment, timeout (in seconds), in_one_process, and out: the folder for the files
`stdout` and `stderr`. Each step has a process of its own, as on the command line; only the imports are shared.
"""

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# `loupe.cli.main` sets the same variables, but after this process has imported the libraries.
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "GIT_PYTHON_REFRESH": "quiet", "MLFLOW_LOGGING_LEVEL": "WARNING"}

LIBRARIES = (
    *("keras", "mlflow.keras", "mlflow.pyfunc", "optuna", "pandas", "pyarrow.parquet", "scipy.stats"),
    *("skimage.metrics", "sklearn.linear_model", "matplotlib.figure"),
    *("loupe.steps.main", "loupe.steps.sweep", "loupe.tracking.training_runs"),
)


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import_libraries()
    for line in sys.stdin:
        print(run(json.loads(line)), file=answers, flush=True)


def import_libraries() -> None:
    """Import the slow libraries. TensorFlow computes nothing here: its threads would be missing in a fork."""
    for name in LIBRARIES:
        importlib.import_module(name)


def run(request: dict) -> int:
    """Run one step in a fork; returns its exit status, or 137 after the timeout."""
    child = os.fork()
    if child == 0:
        run_step(request)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(request["timeout"])
    _, status = os.waitpid(child, 0)
    signal.alarm(0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def run_step(request: dict) -> None:
    """Run the step in this process, and exit with its status."""
    status = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(Path(request["out"], name), os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        sys.argv = ["loupe", *request["arguments"]]
        if request["in_one_process"]:
            run_workers_in_this_process()
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
            # Replace the standard streams of a worker process, which reads its job and prints its number of trials.
            worker.json = SimpleNamespace(load=lambda stream: asdict(job))
            worker.print = counts.append
            worker.main(os.getppid())
        return counts[0]

    LocalWorkers.run, worker.IDLE_TIMEOUT_S = run, 0.0


if __name__ == "__main__":
    serve()
