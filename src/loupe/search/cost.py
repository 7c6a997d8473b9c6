"""How long a sweep will take on this machine: operations a step over those that a core does a second."""

import itertools
import math
import time

import numpy as np

from loupe.config.training import Convolutional, Perceptron, Train, Trained
from loupe.search.sweep_file import SweepFile

SCORING = 20.0  # seconds at the end: test scores of the best few, registering
BESIDES = 4.0  # seconds of a trial beside its training: building, scoring, MLflow
START = 8.0  # seconds of a worker until its first trial
INPUT_SIDE = 100  # of patch=whole, and of the images scored: the study's
TRAIN_IMAGES = 32  # scored at each point beside the validation's; as in `training`, which would load Keras
FORTH, BACK_AND_FORTH = 2, 6  # operations for each weight and place that it is used at: scoring, training
# Shares of a matrix product's speed that training reaches: perceptrons; convolutions, for each filter and at most.
OF_THE_PEAK, A_FILTER, CONVOLVING = 0.6, 1 / 70, 0.8


def seconds(sweep: SweepFile, workers: int, trials: int, cores: int = 1) -> float:
    """Seconds that so many of the sweep's trials take on so many workers of so many cores each, if none is pruned."""
    if sweep.study.sampler == "grid":
        points = list(sweep.points())
        some = points[:: max(1, len(points) // 200)]
    else:
        some = [point for point, _ in zip(sweep.drawn(), range(50), strict=False)]
    speed = cores * _operations_a_second()
    each = [_trial_seconds(sweep.settings(chosen), speed) for chosen in some]
    return START + SCORING + trials / min(workers, max(1, trials)) * (sum(each) / len(each) + BESIDES)


def shown(seconds: float) -> str:
    """A duration for people: `40 s`, `12 min`, `3.5 h`, `2.3 days`."""
    for unit, size, digits in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def _trial_seconds(settings: Train, speed: float) -> float:
    if not isinstance(settings, Trained):
        return 3.0
    if settings.seconds is not None:
        return settings.seconds
    assert settings.eval_every is not None
    points = 1 + math.ceil(settings.steps / settings.eval_every)
    scored = points * (settings.eval_images + TRAIN_IMAGES) * INPUT_SIDE**2
    operations = BACK_AND_FORTH * settings.steps * _pixels_a_step(settings) + FORTH * scored
    share = min(CONVOLVING, A_FILTER * settings.filters) if isinstance(settings, Convolutional) else OF_THE_PEAK
    return settings.steps * 1e-3 + operations * _uses_a_pixel(settings) / (share * speed)


def _pixels_a_step(settings: Trained) -> float:
    return settings.batch_size * (settings.crop if isinstance(settings, Convolutional) else _patch(settings)) ** 2


def _uses_a_pixel(settings: Trained) -> float:
    """Weights times the places that each is used at, for each pixel of the input."""
    if isinstance(settings, Convolutional):
        q, p = settings.scale.denominator, settings.scale.numerator
        inside = settings.expansion * settings.filters
        return settings.filters * (9 * q * q + settings.layers * 10 * inside + p * p) / q**2
    assert isinstance(settings, Perceptron)
    q = _patch(settings)
    p = int(q * settings.scale)
    widths = [q * q, *settings.hidden, *(settings.hidden[-2::-1] if settings.mirror else ()), p * p]
    return sum(math.prod(pair) for pair in itertools.pairwise(widths)) / q**2


def _patch(settings: Trained) -> int:
    assert isinstance(settings, Perceptron)
    return INPUT_SIDE if settings.patch == "whole" else int(settings.patch.split(":")[0])


def _operations_a_second() -> float:
    """What one core does in a product of matrices, measured."""
    matrix = np.ones((512, 512), "float32")
    matrix @ matrix
    started = time.process_time()
    for _ in range(5):
        matrix @ matrix
    return 5 * 2 * 512**3 / max(time.process_time() - started, 1e-6)
