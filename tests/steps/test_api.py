"""The functions `loupe.train` and others, in a script from standard input: it has no file and no main guard."""

import subprocess
import sys

import pytest
from jobs import ROOT, build_env, list_runs

import loupe
from loupe.config import STEPS
from loupe.errors import UsageError

SCRIPT = """
import mlflow
import loupe

dataset = loupe.prepare(smoke=True)
with mlflow.start_run() as parent:
    training = loupe.train(dataset=dataset.location, smoke=True, network="perceptron", hidden=(16, 8))
summary = loupe.evaluate(model=f"runs:/{training.run_id}/model", dataset=dataset.location, smoke=True)
registration = loupe.register(run=training.run_id, smoke=True)
best = loupe.sweep(sweep=SWEEP, smoke=True, workers=1, max_trials=1)
assert mlflow.get_run(training.run_id).data.tags["mlflow.parentRunId"] == parent.info.run_id
assert mlflow.get_run(training.run_id).data.params["hidden"] == "16,8"
assert summary["scores"]["model"]["mae"] == mlflow.get_run(training.run_id).data.metrics["test/mae"]
assert (registration.name, registration.version) == ("loupe", "1")
assert mlflow.get_run(best).data.tags["loupe.step"] == "trial"
"""


def test_public_functions_are_steps_and_refuse_wrong_fields() -> None:
    for name in ("prepare", "train", "evaluate", "register", "sweep"):
        function = getattr(loupe, name)
        with pytest.raises(
            UsageError, match=rf"sharpness: is not a field of {name if name in STEPS else 'preprocess'}"
        ):
            function(sharpness=1)
    with pytest.raises(AttributeError, match="has no attribute 'sharpen'"):
        loupe.sharpen  # noqa: B018


@pytest.mark.slow(40)
def test_a_script_from_standard_input_runs_every_step(tmp_path) -> None:
    script = SCRIPT.replace("SWEEP", repr(str(ROOT / "sweeps" / "smoke.toml")))
    done = subprocess.run(
        [sys.executable, "-"], input=script, cwd=tmp_path, env=build_env(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {run.info.status for run in list_runs(tmp_path)} == {"FINISHED"}
