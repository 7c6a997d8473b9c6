"""Sweeps from the command to the registered model: runs in MLflow, trials in Optuna, refusals, signals."""

import contextlib
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import optuna
import psutil
import pytest
from jobs import ROOT, Step, list_runs, loupe, open_store, read_error
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image

from loupe.config import parse_settings
from loupe.search import sweep_loader
from loupe.steps import sweep as sweep_step

pytestmark = pytest.mark.xdist_group("sweep")  # one process: the tests share a dataset and finished sweeps
SWEEPS = sorted((ROOT / "sweeps").glob("*.toml"))
PLOTS = ["history", "importances", "parallel", "slice"]
RESULT_FILES = {"curves.png", "predictions.png", "ridge-3x2.npy", "test-summary.json", "test.json"}
TIMEOUT_S = 300
TINY = {
    "network": "perceptron", "hidden": "16,8", "patch": "10:15", "loss": "mse", "batch_size": 16,
    "steps": 12, "eval_every": 4, "eval_images": 1,
}  # fmt: skip
# Writes a checkpoint at each point of the curve.
ALL_CHECKPOINTS = "from loupe.tracking import trials; trials.CHECKPOINT_INTERVAL_S = 0.0"
# Exits at the given record of the scores of the best trial.
KILL_AT_RECORD = """
import os
from loupe.tracking import delivery, records
log_record, logged = delivery.log_record, []
def log_or_exit(*arguments):
    logged.extend([1] if records._RUN_ID.get() else [])
    os._exit(9) if len(logged) == {} else log_record(*arguments)
delivery.log_record = log_or_exit
"""


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """The folder of a prepared dataset of a few small labels."""
    folder = tmp_path_factory.mktemp("prepared")
    loupe("preprocess", "--smoke", "true", "--quiet", cwd=folder)
    return next((folder / "data").iterdir())


@pytest.fixture
def write(tmp_path, dataset):
    """A function that writes a sweep file of tiny perceptrons into the test's folder."""
    return lambda *arguments, **fields: write_sweep(tmp_path, dataset, *arguments, **fields)


def write_sweep(folder, dataset, name, search, study=None, **train):
    """Write a sweep file of tiny perceptrons; returns its name.

    Args:
        folder: the folder of the file.
        dataset: the folder of the dataset.
        name: the name of the study; the file is `<name>.toml`.
        search: the lines of the table [search].
        study: additional fields of the table [study].
        train: additional fields of the table [train]; None removes a field.
    """
    tables = {"study": {"name": name} | (study or {}), "train": {"dataset": str(dataset)} | TINY | train}
    lines = []
    for table, fields in tables.items():
        given = {key: value for key, value in fields.items() if value is not None}
        lines += [f"[{table}]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in given.items())]
    (folder / f"{name}.toml").write_text("".join([*lines, "[search]\n", search]))
    return f"{name}.toml"


def sweep(folder, file, *arguments, **more):
    """Run a sweep with one worker in the step's process, without registering its best model."""
    return loupe(
        *("sweep", file, "--register-best", "false", "--workers", 1, *arguments),
        cwd=folder,
        in_one_process=True,
        **more,
    )


def start_sweep(folder, file, *arguments, **more):
    """Start a sweep in the background, in a process group of its own."""
    return Step("sweep", file, "--register-best", "false", *arguments, cwd=folder, **more)


def wait_for(process, find):
    """Wait while a process runs until `find` returns something true, and return that."""
    started = time.monotonic()
    while time.monotonic() - started < TIMEOUT_S:
        assert process.poll() is None, f"the process exited early with status {process.returncode}"
        if found := find():
            return found
        time.sleep(0.2)
    raise AssertionError(f"timeout after {TIMEOUT_S} s")


def find_runs(folder, step, status=None):
    """Return the runs of a step in the store of a folder, newest first."""
    found = list_runs(folder) if (folder / "mlflow.db").exists() else []
    return [run for run in found if run.data.tags.get("loupe.step") == step and status in (None, run.info.status)]


def load_study(folder, name):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(f"{folder}/optuna.journal")))


def read_trials(folder, parent):
    """Return the rows of trials.json of a sweep's run."""
    path = open_store(folder).download_artifacts(parent.info.run_id, "trials.json")
    with open(path) as file:
        read = json.load(file)
    return [dict(zip(read["columns"], row, strict=True)) for row in read["data"]]


def list_files(folder, run, under=None):
    return sorted(item.path for item in open_store(folder).list_artifacts(run.info.run_id, under))


def list_networks(folder):
    """Return the ids of the runs in the store of a folder that have a network."""
    client = open_store(folder)
    experiments = [found.experiment_id for found in client.search_experiments()]
    found = [model for model in client.search_logged_models(experiments) if model.name == "model"]
    assert len(list(folder.glob("mlruns/**/model.keras"))) == len(found)
    return [model.source_run_id for model in found]


# Runs and trials of a finished sweep.


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, dataset):
    """A folder in which sweeps/smoke.toml has run."""
    folder = tmp_path_factory.mktemp("smoke")
    file = ROOT / "sweeps" / "smoke.toml"
    done = loupe("sweep", file, "--dataset", dataset, "--workers", 1, cwd=folder, in_one_process=True)
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def test_trial_runs_are_children_of_the_sweep_run_and_optuna_trials_link_to_them(smoke):
    (parent,), children = find_runs(smoke, "sweep"), find_runs(smoke, "trial")
    trials = {trial.number: trial for trial in load_study(smoke, "smoke").trials}
    assert {run.info.status for run in list_runs(smoke)} == {"FINISHED"}
    assert {trial.state for trial in trials.values()} == {TrialState.COMPLETE}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    by_number = {int(run.data.tags["loupe.trial"]): run for run in children}
    assert by_number.keys() == trials.keys() == set(range(4))
    assert "4 trials" in parent.data.tags["mlflow.note.content"]
    assert by_number[0].info.run_name == f"0 {' '.join(map(str, list(trials[0].params.values())[:-1]))} (smoke)"
    for number, trial in trials.items():
        assert trial.user_attrs["run"] == by_number[number].info.run_id
        assert trial.value == by_number[number].data.metrics["val/best_mae"]
        assert by_number[number].data.tags["loupe.state"] == "COMPLETE"
        is_best = by_number[number].info.run_id == parent.data.tags["loupe.best_run"]
        note = "Mean absolute error on the test photos" if is_best else f"Trial {number} of the sweep smoke: skip="
        assert note in by_number[number].data.tags["mlflow.note.content"]
        assert bool(list_files(smoke, by_number[number], "images")) == is_best


def test_trial_runs_have_all_settings_and_complete_curves(smoke, dataset):
    file = sweep_loader.load_sweep(ROOT / "sweeps" / "smoke.toml")
    machine_fields = {"dataset", "data_dir", "threads", "scheduler", "resume"}
    expected = [file.create_settings(point, seed=0).to_texts() for point in file.iterate_points()]
    found = [run.data.params for run in find_runs(smoke, "trial")]
    assert all(texts.keys() == given.keys() for texts, given in zip(expected, found, strict=True))
    for texts in expected:
        assert [{name: given[name] for name in texts.keys() - machine_fields} for given in found].count(
            {name: texts[name] for name in texts.keys() - machine_fields}
        ) == 1
    for run in find_runs(smoke, "trial"):
        for name in ("val/mae", "val/psnr", "train/mae", "loss", "train/learning_rate"):
            steps = [point.step for point in open_store(smoke).get_metric_history(run.info.run_id, name)]
            assert sorted(steps) == [0, 8, 16, 24], name
        assert run.data.tags["loupe.digest"] == dataset.name.rpartition("-")[2]


def test_sweep_run_has_the_table_of_trials_plots_sweep_file_and_best_run(smoke):
    (parent,), children = find_runs(smoke, "sweep"), find_runs(smoke, "trial")
    assert list_files(smoke, parent, "plots") == [f"plots/{name}.png" for name in PLOTS]
    assert {"smoke.toml", "trials.json"} <= set(list_files(smoke, parent))
    rows = read_trials(smoke, parent)
    assert [row["state"] for row in rows] == ["COMPLETE"] * 4
    (best,) = (run for run in children if run.info.run_id == parent.data.tags["loupe.best_run"])
    assert best.data.metrics["val/best_mae"] == min(run.data.metrics["val/best_mae"] for run in children)
    assert {row["run"]: row["value"] for row in rows}[best.info.run_id] == min(row["value"] for row in rows)
    assert parent.data.metrics["best/val/best_mae"] == best.data.metrics["val/best_mae"]
    printed = (smoke / "printed.txt").read_text()
    for word in ("4 arms, 4 trials", "4 complete; 0 reused", best.info.run_id, "optuna-dashboard", "mlflow ui"):
        assert word in printed


def test_only_the_best_trial_keeps_its_network_is_scored_on_test_and_registered(smoke):
    (parent,), children = find_runs(smoke, "sweep"), find_runs(smoke, "trial")
    best = parent.data.tags["loupe.best_run"]  # smoke.toml has keep = 1
    assert list_networks(smoke) == [best]
    assert [run.info.run_id for run in children if "test/mae" in run.data.metrics] == [best]
    run = open_store(smoke).get_run(best)
    contexts = [tag.value for found in run.inputs.dataset_inputs for tag in found.tags]
    assert sorted(contexts) == ["test", "training", "validation"]
    model = open_store(smoke).get_logged_model(run.outputs.model_outputs[-1].model_id)
    linked = {metric.key: metric.value for metric in model.metrics}
    assert [linked[name] for name in ("val/best_mae", "test/mae")] == [
        run.data.metrics[name] for name in ("val/best_mae", "test/mae")
    ]
    assert len(linked) == len(model.metrics)
    (version,) = open_store(smoke).search_model_versions("name = 'loupe'")
    assert version.run_id == best
    assert "of the bundled network small of 3:2" in version.tags["loupe.evidence"]
    assert not open_store(smoke).get_registered_model("loupe").aliases
    assert not [run for run in children if list_files(smoke, run, "checkpoint")]


def test_sweep_that_was_killed_while_it_scored_its_best_trial_scores_it_again(smoke, dataset):
    (parent,), client = find_runs(smoke, "sweep"), open_store(smoke)
    best = client.get_run(parent.data.tags["loupe.best_run"])
    files = list_files(smoke, best)
    assert set(files) >= RESULT_FILES
    for file in RESULT_FILES:  # as after a kill: the test scores are logged, the files are not
        (Path(best.info.artifact_uri) / file).unlink()
    client.delete_tag(best.info.run_id, "loupe.scored")
    client.set_terminated(parent.info.run_id, "KILLED")
    file = ROOT / "sweeps" / "smoke.toml"
    for _ in range(2):
        loupe("sweep", file, "--dataset", dataset, "--workers", 1, "--quiet", cwd=smoke, in_one_process=True)
        assert list_files(smoke, best) == files
    scores = client.get_metric_history(best.info.run_id, "test/mae")
    assert [score.value for score in scores] == [scores[0].value] * 2  # the second sweep has nothing to score


@pytest.mark.slow(120)
@pytest.mark.parametrize("records", [1, 3, 9])
def test_sweep_that_is_killed_at_any_record_of_the_scores_completes_them(tmp_path, write, records):
    file = write("scored", 'activation = ["tanh"]')
    patch = KILL_AT_RECORD.format(records)
    process = Step("sweep", file, "--workers", 1, cwd=tmp_path, in_one_process=True, patch=patch)
    assert process.wait(TIMEOUT_S) == 9
    (best,) = find_runs(tmp_path, "trial")
    assert ("test/mae" in best.data.metrics, set(list_files(tmp_path, best)) >= RESULT_FILES) == (records > 1, False)
    loupe("sweep", file, "--workers", 1, cwd=tmp_path, in_one_process=True)
    assert set(list_files(tmp_path, best)) >= RESULT_FILES
    assert "loupe.scored" in open_store(tmp_path).get_run(best.info.run_id).data.tags
    assert len(list_networks(tmp_path)) == 1


# Results of earlier runs.


@pytest.fixture(scope="module")
def finished_sweep(tmp_path_factory, dataset):
    """A folder in which a sweep of two points has finished."""
    folder = tmp_path_factory.mktemp("finished_sweep")
    sweep(folder, write_sweep(folder, dataset, "first", 'activation = ["tanh", "relu"]', {"repeats": 1}))
    assert len(find_runs(folder, "trial")) == 2
    return folder


@pytest.mark.slow
def test_sweeps_of_one_name_in_two_storages_do_not_share_runs(tmp_path, write):
    sweep(tmp_path, write("first", 'activation = ["tanh", "relu"]', {"repeats": 1}))
    before = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in find_runs(tmp_path, "trial")}
    with_network = set(list_networks(tmp_path))
    sweep(tmp_path, "first.toml", "--storage", "other.journal", "--fresh", "true")
    after = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in find_runs(tmp_path, "trial")}
    assert len(after) == 2 * len(before)
    assert before.items() <= after.items()
    assert with_network <= set(list_networks(tmp_path))

    (newest, *_) = find_runs(tmp_path, "sweep")
    deleted = newest.data.tags["loupe.best_run"]
    open_store(tmp_path).delete_run(deleted)
    refused = sweep(tmp_path, "first.toml", "--storage", "other.journal", status=2)
    assert "sweep: error: storage: must be a study whose runs exist in MLflow, got " in refused.stderr
    assert f"without the run {deleted} of trial " in refused.stderr


@pytest.mark.slow
def test_repeated_sweep_trains_nothing_and_more_repeats_train_only_new_seeds(finished_sweep, dataset):
    before = {run.info.run_id for run in find_runs(finished_sweep, "trial")}
    assert "2 complete" in sweep(finished_sweep, "first.toml").stdout
    assert {run.info.run_id for run in find_runs(finished_sweep, "trial")} == before
    assert len(load_study(finished_sweep, "first").trials) == 2
    write_sweep(finished_sweep, dataset, "first", 'activation = ["tanh", "relu"]', {"repeats": 2})
    sweep(finished_sweep, "first.toml")
    added = [run for run in find_runs(finished_sweep, "trial") if run.info.run_id not in before]
    assert {(run.data.params["activation"], run.data.params["seed"]) for run in added} == {
        ("tanh", "1"), ("relu", "1"),
    }  # fmt: skip
    assert len(added) == 2
    trials = load_study(finished_sweep, "first").trials
    points = Counter((trial.params["activation"], trial.params["seed"]) for trial in trials)
    assert points == {(activation, seed): 1 for activation in ("tanh", "relu") for seed in (0, 1)}


@pytest.mark.slow
def test_sweep_reuses_results_of_another_sweep_unless_fresh(finished_sweep, dataset):
    trained = {run.data.params["activation"]: run.info.run_id for run in reversed(find_runs(finished_sweep, "trial"))
               if run.data.params["seed"] == "0"}  # fmt: skip
    write_sweep(finished_sweep, dataset, "second", 'activation = ["tanh", "sigmoid"]')
    printed = sweep(finished_sweep, "second.toml").stdout
    assert "2 complete; 1 reused from earlier runs" in printed
    added = [run for run in find_runs(finished_sweep, "trial") if run.data.tags["loupe.sweep"] == "second"]
    assert [run.data.params["activation"] for run in added] == ["sigmoid"]
    by_activation = {trial.params["activation"]: trial for trial in load_study(finished_sweep, "second").trials}
    reused = by_activation["tanh"]
    assert (reused.state, reused.user_attrs["run"]) == (TrialState.COMPLETE, trained["tanh"])
    linked = open_store(finished_sweep).get_run(trained["tanh"]).data
    assert reused.value == linked.metrics["val/best_mae"]
    assert sorted(reused.intermediate_values) == [1, 2, 3]  # the curve, which the pruner compares with later trials
    assert linked.tags["loupe.sweep"] == "first"
    rows = read_trials(finished_sweep, find_runs(finished_sweep, "sweep")[0])
    assert {row["activation"]: (row["reused"], row["run"]) for row in rows} == {
        "tanh": (True, trained["tanh"]), "sigmoid": (False, added[0].info.run_id),
    }  # fmt: skip

    sweep(finished_sweep, "second.toml", "--name", "third", "--fresh", "true")
    fresh = {run.data.params["activation"]: run for run in find_runs(finished_sweep, "trial")
            if run.data.tags["loupe.sweep"] == "third"}  # fmt: skip
    assert fresh.keys() == {"tanh", "sigmoid"}
    assert fresh["tanh"].data.metrics["val/best_mae"] == reused.value  # the same settings, seed, data and code


@pytest.mark.slow
def test_reused_best_trial_without_a_network_is_trained_again_and_registered(tmp_path, write):
    file = write("both", 'activation = ["tanh", "relu"]', {"keep": 1})
    sweep(tmp_path, file)
    (parent,), trials = find_runs(tmp_path, "sweep"), find_runs(tmp_path, "trial")
    best = parent.data.tags["loupe.best_run"]
    assert list_networks(tmp_path) == [best]
    open_store(tmp_path).set_terminated(parent.info.run_id, "KILLED")  # as after a kill during registration
    sweep(tmp_path, file)
    assert list_networks(tmp_path) == [best]

    (other,) = (run for run in trials if run.info.run_id != best)
    activation = other.data.params["activation"]
    file = write("one", f"activation = ['{activation}']")
    loupe("sweep", file, "--workers", 1, cwd=tmp_path, in_one_process=True)
    parent, (trained,) = find_runs(tmp_path, "sweep")[0], find_runs(tmp_path, "train")
    assert parent.data.tags["loupe.best_run"] == trained.info.run_id
    assert trained.data.params["activation"] == activation
    assert trained.data.metrics["val/best_mae"] == other.data.metrics["val/best_mae"]
    assert open_store(tmp_path).get_model_version("loupe", "1").run_id == trained.info.run_id


def test_reused_best_trial_is_trained_again_on_the_dataset_of_this_sweep(monkeypatch):
    from loupe.search import study_results
    from loupe.steps import register, sweep, train
    from loupe.tracking import logged_models, records, runs

    # A stub, because the module imports TensorFlow.
    monkeypatch.setitem(sys.modules, "loupe.tracking.training_runs", ModuleType("training_runs"))
    earlier = {"network": "ridge", "data_dir": "earlier", "dataset": "sample"}
    trained, registered, tags = [], [], {}
    monkeypatch.setattr(runs, "get_run", lambda *_: None)
    monkeypatch.setattr(runs, "read_settings", lambda *_: dict(earlier))
    monkeypatch.setattr(logged_models, "find_model", lambda run_id: None)
    monkeypatch.setattr(records, "log_tags", tags.update)
    monkeypatch.setattr(train, "run", lambda given: trained.append(given) or SimpleNamespace(run_id="new"))
    monkeypatch.setattr(register, "run", lambda given: registered.append(given.run))
    settings = parse_settings("sweep", {"sweep": "x.toml", "data_dir": "mine", "quiet": True})
    assert sweep._register_best(settings, ["old"], SimpleNamespace(location="mine/photos-1f"), "old") == "new"
    assert [(given.dataset, given.data_dir) for given in trained] == [("mine/photos-1f", "mine")]
    assert registered == ["new"]
    assert tags == {study_results.BEST_RUN_TAG: "new"}


def test_name_of_a_study_with_another_search_space_is_refused(finished_sweep, dataset):
    runs, trials = len(list_runs(finished_sweep)), len(load_study(finished_sweep, "first").trials)
    file = write_sweep(finished_sweep, dataset, "changed", 'activation = ["tanh", "sigmoid"]')
    line = read_error(sweep(finished_sweep, file, "--name", "first", status=2))
    assert "study.name: must be a new name, or that of a study with the same search space, got 'first' (" in line
    assert len(list_runs(finished_sweep)) == runs
    assert len(load_study(finished_sweep, "first").trials) == trials


# Refusals.


@pytest.mark.parametrize(
    ("search", "arguments", "words"),
    [
        ("swish = [1, 2]", [], ["swish", "not a field"]),
        ("activation = {low = 1, high = 2}", [], ["activation", "must be a list of values with sampler=grid"]),
        ("keep_prob = [0.5, 2.0]", [], ["keep_prob", "less than or equal to 1", "2.0"]),
        ('"sgd.epsilon" = [1e-7]\noptimizer = ["sgd"]', [], ["epsilon"]),
        (None, ["nowhere.toml"], ["nowhere.toml"]),
        ("seed = [1]", [], ["seed", "study.repeats"]),
        (
            'activation = ["tanh"]',
            ["--storage", "postgresql://loupe:secret@127.0.0.1:1/studies"],
            ["storage", "loupe:***@127.0.0.1"],
        ),
        ('activation = ["tanh"]', ["--storage", "nodatabase://host/studies"], ["storage", "nodatabase"]),
        ('activation = ["tanh"]', ["--storage", "refused.toml"], ["storage: must be", "'refused.toml'"]),
        ('activation = ["tanh"]', ["--scheduler", "tcp://127.0.0.1:1"], ["scheduler", "tcp://127.0.0.1:1"]),
        ('activation = ["tanh"]', ["--dataset", "nowhere"], ["dataset", "nowhere"]),
    ],
    ids=["field", "range", "value", "rule", "file", "seed", "storage", "driver", "journal", "dask", "dataset"],
)
def test_bad_usage_is_refused_in_one_line_and_creates_no_file(tmp_path, write, search, arguments, words):
    files = [] if search is None else [write("refused", search)]
    done = loupe("sweep", *files, *arguments, "--workers", 1, cwd=tmp_path, status=2)
    for word in words:
        assert word in read_error(done)
    assert "secret" not in done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == files


@pytest.mark.parametrize(
    ("search", "train", "error"),
    [
        (
            'scale = ["3:2", "4:1"]',
            {"patch": "whole"},
            "scale: must be one of 3:2,2:1,3:1 for sample-.*, got 4:1; .*",
        ),
        ('patch = ["10:15", "70:105"]', {"patch": None}, ".*: must be at most the inputs' side of 60, got 70"),
    ],
    ids=["scale", "patch"],
)
def test_point_that_does_not_fit_the_dataset_is_refused_before_any_trial(tmp_path, write, search, train, error):
    done = loupe("sweep", write("refused", search, **train), "--workers", 1, cwd=tmp_path, status=2)
    assert re.fullmatch(f"loupe sweep: error: {error}", read_error(done))
    assert not find_runs(tmp_path, "sweep")


@pytest.mark.parametrize(("photos", "split"), [(1, "validation"), (2, "test")])
def test_dataset_without_photos_for_a_split_is_refused_before_any_trial(tmp_path, photos, split):
    for number in range(photos):
        Image.effect_noise((160, 160), 60 * (number + 1)).save(tmp_path / f"{number}.png")
    file = write_sweep(tmp_path, tmp_path, "refused", 'activation = ["tanh"]')
    error = f"loupe sweep: error: split: must have a photo, got none in {split} of .*"
    assert re.fullmatch(error, read_error(loupe("sweep", file, "--workers", 1, cwd=tmp_path, status=2)))
    assert not find_runs(tmp_path, "sweep")


def test_sweep_prepares_the_scale_factors_that_it_searches(tmp_path):
    search = 'scale = ["3:2", "4:1"]'
    file = sweep_loader.load_sweep(tmp_path / write_sweep(tmp_path, "sample", "scales", search, patch="whole"))
    settings = parse_settings("sweep", {"sweep": "scales.toml", "smoke": True, "data_dir": str(tmp_path / "data")})
    source = sweep_step._describe_source(settings, file)
    assert source == {"dataset": "sample", "smoke": True, "seed": 0, "scales": ["3:2", "4:1"]}
    assert sweep_step._open_dataset(settings, file, source).settings["scales"] == "3:2,4:1"


def test_running_sweep_is_not_started_twice_and_closes_all_runs_on_sigterm(tmp_path, write):
    file = write("long", 'activation = ["tanh", "relu"]', steps=1_000_000, eval_every=100)
    process = start_sweep(tmp_path, file, "--workers", "2")
    try:
        wait_for(process, lambda: len(find_runs(tmp_path, "trial", "RUNNING")) == 2)
        line = read_error(sweep(tmp_path, file, status=2))
        assert f"process {process.pid} of " in line
        assert "already runs 'long'" in line
        assert len(find_runs(tmp_path, "sweep")) == 1
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM
        assert not psutil.wait_procs(workers, timeout=10)[1]
    finally:
        process.kill()
    assert [run.info.status for run in find_runs(tmp_path, "sweep")] == ["KILLED"]
    assert [run.info.status for run in find_runs(tmp_path, "trial")] == ["KILLED"] * 2


# Pruned, failed and limited trials.


@pytest.mark.slow
def test_pruned_trials_have_finished_runs_and_partial_curves(tmp_path, write):
    search = 'learning_rate = {low = 1e-6, high = 1e-2, log = true}\nactivation = ["tanh", "relu"]'
    study = {"sampler": "tpe", "pruner": "median", "trials": 14, "startup": 12}
    file = write("pruned", search, study, steps=40, eval_every=4, optimizer="adam", schedule="constant")
    sweep(tmp_path, file)
    trials = load_study(tmp_path, "pruned").trials
    states = Counter(trial.state for trial in trials)
    assert states.keys() == {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(trials) == 14
    assert [trial.number for trial in trials if "fixed_params" in trial.system_attrs] == list(range(14))
    drawn = [trial.system_attrs["fixed_params"] for trial in trials]
    assert [set(given) for given in drawn] == [{"learning_rate", "activation"}] * 12 + [set()] * 2
    runs = {run.info.run_id: run for run in find_runs(tmp_path, "trial")}
    assert len(runs) == 14
    steps = 0
    for trial in trials:
        run = runs[trial.user_attrs["run"]]
        assert run.info.status == "FINISHED"
        assert run.data.tags["loupe.state"] == trial.state.name
        points = [point.value for point in open_store(tmp_path).get_metric_history(run.info.run_id, "val/mae")]
        assert list(trial.intermediate_values.values()) == points[1:]  # without step 0
        assert len(points) == 11 or trial.state == TrialState.PRUNED
        steps += len(points) - 1
    assert steps < 14 * 10
    (parent,) = find_runs(tmp_path, "sweep")
    assert parent.data.metrics["trials/pruned"] == states[TrialState.PRUNED]
    best = runs[parent.data.tags["loupe.best_run"]]
    assert best.data.tags["loupe.state"] == "COMPLETE"
    ranked = sorted((trial for trial in trials if trial.state == TrialState.COMPLETE), key=lambda trial: trial.value)
    assert set(list_networks(tmp_path)) == {trial.user_attrs["run"] for trial in ranked[:3]}


@pytest.mark.slow
def test_diverging_trial_fails_and_the_sweep_fails_only_if_all_trials_do(tmp_path, write):
    diverging = '"sgd.learning_rate" = [100.0]\noptimizer = '
    more = {"hidden": "none", "schedule": "constant", "steps": 40}
    sweep(tmp_path, write("some", diverging + '["sgd", "adam"]', **more))
    (parent,), runs = find_runs(tmp_path, "sweep"), find_runs(tmp_path, "trial")
    assert {run.data.params["optimizer"]: run.info.status for run in runs} == {"sgd": "FAILED", "adam": "FINISHED"}
    trials = {trial.params["optimizer"]: trial for trial in load_study(tmp_path, "some").trials}
    assert {name: trial.state for name, trial in trials.items()} == {
        "sgd": TrialState.FAIL, "adam": TrialState.COMPLETE,
    }  # fmt: skip
    reasons = {row["optimizer"]: row["why"] for row in read_trials(tmp_path, parent)}
    assert re.search("the loss is (nan|inf).* lower learning_rate", reasons["sgd"])
    assert reasons["adam"] is None
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["loupe.best_run"] == trials["adam"].user_attrs["run"]

    line = read_error(sweep(tmp_path, write("none", diverging + '["sgd"]', **more), status=1))
    assert "trials: all 1 failed" in line
    assert "lower learning_rate" in line
    parent = find_runs(tmp_path, "sweep")[0]
    assert (parent.data.tags["loupe.sweep"], parent.info.status) == ("none", "FAILED")
    assert [row["state"] for row in read_trials(tmp_path, parent)] == ["FAIL"]


@pytest.mark.slow
def test_max_trials_and_timeout_limit_a_sweep_and_the_next_sweep_continues_it(tmp_path, write):
    file = write("bounded", 'activation = ["tanh", "relu", "sigmoid"]')

    def states():
        return Counter(trial.state.name for trial in load_study(tmp_path, "bounded").trials)

    sweep(tmp_path, file, "--timeout", 0.001)  # over before a worker starts
    assert states() == {"WAITING": 3}
    loupe("sweep", file, "--register-best", "false", "--max_trials", 1, "--workers", 2, cwd=tmp_path)
    assert states() == {"COMPLETE": 1, "WAITING": 2}
    sweep(tmp_path, file)
    assert states() == {"COMPLETE": 3}
    runs = find_runs(tmp_path, "trial")
    assert {run.data.params["activation"] for run in runs} == {"tanh", "relu", "sigmoid"}
    assert len(runs) == 3
    assert {run.info.status for run in list_runs(tmp_path)} == {"FINISHED"}


# Killed sweeps.


def find_workers(process):
    """Return the worker processes of a sweep."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # a child that has exited
            if "loupe.search.worker" in child.cmdline():
                found.append(child)
    return found


@pytest.mark.slow(80)
@pytest.mark.xdist_group("killed sweep")
def test_repeatedly_killed_grid_runs_each_point_exactly_once(tmp_path, write):
    file = write("killed", "activation = ['tanh', 'relu', 'sigmoid']\nlearning_rate = [1e-4, 1e-3]", steps=300)
    rng = random.Random(3)
    done = 0

    def find_new(before):
        return [run for run in find_runs(tmp_path, "trial", "RUNNING") if run.info.run_id not in before]

    for _ in range(2):
        known = {run.info.run_id for run in find_runs(tmp_path, "trial")}
        process = start_sweep(tmp_path, file, "--workers", "2")
        wait_for(process, lambda known=known: find_new(known))
        time.sleep(rng.uniform(0, 2))
        process.kill()
        ended = len(find_runs(tmp_path, "trial", "FINISHED"))
        assert done <= ended < 6, "the sweep ended before it was killed"
        assert find_runs(tmp_path, "sweep", "RUNNING")  # until the next sweep closes it
        done = ended
    with (tmp_path / "optuna.journal").open("a") as journal:
        journal.write('{"op_code": 5, "worker_id": "half a line')
    known = {run.info.run_id for run in find_runs(tmp_path, "trial")}
    process = start_sweep(tmp_path, file, "--workers", "2")
    new = wait_for(process, lambda: find_new(known))
    pids = [child.pid for child in find_workers(process)]
    assert int(new[0].data.tags["loupe.pid"]) in pids
    os.kill(int(new[0].data.tags["loupe.pid"]), signal.SIGKILL)
    assert process.wait(TIMEOUT_S) == 0

    trials = [trial for trial in load_study(tmp_path, "killed").trials if trial.state == TrialState.COMPLETE]
    points = Counter((trial.params["activation"], trial.params["learning_rate"]) for trial in trials)
    assert points == {(name, rate): 1 for name in ("tanh", "relu", "sigmoid") for rate in (1e-4, 1e-3)}
    last, *older = find_runs(tmp_path, "sweep")
    assert [run.info.status for run in (last, *older)] == ["FINISHED", "KILLED", "KILLED"]
    runs = find_runs(tmp_path, "trial")
    assert Counter(run.info.status for run in runs).keys() == {"FINISHED", "KILLED"}
    finished = [run for run in runs if run.info.status == "FINISHED"]
    assert {run.info.run_id for run in finished} == {trial.user_attrs["run"] for trial in trials}
    assert len(finished) == 6
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {last.info.run_id}
    assert open_store(tmp_path).get_run(new[0].info.run_id).info.status == "KILLED"
    assert not {trial.state for trial in load_study(tmp_path, "killed").trials} & {
        TrialState.RUNNING, TrialState.WAITING,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.xdist_group("killed sweep")
def test_killed_trial_resumes_from_its_checkpoint_with_identical_results(tmp_path, write):
    file = write("continued", 'activation = ["tanh"]', steps=2000, eval_every=40, keep_prob=0.5)
    process = start_sweep(
        *(tmp_path, file, "--workers", 1),
        in_one_process=True, patch=ALL_CHECKPOINTS, TF_NUM_INTRAOP_THREADS="1",
    )  # fmt: skip

    def find_half_trained():
        names = {run: run.data.tags.get("loupe.checkpoint", "") for run in find_runs(tmp_path, "trial")}
        return [run for run, name in names.items() if int("0" + "".join(filter(str.isdigit, name))) >= 1000]

    (run,) = wait_for(process, find_half_trained)
    process.kill()
    sweep(tmp_path, file)
    ended, killed = find_runs(tmp_path, "trial")
    assert (killed.info.run_id, killed.info.status) == (run.info.run_id, "KILLED")
    assert ended.data.tags["loupe.continues"] == run.info.run_id
    sweep(tmp_path, file, "--name", "uninterrupted", "--fresh", "true")
    uninterrupted = find_runs(tmp_path, "trial")[0]
    assert uninterrupted.data.tags["loupe.sweep"] == "uninterrupted"
    for name in ("val/best_mae", "val/mae", "train/mae", "val/roughness"):
        assert ended.data.metrics[name] == uninterrupted.data.metrics[name], name
    curves = [
        open_store(tmp_path).get_metric_history(whole.info.run_id, "val/mae") for whole in (ended, uninterrupted)
    ]
    curves = [sorted(curve, key=lambda point: point.step) for curve in curves]
    resumed, expected = ([(point.step, point.value) for point in curve] for curve in curves)
    assert resumed == expected
    assert len(resumed) == 51
    first, middle, last = (curves[0][at].timestamp for at in (0, 25, 50))
    assert middle - first < last - middle  # the first half was not trained again
    assert not list_files(tmp_path, ended, "checkpoint")


@pytest.mark.slow
@pytest.mark.xdist_group("killed sweep")
def test_killed_sweep_with_two_objectives_ends_with_the_front_of_its_study(tmp_path, write):
    study = {"metric": ["val/mae", "weights"], "sampler": "nsga2", "trials": 6, "constraints": ["weights <= 6000"]}
    file = write("front", 'skip = ["none", "ridge"]\nlearning_rate = {low = 1e-5, high = 1e-2, log = true}\n', study)
    process = start_sweep(tmp_path, file, "--workers", 1, in_one_process=True)
    wait_for(process, lambda: len(find_runs(tmp_path, "trial", "FINISHED")) >= 2)
    process.kill()
    sweep(tmp_path, file)
    study, (parent, _) = load_study(tmp_path, "front"), find_runs(tmp_path, "sweep")
    assert Counter(trial.state for trial in study.trials)[TrialState.COMPLETE] == 6
    front = {trial.user_attrs["run"]: trial.values for trial in study.best_trials}
    assert set(list_networks(tmp_path)) == front.keys()
    for run in find_runs(tmp_path, "trial", "FINISHED"):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        if run.info.run_id in front:
            assert [run.data.metrics["val/best_mae"], run.data.metrics["weights"]] == front[run.info.run_id]
        violated = "weights <= 6000" if run.data.metrics["weights"] > 6000 else ""
        assert run.data.tags.get("loupe.violated", "") == violated
        assert not (violated and run.info.run_id in front)
    assert {row["violated"] for row in read_trials(tmp_path, parent)} == {"", "weights <= 6000"}
    assert "plots/front.png" in list_files(tmp_path, parent, "plots")
    best = open_store(tmp_path).get_run(parent.data.tags["loupe.best_run"])
    assert best.data.metrics["val/best_mae"] == min(mae for mae, _ in front.values())


# Every sweep file.


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder whose store takes all sweep files."""
    return tmp_path_factory.mktemp("files")


@pytest.mark.slow(150)
@pytest.mark.xdist_group("sweep files")
@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_file_runs_a_tiny_trial(file, shared, dataset):
    sweep(shared, file, "--dataset", dataset, "--smoke", "true", "--max_trials", 1, "--fresh", "true")
    name = f"{sweep_loader.load_sweep(file).name}-smoke"
    parent = find_runs(shared, "sweep")[0]
    assert (parent.data.tags["loupe.sweep"], parent.info.status) == (name, "FINISHED")
    assert "loupe.best_run" in parent.data.tags
    trials = load_study(shared, name).trials
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == 1
