"""Worker processes: their error messages and shutdown."""

import io
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from types import SimpleNamespace

import mlflow
import optuna
import psutil
import pytest
from optuna.trial import TrialState

from loupe.config.steps import Sweep
from loupe.errors import LoupeError
from loupe.imaging import threads
from loupe.search import study_storage, worker, worker_job, worker_pool
from loupe.search.gpus import group_gpus
from loupe.search.study import SweepStudy
from loupe.search.sweep_file import SweepFile
from loupe.search.trial_attributes import OWNER, RUN
from loupe.tracking import liveness, store, trials

SWEEP = {
    "study": {"name": "made-up", "metric": "val/mae", "sampler": "grid"},
    "search": {"activation": ["tanh", "relu"]},
}


@pytest.fixture
def job(tmp_path):
    """A job whose journal exists and whose dataset does not."""
    journal = tmp_path / "optuna.journal"
    study_storage.open_storage(str(journal))
    journal.touch()
    return worker_job.WorkerJob(
        sweep=SWEEP, storage=str(journal), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", experiment_id="0",
        parent="none", dataset="/nowhere/photos-0123456789ab", digest="0123456789ab",
        source={"dataset": "/nowhere/photos", "smoke": False, "seed": 0, "scales": ["3:2"]}, data_dir="data",
        threads=1, max_trials=1, timeout=math.inf, fresh=False,
    )  # fmt: skip


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run_in_threads(run):
    """Return a replacement of `_open_executor`: `run` takes the place of a worker process."""

    @contextmanager
    def executor(settings, workers, gpus):
        with ThreadPoolExecutor(workers) as threads:
            yield threads, run, lambda: workers

    return executor


def test_worker_does_not_create_a_missing_journal(job):
    os.unlink(job.storage)
    with pytest.raises(RuntimeError, match=rf"storage: must be a database URL: .* cannot read '{job.storage}'"):
        worker_job.run_worker(job)
    assert not os.path.exists(job.storage)


@pytest.mark.slow
def test_worker_refuses_a_dataset_that_it_can_neither_read_nor_prepare(job):
    with pytest.raises(
        RuntimeError, match=r"dataset: .* can neither read '/nowhere/photos-0123456789ab' nor prepare"
    ):
        worker_job.run_worker(job)


def test_error_of_a_worker_contains_the_end_of_its_stderr(job, tmp_path, monkeypatch):
    os.unlink(job.storage)
    with pytest.raises(RuntimeError) as caught:
        worker_job.run_worker(job)
    summary, *lines = str(caught.value).splitlines()
    assert summary == f"a worker exited with status 1: {lines[-1].strip()}"
    assert "Traceback (most recent call last):" in lines[0]
    assert any("worker.py" in line for line in lines)
    noisy = tmp_path / "noisy"
    noisy.write_text("#!/bin/sh\necho 1\necho 2\nseq 1000 >&2\nexit 3\n")
    noisy.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(noisy))
    with pytest.raises(RuntimeError, match="a worker exited with status 3: 1000") as caught:
        worker_job.run_worker(job)
    shown = worker_job.MAX_STDERR_LINES
    assert str(caught.value).splitlines()[1:] == [f"  {1001 - shown + n}" for n in range(shown)]
    assert caught.value.trial_count == 2
    sent = pickle.loads(pickle.dumps(caught.value))  # as on a Dask cluster
    assert (str(sent), sent.trial_count) == (str(caught.value), 2)


@pytest.mark.parametrize(("max_trials", "shares"), [(10, [10, 6]), (30, [25, 25, 1]), (0, [25, 25, 25])])
def test_trials_of_a_crashed_worker_count_as_trials_of_the_sweep(max_trials, shares, job, monkeypatch):
    given = []

    def run(job):
        given.append(job.max_trials)
        if len(given) == 1:
            raise worker_job.WorkerError("a worker exited with status -9: it printed nothing", 4)
        return job.max_trials

    monkeypatch.setattr(worker_pool, "_open_executor", run_in_threads(run))
    monkeypatch.setattr(worker_pool, "_close_orphans", lambda *given: None)
    monkeypatch.setattr(worker_pool, "_enqueue_trials", lambda *_: len(given) < len(shares))
    monkeypatch.setattr(worker_pool, "POLL_INTERVAL_S", 0.01)
    study = SimpleNamespace(sweep=SimpleNamespace(name="made-up", count_trials=lambda: 1))
    job = replace(job, max_trials=max_trials)
    worker_pool.run_workers(SimpleNamespace(workers=1, quiet=True), study, job, 1)
    assert given == shares


def test_a_trial_that_reuses_a_result_is_alive_although_the_run_of_the_result_has_ended(monkeypatch):
    """The tag of the run that is reused must not replace those of the worker."""
    owner = liveness.make_process_tags()
    ended = owner | {"loupe.pid": "2147483647", "loupe.started": "1", "loupe.heartbeat": "1"}
    found = {"ended": ended, "own": owner, "none": {}}
    monkeypatch.setattr(trials, "get_tags", lambda run: found[run])
    monkeypatch.setattr(trials, "reopen_sweep_run", lambda parent: None)
    monkeypatch.setattr(liveness, "close_orphaned_runs", lambda: None)
    alive = {}

    def fail_orphans(is_alive):
        for run in found:
            alive[run] = is_alive(SimpleNamespace(user_attrs={OWNER: owner, RUN: run}))
        alive["dead"] = is_alive(SimpleNamespace(user_attrs={OWNER: ended, RUN: "none"}))
        return []

    worker_pool._close_orphans(SimpleNamespace(parent="parent", fail_orphans=fail_orphans))
    assert alive == {"ended": True, "own": True, "none": True, "dead": False}


def test_worker_prints_each_trial_and_waits_for_a_restarted_database(job, monkeypatch, capsys):
    study = SweepStudy(SweepFile.model_validate(SWEEP), study_storage.open_storage(job.storage), job.digest, "none")
    study.enqueue_missing(64)

    def fail_first(function):
        failures = [optuna.exceptions.StorageInternalError("restart")]

        def call(*given, **named):
            if failures:
                raise failures.pop()
            return function(*given, **named)

        return call

    code = SimpleNamespace(
        open_dataset=lambda job: None,
        run_trial=lambda trial, study, job: study.complete_trial(trial, TrialState.COMPLETE, [0.1]),
    )
    monkeypatch.setitem(sys.modules, "loupe.search.trial", code)  # this module imports TensorFlow
    monkeypatch.setattr(store, "connect", lambda *given: None)
    monkeypatch.setattr(liveness, "is_running", lambda run_id: True)
    monkeypatch.setattr(worker, "IDLE_TIMEOUT_S", 0.0)
    monkeypatch.setattr(worker, "POLL_INTERVAL_S", 0.0)
    monkeypatch.setattr(study_storage, "RETRY_INTERVAL_S", 0.0)
    monkeypatch.setattr(optuna, "create_study", fail_first(optuna.create_study))
    monkeypatch.setattr(SweepStudy, "claim_trial", fail_first(SweepStudy.claim_trial))
    monkeypatch.setattr(SweepStudy, "count_open", fail_first(SweepStudy.count_open))
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asdict(replace(job, max_trials=9)))))
    worker.main(os.getppid())
    assert capsys.readouterr().out == "1\n2\n"
    assert {trial.state for trial in study.optuna_study.trials} == {TrialState.COMPLETE}


def test_sweep_prints_the_error_of_each_crashed_worker(job, monkeypatch, capsys):
    timeouts = []

    def run(job):
        timeouts.append(job.timeout)
        raise RuntimeError("a worker exited with status 1: out of memory\n  Traceback\n  out of memory")

    monkeypatch.setattr(worker_pool, "_open_executor", run_in_threads(run))
    monkeypatch.setattr(worker_pool, "_close_orphans", lambda *given: None)
    monkeypatch.setattr(worker_pool, "_enqueue_trials", lambda *given: 1)
    settings = SimpleNamespace(workers=1, quiet=False)
    study = SimpleNamespace(sweep=SimpleNamespace(name="made-up", count_trials=lambda: 1))
    with pytest.raises(LoupeError) as caught:
        worker_pool.run_workers(settings, study, replace(job, timeout=60.0), 1)
    assert str(caught.value).endswith("the last error: a worker exited with status 1: out of memory")
    assert 60 >= timeouts[0] > timeouts[-1] > 0  # a worker gets the remaining time, because its clock may be wrong
    shown = "sweep made-up: a worker exited with status 1: out of memory\n  Traceback\n  out of memory\n"
    assert capsys.readouterr().out == shown * worker_pool.MAX_CRASHES


def test_sweep_continues_until_no_trial_waits_although_a_worker_lost_its_trial(job, monkeypatch):
    sweep = SweepFile.model_validate(SWEEP)
    study = SweepStudy(sweep, optuna.storages.InMemoryStorage(), "digest", "parent")
    lost = []

    def run(job):
        done = 0
        while done < job.max_trials and (trial := study.claim_trial({"loupe.host": "elsewhere"})):
            if not lost:
                lost.extend(study.fail_orphans(lambda trial: False))
            study.complete_trial(trial, TrialState.COMPLETE, 0.1)
            done += 1
        return done

    monkeypatch.setattr(worker_pool, "_open_executor", run_in_threads(run))
    monkeypatch.setattr(worker_pool, "_close_orphans", lambda *given: None)
    monkeypatch.setattr(worker_pool, "POLL_INTERVAL_S", 0.01)
    job = replace(job, max_trials=0)
    worker_pool.run_workers(SimpleNamespace(workers=1, quiet=True), study, job, 1)
    assert study.count_open() == 0
    assert sorted(trial.state.name for trial in study.optuna_study.trials) == ["COMPLETE", "COMPLETE", "FAIL"]


def test_sweep_opens_its_run_again_unless_another_run_continues_it(tmp_path, monkeypatch):
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        client = mlflow.MlflowClient()
        run_id = client.create_run("0").info.run_id
        for closed in (False, True):
            if closed:
                client.set_terminated(run_id, "KILLED")
            trials.reopen_sweep_run(run_id)
            assert liveness.is_running(run_id)
        trials.adopt_trials(run_id, "another")
        with pytest.raises(LoupeError, match=r"^sweep: run another continues the trials of this sweep$"):
            trials.reopen_sweep_run(run_id)
        assert not liveness.is_running(run_id)
    finally:
        mlflow.set_tracking_uri(before)


def test_interrupted_pool_terminates_its_workers_and_no_other_child_process(job, tmp_path, monkeypatch):
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    with subprocess.Popen([str(sleeper)]) as unrelated:
        monkeypatch.setattr(sys, "executable", str(sleeper))
        before = set(psutil.Process().children())
        try:
            with suppress(KeyboardInterrupt), worker_pool._open_executor(Sweep(), 2, []) as (executor, run, _):
                futures = [executor.submit(run, job) for _ in range(2)]
                while len(workers := set(psutil.Process().children()) - before) < 2:
                    time.sleep(0.01)
                raise KeyboardInterrupt
            assert all("status -15" in str(future.exception()) for future in futures)
            assert not any(is_alive(process.pid) for process in workers)
            assert unrelated.poll() is None
        finally:
            unrelated.kill()


def test_closed_pool_starts_no_worker(job):
    workers = worker_pool.LocalWorkers()
    workers.close()
    before = psutil.Process().children()
    with pytest.raises(RuntimeError, match="closed"):
        workers.run(job)
    assert psutil.Process().children() == before


STUB = """#!/bin/sh
echo "$CUDA_VISIBLE_DEVICES" > {folder}/$$
until [ $(ls {folder} | wc -l) -ge 4 ]; do sleep 0.02; done
echo 1
"""


def test_each_local_worker_has_a_gpu_of_its_own(job, tmp_path, monkeypatch):
    folder, stub = tmp_path / "started", tmp_path / "stub"
    folder.mkdir()
    stub.write_text(STUB.format(folder=folder))
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-0a,6, 1")
    monkeypatch.setattr(worker_pool, "_close_orphans", lambda *given: None)
    monkeypatch.setattr(worker_pool, "_enqueue_trials", lambda *given: 4)
    study = SimpleNamespace(sweep=SweepFile.model_validate(SWEEP))
    worker_pool.run_workers(Sweep(workers=4, quiet=True), study, replace(job, max_trials=4), 4)
    assert sorted(file.read_text() for file in folder.iterdir()) == ["1\n", "4\n", "6\n", "GPU-0a\n"]


def test_a_new_worker_gets_the_gpu_that_the_fewest_workers_use(job, monkeypatch):
    started = []
    monkeypatch.setattr(worker_pool, "start_worker", lambda job, gpus: started.append(gpus) or len(started))
    monkeypatch.setattr(worker_pool, "wait_for_worker", lambda process, job: waiting.pop()() if waiting else 0)
    workers = worker_pool.LocalWorkers(["0", "1"])
    waiting = [lambda: workers.run(job)] * 3  # each worker ends after the next one
    workers.run(job)
    workers.run(job)
    assert started == ["0", "1", "0", "1", "0"]


LISTED = """#!/bin/sh
echo "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-00aa-1)"
{0}echo "  MIG 3g.40gb     Device  0: (UUID: MIG-00bb-1)"
echo "GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-00aa-2)"
"""


@pytest.mark.parametrize(
    ("visible", "listed", "fields", "groups"),
    [
        ("0,1,2,3", "", {}, ["0", "1", "2", "3"]),
        (" 3, MIG-a/1", "", {}, ["3", "MIG-a/1"]),
        ("2,-1,3", LISTED, {}, ["2"]),
        ("", LISTED, {}, []),
        ("none", LISTED, {}, []),
        (None, LISTED.format("# "), {}, ["GPU-00aa-1", "GPU-00aa-2"]),
        (None, LISTED.format(""), {}, ["MIG-00bb-1"]),
        (None, "#!/bin/sh\necho no driver\nexit 9\n", {}, []),
        (None, "", {}, []),
        ("0,1,2,3,4", "", {"train": {"devices": 2}}, ["0,1", "2,3"]),
        ("0,1", "", {"train": {"devices": "4"}}, ["0,1"]),
        ("0,1", "", {"train": {"devices": "all"}}, ["0,1"]),
        ("0,1", "", {"search": {"perceptron.devices": [1, 2]}}, ["0,1"]),
    ],
)
def test_gpus_are_grouped_by_the_number_that_a_trial_uses(visible, listed, fields, groups, tmp_path, monkeypatch):
    if listed:
        (tmp_path / "nvidia-smi").write_text(listed)
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    sweep = SweepFile.model_validate(SWEEP | fields)
    assert group_gpus(sweep) == groups
    for backend in ("jax", "tensorflow"):
        monkeypatch.setenv("KERAS_BACKEND", backend)
        uses_gpus = backend == "jax" and groups
        assert worker_pool.count_workers(None, sweep) == (len(groups) if uses_gpus else threads.count_cores())


WORKER_LOOP = """
import sys, time
from loupe.search import worker
worker.SHUTDOWN_TIMEOUT_S = 1.0
worker.ParentWatcher(int(sys.argv[1]))
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        {then}
"""


@pytest.mark.parametrize("then", ["break", "pass"], ids=["exits", "ignores"])
def test_worker_exits_when_its_parent_process_is_killed(then):
    code = WORKER_LOOP.format(then=then)
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
    raise AssertionError("the worker still runs")
