"""The measurement of memory counts all processes, and stops a command that takes too much."""

import subprocess
import sys

import pytest
from jobs import build_env
from peak_memory import MemoryWatch, measure_command

ALLOCATE = "import sys; print('ready', flush=True); data = b'x' * {}; sys.stdin.read()"
TWO_PROCESSES = """
import subprocess, sys
data = b"x" * 10**8
child = "data = b'x' * 2 * 10**8; print(flush=True); input()"
with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
    process.stdout.readline()
    process.communicate(b"\\n")
sys.exit(3)
"""


def test_peak_counts_a_process_and_its_children(tmp_path):
    done = measure_command([sys.executable, "-c", ALLOCATE.format(2 * 10**8)], tmp_path, build_env())
    assert (done.status, done.stdout, done.stderr, done.killed) == (0, "ready\n", "", "")
    assert 200 < done.peak_mb < 260
    done = measure_command([sys.executable, "-c", TWO_PROCESSES], tmp_path, build_env())
    assert done.status == 3
    assert 240 < done.peak_mb < 400  # the larger process alone has 210


@pytest.mark.parametrize(("limits", "reason"), [({"kill_mb": 100}, "memory"), ({"timeout_s": 0.1}, "time")])
def test_a_command_beyond_its_limits_is_killed(limits, reason, tmp_path):
    program = "data = b''\nwhile True: data = b'x' * 3 * 10**8"
    done = measure_command([sys.executable, "-c", program], tmp_path, build_env(), **limits)
    assert done.killed == reason
    assert done.status == -9


def test_a_running_process_is_watched():
    command = [sys.executable, "-c", "input(); data = b'x' * 10**8; del data; print(flush=True); input()"]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with MemoryWatch(process.pid) as watch:
            print(file=process.stdin, flush=True)
            process.stdout.readline()
        process.communicate("\n")
    assert 100 < watch.peak_mb < 160
