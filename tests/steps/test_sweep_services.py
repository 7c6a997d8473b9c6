"""The PostgreSQL server, MLflow server and Dask cluster that other tests use; two processes that share a study."""

import os
import socket
import subprocess
import sys
from collections import Counter
from urllib.parse import urlsplit

import optuna
import psutil
import psycopg
import pytest
import services
from jobs import build_env

pytestmark = [
    pytest.mark.slow(60),
    pytest.mark.xdist_group("sweep services"),
]  # one process: the tests share the servers

# Runs ten of the enqueued trials of a study.
TEN_TRIALS = """
import os, sys, time, optuna
def value(trial):
    trial.set_user_attr("pid", os.getpid())
    time.sleep(0.05)
    return trial.suggest_int("point", 0, 1000)
optuna.load_study(study_name="twenty", storage=sys.argv[1]).optimize(value, n_trials=10)
"""


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory):
    with services.postgresql(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    with services.mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture(scope="module")
def dask_scheduler(tmp_path_factory):
    with services.dask_cluster(tmp_path_factory.mktemp("dask")) as address:
        yield address


def count_transitions(scheduler):
    """Return the number of changes of task states on a Dask scheduler, which grows with each task."""
    from distributed import Client

    with Client(scheduler, timeout=services.START_TIMEOUT_S, set_as_default=False) as client:
        return client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)


def test_two_processes_share_the_trials_of_a_study_in_postgresql(postgresql):
    study = optuna.create_study(study_name="twenty", storage=postgresql)
    for point in range(20):
        study.enqueue_trial({"point": point})
    command = [sys.executable, "-c", TEN_TRIALS, postgresql]
    both = [
        subprocess.Popen(command, env=build_env(), stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert sorted(trial.value for trial in study.trials) == list(range(20))
    assert Counter(trial.user_attrs["pid"] for trial in study.trials) == {process.pid: 10 for process in both}


def test_mlflow_server_stores_runs_and_serves_artifacts(mlflow_server):
    import mlflow

    client = mlflow.MlflowClient(mlflow_server, mlflow_server)
    run = client.create_run(client.create_experiment("served"), run_name="one")
    client.log_metric(run.info.run_id, "mae", 0.5, step=3)
    client.log_text(run.info.run_id, "kept", "notes/one.txt")
    client.set_terminated(run.info.run_id)
    found = client.get_run(run.info.run_id)
    assert found.info.artifact_uri.startswith("mlflow-artifacts:")  # through the server
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"mae": 0.5})
    assert mlflow.artifacts.load_text(f"{mlflow_server}/api/2.0/mlflow-artifacts/artifacts/"
                                      f"{found.info.experiment_id}/{run.info.run_id}/artifacts/notes/one.txt"
                                      ) == "kept"  # fmt: skip


def test_dask_cluster_has_two_workers_with_one_thread(dask_scheduler):
    from distributed import Client

    before = count_transitions(dask_scheduler)
    with Client(dask_scheduler, timeout=services.START_TIMEOUT_S, set_as_default=False) as client:
        assert list(client.nthreads().values()) == [1, 1]
        workers = list(client.nthreads())
        pids = [client.submit(os.getpid, workers=[worker], pure=False).result(60) for worker in workers]
    assert len({*pids, os.getpid()}) == 3
    assert count_transitions(dask_scheduler) > before


@pytest.mark.parametrize("service", [services.postgresql, services.mlflow_server, services.dask_cluster])
def test_service_stops_all_its_processes_although_a_client_is_connected(service, tmp_path):
    this = psutil.Process()
    before = set(this.children(recursive=True))
    with service(tmp_path / "service") as url:
        address = urlsplit(url).hostname, urlsplit(url).port
        connect = psycopg.connect if service is services.postgresql else socket.create_connection
        connection = connect(url if service is services.postgresql else address)
        started = set(this.children(recursive=True)) - before
        assert len(started) >= {services.postgresql: 5, services.mlflow_server: 1, services.dask_cluster: 5}[service]
    assert not [process for process in started if services.is_alive(process)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    connection.close()
