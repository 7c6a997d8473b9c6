"""The settings of `train` that several networks share."""

import os
from collections.abc import Callable
from fractions import Fraction
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from loupe.config.base import DatasetSettings
from loupe.config.fields import Count, Devices, Flops, Norm, Scale, Text, field, format_value
from loupe.errors import UsageError

TRAINED_SCALES = (Fraction(1), Fraction(3, 2), Fraction(2), Fraction(3), Fraction(4))
SCALE_RULE = " or ".join(", ".join(map(format_value, TRAINED_SCALES)).rsplit(", ", 1))
Recompose = Literal["concatenate", "gaussian"]
RECOMPOSE = "how a perceptron's patches form an image. concatenate: side by side. gaussian: overlapping, averaged"
DATASET = (
    "name, folder or URL of a prepared dataset; or photos to prepare: sample, caltech256, a folder, tar file or URL"
)
MAX_STEPS = 100_000_000
THREADS = "CPU threads for training; 0: one per core"
# TensorFlow and JAX, in this order, read these variables when they create their thread pools.
THREAD_VARIABLES = ("TF_NUM_INTRAOP_THREADS", "NPROC")
BACKENDS = ("tensorflow", "jax")
INTERVALS = ("decay_steps", "eval_every")  # with `flops`, their default is None until `flops` is converted to `steps`


def validate_scale(scale: Fraction) -> None:
    """Raise ValueError if Loupe does not train networks for this scale factor."""
    if scale not in TRAINED_SCALES:
        raise ValueError(f"scale: must be {SCALE_RULE}, got {format_value(scale)}")


def validate_backend() -> None:
    """Raise UsageError if the variable KERAS_BACKEND selects a backend that Loupe does not support."""
    backend = os.environ.get("KERAS_BACKEND") or BACKENDS[0]  # Keras ignores an empty text
    if backend not in BACKENDS:
        raise UsageError(f"KERAS_BACKEND: must be {' or '.join(BACKENDS)}, got {backend!r}")


def _make_step_default(share: Callable[[int], float]) -> Callable[[dict[str, Any]], int | None]:
    """Return a function that computes the default of a field: None with `flops`, else `share(steps)`, at least 1."""
    return lambda data: None if data.get("flops") is not None else max(1, round(share(data.get("steps", 0))))


class Train(DatasetSettings):
    """Train one network on a dataset."""

    STEP = "train"
    dataset: str = field("sample", DATASET)
    network: str = field("convolutional", "the network to train; each network has its own section below")
    scale: Scale = field(
        Fraction(3, 2),
        "scale factor: output size divided by input size; 1:1 restores degraded photos",
        rule=SCALE_RULE,
    )
    limit: Count = field(None, "maximum number of training photos; none: all", rule="none or >= 1")
    threads: int = field(0, THREADS, ge=0, le=1024)
    resume: Text = field(None, "id of an interrupted run to continue", rule="none or a run id")

    @model_validator(mode="after")
    def _validate_scale(self) -> "Train":
        validate_scale(self.scale)
        return self

    @property
    def crop_side(self) -> int:
        """The side of a training crop or patch of the input, in pixels; 0 for whole images and for ridge."""
        return 0


class GradientTrain(Train):
    """Settings of a network that is trained by gradient descent.

    A subclass sets these class attributes:
        MODULE: the name of the module with the functions `add_body` and `compute_blocks` of the network; see
            `loupe.models.convolutional`. The module imports Keras, so it is not imported before the network is built.
        NAME_FIELDS: the fields whose values are part of the names of runs.
        USES_XLA: whether TensorFlow compiles the training step with XLA; False if this is slower on a CPU.
    """

    MODULE: ClassVar[str] = ""
    NAME_FIELDS: ClassVar[tuple[str, ...]] = ("scale",)
    USES_XLA: ClassVar[bool] = True

    skip: Literal["none", "ridge"] = field(
        "none", "connection from the input to the output; ridge: linear, trainable, initialised by ridge regression"
    )
    initial_weights: Text = field(
        None,
        "network that contains the initial weights",
        rule="none, champion, an MLflow URI, or a .keras file",
    )
    pre_upscale: Literal["none", "bicubic", "lanczos", "nearest"] = field(
        "none", "filter that upscales the input before the first layer; none: the last layer upscales"
    )
    crop_positions: Literal["aligned", "any"] = field(
        "aligned",
        "where training crops or patches start in the input; in the label, they start at this position times the "
        "scale factor. aligned: only where this product is a whole number. any: everywhere; the product is rounded "
        "down, as in the 2016 study",
    )
    activation: Literal["tanh", "sigmoid", "relu"] = field("tanh", "activation of the hidden layers")
    initializer: Literal["xavier", "gaussian", "glorot_uniform", "he_normal"] = field(
        "xavier", "distribution of the initial weights; xavier: the formula of the 2016 study"
    )
    stddev: float = field(0.1, "standard deviation of the initial weights, for initializer=gaussian", gt=0, le=10)
    bias_initializer: Literal["zeros", "as_weights"] = field(
        "zeros", "initial biases; as_weights: random like the weights (2016 study)"
    )
    optimizer: str = field("adam", "the optimizer; each optimizer has its own section below")
    learning_rate: float = field(
        1e-3, "learning rate of the first step; some optimizers below have another default", gt=0, le=100
    )
    schedule: Literal["constant", "exponential", "cosine"] = field(
        "cosine", "how the learning rate changes during the training"
    )
    clip_norm: Norm = field(None, "maximum norm of the gradient; none: no limit", rule="none or > 0")
    loss: Literal["mse", "mae"] = field("mae", "error that the optimizer minimises")
    batch_size: int = field(8, "number of crops or patches per training step", ge=1, le=65536)
    steps: int = field(3500, "number of training steps", ge=1, le=MAX_STEPS)
    flops: Flops = field(
        None,
        "floating-point operations of the training (forward and backward), such as 1e12; replaces `steps`",
        rule="none or > 0",
    )
    decay_rate: float = field(
        0.96,
        "the learning rate is multiplied by this factor, gradually during `decay_steps` steps, for "
        "schedule=exponential",
        gt=0,
        le=1,
    )
    decay_steps: Count = field(
        _make_step_default(lambda steps: 0.015 * steps),
        "number of steps in which the learning rate is multiplied by `decay_rate`, for schedule=exponential",
        rule=">= 1; default 1.5 % of `steps`",
    )
    eval_every: Count = field(
        _make_step_default(lambda steps: steps // 16),
        "number of steps between two validations",
        rule=">= 1; default a 16th of `steps`",
    )
    eval_images: int = field(256, "maximum number of images per validation", ge=1, le=10**9)
    patience: int = field(
        0, "number of validations without progress after which the training stops; 0: never", ge=0, le=10**9
    )
    devices: Devices = field(
        1, "number of GPUs that share each batch, for KERAS_BACKEND=jax", rule="all, or 1 to 1024"
    )
    precision: Literal["float32", "bfloat16"] = field(
        "float32", "number format during the training; bfloat16 is faster on some processors"
    )
    augment: bool = field(True, "flip and rotate training images at random")
    DEPENDS = {
        "stddev": {"initializer": "gaussian"},
        "decay_rate": {"schedule": "exponential"},
        "decay_steps": {"schedule": "exponential"},
        "steps": {"flops": None},
    }
    SMOKE = {"steps": 12}

    @model_validator(mode="after")
    def _validate_steps(self) -> "GradientTrain":
        for name in INTERVALS:
            if self.flops is None and getattr(self, name) is None:
                raise ValueError(f"{name}: must be >= 1, got none")
        return self

    @model_validator(mode="after")
    def _validate_pre_upscale(self) -> "GradientTrain":
        if self.pre_upscale != "none" and self.scale == 1:
            raise ValueError(f"pre_upscale: must be none at scale 1:1, got {self.pre_upscale}")
        return self

    def with_steps(self, steps: int) -> "GradientTrain":
        """Return these settings with `steps` instead of `flops`, and with the defaults that depend on `steps`."""
        unset = {"flops", *(name for name in INTERVALS if getattr(self, name) is None)}
        given = self.select(self.model_fields_set - unset)
        return type(self).model_validate(given | {"steps": steps})
