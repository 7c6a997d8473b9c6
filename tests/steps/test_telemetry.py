"""No step contacts a host that the user did not name: telemetry of onnxruntime and MLflow is off by default."""

import ipaddress
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from jobs import build_env

from loupe.tracking import photo_model
from loupe.upscalers import bundled

RESOLVER = """
import os, socket

def logged(function):
    def look_up(host, *arguments, **more):
        with open(os.environ["LOOKED_UP"], "a") as file:
            print(host, file=file)
        return function(host, *arguments, **more)
    return look_up

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, name, logged(getattr(socket, name)))
"""
# MLflow and onnxruntime send nothing where one of these is set, so that a test would find nothing.
CI = {"CI", "GITHUB_ACTIONS", "TF_BUILD", "PYTEST_CURRENT_TEST", "DO_NOT_TRACK", "ORT_DISABLE_TELEMETRY"}


@pytest.fixture
def traced(tmp_path):
    """The environment of a user with an empty home, in which each name that Python looks up is logged."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(RESOLVER)
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    home = tmp_path / "home"
    found = build_env(
        HOME=str(home), XDG_CACHE_HOME=str(home / "cache"), TMPDIR=str(tmp_path / "temporary"),
        LOOKED_UP=str(tmp_path / "looked-up.txt"),
    )  # fmt: skip
    found["PYTHONPATH"] = f"{tmp_path / 'site'}:{found['PYTHONPATH']}"
    return {name: value for name, value in found.items() if name not in CI}


def run(traced, *arguments, cwd):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=traced, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def foreign_names(traced):
    """The names that were looked up, without those of this machine."""
    file = Path(traced["LOOKED_UP"])
    names = set(file.read_text().split()) if file.exists() else set()
    return {name for name in names - {"None", "localhost", socket.gethostname()} if not is_address(name)}


def is_address(name):
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def files_below(*folders):
    return [file for folder in folders for file in Path(folder).rglob("*") if file.is_file()]


def test_upscale_leaves_no_file_in_home_and_looks_up_no_name(traced, photos, tmp_path):
    run(traced, "-m", "loupe", "upscale", photos / "1" / "chelsea.png", "--out", "large.png", cwd=tmp_path)
    assert (tmp_path / "large.png").is_file()
    assert not files_below(traced["HOME"], traced["TMPDIR"])  # a device identifier, a database of events
    assert not foreign_names(traced)


@pytest.mark.parametrize("library", ["onnxruntime", "mlflow"])
def test_an_import_of_loupe_sets_both_switches_unless_the_user_has(library, traced, tmp_path):
    names = ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY")
    code = f"import loupe, os, {library}; print(*(os.environ[name] for name in {names}))"
    assert run(traced, "-c", code, cwd=tmp_path).split() == ["1", "true"]
    assert run(traced | dict.fromkeys(names, "0"), "-c", code, cwd=tmp_path).split() == ["0", "0"]


def test_a_loaded_photo_model_sends_nothing(traced, photos, tmp_path):
    model = tmp_path / "model"
    mlflow.pyfunc.save_model(
        str(model),
        python_model=photo_model.__file__,
        artifacts={"3x2": str(bundled.FOLDER / "tiny-3x2.onnx")},
        code_paths=[str(Path(photo_model.__file__).parents[1])],
        pip_requirements=[],
    )
    code = (
        "import base64, mlflow, mlflow.telemetry, pandas, sys\n"
        f"model = mlflow.pyfunc.load_model({str(model)!r})\n"
        "photo = base64.b64encode(open(sys.argv[1], 'rb').read()).decode()\n"
        "assert model.predict(pandas.DataFrame({'photo': [photo]}))\n"
        "print(mlflow.telemetry.get_telemetry_client())"
    )
    traced = traced | {"PYTHONPATH": traced["PYTHONPATH"].partition(":")[0]}
    assert run(traced, "-c", code, photos / "1" / "chelsea.png", cwd=tmp_path).split() == ["None"]
    assert not files_below(traced["XDG_CACHE_HOME"])  # MLflow, imported before the model, has a file in .config
    assert not foreign_names(traced)


@pytest.mark.slow
def test_train_and_evaluate_look_up_no_name(traced, tmp_path):
    run(traced, "-m", "loupe", "train", "--smoke", "true", "--quiet", cwd=tmp_path)
    run(traced, "-m", "loupe", "evaluate", "--smoke", "true", "--model", "lanczos", cwd=tmp_path)
    assert not foreign_names(traced)
