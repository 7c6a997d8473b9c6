"""The project as `mlflow run` starts it: from the checkout, from a git address, with an environment of its own;
and as a wheel, away from any checkout."""

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from jobs import ROOT, build_env, list_runs, open_store
from PIL import Image
from services import LOOPBACK, free_port

PLOTS = ("history", "importances", "parallel", "slice")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mlflow run")]


def run(*command, cwd, **more):
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=build_env(**more), capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clean clone of the working tree as it is now."""
    source, target = tmp_path_factory.mktemp("source") / "loupe", tmp_path_factory.mktemp("clone") / "loupe"
    source.mkdir()
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    run("git", "init", "-q", "-b", "main", cwd=source)
    run("git", "add", "-A", cwd=source)
    run("git", *who, "commit", "-q", "-m", "as it is", cwd=source)
    run("git", "clone", "-q", source, target, cwd=source.parent)
    return target


def newest(folder):
    return list_runs(folder)[0]


def test_every_entry_point_runs_bare_under_the_local_environment(clone, tmp_path):
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    for step in ("main", "preprocess", "train", "evaluate", "register", "upscale"):
        run("mlflow", "run", ".", "-e", step, "--env-manager", "local", "-P", "smoke=true", cwd=clone, **store)
        assert newest(tmp_path).data.tags["loupe.step"] == ("upscale" if step == "main" else step)
    runs = list_runs(tmp_path)
    assert {found.info.status for found in runs} == {"FINISHED"}
    assert len({found.info.experiment_id for found in runs}) == 1  # else the page shows no nesting
    assert (clone / "upscaled.png").exists()


@pytest.mark.alone
def test_the_smoke_sweep_ends_with_a_registered_version_and_plots_in_a_minute_and_a_half(clone, tmp_path):
    started = time.monotonic()
    run("mlflow", "run", ".", "-e", "sweep", "-P", "sweep=sweeps/smoke.toml", "--env-manager", "local", cwd=clone,
        MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")  # fmt: skip
    seconds = time.monotonic() - started
    runs = list_runs(tmp_path)
    assert {found.info.status for found in runs} == {"FINISHED"}
    assert len({found.info.experiment_id for found in runs}) == 1
    (parent,) = (found for found in runs if found.data.tags["loupe.step"] == "sweep")
    trials = [found for found in runs if found.data.tags["loupe.step"] == "trial"]
    assert [found.data.tags["mlflow.parentRunId"] for found in trials] == [parent.info.run_id] * 4
    plots = open_store(tmp_path).list_artifacts(parent.info.run_id, "plots")
    assert {item.path for item in plots} == {f"plots/{name}.png" for name in PLOTS}
    version = open_store(tmp_path).get_model_version_by_alias("loupe", "champion")
    assert version.run_id == parent.data.tags["best_run"]
    assert seconds < 90


def test_fields_that_the_project_file_does_not_list_are_taken_and_text_of_numbers_may_differ(clone, tmp_path):
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    given = ["-P", "smoke=True", "-P", "network=perceptron", "-P", "learning_rate=1e-2", "-P", "scale=2"]
    run("mlflow", "run", ".", "-e", "train", "--env-manager", "local", *given, cwd=clone, **store)
    found = newest(tmp_path).data
    assert float(found.params["learning_rate"]) == 0.01
    assert found.params["hidden"] == "32,16"
    assert (found.tags["loupe.scale"], found.tags["loupe.smoke"]) == ("2:1", "true")
    run("mlflow", "run", ".", "-e", "register", "--env-manager", "local", "-P", "scale=2", "-P", "smoke=true",
        cwd=clone, **store)  # fmt: skip
    assert newest(tmp_path).data.tags["loupe.version"] == "models:/loupe-2x/1"


def test_bad_usage_under_mlflow_run_leaves_no_run_open(clone, tmp_path):
    command = ["mlflow", "run", ".", "-e", "train", "--env-manager", "local", "-P", "activation=swish"]
    more = build_env(MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    done = subprocess.run(command, cwd=clone, env=more, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "activation: must be one of tanh, sigmoid, relu, got 'swish'" in done.stderr
    assert [found.info.status for found in list_runs(tmp_path)] == ["FAILED"]


def test_train_runs_in_an_environment_that_uv_makes_of_the_project_file(clone):
    run("mlflow", "run", ".", "-e", "train", "--env-manager", "uv", "-P", "smoke=true", cwd=clone)
    assert newest(clone).info.status == "FINISHED"
    assert newest(clone).data.params["filters"] == "8"


def test_train_runs_from_a_git_address_and_logs_into_the_store_of_the_caller(clone, tmp_path):
    port = free_port()
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
        run("mlflow", "run", address, "-e", "upscale", "--env-manager", "uv", "-P", "model=lanczos", cwd=tmp_path)
    finally:
        os.killpg(daemon.pid, 15)
    assert [found.info.status for found in list_runs(tmp_path)] == ["FINISHED", "FINISHED"]


def test_a_wheel_trains_and_upscales_outside_the_checkout(clone, tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, clone, cwd=tmp_path)
    wheel = next(tmp_path.glob("loupe_upscale-*.whl"))
    installed = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", installed, wheel, cwd=tmp_path)
    where = run(sys.executable, "-c", "import loupe; print(loupe.__file__)", cwd=tmp_path, PYTHONPATH=str(installed))
    assert where.stdout.startswith(str(installed))
    for arguments in (["train", "--smoke", "true"], ["register", "--smoke", "true"], ["upscale", "--out", "big.png"]):
        run(sys.executable, "-m", "loupe", *arguments, cwd=tmp_path, PYTHONPATH=str(installed))
    assert Image.open(tmp_path / "big.png").size == (677, 450)
