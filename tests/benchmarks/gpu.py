"""Measures training on the JAX backend: steps per second, arithmetic rate, and the time that the device waits.

    KERAS_BACKEND=jax python tests/benchmarks/gpu.py [SECONDS PER NETWORK]

The script takes under 4 minutes on a GPU with the default of 15 seconds. "of peak" is the share of the rate of a
large matrix product. "Python" is the CPU time of the loop's thread, without the time that it waits for the device.
"idle" compares the loop with the same calls on batches that were drawn before.
"""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from loupe.config import parse_settings
from loupe.data.pairs import Pairs
from loupe.models import builder
from loupe.training import batches, optimization
from loupe.training.compiled_steps import CompiledSteps
from loupe.upscalers.geometry import Geometry

INPUT_SIDE, LABEL_SIDE, IMAGES = 100, 150, 2048
MATRIX = 8192 if jax.default_backend() != "cpu" else 2048
PASSES = 3  # forward, gradients of the weights, gradients of the inputs
CROPS = {"batch_size": 64, "crop_size": 64}
NETWORKS = {
    "perceptron of the study": {"network": "perceptron", "optimizer": "rmsprop", "batch_size": 256},
    "tiny": CROPS | {"filters": 16, "layers": 3},
    "small": CROPS | {"filters": 32, "layers": 3},
    "base": CROPS | {"filters": 48, "layers": 8},
    "large": CROPS | {"filters": 96, "layers": 8},
}


def measure_matrix_rate() -> float:
    """Return the floating-point operations per second of a large float32 matrix product, as the networks use it."""
    matrix = jnp.ones((MATRIX, MATRIX), "float32")
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    durations = []
    for _ in range(5):
        started = time.perf_counter()
        product(matrix).block_until_ready()
        durations.append(time.perf_counter() - started)
    return 2 * MATRIX**3 / min(durations)


def count_operations(model: keras.Model, side: int, count: int) -> int:
    """Count the operations of a step on `count` inputs: each weight is used once per block and pass."""
    positions = count * (side // Geometry.from_name(model.name).q) ** 2
    weights = sum(int(np.prod(layer.kernel.shape)) for layer in model.layers if hasattr(layer, "kernel"))
    return 2 * PASSES * weights * positions


def measure_network(pairs: Pairs, fields: dict[str, Any], seconds: float) -> dict[str, float]:
    """Train a network for some seconds after compiling; return its figures."""
    settings = parse_settings("train", {"quiet": True, "skip": "none", "steps": 10**8} | fields)
    model = builder.build(settings, INPUT_SIDE, "rec601")
    optimization.compile_model(model, settings)
    patches, size = batches.open_patches(settings, pairs, Geometry.from_name(model.name))
    runner = CompiledSteps(model, settings, patches, size)
    started = time.perf_counter()
    runner.run(range(1), lambda first, losses: None)
    compiling = time.perf_counter() - started
    while runner._call_steps < runner._max_steps and time.perf_counter() - started < compiling + seconds:
        before = runner._call_steps
        runner.run(range(3 * before), lambda first, losses: None)
        if runner._call_steps <= before:
            break
    waited, read = [0.0], runner._read_losses

    def read_losses(losses: Any, count: int) -> np.ndarray:
        at = time.thread_time()
        found = read(losses, count)
        waited[0] += time.thread_time() - at
        return found

    runner._read_losses = read_losses  # type: ignore[method-assign]
    per_call = runner._call_steps
    calls = 2
    while True:
        started, waited[0], working = time.perf_counter(), 0.0, time.thread_time()
        runner._call_steps = per_call
        runner._choose_call_steps = lambda count, at: at  # type: ignore[method-assign]  # calls of one length
        runner.run(range(calls * per_call), lambda first, losses: None)
        total, working = time.perf_counter() - started, time.thread_time() - working - waited[0]
        if total > seconds / 2:
            break
        calls *= 2
    steps = calls * per_call
    state, computing = runner._read_state(), 0.0
    drawn = runner._draw_batches(range(per_call), None)  # type: ignore[arg-type]
    jax.block_until_ready(drawn)
    for call in range(calls):
        started = time.perf_counter()
        state, losses = runner._call(state, runner._images, drawn, call, per_call)
        jax.block_until_ready(losses)
        computing += time.perf_counter() - started
    return {
        "steps per second": steps / total,
        "TFLOP/s": count_operations(model, patches.sides[0], size) * steps / total / 1e12,
        "compiling": compiling,
        "steps per call": per_call,
        "Python": working / total,
        "idle": max(0.0, 1 - computing / total),
    }


def main() -> None:
    """Print one line per network."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 15.0
    rng = np.random.default_rng(0)
    inputs, labels = (list(rng.integers(0, 256, (IMAGES, side, side), "uint8")) for side in (INPUT_SIDE, LABEL_SIDE))
    pairs = Pairs.from_images([{}] * IMAGES, inputs, labels, parse_settings("train", {}).scale)
    peak = measure_matrix_rate()
    print(f"{jax.devices()[0].device_kind}: matrix product {peak / 1e12:.2f} TFLOP/s", flush=True)
    print("| network | compiling, s | steps per call | steps/s | TFLOP/s | of peak | Python | idle |")
    print("|---|---|---|---|---|---|---|---|")
    for name, fields in NETWORKS.items():
        found = measure_network(pairs, fields, seconds)
        share = found["TFLOP/s"] * 1e12 / peak
        print(
            f"| {name} | {found['compiling']:.1f} | {found['steps per call']} | {found['steps per second']:.1f} | "
            f"{found['TFLOP/s']:.3f} | {share:.1%} | {found['Python']:.2%} | {found['idle']:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
