"""Adding a network takes one module and one entry in NETWORKS. Every step then accepts the network."""

import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import fluent
from PIL import Image

from loupe.cli.main import run_step
from loupe.config import networks, parse_settings
from loupe.config.base import SettingsError
from loupe.search import sweep_loader

MODULE = '''
from typing import Literal

from loupe.config.fields import field, get_block_sides
from loupe.config.training import GradientTrain


class Shallow(GradientTrain):
    """One hidden convolution."""

    MODULE = __name__
    NAME_FIELDS = ("scale", "width")
    network: Literal["shallow"] = field("shallow", "the network to train")
    width: int = field(8, "number of channels of the hidden layer", ge=1, le=64)
    DEFAULTS = {"skip": "ridge", "batch_size": 16}


ACTIVATION = "relu"


def add_body(image, settings, q, p, initializer):
    import keras

    from loupe.models.blocks import fold, pad, unfold

    x = pad(fold(image, q), 1)
    hidden = keras.layers.Conv2D(settings.width, 3, activation=ACTIVATION, **initializer(9 * q * q, settings.width))
    blocks = keras.layers.Conv2D(p * p, 1, name="blocks", **initializer(settings.width, p * p))
    return unfold(blocks(hidden(x)), p)


def compute_blocks(settings, input_side):
    q = get_block_sides(settings.scale)[0]
    return q, q
'''
SWEEP = """
[study]
name = "widths"
keep = 1
[train]
network = "shallow"
steps = 8
[search]
"shallow.width" = [4, 6]
"""
# Registers the network in the worker processes of a sweep.
SITE = """
from loupe.config import networks
from shallow_network import Shallow
networks.NETWORKS["shallow"] = Shallow
"""
pytestmark = pytest.mark.xdist_group("new network")


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write the module, register its network, and use a store in an empty folder."""
    (tmp_path / "shallow_network.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(networks.NETWORKS, "shallow", import_module("shallow_network").Shallow)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        os.environ.pop(name, None)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield
    mlflow.set_tracking_uri(before)
    networks.build_train_class.cache_clear()
    del sys.modules["shallow_network"]


@pytest.mark.usefixtures("registered")
def test_settings_help_and_sweeps_know_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_settings("train", {"network": "shallow", "width": "3", "optimizer": "sgd"}).width == 3
    with pytest.raises(SettingsError, match="width: is a field of network=shallow only"):
        parse_settings("train", {"width": 3})
    with pytest.raises(SettingsError, match=r"network: must be one of .*, shallow, got 'deep'"):
        parse_settings("train", {"network": "deep"})
    assert run_step("train", ["--help"]) == 0
    assert "fields with --network shallow" in capsys.readouterr().out
    (tmp_path / "widths.toml").write_text(SWEEP)
    assert sweep_loader.load_sweep(tmp_path / "widths.toml").count_trials() == 2


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_the_network_is_trained_searched_registered_exported_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_step("preprocess", ["--smoke", "--quiet"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["shallow_network"], "ACTIVATION", "gelu")
        assert run_step("train", ["--network", "shallow"]) == 2
    assert "network: shallow cannot be exported to ONNX: activation: must be one of" in capsys.readouterr().err
    assert run_step("train", ["--network", "shallow", "--steps", "8", "--quiet", "--scale", "2"]) == 0
    (run,) = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.`loupe.step` = 'train'", output_format="list"
    )
    assert run.info.run_name.startswith("shallow 2:1 8")
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "widths.toml").write_text(SWEEP)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    assert run_step("sweep", ["widths.toml", "--workers", "1", "--no-register-best", "--quiet"]) == 0
    assert len(mlflow.search_runs(search_all_experiments=True, filter_string="tags.`loupe.state` = 'COMPLETE'")) == 2
    assert run_step("register", ["--scale", "2", "--quiet"]) == 0
    model = mlflow.MlflowClient().get_model_version("loupe-2x", "1")
    assert model.run_id == run.info.run_id
    model_id = re.search(r"m-[0-9a-f]{32}", model.source)[0]
    (file,) = mlflow.MlflowClient().list_logged_model_artifacts(model_id, "onnx")
    assert file.path == "onnx/model.onnx"
    Image.new("RGB", (20, 12), "red").save(tmp_path / "photo.png")
    words = ["photo.png", "--scale", "2", "--model", "models:/loupe-2x/1", "--out", "large.png", "--quiet"]
    assert run_step("upscale", words) == 0
    assert Image.open(tmp_path / "large.png").size == (40, 24)
