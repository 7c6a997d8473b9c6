"""The networks and their settings. `build_train_class` combines a network with an optimizer."""

import re
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model, model_validator

from loupe.config.base import SettingsError
from loupe.config.fields import Hidden, Patch, field, format_value, get_block_sides, quote_value
from loupe.config.optimizers import OPTIMIZERS
from loupe.config.training import RECOMPOSE, GradientTrain, Recompose, Train

# Default number of blocks (q x q input pixels) per side of a training crop. The network extends a crop by mirroring
# the pixels at its border. In smaller crops, the mirrored pixels affect a larger share of the result.
CROP_BLOCKS = 32
DEFAULT_PATCHES = {Fraction(p, q): f"{q}:{p}" for q, p in ((10, 10), (10, 15), (8, 16), (6, 18), (5, 20))}

PATCH_DEFAULTS = ", ".join(f"{patch} at scale {format_value(scale)}" for scale, patch in DEFAULT_PATCHES.items())


def _parse_digit(value: Any) -> Any:
    """Convert the text of a digit to a number; return other values unchanged."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*[0-9]\s*", value) else value


class Convolutional(GradientTrain):
    """A convolutional network that maps q x q blocks of the input to p x p blocks; the scale factor is p/q."""

    MODULE = "loupe.models.convolutional"
    NAME_FIELDS = ("scale", "filters", "layers", "optimizer")
    USES_XLA = False  # TensorFlow's own convolutions (oneDNN) are faster
    network: Literal["convolutional"] = field("convolutional", "the network to train")
    filters: int = field(32, "number of channels between residual layers", ge=1, le=1024)
    layers: int = field(3, "number of residual layers", ge=0, le=64)
    expansion: int = field(2, "number of channels inside a residual layer, as a multiple of `filters`", ge=1, le=16)
    crop_size: Annotated[int, Field(ge=8, le=512)] = field(
        lambda data: CROP_BLOCKS * get_block_sides(data.get("scale", Fraction(3, 2)))[0],
        "side of a training crop in input pixels",
        rule="an even number at scales 1:1 and 3:2; default 64 at scales 1:1 and 3:2, else 32",
    )
    condition: Literal["none", "jpeg"] = field(
        "none", "second channel of the input; jpeg: the strength of the JPEG artefacts"
    )
    DEFAULTS = {"skip": "ridge", "activation": "relu", "initializer": "glorot_uniform", "learning_rate": 2e-3}
    SMOKE = {"filters": 8, "layers": 1, "crop_size": 16}

    @model_validator(mode="after")
    def _validate_crop_size(self) -> "Convolutional":
        if self.crop_size % get_block_sides(self.scale)[0]:
            raise ValueError(
                f"crop_size: must be a multiple of 2 at scale {format_value(self.scale)}, got {self.crop_size}"
            )
        return self

    @model_validator(mode="after")
    def _validate_condition(self) -> "Convolutional":
        if self.condition != "none" and self.pre_upscale != "none":
            raise ValueError(f"condition: must be none with pre_upscale={self.pre_upscale}, got {self.condition}")
        return self

    @property
    def crop_side(self) -> int:
        """See `Train`."""
        return self.crop_size


class Perceptron(GradientTrain):
    """The networks of the 2016 study: dense layers that map a patch of the input to a patch of the label."""

    MODULE = "loupe.models.perceptron"
    NAME_FIELDS = ("patch", "hidden", "activation", "optimizer")
    network: Literal["perceptron"] = field("perceptron", "the network to train")
    patch: Patch = field(
        lambda data: DEFAULT_PATCHES.get(data.get("scale", Fraction(3, 2)), "whole"),
        "sides of the input patch and the label patch in pixels; whole: the whole image",
        rule=f"input:label or whole; default {PATCH_DEFAULTS}",
    )
    hidden: Hidden = field(
        (2048, 1024), "number of units of each hidden layer", rule="widths, comma-separated, or none"
    )
    mirror: bool = field(
        True, "append all but the last hidden layer in reverse order: 2048,1024 becomes 2048,1024,2048"
    )
    entry_convolutions: Annotated[Literal[0, 2], BeforeValidator(_parse_digit)] = field(
        0, "number of convolutions before the dense layers"
    )
    output_activation: Literal["linear", "same"] = field(
        "linear", "activation of the last layer; same: the activation of the hidden layers"
    )
    keep_prob: float = field(1.0, "probability that dropout keeps a unit; 1: no dropout", gt=0, le=1)
    dropout_layers: Literal["all", "first"] = field("all", "hidden layers with dropout")
    recompose: Recompose = field("concatenate", RECOMPOSE)
    DEFAULTS = {"batch_size": 256, "steps": 800, "learning_rate": 3e-4}
    SMOKE = {"hidden": "32,16", "batch_size": 32}

    @model_validator(mode="after")
    def _validate_patch(self) -> "Perceptron":
        if self.patch != "whole":
            input_side, label_side = map(int, self.patch.split(":"))
            if Fraction(label_side, input_side) != self.scale:
                rule = f"input side:label side with the ratio of scale {format_value(self.scale)}"
                raise ValueError(f"patch: must be {rule}, such as {DEFAULT_PATCHES[self.scale]}, got {self.patch}")
        return self

    @property
    def crop_side(self) -> int:
        """See `Train`."""
        return 0 if self.patch == "whole" else int(self.patch.split(":")[0])

    @model_validator(mode="after")
    def _validate_output_activation(self) -> "Perceptron":
        """Refuse skip=ridge with sigmoid or ReLU as the last activation.

        With skip=ridge, the weights of the last layer are initially 0, and the result of this layer is added to the
        result of ridge. Sigmoid of 0 is not 0: the untrained network would differ from ridge. ReLU has no gradient
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


NETWORKS: dict[str, type[Train]] = {"convolutional": Convolutional, "perceptron": Perceptron, "ridge": Ridge}


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
    """Return the networks and optimizers with a field of this name, each as a text such as `network=perceptron`."""
    owners = []
    for kind, table in (("network", NETWORKS), ("optimizer", OPTIMIZERS)):
        owners += [f"{kind}={key}" for key, settings in table.items() if name in settings.model_fields]
    return owners


def _look_up(kind: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise SettingsError(f"{kind}: must be one of {', '.join(table)}, got {quote_value(name)}")
    return table[name]
