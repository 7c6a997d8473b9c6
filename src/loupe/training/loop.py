"""The training loop of one network: steps, points of the learning curve, checkpoints, resume.

A resumed training gives the same weights as an uninterrupted training, because batches, augmentation and dropout
derive from the seed and the step.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from loupe.cli.progress import ProgressBar
from loupe.config.training import GradientTrain
from loupe.data.pairs import Pairs
from loupe.errors import LoupeError
from loupe.evaluation import metrics
from loupe.models.builder import KerasUpscaler
from loupe.training.batches import compute_steps, count_patches, open_patches
from loupe.training.optimization import compile_model
from loupe.training.steps import StepRunner
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.tiling import UpscalingModel, upscale

CURVE_TRAIN_IMAGES = 32  # scored training images per point of the learning curve

Checkpoint = dict[str, np.ndarray]  # from `TrainingState.to_checkpoint`


@dataclass(frozen=True)
class Splits:
    """The training pairs, and the validation pairs, which select the best weights."""

    train: Pairs
    validation: Pairs


@dataclass(frozen=True)
class Point:
    """One point of the learning curve. The keys of `metrics` are the names of metrics in MLflow."""

    step: int
    metrics: dict[str, float]


PointCallback = Callable[[Point, Checkpoint], None]


@dataclass
class TrainingState:
    """Everything that changes during a training, except the model and the optimizer.

    Args:
        step: number of finished steps.
        steps: total number of steps; 0 before `fit`.
        best_mae: lowest validation mae.
        best_step: the step at which `best_mae` was measured.
        waited: number of points after `best_step`.
        seconds: duration of the steps, without scoring.
        points: the learning curve: `step` and `metrics` of each point.
        best_weights: weights of the model at the best point.
    """

    step: int = 0
    steps: int = 0
    best_mae: float = math.inf
    best_step: int = 0
    waited: int = 0
    seconds: float = 0.0
    points: list[dict[str, Any]] = field(default_factory=list)
    best_weights: list[np.ndarray] = field(default_factory=list)

    def add_point(self, values: dict[str, float], model: keras.Model) -> None:
        """Add a point, and keep the weights if the point has the lowest validation mae.

        Raises:
            LoupeError: the validation mae is NaN or infinite.
        """
        if not math.isfinite(values["val/mae"]):  # a checkpoint would contain useless weights
            last = f"; the last good checkpoint is of step {self.points[-1]['step']}" if self.points else ""
            raise LoupeError(
                f"training: val/mae is {values['val/mae']} at step {self.step}{last}; lower learning_rate"
            )
        if values["val/mae"] < self.best_mae:
            self.best_mae, self.best_step, self.waited = values["val/mae"], self.step, 0
            self.best_weights = [np.asarray(value) for value in model.get_weights()]
        else:
            self.waited += 1
        self.points.append({"step": self.step, "metrics": values})

    def to_checkpoint(self, model: keras.Model) -> Checkpoint:
        """Return the state, the model's weights and the optimizer's variables as named arrays."""
        progress = {name: value for name, value in vars(self).items() if name != "best_weights"}
        variables = [keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
        groups = {"weights": model.get_weights(), "optimizer": variables, "best": self.best_weights}
        arrays = {
            f"{group}/{number}": value for group, values in groups.items() for number, value in enumerate(values)
        }
        return arrays | {"progress": np.array(json.dumps(progress))}

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "TrainingState":
        """Return the state of a checkpoint; raise LoupeError if the arrays are not a checkpoint."""
        count = sum(name.startswith("best/") for name in checkpoint)
        try:
            best = [checkpoint[f"best/{number}"] for number in range(count)]
            return cls(**json.loads(str(checkpoint["progress"])), best_weights=best)
        except (KeyError, TypeError, ValueError):
            raise LoupeError("resume: must be a checkpoint of a training, got other arrays") from None


def fit(
    model: keras.Model,
    settings: GradientTrain,
    splits: Splits,
    report: PointCallback,
    resume: Checkpoint | None = None,
) -> TrainingState:
    """Train the model in place. Finally, set the weights of the point with the lowest validation mae.

    Args:
        model: the network with its initial weights.
        settings: the settings of the training.
        splits: batches are drawn from `train`; `validation` selects the best point.
        report: called with a point and a checkpoint every `eval_every` steps and at the end; also at step 0, unless
            the training is resumed.
        resume: the checkpoint to continue from, or None.

    Returns:
        The state at the end.

    Raises:
        LoupeError: the loss is NaN or infinite, the checkpoint is invalid or of another network, or the dataset is
            damaged.
        UsageError: a crop is larger than the inputs, or the budget `flops` allows too many steps.
    """
    geometry = Geometry.from_name(model.name)
    patches, batch_inputs = open_patches(settings, splits.train, geometry)
    batch_patches = batch_inputs * count_patches(settings, patches.sides[0], geometry)
    state = TrainingState.from_checkpoint(resume) if resume else TrainingState()
    if settings.flops is not None:
        settings = settings.with_steps(compute_steps(settings.flops, model, settings, splits.train.sides[0]))
    assert settings.eval_every is not None
    state.steps = settings.steps
    compile_model(model, settings)

    def add_point(measured: dict[str, float]) -> None:
        scores = _score_splits(model, settings, splits)
        # At step 0, the loss is that of whole images.
        values = {"loss": scores[f"train/{settings.loss}"]} | measured | scores
        state.add_point(values, model)
        report(Point(state.step, values), state.to_checkpoint(model))

    if resume:
        _restore(model, state.best_weights, resume)
    else:
        add_point({})
    runner = StepRunner(model, settings, patches, batch_inputs)
    with ProgressBar(f"training {settings.network}", settings.steps, settings.quiet) as bar:
        bar.update(state.step)
        while state.step < settings.steps and not 0 < settings.patience <= state.waited:
            stop = min(settings.steps, (state.step // settings.eval_every + 1) * settings.eval_every)
            steps, started = range(state.step, stop), time.perf_counter()
            loss = runner.run(steps, bar)
            seconds = time.perf_counter() - started
            state.step, state.seconds = stop, state.seconds + seconds
            splits.train.raise_if_damaged()
            add_point({"loss": loss, "patches_per_second": batch_patches * len(steps) / seconds})
            bar.update(stop, f"validation mae {state.points[-1]['metrics']['val/mae']:.4f}")
    model.set_weights(state.best_weights)
    return state


def load_points(checkpoint: Checkpoint | None) -> list[dict[str, Any]]:
    """Return the learning curve of a checkpoint; [] for None."""
    return TrainingState.from_checkpoint(checkpoint).points if checkpoint else []


def score_whole_images(model: UpscalingModel, pairs: Pairs, limit: int) -> dict[str, float]:
    """Return the mean mse, mae and psnr of whole images, for up to `limit` evenly spaced pairs."""
    scores: dict[str, list[np.ndarray]] = {"mse": [], "mae": [], "psnr": []}
    for inputs, labels in pairs.subsample(limit).batches(32):
        large = upscale(model, inputs)
        for name, values in scores.items():
            values.append(getattr(metrics, name)(large, labels))
    return {name: float(np.concatenate(values).mean()) for name, values in scores.items()}


def _score_splits(model: keras.Model, settings: GradientTrain, splits: Splits) -> dict[str, float]:
    """Return the scores of whole images of both splits, and the learning rate."""
    values = {"train/learning_rate": float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))}
    upscaler = KerasUpscaler(model)
    for name, pairs, limit in (
        ("train", splits.train, CURVE_TRAIN_IMAGES),
        ("val", splits.validation, settings.eval_images),
    ):
        values |= {f"{name}/{score}": value for score, value in score_whole_images(upscaler, pairs, limit).items()}
    return values


def _restore(model: keras.Model, best_weights: list[np.ndarray], checkpoint: Checkpoint) -> None:
    """Load the weights and the optimizer's variables of a checkpoint."""
    try:
        model.set_weights(best_weights)  # only to check the shapes: the loop below sets the current weights
        for group, variables in (("weights", model.weights), ("optimizer", model.optimizer.variables)):
            for number, variable in enumerate(variables):
                variable.assign(checkpoint[f"{group}/{number}"])
    except (KeyError, ValueError):
        raise LoupeError(
            "resume: must be a checkpoint of this network, got a checkpoint of another network"
        ) from None
