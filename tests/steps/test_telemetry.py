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
    def resolve(host, *arguments, **more):
        with open(os.environ["RESOLVED"], "a") as file:
            print(host, file=file)
        return function(host, *arguments, **more)
    return resolve

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, name, logged(getattr(socket, name)))
"""
# Each of these disables the telemetry of MLflow or onnxruntime, so that a test would prove nothing.
CI = {"CI", "GITHUB_ACTIONS", "TF_BUILD", "PYTEST_CURRENT_TEST", "DO_NOT_TRACK", "ORT_DISABLE_TELEMETRY"}


@pytest.fixture
def traced(tmp_path):
    """The environment of a user with an empty home folder, in which Python logs each host name that it resolves."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(RESOLVER)
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    home = tmp_path / "home"
    found = build_env(
        HOME=str(home), XDG_CACHE_HOME=str(home / "cache"), TMPDIR=str(tmp_path / "temporary"),
        RESOLVED=str(tmp_path / "resolved.txt"),
    )  # fmt: skip
    found["PYTHONPATH"] = f"{tmp_path / 'site'}:{found['PYTHONPATH']}"
    return {name: value for name, value in found.items() if name not in CI}


def run(traced, *arguments, cwd):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=traced, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def read_foreign_hosts(traced):
    """Return the resolved host names without those of this machine."""
    file = Path(traced["RESOLVED"])
    names = set(file.read_text().split()) if file.exists() else set()
    return {name for name in names - {"None", "localhost", socket.gethostname()} if not is_address(name)}


def is_address(name):
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def list_files(*folders):
    return [file for folder in folders for file in Path(folder).rglob("*") if file.is_file()]


def test_upscale_writes_no_file_to_home_and_resolves_no_host(traced, photos, tmp_path):
    run(traced, "-m", "loupe", "upscale", photos / "1" / "chelsea.png", "--out", "large.png", cwd=tmp_path)
    assert (tmp_path / "large.png").is_file()
    assert not list_files(traced["HOME"], traced["TMPDIR"])  # a device identifier, a database of events
    assert not read_foreign_hosts(traced)


@pytest.mark.parametrize("library", ["onnxruntime", "mlflow"])
def test_import_of_loupe_disables_telemetry_unless_the_user_enables_it(library, traced, tmp_path):
    names = ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY")
    code = f"import loupe, os, {library}; print(*(os.environ[name] for name in {names}))"
    assert run(traced, "-c", code, cwd=tmp_path).split() == ["1", "true"]
    assert run(traced | dict.fromkeys(names, "0"), "-c", code, cwd=tmp_path).split() == ["0", "0"]


def test_loaded_photo_model_has_no_telemetry_client(traced, photos, tmp_path):
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
    assert not list_files(traced["XDG_CACHE_HOME"])  # MLflow writes to .config when it is imported before the model
    assert not read_foreign_hosts(traced)


@pytest.mark.slow
def test_train_and_evaluate_resolve_no_host(traced, tmp_path):
    run(traced, "-m", "loupe", "train", "--smoke", "true", "--quiet", cwd=tmp_path)
    run(traced, "-m", "loupe", "evaluate", "--smoke", "true", "--model", "lanczos", cwd=tmp_path)
    assert not read_foreign_hosts(traced)
