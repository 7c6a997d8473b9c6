"""Compares the time of training steps with the time that their multiplications need at least.

    pytest tests/benchmarks -s

The floor of a step is the time of its multiply-adds at the speed of a large matrix product. The test prints the
ratios. It checks them only on request, because other processes on the machine slow down a step:

    LOUPE_STRICT_TIMINGS=1 pytest tests/benchmarks -s
"""

import os
import statistics
import time

import keras
import numpy as np
import pytest

from loupe.config import parse_settings
from loupe.data.pairs import Pairs
from loupe.models import builder
from loupe.training import batches, optimization
from loupe.upscalers.geometry import Geometry

STRICT = os.environ.get("LOUPE_STRICT_TIMINGS") == "1"
INPUT_SIDE, LABEL_SIDE, IMAGES = 100, 150, 256
MAX_INPUT_SHARE = 0.05  # the maximum time of cutting a batch, of a step
MATRIX = 2048
PASSES = 3  # forward, gradients of the weights, gradients of the inputs
TIMED = {  # settings, and the maximum time as a multiple of the floor
    "the study's perceptron": ({"network": "perceptron", "optimizer": "rmsprop"}, 1.4),
    "convolutional, small, as by default": ({"network": "convolutional"}, 2.0),
    "convolutional, base": ({"network": "convolutional", "filters": 64, "layers": 4}, 2.0),
    "convolutional, base in bfloat16": (
        {"network": "convolutional", "filters": 64, "layers": 4, "precision": "bfloat16"},
        2.0,
    ),
}


def time_calls(work, times):
    """Return the run time of each call in s."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


@pytest.fixture(scope="module")
def operations_per_second():
    """Operations per second of a large matrix product: the median of several, as for steps."""
    matrix = keras.ops.convert_to_tensor(np.random.default_rng(0).standard_normal((MATRIX, MATRIX), "float32"))
    return 2 * MATRIX**3 / statistics.median(time_calls(lambda: np.asarray(keras.ops.matmul(matrix, matrix)), 40))


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    inputs, labels = (
        list(rng.integers(0, 256, (IMAGES, side, side), dtype="uint8")) for side in (INPUT_SIDE, LABEL_SIDE)
    )
    scale = parse_settings("train", {}).scale
    return Pairs.from_images([{"path": str(number)} for number in range(IMAGES)], inputs, labels, scale)


def count_operations(model, side, count):
    """Count the operations of a step on `count` squares: each weight is used once per block and pass."""
    positions = count * (side // Geometry.from_name(model.name).q) ** 2
    weights = sum(np.prod(layer.kernel.shape) for layer in model.layers if hasattr(layer, "kernel"))
    return int(2 * PASSES * weights * positions)


@pytest.mark.parametrize("name", TIMED)
def test_step_takes_little_more_than_its_arithmetic(name, benchmark, operations_per_second, pairs, capsys):
    fields, max_ratio = TIMED[name]
    settings = parse_settings("train", {"quiet": True} | fields)
    model = builder.build(settings, INPUT_SIDE, "rec601")
    optimization.compile_model(model, settings)
    patches, count = batches.open_patches(settings, pairs, Geometry.from_name(model.name))
    inputs, labels = patches.draw_batch(0, count)
    with optimization.use_training_precision(model, settings):
        benchmark.pedantic(model.train_on_batch, (inputs, labels), rounds=100, warmup_rounds=5)
    if benchmark.stats is None:
        return  # nothing is timed under pytest-xdist
    floor = count_operations(model, inputs.shape[1], count) / operations_per_second
    step = benchmark.stats.stats.median
    cutting = statistics.median(time_calls(lambda: patches.draw_batch(1, count), 20))
    benchmark.extra_info |= {"floor": floor, "over floor": step / floor, "input pipeline": cutting / step}
    with capsys.disabled():
        print(
            f"\n{name}: {1e3 * step:.1f} ms per step, {step / floor:.2f} times its floor of {1e3 * floor:.1f} ms "
            f"({operations_per_second / 1e9:.0f} GFLOP/s); cutting its batch takes {100 * cutting / step:.1f} %"
        )
    if STRICT:
        assert step < max_ratio * floor
        assert cutting < MAX_INPUT_SHARE * step
