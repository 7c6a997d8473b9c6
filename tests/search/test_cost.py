"""The time that a sweep is said to take: in step with steps, sizes and workers, and readable."""

from pathlib import Path

import pytest

from loupe.config.steps import Sweep
from loupe.errors import UsageError
from loupe.search import cost, worker_pool
from loupe.search.sweep_file import SweepFile
from loupe.steps import sweep
from loupe.training import loop

FIXED = cost.START + cost.SCORING


@pytest.fixture(autouse=True)
def same_speed(monkeypatch):
    """A machine whose speed does not change from measurement to measurement."""
    monkeypatch.setattr(cost, "_operations_a_second", lambda: 1e10)


def sweep_of(train, search=None, **study):
    return SweepFile.model_validate({"study": {"name": "timed"} | study, "train": train, "search": search or {}})


def seconds(train, search=None, workers=1, trials=10, cores=1, **study):
    return cost.seconds(sweep_of(train, search, **study), workers, trials, cores)


@pytest.mark.parametrize("network", ["convolutional", "perceptron"])
def test_seconds_grow_with_the_steps(network):
    once, twice, more = (
        seconds({"network": network, "steps": steps, "eval_every": 500}) for steps in (1000, 2000, 3000)
    )
    assert FIXED + 10 * cost.BESIDES < once < twice
    assert twice - once == pytest.approx(more - twice)


@pytest.mark.parametrize(
    ("small", "large", "times"),
    [
        ({"network": "convolutional", "batch_size": 8}, {"network": "convolutional", "batch_size": 16}, 2),
        ({"network": "convolutional", "crop": 16}, {"network": "convolutional", "crop": 32}, 4),
        ({"network": "convolutional", "filters": 8}, {"network": "convolutional", "filters": 16}, None),
        ({"network": "convolutional", "filters": 64}, {"network": "convolutional", "filters": 128}, None),
        ({"network": "convolutional", "layers": 1}, {"network": "convolutional", "layers": 2}, None),
        ({"network": "convolutional", "expansion": 1}, {"network": "convolutional", "expansion": 2}, None),
        ({"network": "perceptron", "hidden": "64"}, {"network": "perceptron", "hidden": "128"}, 2),
        ({"network": "perceptron", "hidden": "none"}, {"network": "perceptron", "hidden": "128"}, None),
        ({"network": "perceptron", "patch": "4:6"}, {"network": "perceptron", "patch": "10:15"}, None),
        ({"network": "perceptron", "batch_size": 64}, {"network": "perceptron", "batch_size": 256}, 4),
        ({"network": "perceptron", "mirror": False}, {"network": "perceptron", "mirror": True}, None),
        ({"network": "perceptron", "patch": "10:15"}, {"network": "perceptron", "patch": "whole"}, None),
    ],
    ids=str,
)  # fmt: skip
def test_seconds_grow_with_what_is_computed_in_a_step(small, large, times):
    def of_steps(given):
        scored_once = {"eval_every": 1000, "eval_images": 1}
        once, twice = (seconds(given | {"steps": steps} | scored_once) for steps in (1000, 2000))
        each = 1000 * 1e-3  # what a step costs, whatever is computed
        a_point = twice - seconds(given | {"steps": 2000, "eval_every": 2000, "eval_images": 1})
        return (twice - once - a_point) / 10 - each

    assert 0 < of_steps(small) < of_steps(large)
    if times:
        assert of_steps(large) / of_steps(small) == pytest.approx(times)


def test_seconds_grow_with_what_is_scored():
    few, many, often = (
        seconds({"steps": 1000} | given)
        for given in (
            {"eval_images": 10, "eval_every": 1000},
            {"eval_images": 10 + 42, "eval_every": 1000},
            {"eval_images": 10, "eval_every": 334},
        )
    )
    assert cost.TRAIN_IMAGES == loop.TRAIN_IMAGES == 32
    two_points_of_42 = many - few
    assert two_points_of_42 > 1
    assert often - few == pytest.approx(two_points_of_42)  # four points instead of two


def test_a_budget_in_seconds_is_what_a_training_takes():
    assert seconds({"seconds": 90}, trials=10) == pytest.approx(FIXED + 10 * (90 + cost.BESIDES))


def test_workers_share_the_trials():
    alone, four = (seconds({"seconds": 90}, workers=workers, trials=12) for workers in (1, 4))
    assert (alone - FIXED) == pytest.approx(4 * (four - FIXED))
    assert seconds({"seconds": 90}, workers=99, trials=12) == pytest.approx(FIXED + 90 + cost.BESIDES)


def test_the_cores_of_a_worker_share_what_is_computed():
    def computed(cores):
        once, twice = (
            seconds({"network": "convolutional", "steps": steps, "eval_every": 1000}, cores=cores)
            for steps in (1000, 2000)
        )
        return twice - once - 10 * 1000 * 1e-3

    assert computed(1) == pytest.approx(4 * computed(4))
    assert seconds({"seconds": 90}, cores=4) == seconds({"seconds": 90})


def test_narrow_convolutions_reach_less_of_the_machine_s_speed():
    def of_a_filter(filters):
        given = {"network": "convolutional", "filters": filters, "expansion": 1, "layers": 8}
        once, twice = (seconds(given | {"steps": steps, "eval_every": 10_000}) for steps in (10_000, 20_000))
        return (twice - once) / filters**2

    assert of_a_filter(16) > 1.8 * of_a_filter(32) > 1.8 * of_a_filter(128)


def test_the_mean_over_a_grid_counts():
    search = {"seconds": [10, 30]}
    assert seconds({}, search, trials=2) == pytest.approx(FIXED + 2 * (20 + cost.BESIDES))


def test_points_of_a_sampler_count_as_they_may_be_drawn():
    search = {"seconds": {"low": 10, "high": 30}}
    found = (seconds({}, search, trials=1, sampler="random") - FIXED) - cost.BESIDES
    assert 12 < found < 28


def test_a_large_grid_is_told_by_some_of_its_points():
    search = {"seconds": list(range(1, 1001))}
    mean = (seconds({}, search, trials=1) - FIXED) - cost.BESIDES
    assert mean == pytest.approx(500, rel=0.01)


def test_a_ridge_takes_seconds():
    assert seconds({"network": "ridge"}, trials=1) < FIXED + 10


def test_the_machine_s_speed_is_measured_and_counts(monkeypatch):
    of_1e10 = seconds({"steps": 100_000}, trials=1)
    monkeypatch.setattr(cost, "_operations_a_second", lambda: 2e10)
    assert FIXED < seconds({"steps": 100_000}, trials=1) < of_1e10
    monkeypatch.undo()
    assert 1e8 < cost._operations_a_second() < 1e13


def test_a_sweep_of_one_trial_is_told_by_all_the_cores_that_train_it(tmp_path, monkeypatch):
    """The recipe of the base network: 8 cores that train one network, not one of them."""
    told = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(worker_pool, "cores", lambda scheduler: 8)
    monkeypatch.setattr(cost, "shown", lambda seconds: told.append(seconds) or "")
    file = Path(__file__).parents[2] / "sweeps" / "base.toml"
    for threads in (1, 0):
        with pytest.raises(UsageError):
            sweep.run(Sweep(sweep=str(file), workers=1, threads=threads, dataset="not-there", yes=True))
    assert told[0] > 6 * told[1]


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.4, "0 s"),
        (40, "40 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (720, "12 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (3.5 * 3600, "3.5 h"),
        (35.9 * 3600, "35.9 h"),
        (36 * 3600, "1.5 days"),
        (2.3 * 86400, "2.3 days"),
    ],
)
def test_a_duration_is_shown_in_a_unit_for_people(duration, text):
    assert cost.shown(duration) == text


def test_more_workers_than_cores_make_no_sweep_shorter(tmp_path, monkeypatch):
    """The study's own sweep is refused without `yes` for the days that it takes, however many workers there are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(worker_pool, "cores", lambda scheduler: 2)
    file = Path(__file__).parents[2] / "sweeps" / "study.toml"
    with pytest.raises(UsageError, match="yes: must be true"):
        sweep.run(Sweep(sweep=str(file), workers=999))
