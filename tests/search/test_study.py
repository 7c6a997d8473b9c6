"""Studies with made-up values instead of trainings: each item runs exactly once, whichever process is killed."""

import datetime
import json
import multiprocessing
import os
import shutil
import threading
import time
import warnings
from collections import Counter
from unittest.mock import Mock

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib import pyplot
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import TrialState

from loupe.errors import LoupeError, UsageError
from loupe.search import constraints, sampling, study_results, study_storage
from loupe.search import study as study_module
from loupe.search.items import MAX_ATTEMPTS
from loupe.search.plots import plot_study
from loupe.search.study import SweepStudy
from loupe.search.study_results import check_failures
from loupe.search.sweep_file import SweepFile
from loupe.search.trial_attributes import (
    FAILED,
    FAILURE,
    ITEM,
    LAST_VALUE,
    ORPHANED,
    OWNER,
    PARENT,
    REASON,
    RESUMED_RUN,
    RUN,
)

RECORD = b'{"op_code":0,"worker_id":"1"}\n'
HERE = {"loupe.host": "here", "loupe.pid": "1"}
VALUES = {"tanh": 0.1, "relu": 0.2}
MAX_WAITING = 64


def sweep_of(study, search, train=None):
    return SweepFile.model_validate({"study": {"name": "made-up"} | study, "train": train or {}, "search": search})


GRID = sweep_of({"repeats": 2}, {"activation": ["tanh", "relu"], "loss": ["mse", "mae"]}, {"network": "perceptron"})
TUNED = sweep_of(
    {"repeats": 3, "tune": ["learning_rate"]}, {"activation": ["tanh", "relu"], "learning_rate": [0.1, 0.01, 0.001]}
)
SAMPLED = sweep_of(
    {"sampler": "tpe", "trials": 8, "startup": 3},
    {
        "network": ["convolutional", "perceptron"],
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "convolutional.layers": {"low": 1, "high": 4},
        "perceptron.hidden": ["8", "8,4"],
    },
)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A database without a study: creating its tables takes longer than most tests."""
    file = tmp_path_factory.mktemp("database") / "empty.db"
    study_storage.open_storage(f"sqlite:///{file}")
    return file


@pytest.fixture(params=["journal", "sqlite"])
def place(request, tmp_path, empty_database):
    """The location of a new study, per kind of storage."""
    if request.param == "journal":
        return str(tmp_path / "study.log")
    shutil.copy(empty_database, tmp_path / "study.db")
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "study.log")


def opened(place, sweep=GRID, parent="parent", digest="digest"):
    """A study with its own storage object, as in another process."""
    return SweepStudy(sweep, study_storage.open_storage(place), digest, parent)


def in_memory(sweep):
    """A study without a file."""
    return SweepStudy(sweep, optuna.storages.InMemoryStorage(), "digest", "parent")


def finish(study, trial, value=None):
    """Complete a trial without training; returns its point and seed."""
    chosen = sampling.suggest_params(study.sweep, trial)
    seed = sampling.suggest_seed(study.sweep, trial)
    trial.set_user_attr(RUN, f"run {trial.number}")
    made_up = VALUES.get(chosen.get("activation"), 0.3) + 0.001 * seed if value is None else value(chosen, seed)
    study.optuna_study.tell(trial, made_up)
    return chosen, seed


def work(study, value=None):
    """Claim and complete trials until none waits; returns their points and seeds."""
    done = []
    while (trial := study.claim_trial(HERE)) is not None:
        done.append(finish(study, trial, value))
    return done


def states(study):
    return dict(Counter(trial.state.name for trial in study.optuna_study.trials))


def every(sweep, seeds=None):
    """Each point of a grid with each seed."""
    points = [json.dumps(params, sort_keys=True) for params in sweep.iterate_points()]
    return {(point, seed) for point in points for seed in seeds or sweep.seeds}


def as_keys(done):
    return [(json.dumps(chosen, sort_keys=True), seed) for chosen, seed in done]


def test_repeated_calls_enqueue_each_item_once(place):
    study = opened(place)
    study.enqueue_missing(MAX_WAITING)
    study.enqueue_missing(MAX_WAITING)
    opened(place, parent="the next").enqueue_missing(MAX_WAITING)
    assert (study.count_waiting(), study.count_open(), study.count_ended()) == (8, 8, 0)
    taken = study.claim_trial(HERE)
    study.enqueue_missing(MAX_WAITING)
    assert (study.count_waiting(), study.count_open()) == (7, 8)
    finish(study, taken)
    study.enqueue_missing(MAX_WAITING)
    assert (study.count_waiting(), study.count_open(), study.count_ended()) == (7, 7, 1)
    done = work(study)
    study.enqueue_missing(MAX_WAITING)
    assert len(done) == 7
    assert states(study) == {"COMPLETE": 8}
    assert study.count_ended() == study.sweep.count_trials() == 8
    assert not study.count_open()
    assert study.claim_trial(HERE) is None


def test_more_repeats_enqueue_only_the_new_seeds(journal):
    work_of(journal, GRID)
    more = sweep_of({"repeats": 3}, GRID.search, GRID.train)
    study = opened(journal, more)
    study.enqueue_missing(MAX_WAITING)
    assert set(as_keys(work(study))) == every(more, seeds=[2])


def work_of(place, sweep, **more):
    study = opened(place, sweep, **more)
    study.enqueue_missing(MAX_WAITING)
    return work(study)


def test_threads_with_separate_storages_claim_each_item_once(place):
    opened(place).enqueue_missing(MAX_WAITING)
    done, errors = [], []

    def worker():
        try:
            done.extend(work(opened(place)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(as_keys(done)) == sorted(every(GRID))
    assert states(opened(place)) == {"COMPLETE": 8}


def worker_process(place, name, results):
    study = opened(place)
    for _ in range(3):
        study.enqueue_missing(MAX_WAITING)  # the order of processes must not matter
    done = []
    while (trial := study.claim_trial({"loupe.host": "here", "loupe.pid": str(os.getpid())})) is not None:
        time.sleep(0.01)
        done.append(finish(study, trial))
    results.put((name, as_keys(done)))


def test_processes_claim_each_item_once(place):
    opened(place).enqueue_missing(MAX_WAITING)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    workers = [spawn.Process(target=worker_process, args=(place, name, results)) for name in range(2)]
    for process in workers:
        process.start()
    found = dict(results.get(timeout=60) for _ in workers)
    for process in workers:
        process.join(60)
    assert [process.exitcode for process in workers] == [0, 0]
    assert sorted(key for keys in found.values() for key in keys) == sorted(every(GRID))
    trials = opened(place).optuna_study.trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len(trials) == 8


def test_claiming_a_trial_of_a_database_is_atomic(tmp_path, monkeypatch):
    place = f"sqlite:///{tmp_path / 'study.db'}"
    storage = study_storage.open_storage(place)
    one, other = SweepStudy(GRID, storage, "digest", "parent"), opened(place)
    one.enqueue_missing(MAX_WAITING)
    taken, look = [], storage.check_trial_is_updatable
    thread = threading.Thread(target=lambda: taken.append(other.claim_trial(HERE)))

    def slowly(trial_id, state):
        look(trial_id, state)
        if thread.ident is None:
            thread.start()
            thread.join(0.5)

    monkeypatch.setattr(storage, "check_trial_is_updatable", slowly)
    taken.append(one.claim_trial(HERE))
    thread.join()
    assert sorted(trial.number for trial in taken) == [0, 1]


@pytest.mark.parametrize("failing_call", ["set_trial_user_attr", "get_trial"])
def test_an_error_after_a_trial_got_its_owner_does_not_lose_the_trial(tmp_path, monkeypatch, failing_call):
    study = opened(f"sqlite:///{tmp_path / 'study.db'}")
    study.enqueue_missing(MAX_WAITING)
    storage, errors = study._storage, [optuna.exceptions.StorageInternalError("restart")]
    call = getattr(storage, failing_call)

    def fail_once_with_owner(trial_id, *given):
        result = call(trial_id, *given)
        if errors and OWNER in study.optuna_study.get_trials()[0].user_attrs:
            raise errors.pop()
        return result

    monkeypatch.setattr(storage, failing_call, fail_once_with_owner)
    monkeypatch.setattr(study_storage, "RETRY_INTERVAL_S", 0.0)
    trial = study.claim_trial(HERE)
    assert (trial.number, trial.user_attrs[OWNER], errors) == (0, HERE, [])


def test_claimed_trial_has_owner_parent_and_point(journal):
    study = opened(journal, parent="mine")
    study.enqueue_missing(MAX_WAITING)
    trial = study.claim_trial(HERE)
    assert trial.user_attrs[OWNER] == HERE
    assert trial.user_attrs[PARENT] == "mine"
    chosen, seed = finish(study, trial)
    assert json.loads(trial.user_attrs[ITEM]) == chosen | {"seed": seed}
    assert study.optuna_study.trials[trial.number].params == chosen | {"seed": seed}


def test_tuned_grid_trains_other_seeds_only_at_the_best_point_of_each_arm(place):
    best = {"tanh": 0.01, "relu": 0.001}

    def value(chosen, seed):
        good = chosen["learning_rate"] == best[chosen["activation"]]
        return (0.1 if good else 0.2) if seed == 0 else (0.9 if good else 0.0)

    study = opened(place, TUNED)
    study.enqueue_missing(MAX_WAITING)
    assert study.count_waiting() == 6
    for _ in range(5):
        finish(study, study.claim_trial(HERE), value)
    study.enqueue_missing(MAX_WAITING)  # tanh has its three values, relu does not
    assert study.count_waiting() == 1 + 2
    assert {(c["activation"], c["learning_rate"], s) for c, s in work(study, value) if s} == {
        ("tanh", 0.01, 1),
        ("tanh", 0.01, 2),
    }
    study.enqueue_missing(MAX_WAITING)
    assert {(c["activation"], c["learning_rate"], s) for c, s in work(study, value)} == {
        ("relu", 0.001, 1),
        ("relu", 0.001, 2),
    }
    study.enqueue_missing(MAX_WAITING)
    assert not study.count_open()
    assert study.count_ended() == TUNED.count_trials() == 10


def test_tuning_ignores_failed_points(journal):
    study = opened(journal, TUNED)
    study.enqueue_missing(MAX_WAITING)
    while (trial := study.claim_trial(HERE)) is not None:
        chosen = sampling.suggest_params(study.sweep, trial)
        sampling.suggest_seed(study.sweep, trial)
        if chosen["activation"] == "relu" or chosen["learning_rate"] == 0.1:
            study.fail_trial(trial, FAILED, "the loss is nan")
        else:
            study.optuna_study.tell(trial, chosen["learning_rate"])
    study.enqueue_missing(MAX_WAITING)
    assert {(c["activation"], c["learning_rate"], s) for c, s in work(study)} == {
        ("tanh", 0.001, 1),
        ("tanh", 0.001, 2),
    }
    study.enqueue_missing(MAX_WAITING)
    assert not study.count_open()


def test_tuning_follows_the_direction_of_the_study():
    sweep = sweep_of(
        {"repeats": 2, "tune": ["learning_rate"], "direction": "maximize", "metric": "val/psnr"},
        {"learning_rate": [0.1, 0.01, 0.001]},
    )
    study = in_memory(sweep)
    study.enqueue_missing(MAX_WAITING)
    work(study, lambda chosen, seed: {0.1: 20.0, 0.01: 30.0, 0.001: 25.0}[chosen["learning_rate"]])
    study.enqueue_missing(MAX_WAITING)
    assert [(c["learning_rate"], s) for c, s in work(study)] == [(0.01, 1)]


def test_failed_item_is_tried_again_by_the_next_sweep_run_only(place):
    study = opened(place, parent="")
    study.parent = "first"  # the step opens the study before it creates its run
    study.enqueue_missing(MAX_WAITING)
    trial = study.claim_trial(HERE)
    study.fail_trial(trial, FAILED, "x" * 1000)
    study.enqueue_missing(MAX_WAITING)
    assert study.count_waiting() == 7
    assert study.count_ended() == 1
    work(study)
    assert study.count_ended() == 8
    again = opened(place, parent="second")
    assert again.count_ended() == 7
    again.enqueue_missing(MAX_WAITING)
    assert again.count_waiting() == 1
    taken = again.claim_trial(HERE)
    assert taken.user_attrs[ITEM] == trial.user_attrs[ITEM]
    assert RESUMED_RUN not in taken.user_attrs
    finish(again, taken)
    again.enqueue_missing(MAX_WAITING)
    assert states(again) == {"COMPLETE": 8, "FAIL": 1}
    assert again.optuna_study.trials[trial.number].user_attrs[REASON] == "x" * 500
    assert again.optuna_study.trials[trial.number].user_attrs[FAILURE] == FAILED


def test_orphaned_item_continues_its_last_run_until_max_attempts(place):
    study = opened(place, parent="first")
    study.enqueue_missing(MAX_WAITING)
    item, dead = None, set()
    for attempt in range(MAX_ATTEMPTS):
        trial = study.claim_trial(HERE)
        while item and trial.user_attrs[ITEM] != item:
            finish(study, trial)
            trial = study.claim_trial(HERE)
        item = trial.user_attrs[ITEM]
        assert trial.user_attrs.get(RESUMED_RUN) == (f"run {attempt - 1}" if attempt else None)
        if attempt < MAX_ATTEMPTS - 1:  # the last worker crashes before it opens a run
            trial.set_user_attr(RUN, f"run {attempt}")
        dead.add(trial.number)
        orphans = study.fail_orphans(lambda trial: trial.number not in dead)
        assert [orphan.number for orphan in orphans] == [trial.number]
        assert study.fail_orphans(lambda trial: True) == []
        study.enqueue_missing(MAX_WAITING)
        study.enqueue_missing(MAX_WAITING)
    work(study)
    assert states(study) == {"COMPLETE": 7, "FAIL": MAX_ATTEMPTS}
    assert study.count_ended() == 8
    again = opened(place, parent="second")
    again.enqueue_missing(MAX_WAITING)
    taken = again.claim_trial(HERE)
    assert taken.user_attrs[ITEM] == item
    assert taken.user_attrs[RESUMED_RUN] == f"run {MAX_ATTEMPTS - 2}"  # the last orphan had no run
    finish(again, taken)
    again.enqueue_missing(MAX_WAITING)
    assert states(again) == {"COMPLETE": 8, "FAIL": MAX_ATTEMPTS}


def test_a_sweep_whose_workers_all_crashed_fails(journal):
    study = opened(journal)
    study.enqueue_missing(MAX_WAITING)
    while study.claim_trial(HERE) is not None:
        check_failures(study)  # a trial that runs or waits has not failed
        study.fail_orphans(lambda trial: False)
        study.enqueue_missing(MAX_WAITING)
    assert set(study.to_frame()["state"]) == {"ORPHANED"}
    with pytest.raises(LoupeError, match=r"all \d+ failed; the last error: the process of a worker ended"):
        check_failures(study)


def test_a_failed_trial_without_a_reason_is_no_error_called_nan():
    study = in_memory(GRID)
    study.enqueue_missing(MAX_WAITING)
    study.fail_trial(study.claim_trial(HERE), FAILED, "the loss is nan")
    study.optuna_study.tell(study.claim_trial(HERE).number, state=TrialState.FAIL)  # by another program
    with pytest.raises(LoupeError, match="all 2 failed; the last error: the process of a worker ended"):
        check_failures(study)


def test_orphaned_trial_of_a_sampler_keeps_its_point(journal):
    study = opened(journal, SAMPLED)
    study.enqueue_missing(MAX_WAITING)
    for _ in range(4):  # three startup points, one point of the sampler
        trial = study.claim_trial(HERE)
        chosen = sampling.suggest_params(study.sweep, trial)
        if trial.number < 3:
            study.optuna_study.tell(trial, 0.5)
    trial.set_user_attr(RUN, "the killed run")
    study.fail_orphans(lambda trial: False)
    study.enqueue_missing(MAX_WAITING)
    again = [found for found in study.optuna_study.trials if found.user_attrs.get(RESUMED_RUN) == "the killed run"]
    assert [found.user_attrs[ITEM] for found in again] == [trial.user_attrs[ITEM]] == ["slot 3"]
    while (taken := study.claim_trial(HERE)).number != again[0].number:
        finish(study, taken)
    assert sampling.suggest_params(study.sweep, taken) == chosen


def test_only_trials_of_dead_owners_become_orphans(place):
    study = opened(place)
    study.enqueue_missing(MAX_WAITING)
    alive, dead = study.claim_trial(HERE), study.claim_trial(HERE | {"loupe.pid": "2"})
    finish(study, study.claim_trial(HERE))
    orphans = study.fail_orphans(lambda trial: trial.user_attrs[OWNER]["loupe.pid"] == "1")
    assert [trial.number for trial in orphans] == [dead.number]
    assert study.optuna_study.trials[dead.number].user_attrs[FAILURE] == ORPHANED
    assert study.optuna_study.trials[alive.number].state == TrialState.RUNNING
    assert (study.count_open(), study.count_waiting(), study.count_ended()) == (6, 5, 1)


def test_trial_that_completes_while_it_is_ended_as_an_orphan_is_complete(monkeypatch):
    study = in_memory(sweep_of({}, {"activation": ["tanh"]}))
    study.enqueue_missing(MAX_WAITING)
    trial, set_state = study.claim_trial(HERE), study._storage.set_trial_state_values

    def complete_first(*arguments):
        monkeypatch.setattr(study._storage, "set_trial_state_values", set_state)
        finish(study, trial)
        return set_state(*arguments)

    monkeypatch.setattr(study._storage, "set_trial_state_values", complete_first)
    assert study.fail_orphans(lambda trial: False) == []
    assert study.to_frame()["state"].tolist() == ["COMPLETE"]
    check_failures(study)


def test_trials_of_another_program_are_no_items_and_are_never_best(monkeypatch):
    study = in_memory(sweep_of({"keep": 1}, {"activation": ["tanh", "relu"]}))
    study.enqueue_missing(MAX_WAITING)
    for _ in range(2):
        study.optuna_study.add_trial(optuna.trial.create_trial(value=0.01))
    assert (study.count_ended(), study.find_best()) == (0, None)
    assert study.is_among_best(0.5)
    work(study)
    assert (study.count_ended(), study.find_best().user_attrs[RUN]) == (2, "run 0")
    monkeypatch.setattr(study_results, "records", Mock())
    assert study_results.log_study(study, 1, 1) == "run 0"


def test_running_trial_without_owner_becomes_an_orphan_after_the_timeout(place, monkeypatch):
    study = opened(place)
    study.enqueue_missing(MAX_WAITING)
    claimed = study.optuna_study.ask()  # claimed by a process that crashed before it set the owner
    assert claimed.number == 0

    def never(trial):
        raise AssertionError("a trial without an owner must not be checked")

    assert study.fail_orphans(never) == []
    monkeypatch.setattr(study_module, "CLAIM_TIMEOUT_S", 0.0)
    assert [trial.number for trial in study.fail_orphans(never)] == [0]
    study.enqueue_missing(MAX_WAITING)
    assert sorted(as_keys(work(study))) == sorted(every(GRID))


def test_time_of_a_claim_on_another_clock_is_not_used(journal, monkeypatch):
    study = opened(journal)
    study.enqueue_missing(MAX_WAITING)
    study.optuna_study.ask()
    yesterday = datetime.datetime.now() - datetime.timedelta(days=1)
    monkeypatch.setattr(optuna.trial.FrozenTrial, "datetime_start", yesterday)
    assert study.fail_orphans(lambda trial: True) == []
    later = time.monotonic() + study_module.CLAIM_TIMEOUT_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert [trial.number for trial in study.fail_orphans(lambda trial: True)] == [0]


def test_worker_that_was_silent_between_claim_and_owner_takes_another_trial(place, monkeypatch):
    study = opened(place)
    study.enqueue_missing(MAX_WAITING)
    set_state = study._storage.set_trial_state_values

    def suspend(trial_id, *arguments):
        monkeypatch.setattr(study._storage, "set_trial_state_values", set_state)
        assert set_state(trial_id, *arguments)
        other = opened(place)
        monkeypatch.setattr(study_module, "CLAIM_TIMEOUT_S", 0.0)
        assert [trial.number for trial in other.fail_orphans(lambda trial: True)] == [0]
        return True

    monkeypatch.setattr(study._storage, "set_trial_state_values", suspend)
    assert study.claim_trial(HERE).number == 1


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_worker_that_lost_its_trial_adds_no_second_result(place, state):
    study = opened(place)
    study.enqueue_missing(MAX_WAITING)
    lost = study.claim_trial(HERE)
    sampling.suggest_params(study.sweep, lost)
    opened(place).fail_orphans(lambda trial: False)
    study.enqueue_missing(MAX_WAITING)
    assert not study.complete_trial(lost, state, 0.01)
    assert study.optuna_study.trials[lost.number].state == TrialState.FAIL
    assert len(work(study)) == 8
    assert states(study) == {"COMPLETE": 8, "FAIL": 1}
    assert 0.01 not in [trial.value for trial in study.optuna_study.trials]


def test_value_that_is_not_a_number_is_an_error(journal):
    study = opened(journal)
    study.enqueue_missing(MAX_WAITING)
    with pytest.raises(ValueError, match="nan"):
        study.complete_trial(study.claim_trial(HERE), TrialState.COMPLETE, float("nan"))


def test_trial_that_another_process_has_failed_gets_no_value(journal):
    study = opened(journal)
    study.enqueue_missing(MAX_WAITING)
    trial = study.claim_trial(HERE)
    opened(journal).fail_orphans(lambda trial: False)
    with pytest.raises((optuna.exceptions.UpdateFinishedTrialError, ValueError)):
        finish(study, trial)
    study.enqueue_missing(MAX_WAITING)
    assert sorted(as_keys(work(study))) == sorted(every(GRID))


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_grid_points_rank_by_number_of_seeds_then_mean(direction):
    metric = {"minimize": "val/mae", "maximize": "val/psnr"}[direction]
    sign = 1 if direction == "minimize" else -1
    sweep = sweep_of(
        {"repeats": 2, "direction": direction, "metric": metric}, {"loss": ["mse", "mae"], "layers": [1, 2]}
    )
    made_up = {("mse", 1): (0.10, 0.90), ("mse", 2): (0.30, 0.40), ("mae", 1): (0.50, 0.60), ("mae", 2): (0.01, None)}
    study = in_memory(sweep)
    study.enqueue_missing(MAX_WAITING)
    while (trial := study.claim_trial(HERE)) is not None:
        chosen, seed = sampling.suggest_params(sweep, trial), sampling.suggest_seed(sweep, trial)
        value = made_up[chosen["loss"], chosen["layers"]][seed]
        if value is None:
            study.fail_trial(trial, FAILED, "")
        else:
            study.optuna_study.tell(trial, sign * value)
    ranked = [(trial.params["loss"], trial.params["layers"], sign * trial.value) for trial in study.rank_trials()]
    assert ranked == [
        ("mse", 2, 0.30), ("mse", 2, 0.40),  # mean 0.35
        ("mse", 1, 0.10), ("mse", 1, 0.90),  # mean 0.50, though the best single value
        ("mae", 1, 0.50), ("mae", 1, 0.60),
        ("mae", 2, 0.01),  # fewer seeds
    ]  # fmt: skip


def test_trials_of_a_sampler_rank_by_value():
    sweep = sweep_of({"sampler": "random", "trials": 6}, {"loss": ["mse", "mae"], "layers": [1, 2]})
    study = in_memory(sweep)
    values = {("mse", 1): 0.2, ("mae", 2): 0.1}
    for loss, layers in (("mse", 1), ("mse", 1), ("mae", 2), ("mse", 1)):
        study.optuna_study.enqueue_trial({"loss": loss, "layers": layers}, user_attrs={ITEM: "slot"})
    work(study, lambda chosen, seed: values[chosen["loss"], chosen["layers"]])
    assert [trial.value for trial in study.rank_trials()] == [0.1, 0.2, 0.2, 0.2]
    assert study.optuna_study.metric_names == ["val/best_mae"]


def test_two_objectives_keep_the_pareto_front():
    sweep = sweep_of(
        {"sampler": "nsga2", "metric": ["val/psnr", "weights"], "trials": 5}, {"layers": {"low": 1, "high": 9}}
    )
    study = in_memory(sweep)
    assert study.optuna_study.metric_names == ["val/best_psnr", "weights"]
    study.enqueue_missing(MAX_WAITING)
    values = [[30.0, 50.0], [29.0, 60.0], [28.0, 40.0], [31.0, 90.0], [27.0, 45.0]]
    for pair in values:
        trial = study.claim_trial(HERE)
        assert 1 <= sampling.suggest_params(sweep, trial)["layers"] <= 9
        trial.set_user_attr(RUN, f"run {trial.number}")
        assert study.complete_trial(trial, TrialState.COMPLETE, pair)
    front = study.rank_trials()
    assert [trial.values for trial in front] == [[31.0, 90.0], [30.0, 50.0], [28.0, 40.0]]
    assert {trial.number for trial in front} == {trial.number for trial in study.optuna_study.best_trials}
    assert study.find_best().values == [31.0, 90.0]
    assert study.to_frame()[["value", "weights"]].to_numpy().tolist() == values
    assert study.count_ended() == 5
    pyplot.switch_backend("svg")  # as a notebook has a backend, which shows all open figures
    plots = plot_study(study.optuna_study, ["layers"], sweep.objectives)
    assert {"front", "history", "importances"} <= plots.keys()
    assert (pyplot.get_backend(), pyplot.get_fignums()) == ("svg", [])


@pytest.mark.parametrize("metric", ["val/mae", ["val/mae", "weights"]], ids=["one", "two"])
def test_trials_that_violate_a_constraint_are_named_and_never_best(metric):
    sweep = sweep_of(
        {"sampler": "tpe", "metric": metric, "trials": 3, "constraints": ["weights<=60", "val/psnr >= 20"]},
        {"layers": {"low": 1, "high": 9}},
    )
    study = in_memory(sweep)
    study.enqueue_missing(MAX_WAITING)
    for mae, psnr, weights in ((0.1, 30.0, 61.0), (0.2, 19.0, 50.0), (0.3, 20.0, 60.0)):
        trial = study.claim_trial(HERE)
        sampling.suggest_params(sweep, trial)
        trial.set_user_attr(RUN, f"run {trial.number}")
        metrics = {"val/best_mae": mae, "val/best_psnr": psnr, "weights": weights}
        violations = constraints.compute_violations(sweep.study.constraints, metrics)
        for text, violation in violations.items():
            trial.set_constraint(text, violation)
        study.complete_trial(trial, TrialState.COMPLETE, [metrics[name] for name in sweep.objectives])
        assert study.find_best() is None or mae == 0.3
    assert [found.values[0] for found in study.rank_trials()] == [0.3]
    assert [found.number for found in study.optuna_study.best_trials] == [2]
    assert study.to_frame()["violated"].tolist() == ["weights <= 60", "val/psnr >= 20", ""]
    assert study.is_among_best(0.9)


def test_tuning_chooses_among_points_that_satisfy_the_constraints():
    sweep = sweep_of(
        {"repeats": 2, "tune": ["layers"], "constraints": ["weights <= 2"]},
        {"loss": ["mse", "mae"], "layers": [1, 2, 3]},
    )
    study = in_memory(sweep)

    def run_all():
        points = []
        while (trial := study.claim_trial(HERE)) is not None:
            points.append((sampling.suggest_params(sweep, trial), sampling.suggest_seed(sweep, trial)))
            layers = points[-1][0]["layers"]
            trial.set_constraint("weights <= 2", layers - 2.0)
            study.optuna_study.tell(trial, 1 / layers)
        study.enqueue_missing(MAX_WAITING)
        return points

    study.enqueue_missing(MAX_WAITING)
    assert len(run_all()) == 6
    assert run_all() == [({"loss": loss, "layers": 2}, 1) for loss in ("mse", "mae")]


def test_untrained_best_weights_rank_by_the_last_points_of_their_curves():
    study = in_memory(sweep_of({"sampler": "random", "trials": 4}, {"loss": ["mse", "mae"], "layers": [1, 2]}))
    for last in (0.5, 0.3, 0.4):
        study.optuna_study.add_trial(optuna.trial.create_trial(value=0.2, user_attrs={LAST_VALUE: last}))
    assert [trial.user_attrs[LAST_VALUE] for trial in study.rank_trials()] == [0.3, 0.4, 0.5]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_is_among_best_compares_with_the_kept_trials(direction):
    metric = {"minimize": "val/mae", "maximize": "val/psnr"}[direction]
    sign = 1 if direction == "minimize" else -1
    sweep = sweep_of({"repeats": 9, "keep": 2, "direction": direction, "metric": metric}, {"layers": [1]})
    study = in_memory(sweep)
    study.enqueue_missing(MAX_WAITING)
    assert study.is_among_best(sign * 99.0)
    for value in (0.5, 0.3, 0.7):
        finish(study, study.claim_trial(HERE), lambda chosen, seed, value=value: sign * value)
    assert [study.is_among_best(sign * value) for value in (0.2, 0.4, 0.5, 0.51, 0.9)] == [True] * 3 + [False] * 2


def test_table_has_a_row_per_trial_with_state_and_reason(journal):
    study = opened(journal)
    study.enqueue_missing(MAX_WAITING)
    finish(study, study.claim_trial(HERE))
    study.fail_trial(study.claim_trial(HERE), FAILED, "the loss is nan")
    dead = study.claim_trial(HERE)
    study.fail_orphans(lambda trial: trial.number != dead.number)
    table = study.to_frame()
    # MLflow shows only the first columns.
    assert [*table] == ["number", "value", "activation", "loss", "seed", "state", "seconds", "run", "reused", "why"]
    assert table["state"].tolist() == ["COMPLETE", "FAIL", "ORPHANED", *["WAITING"] * 5]
    assert table["number"].tolist() == list(range(8))
    assert table["why"].fillna("").tolist() == ["", "the loss is nan", *[""] * 6]
    first = table.iloc[0]
    assert (first["run"], first["reused"], first["activation"], first["loss"], first["seed"]) == (
        "run 0", False, "tanh", "mse", 0,
    )  # fmt: skip
    assert first["value"] == VALUES["tanh"]
    assert first["seconds"] >= 0


def test_study_with_the_same_name_and_another_space_is_refused(journal):
    work_of(journal, GRID)
    others = {
        r"search\.loss: .* in the study, .*mse.* in": sweep_of(
            {"repeats": 2}, GRID.search | {"loss": ["mse"]}, GRID.train
        ),
        r"train\.steps: .*'3' in": sweep_of({"repeats": 2}, GRID.search, GRID.train | {"steps": 3}),
        r"study\.pruner: 'none' in the study, 'median' in": sweep_of(
            {"repeats": 2, "pruner": "median"}, GRID.search, GRID.train
        ),
    }
    for difference, other in others.items():
        with pytest.raises(UsageError, match=rf"study with the same search space, got 'made-up' \({difference} "):
            opened(journal, other)
    with pytest.raises(UsageError, match="study with the same search space, got 'made-up'"):
        opened(journal, digest="other photos")
    assert opened(journal).count_ended() == 8
    assert opened(journal, sweep_of({"repeats": 5}, GRID.search, GRID.train)).count_ended() == 8


def test_study_of_another_program_is_refused(journal):
    optuna.create_study(storage=study_storage.open_storage(journal), study_name="made-up").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    with pytest.raises(UsageError, match="study with the same search space, got 'made-up'"):
        opened(journal)


def test_startup_points_depend_on_the_seed_and_come_first(journal):
    study = opened(journal, SAMPLED)
    study.enqueue_missing(MAX_WAITING)
    assert study.count_waiting() == 8
    drawn = [study.optuna_study.trials[number].system_attrs["fixed_params"] for number in range(8)]
    assert all(drawn[:3])
    assert drawn[3:] == [{}] * 5
    done = work(study)
    assert [chosen for chosen, _ in done[:3]] == drawn[:3]
    assert {seed for _, seed in done} == {0}
    assert len({json.dumps(chosen, sort_keys=True) for chosen, _ in done}) == 8
    for chosen, _ in done:
        study.sweep.create_settings(chosen)
        assert ("convolutional.layers" in chosen) == (chosen["network"] == "convolutional")
        assert ("perceptron.hidden" in chosen) == (chosen["network"] == "perceptron")
        assert isinstance(chosen.get("convolutional.layers", 1), int)


@pytest.mark.parametrize(
    ("field", "values", "last"),
    [
        ("layers", {"low": 1, "high": 6, "step": 2}, 5),
        ("learning_rate", {"low": 0.1, "high": 0.35, "step": 0.1}, 0.3),
        ("learning_rate", {"low": 1, "high": 6, "step": 2}, 5),
    ],
)
def test_a_range_ends_at_its_last_step_without_a_warning_and_an_older_study_continues(field, values, last):
    study = in_memory(sweep_of({"sampler": "tpe", "trials": 12}, {field: values}))
    suggest = "suggest_int" if field == "layers" else "suggest_float"
    older = study.optuna_study.ask()
    with pytest.warns(UserWarning, match="range is not divisible"):
        getattr(older, suggest)(field, **values)
    study.optuna_study.tell(older, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.enqueue_missing(MAX_WAITING)
        work(study)
    old, *new = [trial.distributions[field] for trial in study.optuna_study.trials]
    assert old.high == last
    assert new == [old] * 12


def test_equal_seeds_draw_equal_startup_points(tmp_path):
    def drawn(name, seed, startup=3):
        sweep = sweep_of(
            {"name": name, "sampler": "random", "trials": 8, "startup": startup}, SAMPLED.search, {"seed": seed}
        )
        study = opened(str(tmp_path / "study.log"), sweep)
        study.enqueue_missing(MAX_WAITING)
        return [trial.system_attrs["fixed_params"] for trial in study.optuna_study.trials][:startup]

    first = drawn("first", 0)
    assert first == drawn("second", 0) == drawn("more", 0, startup=5)[:3]
    assert first != drawn("third", 1)


@pytest.mark.parametrize(
    ("pruner", "kind"),
    [
        ("none", optuna.pruners.NopPruner),
        ("median", optuna.pruners.MedianPruner),
        ("hyperband", optuna.pruners.HyperbandPruner),
    ],
)
def test_pruner_stops_poor_trials_and_never_good_ones(pruner, kind):
    sweep = sweep_of({"pruner": pruner, "repeats": 24}, {"layers": [1]})
    study = in_memory(sweep)
    assert isinstance(study.optuna_study.pruner, kind)
    study.enqueue_missing(MAX_WAITING)
    ended = []
    for number in range(24):
        trial = study.claim_trial(HERE)
        seed = sampling.suggest_seed(sweep, trial)
        level = 0.1 if number % 2 else 0.9
        for step in range(sampling.CURVE_POINTS):
            trial.report(level - 0.001 * seed, step)
            if trial.should_prune():
                ended.append((number % 2, step))
                study.optuna_study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.optuna_study.tell(trial, level)
    bad = [step for good, step in ended if not good]
    assert bool(bad) == (pruner != "none")
    if pruner == "median":
        assert len(bad) >= 8
        assert min(bad) >= 2
        assert len(bad) == len(ended)
    assert study.count_ended() == 24  # pruned trials have ended too
    study.enqueue_missing(MAX_WAITING)
    assert not study.count_open()


def test_study_has_the_sampler_of_the_file(tmp_path):
    for name, kind in (("tpe", optuna.samplers.TPESampler), ("random", optuna.samplers.RandomSampler)):
        study = opened(str(tmp_path / name), sweep_of({"sampler": name}, {"layers": [1]}))
        assert isinstance(study.optuna_study.sampler, kind)


@pytest.mark.parametrize(
    "where",
    [
        "postgresql+nothing://loupe:s3cret@host/db",
        "postgresql://loupe:s3cret@127.0.0.1:1/studies",
        "nosuch://loupe:s3:cr@et@host/db",
        "sqlite:///{}/none/db",
    ],
)
def test_storage_error_hides_the_password(where, tmp_path):
    with pytest.raises(UsageError) as refused:
        study_storage.open_storage(where.format(tmp_path))
    line = str(refused.value)
    assert line.startswith("storage: '")
    assert "cannot be opened: " in line
    assert "\n" not in line
    assert not any(part in line for part in ("s3", "cret", "cr@"))
    assert ("loupe:***@" in line) == ("loupe" in where)


def test_folder_of_a_journal_is_created_and_a_folder_is_refused(tmp_path):
    study = opened(str(tmp_path / "new" / "folder" / "study.log"))
    study.enqueue_missing(MAX_WAITING)
    assert (tmp_path / "new" / "folder" / "study.log").is_file()
    with pytest.raises(UsageError, match=r"storage: .* cannot be opened: "):
        study_storage.open_storage(str(tmp_path))


def test_lock_of_a_journal_with_a_relative_path_leads_to_the_journal(tmp_path, monkeypatch):
    found = []
    monkeypatch.chdir(tmp_path)
    # Optuna calls fsync while it holds the lock
    monkeypatch.setattr(os, "fsync", lambda descriptor: found.append((tmp_path / "new" / "study.log.lock").exists()))
    opened("new/study.log")
    assert set(found) == {True}


@pytest.fixture(scope="module")
def whole_journal(tmp_path_factory):
    """The bytes of a journal with waiting, running, complete and failed trials."""
    file = tmp_path_factory.mktemp("journal") / "study.log"
    study = opened(str(file))
    study.enqueue_missing(MAX_WAITING)
    for _ in range(3):
        finish(study, study.claim_trial(HERE))
    study.fail_trial(study.claim_trial(HERE), FAILED, "ü")
    study.claim_trial(HERE)
    return file.read_bytes()


@pytest.fixture
def without_waiting(monkeypatch):
    monkeypatch.setattr(study_module, "CLAIM_TIMEOUT_S", 0.0)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), lines=st.none() | st.integers(0, 60), data=st.data())
def test_journal_cut_at_any_byte_completes_each_item_once(
    share, lines, data, whole_journal, without_waiting, tmp_path
):
    at = round(share * len(whole_journal))
    if lines is not None:  # test ends of lines more often
        ends = [0, *(number + 1 for number, byte in enumerate(whole_journal) if byte == ord("\n"))]
        at = ends[min(lines, len(ends) - 1)] + data.draw(st.integers(-2, 2))
    at = min(max(at, 0), len(whole_journal))
    file = tmp_path / "cut.log"
    file.write_bytes(whole_journal[:at])
    study_storage.repair_journal(file)
    kept = file.read_bytes()
    assert kept == whole_journal[: whole_journal.rfind(b"\n", 0, at) + 1]
    study = opened(str(file), parent="next")
    study.fail_orphans(lambda trial: False)
    study.enqueue_missing(MAX_WAITING)
    work(study)
    study.enqueue_missing(MAX_WAITING)
    assert not study.count_open()
    complete = [trial for trial in study.optuna_study.trials if trial.state == TrialState.COMPLETE]
    assert len({trial.user_attrs[ITEM] for trial in complete}) == len(complete) == 8


def test_complete_journal_is_not_changed(whole_journal, tmp_path):
    file = tmp_path / "whole.log"
    file.write_bytes(whole_journal)
    study_storage.repair_journal(file)
    assert file.read_bytes() == whole_journal
    study_storage.repair_journal(tmp_path / "none.log")
    assert not (tmp_path / "none.log").exists()
    file.write_bytes(b"")
    study_storage.repair_journal(file)


def test_line_that_a_running_process_completes_is_kept(whole_journal, tmp_path, monkeypatch):
    file = tmp_path / "written.log"
    file.write_bytes(whole_journal[:-20])
    lock = JournalFileSymlinkLock(str(file))
    lock.acquire()

    def complete():
        with file.open("ab") as stream:
            stream.write(whole_journal[-20:])
        lock.release()

    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the lock must end the wait, not the elapsed time
    writer = threading.Timer(0.3, complete)
    writer.start()
    study_storage.repair_journal(file)
    writer.join()
    assert file.read_bytes() == whole_journal


def test_incomplete_line_longer_than_a_block_is_removed(tmp_path):
    file = tmp_path / "long.log"
    for whole in (b"", RECORD, RECORD * 5000):
        file.write_bytes(whole + RECORD[:-3] + b"x" * 200_000)
        study_storage.repair_journal(file)
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "tail",
    [
        b"garbage\n", b"\xff\xfe\x00\n", b"\x00" * 5000, b"{}\n", b"[" * 20000 + b"\n", b"5\n", b'"a"\n',
        b'{"op_code": "5", "worker_id": 1}\n', b'{"op_code":5,"worker_id":"1","tri', b"garbage\nhalf", b"\n",
    ],
    ids=[
        "text", "binary", "zeros", "object", "nested", "number", "string", "types", "half", "text and half", "empty"
    ],
)  # fmt: skip
def test_unreadable_end_of_a_journal_is_removed_and_no_record_is_lost(tail, whole_journal, without_waiting, tmp_path):
    file = tmp_path / "study.log"
    file.write_bytes(whole_journal + tail)
    study_storage.repair_journal(file)
    assert file.read_bytes() == whole_journal
    study = opened(str(file), parent="next")
    study.fail_orphans(lambda trial: False)
    study.enqueue_missing(MAX_WAITING)
    work(study)
    assert study.count_ended() == 8


@pytest.mark.parametrize(
    ("line", "damage"),
    [(2, b"garbage\n"), (2, b"[]\n"), (2, b'{"op_code":'), (-1, b"\xff\x00\n"), (-1, b"\n"), (-1, b"5\n")],
)
def test_records_after_an_unreadable_line_are_refused_and_not_changed(damage, line, whole_journal, tmp_path):
    lines = whole_journal.splitlines(keepends=True)
    lines.insert(line, damage)
    file = tmp_path / "study.log"
    file.write_bytes(b"".join(lines))
    number = line + 1 if line > 0 else len(lines) - 1
    with pytest.raises(
        UsageError, match=rf"^storage: must be an undamaged .*study\.log', whose line {number} is not"
    ):
        study_storage.repair_journal(file)
    assert file.read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    "record",
    [
        b'{"op_code":5,"worker_id":"1"}\n',
        b'{"op_code":99,"worker_id":"1"}\n',
        b'{"op_code":4,"worker_id":"1","study_id":0}\n',
        b'{"op_code":4,"worker_id":"1","study_id":[]}\n',
    ],
)
def test_record_with_other_fields_is_an_error_of_one_line(record, whole_journal, tmp_path):  # fmt: skip
    file = tmp_path / "study.log"
    file.write_bytes(whole_journal + record)
    study_storage.repair_journal(file)
    with pytest.raises(UsageError, match=r"^storage: .* cannot be opened: [^\n]+$"):
        opened(str(file))


def test_fifo_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match=r"^storage: must be an Optuna journal"):
        study_storage.open_storage(str(tmp_path / "fifo"))


OTHER_FILES = {
    "SQLite": b"SQLite format 3\x00" + b"\x10\n" * 500 + b"\x00" * 500,
    "JPEG": b"\xff\xd8\xff\xe0" + b"\x01\n" * 500 + b"\xff\xd9",
    "one line": b"\xff\xd8\xff\xe0 without a newline",
    "text": b"first\nsecond",
    "JSON lines": b'{"a": 1}\n{"b": 2}\n{"c"',
    "a record without a worker": b'{"op_code":0}\nhalf',
    "a newline": b"\n",
    "a record, then another file": RECORD + b"photo\n" * 9 + b"half",
    "no record, but its first bytes": RECORD[:-3] + b"\nhalf",
}


@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
def test_file_that_is_not_a_journal_is_refused_and_not_changed(content, tmp_path):
    file = tmp_path / "other"
    file.write_bytes(content)
    for refuses in (study_storage.repair_journal, lambda path: study_storage.open_storage(str(path))):
        with pytest.raises(UsageError, match=r"^storage: ") as refused:
            refuses(file)
        assert str(file) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert file.read_bytes() == content
        assert list(tmp_path.iterdir()) == [file]


def test_at_most_max_waiting_trials_wait_and_all_items_run(place):
    study = opened(place)
    study.enqueue_missing(max_waiting=4)
    assert study.count_waiting() == 4
    finish(study, study.claim_trial(HERE))
    study.enqueue_missing(max_waiting=4)
    assert study.count_waiting() == 3  # more than half
    done = [finish(study, study.claim_trial(HERE)) for _ in range(2)]
    study.enqueue_missing(max_waiting=4)
    assert study.count_waiting() == 4
    while study.count_open():
        done += [finish(study, study.claim_trial(HERE))]
        study.enqueue_missing(max_waiting=4)
    assert len(done) == 7
    assert states(study) == {"COMPLETE": 8}
    assert study.count_ended() == 8
