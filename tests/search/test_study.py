"""Studies, with made-up values instead of trainings: each item exactly once, whatever dies."""

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from loupe.errors import UsageError
from loupe.search import sampling, study, study_storage
from loupe.search.study import ENDED, FAILED, ITEM, ORPHAN, OWNER, PARENT, RESUME, RUN, WHY, Trials
from loupe.search.sweep_file import SweepFile

RECORD = b'{"op_code":0,"worker_id":"1"}\n'
HERE = {"loupe.host": "here", "loupe.pid": "1"}
VALUES = {"tanh": 0.1, "relu": 0.2}


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
    """A database without a study: making its tables takes longer than most tests."""
    file = tmp_path_factory.mktemp("database") / "empty.db"
    study_storage.opened(f"sqlite:///{file}")
    return file


@pytest.fixture(params=["journal", "sqlite"])
def place(request, tmp_path, empty_database):
    """Where a study is kept, by each kind of storage."""
    if request.param == "journal":
        return str(tmp_path / "study.log")
    shutil.copy(empty_database, tmp_path / "study.db")
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "study.log")


def opened(place, sweep=GRID, parent="parent", digest="digest"):
    """A study as another process would see it: with a storage of its own."""
    return Trials(sweep, study_storage.opened(place), digest, parent)


def in_memory(sweep):
    """A study that nobody else sees."""
    return Trials(sweep, optuna.storages.InMemoryStorage(), "digest", "parent")


def finish(held, trial, value=None):
    """What a worker does, without training: the point, and a value of it."""
    chosen = sampling.suggest(held.sweep, trial)
    seed = sampling.seed_of(held.sweep, trial)
    trial.set_user_attr(RUN, f"run {trial.number}")
    made_up = VALUES.get(chosen.get("activation"), 0.3) + 0.001 * seed if value is None else value(chosen, seed)
    held.study.tell(trial, made_up)
    return chosen, seed


def work(held, value=None):
    """Take trials until none waits; gives what was trained."""
    done = []
    while (trial := held.take(HERE)) is not None:
        done.append(finish(held, trial, value))
    return done


def states(held):
    return dict(Counter(trial.state.name for trial in held.study.trials))


def every(sweep, seeds=None):
    """Each point of a grid with each seed."""
    return {
        (json.dumps(chosen, sort_keys=True), seed) for chosen in sweep.points() for seed in seeds or sweep.seeds()
    }


def as_keys(done):
    return [(json.dumps(chosen, sort_keys=True), seed) for chosen, seed in done]


def test_each_item_is_enqueued_once_however_often_that_is_asked(place):
    held = opened(place)
    held.enqueue()
    held.enqueue()
    opened(place, parent="the next").enqueue()
    assert (held.waiting(), held.at_work(), held.ended()) == (8, 0, 0)
    assert held.are_open()
    taken = held.take(HERE)
    held.enqueue()
    assert (held.waiting(), held.at_work()) == (7, 1)
    finish(held, taken)
    held.enqueue()
    assert (held.waiting(), held.at_work(), held.ended()) == (7, 0, 1)
    done = work(held)
    held.enqueue()
    assert len(done) == 7
    assert states(held) == {"COMPLETE": 8}
    assert held.ended() == held.sweep.trials() == 8
    assert not held.are_open()
    assert held.take(HERE) is None


def test_more_seeds_are_enqueued_beside_those_that_there_are(journal):
    work_of(journal, GRID)
    more = sweep_of({"repeats": 3}, GRID.search, GRID.train)
    held = opened(journal, more)
    held.enqueue()
    assert set(as_keys(work(held))) == every(more, seeds=[2])


def work_of(place, sweep, **more):
    held = opened(place, sweep, **more)
    held.enqueue()
    return work(held)


def test_many_threads_with_storages_of_their_own_take_each_item_once(place):
    opened(place).enqueue()
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
    held = opened(place)
    for _ in range(3):
        held.enqueue()  # only the parent does so, but nothing may hang on who is first
    done = []
    while (trial := held.take({"loupe.host": "here", "loupe.pid": str(os.getpid())})) is not None:
        time.sleep(0.01)
        done.append(finish(held, trial))
    results.put((name, as_keys(done)))


def test_many_processes_take_each_item_once(place):
    opened(place).enqueue()
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    workers = [spawn.Process(target=worker_process, args=(place, name, results)) for name in range(2)]
    for process in workers:
        process.start()
    found = dict(results.get(timeout=60) for _ in workers)
    for process in workers:
        process.join(10)
    assert [process.exitcode for process in workers] == [0, 0]
    assert sorted(key for keys in found.values() for key in keys) == sorted(every(GRID))
    trials = opened(place).study.trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len(trials) == 8


def test_no_worker_takes_a_trial_of_a_database_between_another_s_look_and_its_taking(tmp_path, monkeypatch):
    place = f"sqlite:///{tmp_path / 'study.db'}"
    storage = study_storage.opened(place)
    one, other = Trials(GRID, storage, "digest", "parent"), opened(place)
    one.enqueue()
    taken, look = [], storage.check_trial_is_updatable
    thread = threading.Thread(target=lambda: taken.append(other.take(HERE)))

    def slowly(trial_id, state):
        look(trial_id, state)
        if thread.ident is None:
            thread.start()
            thread.join(0.5)

    monkeypatch.setattr(storage, "check_trial_is_updatable", slowly)
    taken.append(one.take(HERE))
    thread.join()
    assert sorted(trial.number for trial in taken) == [0, 1]


def test_a_trial_that_was_taken_is_signed_and_has_its_point(journal):
    held = opened(journal, parent="mine")
    held.enqueue()
    trial = held.take(HERE)
    assert trial.user_attrs[OWNER] == HERE
    assert trial.user_attrs[PARENT] == "mine"
    chosen, seed = finish(held, trial)
    assert json.loads(trial.user_attrs[ITEM]) == chosen | {"seed": seed}
    assert held.study.trials[trial.number].params == chosen | {"seed": seed}


def test_a_tuned_grid_gives_the_other_seeds_to_the_best_value_of_each_arm_only(place):
    best = {"tanh": 0.01, "relu": 0.001}

    def value(chosen, seed):
        good = chosen["learning_rate"] == best[chosen["activation"]]
        return (0.1 if good else 0.2) if seed == 0 else (0.9 if good else 0.0)

    held = opened(place, TUNED)
    held.enqueue()
    assert held.waiting() == 6
    for _ in range(5):
        finish(held, held.take(HERE), value)
    held.enqueue()  # tanh has its three values, relu is still being tuned
    assert held.waiting() == 1 + 2
    assert {(c["activation"], c["learning_rate"], s) for c, s in work(held, value) if s} == {
        ("tanh", 0.01, 1),
        ("tanh", 0.01, 2),
    }
    held.enqueue()
    assert {(c["activation"], c["learning_rate"], s) for c, s in work(held, value)} == {
        ("relu", 0.001, 1),
        ("relu", 0.001, 2),
    }
    held.enqueue()
    assert not held.are_open()
    assert held.ended() == TUNED.trials() == 10


def test_an_arm_is_tuned_among_the_values_that_did_not_fail(journal):
    held = opened(journal, TUNED)
    held.enqueue()
    while (trial := held.take(HERE)) is not None:
        chosen = sampling.suggest(held.sweep, trial)
        sampling.seed_of(held.sweep, trial)
        if chosen["activation"] == "relu" or chosen["learning_rate"] == 0.1:
            held.fail(trial, FAILED, "the loss is nan")
        else:
            held.study.tell(trial, chosen["learning_rate"])
    held.enqueue()
    assert {(c["activation"], c["learning_rate"], s) for c, s in work(held)} == {
        ("tanh", 0.001, 1),
        ("tanh", 0.001, 2),
    }
    held.enqueue()
    assert not held.are_open()


def test_tuning_maximizes_where_the_study_does():
    sweep = sweep_of(
        {"repeats": 2, "tune": ["learning_rate"], "direction": "maximize", "metric": "val/psnr"},
        {"learning_rate": [0.1, 0.01, 0.001]},
    )
    held = in_memory(sweep)
    held.enqueue()
    work(held, lambda chosen, seed: {0.1: 20.0, 0.01: 30.0, 0.001: 25.0}[chosen["learning_rate"]])
    held.enqueue()
    assert [(c["learning_rate"], s) for c, s in work(held)] == [(0.01, 1)]


def test_what_failed_by_an_error_is_tried_again_by_the_next_start_only(place):
    held = opened(place, parent="first")
    held.enqueue()
    trial = held.take(HERE)
    held.fail(trial, FAILED, "x" * 1000)
    held.enqueue()
    assert held.waiting() == 7
    assert held.ended() == 1
    work(held)
    assert held.ended() == 8
    again = opened(place, parent="second")
    assert again.ended() == 7
    again.enqueue()
    assert again.waiting() == 1
    taken = again.take(HERE)
    assert taken.user_attrs[ITEM] == trial.user_attrs[ITEM]
    assert RESUME not in taken.user_attrs
    finish(again, taken)
    again.enqueue()
    assert states(again) == {"COMPLETE": 8, "FAIL": 1}
    assert again.study.trials[trial.number].user_attrs[WHY] == "x" * 500
    assert again.study.trials[trial.number].user_attrs[ENDED] == FAILED


def test_an_orphan_goes_on_from_its_last_run_but_not_for_ever(place):
    held = opened(place, parent="first")
    held.enqueue()
    item, dead = None, set()
    for attempt in range(study.ATTEMPTS):
        trial = held.take(HERE)
        while item and trial.user_attrs[ITEM] != item:
            finish(held, trial)
            trial = held.take(HERE)
        item = trial.user_attrs[ITEM]
        assert trial.user_attrs.get(RESUME) == (f"run {attempt - 1}" if attempt else None)
        if attempt < study.ATTEMPTS - 1:  # the last dies before it comes to a run
            trial.set_user_attr(RUN, f"run {attempt}")
        dead.add(trial.number)
        assert [found.number for found in held.reap(lambda trial: trial.number not in dead)] == [trial.number]
        assert held.reap(lambda trial: True) == []
        held.enqueue()
        held.enqueue()
    work(held)
    assert states(held) == {"COMPLETE": 7, "FAIL": study.ATTEMPTS}
    assert held.ended() == 8
    again = opened(place, parent="second")
    again.enqueue()
    taken = again.take(HERE)
    assert taken.user_attrs[ITEM] == item
    assert taken.user_attrs.get(RESUME) is None  # the last that died had none
    finish(again, taken)
    again.enqueue()
    assert states(again) == {"COMPLETE": 8, "FAIL": study.ATTEMPTS}


def test_an_orphan_of_a_sampler_keeps_its_point(journal):
    held = opened(journal, SAMPLED)
    held.enqueue()
    for _ in range(4):  # the startup points, and one that the sampler proposes
        trial = held.take(HERE)
        chosen = sampling.suggest(held.sweep, trial)
        if trial.number < 3:
            held.study.tell(trial, 0.5)
    trial.set_user_attr(RUN, "the killed run")
    held.reap(lambda trial: False)
    held.enqueue()
    again = [found for found in held.study.trials if found.user_attrs.get(RESUME) == "the killed run"]
    assert [found.user_attrs[ITEM] for found in again] == [trial.user_attrs[ITEM]] == ["slot 3"]
    while (taken := held.take(HERE)).number != again[0].number:
        finish(held, taken)
    assert sampling.suggest(held.sweep, taken) == chosen


def test_only_the_trials_of_dead_owners_are_reaped(place):
    held = opened(place)
    held.enqueue()
    alive, dead = held.take(HERE), held.take(HERE | {"loupe.pid": "2"})
    finish(held, held.take(HERE))
    reaped = held.reap(lambda trial: trial.user_attrs[OWNER]["loupe.pid"] == "1")
    assert [trial.number for trial in reaped] == [dead.number]
    assert held.study.trials[dead.number].user_attrs[ENDED] == ORPHAN
    assert held.study.trials[alive.number].state == TrialState.RUNNING
    assert (held.at_work(), held.waiting(), held.ended()) == (1, 5, 1)


def test_a_trial_that_nobody_signs_in_time_is_reaped(place, monkeypatch):
    held = opened(place)
    held.enqueue()
    unsigned = held.study.ask()  # taken, and its taker died before it could sign
    assert unsigned.number == 0

    def never(trial):
        raise AssertionError("nobody can tell whether an unknown owner lives")

    assert held.reap(never) == []
    monkeypatch.setattr(study, "UNSIGNED", 0.0)
    assert [trial.number for trial in held.reap(never)] == [0]
    held.enqueue()
    assert sorted(as_keys(work(held))) == sorted(every(GRID))


def test_an_item_that_others_end_while_it_is_at_work_here_is_not_told_twice(journal):
    held = opened(journal)
    held.enqueue()
    trial = held.take(HERE)
    opened(journal).reap(lambda trial: False)
    with pytest.raises((optuna.exceptions.UpdateFinishedTrialError, ValueError)):
        finish(held, trial)
    held.enqueue()
    assert sorted(as_keys(work(held))) == sorted(every(GRID))


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_is_the_point_with_the_best_mean_over_all_seeds(direction):
    metric = {"minimize": "val/mae", "maximize": "val/psnr"}[direction]
    sign = 1 if direction == "minimize" else -1
    sweep = sweep_of(
        {"repeats": 2, "direction": direction, "metric": metric}, {"loss": ["mse", "mae"], "layers": [1, 2]}
    )
    made_up = {("mse", 1): (0.10, 0.90), ("mse", 2): (0.30, 0.40), ("mae", 1): (0.50, 0.60), ("mae", 2): (0.01, None)}
    held = in_memory(sweep)
    held.enqueue()
    while (trial := held.take(HERE)) is not None:
        chosen, seed = sampling.suggest(sweep, trial), sampling.seed_of(sweep, trial)
        value = made_up[chosen["loss"], chosen["layers"]][seed]
        if value is None:
            held.fail(trial, FAILED, "")
        else:
            held.study.tell(trial, sign * value)
    ranked = [(trial.params["loss"], trial.params["layers"], sign * trial.value) for trial in held.best_first()]
    assert ranked == [
        ("mse", 2, 0.30), ("mse", 2, 0.40),  # mean 0.35
        ("mse", 1, 0.10), ("mse", 1, 0.90),  # mean 0.50, though the best single value
        ("mae", 1, 0.50), ("mae", 1, 0.60),
        ("mae", 2, 0.01),  # fewer seeds
    ]  # fmt: skip


def test_the_best_of_a_sampler_is_the_best_value_even_of_a_point_that_was_drawn_once():
    sweep = sweep_of({"sampler": "random", "trials": 6}, {"loss": ["mse", "mae"], "layers": [1, 2]})
    held = in_memory(sweep)
    values = {("mse", 1): 0.2, ("mae", 2): 0.1}
    for loss, layers in (("mse", 1), ("mse", 1), ("mae", 2), ("mse", 1)):
        held.study.enqueue_trial({"loss": loss, "layers": layers}, user_attrs={ITEM: "slot"})
    work(held, lambda chosen, seed: values[chosen["loss"], chosen["layers"]])
    assert [trial.value for trial in held.best_first()] == [0.1, 0.2, 0.2, 0.2]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_among_the_best_is_what_would_be_one_of_the_few_that_are_kept(direction):
    metric = {"minimize": "val/mae", "maximize": "val/psnr"}[direction]
    sign = 1 if direction == "minimize" else -1
    sweep = sweep_of({"repeats": 9, "keep": 2, "direction": direction, "metric": metric}, {"layers": [1]})
    held = in_memory(sweep)
    held.enqueue()
    assert held.is_among_the_best(sign * 99.0)
    for value in (0.5, 0.3, 0.7):
        finish(held, held.take(HERE), lambda chosen, seed, value=value: sign * value)
    assert [held.is_among_the_best(sign * value) for value in (0.2, 0.4, 0.5, 0.51, 0.9)] == [True] * 3 + [False] * 2


def test_the_table_has_a_row_a_trial_and_says_how_it_ended(journal):
    held = opened(journal)
    held.enqueue()
    finish(held, held.take(HERE))
    held.fail(held.take(HERE), FAILED, "the loss is nan")
    dead = held.take(HERE)
    held.reap(lambda trial: trial.number != dead.number)
    table = held.table()
    assert table["state"].tolist() == ["COMPLETE", "FAIL", "ORPHANED", *["WAITING"] * 5]
    assert table["number"].tolist() == list(range(8))
    assert table["why"].fillna("").tolist() == ["", "the loss is nan", *[""] * 6]
    first = table.iloc[0]
    assert (first["run"], first["reused"], first["activation"], first["loss"], first["seed"]) == (
        "run 0", False, "tanh", "mse", 0,
    )  # fmt: skip
    assert first["value"] == VALUES["tanh"]
    assert first["seconds"] >= 0


def test_a_study_of_the_same_name_and_another_space_is_refused(journal):
    work_of(journal, GRID)
    others = [
        sweep_of({"repeats": 2}, GRID.search | {"loss": ["mse"]}, GRID.train),
        sweep_of({"repeats": 2}, GRID.search, GRID.train | {"steps": 3}),
        sweep_of({"repeats": 2, "pruner": "median"}, GRID.search, GRID.train),
    ]
    for other in others:
        with pytest.raises(UsageError, match=r"study\.name: 'made-up' is a study of another space .*another name"):
            opened(journal, other)
    with pytest.raises(UsageError, match="another space"):
        opened(journal, digest="other photos")
    assert opened(journal).ended() == 8
    assert opened(journal, sweep_of({"repeats": 5}, GRID.search, GRID.train)).ended() == 8


def test_a_study_that_others_made_is_not_taken_over(journal):
    optuna.create_study(storage=study_storage.opened(journal), study_name="made-up").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    with pytest.raises(UsageError, match="another space"):
        opened(journal)


def test_startup_points_are_drawn_from_the_seed_and_come_first(journal):
    held = opened(journal, SAMPLED)
    held.enqueue()
    assert held.waiting() == 8
    drawn = [held.study.trials[number].system_attrs["fixed_params"] for number in range(8)]
    assert all(drawn[:3])
    assert drawn[3:] == [{}] * 5
    done = work(held)
    assert [chosen for chosen, _ in done[:3]] == drawn[:3]
    assert {seed for _, seed in done} == {0}
    assert len({json.dumps(chosen, sort_keys=True) for chosen, _ in done}) == 8
    for chosen, _ in done:
        held.sweep.settings(chosen)
        assert ("convolutional.layers" in chosen) == (chosen["network"] == "convolutional")
        assert ("perceptron.hidden" in chosen) == (chosen["network"] == "perceptron")
        assert isinstance(chosen.get("convolutional.layers", 1), int)


def test_equal_seeds_draw_equal_startup_points_and_others_draw_others(tmp_path):
    def drawn(name, seed, startup=3):
        sweep = sweep_of(
            {"name": name, "sampler": "random", "trials": 8, "startup": startup}, SAMPLED.search, {"seed": seed}
        )
        held = opened(str(tmp_path / "study.log"), sweep)
        held.enqueue()
        return [trial.system_attrs["fixed_params"] for trial in held.study.trials][:startup]

    first = drawn("first", 0)
    assert first == drawn("second", 0) == drawn("more", 0, startup=5)[:3]
    assert first != drawn("third", 1)


def test_more_startup_points_than_trials_are_not_enqueued():
    held = in_memory(sweep_of({"sampler": "random", "trials": 2, "startup": 9}, {"layers": [1, 2, 3]}))
    held.enqueue()
    assert held.waiting() == 2


@pytest.mark.parametrize(
    ("pruner", "kind"),
    [
        ("none", optuna.pruners.NopPruner),
        ("median", optuna.pruners.MedianPruner),
        ("hyperband", optuna.pruners.HyperbandPruner),
    ],
)
def test_a_pruner_ends_the_worst_and_never_the_best(pruner, kind):
    sweep = sweep_of({"pruner": pruner, "repeats": 24}, {"layers": [1]})
    held = in_memory(sweep)
    assert isinstance(held.study.pruner, kind)
    held.enqueue()
    ended = []
    for number in range(24):
        trial = held.take(HERE)
        seed = sampling.seed_of(sweep, trial)
        level = 0.1 if number % 2 else 0.9
        for step in range(sampling.POINTS):
            trial.report(level - 0.001 * seed, step)
            if trial.should_prune():
                ended.append((number % 2, step))
                held.study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            held.study.tell(trial, level)
    bad = [step for good, step in ended if not good]
    assert bool(bad) == (pruner != "none")
    if pruner == "median":
        assert len(bad) >= 8
        assert min(bad) >= 2
        assert len(bad) == len(ended)
    assert held.ended() == 24  # one that was pruned has ended, too
    held.enqueue()
    assert not held.are_open()


def test_a_sampler_is_what_the_file_says(tmp_path):
    for name, kind in (("tpe", optuna.samplers.TPESampler), ("random", optuna.samplers.RandomSampler)):
        held = opened(str(tmp_path / name), sweep_of({"sampler": name}, {"layers": [1]}))
        assert isinstance(held.study.sampler, kind)


@pytest.mark.parametrize(
    "where",
    [
        "postgresql+nothing://loupe:s3cret@host/db",
        "postgresql://loupe:s3cret@127.0.0.1:1/studies",
        "nosuch://loupe:s3:cr@et@host/db",
        "sqlite:///{}/none/db",
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_without_its_password(where, tmp_path):
    with pytest.raises(UsageError) as refused:
        study_storage.opened(where.format(tmp_path))
    line = str(refused.value)
    assert line.startswith("storage: '")
    assert "cannot be opened: " in line
    assert "\n" not in line
    assert not any(part in line for part in ("s3", "cret", "cr@"))
    assert ("loupe:***@" in line) == ("loupe" in where)


def test_a_journal_s_folder_is_made_and_a_folder_is_no_journal(tmp_path):
    held = opened(str(tmp_path / "new" / "folder" / "study.log"))
    held.enqueue()
    assert (tmp_path / "new" / "folder" / "study.log").is_file()
    with pytest.raises(UsageError, match=r"storage: .* cannot be opened: "):
        study_storage.opened(str(tmp_path))


@pytest.fixture(scope="module")
def whole_journal(tmp_path_factory):
    """The bytes of a journal in which some trials wait, are at work, done and failed."""
    file = tmp_path_factory.mktemp("journal") / "study.log"
    held = opened(str(file))
    held.enqueue()
    for _ in range(3):
        finish(held, held.take(HERE))
    held.fail(held.take(HERE), FAILED, "ü")
    held.take(HERE)
    return file.read_bytes()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(study, "UNSIGNED", 0.0)
    monkeypatch.setattr(study_storage, "WRITING", 0.0)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), lines=st.none() | st.integers(0, 60), data=st.data())
def test_a_journal_that_was_cut_anywhere_opens_again_and_ends_each_item_once(
    share, lines, data, whole_journal, impatient, tmp_path
):
    at = round(share * len(whole_journal))
    if lines is not None:  # near the ends of lines more often than chance would have it
        ends = [0, *(number + 1 for number, byte in enumerate(whole_journal) if byte == ord("\n"))]
        at = ends[min(lines, len(ends) - 1)] + data.draw(st.integers(-2, 2))
    at = min(max(at, 0), len(whole_journal))
    file = tmp_path / "cut.log"
    file.write_bytes(whole_journal[:at])
    study_storage.cut_half_line(file)
    kept = file.read_bytes()
    assert kept == whole_journal[: whole_journal.rfind(b"\n", 0, at) + 1]
    held = opened(str(file), parent="next")
    held.reap(lambda trial: False)
    held.enqueue()
    work(held)
    held.enqueue()
    assert not held.are_open()
    complete = [trial for trial in held.study.trials if trial.state == TrialState.COMPLETE]
    assert len({trial.user_attrs[ITEM] for trial in complete}) == len(complete) == 8


def test_a_journal_without_a_half_line_is_left_as_it_is(whole_journal, tmp_path, monkeypatch):
    monkeypatch.setattr(study_storage, "WRITING", 1e9)  # it does not wait either
    file = tmp_path / "whole.log"
    file.write_bytes(whole_journal)
    study_storage.cut_half_line(file)
    assert file.read_bytes() == whole_journal
    study_storage.cut_half_line(tmp_path / "none.log")
    assert not (tmp_path / "none.log").exists()
    file.write_bytes(b"")
    study_storage.cut_half_line(file)


def test_a_line_that_somebody_is_still_writing_is_not_cut(whole_journal, tmp_path, monkeypatch):
    file = tmp_path / "written.log"
    file.write_bytes(whole_journal[:-20])

    def meanwhile(seconds):
        with file.open("ab") as stream:
            stream.write(whole_journal[-20:])

    monkeypatch.setattr(time, "sleep", meanwhile)
    study_storage.cut_half_line(file)
    assert file.read_bytes() == whole_journal


def test_a_half_line_longer_than_what_is_read_at_once_is_cut_whole(tmp_path, impatient):
    file = tmp_path / "long.log"
    for whole in (b"", RECORD, RECORD * 5000):
        file.write_bytes(whole + RECORD[:-3] + b"x" * 200_000)
        study_storage.cut_half_line(file)
        assert file.read_bytes() == whole


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
def test_a_file_that_is_not_a_journal_is_refused_and_stays_as_it_is(content, tmp_path, impatient):
    file = tmp_path / "other"
    file.write_bytes(content)
    for refuses in (study_storage.cut_half_line, lambda path: study_storage.opened(str(path))):
        with pytest.raises(UsageError, match=r"^storage: ") as refused:
            refuses(file)
        assert str(file) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert file.read_bytes() == content
        assert list(tmp_path.iterdir()) == [file]


def test_no_more_trials_wait_than_are_asked_for_and_none_is_left_out(place):
    held = opened(place)
    held.enqueue(ahead=4)
    assert held.waiting() == 4
    finish(held, held.take(HERE))
    held.enqueue(ahead=4)
    assert held.waiting() == 3  # more than half
    done = [finish(held, held.take(HERE)) for _ in range(2)]
    held.enqueue(ahead=4)
    assert held.waiting() == 4
    while held.are_open():
        done += [finish(held, held.take(HERE))]
        held.enqueue(ahead=4)
    assert len(done) == 7
    assert states(held) == {"COMPLETE": 8}
    assert held.ended() == 8
