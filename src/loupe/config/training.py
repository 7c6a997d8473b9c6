"""Settings of `train`. `build_train_class` combines the class of a network with the class of an optimizer."""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, model_validator

from loupe.config.base import DatasetSettings, Settings, SettingsError
from loupe.config.fields import (
    Count,
    Devices,
    Hidden,
    Norm,
    Number,
    Patch,
    Scale,
    Seconds,
    Text,
    field,
    format_value,
    get_block_sides,
    quote_value,
)

UPSCALING_SCALES = (Fraction(3, 2), Fraction(2), Fraction(3))
TRAINED_SCALES = (Fraction(1), *UPSCALING_SCALES)
CROP_BLOCKS = 32  # blocks per side of a training input; with fewer blocks, mirrored borders distort the training
DEFAULT_PATCHES = {Fraction(1): "10:10", Fraction(3, 2): "10:15", Fraction(2): "8:16", Fraction(3): "6:18"}


Recompose = Literal["concatenate", "gaussian"]
RECOMPOSE = (
    "how the patches of a result are combined into an image. concatenate: the patches are next to each other (2016 "
    "study); gaussian: the patches overlap and are averaged with Gaussian weights"
)
DATASET = "name or folder of a prepared dataset, or a source of photos, which Loupe prepares with default settings"
THREADS = "CPU threads for training; 0: one per core"


def _make_step_default(share: Callable[[int], float]) -> Callable[[dict[str, Any]], int | None]:
    """Return a function that computes a default from `steps`; the default is None if `seconds` replaces `steps`."""
    return lambda data: None if data.get("seconds") is not None else max(1, round(share(data.get("steps", 0))))


class Train(DatasetSettings):
    """Train one network on a dataset."""

    STEP = "train"
    dataset: str = field("sample", DATASET)
    network: str = field(
        "convolutional",
        "the network to train; the section `--network NAME` lists the fields of this network",
        rule="convolutional, perceptron, ridge",
    )
    scale: Scale = field(
        Fraction(3, 2), "scale factor; with 1:1, the network restores degraded inputs", rule="1:1, 3:2, 2:1 or 3:1"
    )
    limit: Count = field(
        None,
        "maximum number of training photos; the photos with the smallest content hashes are used; none: all photos",
        rule="none or >= 1",
    )
    threads: int = field(0, THREADS, ge=0, le=1024)
    resume: Text = field(
        None, "id of an interrupted run, which continues from its last checkpoint", rule="none or a run id"
    )

    @model_validator(mode="after")
    def _validate_scale(self) -> "Train":
        if self.scale not in TRAINED_SCALES:
            raise ValueError(f"scale: must be 1:1, 3:2, 2:1 or 3:1, got {format_value(self.scale)}")
        return self


class GradientTrain(Train):
    """Settings of a network that is trained by gradient descent."""

    skip: Literal["none", "ridge"] = field(
        "none", "ridge: add a trainable linear branch, whose initial weights are the weights of ridge regression"
    )
    start: Text = field(
        None,
        "network to copy initial weights from; a layer gets the weights of the layer at the same position if the "
        "weights of both layers have the same shapes",
        rule="none, champion, a registry URI, a run URI, or a .keras file",
    )
    pre_upscale: Literal["none", "bicubic", "lanczos", "nearest"] = field(
        "none", "filter that upscales the input before the first layer; the network then does not change the size"
    )
    crops: Literal["aligned", "any"] = field(
        "aligned",
        "positions where training inputs are cut. aligned: only positions that correspond to whole pixels of the "
        "label. any: all positions (2016 study); with scale 3:2, an odd position corresponds to a half pixel of the "
        "label, and rounding shifts the cut label by half a pixel relative to the input",
    )
    activation: Literal["tanh", "sigmoid", "relu"] = field("tanh", "activation of the hidden layers")
    initializer: Literal["xavier", "gaussian", "glorot_uniform", "he_normal"] = field(
        "xavier",
        "distribution of the initial weights. xavier (2016 study): truncated normal with standard deviation "
        "sqrt(6) / (sqrt(inputs) + sqrt(outputs))",
    )
    stddev: float = field(0.1, "standard deviation of the initial weights with initializer=gaussian", gt=0, le=10)
    bias_initializer: Literal["zeros", "as_weights"] = field(
        "zeros", "initial biases. as_weights: from the same distribution as the weights (2016 study)"
    )
    optimizer: str = field(
        "adam",
        "the optimizer; the section `--optimizer NAME` lists the fields of this optimizer",
        rule="a name below",
    )
    learning_rate: float = field(1e-3, "learning rate of the first step", gt=0, le=100)
    schedule: Literal["constant", "exponential", "cosine"] = field(
        "cosine", "how the learning rate changes during the training"
    )
    clip_norm: Norm = field(
        None,
        "largest norm of the gradient; a larger gradient is scaled down to this norm; none: no limit",
        rule="none or > 0",
    )
    loss: Literal["mse", "mae"] = field("mae", "error that the optimizer minimises")
    batch_size: int = field(8, "crops (convolutional) or patches (perceptron) per step", ge=1, le=65536)
    steps: int = field(3500, "number of training steps", ge=1, le=100_000_000)
    decay_rate: float = field(
        0.96,
        "with schedule=exponential, the learning rate is multiplied by this factor every `decay_steps` steps",
        gt=0,
        le=1,
    )
    seconds: Seconds = field(
        None,
        "training budget in CPU seconds instead of `steps`; the number of steps is computed from the measured "
        "duration of some steps at the start",
        rule="none or > 0",
    )
    decay_steps: Count = field(
        _make_step_default(lambda steps: 0.015 * steps),
        "with schedule=exponential, number of steps until the learning rate is multiplied by `decay_rate`; default "
        "1.5 % of `steps` (2016 study)",
        rule=">= 1",
    )
    eval_every: Count = field(
        _make_step_default(lambda steps: steps // 16),
        "number of steps between two points of the learning curve; default a 16th of `steps`",
        rule=">= 1",
    )
    eval_images: int = field(
        256, "maximum number of validation images that each point of the learning curve uses", ge=1, le=10**9
    )
    patience: int = field(
        0,
        "stop after this many points of the learning curve without a lower validation mae; 0: never stop early",
        ge=0,
        le=10**9,
    )
    devices: Devices = field(
        1, "number of local accelerators that share each batch (JAX backend)", rule="all, or 1 to 1024"
    )
    augment: bool = field(True, "flip and rotate training images at random")
    DEPENDS = {
        "stddev": {"initializer": "gaussian"},
        "decay_rate": {"schedule": "exponential"},
        "decay_steps": {"schedule": "exponential"},
        "steps": {"seconds": None},
    }
    SMOKE = {"steps": 12}

    @model_validator(mode="after")
    def _validate_steps(self) -> "GradientTrain":
        for name in ("decay_steps", "eval_every"):
            if self.seconds is None and getattr(self, name) is None:
                raise ValueError(f"{name}: must be >= 1, got none")
        return self

    @model_validator(mode="after")
    def _validate_pre_upscale(self) -> "GradientTrain":
        if self.pre_upscale != "none" and self.scale == 1:
            raise ValueError(f"pre_upscale: must be none at scale 1:1, got {self.pre_upscale}")
        return self

    def with_steps(self, steps: int) -> "GradientTrain":
        """Return these settings with `steps` instead of `seconds`, and with the defaults that depend on `steps`."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"seconds"}}
        return type(self).model_validate(given | {"steps": steps})


class Convolutional(GradientTrain):
    """A convolutional network with a wide receptive field, which treats each block of q×q pixels as one position."""

    network: Literal["convolutional"] = field("convolutional", "the network to train")
    filters: int = field(32, "number of channels between the residual layers", ge=1, le=1024)
    layers: int = field(
        3, "number of residual layers; each is a 3x3 convolution, the activation and a 1x1 convolution", ge=0, le=64
    )
    expansion: int = field(2, "channels inside a residual layer, as a multiple of `filters`", ge=1, le=16)
    crop: Annotated[int, Field(ge=8, le=512)] = field(
        lambda data: CROP_BLOCKS * get_block_sides(data.get("scale", Fraction(3, 2)))[0],
        "side of a training input in pixels; default 64 for scales 1:1 and 3:2, 32 for 2:1 and 3:1",
        rule="a multiple of 2 for scales 1:1 and 3:2",
    )
    condition: Literal["none", "jpeg"] = field(
        "none",
        "second channel of the input. jpeg: the strength of the JPEG artefacts, so that the network adapts to the "
        "strength. Loupe computes the strength from the JPEG quality that the dataset contains for each input",
    )
    precision: Literal["float32", "bfloat16"] = field(
        "float32",
        "number format of training; bfloat16 is faster with many filters on processors that support bfloat16",
    )
    DEFAULTS = {"skip": "ridge", "activation": "relu", "initializer": "glorot_uniform", "learning_rate": 2e-3}
    SMOKE = {"filters": 8, "layers": 1, "crop": 16}

    @model_validator(mode="after")
    def _validate_crop(self) -> "Convolutional":
        if self.crop % get_block_sides(self.scale)[0]:
            raise ValueError(f"crop: must be a multiple of 2 at scale {format_value(self.scale)}, got {self.crop}")
        return self

    @model_validator(mode="after")
    def _validate_condition(self) -> "Convolutional":
        if self.condition != "none" and self.pre_upscale != "none":
            raise ValueError(f"condition: must be none with pre_upscale={self.pre_upscale}, got {self.condition}")
        return self


class Perceptron(GradientTrain):
    """The networks of the 2016 study: dense layers that map a patch of the input to a patch of the label."""

    network: Literal["perceptron"] = field("perceptron", "the network to train")
    patch: Patch = field(
        lambda data: DEFAULT_PATCHES.get(data.get("scale", Fraction(3, 2)), "whole"),
        "sides of the input and label patches in pixels; whole: the whole input; default 10:10 for scale 1:1, "
        "10:15 for 3:2, 8:16 for 2:1, 6:18 for 3:1",
        rule="input side:label side in the ratio of the scale, or whole",
    )
    hidden: Hidden = field((2048, 1024), "widths of the hidden layers", rule="widths, comma-separated, or none")
    mirror: bool = field(
        True,
        "append the hidden layers except the last in reverse order, as the code of the 2016 study does: 2048,1024 "
        "becomes 2048,1024,2048",
    )
    entry_convolutions: Annotated[Literal[0, 2], Number] = field(
        0, "number of convolutions before the dense layers (proposed by the 2016 study)"
    )
    output_activation: Literal["linear", "same"] = field(
        "linear", "activation of the last layer. same: the activation of the hidden layers (2016 study)"
    )
    keep_prob: float = field(1.0, "probability that dropout keeps a unit (2016 study: 1.0, 0.9, 0.5)", gt=0, le=1)
    dropout_layers: Literal["all", "first"] = field("all", "hidden layers with dropout (2016 study: first)")
    recompose: Recompose = field(
        "concatenate",
        RECOMPOSE,
    )
    DEFAULTS = {"batch_size": 256, "steps": 800, "learning_rate": 3e-4}
    SMOKE = {"hidden": "32,16", "batch_size": 32}

    @model_validator(mode="after")
    def _validate_patch(self) -> "Perceptron":
        if self.patch != "whole":
            q, p = map(int, self.patch.split(":"))
            if Fraction(p, q) != self.scale:
                raise ValueError(f"patch: must be q:p of the scale {format_value(self.scale)}, got {self.patch}")
        return self

    @model_validator(mode="after")
    def _validate_initial_weights(self) -> "Perceptron":
        """Refuse skip=ridge with sigmoid or ReLU as the last activation.

        With skip=ridge, the weights of the last layer are initially 0. The result of this layer is added to the
        result of ridge. Sigmoid is not 0 at 0: the untrained network would differ from ridge. ReLU has no gradient
        at 0: the last layer would not train.
        """
        if self.skip == "ridge" and self.output_activation == "same" and self.activation != "tanh":
            raise ValueError(
                f"output_activation: must be linear with skip=ridge and activation={self.activation}, got same"
            )
        return self


class Ridge(Train):
    """Ridge regression, which has a closed-form solution."""

    network: Literal["ridge"] = field("ridge", "the network to train")
    alpha: float = field(0.01, "weight of the L2 penalty, as in scikit-learn's Ridge", ge=0, le=1e6)


class Optimizer(Settings):
    """The fields that an optimizer adds to the settings of a network: arguments of the Keras class KERAS."""

    KERAS: ClassVar[str] = ""


class Sgd(Optimizer):
    """Stochastic gradient descent."""

    KERAS = "keras.optimizers.SGD"
    momentum: float = field(0.0, "fraction of the previous weight update that the next update adds", ge=0, lt=1)
    DEFAULTS = {"learning_rate": 0.1}


class Adadelta(Optimizer):
    """AdaDelta."""

    KERAS = "keras.optimizers.Adadelta"
    rho: float = field(0.95, "decay rate of the mean of squared gradients", ge=0, lt=1)
    epsilon: float = field(1e-8, "constant that is added to the denominator for numerical stability", gt=0, le=1)
    DEFAULTS = {"learning_rate": 1.0}


class Rmsprop(Optimizer):
    """RMSProp, by default with the study's values."""

    KERAS = "keras.optimizers.RMSprop"
    rho: float = field(0.9, "decay rate of the mean of squared gradients", ge=0, lt=1)
    momentum: float = field(0.0, "fraction of the previous weight update that the next update adds", ge=0, lt=1)
    epsilon: float = field(1e-10, "constant that is added to the denominator for numerical stability", gt=0, le=1)
    DEFAULTS = {"learning_rate": 3e-4}


class Adam(Optimizer):
    """Adam."""

    KERAS = "keras.optimizers.Adam"
    beta_1: float = field(0.9, "decay rate of the mean of gradients", ge=0, lt=1)
    beta_2: float = field(0.999, "decay rate of the mean of squared gradients", ge=0, lt=1)
    epsilon: float = field(1e-7, "constant that is added to the denominator for numerical stability", gt=0, le=1)


class Adamw(Adam):
    """Adam with decoupled weight decay."""

    KERAS = "keras.optimizers.AdamW"
    weight_decay: float = field(0.004, "weight decay per step, relative to the learning rate", ge=0, lt=1)


NETWORKS: dict[str, type[Train]] = {"convolutional": Convolutional, "perceptron": Perceptron, "ridge": Ridge}
OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Sgd, "adadelta": Adadelta, "rmsprop": Rmsprop, "adam": Adam, "adamw": Adamw,
}  # fmt: skip


@cache
def build_train_class(network: str, optimizer: str | None = None) -> type[Train]:
    """Return the settings class of `train` for a network and an optimizer.

    Args:
        network: a key of NETWORKS.
        optimizer: a key of OPTIMIZERS; None means the network's default. Ridge regression ignores this argument.

    Raises:
        SettingsError: a name is unknown.
    """
    network_class = _look_up("network", network, NETWORKS)
    if not issubclass(network_class, GradientTrain):
        return network_class
    optimizer = optimizer or network_class.model_fields["optimizer"].default
    optimizer_class = _look_up("optimizer", optimizer, OPTIMIZERS)
    return create_model(
        f"{network_class.__name__}With{optimizer_class.__name__}",
        __base__=(optimizer_class, network_class),
        __doc__=network_class.__doc__,
        optimizer=(Literal[optimizer], field(optimizer, "the optimizer")),  # type: ignore[arg-type]
    )


def find_field_owners(name: str) -> list[str]:
    """Return the networks and optimizers that have a field of this name, such as `network=perceptron`."""
    owners = []
    for kind, table in (("network", NETWORKS), ("optimizer", OPTIMIZERS)):
        owners += [f"{kind}={key}" for key, settings in table.items() if name in settings.model_fields]
    return owners


def _look_up(kind: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise SettingsError(f"{kind}: must be one of {', '.join(table)}, got {quote_value(name)}")
    return table[name]
