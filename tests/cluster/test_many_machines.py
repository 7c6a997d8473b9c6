"""One scheduler and three machines, of which some are lost while others join: the same comes out as from one."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack

import optuna
import pytest
import services
from hosts import cut_off, hosts, trials_of
from jobs import build_env, list_runs, loupe

from loupe.config import parse_settings
from loupe.data.dataset import Dataset
from loupe.data.preparation import prepare
from loupe.search.study import OWNER

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("many machines")]

PATIENCE = 300  # seconds until something must have happened
SWEEP = """
# Command:   loupe sweep --sweep <this file> --storage postgresql://… --scheduler tcp://…
# Points:    2, each with 3 seeds
# Time:      a minute
# Expected:  each once, though machines are lost
[study]
name = "many-machines"
metric = "val/mae"
sampler = "grid"
repeats = 3
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
# A step as its command runs it, but that a machine which gives no sign counts as alive for three minutes.
IMPATIENT = """
import sys
from loupe.cli.main import run_step
from loupe.tracking import liveness
liveness.HEARTBEAT_TIMEOUT_S = 90.0
sys.exit(run_step(sys.argv[1], sys.argv[2:]))
"""


class Cluster:
    """The services on one host, and Dask workers on others, which can be lost and join."""

    def __init__(self, folder, stack, count):
        self.folder, self._stack = folder, stack
        own, *self._others = stack.enter_context(hosts(count + 1))
        self.storage = stack.enter_context(services.postgresql(folder / "postgresql", own.address))
        self.tracking = stack.enter_context(services.mlflow_server(folder / "mlflow", host=own.address))
        self.scheduler = stack.enter_context(services.dask_scheduler(folder / "scheduler", own.address))
        self.alive = []

    def join(self):
        """Another machine starts a worker; returns the process."""
        host = self._others.pop(0)
        worker = self._stack.enter_context(
            services.dask_worker(self.folder / host.name, self.scheduler, host.address, host.within)
        )
        self.alive.append(worker)
        return worker

    def wait(self):
        """Until the scheduler knows as many workers as are alive."""
        from distributed import Client

        with Client(self.scheduler, timeout=services.START_TIMEOUT_S, set_as_default=False) as client:
            until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == len(self.alive), "workers")

    def lose(self, worker):
        """A machine's power fails."""
        self.alive.remove(worker)
        cut_off(worker)

    def start(self, *arguments, cwd):
        """A step in the background, on this cluster."""
        command = [sys.executable, "-c", IMPATIENT, *map(str, arguments), "--scheduler", self.scheduler]
        step = subprocess.Popen(
            command, cwd=cwd, env=build_env(MLFLOW_TRACKING_URI=self.tracking), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._stack.callback(step.kill)
        return step


def until(happened, what, pause=0.2):
    """Wait until something has happened, looking every `pause` seconds; gives what that returns."""
    for _ in range(int(PATIENCE / pause)):
        if found := happened():
            return found
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {PATIENCE} s")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """PostgreSQL, an mlflow server, a scheduler, and workers on three machines; three more are spare."""
    with ExitStack() as stack:
        found = Cluster(tmp_path_factory.mktemp("cluster"), stack, 6)
        for _ in range(3):
            found.join()
        found.wait()
        yield found


def shards(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.npy")}


@pytest.fixture(scope="module")
def alone(photo_folder, tmp_path_factory):
    """The dataset as this machine prepares it alone."""
    given = {"source": str(photo_folder), "data_dir": str(tmp_path_factory.mktemp("alone")), **FIELDS}
    return prepare(parse_settings("preprocess", given | {"quiet": "true"}))


FIELDS = {"label_size": "30", "crop": "random", "crops": "16", "seed": "5"}


def test_a_dataset_is_the_same_though_a_machine_is_lost_and_another_joins(cluster, alone, photo_folder, tmp_path):
    fields = [word for name, value in FIELDS.items() for word in (f"--{name}", value)]
    step = cluster.start("preprocess", "--source", photo_folder, *fields, "--quiet", cwd=tmp_path)
    lost, *others = cluster.alive
    until(lambda: step.poll() is not None or len(list(tmp_path.glob("data/.*/labels-*"))) > 3, "shards", 0.02)
    for other in others:  # what is left to do waits for the one that joins
        os.killpg(other.pid, signal.SIGSTOP)
    cluster.lose(lost)
    cluster.join()
    cluster.wait()
    assert step.poll() is None
    for other in others:
        os.killpg(other.pid, signal.SIGCONT)
    printed = step.communicate(timeout=PATIENCE)[0]
    assert step.returncode == 0, printed
    (folder,) = (tmp_path / "data").iterdir()
    assert folder.name == alone.folder.name
    assert len(shards(folder)) == 19 * 4
    assert shards(folder) == shards(alone.folder)
    assert Dataset(folder).rows == alone.rows
    assert Dataset(folder).statistics == alone.statistics


def test_a_sweep_is_the_same_though_machines_are_lost_and_others_join(cluster, alone, tmp_path):
    import mlflow

    (tmp_path / "sweep.toml").write_text(SWEEP.format(dataset=alone.folder))
    step = cluster.start(
        "sweep", "sweep.toml", "--storage", cluster.storage, "--champion", "false", "--quiet", cwd=tmp_path
    )
    lost, owner = until(lambda: stopped_at_work(cluster, step, cluster.alive), "a trial at work")
    others = [worker for worker in cluster.alive if worker is not lost]
    _, trial = until(lambda: stopped_at_work(cluster, step, others), "another trial at work")
    cluster.lose(lost)
    os.kill(trial.ppid(), signal.SIGKILL)  # the worker alone; its nanny starts another
    trial.resume()
    cluster.join()
    until(lambda: not services.is_alive(trial), "the end of the trial whose worker is gone")
    printed = step.communicate(timeout=PATIENCE)[0]
    assert step.returncode == 0, printed
    assert not services.is_alive(owner)

    study = optuna.load_study(study_name="many-machines", storage=cluster.storage)
    found = {state: [t for t in study.trials if t.state.name == state] for state in ("COMPLETE", "FAIL")}
    assert len(found["COMPLETE"]) == 6
    assert len(found["COMPLETE"]) + len(found["FAIL"]) == len(study.trials)
    assert len(found["FAIL"]) == 2  # those that died with their workers
    runs = Counter(run.info.status for run in all_trials(mlflow.MlflowClient(cluster.tracking, cluster.tracking)))
    assert runs["FINISHED"] == 6
    assert runs.keys() <= {"FINISHED", "KILLED"}

    (tmp_path / "alone").mkdir()
    loupe("sweep", tmp_path / "sweep.toml", "--workers", 1, "--champion", "false", "--quiet", cwd=tmp_path / "alone")
    assert {run.info.status for run in list_runs(tmp_path / "alone")} == {"FINISHED"}
    ours = results(found["COMPLETE"])
    assert len(ours) == 6
    assert ours == results(study_of(tmp_path / "alone").trials)


def stopped_at_work(cluster, step, workers):
    """A worker and a process on its machine that is amid a trial, stopped there; None where none is."""
    assert step.poll() is None, f"the sweep ended: {step.communicate()[0]}"
    for worker in workers:
        for process in trials_of(worker):
            if process.pid in owners(cluster):
                process.suspend()
                if process.pid in owners(cluster):  # it has not ended the trial meanwhile
                    return worker, process
                process.resume()
    return None


def owners(cluster):
    """The processes that trials say they are run by."""
    study = optuna.load_study(study_name="many-machines", storage=cluster.storage)
    at_work = study.get_trials(states=[optuna.trial.TrialState.RUNNING])
    return {int(trial.user_attrs.get(OWNER, {}).get("loupe.pid", 0)) for trial in at_work}


def all_trials(client):
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return [run for run in found if run.data.tags.get("loupe.step") == "trial"]


def study_of(folder):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name="many-machines", storage=storage)


def results(trials):
    """Params and seed -> value."""
    return {
        tuple(sorted((name, str(value)) for name, value in trial.params.items())): trial.value for trial in trials
    }
