"""Sweeps whose database restarts, and sweeps whose trials diverge."""

import time
from collections import Counter

import optuna
import psutil
import pytest
import services
from jobs import Step, list_runs, loupe, open_store, read_error
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from loupe.search.trial_attributes import FAILURE, ORPHANED

pytestmark = [pytest.mark.slow(120), pytest.mark.xdist_group("faults of sweeps")]
SWEEP = """
[study]
name = "{name}"
direction = "minimize"
metric = "val/mae"
sampler = "grid"
repeats = {repeats}
[train]
network = "perceptron"
hidden = "{hidden}"
loss = "mse"
batch_size = 16
schedule = "constant"
steps = {steps}
eval_every = {every}
[search]
{search}
"""


def test_no_trial_is_lost_when_the_database_restarts(tmp_path, dataset):
    text = SWEEP.format(
        name="restarted",
        hidden="16,8",
        repeats=1,
        steps=400,
        every=20,
        search='activation = ["tanh", "relu", "sigmoid"]',
    )
    (tmp_path / "sweep.toml").write_text(text)
    open_store(tmp_path).search_experiments()  # two processes that make one store break it
    with services.restartable_postgresql(tmp_path / "postgresql") as (url, restart):
        arguments = ["sweep", "sweep.toml", "--dataset", dataset, "--storage", url, "--no-register-best"]
        printed = tmp_path / "printed.txt"
        process = Step(*arguments, "--workers", 2, cwd=tmp_path, output=(printed, printed))
        for _ in range(1200):
            assert process.poll() is None, printed.read_text()
            if any("val/mae" in run.data.metrics for run in list_runs(tmp_path)):
                break
            time.sleep(0.1)
        restart(4.0)
        assert process.wait(300) == 0, printed.read_text()
        trials = optuna.load_study(study_name="restarted", storage=url).trials
    ended = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert Counter((trial.params["activation"], trial.params["seed"]) for trial in ended).most_common(1)[0][1] == 1
    assert len(ended) == 3
    assert not [trial for trial in trials if trial.state.name in ("RUNNING", "WAITING")]
    assert not [run for run in list_runs(tmp_path) if run.info.status in ("RUNNING", "FAILED")]


def test_a_worker_that_was_suspended_adds_no_result_after_its_trial_was_given_to_another(tmp_path, dataset):
    text = SWEEP.format(
        name="suspended", hidden="16,8", repeats=1, steps=2000, every=20, search='activation = ["tanh"]'
    )
    (tmp_path / "sweep.toml").write_text(text)
    open_store(tmp_path).search_experiments()  # two processes that make one store break it
    arguments = ["sweep", "sweep.toml", "--dataset", dataset, "--no-register-best", "--workers", 1, "--quiet"]
    printed = tmp_path / "printed.txt"
    process = Step(*arguments, cwd=tmp_path, output=(printed, printed))
    for _ in range(1200):
        assert process.poll() is None, printed.read_text()
        trained = [run for run in list_runs(tmp_path) if "val/mae" in run.data.metrics]
        if trained:
            break
        time.sleep(0.1)
    worker = psutil.Process(int(trained[0].data.tags["loupe.pid"]))
    worker.suspend()
    study = optuna.load_study(
        study_name="suspended", storage=JournalStorage(JournalFileBackend(str(tmp_path / "optuna.journal")))
    )
    (suspended,) = study.trials
    study._storage.set_trial_user_attr(suspended._trial_id, FAILURE, ORPHANED)  # as a sweep elsewhere does
    study._storage.set_trial_state_values(suspended._trial_id, TrialState.FAIL)
    open_store(tmp_path).set_terminated(trained[0].info.run_id, "KILLED")
    while len(study.trials) == 1:
        time.sleep(0.1)
    worker.resume()
    assert process.wait(300) == 0, printed.read_text()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    runs = {run.info.run_id: run.info.status for run in list_runs(tmp_path) if "val/mae" in run.data.metrics}
    assert runs == {trained[0].info.run_id: "KILLED", study.trials[1].user_attrs["run"]: "FINISHED"}


def test_a_diverging_trial_fails_with_its_last_checkpoint_and_the_others_continue(tmp_path, dataset):
    search = '"sgd.learning_rate" = [100.0]\noptimizer = ["sgd", "adam"]'
    (tmp_path / "sweep.toml").write_text(
        SWEEP.format(name="diverging", hidden="none", repeats=1, steps=60, every=10, search=search)
    )
    arguments = ["sweep", "sweep.toml", "--dataset", dataset, "--no-register-best", "--workers", 1, "--quiet"]
    loupe(*arguments, cwd=tmp_path, in_one_process=True)
    runs = {run.data.params.get("optimizer"): run for run in list_runs(tmp_path)}
    assert (runs["sgd"].info.status, runs["adam"].info.status) == ("FAILED", "FINISHED")
    kept = runs["sgd"].data.tags["loupe.checkpoint"]
    assert int(kept.removeprefix("checkpoint/").removesuffix(".npz")) % 10 == 0
    assert kept in [item.path for item in open_store(tmp_path).list_artifacts(runs["sgd"].info.run_id, "checkpoint")]
    line = read_error(loupe(
        *("train", "--dataset", dataset, "--network", "perceptron", "--hidden", "none", "--optimizer", "sgd"),
        *("--learning-rate", 100, "--loss", "mse", "--schedule", "constant", "--steps", 60, "--eval-every", 10),
        cwd=tmp_path, status=1,
    ))  # fmt: skip
    assert "training: the loss is " in line
    assert "the last good checkpoint is of step " in line
