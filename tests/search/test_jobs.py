"""Worker processes: they refuse what their machine does not see, and end with the process that started them."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from loupe.errors import LoupeError
from loupe.search import jobs, study_storage, worker, worker_pool
from loupe.tracking import liveness

SWEEP = {
    "study": {"name": "seen", "metric": "val/mae", "sampler": "grid"},
    "search": {"activation": ["tanh", "relu"]},
}


@pytest.fixture
def job(tmp_path):
    """A job of which nothing but its journal is to be seen here."""
    journal = tmp_path / "optuna.journal"
    study_storage.opened(str(journal))
    journal.touch()
    return jobs.Job(
        sweep=SWEEP, storage=str(journal), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", experiment_id="0",
        parent="none", dataset="/nowhere/photos-0123456789ab", digest="0123456789ab",
        source={"dataset": "/nowhere/photos", "smoke": False, "seed": 0}, place={"data_dir": "data", "threads": 1},
        trials=1, deadline=None, fresh=False,
    )  # fmt: skip


def test_a_journal_that_a_machine_does_not_see_is_not_made_there(job, tmp_path):
    os.unlink(job.storage)
    with pytest.raises(RuntimeError, match=rf"storage: '{job.storage}' is not seen by .*; give a database's URL"):
        jobs.start(job)
    assert not os.path.exists(job.storage)


@pytest.mark.slow
def test_a_dataset_that_a_machine_neither_sees_nor_can_prepare_is_refused_before_a_trial_is_taken(job):
    with pytest.raises(
        RuntimeError, match=r"dataset: '/nowhere/photos-0123456789ab' is neither seen by .* at an add"
    ):
        jobs.start(job)


def test_the_error_of_a_worker_shows_its_last_lines(job, tmp_path, monkeypatch):
    os.unlink(job.storage)
    with pytest.raises(RuntimeError) as caught:
        jobs.start(job)
    summary, *lines = str(caught.value).splitlines()
    assert summary == f"a worker died with status 1: {lines[-1].strip()}"
    assert "Traceback (most recent call last):" in lines[0]
    assert any("worker.py" in line for line in lines)
    noisy = tmp_path / "noisy"
    noisy.write_text("#!/bin/sh\nseq 1000 >&2\nexit 3\n")
    noisy.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(noisy))
    with pytest.raises(RuntimeError, match="a worker died with status 3: 1000") as caught:
        jobs.start(job)
    assert str(caught.value).splitlines()[1:] == [
        f"  {1001 - jobs.STDERR_LINES + n}" for n in range(jobs.STDERR_LINES)
    ]


def test_a_sweep_prints_the_last_lines_of_each_worker_that_died(job, monkeypatch, capsys):
    @contextmanager
    def executor(settings, workers):
        with ThreadPoolExecutor(workers) as threads:
            yield threads, lambda: workers

    def start(job):
        raise RuntimeError("a worker died with status 1: out of memory\n  Traceback\n  out of memory")

    monkeypatch.setattr(worker_pool, "_executor", executor)
    monkeypatch.setattr(worker_pool, "_reap", lambda *given: None)
    monkeypatch.setattr(worker_pool, "_open_trials", lambda *given: 1)
    monkeypatch.setattr(jobs, "start", start)
    settings = SimpleNamespace(workers=1, quiet=False)
    held = SimpleNamespace(sweep=SimpleNamespace(name="seen", trials=lambda: 1))
    with pytest.raises(LoupeError) as caught:
        worker_pool.supervise(settings, held, job, 1)
    assert str(caught.value).endswith("the last: a worker died with status 1: out of memory")
    shown = "sweep seen: a worker died with status 1: out of memory\n  Traceback\n  out of memory\n"
    assert capsys.readouterr().out == shown * worker_pool.DEATHS


def test_heartbeats_go_on_after_any_exception(monkeypatch):
    raised, beats = [ValueError("no answer")], threading.Event()

    def beat(run_id):
        if raised:
            raise raised.pop()
        beats.set()

    monkeypatch.setattr(liveness, "send_heartbeat", beat)
    monkeypatch.setattr(worker, "BEAT", 0.0)
    life = worker.Life(os.getppid())
    life.of("run")
    try:
        assert beats.wait(20)
    finally:
        life.end()


LIVES_ON = """
import time
from loupe.search import worker
worker.MERCY = 1.0
worker.Life({parent})
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        {then}
"""


@pytest.mark.parametrize("then", ["break", "pass"], ids=["heeds", "ignores"])
def test_a_worker_ends_when_the_process_that_started_it_is_killed(then):
    code = LIVES_ON.format(parent="int(__import__('sys').argv[1])", then=then)
    starter = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {code!r}, str(os.getpid())])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        time.sleep(2)
        assert is_alive(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    for _ in range(200):
        if not is_alive(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("it lives on")


def is_alive(pid):
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
