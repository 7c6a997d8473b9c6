"""Training steps against the arithmetic floor of this machine, measured in the same run.

    pytest tests/benchmarks -s

The floor of a step is its multiply-adds at the speed of a large matrix product. The ratios are printed, and
asserted only on request, since a neighbour on the cores makes no program slow:

    LOUPE_STRICT_TIMINGS=1 pytest tests/benchmarks -s
"""

import os
import statistics
import time

import keras
import numpy as np
import pytest

from loupe.config import parse_settings
from loupe.data.dataset import Pairs
from loupe.models import builder
from loupe.training import batches, optimization
from loupe.upscalers.geometry import Geometry

STRICT = os.environ.get("LOUPE_STRICT_TIMINGS") == "1"
INPUT_SIDE, LABEL_SIDE, IMAGES = 100, 150, 256
INPUT_SHARE = 0.05  # of a step that cutting its batch may take
MATRIX = 2048
PASSES = 3  # forward, back to the weights, back to the inputs
TIMED = {  # settings of what is timed, and how many times the floor it may take
    "the study's perceptron": ({"network": "perceptron", "optimizer": "rmsprop"}, 1.4),
    "convolutional, small, as by default": ({"network": "convolutional"}, 2.0),
    "convolutional, base": ({"network": "convolutional", "filters": 64, "layers": 4}, 2.0),
    "convolutional, base in bfloat16": (
        {"network": "convolutional", "filters": 64, "layers": 4, "precision": "bfloat16"},
        2.0,
    ),
}


def seconds_of(work, times):
    """Of each call."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


@pytest.fixture(scope="module")
def operations_a_second():
    """Of a large matrix product, the median of several, as steps are timed."""
    matrix = keras.ops.convert_to_tensor(np.random.default_rng(0).standard_normal((MATRIX, MATRIX), "float32"))
    return 2 * MATRIX**3 / statistics.median(seconds_of(lambda: np.asarray(keras.ops.matmul(matrix, matrix)), 40))


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    inputs, labels = (
        list(rng.integers(0, 256, (IMAGES, side, side), dtype="uint8")) for side in (INPUT_SIDE, LABEL_SIDE)
    )
    scale = parse_settings("train", {}).scale
    return Pairs([{"path": str(number)} for number in range(IMAGES)], inputs, labels, scale)


def operations(model, side, count):
    """Of a step on so many squares of this side: every weight works once a block and pass."""
    places = count * (side // Geometry.from_name(model.name).q) ** 2
    weights = sum(np.prod(layer.kernel.shape) for layer in model.layers if hasattr(layer, "kernel"))
    return int(2 * PASSES * weights * places)


@pytest.mark.parametrize("name", TIMED)
def test_a_step_takes_little_more_than_its_arithmetic(name, benchmark, operations_a_second, pairs, capsys):
    given, at_most = TIMED[name]
    settings = parse_settings("train", {"quiet": True} | given)
    model = builder.build(settings, INPUT_SIDE, "rec601")
    optimization.compile_model(model, settings)
    patches, count = batches.open_patches(settings, pairs, Geometry.from_name(model.name))
    inputs, labels = patches.draw_batch(0, count)
    with optimization.training_precision(model, settings):
        benchmark.pedantic(model.train_on_batch, (inputs, labels), rounds=100, warmup_rounds=5)
    if benchmark.stats is None:
        return  # beside other tests nothing is timed
    floor = operations(model, inputs.shape[1], count) / operations_a_second
    step = benchmark.stats.stats.median
    cutting = statistics.median(seconds_of(lambda: patches.draw_batch(1, count), 20))
    benchmark.extra_info |= {"floor": floor, "over floor": step / floor, "input pipeline": cutting / step}
    with capsys.disabled():
        print(
            f"\n{name}: {1e3 * step:.1f} ms a step, {step / floor:.2f} times its floor of {1e3 * floor:.1f} ms "
            f"({operations_a_second / 1e9:.0f} GFLOP/s); cutting its batch takes {100 * cutting / step:.1f} %"
        )
    if STRICT:
        assert step < at_most * floor
        assert cutting < INPUT_SHARE * step
