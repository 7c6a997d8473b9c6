"""Fits one network: steps, points of the curves, checkpoints; a resumed training equals an unbroken one.

All that changes from step to step is in the checkpoint (weights, optimizer, best, patience) or derives
from seed and step (batches, augmentation, dropout).
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

from loupe.cli.progress import ProgressBar
from loupe.config.base import Settings
from loupe.config.training import OPTIMIZERS, Convolutional, Trained
from loupe.data.dataset import Pairs
from loupe.data.patches import Patches
from loupe.errors import LoupeError
from loupe.evaluation import metrics
from loupe.models.builder import KerasUpscaler
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.tiling import upscale

LOSSES = {"mse": "mean_squared_error", "mae": "mean_absolute_error"}
TRAIN_IMAGES = 32  # of the training split, scored whole at each point beside the validation split
MEASURED = 0.05  # share of `seconds`, and seconds at most, in which the cost of a step is measured first
MEASURED_SECONDS = 1.0
WARMING = 3  # steps before that, the first of which compiles
EXACT_LAYERS = ("skip", "blocks", "pre_upscale")
BLOCKS_A_SIDE = 4  # of a training image of a perceptron that looks beyond its block


@dataclass(frozen=True)
class Point:
    """One point of the curves; the metrics' names are those that MLflow shows."""

    step: int
    metrics: dict[str, float]


@dataclass
class Progress:
    """Where a training stands, beside weights and optimizer."""

    step: int = 0
    steps: int = 0
    best_mae: float = math.inf
    best_step: int = 0
    waited: int = 0
    seconds: float = 0.0
    points: list[dict[str, Any]] = field(default_factory=list)


Checkpoint = dict[str, np.ndarray]
Report = Callable[[Point, Checkpoint], None]


def fit(
    model: keras.Model,
    settings: Trained,
    train: Pairs,
    validation: Pairs,
    report: Report,
    resume: Checkpoint | None = None,
) -> Progress:
    """Train the model in place; it ends with the weights that were best on validation.

    Args:
        model: from `models.build`, with its starting weights.
        settings: optimizer, schedule, steps and so on.
        train: pairs that batches are drawn from.
        validation: whole images that choose the best point.
        report: called at step 0, every eval_every steps and at the end, with a point and the checkpoint.
        resume: a checkpoint to go on from.

    Returns:
        Where it ended, with all points; `steps` are those that were to be done, told or measured.

    Raises:
        LoupeError: the loss is no longer a number.
    """
    patches, count = patches_of(settings, train, Geometry.of_name(model.name))
    progress = _progress(resume)
    if settings.seconds is not None:
        progress.steps = progress.steps or steps_within(settings.seconds, model, settings, patches, count)
        settings = settings.of_steps(progress.steps)
    assert settings.eval_every is not None
    progress.steps = settings.steps
    compile_model(model, settings)
    best = _weights(model, resume)
    evaluator = KerasUpscaler(model)
    if not resume:
        best = _point(model, evaluator, settings, progress, train, validation, {}, report, best)
    with ProgressBar(f"training {settings.network}", settings.steps, settings.quiet) as bar:
        bar.update(progress.step)
        while progress.step < settings.steps and not _patience_is_over(settings, progress):
            stop = min(settings.steps, (progress.step // settings.eval_every + 1) * settings.eval_every)
            started = time.perf_counter()
            loss = _steps(model, settings, lambda step: patches.batch(step, count), range(progress.step, stop), bar)
            seconds = time.perf_counter() - started
            shown = settings.batch_size * (stop - progress.step) / seconds
            progress.step, progress.seconds = stop, progress.seconds + seconds
            more = {"train/patch_loss": loss, "patches_per_second": shown}
            best = _point(model, evaluator, settings, progress, train, validation, more, report, best)
            bar.update(stop, f"validation mae {progress.points[-1]['metrics']['val/mae']:.4f}")
    for variable, value in zip(model.weights, best, strict=True):
        variable.assign(value)
    return progress


def _steps(
    model: keras.Model, settings: Trained, batch: Callable[[int], Any], steps: range, bar: ProgressBar
) -> float:
    """Train so many steps, each on its own batch; gives the mean loss. Raises LoupeError where it is no number."""
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    losses = []
    with computed_in(model, settings):
        for step in steps:
            for number, layer in enumerate(dropouts):
                layer.seed_generator.state.assign([settings.seed * 1009 + number, step])
            losses.append(float(model.train_on_batch(*batch(step))))
            if not math.isfinite(losses[-1]):
                raise LoupeError(
                    f"training: the loss is {losses[-1]} at step {step + 1}; "
                    f"the last good checkpoint is of step {steps.start}; lower learning_rate"
                )
            bar.update(step + 1)
    return float(np.mean(losses))


def images_of_a_step(settings: Trained, geometry: Geometry, input_side: int) -> tuple[int, int]:
    """The side and number of a step's training inputs: crops, or patches.

    A perceptron that looks beyond its patch (skip, pre_upscale, entry_convolutions) gets squares of up to
    4x4 patches that share their surroundings, as they do in a whole image; batch_size counts patches.
    """
    if isinstance(settings, Convolutional):
        return settings.crop, settings.batch_size
    blocks = max(1, min(BLOCKS_A_SIDE, input_side // geometry.q)) if geometry.halo else 1
    return geometry.q * blocks, max(1, settings.batch_size // blocks**2)


def patches_of(settings: Trained, train: Pairs, geometry: Geometry) -> tuple[Patches, int]:
    """What training images are drawn from, and how many a step; raises UsageError where they do not fit."""
    side, count = images_of_a_step(settings, geometry, train.sides[0])
    return Patches(train, side, settings.crops, settings.augment, settings.seed), count


def steps_within(seconds: float, model: keras.Model, settings: Trained, patches: Patches, count: int) -> int:
    """How many steps fit into so many seconds of one core; the model is left as it was.

    Processor time is what counts, of all cores together, so that other work on the machine changes little.
    """
    before = model.get_weights()
    compile_model(model, settings.of_steps(1))
    with computed_in(model, settings):
        for step in range(WARMING):
            model.train_on_batch(*patches.batch(step, count))
        started, done, spent = time.process_time(), 0, 0.0
        while done < WARMING or spent < min(MEASURED_SECONDS, MEASURED * seconds):
            model.train_on_batch(*patches.batch(done, count))
            done, spent = done + 1, time.process_time() - started
    model.set_weights(before)
    return max(1, round(seconds * done / spent))


def compile_model(model: keras.Model, settings: Trained) -> None:
    """Give the model its optimizer, schedule and loss.

    On a CPU, XLA takes half off a perceptron's step; large convolutions are faster as TensorFlow has them, by oneDNN.
    """
    own = Settings.model_fields.keys() | {"learning_rate"}
    chosen = OPTIMIZERS[settings.optimizer]
    fields = {name: getattr(settings, name) for name in chosen.model_fields if name not in own}
    optimizer = _keras_object(chosen.KERAS)(learning_rate=learning_rate(settings), **fields)
    optimizer.build(model.trainable_variables)
    compiled = keras.backend.backend() != "tensorflow" or not isinstance(settings, Convolutional)
    model.compile(optimizer=optimizer, loss=LOSSES[settings.loss], jit_compile=compiled)


@contextmanager
def computed_in(model: keras.Model, settings: Trained) -> Iterator[None]:
    """While it lasts, the body's convolutions compute in the precision of the settings; weights stay float32.

    The linear branch and the layer of the result, whose sums are pixels, compute in float32 always, and so does
    all of the model afterwards: what is scored, saved and exported knows nothing of it.
    """
    body = [
        layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D) and layer.name not in EXACT_LAYERS
    ]
    policy = "mixed_bfloat16" if getattr(settings, "precision", "float32") == "bfloat16" else "float32"
    try:
        for layer in body:
            layer.dtype_policy = policy
        yield
    finally:
        for layer in body:
            layer.dtype_policy = "float32"


def learning_rate(settings: Trained) -> Any:
    """The learning rate of any step, as Keras takes it: a number, or a schedule."""
    schedules = keras.optimizers.schedules
    rate = settings.learning_rate
    if settings.schedule == "exponential":
        return schedules.ExponentialDecay(rate, settings.decay_steps, settings.decay_rate)
    return schedules.CosineDecay(rate, settings.steps) if settings.schedule == "cosine" else rate


def _keras_object(path: str) -> Any:
    found: Any = keras
    for part in path.split(".")[1:]:
        found = getattr(found, part)
    return found


def _weights(model: keras.Model, resume: Checkpoint | None) -> list[np.ndarray]:
    """Bring the model to where a checkpoint was, if there is one; gives the best weights so far."""
    if resume is None:
        return [np.asarray(value) for value in model.get_weights()]
    try:
        for name, variables in (("weights", model.weights), ("optimizer", model.optimizer.variables)):
            for number, variable in enumerate(variables):
                variable.assign(resume[f"{name}/{number}"])
        return [resume[f"best/{number}"] for number in range(len(model.weights))]
    except (KeyError, ValueError):
        raise LoupeError("resume: the checkpoint is of another network") from None


def _progress(resume: Checkpoint | None) -> Progress:
    """Where a checkpoint was; the start, where there is none."""
    try:
        return Progress(**json.loads(str(resume["progress"]))) if resume else Progress()
    except (KeyError, TypeError, ValueError):
        raise LoupeError("resume: the checkpoint is of no training") from None


def _checkpoint(model: keras.Model, best: list[np.ndarray], progress: Progress) -> Checkpoint:
    arrays = {f"weights/{number}": np.asarray(value) for number, value in enumerate(model.get_weights())}
    for number, variable in enumerate(model.optimizer.variables):
        arrays[f"optimizer/{number}"] = keras.ops.convert_to_numpy(variable)
    arrays |= {f"best/{number}": value for number, value in enumerate(best)}
    return arrays | {"progress": np.array(json.dumps(asdict(progress)))}


def _patience_is_over(settings: Trained, progress: Progress) -> bool:
    return bool(settings.patience) and progress.waited >= settings.patience


def _point(
    model: keras.Model,
    evaluator: KerasUpscaler,
    settings: Trained,
    progress: Progress,
    train: Pairs,
    validation: Pairs,
    more: dict[str, float],
    report: Report,
    best: list[np.ndarray],
) -> list[np.ndarray]:
    """Score the model where it stands, report it, and give the best weights so far."""
    values = dict(more)
    values["learning_rate"] = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    for name, pairs, limit in (
        ("train", train, TRAIN_IMAGES),
        ("val", validation, settings.eval_images),
    ):
        values |= {f"{name}/{score}": value for score, value in whole_scores(evaluator, pairs, limit).items()}
    if values["val/mae"] < progress.best_mae:
        progress.best_mae, progress.best_step, progress.waited = values["val/mae"], progress.step, 0
        best = [np.asarray(value) for value in model.get_weights()]
    else:
        progress.waited += 1
    values["loss"] = values.get("train/patch_loss", values[f"train/{settings.loss}"])
    progress.points.append({"step": progress.step, "metrics": values})
    report(Point(progress.step, values), _checkpoint(model, best, progress))
    return best


def whole_scores(model: KerasUpscaler, pairs: Pairs, limit: int) -> dict[str, float]:
    """Mean mse, mae and psnr of up to `limit` whole images, spread evenly over the pairs' order."""
    found: dict[str, list[np.ndarray]] = {"mse": [], "mae": [], "psnr": []}
    for inputs, labels in pairs.spread(limit).batches(32):
        large = upscale(model, inputs)
        for name, values in found.items():
            values.append(getattr(metrics, name)(large, labels))
    return {name: float(np.concatenate(values).mean()) for name, values in found.items()}


def points_of(checkpoint: Checkpoint | None) -> list[dict[str, Any]]:
    """The points of the curves that came before a checkpoint."""
    return _progress(checkpoint).points
