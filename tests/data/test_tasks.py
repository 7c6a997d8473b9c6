"""Tasks run in local processes, which end with the process that started them."""

import operator
import os
import signal
import subprocess
import sys
import time
import warnings

import psutil
import pytest

from loupe.data.tasks import run_tasks
from loupe.errors import LoupeError

SCRIPT = """
import operator, sys
from loupe.data.tasks import run_tasks
print(sorted(run_tasks(operator.add, iter([(1, 2), (3, 4)]))), "distributed" in sys.modules)
"""
SLEEPER = """
import time
from loupe.data.tasks import run_tasks
for _ in run_tasks(time.sleep, iter([(0.01,), (0.01,), (60,), (60,)])):
    print("working", flush=True)
"""


def test_every_task_has_its_result():
    assert sorted(run_tasks(operator.mul, ((number, 2) for number in range(50)))) == list(range(0, 100, 2))


def test_tasks_are_read_only_as_processes_become_free():
    read = []

    def tasks():
        for number in range(1000):
            read.append(number)
            yield (0.002 if number else 0.0,)

    results = run_tasks(time.sleep, tasks())
    next(results)
    assert len(read) < 200
    results.close()


def test_an_error_in_a_task_is_raised_and_leaves_the_warning_filters_as_they_were():
    before = list(warnings.filters)
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(operator.truediv, iter([(1, 1), (1, 0), (1, 1)])))
    assert warnings.filters == before


def test_a_killed_process_is_reported_in_one_line():
    with pytest.raises(LoupeError, match=r"^a process was killed, probably because the machine ran out of memory$"):
        list(run_tasks(signal.raise_signal, iter([(signal.SIGKILL,)] * 4)))


def test_tasks_run_from_a_script_on_standard_input_without_a_main_guard_or_dask():
    done = subprocess.run([sys.executable, "-"], input=SCRIPT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[3, 7] False\n", "")


def test_processes_have_the_current_environment(monkeypatch):
    list(run_tasks(os.getpid, iter([()])))
    monkeypatch.setenv("LOUPE_TEST", "new")
    assert list(run_tasks(os.getenv, iter([("LOUPE_TEST",)] * 4))) == ["new"] * 4


def test_no_process_is_left_after_the_last_result():
    pids = set(run_tasks(os.getpid, iter([()] * 20)))
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_processes_end_when_the_client_does(number):
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as client:
        assert client.stdout.readline() == b"working\n"
        children = psutil.Process(client.pid).children(recursive=True)
        assert len([child for child in children if "loky" in " ".join(child.cmdline())]) >= 2
        os.kill(client.pid, number)
        client.wait(10)
    assert not psutil.wait_procs(children, timeout=10)[1]
