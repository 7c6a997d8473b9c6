"""Opens the source of training batches, and computes the number of training steps for a budget in FLOPs."""

import json

import keras

from loupe.config.fields import format_value
from loupe.config.training import MAX_STEPS, GradientTrain
from loupe.data.pairs import Pairs
from loupe.data.patches import Patches
from loupe.errors import UsageError
from loupe.models.network_size import measure_network
from loupe.upscalers.geometry import Geometry

MAX_BLOCKS_PER_SIDE = 4  # a training input of a perceptron has at most 4 x 4 blocks
FLOPS_PER_PRODUCT = 2  # a multiplication and an addition
PASSES = 3  # one forward pass, and a backward pass that takes about twice as many operations


def compute_batch_shape(settings: GradientTrain, geometry: Geometry, input_side: int) -> tuple[int, int]:
    """Return the side of a training input in pixels, and the number of inputs per batch.

    A network mirrors pixels at the border of its input. Around a single patch, all pixels would be mirrored.
    Therefore, a perceptron that reads pixels around a patch is trained on squares of up to 4x4 patches. For a
    perceptron, `batch_size` is a number of patches. It is rounded down to whole squares, but to at least one.
    `input_side` is the side of the dataset's inputs in pixels.
    """
    crop: int | None = getattr(settings, "crop_size", None)
    if crop is not None:
        return crop, settings.batch_size
    blocks = max(1, min(MAX_BLOCKS_PER_SIDE, input_side // geometry.q)) if geometry.halo else 1
    return geometry.q * blocks, max(1, settings.batch_size // blocks**2)


def count_patches(settings: GradientTrain, side: int, geometry: Geometry) -> int:
    """Return the number of patches in a training input: the blocks of a perceptron's input, or 1 crop."""
    return 1 if hasattr(settings, "crop_size") else (side // geometry.q) ** 2


def open_patches(settings: GradientTrain, train: Pairs, geometry: Geometry) -> tuple[Patches, int]:
    """Return the source of training batches and the number of inputs per batch.

    Raises:
        UsageError: a crop is larger than the dataset's inputs.
    """
    side, count = compute_batch_shape(settings, geometry, train.sides[0])
    train = train.with_strengths(geometry.channels > 1)
    return Patches(train, side, settings.crop_positions, settings.augment, settings.seed), count


def compute_steps(flops: float, model: keras.Model, settings: GradientTrain, input_side: int) -> int:
    """Compute the number of training steps, at least 1, for a budget in floating-point operations.

    Raises:
        UsageError: the budget allows more than MAX_STEPS steps.
    """
    steps = max(1, round(flops / compute_step_flops(model, settings, input_side)))
    if steps > MAX_STEPS:
        rule = f"must allow at most {MAX_STEPS:,} steps"
        raise UsageError(f"flops: {rule}, got {format_value(flops)}, which allows {steps:,} steps")
    return steps


def compute_step_flops(model: keras.Model, settings: GradientTrain, input_side: int) -> int:
    """Compute the floating-point operations of a training step, forward and backward.

    Only the multiply-adds of layers with weights count.
    """
    side, count = compute_batch_shape(settings, Geometry.from_name(model.name), input_side)
    products_per_input = measure_network(json.loads(model.to_json()), side).products
    return PASSES * FLOPS_PER_PRODUCT * count * products_per_input
