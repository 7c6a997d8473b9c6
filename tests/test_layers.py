"""Imports point downwards, and functions are small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "loupe"
# From top to bottom: a package imports only from packages below it.
LAYERS = [
    "loupe.__main__", "loupe.steps", "loupe.web", "loupe.search", "loupe.report", "loupe.tracking", "loupe.photos",
    "loupe.training", "loupe.evaluation", "loupe.models", "loupe.upscalers", "loupe.data", "loupe.imaging",
    "loupe.cli", "loupe.config", "loupe.errors", "loupe",
]  # fmt: skip
LEVEL = {layer: level for level, layer in enumerate(LAYERS)}
FILES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}
PACKAGES = {name for name, file in FILES.items() if file.name == "__init__.py"}
MOST_LINES, MOST_PARAMETERS = 60, 5


def layer_of(module: str) -> str:
    return module if module in LEVEL else ".".join(module.split(".")[:2])


def list_imports(module: str, tree: ast.AST | None = None) -> Iterator[str]:
    """Yield every module that a file imports, also inside functions, conditions and TYPE_CHECKING blocks."""
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


def list_own_imports(module: str) -> set[str]:
    return {name for name in list_imports(module) if name.split(".")[0] == "loupe"}


def test_the_root_of_the_package_has_three_modules() -> None:
    assert {file.name for file in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


def test_every_module_is_in_a_layer() -> None:
    assert {layer_of(module) for module in FILES} == LEVEL.keys()


@pytest.mark.parametrize("module", FILES)
def test_imports_point_downwards(module: str) -> None:
    layer = layer_of(module)
    others = {name for name in list_own_imports(module) if layer_of(name) != layer}
    assert not {name for name in others if LEVEL[layer_of(name)] < LEVEL[layer]}


def test_imports_have_no_cycle() -> None:
    below = {module: list_own_imports(module) & FILES.keys() - {module} for module in FILES}
    while leaves := {module for module, names in below.items() if not names}:
        below = {module: names - leaves for module, names in below.items() if module not in leaves}
    assert not below


def list_uses_of_steps(tree: ast.AST) -> set[str]:
    """Return the attributes of step modules that a file uses, such as `train.run`, also those of from-imports."""
    from_imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules = {
        alias.asname or alias.name
        for node in from_imports
        if node.module == "loupe.steps"
        for alias in node.names
    }  # fmt: skip
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    return attributes | {
        f"{node.module.removeprefix('loupe.steps.')}.{alias.name}"
        for node in from_imports
        if node.module and node.module.startswith("loupe.steps.")
        for alias in node.names
    }


def test_only_main_and_sweep_use_other_steps_and_only_their_run_and_its_result() -> None:
    for module in FILES:
        uses = list_uses_of_steps(ast.parse(FILES[module].read_text()))
        names = {use.partition(".")[2] for use in uses}
        assert all(name == "run" or (name[0].isupper() and not name.isupper()) for name in names), module
        assert not uses or module in ("loupe.steps.main", "loupe.steps.sweep")
    code = "from loupe.steps import train as t\nfrom loupe.steps.register import Registration\nt.run, t.DEFAULT"
    assert list_uses_of_steps(ast.parse(code)) == {"t.run", "t.DEFAULT", "register.Registration"}


def test_steps_do_not_import_the_command_line() -> None:
    users = {module for module in FILES if "loupe.cli.main" in list_imports(module)}
    assert users == {"loupe.__main__"}


def test_only_tracking_imports_mlflow_and_no_module_imports_tensorflow() -> None:
    roots = {module: {name.split(".")[0] for name in list_imports(module)} for module in FILES}
    assert {layer_of(module) for module, names in roots.items() if "mlflow" in names} == {"loupe.tracking"}
    assert not {module for module, names in roots.items() if "tensorflow" in names}


@pytest.mark.parametrize("module", FILES)
def test_functions_have_at_most_60_lines_and_5_parameters(module: str) -> None:
    large = []
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not module.startswith("loupe.config"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MOST_LINES or len(parameters) > MOST_PARAMETERS:
                large.append(f"{node.name}: {lines} lines, {len(parameters)} parameters")
    assert not large


def test_imports_are_found_everywhere() -> None:
    tree = ast.parse(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from loupe.training import loop\n"
        "def f():\n    import loupe.tracking.runs\n    from ..tracking import models\n"
    )
    assert set(list_imports("loupe.config.fields", tree)) == {
        "typing", "loupe.training.loop", "loupe.tracking.runs", "loupe.tracking.models",
    }  # fmt: skip
