"""How tests run whole steps, in folders of their own, and read the stores that those leave."""

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
    """This process's environment, with the checkout's code first and no store of anybody else's."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    ours |= {"PYTHONPATH": str(ROOT / "src"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return ours | more


def loupe(*arguments, cwd, status=0, timeout=900, **more):
    """Run `loupe` with these arguments in a folder, in a fork of the step server.

    Args:
        arguments: of the command line.
        cwd: the folder.
        status: the expected exit status.
        timeout: seconds until the step is killed.
        more: environment variables.

    Returns:
        The finished process with `stdout` and `stderr`.
    """
    arguments = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as out:
        request = {"arguments": arguments, "cwd": str(cwd), "timeout": timeout, "out": out}
        request["environment"] = build_env(TF_CPP_MIN_LOG_LEVEL="3", **more)
        found = step_server().request(request)
        printed = [Path(out, name).read_text(errors="surrogateescape") for name in ("stdout", "stderr")]
    done = subprocess.CompletedProcess(arguments, found, *printed)
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done


@functools.cache
def step_server():
    """The step server of this test process, which ends with it."""
    return StepServer()


class StepServer:
    """A process of `step_server.py`."""

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
    """The one line in which a step has said why it ended; beside it TensorFlow tells that there is no GPU."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("loupe ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def is_harmless(text):
    """Whether a terminal would only show what a command has printed, line by line."""
    return not any(unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") for sign in text if sign != "\n")


MEASURED = """
import resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.run(sys.argv[1:]).returncode
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, file=sys.stderr)
sys.exit(status)
"""


def measure_step(*arguments, cwd, **more):
    """Run `python -m loupe` alone; returns seconds and peak memory in MB.

    A small process starts it: a child's peak counts what its parent had when it was made.
    """
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "loupe", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=build_env(**more), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    seconds, memory = map(float, done.stderr.split()[-2:])
    return seconds, memory


def open_store(folder):
    """A client of the MLflow store in a folder."""
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/mlflow.db")


def list_runs(folder):
    """Every run of the store in a folder, newest first."""
    client = open_store(folder)
    return client.search_runs([found.experiment_id for found in client.search_experiments()])
