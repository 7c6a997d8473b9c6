"""The training batches of a network, and the number of steps that fit into a time budget."""

import time

import keras

from loupe.config.training import GradientTrain
from loupe.data.pairs import Pairs
from loupe.data.patches import Patches
from loupe.training.optimization import compile_model, use_training_precision
from loupe.upscalers.geometry import Geometry

BLOCKS_PER_SIDE = 4  # of a training input, for perceptrons that read pixels around a block
WARMUP_STEPS = 3  # not timed: the first step compiles the model
TIMING_SHARE = 0.05  # of the time budget, to time steps
TIMING_LIMIT_S = 1.0  # of CPU time


def compute_batch_shape(settings: GradientTrain, geometry: Geometry, input_side: int) -> tuple[int, int]:
    """Compute the side and the number of the inputs of a training batch.

    A perceptron that reads pixels around a patch is trained on squares of up to 4x4 patches: around a single patch,
    all pixels would be mirrored. `batch_size` counts patches.

    Args:
        settings: the settings of the network.
        geometry: the geometry of the network.
        input_side: side of the dataset's inputs in pixels.
    """
    crop: int | None = getattr(settings, "crop", None)
    if crop is not None:
        return crop, settings.batch_size
    blocks = max(1, min(BLOCKS_PER_SIDE, input_side // geometry.q)) if geometry.halo else 1
    return geometry.q * blocks, max(1, settings.batch_size // blocks**2)


def open_patches(settings: GradientTrain, train: Pairs, geometry: Geometry) -> tuple[Patches, int]:
    """Return the source of training batches and the number of inputs per batch.

    Raises:
        UsageError: a crop is larger than the dataset's inputs.
    """
    side, count = compute_batch_shape(settings, geometry, train.sides[0])
    train = train.with_strengths(geometry.channels > 1)
    return Patches(train, side, settings.crops, settings.augment, settings.seed), count


def measure_steps(seconds: float, model: keras.Model, settings: GradientTrain, patches: Patches, count: int) -> int:
    """Measure how many training steps fit into a time budget, at least 1. The weights do not change.

    The CPU time of all cores is measured, because other processes hardly change it.

    Args:
        seconds: the budget, in seconds of one core.
        model: the network.
        settings: the settings of the network.
        patches: source of the batches.
        count: inputs per batch.
    """
    weights = model.get_weights()
    compile_model(model, settings.with_steps(1))
    with use_training_precision(model, settings):
        for step in range(WARMUP_STEPS):
            model.train_on_batch(*patches.draw_batch(step, count))
        start_time, steps, cpu_seconds = time.process_time(), 0, 0.0
        while steps < WARMUP_STEPS or cpu_seconds < min(TIMING_LIMIT_S, TIMING_SHARE * seconds):
            model.train_on_batch(*patches.draw_batch(steps, count))
            steps, cpu_seconds = steps + 1, time.process_time() - start_time
    model.set_weights(weights)
    return max(1, round(seconds * steps / cpu_seconds))
