"""Sweeps from end to end: what they leave in MLflow and in Optuna, what they take from the store, what they refuse,
and that each trial is there exactly once whatever is killed."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import optuna
import psutil
import pytest
from jobs import ROOT, build_env, list_runs, loupe, open_store, read_error
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from loupe.search import sweep_loader

pytestmark = pytest.mark.xdist_group("sweep")  # one process: they share a dataset and finished sweeps
SWEEPS = sorted((ROOT / "sweeps").glob("*.toml"))
PLOTS = ["history", "importances", "parallel", "slice"]
PATIENCE = 300  # seconds until something must have happened
REAL = ("activation", "best", "patch")  # sweep files that are run as a person does; the others in one process
TINY = {
    "network": "perceptron", "hidden": "16,8", "patch": "10:15", "loss": "mse", "batch_size": 16,
    "steps": 12, "eval_every": 4, "eval_images": 1,
}  # fmt: skip
# Runs sweeps one after the other in this process, their workers too: TensorFlow starts once, and a checkpoint is
# kept at each point of a curve.
IN_ONE_PROCESS = """
import contextlib, dataclasses, io, json, os, sys, traceback
from loupe.config import parse_settings
from loupe.search import worker
from loupe.search.worker_pool import LocalWorkers
from loupe.steps import sweep
from loupe.tracking import trials
def run(workers, job):
    sys.stdin = io.StringIO(json.dumps(dataclasses.asdict(job)))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        worker.main(os.getppid())
    return int(printed.getvalue().split()[-1])
LocalWorkers.run, worker.IDLE_TIMEOUT_S, trials.CHECKPOINT_INTERVAL_S = run, 0.0, 0.0
shared = {"champion": "false", "workers": 1, "quiet": "true"} | json.loads(sys.argv[1])
for file in sys.argv[2:]:
    try:
        sweep.run(parse_settings("sweep", shared | {"sweep": file}))
    except Exception:
        traceback.print_exc()
"""


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A prepared folder of a few small labels."""
    folder = tmp_path_factory.mktemp("prepared")
    loupe("preprocess", "--smoke", "true", "--quiet", cwd=folder)
    return next((folder / "data").iterdir())


@pytest.fixture
def write(tmp_path, dataset):
    """Writes a sweep file of tiny perceptrons into the test's folder."""
    return lambda *given, **more: write_sweep(tmp_path, dataset, *given, **more)


def write_sweep(folder, dataset, name, search, study=None, **train):
    """A sweep file of tiny perceptrons, as `<name>.toml` in a folder.

    Args:
        search: the table's lines.
        study: further fields of that table.
        train: fields other than TINY's.
    """
    tables = {"study": {"name": name} | (study or {}), "train": {"dataset": str(dataset)} | TINY | train}
    lines = [f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())
             for table, fields in tables.items()]  # fmt: skip
    (folder / f"{name}.toml").write_text("".join([*lines, "[search]\n", search]))
    return f"{name}.toml"


def sweep(folder, file, *arguments, **more):
    """Run a sweep of one worker without registering its best; returns what it printed."""
    given = [] if "--workers" in arguments else ["--workers", 1]
    return loupe("sweep", file, "--champion", "false", *given, *arguments, cwd=folder, **more)


def started(folder, file, *arguments):
    """A sweep in the background, in a process group of its own."""
    return in_background(folder, "-m", "loupe", "sweep", file, "--champion", "false", *arguments)


def in_background(folder, *arguments, **more):
    """A Python process in a group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=build_env(**more), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for(process, found):
    """Until `found` gives something, while a process runs; returns that."""
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE:
        assert process.poll() is None, f"it ended with status {process.returncode} too early"
        what = found()
        if what:
            return what
        time.sleep(0.05)
    raise AssertionError(f"nothing happened within {PATIENCE} s")


def runs_of(folder, step, status=None):
    """The runs of a step in a folder's store, newest first."""
    found = list_runs(folder) if (folder / "mlflow.db").exists() else []
    return [run for run in found if run.data.tags.get("loupe.step") == step and status in (None, run.info.status)]


def study_of(folder, name):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(f"{folder}/optuna.journal")))


def table_of(folder, parent):
    """The rows of a sweep's trials.json."""
    path = open_store(folder).download_artifacts(parent.info.run_id, "trials.json")
    with open(path) as file:
        read = json.load(file)
    return [dict(zip(read["columns"], row, strict=True)) for row in read["data"]]


def files_of(folder, run, under=None):
    return sorted(item.path for item in open_store(folder).list_artifacts(run.info.run_id, under))


def kept_networks(folder):
    """The runs in a folder's store whose networks are there."""
    client = open_store(folder)
    experiments = [found.experiment_id for found in client.search_experiments()]
    found = [model for model in client.search_logged_models(experiments) if model.name == "model"]
    assert len(list(folder.glob("mlruns/**/model.keras"))) == len(found)
    return [model.source_run_id for model in found]


# What a finished sweep leaves.


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, dataset):
    """A folder in which sweeps/smoke.toml has run."""
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "printed.txt").write_text(
        loupe("sweep", ROOT / "sweeps" / "smoke.toml", "--dataset", dataset, cwd=folder).stdout
    )
    return folder


def test_trials_are_children_of_the_sweep_and_linked_with_optuna_both_ways(smoke):
    (parent,), children = runs_of(smoke, "sweep"), runs_of(smoke, "trial")
    trials = {trial.number: trial for trial in study_of(smoke, "smoke").trials}
    assert {run.info.status for run in list_runs(smoke)} == {"FINISHED"}
    assert {trial.state for trial in trials.values()} == {TrialState.COMPLETE}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    by_number = {int(run.data.tags["loupe.trial"]): run for run in children}
    assert by_number.keys() == trials.keys() == set(range(4))
    for number, trial in trials.items():
        assert trial.user_attrs["run"] == by_number[number].info.run_id
        assert trial.value == by_number[number].data.metrics["val/best_mae"]
        assert by_number[number].data.tags["trial.state"] == "COMPLETE"


def test_a_trial_has_every_setting_and_whole_curves(smoke, dataset):
    file = sweep_loader.load_sweep(ROOT / "sweeps" / "smoke.toml")
    place = {"dataset", "data_dir", "threads", "scheduler", "resume"}
    expected = [file.create_settings(point, seed=0).to_texts() for point in file.iterate_points()]
    found = [run.data.params for run in runs_of(smoke, "trial")]
    assert all(texts.keys() == given.keys() for texts, given in zip(expected, found, strict=True))
    for texts in expected:
        assert [{name: given[name] for name in texts.keys() - place} for given in found].count(
            {name: texts[name] for name in texts.keys() - place}
        ) == 1
    for run in runs_of(smoke, "trial"):
        for name in ("val/mae", "val/psnr", "train/mae", "loss", "learning_rate"):
            steps = [point.step for point in open_store(smoke).get_metric_history(run.info.run_id, name)]
            assert sorted(steps) == [0, 8, 16, 24], name
        assert run.data.tags["loupe.digest"] == dataset.name.rpartition("-")[2]


def test_a_sweep_keeps_table_plots_and_its_file_and_names_the_best_run(smoke):
    (parent,), children = runs_of(smoke, "sweep"), runs_of(smoke, "trial")
    assert files_of(smoke, parent, "plots") == [f"plots/{name}.png" for name in PLOTS]
    assert {"smoke.toml", "trials.json"} <= set(files_of(smoke, parent))
    rows = table_of(smoke, parent)
    assert [row["state"] for row in rows] == ["COMPLETE"] * 4
    (best,) = (run for run in children if run.info.run_id == parent.data.tags["best_run"])
    assert best.data.metrics["val/best_mae"] == min(run.data.metrics["val/best_mae"] for run in children)
    assert {row["run"]: row["value"] for row in rows}[best.info.run_id] == min(row["value"] for row in rows)
    assert parent.data.metrics["best/val/best_mae"] == best.data.metrics["val/best_mae"]
    printed = (smoke / "printed.txt").read_text()
    for word in ("4 points, 4 trials", "4 complete; 0 reused", best.info.run_id, "optuna-dashboard", "mlflow ui"):
        assert word in printed


def test_only_the_best_is_kept_scored_on_test_and_registered(smoke):
    (parent,), children = runs_of(smoke, "sweep"), runs_of(smoke, "trial")
    best = parent.data.tags["best_run"]  # smoke.toml keeps one
    assert kept_networks(smoke) == [best]
    assert [run.info.run_id for run in children if "test/mae" in run.data.metrics] == [best]
    kept = open_store(smoke).get_run(best)
    model = open_store(smoke).get_logged_model(kept.outputs.model_outputs[-1].model_id)
    linked = {metric.key: metric.value for metric in model.metrics}
    assert [linked[name] for name in ("val/best_mae", "test/mae")] == [
        kept.data.metrics[name] for name in ("val/best_mae", "test/mae")
    ]
    assert len(linked) == len(model.metrics)
    version = open_store(smoke).get_model_version_by_alias("loupe", "champion")
    assert (int(version.version), version.run_id) == (1, best)
    assert not [run for run in children if files_of(smoke, run, "checkpoint")]


# What is taken from the store.


@pytest.fixture(scope="module")
def searched(tmp_path_factory, dataset):
    """A folder in which a sweep of two points has ended."""
    folder = tmp_path_factory.mktemp("searched")
    sweep(folder, write_sweep(folder, dataset, "first", 'activation = ["tanh", "relu"]', {"repeats": 1}))
    assert len(runs_of(folder, "trial")) == 2
    return folder


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_more_repeats_add_seeds_only(searched, dataset):
    before = {run.info.run_id for run in runs_of(searched, "trial")}
    assert "2 complete" in sweep(searched, "first.toml").stdout
    assert {run.info.run_id for run in runs_of(searched, "trial")} == before
    assert len(study_of(searched, "first").trials) == 2
    write_sweep(searched, dataset, "first", 'activation = ["tanh", "relu"]', {"repeats": 2})
    sweep(searched, "first.toml")
    added = [run for run in runs_of(searched, "trial") if run.info.run_id not in before]
    assert {(run.data.params["activation"], run.data.params["seed"]) for run in added} == {
        ("tanh", "1"), ("relu", "1"),
    }  # fmt: skip
    assert len(added) == 2
    trials = study_of(searched, "first").trials
    points = Counter((trial.params["activation"], trial.params["seed"]) for trial in trials)
    assert points == {(activation, seed): 1 for activation in ("tanh", "relu") for seed in (0, 1)}


@pytest.mark.slow
def test_an_arm_that_another_sweep_has_trained_is_taken_from_the_store_unless_fresh(searched, dataset):
    trained = {run.data.params["activation"]: run.info.run_id for run in reversed(runs_of(searched, "trial"))
               if run.data.params["seed"] == "0"}  # fmt: skip
    write_sweep(searched, dataset, "second", 'activation = ["tanh", "sigmoid"]')
    printed = sweep(searched, "second.toml").stdout
    assert "2 complete; 1 reused from earlier runs" in printed
    ours = [run for run in runs_of(searched, "trial") if run.data.tags["loupe.sweep"] == "second"]
    assert [run.data.params["activation"] for run in ours] == ["sigmoid"]
    by_activation = {trial.params["activation"]: trial for trial in study_of(searched, "second").trials}
    taken = by_activation["tanh"]
    assert (taken.state, taken.user_attrs["run"]) == (TrialState.COMPLETE, trained["tanh"])
    linked = open_store(searched).get_run(trained["tanh"]).data
    assert taken.value == linked.metrics["val/best_mae"]
    assert sorted(taken.intermediate_values) == [1, 2, 3]  # its curve, for the pruner of those that follow
    assert linked.tags["loupe.sweep"] == "first"
    rows = table_of(searched, runs_of(searched, "sweep")[0])
    assert {row["activation"]: (row["reused"], row["run"]) for row in rows} == {
        "tanh": (True, trained["tanh"]), "sigmoid": (False, ours[0].info.run_id),
    }  # fmt: skip

    sweep(searched, "second.toml", "--name", "third", "--fresh", "true")
    anew = {run.data.params["activation"]: run for run in runs_of(searched, "trial")
            if run.data.tags["loupe.sweep"] == "third"}  # fmt: skip
    assert anew.keys() == {"tanh", "sigmoid"}
    assert anew["tanh"].data.metrics["val/best_mae"] == taken.value  # the same settings, seed, data and code


@pytest.mark.slow
def test_a_best_trial_whose_network_was_not_kept_is_trained_again_and_registered(tmp_path, write):
    file = write("both", 'activation = ["tanh", "relu"]', {"keep": 1})
    sweep(tmp_path, file)
    (parent,), trials = runs_of(tmp_path, "sweep"), runs_of(tmp_path, "trial")
    best = parent.data.tags["best_run"]
    assert kept_networks(tmp_path) == [best]
    open_store(tmp_path).set_terminated(parent.info.run_id, "KILLED")  # as if while it registered
    sweep(tmp_path, file)
    assert kept_networks(tmp_path) == [best]

    (other,) = (run for run in trials if run.info.run_id != best)
    activation = other.data.params["activation"]
    loupe("sweep", write("one", f"activation = ['{activation}']"), "--workers", 1, cwd=tmp_path)
    parent, (trained,) = runs_of(tmp_path, "sweep")[0], runs_of(tmp_path, "train")
    assert parent.data.tags["best_run"] == trained.info.run_id
    assert trained.data.params["activation"] == activation
    assert trained.data.metrics["val/best_mae"] == other.data.metrics["val/best_mae"]
    assert open_store(tmp_path).get_model_version("loupe", "1").run_id == trained.info.run_id


def test_another_search_under_a_name_that_is_taken_is_refused(searched, dataset):
    runs, trials = len(list_runs(searched)), len(study_of(searched, "first").trials)
    file = write_sweep(searched, dataset, "changed", 'activation = ["tanh", "sigmoid"]')
    line = read_error(sweep(searched, file, "--name", "first", status=2))
    assert "'first' is a study of another space" in line
    assert len(list_runs(searched)) == runs
    assert len(study_of(searched, "first").trials) == trials


# What is refused.


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
def test_what_cannot_be_run_is_refused_in_one_line_and_leaves_nothing(tmp_path, write, search, arguments, words):
    files = [] if search is None else [write("refused", search)]
    done = loupe("sweep", *files, *arguments, "--workers", 1, cwd=tmp_path, status=2)
    for word in words:
        assert word in read_error(done)
    assert "secret" not in done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == files


def test_a_sweep_that_runs_already_is_refused_and_one_that_is_terminated_leaves_nothing_open(tmp_path, write):
    file = write("long", 'activation = ["tanh", "relu"]', steps=1_000_000, eval_every=100)
    process = started(tmp_path, file, "--workers", "2")
    try:
        wait_for(process, lambda: len(runs_of(tmp_path, "trial", "RUNNING")) == 2)
        line = read_error(sweep(tmp_path, file, status=2))
        assert f"process {process.pid} of " in line
        assert "already runs 'long'" in line
        assert len(runs_of(tmp_path, "sweep")) == 1
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 2
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
        assert not psutil.wait_procs(below, timeout=10)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert [run.info.status for run in runs_of(tmp_path, "sweep")] == ["KILLED"]
    assert [run.info.status for run in runs_of(tmp_path, "trial")] == ["KILLED"] * 2


# How trials end.


@pytest.mark.slow
def test_a_poor_trial_is_pruned_and_counts_as_finished_in_mlflow(tmp_path, write):
    search = 'learning_rate = {low = 1e-6, high = 1e-2, log = true}\nactivation = ["tanh", "relu"]'
    study = {"sampler": "tpe", "pruner": "median", "trials": 14, "startup": 12}
    file = write("pruned", search, study, steps=40, eval_every=4, optimizer="adam", schedule="constant")
    sweep(tmp_path, file)
    trials = study_of(tmp_path, "pruned").trials
    states = Counter(trial.state for trial in trials)
    assert states.keys() == {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(trials) == 14
    assert [trial.number for trial in trials if "fixed_params" in trial.system_attrs] == list(range(14))
    drawn = [trial.system_attrs["fixed_params"] for trial in trials]
    assert [set(given) for given in drawn] == [{"learning_rate", "activation"}] * 12 + [set()] * 2
    runs = {run.info.run_id: run for run in runs_of(tmp_path, "trial")}
    assert len(runs) == 14
    steps = 0
    for trial in trials:
        run = runs[trial.user_attrs["run"]]
        assert run.info.status == "FINISHED"
        assert run.data.tags["trial.state"] == trial.state.name
        points = [point.value for point in open_store(tmp_path).get_metric_history(run.info.run_id, "val/mae")]
        assert list(trial.intermediate_values.values()) == points[1:]  # not where it starts
        assert len(points) == 11 or trial.state == TrialState.PRUNED
        steps += len(points) - 1
    assert steps < 14 * 10
    (parent,) = runs_of(tmp_path, "sweep")
    assert parent.data.metrics["trials/pruned"] == states[TrialState.PRUNED]
    best = runs[parent.data.tags["best_run"]]
    assert best.data.tags["trial.state"] == "COMPLETE"
    ranked = sorted((trial for trial in trials if trial.state == TrialState.COMPLETE), key=lambda trial: trial.value)
    assert set(kept_networks(tmp_path)) == {trial.user_attrs["run"] for trial in ranked[:3]}


@pytest.mark.slow
def test_a_trial_that_diverges_fails_and_the_sweep_goes_on_unless_all_do(tmp_path, write):
    diverging = '"sgd.learning_rate" = [100.0]\noptimizer = '
    more = {"hidden": "none", "schedule": "constant", "steps": 40}
    sweep(tmp_path, write("some", diverging + '["sgd", "adam"]', **more))
    (parent,), runs = runs_of(tmp_path, "sweep"), runs_of(tmp_path, "trial")
    assert {run.data.params["optimizer"]: run.info.status for run in runs} == {"sgd": "FAILED", "adam": "FINISHED"}
    trials = {trial.params["optimizer"]: trial for trial in study_of(tmp_path, "some").trials}
    assert {name: trial.state for name, trial in trials.items()} == {
        "sgd": TrialState.FAIL, "adam": TrialState.COMPLETE,
    }  # fmt: skip
    why = {row["optimizer"]: row["why"] for row in table_of(tmp_path, parent)}
    assert re.search("the loss is (nan|inf).* lower learning_rate", why["sgd"])
    assert why["adam"] is None
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["best_run"] == trials["adam"].user_attrs["run"]

    line = read_error(sweep(tmp_path, write("none", diverging + '["sgd"]', **more), status=1))
    assert "has failed" in line
    assert "lower learning_rate" in line
    parent = runs_of(tmp_path, "sweep")[0]
    assert (parent.data.tags["loupe.sweep"], parent.info.status) == ("none", "FAILED")
    assert [row["state"] for row in table_of(tmp_path, parent)] == ["FAIL"]


@pytest.mark.slow
def test_max_trials_and_timeout_bound_a_sweep_and_the_next_one_finishes_it(tmp_path, write):
    file = write("bounded", 'activation = ["tanh", "relu", "sigmoid"]')

    def states():
        return Counter(trial.state.name for trial in study_of(tmp_path, "bounded").trials)

    sweep(tmp_path, file, "--timeout", 0.5)  # over before a worker has started
    assert states() == {"WAITING": 3}
    sweep(tmp_path, file, "--max_trials", 1, "--workers", 2)
    assert states() == {"COMPLETE": 1, "WAITING": 2}
    sweep(tmp_path, file)
    assert states() == {"COMPLETE": 3}
    runs = runs_of(tmp_path, "trial")
    assert {run.data.params["activation"] for run in runs} == {"tanh", "relu", "sigmoid"}
    assert len(runs) == 3
    assert {run.info.status for run in list_runs(tmp_path)} == {"FINISHED"}


# What is killed.


def workers_of(process):
    """The worker processes of a sweep."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # a `git` that has ended since
            if "loupe.search.worker" in child.cmdline():
                found.append(child)
    return found


@pytest.mark.slow
@pytest.mark.xdist_group("killed sweep")
def test_a_grid_killed_again_and_again_has_each_point_exactly_once_in_the_end(tmp_path, write):
    file = write("killed", "activation = ['tanh', 'relu', 'sigmoid']\nlearning_rate = [1e-4, 1e-3, 1e-2]", steps=300)
    rng = random.Random(3)
    done = 0

    def begun(before):
        return [run for run in runs_of(tmp_path, "trial", "RUNNING") if run.info.run_id not in before]

    for _ in range(2):
        known = {run.info.run_id for run in runs_of(tmp_path, "trial")}
        process = started(tmp_path, file, "--workers", "2")
        wait_for(process, lambda known=known: begun(known))
        time.sleep(rng.uniform(0, 2))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        ended = len(runs_of(tmp_path, "trial", "FINISHED"))
        assert done <= ended < 9, "it was to be killed before its end"
        assert runs_of(tmp_path, "sweep", "RUNNING")  # nobody has closed it yet
        done = ended
    with (tmp_path / "optuna.journal").open("a") as journal:
        journal.write('{"op_code": 5, "worker_id": "half a line')
    known = {run.info.run_id for run in runs_of(tmp_path, "trial")}
    process = started(tmp_path, file, "--workers", "2")
    ours = wait_for(process, lambda: begun(known))
    pids = [child.pid for child in workers_of(process)]
    assert int(ours[0].data.tags["loupe.pid"]) in pids
    os.kill(int(ours[0].data.tags["loupe.pid"]), signal.SIGKILL)
    assert process.wait(PATIENCE) == 0

    trials = [trial for trial in study_of(tmp_path, "killed").trials if trial.state == TrialState.COMPLETE]
    points = Counter((trial.params["activation"], trial.params["learning_rate"]) for trial in trials)
    assert points == {(name, rate): 1 for name in ("tanh", "relu", "sigmoid") for rate in (1e-4, 1e-3, 1e-2)}
    last, *older = runs_of(tmp_path, "sweep")
    assert [run.info.status for run in (last, *older)] == ["FINISHED", "KILLED", "KILLED"]
    runs = runs_of(tmp_path, "trial")
    assert Counter(run.info.status for run in runs).keys() == {"FINISHED", "KILLED"}
    finished = [run for run in runs if run.info.status == "FINISHED"]
    assert {run.info.run_id for run in finished} == {trial.user_attrs["run"] for trial in trials}
    assert len(finished) == 9
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {last.info.run_id}
    assert open_store(tmp_path).get_run(ours[0].info.run_id).info.status == "KILLED"
    assert not {trial.state for trial in study_of(tmp_path, "killed").trials} & {
        TrialState.RUNNING, TrialState.WAITING,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.xdist_group("killed sweep")
def test_a_killed_trial_goes_on_from_its_checkpoint_to_the_numbers_of_an_unbroken_one(tmp_path, write):
    file = write("continued", 'activation = ["tanh"]', steps=2000, eval_every=40, keep_prob=0.5)
    process = in_background(tmp_path, "-c", IN_ONE_PROCESS, "{}", file, TF_NUM_INTRAOP_THREADS="1")

    def beyond_half():
        names = {run: run.data.tags.get("loupe.checkpoint", "") for run in runs_of(tmp_path, "trial")}
        return [run for run, name in names.items() if int("0" + "".join(filter(str.isdigit, name))) >= 1000]

    (run,) = wait_for(process, beyond_half)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    sweep(tmp_path, file)
    ended, killed = runs_of(tmp_path, "trial")
    assert (killed.info.run_id, killed.info.status) == (run.info.run_id, "KILLED")
    assert ended.data.tags["loupe.continues"] == run.info.run_id
    sweep(tmp_path, file, "--name", "unbroken", "--fresh", "true")
    unbroken = runs_of(tmp_path, "trial")[0]
    assert unbroken.data.tags["loupe.sweep"] == "unbroken"
    for name in ("val/best_mae", "val/mae", "train/mae", "val/roughness"):
        assert ended.data.metrics[name] == unbroken.data.metrics[name], name
    curves = [open_store(tmp_path).get_metric_history(whole.info.run_id, "val/mae") for whole in (ended, unbroken)]
    curves = [sorted(curve, key=lambda point: point.step) for curve in curves]
    ours, theirs = ([(point.step, point.value) for point in curve] for curve in curves)
    assert ours == theirs
    assert len(ours) == 51
    first, middle, last = (curves[0][at].timestamp for at in (0, 25, 50))
    assert middle - first < last - middle  # what had been trained was not trained again
    assert not files_of(tmp_path, ended, "checkpoint")


# Every sweep file.


@pytest.fixture(scope="module")
def one_trial_each(tmp_path_factory, dataset):
    """A folder in which every sweep file but REAL has run one trial."""
    folder = tmp_path_factory.mktemp("each")
    files = [str(file) for file in SWEEPS if file.stem not in REAL]
    given = {"dataset": str(dataset), "smoke": "true", "max_trials": 1}
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS, json.dumps(given), *files], cwd=folder, env=build_env(),
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    (folder / "printed.txt").write_text(f"{done.stdout}\n{done.stderr}")
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("sweep files")
@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_file_runs_a_tiny_trial(file, request, tmp_path, dataset):
    if file.stem in REAL:
        folder = tmp_path
        sweep(folder, file, "--dataset", dataset, "--smoke", "true", "--max_trials", 1)
    else:
        folder = request.getfixturevalue("one_trial_each")
    name = f"{sweep_loader.load_sweep(file).name}-smoke"
    parents = [run for run in runs_of(folder, "sweep") if run.data.tags.get("loupe.sweep") == name]
    assert [run.info.status for run in parents] == ["FINISHED"], (folder / "printed.txt").read_text()[-2000:]
    trials = study_of(folder, name).trials
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == 1
    assert "best_run" in parents[0].data.tags
