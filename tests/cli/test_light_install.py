"""`pip install .` without extras: its size, and the steps that it supports."""

import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [pytest.mark.slow(60), pytest.mark.xdist_group("light install")]  # one process: one installation
ROOT = Path(__file__).parents[2]
LARGEST_INSTALL_MB = 300
UPSCALE_IN_PYTHON = (
    "import sys; from PIL import Image; from loupe import Upscaler; "
    "assert Upscaler.load()(Image.open('photo.jpg'), scale=2).size == (96, 64); "
    "assert not sys.modules.keys() & {'mlflow', 'keras', 'tensorflow', 'pandas', 'distributed'}"
)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of a new virtual environment."""
    folder = tmp_path_factory.mktemp("light")
    bin_folder = folder / "venv" / "bin"
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    probe = [bin_folder / "pip", "download", "--quiet", "--no-deps", "--dest", folder / "probe", "rich"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("pip has no network")
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):  # a build in the checkout would leave files there
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    subprocess.run([bin_folder / "pip", "install", "--quiet", folder], check=True)
    return bin_folder


@pytest.fixture(params=[False, True], ids=["empty", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a photo, with and without a store of MLflow."""
    Image.effect_noise((48, 32), 40).convert("RGB").save(tmp_path / "photo.jpg")
    if request.param:
        with sqlite3.connect(tmp_path / "mlflow.db") as database:
            database.execute("create table runs (run_uuid text)")
    return tmp_path


def run(commands: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        [commands / words[0], *words[1:]], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_installed_size_is_limited(commands: Path) -> None:
    files = [file for file in commands.parent.rglob("*") if file.is_file() and not file.is_symlink()]
    assert sum(file.stat().st_blocks * 512 for file in files) < LARGEST_INSTALL_MB * 2**20


def test_photos_are_upscaled_and_restored(commands: Path, folder: Path) -> None:
    for step, size in (("upscale", (72, 48)), ("restore", (48, 32))):
        done = run(commands, folder, "loupe", step, "photo.jpg", "--out", f"{step}.jpg")
        assert (done.returncode, done.stderr) == (0, "")
        assert Image.open(folder / f"{step}.jpg").size == size
    done = run(commands, folder, "python", "-c", UPSCALE_IN_PYTHON)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["main"], "mlflow", "train"),
        (["preprocess"], "scikit-learn", "train"),
        (["train"], "mlflow", "train"),
        (["evaluate"], r"\S+", "train"),
        (["register"], r"\S+", "train"),
        (["sweep"], r"\S+", "train"),
        (["report"], r"\S+", "train"),
        (["sync"], "mlflow", "train"),
        (["demo"], "gradio", "demo"),
        (["upscale"], "scikit-image", "train"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_other_steps_name_the_extra_that_they_need(
    arguments: list[str], package: str, extra: str, commands: Path, folder: Path
) -> None:
    before = sorted(folder.iterdir())
    done = run(commands, folder, "loupe", *arguments)
    assert done.returncode == 2
    line = rf"loupe {arguments[0]}: error: needs {package}: pip install 'loupe-upscale\[{extra}\]'\n"
    assert re.fullmatch(line, done.stderr)
    assert sorted(folder.iterdir()) == before
