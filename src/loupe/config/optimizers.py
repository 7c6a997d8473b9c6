"""The optimizers and their settings."""

from typing import ClassVar

from loupe.config.base import Settings
from loupe.config.fields import field


class Optimizer(Settings):
    """The fields that an optimizer adds to the settings: the arguments of the Keras class with the path KERAS."""

    KERAS: ClassVar[str] = ""


class Sgd(Optimizer):
    """Stochastic gradient descent."""

    KERAS = "keras.optimizers.SGD"
    momentum: float = field(0.0, "share of the previous update in the next update", ge=0, lt=1)
    DEFAULTS = {"learning_rate": 0.1}


class Adadelta(Optimizer):
    """AdaDelta."""

    KERAS = "keras.optimizers.Adadelta"
    rho: float = field(0.95, "decay rate of the mean of squared gradients", ge=0, lt=1)
    epsilon: float = field(1e-8, "small constant in the denominator", gt=0, le=1)
    DEFAULTS = {"learning_rate": 1.0}


class Rmsprop(Optimizer):
    """RMSProp. The defaults, except `learning_rate`, are the values of the 2016 study."""

    KERAS = "keras.optimizers.RMSprop"
    rho: float = field(0.9, "decay rate of the mean of squared gradients", ge=0, lt=1)
    momentum: float = field(0.0, "share of the previous update in the next update", ge=0, lt=1)
    epsilon: float = field(1e-10, "small constant in the denominator", gt=0, le=1)
    DEFAULTS = {"learning_rate": 3e-4}


class Adam(Optimizer):
    """Adam."""

    KERAS = "keras.optimizers.Adam"
    beta_1: float = field(0.9, "decay rate of the mean of gradients", ge=0, lt=1)
    beta_2: float = field(0.999, "decay rate of the mean of squared gradients", ge=0, lt=1)
    epsilon: float = field(1e-7, "small constant in the denominator", gt=0, le=1)


class Adamw(Adam):
    """Adam with decoupled weight decay."""

    KERAS = "keras.optimizers.AdamW"
    weight_decay: float = field(
        0.004, "each step multiplies the weights by 1 - learning_rate * weight_decay", ge=0, lt=1
    )


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Sgd, "adadelta": Adadelta, "rmsprop": Rmsprop, "adam": Adam, "adamw": Adamw,
}  # fmt: skip
