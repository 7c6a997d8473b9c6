"""Adding an optimizer takes one edit: a settings class in OPTIMIZERS. Help, sweeps and training then know it."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from loupe.cli.main import run_step
from loupe.config import parse_settings
from loupe.config.base import SettingsError
from loupe.config.fields import field
from loupe.config.networks import build_train_class, find_field_owners
from loupe.config.optimizers import OPTIMIZERS, Optimizer
from loupe.errors import UsageError
from loupe.models import builder
from loupe.search import sweep_loader
from loupe.training import optimization

TESTS = Path(__file__).parent.parent
OWN = "l1_regularization_strength"
SWEEP = f"""
[study]
name = "ftrl"
[train]
network = "perceptron"
[search]
optimizer = ["ftrl", "adam"]
"ftrl.{OWN}" = [0.0, 0.25]
"""


class Ftrl(Optimizer):
    """Follow the regularized leader."""

    KERAS = "keras.optimizers.Ftrl"
    l1_regularization_strength: float = field(0.0, "weight of the absolute values", ge=0, lt=1)
    DEFAULTS = {"learning_rate": 0.02}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the optimizer, which is the one edit."""
    monkeypatch.setitem(OPTIMIZERS, "ftrl", Ftrl)
    yield
    build_train_class.cache_clear()


def import_anew(name: str) -> ModuleType:
    """Import a test module again, so that its cases include the new optimizer."""
    spec = importlib.util.spec_from_file_location(f"{Path(name).name}_with_ftrl", TESTS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def list_cases(test: object) -> list[object]:
    """Return the parameters of a parametrised test."""
    return [value for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize" for value in mark.args[1]]


def test_help_of_train_lists_the_optimizer_and_its_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_step("train", ["--help"]) == 0
    text = capsys.readouterr().out
    section = text.split("--optimizer ftrl (default learning_rate: 0.02):")[1]
    assert f"--{OWN.replace('_', '-')}  weight of the absolute values" in section
    assert ">= 0 and < 1" in section
    line = text.split("--optimizer  ")[1].split("  --")[0]
    assert "adamw, ftrl" in " ".join(line.split())


@pytest.mark.parametrize("network", ["convolutional", "perceptron"])
def test_every_network_accepts_the_optimizer_with_its_own_default_learning_rate(network: str) -> None:
    settings = parse_settings("train", {"network": network, "optimizer": "ftrl", OWN: "0.5"})
    assert isinstance(settings, Ftrl)
    assert (settings.l1_regularization_strength, settings.learning_rate) == (0.5, 0.02)
    assert parse_settings("train", settings.to_texts()).model_dump() == settings.model_dump()
    assert find_field_owners(OWN) == ["optimizer=ftrl"]


def test_the_field_of_the_optimizer_is_validated_and_refused_with_other_optimizers() -> None:
    with pytest.raises(SettingsError, match=rf"{OWN}: must be less than 1, got '1'"):
        parse_settings("train", {"optimizer": "ftrl", OWN: "1"})
    with pytest.raises(SettingsError, match=rf"{OWN}: is a field of optimizer=ftrl only, got '0.5'"):
        parse_settings("train", {"optimizer": "adam", OWN: "0.5"})
    with pytest.raises(SettingsError, match=r"optimizer: must be one of .*adamw, ftrl, got 'nadam'"):
        parse_settings("train", {"optimizer": "nadam"})


def test_a_sweep_can_search_the_optimizer_and_its_field(tmp_path: Path) -> None:
    file = tmp_path / "ftrl.toml"
    file.write_text(SWEEP)
    points = list(sweep_loader.load_sweep(file).iterate_points())
    assert points == [{"optimizer": "ftrl", f"ftrl.{OWN}": value} for value in (0.0, 0.25)] + [{"optimizer": "adam"}]
    file.write_text(SWEEP.replace("0.25", "1.0"))
    with pytest.raises(UsageError, match=rf"search\.ftrl\.{OWN}: must be less than 1, got '1\.0'"):
        sweep_loader.load_sweep(file)


def test_a_network_is_compiled_with_the_optimizer() -> None:
    settings = parse_settings(
        "train", {"optimizer": "ftrl", OWN: 0.25, "filters": 4, "layers": 0, "schedule": "constant"}
    )
    model = builder.build(settings, 32, "rec601")
    optimization.compile_model(model, settings)
    shown = model.optimizer.get_config()
    assert type(model.optimizer).__name__ == "Ftrl"
    assert shown[OWN] == 0.25
    assert shown["learning_rate"] == pytest.approx(0.02)


def test_the_network_tests_include_the_optimizer() -> None:
    module = import_anew("models/test_builder")
    for network, rows in module.COMBINATIONS.items():
        scales = {row["scale"] for row in rows if row["optimizer"] == "ftrl"}
        assert scales == set(module.FEW["scale"])
        trained = [case.values for case in module.CASES]
        assert any(given["optimizer"] == "ftrl" for name, given in trained if name == network)
    check = module.test_every_field_of_an_optimizer_reaches_keras
    assert "ftrl" in list_cases(check)
    check("ftrl")


def test_the_settings_tests_include_the_optimizer() -> None:
    module = import_anew("config/test_config")
    given = [case[1] for case in module.CLASSES if case[0] == "train"]
    assert {network for network in module.TRAINED if {"network": network, "optimizer": "ftrl"} in given} == set(
        module.TRAINED
    )
    assert OWN in {name for _, chosen, name in module.BOUNDED if chosen.get("optimizer") == "ftrl"}
