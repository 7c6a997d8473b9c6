"""Absurd flags and sweep files are refused in one line before a step starts or a store is created."""

import os

import pytest

from loupe.config import STEPS, parse_settings
from loupe.config.networks import NETWORKS
from loupe.config.optimizers import OPTIMIZERS
from loupe.errors import UsageError
from loupe.search import sweep_loader

ABSURD = [
    "1e99", "nan", "inf", "-inf", "10**30", "1" + 30 * "0", 5000 * "9", "-1",
    "", "  ", "\0", "\x1b[31m", "１５０", "٣",
    "²", "0x10", "[]", "{}", 100_000 * "a", "\udcff", "1/0", "0:0", "999999999:1000000000", "1e-400", "\u202e", "--",
    "%s", "1e99999999999", 1e99, float("nan"), float("inf"), 10**30, 16**5000, [], {}, [[]], {"a": 1}, None, b"x",
    object(),
]  # fmt: skip
COMBINATIONS = [(step, {}) for step in STEPS if step != "train"] + [
    ("train", {"network": network} | ({} if network == "ridge" else {"optimizer": optimizer}))
    for network in NETWORKS
    for optimizer in OPTIMIZERS
]


def find_error(step, settings):
    """Return the error message for settings, or None if they are valid and can be written as text."""
    try:
        parse_settings(step, settings).to_texts()
    except UsageError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("step", "settings"), COMBINATIONS)
def test_every_field_takes_an_absurd_value_or_refuses_it_in_one_short_line(step, settings):
    for name in type(parse_settings(step, dict(settings))).model_fields:
        for value in ABSURD:
            error = find_error(step, settings | {name: value})
            assert error is None or error.startswith(f"{name.rstrip('_')}: ")
            assert len(error or "") < 700


@pytest.mark.parametrize(
    ("step", "field", "value"),
    [
        ("preprocess", "label_size", "1e99"),
        ("preprocess", "limit", 31 * "9"),
        ("preprocess", "scales", "nan"),
        ("preprocess", "labels_per_photo", "１２"),
        ("preprocess", "seed", "-1"),
        ("preprocess", "source", "\x1b[31mred\x1b[0m\u202e"),
        ("preprocess", "source", ""),
        ("train", "learning_rate", "inf"),
        ("train", "learning_rate", "nan"),
        ("train", "steps", 5000 * "9"),
        ("train", "network", "\x1b]0;title\x07"),
        ("train", "optimizer", ""),
        ("evaluate", "scale", "1e99"),
        ("evaluate", "limit", "0"),
        ("register", "scale", "٣:٢"),
        ("sweep", "workers", "1" + 30 * "0"),
        ("sweep", "timeout", "nan"),
        ("upscale", "scale", "inf"),
        ("upscale", "size", "99999999999999999999x1"),
        ("upscale", "quality", "1e99"),
        ("restore", "noise", "nan"),
        ("restore", "strength", "-inf"),
        ("demo", "port", "65536"),
        ("demo", "host", ""),
        ("main", "threads", "-1"),
        ("report", "from", "\x1b[31m\n"),
    ],
)
def test_absurd_flag_is_refused_with_status_2_before_the_step_starts(step, field, value, refuse):
    error = refuse(step, f"--{field}={value}")
    assert error.startswith(f"loupe {step}: error: {field}: ")
    assert len(error) < 1000


SWEEP = """
[study]
name = "small"
sampler = "{sampler}"
[train]
network = "perceptron"
{train}
[search]
{search}
"""


def write_sweep(search='activation = ["tanh", "relu"]', train="", sampler="grid"):
    return SWEEP.format(search=search, train=train, sampler=sampler).encode()


VALUES = ", ".join(f"{number}e-9" for number in range(1, 10_001))
GRID = "\n".join(f"{name} = [{VALUES}]" for name in ("learning_rate", "stddev", "decay_rate"))
FIELDS = 'initializer = "gaussian"\nschedule = "exponential"'
TOML = {
    "nested": (b"x = " + 100_000 * b"[" + 100_000 * b"]", "nested too deeply"),
    "nested tables": (write_sweep(train="hidden = " + 400 * "{a = " + "1" + 400 * "}"), "nested too deeply"),
    "latin": (write_sweep().replace(b"tanh", b"tanh\xff"), "is not valid TOML: "),
    "zero": (write_sweep().replace(b"tanh", b"ta\0nh"), "is not valid TOML: "),
    "zero, escaped": (write_sweep(search='activation = ["ta\\u0000nh"]'), "search.activation: must be one of "),
    "digits": (write_sweep(train=f"seed = {5000 * '9'}"), "is not valid TOML: "),
    "hexadecimal digits": (write_sweep(train=f"seed = 0x{5000 * 'f'}"), "a number of thousands of digits"),
    "searched digits": (write_sweep(search=f"steps = [1, 0x{5000 * 'f'}]"), ""),
    "not a number": (write_sweep(search="learning_rate = [nan]"), "search.learning_rate: "),
    "infinite": (write_sweep("learning_rate = {low = 1e-3, high = inf}", sampler="tpe"), "search.learning_rate.high"),
    "beyond floats": (write_sweep(search=f"learning_rate = {{low = 1, high = 1{400 * '0'}}}", sampler="tpe"), "high"),
    "tiny steps": (write_sweep("learning_rate = {low = 0.1, high = 1.0, step = 5e-324}", sampler="random"), ""),
    "10^12 points": (write_sweep(GRID, FIELDS), "a grid must have at most 100000 points"),
    "thousands of keys": (write_sweep("\n".join(f"x{number} = [1]" for number in range(1000))), "search: "),
    "control signs": (write_sweep(search='"\\u001B[31m" = ["\\u001B]0;title\\u0007"]'), ""),
    "direction": (write_sweep(train='dataset = "\\u202Egnp"\nnetworks = 1'), "networks: is not a field of train"),
    "a list for a name": (write_sweep(train='optimizer = ["adam"]'), "train.optimizer: must be a name"),
    "a date": (write_sweep(train="steps = 1979-05-27"), "train.steps: "),
    "large": (b"# " + bytes(2**20).replace(b"\0", b"x"), "must be a file of at most 1048576 bytes"),
    "empty": (b"", "study: must be given"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOML)
def test_hostile_sweep_file_is_refused(name, work):
    content, why = TOML[name]
    (work / "hostile.toml").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        sweep_loader.load_sweep(work / "hostile.toml")
    assert str(caught.value).startswith("sweep: ")
    assert why in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["nested", "direction"])
def test_sweep_step_refuses_a_hostile_file_with_status_2(name, work, refuse):
    (work / "hostile.toml").write_bytes(TOML[name][0])
    error = refuse("sweep", "hostile.toml")
    assert error.startswith("loupe sweep: error: sweep: hostile.toml")
    assert TOML[name][1] in error


def test_device_fifo_or_folder_is_refused_without_waiting(work, refuse):
    os.mkfifo(work / "pipe.toml")
    for name, why in (("/dev/zero", "must be a file"), (work, "Is a directory")):
        with pytest.raises(UsageError, match=why):
            sweep_loader.load_sweep(name)
    assert "must be a file, got 'pipe.toml'" in refuse("sweep", "pipe.toml")


def test_valid_sweep_file_is_loaded(work):
    (work / "good.toml").write_bytes(write_sweep())
    assert len(list(sweep_loader.load_sweep(work / "good.toml").iterate_points())) == 2
