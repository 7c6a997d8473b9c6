"""The notebook docs/champion.ipynb runs with a registered champion and without Loupe."""

import json
import re
import subprocess
import sys

import pytest
from jobs import ROOT, build_env

NOTEBOOK = ROOT / "docs" / "champion.ipynb"
pytestmark = pytest.mark.xdist_group("main")  # one process: the tests share one finished main job


def code_cells():
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_notebook_is_stored_without_outputs():
    assert len({cell["id"] for cell in code_cells()}) == len(code_cells())
    assert not [cell for cell in code_cells() if cell["outputs"] or cell["execution_count"]]


def test_notebook_compares_the_champion_with_lanczos(finished_main):
    code = "\n".join("".join(cell["source"]) for cell in code_cells())
    checks = """
import sys
assert (network.shape, lanczos.shape) == ((to_floats(label).shape,) * 2)
assert not np.allclose(network, lanczos)
assert [axis.get_title().split(",")[0] for axis in axes] == ["input", "Lanczos", "champion", "label"]
assert "loupe" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code + checks],
        cwd=finished_main,
        env=build_env(PYTHONPATH="", MPLBACKEND="Agg", TF_CPP_MIN_LOG_LEVEL="3"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    maes = {name: float(mae) for name, mae in re.findall(r"(\w+): mae ([\d.]+) on", done.stdout)}
    assert maes.keys() == {"network", "Lanczos"}
    # The champion of a short test is almost a ridge regression.
    assert maes["network"] == pytest.approx(maes["Lanczos"], rel=0.05)
