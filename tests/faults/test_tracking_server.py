"""A tracking server that becomes unreachable during a training, for some time or for good."""

import contextlib
import shutil
import sqlite3
import time

import mlflow
import pytest
import services
from jobs import Step, loupe, read_error

pytestmark = [pytest.mark.slow(120), pytest.mark.xdist_group("tracking server")]
EVERY = 100
TRAINING = (
    *("train", "--dataset", "set", "--network", "perceptron", "--hidden", "24,16", "--threads", "1"),
    *("--batch-size", "64", "--eval-every", str(EVERY), "--eval-images", "1"),
)


@pytest.fixture
def place(tmp_path, dataset):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set").symlink_to(dataset)
    return tmp_path


@contextlib.contextmanager
def training(place, url, steps, **more):
    """Run a training in the background; yields its process and the file of its output."""
    printed = place / "printed.txt"
    more |= {"MLFLOW_TRACKING_URI": url}
    process = Step(*TRAINING, "--steps", steps, cwd=place, output=(printed, printed), **more)
    try:
        yield process, printed
    finally:
        process.kill()


def client_of(url):
    return mlflow.MlflowClient(url, url)


def the_run(url):
    client = client_of(url)
    found = client.search_runs([known.experiment_id for known in client.search_experiments()])
    assert len(found) == 1, found
    return found[0]


def steps_of(url, run_id, metric="val/mae"):
    return [point.step for point in client_of(url).get_metric_history(run_id, metric)]


def wait_for_steps(url, process, step):
    """Wait until the server has this step; returns the run's id."""
    for _ in range(1200):
        assert process.poll() is None, "the training ended"
        with contextlib.suppress(AssertionError, mlflow.exceptions.MlflowException):
            run = the_run(url)
            if max(steps_of(url, run.info.run_id), default=0) >= step:
                return run.info.run_id
        time.sleep(0.1)
    raise AssertionError("the training did not start")


def records_of(place, run_id):
    """The number of buffered records."""
    with contextlib.closing(sqlite3.connect(place / "unsent-runs" / f"{run_id}.run.sqlite")) as database:
        return database.execute("SELECT count(*) FROM records").fetchone()[0]


def check_complete(url, run_id, steps):
    """Check that the run has each point of its curves once, its model, images and table, and no checkpoint."""
    run, client = client_of(url).get_run(run_id), client_of(url)
    for metric in ("val/mae", "loss", "train/learning_rate"):
        assert steps_of(url, run_id, metric) == list(range(0, steps + 1, EVERY)), metric
    assert run.info.status == "FINISHED"
    assert {"test/mae", "val/best_mae", "training_seconds"} <= run.data.metrics.keys()
    assert {"curves.png", "predictions.png", "test.json"} <= {item.path for item in client.list_artifacts(run_id)}
    assert "loupe.checkpoint" not in run.data.tags
    assert run.inputs.dataset_inputs
    model = client.get_logged_model(run.outputs.model_outputs[-1].model_id)
    assert model.status == "READY"
    linked = {metric.key: metric.value for metric in model.metrics}
    assert linked["val/mae"] == min(point.value for point in client.get_metric_history(run_id, "val/mae"))
    assert linked["test/mae"] == run.data.metrics["test/mae"]


def test_a_server_that_is_unreachable_for_some_time_gets_all_records_afterwards(place, tmp_path):
    port, steps, outage_s = services.find_free_port(), 4000, 10.0
    with contextlib.ExitStack() as running:
        url = running.enter_context(services.mlflow_server(tmp_path / "server", port))
        with training(place, url, steps) as (process, printed):
            run_id = wait_for_steps(url, process, EVERY)
            running.close()
            before = records_of(place, run_id)
            time.sleep(outage_s)
            assert records_of(place, run_id) > before + 5, "the training did not continue"
            assert process.poll() is None, "the training must last longer than the server is unreachable"
            with services.mlflow_server(tmp_path / "server", port):
                assert process.wait(300) == 0, printed.read_text()
                check_complete(url, run_id, steps)
                registered = loupe("register", "--run", run_id, cwd=place, MLFLOW_TRACKING_URI=url).stdout
                assert "models:/loupe/1: not champion: " in registered  # a short training
                promoted = loupe("register", "--version", 1, cwd=place, MLFLOW_TRACKING_URI=url).stdout
                assert "models:/loupe/1: champion: " in promoted
    assert not (place / "unsent-runs").exists()


def test_sync_uploads_the_run_to_the_same_or_another_server(place, tmp_path):
    port, steps = services.find_free_port(), 1000
    with contextlib.ExitStack() as running:
        url = running.enter_context(services.mlflow_server(tmp_path / "server", port))
        with training(place, url, steps, MLFLOW_HTTP_REQUEST_TIMEOUT="10") as (process, file):
            run_id = wait_for_steps(url, process, EVERY)
            running.close()
            status, printed = process.wait(400), file.read_text()
    assert status == 1, printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith(f"loupe train: error: tracking: {url} is unreachable; run {run_id} is buffered in ")
    assert last.endswith("`loupe sync` uploads it")
    assert "Traceback" not in printed
    assert "is unreachable" in read_error(loupe("sync", cwd=place, status=1, MLFLOW_TRACKING_URI=url))
    shutil.copytree(place / "unsent-runs", place / "copied")
    for server, kept in (("server", "unsent-runs"), ("another", "copied")):
        with services.mlflow_server(tmp_path / server, port):
            printed = loupe("sync", "--folder", kept, cwd=place, MLFLOW_TRACKING_URI=url).stdout
            found = the_run(url).info.run_id
            assert (found == run_id) == (server == "server")
            assert found in printed
            check_complete(url, found, steps)
            assert not (place / kept).exists()
            assert "no run was uploaded" in loupe("sync", cwd=place, MLFLOW_TRACKING_URI=url).stdout


def test_a_step_with_an_unreachable_server_fails_within_a_minute_and_writes_nothing(place):
    url = f"http://{services.LOOPBACK}:{services.find_free_port()}"
    before = sorted(place.rglob("*"))
    started = time.monotonic()
    failed = loupe("train", "--dataset", "set", "--smoke", cwd=place, status=1, MLFLOW_TRACKING_URI=url)
    assert read_error(failed) == f"loupe train: error: tracking: {url} is unreachable"
    assert time.monotonic() - started < 60
    assert sorted(place.rglob("*")) == before
