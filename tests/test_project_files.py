"""MLproject, conda.yaml, pyproject.toml and the sweep files agree with the settings."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from loupe.config import STEPS, parse_settings
from loupe.search import sweep_loader

ROOT = Path(__file__).parent.parent
STEP_FILES = ROOT / "src" / "loupe" / "steps"
MLPROJECT: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text())
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PYPROJECT["optional-dependencies"]


def test_every_step_has_an_entry_point_and_a_file() -> None:
    assert MLPROJECT["entry_points"].keys() == STEPS.keys()
    assert {path.stem for path in STEP_FILES.glob("*.py")} - {"__init__"} == STEPS.keys()


@pytest.mark.parametrize("step", STEPS)
def test_parameters_of_mlproject_are_fields_with_the_same_defaults(step: str) -> None:
    defaults = parse_settings(step, {}).to_texts()
    parameters = MLPROJECT["entry_points"][step]["parameters"]
    assert parameters
    assert {name: of["default"] for name, of in parameters.items()} == {name: defaults[name] for name in parameters}


def test_a_resumed_training_accepts_the_defaults_that_mlflow_run_passes() -> None:
    from loupe.steps import train

    assert MLPROJECT["entry_points"]["train"]["parameters"].keys() == train.PROJECT_FIELDS


@pytest.mark.parametrize("step", STEPS)
def test_a_command_of_mlproject_runs_the_step_from_the_checkout(step: str) -> None:
    entry = MLPROJECT["entry_points"][step]
    flags = " ".join(f"--{name.replace('_', '-')} {{{name}}}" for name in entry["parameters"])
    assert entry["command"] == f"PYTHONPATH=src python -m loupe {step} {flags}"


def test_conda_installs_the_core_and_the_extras_train_and_cluster() -> None:
    conda = yaml.safe_load((ROOT / MLPROJECT["conda_env"]).read_text())
    pip = next(part["pip"] for part in conda["dependencies"] if isinstance(part, dict))
    assert pip == [*PYPROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["cluster"]]
    python = next(part for part in conda["dependencies"] if str(part).startswith("python="))
    least = re.fullmatch(r">=3\.(\d+)", PYPROJECT["requires-python"])
    assert least
    assert int(python.removeprefix("python=3.")) >= int(least[1])


def test_the_core_needs_neither_tensorflow_nor_mlflow() -> None:
    names = {re.split(r"[\[>]", dependency)[0] for dependency in PYPROJECT["dependencies"]}
    assert names == {"numpy", "pillow", "onnxruntime", "pyvips", "pydantic", "rich"}


def test_the_extra_test_contains_all_other_extras_except_gpu() -> None:
    others = [extra for extra in EXTRAS if extra not in ("test", "gpu")]  # gpu replaces files of onnxruntime
    assert f"loupe-upscale[{','.join(others)}]" in EXTRAS["test"]


def test_every_dependency_has_a_lower_and_an_upper_bound() -> None:
    dependencies = [*PYPROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    assert len(dependencies) > 30
    for dependency in dependencies:
        if not dependency.startswith("loupe-upscale["):
            bounds = re.fullmatch(r"[a-z0-9-]+(?:\[[a-z0-9,]+\])?>=([\d.]+),<([\d.]+)", dependency)
            assert bounds, dependency
            least, limit = (tuple(map(int, bound.split("."))) for bound in bounds.groups())
            assert least < limit, dependency


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps").glob("*.toml")), ids=lambda file: file.stem)
def test_a_sweep_file_is_valid_and_has_a_header(file: Path) -> None:
    text = file.read_text()
    sweep = sweep_loader.load_sweep(file)
    assert len({claim.number for claim in sweep.claims}) == len(sweep.claims)
    points = re.search(r"# Points: +([\d,]+)", text)
    assert points
    written = int(points[1].replace(",", ""))
    assert written == (len(list(sweep.iterate_points())) if sweep.study.sampler == "grid" else sweep.count_trials())
    for word in ("# Command:", "# Points:", "# Time:", "# Expected:"):
        assert word in text
