"""MLproject, conda.yaml, pyproject.toml and the imports agree with the settings and the design."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from loupe.config import STEPS, parse_settings
from loupe.search import sweep_loader

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "loupe"
PROJECT: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text())
# From top to bottom: a package imports only from packages below it.
LAYERS = [
    "loupe.__main__", "loupe.steps", "loupe.web", "loupe.search", "loupe.report", "loupe.tracking", "loupe.photos",
    "loupe.training", "loupe.evaluation", "loupe.models", "loupe.upscalers", "loupe.data", "loupe.imaging",
    "loupe.cli", "loupe.config", "loupe.errors", "loupe",
]  # fmt: skip
LEVEL = {part: level for level, part in enumerate(LAYERS)}
FILES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}
PACKAGES = {name for name, file in FILES.items() if file.name == "__init__.py"}


def part_of(module: str) -> str:
    """The longest part of LAYERS that a module is, or lies in; the root package holds only its version."""
    names = module.split(".")
    for length in range(len(names), 1 if len(names) > 1 else 0, -1):
        if ".".join(names[:length]) in LEVEL:
            return ".".join(names[:length])
    raise AssertionError(f"{module} stands in no layer")


def imports(module: str, tree: ast.AST | None = None) -> Iterator[str]:
    """Every module that a file imports: inside functions, conditions and TYPE_CHECKING blocks too."""
    package = module if module in PACKAGES else module.rpartition(".")[0]
    for node in ast.walk(tree or ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in FILES else base


def guarded(module: str) -> set[str]:
    """What a file imports under `if __name__ == "__main__"` alone."""
    blocks = [
        node
        for node in ast.parse(FILES[module].read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
    ]
    return {name for block in blocks for name in imports(module, block)}


def own_imports(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == "loupe"}


def test_entry_points_are_exactly_the_steps() -> None:
    assert PROJECT["entry_points"].keys() == STEPS.keys()
    assert {path.stem for path in (PACKAGE / "steps").glob("*.py")} - {"__init__"} == STEPS.keys()


@pytest.mark.parametrize("step", STEPS)
def test_a_declared_parameter_is_a_field_with_the_same_default(step: str) -> None:
    defaults = parse_settings(step, {}).to_texts()
    declared = PROJECT["entry_points"][step]["parameters"]
    assert declared
    assert {name: of["default"] for name, of in declared.items()} == {name: defaults.get(name) for name in declared}


@pytest.mark.parametrize("step", STEPS)
def test_a_command_starts_its_step_from_the_checkout_and_passes_what_is_declared(step: str) -> None:
    entry = PROJECT["entry_points"][step]
    flags = " ".join(f"--{name.replace('_', '-')} {{{name}}}" for name in entry["parameters"])
    assert entry["command"] == f"PYTHONPATH=src python -m loupe.steps.{step} {flags}"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_runs_as_a_module_through_the_command_line(step: str) -> None:
    module = f"loupe.steps.{step}"
    assert guarded(module) == {"loupe.cli.main"}
    assert f'    entry("{step}")\n' in FILES[module].read_text()


def test_conda_installs_the_core_and_the_extras_train_and_cluster() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / PROJECT["conda_env"]).read_text())
    pip = next(part["pip"] for part in conda["dependencies"] if isinstance(part, dict))
    extras = project["optional-dependencies"]
    assert pip == [*project["dependencies"], *extras["train"], *extras["cluster"]]
    python = next(part for part in conda["dependencies"] if str(part).startswith("python="))
    least = re.fullmatch(r">=3\.(\d+)", project["requires-python"])
    assert least
    assert int(python.removeprefix("python=3.")) >= int(least[1])


def test_every_dependency_is_bounded_below_and_above() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything = [
        *project["dependencies"],
        *(of for extra in project["optional-dependencies"].values() for of in extra),
    ]
    assert len(everything) > 30
    for dependency in everything:
        if dependency.startswith("loupe-upscale["):
            continue
        bounds = re.fullmatch(r"[a-z0-9-]+(?:\[[a-z0-9]+\])?>=([\d.]+),<(\d+)", dependency)
        assert bounds, dependency
        assert int(bounds[1].split(".")[0]) < int(bounds[2]), dependency


def test_every_file_stands_in_a_layer_and_every_layer_has_a_file() -> None:
    assert {part_of(module) for module in FILES} == LEVEL.keys()


@pytest.mark.parametrize("module", FILES)
def test_imports_point_downwards_only(module: str) -> None:
    part = part_of(module)
    upwards = {
        name
        for name in own_imports(module)
        if part_of(name) != part and LEVEL[part_of(name)] <= LEVEL[part]
    }  # fmt: skip
    assert not upwards


def test_imports_between_files_have_no_cycle() -> None:
    below = {module: own_imports(module) & FILES.keys() - {module} for module in FILES}
    while leaves := {module for module, names in below.items() if not names}:
        below = {module: names - leaves for module, names in below.items() if module not in leaves}
    assert not below


def test_the_command_line_is_imported_by_steps_only_when_they_are_run() -> None:
    for module in FILES:
        if module.startswith("loupe.steps."):
            assert "loupe.cli.main" not in own_imports(module) - guarded(module)


def step_uses(tree: ast.AST) -> set[str]:
    """What a file takes from step modules, such as `train.run`; from-imports count as `train.<name>`."""
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules = {alias.asname or alias.name for node in froms if node.module == "loupe.steps" for alias in node.names}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    uses = {
        f"{node.value.id}.{node.attr}"
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id in modules
    }
    return uses | {
        f"{node.module.removeprefix('loupe.steps.')}.{alias.name}"
        for node in froms
        if node.module and node.module.startswith("loupe.steps.")
        for alias in node.names
    }


def test_only_main_and_sweep_use_other_steps_and_only_their_run() -> None:
    for module in FILES:
        if module.startswith("loupe.steps."):
            uses = step_uses(ast.parse(FILES[module].read_text()))
            assert all(use.endswith(".run") for use in uses), module
            assert not uses or module in ("loupe.steps.main", "loupe.steps.sweep")
    code = "from loupe.steps import train as t\nfrom loupe.steps.register import Registration\nt.run, t.DEFAULT"
    assert step_uses(ast.parse(code)) == {"t.run", "t.DEFAULT", "register.Registration"}


def test_only_tracking_knows_mlflow_and_nothing_knows_tensorflow() -> None:
    roots = {module: {name.split(".")[0] for name in imports(module)} for module in FILES}
    knowing = {module for module, names in roots.items() if "mlflow" in names}
    assert {part_of(module) for module in knowing} == {"loupe.tracking"}
    assert not {module for module, names in roots.items() if "tensorflow" in names}


def test_the_import_rule_sees_imports_everywhere() -> None:
    tree = ast.parse(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from loupe.training import loop\n"
        "def f():\n    import loupe.tracking.runs\n    from ..tracking import models\n"
    )
    assert set(imports("loupe.config.fields", tree)) == {
        "typing", "loupe.training.loop", "loupe.tracking.runs", "loupe.tracking.models",
    }  # fmt: skip


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps").glob("*.toml")), ids=lambda file: file.stem)
def test_a_sweep_file_holds_settings_of_train_and_says_how_to_run_it(file: Path) -> None:
    text = file.read_text()
    sweep = sweep_loader.load_sweep(file)
    assert len({claim.number for claim in sweep.claims}) == len(sweep.claims)
    points = re.search(r"# Points: +([\d,]+)", text)
    assert points
    written = int(points[1].replace(",", ""))
    assert written == (len(list(sweep.iterate_points())) if sweep.study.sampler == "grid" else sweep.count_trials())
    for word in ("# Command:", "# Points:", "# Time:", "# Expected:"):
        assert word in text
