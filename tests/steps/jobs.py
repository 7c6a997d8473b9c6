"""Runs whole steps in folders of their own, and reads the MLflow stores in these folders."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build_env(**more):
    """Return this process's environment without MLflow's variables, with the code of this checkout."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    own = {"PYTHONPATH": str(ROOT / "src"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return inherited | own | more


def loupe(*arguments, cwd, status=0, timeout=900, in_one_process=False, **more):
    """Run `loupe` with these arguments in a fork of the step server.

    Args:
        arguments: the arguments of the command line.
        cwd: the working directory of the step.
        status: the expected exit status.
        timeout: the step is killed after this time, in seconds.
        in_one_process: whether the workers of a sweep run in the step's process, which has imported TensorFlow.
        more: environment variables.

    Returns:
        The finished process with `stdout` and `stderr`.
    """
    arguments = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as out:
        request = {"arguments": arguments, "cwd": str(cwd), "timeout": timeout, "out": out}
        request |= {"in_one_process": in_one_process, "environment": build_env(TF_CPP_MIN_LOG_LEVEL="3", **more)}
        code = step_server().request(request)
        printed = [Path(out, name).read_text(errors="surrogateescape") for name in ("stdout", "stderr")]
    done = subprocess.CompletedProcess(arguments, code, *printed)
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done


@functools.cache
def step_server():
    """Return the step server of this test process; it exits when this process does."""
    return StepServer()


class StepServer:
    """A process that runs step_server.py."""

    def __init__(self):
        command = [sys.executable, Path(__file__).with_name("step_server.py")]
        self._process = subprocess.Popen(
            command, env=build_env(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def request(self, request):
        """Run one step; returns its exit status."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the step server has ended"
        return int(answer)


def read_error(done):
    """Return the only line that the step itself wrote to standard error; TensorFlow may add its own."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("loupe ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def is_harmless(text):
    """Whether a text has no control characters but line feeds, so that a terminal shows it as it is."""
    return not any(
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text if character != "\n"
    )


MEASURE = """
import resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.run(sys.argv[1:]).returncode
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, file=sys.stderr)
sys.exit(status)
"""


def measure_step(*arguments, cwd, **more):
    """Run `python -m loupe` in a process of its own; returns the run time in s and the peak memory in MB.

    A small process starts it, because the peak of a child includes the memory of its parent at the start.
    """
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "loupe", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=build_env(**more), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    seconds, memory = map(float, done.stderr.split()[-2:])
    return seconds, memory


def open_store(folder):
    """Return a client of the MLflow store in a folder."""
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/mlflow.db")


def list_runs(folder):
    """Return all runs of the store in a folder, newest first."""
    client = open_store(folder)
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
