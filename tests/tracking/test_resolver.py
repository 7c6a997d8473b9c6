"""Every step that takes a model accepts and refuses the same names, with the same error."""

import os
import shutil
from fractions import Fraction
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from loupe import Upscaler
from loupe.config import parse_settings
from loupe.config.fields import BUNDLED_SIZES
from loupe.data import preparation
from loupe.errors import UsageError
from loupe.steps import demo, evaluate, register, train, upscale
from loupe.tracking import training_runs
from loupe.upscalers import bundled

pytestmark = pytest.mark.filterwarnings("ignore")

CHAMPION_URI = "models:/loupe@champion"
RUN_URI = "runs:/{run_id}/model"
ACCEPTED = [
    "champion", "bundled", *BUNDLED_SIZES, "nearest", "bilinear", "bicubic", "lanczos", "ridge",
    "network.onnx", "network.keras", RUN_URI, CHAMPION_URI,
]  # fmt: skip
REFUSED = {
    "": "must be champion, bundled, tiny",
    "huge": "must be champion, bundled, tiny",
    "missing.onnx": "must be champion, bundled, tiny",
    "missing.keras": "must be champion, bundled, tiny",
    "folder": "must be champion, bundled, tiny",
    "folder.keras": "must be champion, bundled, tiny",
    "text.txt": "must be champion, bundled, tiny",
    "photo.png": "must be champion, bundled, tiny",
    "text.onnx": "is not an ONNX network",
    "text.keras": "cannot be loaded",
    "runs:/0123456789abcdef0123456789abcdef/model": "cannot be loaded",
    "models:/loupe@nobody": "cannot be loaded",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a folder with a champion, model files and the files of REFUSED, and the id of the champion's run."""
    folder = tmp_path_factory.mktemp("store")
    before, cwd = mlflow.get_tracking_uri(), Path.cwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        smoke = {"smoke": True, "quiet": True}
        run_id = train.run(parse_settings("train", {"network": "ridge"} | smoke)).run_id
        register.run(parse_settings("register", {"run": run_id} | smoke))
        keras = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/model/data/model.keras", dst_path=str(folder))
        shutil.copyfile(keras, folder / "network.keras")
        shutil.copyfile(bundled.find_file("tiny", Fraction(3, 2)), folder / "network.onnx")
        for name in ("folder", "folder.keras"):
            Path(name).mkdir()
        for name in ("text.txt", "text.onnx", "text.keras"):
            Path(name).write_text("not a model")
        yield folder, run_id
    finally:
        os.chdir(cwd)
        mlflow.set_tracking_uri(before)


@pytest.fixture
def run_id(trained, monkeypatch):
    """The run of the champion, with its folder as the current one."""
    folder, run_id = trained
    enter(folder, folder / "data", monkeypatch)
    return run_id


def enter(folder, data, monkeypatch):
    """Change to a folder with one photo to score, and skip slow code that does not resolve models."""
    monkeypatch.chdir(folder)
    Path("photos").mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (45, 60, 3), "uint8")
    for path in ("photos/photo.png", "photo.png"):
        Image.fromarray(noise).save(path)
    sample = parse_settings("train", {"smoke": True, "data_dir": str(data), "quiet": True})
    monkeypatch.setattr(preparation, "open_sample", lambda _: preparation.open_or_prepare(sample, "sample"))
    monkeypatch.setattr(evaluate, "_draw_figures", lambda *_: None)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)


def use_model(name, data_dir="data"):
    """Use a model in every way, and return the error of each step, None if it accepts the model."""
    image = Image.new("RGB", (12, 10))
    scored = {"photos": "photos", "label_size": 30, "smoke": True, "quiet": True, "data_dir": data_dir}
    upscaled = {"inputs": "photo.png", "out": "large.png", "overwrite": True, "quiet": True}
    steps = {
        "Upscaler.load": lambda: Upscaler.load(name)(image, scale="3:2"),
        "upscale": lambda: upscale.run(parse_settings("upscale", upscaled | {"model": name})),
        "demo": lambda: demo.run(parse_settings("demo", {"model": name, "port": 0, "quiet": True})),
        "evaluate": lambda: evaluate.run(parse_settings("evaluate", scored | {"model": name})),
    }
    errors = {}
    for step, call in steps.items():
        try:
            call()
            errors[step] = None
        except UsageError as error:
            errors[step] = str(error)
    return errors


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_step_accepts_the_name(name, run_id):
    assert set(use_model(name.format(run_id=run_id)).values()) == {None}


@pytest.mark.parametrize("name", REFUSED)
def test_every_step_refuses_the_name_with_the_same_line(name, run_id):
    errors = set(use_model(name).values())
    assert len(errors) == 1, errors
    error = str(errors.pop())
    assert error.startswith("model: ")
    assert REFUSED[name] in error
    assert name in error
    assert "\n" not in error


@pytest.mark.parametrize(("name", "accepted"), [("champion", True), (CHAMPION_URI, False)])
def test_without_a_store_the_champion_is_the_bundled_network(name, accepted, trained, tmp_path, monkeypatch):
    enter(tmp_path, trained[0] / "data", monkeypatch)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # the folder has no mlflow.db
    errors = set(use_model(name, str(trained[0] / "data")).values())
    if accepted:
        assert errors == {None}
    else:
        assert errors == {f"model: {name} needs MLFLOW_TRACKING_URI, or mlflow.db in the current folder"}


@pytest.mark.parametrize("name", ["champion", "network.keras", RUN_URI, CHAMPION_URI])
def test_training_can_start_from_every_keras_model(name, run_id):
    model = training_runs.load_start(parse_settings("train", {"start": name.format(run_id=run_id)}))
    assert model.name == "loupe.q2.p3.side4.halo4.rec601"


@pytest.mark.parametrize("name", ["tiny", "ridge", "network.onnx", *(name for name in REFUSED if name)])
def test_training_refuses_to_start_from_anything_else(name, run_id):
    with pytest.raises(UsageError, match=r"^start: .*") as caught:
        training_runs.load_start(parse_settings("train", {"start": name}))
    assert name in str(caught.value)
