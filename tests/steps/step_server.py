"""Runs steps in forks of one process that has imported TensorFlow and MLflow: a step then starts in milliseconds.

It reads a request per line on standard input, {arguments, cwd, environment, timeout, out}, and answers with the exit
status on standard output. Each step has a process of its own, as on the command line; only its imports are shared.
The folder `out` gets the files `stdout` and `stderr`.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

# What a step imports. `loupe.cli.main` sets the same variables, but too late for this process.
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
    """Import the slow libraries. Nothing is computed, so that TensorFlow has no threads when the process forks."""
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
    """Become the step's process, and end."""
    status = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(Path(request["out"], name), os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        sys.argv = ["loupe", *request["arguments"]]
        from loupe.cli.main import main

        status = main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
