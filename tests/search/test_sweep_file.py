"""Sweep files: loading, checks, points, arms and seeds."""

import itertools
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.config import parse_settings
from loupe.config.fields import format_value
from loupe.errors import UsageError
from loupe.search import arms as found_arms
from loupe.search import sampling
from loupe.search.conditions import parse_condition, parse_field
from loupe.search.sweep_file import SweepFile
from loupe.search.sweep_loader import load_sweep
from loupe.search.values import Range

SWEEPS = Path(__file__).parent.parent.parent / "sweeps"
GRID = """
[study]
name = "small"
repeats = 3
[train]
dataset = "sample"
network = "perceptron"
steps = 20
[search]
activation = ["tanh", "relu"]
learning_rate = [1e-4, 1e-3, 1e-2]
"""
SAMPLED = """
[study]
name = "sampled"
sampler = "tpe"
trials = 20
startup = 5
[train]
network = "convolutional"
[search]
learning_rate = {low = 1e-5, high = 1e-2, log = true}
layers = {low = 1, high = 4}
"""
TUNED = """
[study]
name = "tuned"
repeats = 5
tune = ["learning_rate"]
[train]
network = "perceptron"
optimizer = "rmsprop"
seed = 7
[search]
activation = ["tanh", "relu"]
"activation=tanh.learning_rate" = [1e-4, 1e-3, 1e-2]
"activation=relu.learning_rate" = [1e-4, 1e-3]
"""
CLAIM = """
[[claim]]
number = 6
text = "tanh beats ReLU"
metric = "val/best_mae"
arm = {activation = "tanh"}
beats = [{activation = "relu"}]
worst_over = "learning_rate"
"""
SURPRISE = """
[claim.surprise]
outcome = "holds"
text = "tanh is better"
curves = {tanh = "tanh"}
"""
CONDITION = "the condition must be a network, an optimizer or field=value"
UNUSED = "must have a condition that holds at a point of the grid"
CIRCLE = "conditions: must not form a cycle, got a cycle of"
QUOTES = (
    "must be a list of values or a range, {low = …, high = …}; "
    'a key with a dot must be in quotes, such as "sgd.momentum"'
)
TWICE = "search: must set each field once per point, got"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a text to a file and loads it as a sweep file."""

    def of(text, **given):
        file = tmp_path / "given.toml"
        file.write_text(text)
        return load_sweep(file, parse_settings("sweep", given) if given else None)

    return of


@pytest.fixture
def refusal(write):
    """Return a function that returns the error message of an invalid text."""

    def of(text, **given):
        with pytest.raises(UsageError) as refused:
            write(text, **given)
        line = str(refused.value)
        assert "\n" not in line
        assert line.startswith("sweep: ")
        assert "given.toml: " in line or "given.toml is" in line
        return line.split("given.toml", 1)[1].removeprefix(": ").strip()

    return of


def with_search(text, more):
    return text.replace("[search]\n", f"[search]\n{more}\n")


def test_load_sweep_returns_the_tables_of_the_file(write):
    sweep = write(GRID + CLAIM)
    assert (sweep.name, sweep.objective, sweep.is_grid, sweep.study.keep) == ("small", "val/best_mae", True, 3)
    assert sweep.train == {"dataset": "sample", "network": "perceptron", "steps": 20}
    assert sweep.search == {"activation": ["tanh", "relu"], "learning_rate": [1e-4, 1e-3, 1e-2]}
    assert [claim.number for claim in sweep.claims] == ["6"]
    assert write(SAMPLED).search["learning_rate"] == Range(low=1e-5, high=1e-2, log=True)


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.toml")), ids=lambda file: file.stem)
def test_sweep_file_survives_json(file):
    sweep = load_sweep(file)
    assert SweepFile.model_validate(json.loads(json.dumps(sweep.to_json()))) == sweep


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[train]", "[trial]", "trial: must be a table or field of sweep files, got "),
        (
            "repeats = 3",
            "repeat = 3",
            "study.repeat: must be a table or field of sweep files, got '3'; did you mean repeats?",
        ),
        ("repeats = 3", "repeats = 0", "study.repeats: must be greater than or equal to 1, got '0'"),
        ("repeats = 3", "repeats = 'many'", "study.repeats: must be a valid integer, .*, got 'many'"),
        ("repeats = 3", "keep = 0", "study.keep: must be greater than or equal to 1, got '0'"),
        ('name = "small"\n', "", "study.name: must be given"),
        ('"small"', '"a name"', "study.name: must have only letters, digits and . _ + -, got 'a name'"),
        ("repeats = 3", 'direction = "up"', "study.direction: must be 'minimize' or 'maximize', got 'up'"),
        ("repeats = 3", 'sampler = "cma"', "study.sampler: must be 'grid', 'tpe', 'nsga2' or 'random', got 'cma'"),
        ("repeats = 3", 'pruner = "asha"', "study.pruner: must be 'none', 'median' or 'hyperband', got 'asha'"),
        ("repeats = 3", 'metric = "test/mae"', "study.metric: must be 'val/mae', .*, got 'test/mae'"),
        ("repeats = 3", 'direction = "maximize"', "study: direction: must be minimize for val/mae, got maximize"),
        (
            "repeats = 3",
            'direction = "minimize"\nmetric = "val/psnr"',
            "study: direction: must be maximize for val/psnr, got minimize",
        ),
        ("repeats = 3", 'metric = ["val/mae", "cost"]', "study.cost: must be 'none', .*, got 'cost'"),
        ("repeats = 3", 'constraints = ["filters <= 3"]', "study.constraints.0: must be .*, got 'filters <= 3'"),
        ("repeats = 3", 'constraints = ["weights < 3"]', "study.constraints.0: must be .*, got 'weights < 3'"),
        ("repeats = 3", 'constraints = ["weights <= nan"]', "study.constraints.0: must be .*, got 'weights <= nan'"),
        ("repeats = 3", 'sampler = "nsga2"', "study: metric: must be two objectives with .*, got val/mae"),
        (
            "repeats = 3",
            'metric = ["val/mae", "weights"]\npruner = "median"',
            "study: pruner: must be none with two objectives, got median",
        ),
        ("repeats = 3", "trials = 9", "study: trials: has no effect with sampler=grid, got 9"),
        ("repeats = 3", "startup = 9", "study: startup: has no effect with sampler=grid, got 9"),
        ("repeats = 3", 'sampler = "tpe"\nrepeats = 3', "study: repeats: has no effect with sampler=tpe, got 3"),
        ("repeats = 3", 'sampler = "random"\ntune = []', "study: tune: has no effect with sampler=random, got none"),
        ("repeats = 3", 'tune = ["hidden"]', "study.tune: must be fields of [search], got hidden"),
        ("steps = 20", "step = 20", "train.step: is not a field of train; did you mean steps?"),
        ("steps = 20", "note = 'x'", "note: must not be in a sweep file; .*"),
        ("steps = 20", "threads = 4", "threads: must not be in a sweep file; .*"),
        ("steps = 20", "'perceptron.threads' = 4", "perceptron.threads: must not be in a sweep file; .*"),
        ("steps = 20", "'perceptron.seed' = 7", "train.seed: must not have a condition, got perceptron.seed"),
        ("steps = 20", "'loss=mse.dataset' = 'x'", "train.dataset: must not have a condition, got loss=mse.dataset"),
        ("steps = 20", "seed = 2147483646", "seed: must be at most 2147483645 with repeats=3, got 2147483646"),
        ("steps = 20", "seed = -1", "train.seed: must be greater than or equal to 0, got '-1'"),
        ("steps = 20", "'perceptron.loss' = 'mse'\n'adam.loss' = 'mae'",
         "train: must set each field once per point, got loss twice"),
        ("steps = 20", "resume = 'x'", "resume: must not be in a sweep file; .*"),
        ("steps = 20", "'initializer=gausian.stddev' = 0.1",
         "train.initializer=gausian.stddev: the condition must be a value of initializer, got gausian"),
        ("steps = 20", "steps = 0", "train.steps: must be greater than or equal to 1, got '0'"),
        ("steps = 20", "steps = 'all'", "train.steps: must be a valid integer, .*, got 'all'"),
        ("steps = 20", "filters = 8", "train.filters: is a field of network=convolutional only, got '8'"),
        ("steps = 20", "stddev = 0.1", "train.stddev: has no effect with initializer=xavier, got 0.1"),
        ("steps = 20", '"adem.beta_1" = 0.5', f"train.adem.beta_1: {CONDITION}"),
        ("steps = 20", "activation = 'relu'", "search.activation: must be in [search] or in [train], got both"),
        ('["tanh", "relu"]', "[]", "search.activation: must be a list of different values, got []"),
        ('["tanh", "relu"]', '["tanh", "tanh"]', "search.activation: must be a list of different values, got .*"),
        ('["tanh", "relu"]', '"tanh"', "search.activation: must be a list of values or a range, .*, got 'tanh'"),
        ('["tanh", "relu"]', '["tanh", "elu"]', "search.activation: must be one of tanh, sigmoid, relu, got 'elu'"),
        ("1e-4, ", "-1e-4, ", "search.learning_rate: must be greater than 0, got '-0.0001'"),
        ("1e-4, ", "'fast', ", "search.learning_rate: must be a valid number, .*, got 'fast'"),
        ("[1e-4, 1e-3, 1e-2]", "{low = 1e-4, high = 1e-2}", "search.learning_rate: must be a list of values with .*"),
        (
            "[search]",
            'optimizer = ["sgd"]\n[search]\n"initializer=gaussian.stddev" = [0.1]',
            "train.optimizer: must be a name, got \"['sgd']\"",
        ),
        (
            "[search]",
            '[search]\noptimizer = ["adam", "sdg"]\n"initializer=gaussian.stddev" = [0.1]',
            "search.optimizer: must be one of .*, got 'sdg'",
        ),
        ("[study]", "[study", "is not valid TOML: .*"),
    ],
)  # fmt: skip
def test_error_names_table_field_rule_and_value(old, new, line, refusal):
    assert old in GRID
    message = refusal(GRID.replace(old, new))
    prefix, _, suffix = line.partition(".*")
    assert message.startswith(prefix)
    assert message.endswith(suffix)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("kernel = [3]", "search.kernel: is not a field of train; `loupe train --help` lists the fields"),
        ("seed = [0, 1]", "search.seed: must not be in [search]; for several seeds, set study.repeats"),
        ('dataset = ["sample"]', "search.dataset: must not be in [search]"),
        ('"sgd.seed" = [0, 1]', "search.sgd.seed: must not be in [search]; for several seeds, set study.repeats"),
        ("rho = [0.9]", "search.rho: is a field of optimizer=adadelta and optimizer=rmsprop only, got '0.9'"),
        ('"elm.hidden" = ["8"]', f"search.elm.hidden: {CONDITION}"),
        ('"depth=2.hidden" = ["8"]', f"search.depth=2.hidden: {CONDITION}"),
        ('"hidden=.keep_prob" = [0.5]', f"search.hidden=.keep_prob: {CONDITION}"),
        ('"activation=tanh.learning_rate" = [0.5]', f"{TWICE} learning_rate twice"),
        ('"sgd.momentum" = [0.5]', f"search.sgd.momentum: {UNUSED}"),
        ('"hidden=8.keep_prob" = [0.5]', f"search.hidden=8.keep_prob: {UNUSED}"),
        ('"loss=mae.stddev" = [1.5]', "search.loss=mae.stddev: has no effect with initializer=xavier, got 1.5"),
        ('"sgd.optimizer" = ["adam"]', f"{CIRCLE} optimizer"),
        ('"sgd.loss" = ["mae"]\n"loss=mae.optimizer" = ["sgd"]', f"{CIRCLE} loss, optimizer"),
        ("adam.beta_1 = [0.5]", f"search.adam: {QUOTES}"),
        ("keep_prob = {min = 0.5, max = 1.0}", f"search.keep_prob: {QUOTES}"),
    ],
)  # fmt: skip
def test_key_that_cannot_be_searched_is_refused(more, line, refusal):
    assert refusal(with_search(GRID, more)) == line


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("high = 1e-2", "high = 1e-5", "search.learning_rate: low must be less than high; .*"),
        ("low = 1e-5", "low = 0.0", "search.learning_rate: low must be less than high; with log=true, .*"),
        ("log = true", "log = true, step = 1e-3", "search.learning_rate: low must be less than high; .*"),
        ("high = 1e-2", 'high = "x"', "search.learning_rate.high: must be a number, got 'x'"),
        ("high = 1e-2", "high = [1]", "search.learning_rate.high: must be a number, got '[1]'"),
        ("high = 1e-2", "high = 1e16", "search.learning_rate.high: must be less than or equal to 1000000000000000.*"),
        ("high = 1e-2, ", "", "search.learning_rate.high: must be given"),
        ("log = true", "step = 0.0", "search.learning_rate.step: must be greater than 0, got '0.0'"),
        (
            "log = true",
            "logarithmic = true",
            "search.learning_rate.logarithmic: must be a table or field of sweep files, .*",
        ),
        ("log = true", "base = 10", "search.learning_rate.base: must be a table or field of sweep files, .*"),
        ("high = 1e-2", "high = 1e3", "search.learning_rate: must be less than or equal to 100, got '1000.0'"),
        ("high = 4", "high = 65", "search.layers: must be less than or equal to 64, got '65'"),
        ("high = 4", "high = 4, step = 0.5", "search.layers: must be a valid integer, .*"),
        (
            "layers = {low = 1, high = 4}",
            "crop_size = {low = 8, high = 64}",
            "search.crop_size: must be a multiple of 2 .*",
        ),
        ("trials = 20", "trials = 0", "study.trials: must be greater than or equal to 1, got '0'"),
        ("startup = 5", "startup = 21", "study: startup: must be at most trials (20), got 21"),
        ("startup = 5", "startup = -1", "study.startup: must be greater than or equal to 0, got '-1'"),
    ],
)
def test_range_with_an_invalid_value_is_refused(old, new, line, refusal):
    assert old in SAMPLED
    message = refusal(SAMPLED.replace(old, new))
    assert message.startswith(line.partition(".*")[0])
    assert ".*" in line or message == line


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("number = 6", "number = 'six'", "claim.0.number: must match pattern"),
        ("number = 6\n", "", "claim.0.number: must be given"),
        ('{activation = "tanh"}', '"tanh"', "claim.0.arm: must be a valid dictionary, got 'tanh'"),
        ('beats = [{activation = "relu"}]', "", "claim.0: must have exactly one of beats, "),
        ("beats", "beat", "claim.0.beat: must be a table or field of sweep files"),
        ("arm = {activation", "arm = {activatoin", "claim 6: must use keys of [search], got activatoin"),
        ('"relu"', '"reul"', "claim 6: must use arms of the sweep, got activation=reul"),
        (
            'worst_over = "learning_rate"\n',
            "",
            "claim 6: must use arms with one network per seed, got activation=tanh",
        ),
        ("[[claim]]", "[claim]", "claim: must be tables [[claim]], got "),
        (CLAIM, CLAIM + CLAIM, "claim 6: must have a number of its own, got it twice"),
        ("beats =", "change_to = {keep_prob = 0.5}\nbeats =", "claim 6: must use keys of [search], got keep_prob"),
        (
            CLAIM,
            CLAIM + SURPRISE,
            "claim 6: surprise.curves: must have arms of the claim as keys, such as 'activation=tanh', got 'tanh'",
        ),
    ],
)
def test_incomplete_claim_is_refused(old, new, line, refusal):
    assert old in CLAIM
    assert refusal(GRID + CLAIM.replace(old, new)).startswith(line)


def test_claims_need_a_grid_and_with_tune_enough_seeds(write, refusal):
    assert refusal(TUNED + CLAIM) == "claim 6: must use keys of [search], got learning_rate"
    claim = CLAIM.replace('worst_over = "learning_rate"\n', "")
    with_tune = TUNED.replace("repeats = 5", "repeats = 2") + claim
    assert refusal(with_tune) == "study.repeats: must be at least 3 in a file with claims and tune, got 2"
    assert write(TUNED + claim, smoke=True).study.repeats == 1
    without_seeds = (GRID + CLAIM).replace("repeats = 3\n", "")
    assert refusal(without_seeds) == "study.repeats: must be at least 2 in a file with claims, got 1"
    tuned = (GRID + CLAIM).replace("repeats = 3", 'repeats = 3\ntune = ["learning_rate"]')
    assert refusal(tuned) == "claim 6: must not use fields of study.tune, got learning_rate"
    assert refusal(SAMPLED + CLAIM) == "study.sampler: must be grid in a file with claims, got tpe"


@pytest.mark.parametrize("table", ["study", "train", "search"])
@pytest.mark.parametrize("given", [{}, {"smoke": True, "dataset": "elsewhere", "seed": 3}], ids=["plain", "changed"])
def test_value_instead_of_a_table_is_refused(table, given, refusal):
    others = GRID[: GRID.index(f"[{table}]")] + GRID[GRID.index("[", GRID.index(f"[{table}]") + 1) :]
    others = others if table != "search" else GRID[: GRID.index("[search]")]
    assert refusal(f"{table} = 3\n{others}", **given).startswith(f"{table}: must be ")


def test_points_with_equal_settings_are_refused(refusal):
    line = refusal(with_search(GRID, 'scale = ["3:2", 1.5]'))
    point = "scale=1.5, activation=tanh, learning_rate=0.0001"
    assert line == f"search: must have different settings at all points, got those of an earlier point at {point}"


def test_unreadable_file_is_refused(tmp_path):
    for file, why in (("none.toml", "No such file or directory"), (".", "Is a directory")):
        with pytest.raises(UsageError, match=why) as refused:
            load_sweep(tmp_path / file)
        assert str(refused.value).startswith(f"sweep: {str(tmp_path / file)!r} cannot be read: ")
    (tmp_path / "image.toml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match=r"image\.toml is not valid TOML: "):
        load_sweep(tmp_path / "image.toml")


def test_smoke_does_not_replace_a_missing_name(refusal):
    assert refusal(GRID.replace('name = "small"', ""), smoke=True) == "study.name: must be given"


@pytest.mark.parametrize(
    ("key", "condition", "field"),
    [
        ("learning_rate", None, "learning_rate"),
        ("sgd.momentum", ("optimizer", "sgd"), "momentum"),
        ("perceptron.hidden", ("network", "perceptron"), "hidden"),
        ("initializer=gaussian.stddev", ("initializer", "gaussian"), "stddev"),
        ("keep_prob=0.5.dropout_layers", ("keep_prob", "0.5"), "dropout_layers"),
        ("hidden=64,32.learning_rate", ("hidden", "64,32"), "learning_rate"),
    ],
)
def test_key_has_a_field_and_an_optional_condition(key, condition, field):
    assert (parse_condition(key), parse_field(key)) == (condition, field)


def test_key_applies_where_its_condition_holds(write):
    sweep = write("""
        [study]
        name = "conditional"
        [train]
        "perceptron.batch_size" = 64
        "sgd.schedule" = "constant"
        steps = 9
        [search]
        "perceptron.hidden" = ["8", [8, 4]]
        "sgd.momentum" = [0.0, 0.9]
        "initializer=gaussian.stddev" = [0.1, 0.01]
        network = ["convolutional", "perceptron"]
        optimizer = ["adam", "sgd"]
        initializer = ["xavier", "gaussian"]
    """)
    points = list(sweep.iterate_points())
    assert len(points) == (1 + 2) * (1 + 2) * (1 + 2)
    for chosen in points:
        perceptron, sgd = chosen["network"] == "perceptron", chosen["optimizer"] == "sgd"
        assert ("perceptron.hidden" in chosen) == perceptron
        assert ("sgd.momentum" in chosen) == sgd
        assert ("initializer=gaussian.stddev" in chosen) == (chosen["initializer"] == "gaussian")
        trained = sweep.create_settings(chosen)
        assert trained.batch_size == (64 if perceptron else 8)
        assert trained.schedule == ("constant" if sgd else "cosine")
        assert trained.initializer == chosen["initializer"]
        if perceptron:
            assert format_value(trained.hidden) == chosen["perceptron.hidden"]
    assert {chosen.get("perceptron.hidden") for chosen in points} == {None, "8", "8,4"}


CHAINS = {
    "names": (
        {
            "network": ["convolutional", "perceptron"],
            "perceptron.optimizer": ["sgd", "adam"],
            "sgd.momentum": [0, 0.9],
        },
        [("convolutional",), ("perceptron", "adam"), ("perceptron", "sgd", "0"), ("perceptron", "sgd", "0.9")],
    ),
    "values": (
        {"loss": ["mse", "mae"], "loss=mae.schedule": ["cosine", "constant"], "schedule=constant.steps": [8, 9]},
        [("mae", "constant", "8"), ("mae", "constant", "9"), ("mae", "cosine"), ("mse",)],
    ),
}


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_condition_holds_on_a_field_that_a_key_with_a_condition_sets(sampler, name, order):
    search, expected = CHAINS[name]
    reordered = {key: search[key] for key in (list(search)[index] for index in order)}
    sweep = SweepFile.model_validate({"study": {"name": "chain", "sampler": sampler}, "search": reordered})
    points = sweep.iterate_points() if sampler == "grid" else sweep.draw_points()
    assert sorted({tuple(format_value(row[key]) for key in search if key in row) for row in points}) == expected


def test_condition_holds_on_a_value_of_train_whose_condition_holds(write):
    text = GRID.replace("steps = 20", '"sgd.steps" = 20\n"perceptron.optimizer" = "sgd"\nhidden = [8, 4]')
    more = '"sgd.momentum" = [0.0, 0.9]\n"hidden=8,4.keep_prob" = [0.5]'
    sweep = write(with_search(text, more))
    points = list(sweep.iterate_points())
    assert len(points) == 2 * 3 * 2
    for chosen in points:
        trained = sweep.create_settings(chosen)
        assert (trained.optimizer, trained.steps, trained.keep_prob) == ("sgd", 20, 0.5)
        assert trained.momentum == chosen["sgd.momentum"]


@pytest.mark.parametrize(
    "lines",
    itertools.permutations(["learning_rate = 0.01", '"sgd.learning_rate" = 0.5', '"adam.learning_rate" = 0.1']),
)
def test_in_train_a_key_whose_condition_holds_replaces_the_key_without_a_condition(lines, write):
    search = '[search]\noptimizer = ["sgd", "adam", "rmsprop"]\n'
    sweep = write(GRID.replace("steps = 20", "\n".join(lines)).partition("[search]")[0] + search)
    assert {
        chosen["optimizer"]: sweep.create_settings(chosen).learning_rate for chosen in sweep.iterate_points()
    } == {
        "sgd": 0.5,
        "adam": 0.1,
        "rmsprop": 0.01,
    }


def test_condition_on_a_default_value_holds(write):
    text = with_search(GRID, '"adam.beta_1" = [0.8, 0.9]\n"output_activation=linear.keep_prob" = [0.5, 1.0]')
    points = list(write(text).iterate_points())
    assert len(points) == 2 * 3 * 2 * 2
    assert all("adam.beta_1" in chosen and "output_activation=linear.keep_prob" in chosen for chosen in points)


@pytest.mark.parametrize(
    ("train", "condition", "holds"),
    [
        ("", "patch=10:15", True), ("", "patch=8:16", False), ('scale = "2:1"', "patch=8:16", True),
        ('scale = "2:1"', "patch=10:15", False), ("", "eval_every=1", True), ("", "eval_every=2", False),
        ("scale = 2", "scale=2:1", True), ("scale = 1.5", "scale=3:2", True), ("", "scale=1.5", True),
        ('hidden = "64, 32"', "hidden=64,32", True), ("scale = 2", "scale=2.5", False),
    ],
)  # fmt: skip
def test_condition_on_a_default_that_depends_on_other_fields(write, train, condition, holds):
    text = with_search(GRID, f'"{condition}.keep_prob" = [0.5, 1.0]').replace("[train]\n", f"[train]\n{train}\n")
    if holds:
        assert all(f"{condition}.keep_prob" in chosen for chosen in write(text).iterate_points())
    else:
        with pytest.raises(UsageError, match="must have a condition that holds at a point of the grid"):
            write(text)


# Fields of a perceptron -> (a condition or none, values that are valid together with all others).
AXES = {
    "optimizer": (None, ["adam", "sgd", "rmsprop"]),
    "activation": (None, ["tanh", "relu", "sigmoid"]),
    "initializer": (None, ["xavier", "gaussian", "he_normal"]),
    "loss": (None, ["mse", "mae"]),
    "hidden": (None, ["none", "8", [8, 4]]),
    "augment": (None, [True, False]),
    "sgd.momentum": (("optimizer", "sgd"), [0.0, 0.5, 0.9]),
    "rmsprop.rho": (("optimizer", "rmsprop"), [0.5, 0.9]),
    "initializer=gaussian.stddev": (("initializer", "gaussian"), [0.01, 0.1, 1]),
    "activation=relu.keep_prob": (("activation", "relu"), [0.5, 1.0]),
    "loss=mse.learning_rate": (("loss", "mse"), [1e-4, 1e-3]),
    "loss=mae.learning_rate": (("loss", "mae"), [1e-4, 1e-2, 1]),
}


@st.composite
def axes(draw):
    """Draw keys of [search] in any order with some of their values; the value of each condition is among them."""
    chosen = draw(st.lists(st.sampled_from(sorted(AXES)), unique=True, min_size=1, max_size=5))
    search = {}
    for key in chosen:
        condition, values = AXES[key]
        count = draw(st.integers(1, len(values)))
        search[key] = values[:count]
        if condition:
            search.setdefault(condition[0], [condition[1]])
            if condition[1] not in search[condition[0]]:
                search[condition[0]] = [*search[condition[0]], condition[1]]
    for key, (condition, _) in AXES.items():  # a field that is drawn later may lack the value
        if key in search and condition and condition[1] not in search[condition[0]]:
            search[condition[0]] = [*search[condition[0]], condition[1]]
    return search


def expected_points(search):
    """All different combinations of all keys, without the keys whose condition does not hold."""
    found = set()
    for values in itertools.product(*search.values()):
        row = dict(zip(search, values, strict=True))
        texts = {
            key: format_value(tuple(value) if isinstance(value, list) else value)
            for key, value in row.items()
            if AXES[key][0] is None or row[AXES[key][0][0]] == AXES[key][0][1]
        }
        found.add(json.dumps(texts, sort_keys=True))
    return found


@settings(max_examples=60)
@given(search=axes(), repeats=st.integers(1, 4), tuned=st.booleans())
def test_grid_points_are_complete_unique_and_valid(search, repeats, tuned):
    tune = [parse_field(key) for key in search if parse_field(key) == "learning_rate"][:1] if tuned else []
    sweep = SweepFile.model_validate(
        {
            "study": {"name": "drawn", "repeats": repeats, "tune": tune},
            "train": {"network": "perceptron"},
            "search": search,
        }
    )
    points = list(sweep.iterate_points())
    texts = [json.dumps({key: format_value(value) for key, value in row.items()}, sort_keys=True) for row in points]
    assert len(set(texts)) == len(texts)
    assert set(texts) == expected_points(search)
    trained = {json.dumps(sweep.create_settings(chosen).to_texts(), sort_keys=True) for chosen in points}
    assert len(trained) == len(points)
    arms = sweep.group_arms()
    assert sorted(map(str, itertools.chain(*arms))) == sorted(map(str, points))
    expected = len(points) + len(arms) * (repeats - 1) if tune else len(points) * repeats
    assert sweep.count_trials() == expected
    if not tune:
        assert len(arms) == len(points)


@settings(max_examples=100)
@given(
    low=st.integers(1, 50),
    length=st.integers(1, 50),
    step=st.none() | st.integers(1, 60),
    log=st.booleans(),
    rng=st.randoms(use_true_random=False),
    integers=st.booleans(),
)
def test_range_draws_only_numbers_that_a_sampler_can_choose(low, length, step, log, rng, integers):
    kind = int if integers else float
    bounds = {"low": kind(low), "high": kind(low + length), "log": log and step is None}
    values = Range(**bounds, step=None if step is None else kind(step))
    assert values.has_integer_ends == integers
    for _ in range(20):
        number = values.draw(rng, values.has_integer_ends)
        assert low <= number <= low + length
        assert isinstance(number, int) == integers
        if step:
            assert math.isclose((number - low) % step, 0)


def test_values_given_as_texts_decide_a_condition_on_a_default(write):
    text = GRID.replace("steps = 20", 'steps = "1600"\n"eval_every=100.patience" = 3')
    assert write(text).create_settings({}).patience == 3


def test_a_range_with_integer_ends_gives_integers_only_for_fields_without_fractions(write):
    sweep = write(SAMPLED + "clip_norm = {low = 1, high = 100, log = true}\n")
    for points in (sampling.draw_startup_points(sweep), list(sweep.draw_points())[:50]):
        assert all(isinstance(point["layers"], int) for point in points)
        assert any(point["clip_norm"] % 1 for point in points)


def test_random_points_include_numbers_between_the_ends(write):
    drawn = list(write(SAMPLED).draw_points())
    assert {chosen["layers"] for chosen in drawn} == {1, 2, 3, 4}
    assert {1e-5, 1e-2} < {chosen["learning_rate"] for chosen in drawn}


def test_without_tune_each_point_is_an_arm(write):
    sweep = write(GRID)
    assert len(sweep.group_arms()) == len(list(sweep.iterate_points())) == 6
    assert sweep.count_trials() == 18
    assert sweep.seeds == [0, 1, 2]
    assert write(SAMPLED).count_trials() == 20


def test_with_tune_one_point_per_arm_has_all_seeds(write):
    sweep = write(TUNED)
    assert [(arm[0]["activation"], len(arm)) for arm in sweep.group_arms()] == [("tanh", 3), ("relu", 2)]
    assert sweep.count_trials() == (3 + 2) + 2 * 4
    assert sweep.seeds == [7, 8, 9, 10, 11]


def test_settings_override_the_file(write):
    sweep = write(GRID, name="other", dataset="elsewhere", pruner="median", seed=5)
    assert (sweep.name, sweep.study.pruner, sweep.study.repeats) == ("other", "median", 3)
    assert sweep.train["dataset"] == "elsewhere"
    assert sweep.seeds == [5, 6, 7]
    plain = write(GRID, workers=2)
    assert plain == write(GRID)
    assert write(TUNED, workers=2).seeds[0] == 7  # only a given seed overrides that of the file
    assert write(TUNED, seed=0).seeds[0] == 0


def test_smoke_shortens_trainings_but_keeps_searched_values(write):
    whole = GRID.replace("steps = 20", "steps = 2000\nhidden = '2048,1024'\nbatch_size = 512")
    sweep = write(whole, smoke=True)
    assert (sweep.name, sweep.seeds) == ("small-smoke", [0])
    assert len(list(sweep.iterate_points())) == 6
    for chosen in sweep.iterate_points():
        trained = sweep.create_settings(chosen)
        assert (trained.smoke, trained.steps, trained.hidden, trained.batch_size) == (True, 12, (32, 16), 32)
        assert trained.activation == chosen["activation"]
    counted = write(GRID.replace("steps = 20", "flops = 1e12"), smoke=True)
    assert {(one.steps, one.flops) for one in map(counted.create_settings, counted.iterate_points())} == {(12, None)}
    more = with_search(GRID.replace("steps = 20", ""), "hidden = ['64', '128,64']\nsteps = [30, 40]")
    searched = write(more, smoke=True)
    assert {(one.steps, one.hidden) for one in map(searched.create_settings, searched.iterate_points())} == {
        (30, (64,)), (40, (64,)), (30, (128, 64)), (40, (128, 64)),
    }  # fmt: skip
    conditional = write(GRID.replace("steps = 20", '"perceptron.hidden" = "2048"\n"adam.steps" = 900'), smoke=True)
    assert {(one.steps, one.hidden) for one in map(conditional.create_settings, conditional.iterate_points())} == {
        (12, (32, 16))
    }


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.toml")), ids=lambda file: file.stem)
def test_every_sweep_file_is_valid_with_smoke(file):
    sweep = load_sweep(file, parse_settings("sweep", {"smoke": True}))
    assert sweep.name.endswith("-smoke")
    points = sweep.iterate_points() if sweep.study.sampler == "grid" else sweep.draw_points()
    for chosen in itertools.islice(points, 50):
        assert sweep.create_settings(chosen).smoke


SPACES = [
    ("repeats = 3", "repeats = 9", True),
    ("repeats = 3", "repeats = 3\nkeep = 9", True),
    ('"small"', '"large"', True),
    ('dataset = "sample"', 'dataset = "another/path/of/the/same"', True),  # the digest identifies the dataset
    (CLAIM, "", True),
    ("steps = 20", "steps = 30", False),
    ('"tanh", "relu"', '"tanh", "relu", "sigmoid"', False),
    ("1e-2]", "1e-2, 1e-1]", False),
    ("repeats = 3", 'repeats = 3\npruner = "median"', False),
    ("repeats = 3", 'repeats = 3\ntune = ["learning_rate"]', False),
    ("repeats = 3", 'repeats = 3\nmetric = "val/mse"', False),
    ("repeats = 3", 'repeats = 3\nconstraints = ["weights <= 65000"]', False),
]


@pytest.mark.parametrize(("old", "new", "same"), SPACES)
def test_space_changes_with_the_fields_that_results_depend_on(old, new, same, write):
    assert old in GRID + CLAIM
    changed = (GRID + CLAIM).replace(old, new)
    before, after = write(GRID + CLAIM), write(changed.replace(CLAIM, "") if "tune" in new else changed)
    assert (before.describe_space("digest") == after.describe_space("digest")) == same
    assert before.describe_space("digest") != before.describe_space("other digest")


def row_of(of, chosen, seed, value, started, **more):
    """A row of the table of runs: a trial at a point."""
    texts = of.create_settings(chosen, seed=seed).to_texts()
    return (
        {"run_id": f"{started} {seed}", "kind": "trial", "sweep": of.name, "state": "COMPLETE", "started": started}
        | {"dataset": "photos-1"}
        | {f"settings.{name}": text for name, text in texts.items()}
        | {f"metrics.{of.objective}": value}
        | more
    )


def test_find_runs_returns_the_newest_finished_trials_of_any_sweep(write):
    sweep = write(GRID.replace("[1e-4, 1e-3, 1e-2]", "[1e-4]"))
    tanh, relu = sweep.iterate_points()
    other = SweepFile.model_validate(sweep.to_json() | {"train": sweep.train | {"steps": 21}})
    table = pd.DataFrame(
        [
            row_of(sweep, tanh, 0, 0.5, "2020-01-01T00:00:00"),
            row_of(sweep, tanh, 0, 0.4, "2020-01-03T00:00:00", sweep="another", code="new"),
            row_of(sweep, tanh, 0, 0.6, "2020-01-02T00:00:00"),
            row_of(sweep, tanh, 1, 0.3, "2020-01-01T00:00:00", **{"settings.dataset": "/elsewhere/sample"}),
            row_of(sweep, tanh, 7, 0.3, "2020-01-01T00:00:00"),
            row_of(sweep, relu, 0, 0.2, "2020-01-01T00:00:00", state="PRUNED"),
            row_of(sweep, relu, 1, 0.2, "2020-01-01T00:00:00", kind="train"),
            row_of(other, relu, 2, 0.2, "2020-01-01T00:00:00"),
        ]
    )
    found = found_arms.find_runs(sweep, table)
    assert found[["activation", "learning_rate", "seed", "run_id"]].values.tolist() == [
        ["tanh", "0.0001", 0, "2020-01-03T00:00:00 0"],
        ["tanh", "0.0001", 1, "2020-01-01T00:00:00 1"],
    ]
    assert set(table.columns) <= set(found.columns)
    assert found["metrics.val/best_mae"].tolist() == [0.4, 0.3]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_find_runs_tunes_with_the_first_seed(direction, write):
    more = 'tune = ["learning_rate"]\ndirection = "maximize"\nmetric = "val/psnr"'
    sweep = write(TUNED if direction == "minimize" else TUNED.replace('tune = ["learning_rate"]', more))
    points = list(sweep.iterate_points())
    values = {(point["activation"], str(rate)): index for index, (point, rate) in enumerate(
        (point, next(value for key, value in point.items() if key.endswith("learning_rate"))) for point in points
    )}  # fmt: skip
    wins = ("0.001", "0.0001")
    rows = []
    for (activation, rate), index in values.items():
        best = rate == wins[activation == "relu"]
        for seed in (7, 8, 9):
            # the other seeds reverse the order: they must not decide
            good = best if seed == 7 else not best
            value = 0.1 if good == (direction == "minimize") else 0.2
            rows.append(row_of(sweep, points[index], seed, value, "2020-01-01T00:00:00"))
    rows.append(row_of(sweep, points[0], 11, 0.0, "2020-01-01T00:00:00"))
    found = found_arms.find_runs(sweep, pd.DataFrame(rows))
    keys = ["activation", "activation=tanh.learning_rate", "activation=relu.learning_rate"]
    chosen = found[keys].astype(object).where(found[keys].notna(), None).drop_duplicates().values.tolist()
    assert sorted(chosen, key=str) == [["relu", None, "0.0001"], ["tanh", "0.001", None]]
    assert found.groupby("activation")["seed"].apply(sorted).to_dict() == {"tanh": [8, 9], "relu": [8, 9]}


def test_find_runs_chooses_no_tuned_point_without_the_metric_of_a_constraint(write):
    sweep = write(TUNED.replace("repeats = 5", 'repeats = 5\nconstraints = ["macs_per_pixel <= 10"]'))
    table = pd.DataFrame(
        [
            row_of(sweep, point, seed, 0.1 + number, "2020-01-01T00:00:00", **{"metrics.macs_per_pixel": macs})
            for number, (point, macs) in enumerate(zip(sweep.iterate_points(), [math.nan, 9, 11, 9, 9], strict=True))
            for seed in (7, 8)
        ]
    )
    assert found_arms.find_runs(sweep, table)["metrics.val/best_mae"].tolist() == [1.1, 3.1]


def test_find_runs_adds_defaults_of_fields_that_an_old_run_lacks(write):
    sweep = write(GRID)
    row = row_of(sweep, next(sweep.iterate_points()), 0, 0.5, "2020-01-01T00:00:00")
    older = {name: value for name, value in row.items() if name != "settings.initial_weights"}
    assert len(older) < len(row)
    assert len(found_arms.find_runs(sweep, pd.DataFrame([older]))) == 1
    other = older | {"settings.skip": "ridge"}
    unknown = older | {"settings.no_longer_a_field": "1"}
    assert found_arms.find_runs(sweep, pd.DataFrame([other, unknown])).empty


def test_find_runs_needs_the_first_seed_of_a_tuned_arm(write):
    sweep = write(TUNED)
    first = next(sweep.iterate_points())
    later = pd.DataFrame([row_of(sweep, first, 8, 0.1, "2020-01-01T00:00:00")])
    assert found_arms.find_runs(sweep, later).empty


def test_find_runs_ignores_a_tuned_point_whose_runs_have_only_other_seeds(write):
    sweep = write(TUNED)
    other, chosen = itertools.islice(sweep.iterate_points(), 2)
    rows = [row_of(sweep, other, 3, 0.1, "2020-01-01T00:00:00")]
    rows += [row_of(sweep, chosen, seed, 0.2, "2020-01-01T00:00:00") for seed in (7, 8)]
    found = found_arms.find_runs(sweep, pd.DataFrame(rows))
    assert found["seed"].tolist() == [8]


def test_find_runs_is_empty_without_a_grid_or_without_runs(write):
    sweep = write(GRID)
    table = pd.DataFrame([row_of(sweep, next(sweep.iterate_points()), 0, 0.5, "2020-01-01T00:00:00")])
    assert len(found_arms.find_runs(sweep, table)) == 1
    assert found_arms.find_runs(sweep, table.iloc[:0]).empty
    assert found_arms.find_runs(sweep, table.assign(state="PRUNED")).empty
    assert found_arms.find_runs(write(SAMPLED), table).empty
