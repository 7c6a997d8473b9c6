"""The project under `mlflow run`, from a checkout and from a git address, and as an installed wheel."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time

import pytest
from jobs import ROOT, build_env, list_runs, open_store
from PIL import Image
from services import LOOPBACK, find_free_port

PLOTS = ("history", "importances", "parallel", "slice")
# Parameters of all entry points of MLproject but `sweep`. MLproject does not list learning_rate of train.
STEPS = {
    "main": {"smoke": "true"},
    "preprocess": {"smoke": "true"},
    "train": {"smoke": "True", "network": "perceptron", "learning_rate": "1e-2", "scale": "2"},
    "evaluate": {"smoke": "true"},
    "register": {"include_smoke": "true", "scale": "2"},
    "upscale": {},
}
# Starts entry points in one process.
RUN_ALL = """
import json, sys, mlflow
for step, parameters in json.loads(sys.argv[1]).items():
    mlflow.projects.run(".", step, parameters=parameters, env_manager="local")
"""
RUN_INSTALLED = """
import loupe
from loupe.cli.main import main
for arguments in (["train", "--smoke", "true"], ["register", "--include-smoke"], ["upscale", "--out", "big.png"]):
    assert main(arguments) == 0
print(loupe.__file__)
"""
pytestmark = [pytest.mark.slow(200), pytest.mark.xdist_group("mlflow run")]


def run(*command, cwd, **more):
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=build_env(**more), capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone of the working tree with its uncommitted changes."""
    source, target = tmp_path_factory.mktemp("source") / "loupe", tmp_path_factory.mktemp("clone") / "loupe"
    source.mkdir()
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    run("git", "init", "-q", "-b", "main", cwd=source)
    run("git", "add", "-A", cwd=source)
    run("git", *author, "commit", "-q", "-m", "working tree", cwd=source)
    run("git", "clone", "-q", source, target, cwd=source.parent)
    return target


def test_every_entry_point_runs_in_the_local_environment_with_any_field(clone, tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    run(sys.executable, "-c", RUN_ALL, json.dumps(STEPS), cwd=clone, MLFLOW_TRACKING_URI=store)
    runs = list_runs(tmp_path)
    top = {found.data.tags["loupe.step"]: found.data for found in runs if "mlflow.parentRunId" not in found.data.tags}
    assert [*top] == [*STEPS][::-1]
    assert {found.info.status for found in runs} == {"FINISHED"}
    assert len({found.info.experiment_id for found in runs}) == 1  # else the page of MLflow does not nest them
    assert (clone / "upscaled.png").exists()
    assert float(top["train"].params["learning_rate"]) == 0.01
    assert top["train"].params["hidden"] == "32,16"
    assert (top["train"].tags["loupe.scale"], top["train"].tags["loupe.smoke"]) == ("2:1", "true")
    assert top["register"].tags["loupe.version"] == "models:/loupe-2x/1"


def test_smoke_sweep_registers_a_version_and_logs_plots_within_90_seconds(clone, tmp_path):
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run("mlflow", "run", ".", "-e", "sweep", "-P", "sweep=sweeps/smoke.toml", "--env-manager", "local", cwd=clone,
        MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")  # fmt: skip
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    runs = list_runs(tmp_path)
    assert {found.info.status for found in runs} == {"FINISHED"}
    assert len({found.info.experiment_id for found in runs}) == 1
    (parent,) = (found for found in runs if found.data.tags["loupe.step"] == "sweep")
    trials = [found for found in runs if found.data.tags["loupe.step"] == "trial"]
    assert [found.data.tags["mlflow.parentRunId"] for found in trials] == [parent.info.run_id] * 4
    plots = open_store(tmp_path).list_artifacts(parent.info.run_id, "plots")
    assert {item.path for item in plots} == {f"plots/{name}.png" for name in PLOTS}
    version = open_store(tmp_path).get_model_version("loupe", "1")
    assert version.run_id == parent.data.tags["loupe.best_run"]
    # Other tests run at the same time, so that the run time is up to twice that of a quiet machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 90
    assert seconds < 180


def test_bad_usage_under_mlflow_run_fails_the_run(clone, tmp_path):
    command = ["mlflow", "run", ".", "-e", "train", "--env-manager", "local", "-P", "activation=swish"]
    more = build_env(MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    done = subprocess.run(command, cwd=clone, env=more, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "activation: must be one of tanh, sigmoid, relu, got 'swish'" in done.stderr
    (failed,) = list_runs(tmp_path)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["loupe.error"] == "activation: must be one of tanh, sigmoid, relu, got 'swish'"


def test_train_runs_from_a_git_address_in_a_uv_environment_and_logs_to_the_store_of_the_caller(clone, tmp_path):
    port = find_free_port()
    serve = ["git", "daemon", f"--base-path={clone.parent}", "--export-all", "--listen=127.0.0.1", f"--port={port}"]
    daemon = subprocess.Popen(serve, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection((LOOPBACK, port), timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.1)
        address = f"git://127.0.0.1:{port}/loupe"
        run("mlflow", "run", address, "-e", "train", "--env-manager", "uv", "-P", "smoke=true", cwd=tmp_path)
        Image.new("RGB", (16, 10), "red").save(tmp_path / "photo.png")
        run("mlflow", "run", address, "-e", "upscale", "--env-manager", "uv", "--run-name", "mine", "-P", "scale=2",
            "-P", "model=lanczos", "-P", "inputs=photo.png", "-P", "out=big.png", cwd=tmp_path)  # fmt: skip
    finally:
        os.killpg(daemon.pid, 15)
    upscaled, trained = list_runs(tmp_path)
    assert (upscaled.info.status, trained.info.status) == ("FINISHED", "FINISHED")
    assert upscaled.info.run_name == "mine"
    assert trained.info.run_name.startswith("convolutional 3:2 8")
    assert Image.open(tmp_path / "big.png").size == (32, 20)
    assert (tmp_path / "data").is_dir()
    assert trained.data.params["filters"] == "8"


def test_installed_wheel_trains_registers_and_upscales(clone, tmp_path):
    installed = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", installed, clone, cwd=tmp_path)
    done = run(sys.executable, "-c", RUN_INSTALLED, cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.stdout.splitlines()[-1].startswith(str(installed))
    assert Image.open(tmp_path / "big.png").size == (900, 600)
