"""Datasets and sweeps on three machines have the results of one machine, even if machines fail and others join."""

import os
import signal
import time
from collections import Counter
from contextlib import ExitStack
from functools import cached_property

import mlflow
import optuna
import pytest
import services
from hosts import create_hosts, cut_power, list_trial_processes
from jobs import Step, list_runs, loupe

from loupe.config import parse_settings
from loupe.data.dataset import Dataset
from loupe.data.preparation import prepare
from loupe.search.trial_attributes import OWNER, RUN
from loupe.tracking import liveness

pytestmark = [pytest.mark.slow(120), pytest.mark.xdist_group("many machines")]

TIMEOUT_S = 300
FIELDS = {"label_size": "30", "crop": "random", "labels_per_photo": "16", "seed": "5"}
SWEEP = """
[study]
name = "many-machines"
metric = "val/mae"
sampler = "grid"
repeats = 2
[train]
dataset = "{dataset}"
network = "perceptron"
hidden = "24,16"
batch_size = 16
steps = 200
eval_every = 100
eval_images = 2
[search]
activation = ["tanh", "relu"]
"""


class Cluster:
    """Services on one host and Dask workers on others, which can fail and join."""

    def __init__(self, folder, stack, count):
        self.folder, self._stack = folder, stack
        own, *self._others = stack.enter_context(create_hosts(count + 1))
        self.storage = stack.enter_context(services.postgresql(folder / "postgresql", own.address))
        self.tracking = stack.enter_context(services.mlflow_server(folder / "mlflow", host=own.address))
        self.scheduler = stack.enter_context(services.dask_scheduler(folder / "scheduler", own.address))
        self.alive = []

    @cached_property
    def study(self):
        """The study of the sweep. Each load of a study opens more connections to the database, which are limited."""
        return optuna.load_study(study_name="many-machines", storage=self.storage)

    def join(self):
        """Start a Dask worker on another host; returns its process."""
        host = self._others.pop(0)
        worker = self._stack.enter_context(
            services.dask_worker(self.folder / host.name, self.scheduler, host.address, host.within)
        )
        self.alive.append(worker)
        return worker

    def wait_for_workers(self):
        """Wait until the scheduler knows all workers that are alive, and no others."""
        from distributed import Client

        with Client(self.scheduler, timeout=services.START_TIMEOUT_S, set_as_default=False) as client:
            wait_until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == len(self.alive))

    def fail(self, worker):
        """Kill a worker and all processes that it started, as a power failure does."""
        self.alive.remove(worker)
        cut_power(worker)

    def start(self, *arguments, cwd):
        """Start a step on this cluster in the background; returns its process and the file of its output."""
        printed = cwd / "printed.txt"
        more = {"output": (printed, printed), "MLFLOW_TRACKING_URI": self.tracking}
        step = Step(*arguments, "--scheduler", self.scheduler, cwd=cwd, **more)
        self._stack.callback(step.kill)
        return step, printed


def wait_until(condition, interval=0.2):
    """Wait until a condition is true; returns its value."""
    started = time.monotonic()
    while time.monotonic() - started < TIMEOUT_S:
        if value := condition():
            return value
        time.sleep(interval)
    raise AssertionError(f"timeout after {TIMEOUT_S} s")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """PostgreSQL, an MLflow server, a Dask scheduler and workers on three of six hosts."""
    with ExitStack() as stack:
        found = Cluster(tmp_path_factory.mktemp("cluster"), stack, 6)
        for _ in range(3):
            found.join()
        found.wait_for_workers()
        yield found


def read_shards(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.npy")}


@pytest.fixture(scope="module")
def local_dataset(photo_folder, tmp_path_factory):
    """The dataset that this machine prepares without a cluster."""
    settings = {"source": str(photo_folder), "data_dir": str(tmp_path_factory.mktemp("alone")), **FIELDS}
    return prepare(parse_settings("preprocess", settings | {"quiet": "true"}))


def test_dataset_is_the_same_although_a_machine_fails_and_another_joins(
    cluster, local_dataset, photo_folder, tmp_path
):
    fields = [word for name, value in FIELDS.items() for word in (f"--{name}", value)]
    step, printed = cluster.start("preprocess", "--source", photo_folder, *fields, "--quiet", cwd=tmp_path)
    failed, *others = cluster.alive
    wait_until(lambda: step.poll() is not None or len(list(tmp_path.glob("data/.*/labels-*"))) > 3, 0.02)
    for other in others:  # so that the new machine gets some of the remaining shards
        os.killpg(other.pid, signal.SIGSTOP)
    cluster.fail(failed)
    cluster.join()
    cluster.wait_for_workers()
    assert step.poll() is None
    for other in others:
        os.killpg(other.pid, signal.SIGCONT)
    assert step.wait(TIMEOUT_S) == 0, printed.read_text()
    (folder,) = (tmp_path / "data").iterdir()
    assert folder.name == local_dataset.folder.name
    assert len(read_shards(folder)) == 19 * 4
    assert read_shards(folder) == read_shards(local_dataset.folder)
    assert Dataset(folder).rows == local_dataset.rows
    assert Dataset(folder).statistics == local_dataset.statistics


def test_sweep_has_the_same_results_although_machines_fail_and_others_join(cluster, local_dataset, tmp_path):
    client = mlflow.MlflowClient(cluster.tracking, cluster.tracking)
    (tmp_path / "sweep.toml").write_text(SWEEP.format(dataset=local_dataset.folder))
    step, printed = cluster.start("sweep", "sweep.toml", "--storage", cluster.storage, "--quiet", cwd=tmp_path)
    failed, killed, first_run = wait_until(lambda: suspend_trial(cluster, step, cluster.alive))
    others = [worker for worker in cluster.alive if worker is not failed]
    _, orphan, second_run = wait_until(lambda: suspend_trial(cluster, step, others))
    cluster.fail(failed)
    os.kill(orphan.ppid(), signal.SIGKILL)  # only the Dask worker, which its nanny restarts
    orphan.resume()
    cluster.join()
    wait_until(lambda: not services.is_alive(orphan))
    for run_id in (first_run, second_run):  # instead of waiting for HEARTBEAT_TIMEOUT_S
        client.set_tag(run_id, liveness.HEARTBEAT_TAG, f"{time.time() - 2 * liveness.HEARTBEAT_TIMEOUT_S:.0f}")
    assert step.wait(TIMEOUT_S) == 0, printed.read_text()
    assert not services.is_alive(killed)

    finished = cluster.study.trials
    trials = {state: [trial for trial in finished if trial.state.name == state] for state in ("COMPLETE", "FAIL")}
    assert len(trials["COMPLETE"]) == 4
    assert {trial.user_attrs[RUN] for trial in trials["FAIL"]} == {first_run, second_run}
    assert len(finished) == 6
    runs = list_trial_runs(client)
    assert Counter(run.info.status for run in runs) == {"FINISHED": 4, "KILLED": 2}
    trained = {run.info.run_id: run.data.params for run in runs if run.info.status == "FINISHED"}
    assert trained.keys() == {trial.user_attrs[RUN] for trial in trials["COMPLETE"]}
    for trial in trials["COMPLETE"]:
        params = trained[trial.user_attrs[RUN]]
        assert (params["activation"], params["seed"]) == (trial.params["activation"], str(trial.params["seed"]))
        assert (params["hidden"], params["steps"]) == ("24,16", "200")
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    parent = client.get_run(parent)
    assert (parent.info.status, parent.data.tags["loupe.step"]) == ("FINISHED", "sweep")
    (version,) = client.search_model_versions("name = 'loupe'")
    assert version.run_id in trained
    assert not list(tmp_path.rglob("mlflow.db"))  # no local store

    (tmp_path / "local").mkdir()
    arguments = ["sweep", tmp_path / "sweep.toml", "--workers", 1, "--register-best", "false", "--quiet"]
    loupe(*arguments, cwd=tmp_path / "local", in_one_process=True)
    assert {run.info.status for run in list_runs(tmp_path / "local")} == {"FINISHED"}
    results = find_results(trials["COMPLETE"])
    assert len(results) == 4
    assert results == find_results(load_study(tmp_path / "local").trials)


def suspend_trial(cluster, step, workers):
    """Suspend a process that trains a trial on the host of one of these workers.

    Returns:
        The worker, the process and the id of the trial's run, or None if no trial is being trained there.
    """
    assert step.poll() is None, "the sweep ended"
    for worker in workers:
        for process in list_trial_processes(worker):
            if process.pid not in find_open_runs(cluster):
                continue
            process.suspend()
            if run_id := find_open_runs(cluster).get(process.pid):  # the trial has not ended meanwhile
                return worker, process, run_id
            process.resume()
    return None


def find_open_runs(cluster):
    """Map the id of each process that trains a trial to the id of the trial's run."""
    trials = cluster.study.get_trials(states=[optuna.trial.TrialState.RUNNING])
    return {int(trial.user_attrs[OWNER]["loupe.pid"]): trial.user_attrs[RUN] for trial in trials
            if {OWNER, RUN} <= trial.user_attrs.keys()}  # fmt: skip


def list_trial_runs(client):
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return [run for run in found if run.data.tags.get("loupe.step") == "trial"]


def load_study(folder):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name="many-machines", storage=storage)


def find_results(trials):
    """Map the parameters of each trial, with its seed, to its value."""
    return {
        tuple(sorted((name, str(value)) for name, value in trial.params.items())): trial.value for trial in trials
    }
