"""Runs whole steps in folders of their own, and reads the MLflow stores in these folders."""

import functools
import json
import os
import signal
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
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        step = Step(*arguments, cwd=cwd, output=files, in_one_process=in_one_process, **more)
        try:
            code = step.wait(timeout)
        finally:
            step.kill()
        printed = [file.read_text(errors="surrogateescape") for file in files]
    done = subprocess.CompletedProcess(arguments, code if code >= 0 else 128 - code, *printed)
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done


class Step:
    """A step that runs in the background, in a fork of the step server; it has the methods of `subprocess.Popen`.

    Args:
        arguments: the arguments of the command line.
        cwd: the working directory of the step.
        output: the files for standard output and standard error, which may be the same.
        in_one_process: whether the workers of a sweep run in the step's process.
        patch: code that runs in the fork before the step.
        more: environment variables.
    """

    def __init__(
        self, *arguments, cwd, output=(os.devnull, os.devnull), in_one_process=False, patch="", **more
    ):  # fmt: skip
        request = {"arguments": [str(argument) for argument in arguments], "cwd": str(cwd)}
        request |= {"stdout": str(output[0]), "stderr": str(output[1]), "in_one_process": in_one_process}
        request["patch"] = patch
        request["environment"] = build_env(TF_CPP_MIN_LOG_LEVEL="3", **more)
        self.pid, self.returncode = ask_step_server(start=request), None

    def poll(self):
        """Return the exit status, or None if the step runs."""
        if self.returncode is None:
            self.returncode = ask_step_server(wait={"pid": self.pid, "timeout": 0})
        return self.returncode

    def wait(self, timeout=900):
        """Return the exit status; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            self.returncode = ask_step_server(wait={"pid": self.pid, "timeout": timeout})
        if self.returncode is None:
            raise subprocess.TimeoutExpired("loupe", timeout)
        return self.returncode

    def kill(self, number=signal.SIGKILL):
        """Send a signal to the process group, if the step runs, and wait for the step."""
        if self.poll() is None:
            os.killpg(self.pid, number)
            self.wait()


def ask_step_server(**request):
    """Send a request to the step server of this test process; returns the answer."""
    server = start_step_server()
    print(json.dumps(request), file=server.stdin, flush=True)
    answer = server.stdout.readline()
    assert answer, "the step server has ended"
    return json.loads(answer)


@functools.cache
def start_step_server():
    """Return the process of the step server, which exits when this process does."""
    command = [sys.executable, Path(__file__).with_name("step_server.py")]
    return subprocess.Popen(command, env=build_env(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


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
