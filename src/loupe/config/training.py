"""What `train` can fit: a union of networks and, where they are trained by steps, of optimizers."""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, model_validator

from loupe.config.base import DatasetSettings, Settings, SettingsError
from loupe.config.fields import Count, Hidden, Number, Patch, Scale, Seconds, Text, field, format_value, quote_value

TRAINED_SCALES = (Fraction(3, 2), Fraction(2), Fraction(3))
CROP_BLOCKS = 32  # of a training input, a side: fewer would see too much of a mirrored border
DEFAULT_PATCHES = {Fraction(3, 2): "10:15", Fraction(2): "8:16", Fraction(3): "6:18"}


Recompose = Literal["concatenate", "gaussian"]


def _of_steps(share: Callable[[int], float]) -> Callable[[dict[str, Any]], int | None]:
    """A default that follows from `steps`; None where `seconds` will tell how many there are."""
    return lambda data: None if data.get("seconds") is not None else max(1, round(share(data.get("steps", 0))))


class Train(DatasetSettings):
    """Fit one network; the fields of a network stand under its name."""

    STEP = "train"
    dataset: str = field("sample", "a prepared folder, or a source that is prepared with defaults")
    network: str = field("convolutional", "what is trained", rule="convolutional, perceptron, ridge")
    scale: Scale = field(Fraction(3, 2), "label side over input side", rule="3:2, 2:1 or 3:1")
    limit: Count = field(
        None, "train on only so many photos, those of the smallest content hashes", rule="none or >= 1"
    )
    threads: int = field(0, "cores that train; 0 is all", ge=0, le=1024)
    resume: Text = field(None, "id of a killed run to continue from its checkpoint", rule="none or a run id")

    @model_validator(mode="after")
    def _known_scale(self) -> "Train":
        if self.scale not in TRAINED_SCALES:
            raise ValueError(f"scale: must be 3:2, 2:1 or 3:1, got {format_value(self.scale)}")
        return self


class GradientTrain(Train):
    """A network that is trained by steps of an optimizer."""

    skip: Literal["none", "ridge"] = field("none", "ridge: a trainable linear branch that starts as the ridge")
    start: Text = field(
        None,
        "begin with this network's weights, layer by layer where the shapes agree",
        rule="none, or a registry or run URI or a file",
    )
    pre_upscale: Literal["none", "bicubic", "lanczos", "nearest"] = field(
        "none", "upscale by this filter inside the graph first; the network then works at scale 1"
    )
    crops: Literal["aligned", "any"] = field(
        "aligned", "offsets on whole label pixels; any: the study's, half a pixel off for odd ones at 3:2"
    )
    activation: Literal["tanh", "sigmoid", "relu"] = field("tanh", "of the hidden layers")
    initializer: Literal["xavier", "gaussian", "glorot_uniform", "he_normal"] = field(
        "xavier", "of the weights; xavier is the study's: stddev sqrt(6) / (sqrt(in) + sqrt(out))"
    )
    stddev: float = field(0.1, "of initializer=gaussian", gt=0, le=10)
    bias_initializer: Literal["zeros", "as_weights"] = field("zeros", "as_weights is the study's")
    optimizer: str = field("adam", "its own fields stand under its name", rule="a name below")
    learning_rate: float = field(1e-3, "at the first step", gt=0, le=100)
    schedule: Literal["constant", "exponential", "cosine"] = field("cosine", "of the learning rate")
    loss: Literal["mse", "mae"] = field("mae", "that the optimizer lowers")
    batch_size: int = field(8, "training images a step: crops, or patches", ge=1, le=65536)
    steps: int = field(3500, "of the optimizer", ge=1, le=100_000_000)
    decay_rate: float = field(0.96, "factor of schedule=exponential, every decay_steps", gt=0, le=1)
    seconds: Seconds = field(
        None,
        "train for as many steps as fit into so many seconds of one core, measured at the start, not for `steps`",
        rule="none or > 0",
    )
    decay_steps: Count = field(
        _of_steps(lambda steps: 0.015 * steps), "1.5 % of the steps, as in the study", rule=">= 1"
    )
    eval_every: Count = field(
        _of_steps(lambda steps: steps // 16), "steps between points of the curves; a 16th", rule=">= 1"
    )
    eval_images: int = field(256, "validation images at most at each point of the curves", ge=1, le=10**9)
    patience: int = field(0, "stop after so many points without a lower validation mae; 0 never", ge=0, le=10**9)
    augment: bool = field(True, "flips and quarter turns")
    DEPENDS = {
        "stddev": {"initializer": "gaussian"},
        "decay_rate": {"schedule": "exponential"},
        "decay_steps": {"schedule": "exponential"},
        "steps": {"seconds": None},
    }
    SMOKE = {"steps": 12}

    @model_validator(mode="after")
    def _steps_are_known(self) -> "GradientTrain":
        for name in ("decay_steps", "eval_every"):
            if self.seconds is None and getattr(self, name) is None:
                raise ValueError(f"{name}: must be >= 1, got none")
        return self

    def with_steps(self, steps: int) -> "GradientTrain":
        """The same with `seconds` replaced by so many steps, and what follows from them."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"seconds"}}
        return type(self).model_validate(given | {"steps": steps})


class Convolutional(GradientTrain):
    """Convolutions between fold and unfold: small blocks, a wide view."""

    network: Literal["convolutional"] = field("convolutional", "this network")
    filters: int = field(32, "channels between residual layers", ge=1, le=1024)
    layers: int = field(3, "residual layers: 3x3 to more channels, activation, 1x1 back", ge=0, le=64)
    expansion: int = field(2, "channels inside a residual layer, in filters", ge=1, le=16)
    crop: Annotated[int, Field(ge=8, le=512)] = field(
        lambda data: CROP_BLOCKS * data.get("scale", Fraction(3, 2)).denominator,
        "side of a training input, in pixels; 64 at 3:2, 32 at 2:1 and 3:1",
        rule="8..512, a multiple of 2 at 3:2",
    )
    precision: Literal["float32", "bfloat16"] = field(
        "float32", "that training computes in; bfloat16 is faster for many filters where the processor has it"
    )
    DEFAULTS = {"skip": "ridge", "activation": "relu", "initializer": "glorot_uniform", "learning_rate": 2e-3}
    SMOKE = {"filters": 8, "layers": 1, "crop": 16}

    @model_validator(mode="after")
    def _crop_is_whole_blocks(self) -> "Convolutional":
        if self.crop % self.scale.denominator:
            raise ValueError(f"crop: must be a multiple of 2 at scale 3:2, got {self.crop}")
        return self


class Perceptron(GradientTrain):
    """The study's networks: dense layers from a patch of the input to its patch of the label."""

    network: Literal["perceptron"] = field("perceptron", "this network")
    patch: Patch = field(
        lambda data: DEFAULT_PATCHES.get(data.get("scale", Fraction(3, 2)), "whole"),
        "input side:label side",
        rule="q:p of the scale, or whole; 10:15 at 3:2, 8:16 at 2:1, 6:18 at 3:1",
    )
    hidden: Hidden = field((2048, 1024), "widths of the hidden layers", rule="widths, comma-separated, or none")
    mirror: bool = field(True, "widen again, 2048,1024,2048, as the study's code did")
    entry_convolutions: Annotated[Literal[0, 2], Number] = field(
        0, "convolutions in front of the dense layers, the study's wish"
    )
    output_activation: Literal["linear", "same"] = field("linear", "same: that of the hidden layers (the study)")
    keep_prob: float = field(1.0, "share of units that dropout keeps (the study: 1.0, 0.9, 0.5)", gt=0, le=1)
    dropout_layers: Literal["all", "first"] = field("all", "hidden layers that have dropout; first is the study's")
    recompose: Recompose = field(
        "concatenate", "how the trained network is scored: patches side by side (the study), or overlapping"
    )
    DEFAULTS = {"batch_size": 256, "steps": 800, "learning_rate": 3e-4}
    SMOKE = {"hidden": "32,16", "batch_size": 32}

    @model_validator(mode="after")
    def _patch_is_of_the_scale(self) -> "Perceptron":
        if self.patch != "whole":
            q, p = map(int, self.patch.split(":"))
            if Fraction(p, q) != self.scale:
                raise ValueError(f"patch: must be q:p of the scale {format_value(self.scale)}, got {self.patch}")
        return self

    @model_validator(mode="after")
    def _can_start_at_the_ridge(self) -> "Perceptron":
        """Weights of 0 must give 0 with a gradient: sigmoid gives 1/2, and ReLU has no gradient there."""
        if self.skip == "ridge" and self.output_activation == "same" and self.activation != "tanh":
            raise ValueError(
                f"output_activation: must be linear with skip=ridge and activation={self.activation}, got same"
            )
        return self


class Ridge(Train):
    """Linear regression in closed form."""

    network: Literal["ridge"] = field("ridge", "this network")
    alpha: float = field(0.01, "weight of the squared coefficients", ge=0, le=1e6)


class Optimizer(Settings):
    """What an optimizer adds to the settings of a trained network; every field goes to the Keras class."""

    KERAS: ClassVar[str] = ""


class Sgd(Optimizer):
    """Stochastic gradient descent."""

    KERAS = "keras.optimizers.SGD"
    momentum: float = field(0.0, "share of the last step that goes into the next", ge=0, lt=1)
    DEFAULTS = {"learning_rate": 0.1}


class Adadelta(Optimizer):
    """AdaDelta."""

    KERAS = "keras.optimizers.Adadelta"
    rho: float = field(0.95, "decay of the squared gradients' average", ge=0, lt=1)
    epsilon: float = field(1e-8, "added to the denominator", gt=0, le=1)
    DEFAULTS = {"learning_rate": 1.0}


class Rmsprop(Optimizer):
    """RMSProp, with the study's values."""

    KERAS = "keras.optimizers.RMSprop"
    rho: float = field(0.9, "decay of the squared gradients' average", ge=0, lt=1)
    momentum: float = field(0.0, "share of the last step that goes into the next", ge=0, lt=1)
    epsilon: float = field(1e-10, "added to the denominator", gt=0, le=1)
    DEFAULTS = {"learning_rate": 3e-4}


class Adam(Optimizer):
    """Adam."""

    KERAS = "keras.optimizers.Adam"
    beta_1: float = field(0.9, "decay of the gradients' average", ge=0, lt=1)
    beta_2: float = field(0.999, "decay of the squared gradients' average", ge=0, lt=1)
    epsilon: float = field(1e-7, "added to the denominator", gt=0, le=1)


class Adamw(Adam):
    """Adam with decoupled weight decay."""

    KERAS = "keras.optimizers.AdamW"
    weight_decay: float = field(0.004, "share of the weights that goes at each step", ge=0, lt=1)


NETWORKS: dict[str, type[Train]] = {"convolutional": Convolutional, "perceptron": Perceptron, "ridge": Ridge}
OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Sgd, "adadelta": Adadelta, "rmsprop": Rmsprop, "adam": Adam, "adamw": Adamw,
}  # fmt: skip


@cache
def build_train_class(network: str, optimizer: str | None = None) -> type[Train]:
    """The settings class of `train` for one network and, where it is trained by steps, one optimizer.

    Raises:
        SettingsError: one of the names is unknown.
    """
    chosen = _named("network", network, NETWORKS)
    if not issubclass(chosen, GradientTrain):
        return chosen
    optimizer = optimizer or chosen.model_fields["optimizer"].default
    added = _named("optimizer", optimizer, OPTIMIZERS)
    return create_model(
        f"{chosen.__name__}With{added.__name__}",
        __base__=(added, chosen),
        __doc__=chosen.__doc__,
        optimizer=(Literal[optimizer], field(optimizer, "this optimizer")),  # type: ignore[arg-type]
    )


def owners(name: str) -> list[str]:
    """The networks and optimizers of `train` that have a field of this name, as `network=perceptron`."""
    found = []
    for kind, table in (("network", NETWORKS), ("optimizer", OPTIMIZERS)):
        found += [f"{kind}={key}" for key, settings in table.items() if name in settings.model_fields]
    return found


def _named(kind: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise SettingsError(f"{kind}: must be one of {', '.join(table)}, got {quote_value(name)}")
    return table[name]
