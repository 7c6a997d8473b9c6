"""The optimizer, learning rate, loss, dropout seeds and numerical precision of a training."""

import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from loupe.config.base import Settings
from loupe.config.optimizers import OPTIMIZERS
from loupe.config.training import GradientTrain

LOSSES = {"mse": "mean_squared_error", "mae": "mean_absolute_error"}
FLOAT32_LAYERS = ("skip", "blocks", "pre_upscale")  # their outputs are pixel values
SEED_FACTOR = 1009  # more than the number of dropout layers of a network


def compile_model(model: keras.Model, settings: GradientTrain) -> None:
    """Compile the model with the optimizer, schedule and loss of the settings."""
    other_fields = Settings.model_fields.keys() | {"learning_rate"}
    optimizer_class = OPTIMIZERS[settings.optimizer]
    fields = {name: getattr(settings, name) for name in optimizer_class.model_fields if name not in other_fields}
    optimizer = pkgutil.resolve_name(optimizer_class.KERAS)(
        learning_rate=build_learning_rate(settings), global_clipnorm=settings.clip_norm, **fields
    )
    optimizer.build(model.trainable_variables)
    # On a CPU, XLA's random numbers are slow: a step of a perceptron with dropout takes 48 ms, and 12 ms without XLA.
    # So are its products in bfloat16: a step of the study's network takes 27 ms, and 20 ms without XLA.
    slow_in_xla = bool(get_dropout_states(model)) or settings.precision == "bfloat16"
    use_xla = keras.backend.backend() != "tensorflow" or (settings.USES_XLA and not slow_in_xla)
    model.compile(optimizer=optimizer, loss=LOSSES[settings.loss], jit_compile=use_xla)


def build_learning_rate(settings: GradientTrain) -> Any:
    """Return the learning rate for Keras: a number or a schedule."""
    schedules = keras.optimizers.schedules
    rate = settings.learning_rate
    if settings.schedule == "exponential":
        return schedules.ExponentialDecay(rate, settings.decay_steps, settings.decay_rate)
    if settings.schedule == "cosine":
        return schedules.CosineDecay(rate, settings.steps)
    return rate


def compute_dropout_seed(seed: int, number: int) -> int:
    """Compute the seed of dropout layer `number` from the seed of the training.

    The result is below 2**32, as JAX requires. Trainings with different seeds below 4 million have no dropout seed in
    common.
    """
    return (SEED_FACTOR * seed + number) % 2**32


def get_dropout_states(model: keras.Model) -> list[Any]:
    """Return the random states of the dropout layers. Each state consists of two integers."""
    return [layer.seed_generator.state for layer in model.layers if isinstance(layer, keras.layers.Dropout)]


@contextmanager
def use_training_precision(model: keras.Model, settings: GradientTrain) -> Iterator[None]:
    """In the `with` statement, convolutions and dense layers compute with the precision of the settings.

    FLOAT32_LAYERS and all other layers use float32. Scoring and saving happen outside of the statement, so they also
    use float32.
    """
    body = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) and layer.name not in FLOAT32_LAYERS
    ]
    policy = "mixed_bfloat16" if settings.precision == "bfloat16" else "float32"
    try:
        for layer in body:
            layer.dtype_policy = policy
        yield
    finally:
        for layer in body:
            layer.dtype_policy = "float32"
