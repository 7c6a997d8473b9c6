"""The notebooks in docs/notebooks contain their outputs, and run as one script from standard input.

Such a script has no file and no main guard, like the code of a notebook. The functions `loupe.train` and others must
work in it.
"""

import json
import re
import subprocess
import sys

import pytest
from jobs import ROOT, build_env, list_runs

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MAX_BYTES = 150_000
CHECKS = {
    "champion": """
assert registration.status == "no champion"
assert network.shape == to_floats(label).shape == large.size[::-1]
""",
    "sweep_and_pareto_front": """
assert best in {trial.user_attrs["run"] for trial in study.best_trials}
assert len(trials) == 2
assert (plt.get_backend(), len(plt.get_fignums())) == ("svg", 2)  # the figures of this and of the previous notebook
""",
    "train_and_compare": """
perceptron, convolutional = (mlflow.get_run(training.run_id).data for training in trainings.values())
assert mlflow.get_run(perceptron.tags["mlflow.parentRunId"]).info.run_name == "two networks"
assert perceptron.params["hidden"] == "256,128"
assert evaluation["scores"]["model"]["mae"] == convolutional.metrics["test/mae"]
assert evaluation["scores"]["small"]["mae"] < evaluation["scores"]["lanczos"]["mae"]
assert trainings["convolutional"].run_id in {model.source_run_id for model in models}
""",
}


def read_code_cells(notebook):
    book = json.loads(notebook.read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebook_is_small_and_stored_with_its_outputs(notebook):
    cells = read_code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"display_data", "execute_result", "stream"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert notebook.stat().st_size < MAX_BYTES


@pytest.mark.slow(60)
def test_the_notebooks_run_as_a_script_from_standard_input(tmp_path):
    code = ""
    for notebook in NOTEBOOKS:
        code += "\n".join("".join(cell["source"]) for cell in read_code_cells(notebook)) + CHECKS[notebook.stem]
    code = re.sub(r"steps ?= ?\d+", "steps=4", code)
    code = code.replace("filters = [4, 8, 16]\nlayers = [0, 1, 2]", "filters = [4, 8]\nlayers = [0]")
    done = subprocess.run(
        [sys.executable, "-"],
        input=code,
        cwd=tmp_path,
        env=build_env(MPLBACKEND="svg", TF_CPP_MIN_LOG_LEVEL="3"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {run.info.status for run in list_runs(tmp_path)} == {"FINISHED"}
