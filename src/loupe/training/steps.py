"""Runs training steps: one step per call of Keras, or with JAX many steps per compiled call."""

import math
from collections.abc import Callable

import keras
import numpy as np

from loupe.cli.progress import ProgressBar
from loupe.config.training import GradientTrain
from loupe.data.patches import Patches
from loupe.errors import LoupeError, UsageError
from loupe.training.optimization import compute_dropout_seed, get_dropout_states, use_training_precision

LossCallback = Callable[[int, np.ndarray], None]  # takes the number of the first step, and the losses of the steps


def validate_devices(settings: GradientTrain, size: int) -> None:
    """Raise UsageError if the devices of the settings cannot share a batch of `size` inputs.

    They must exist. Without JAX, their number must be 1.
    """
    if keras.backend.backend() == "jax":
        from loupe.training.compiled_steps import choose_devices

        choose_devices(settings.devices, size)
    elif settings.devices != 1:
        raise UsageError(f"devices: must be 1 without KERAS_BACKEND=jax, got {settings.devices}")


class SingleSteps:
    """Trains a model that `compile_model` compiled, one call of Keras per step, on batches of `size` inputs."""

    def __init__(self, model: keras.Model, settings: GradientTrain, patches: Patches, size: int) -> None:
        self._model, self._patches, self._size, self._seed = model, patches, size, settings.seed

    def run(self, steps: range, report_losses: LossCallback) -> None:
        """Train for these steps, and report the loss of each."""
        states = get_dropout_states(self._model)
        for step in steps:
            for number, state in enumerate(states):
                state.assign([compute_dropout_seed(self._seed, number), step])
            loss = self._model.train_on_batch(*self._patches.draw_batch(step, self._size))
            report_losses(step, np.array([float(loss)]))


class StepRunner:
    """Trains a model that `compile_model` compiled, with the numerical precision of the settings.

    `size` is the number of inputs per batch; `validate_devices` must accept it.
    """

    def __init__(self, model: keras.Model, settings: GradientTrain, patches: Patches, size: int) -> None:
        self._model, self._settings = model, settings
        if keras.backend.backend() == "jax":
            from loupe.training.compiled_steps import CompiledSteps

            self._run = CompiledSteps(model, settings, patches, size).run
        else:
            self._run = SingleSteps(model, settings, patches, size).run

    def run(self, steps: range, bar: ProgressBar) -> float:
        """Train for these steps and return the mean loss; raise LoupeError if a loss is NaN or infinite."""
        losses: list[float] = []

        def report_losses(first: int, new_losses: np.ndarray) -> None:
            for step, loss in enumerate(new_losses, first):
                if not math.isfinite(loss):
                    raise LoupeError(
                        f"training: the loss is {loss} at step {step + 1}; "
                        f"the last good checkpoint is of step {steps.start}; lower learning_rate"
                    )
            losses.extend(new_losses)
            bar.update(first + len(new_losses))

        with use_training_precision(self._model, self._settings):
            self._run(steps, report_losses)
        return float(np.mean(losses))
