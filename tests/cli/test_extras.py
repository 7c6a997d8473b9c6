"""A missing package is reported with the extra that installs it."""

import re
import tomllib
from pathlib import Path

import pytest

from loupe.cli.extras import EXTRAS, IMPORT_NAMES, describe_missing_package
from loupe.errors import UsageError

EXTRAS_IN_PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


def missing(module: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {module!r}", name=module)


def test_the_extras_are_those_of_pyproject() -> None:
    packages = {
        extra: {re.split(r"[\[>]", line)[0] for line in lines} - {"loupe-upscale"}
        for extra, lines in EXTRAS_IN_PYPROJECT.items()
        if extra != "test"
    }
    assert packages == {extra: set(names) for extra, names in EXTRAS.items()}
    assert set(IMPORT_NAMES) <= {package for names in EXTRAS.values() for package in names}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("mlflow", "needs mlflow: pip install 'loupe-upscale[train]'"),
        ("sklearn.linear_model", "needs scikit-learn: pip install 'loupe-upscale[train]'"),
        ("psycopg", "needs psycopg: pip install 'loupe-upscale[cluster]'"),
        ("gradio", "needs gradio: pip install 'loupe-upscale[demo]'"),
        ("loupe.nothing", None),
        ("numpy", None),
    ],
)
def test_a_missing_module_is_reported_with_its_extra(module: str, line: str | None) -> None:
    assert describe_missing_package(missing(module)) == line


def test_the_cause_of_another_error_is_found() -> None:
    error = UsageError("data_dir: needs another package")
    error.__cause__ = ImportError("Install s3fs to access S3")
    error.__cause__.__cause__ = missing("s3fs")
    assert describe_missing_package(error) == "needs s3fs: pip install 'loupe-upscale[cluster]'"
    assert describe_missing_package(UsageError("seed: must be a number")) is None
