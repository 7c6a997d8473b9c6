"""Frozen settings of each step: a field's name, default, range and meaning stand here and nowhere else.

Flags, MLflow params, MLproject and sweep files follow from these classes or are tested against them.
`train` is a union: its class is put together from one network and, where the network is trained by
steps, one optimizer (`train_class`), so that a field of another network or optimizer is refused.
"""

from copy import copy
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator

from loupe.errors import UsageError
from loupe.fields import (
    Categories,
    Count,
    Hidden,
    Number,
    Patch,
    Quality,
    Scale,
    Scales,
    Sources,
    Text,
    Unset,
    field,
    is_true,
    text_of,
)

Luminance = Literal["rec601", "rec709", "relative"]
Crop = Literal["centre", "fit", "tiles", "random"]
Filter = Literal["lanczos", "bicubic", "box"]
TRAINED_SCALES = (Fraction(3, 2), Fraction(2), Fraction(3))
DEFAULT_PATCHES = {Fraction(3, 2): "10:15", Fraction(2): "8:16", Fraction(3): "6:18"}


class SettingsError(UsageError):
    """A setting is unknown, out of range or at odds with another; its text is one line for the user."""


class Settings(BaseModel):
    """What every step takes. Subclasses change defaults by DEFAULTS, and name their `smoke` sizes in SMOKE."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    STEP: ClassVar[str] = ""
    DEFAULTS: ClassVar[dict[str, Any]] = {}
    SMOKE: ClassVar[dict[str, Any]] = {}
    # field -> (the field that it depends on, the value under which it means something)
    DEPENDS: ClassVar[dict[str, tuple[str, Any]]] = {}

    smoke: bool = field(False, "shrink the step to seconds, to see that it works; fields given stay as given")
    quiet: bool = field(False, "print nothing but errors")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        changed: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            changed |= vars(base).get("DEFAULTS", {})
        for name in changed.keys() & cls.model_fields.keys():
            cls.model_fields[name] = copy(cls.model_fields[name])
            cls.model_fields[name].default = changed[name]
        cls.model_rebuild(force=True)

    @model_validator(mode="before")
    @classmethod
    def _shrink(cls, given: dict[str, Any]) -> dict[str, Any]:
        if is_true(given.get("smoke", False)):
            sizes: dict[str, Any] = {}
            for base in reversed(cls.__mro__):
                sizes |= vars(base).get("SMOKE", {})
            return {name: value for name, value in sizes.items() if name in cls.model_fields} | given
        return given

    @model_validator(mode="after")
    def _refuse_without_effect(self) -> "Settings":
        for name, other in self._without_effect().items():
            if name in self.model_fields_set:
                raise ValueError(
                    f"{name}: has no effect with {other}={text_of(getattr(self, other))}, "
                    f"got {text_of(getattr(self, name))}"
                )
        return self

    def _without_effect(self) -> dict[str, str]:
        depends: dict[str, tuple[str, Any]] = {}
        for base in type(self).__mro__:
            depends |= vars(base).get("DEPENDS", {})
        return {name: other for name, (other, value) in depends.items() if getattr(self, other) != value}

    def texts(self) -> dict[str, str]:
        """Each field that has an effect as its one text, as flags and MLflow params show it."""
        dropped = {"quiet", *self._without_effect()}
        return {name: text_of(value) for name, value in self if name not in dropped}


class Prepares(Settings):
    """A step that reads a prepared dataset, and prepares it first where it does not exist yet."""

    data_dir: str = field("data", "folder of the prepared datasets and downloads")
    scheduler: Text = field(
        None, "Dask scheduler, tcp://host:port; none starts one on all cores", rule="none or an address"
    )
    seed: int = field(0, "all randomness derives from it", ge=0, lt=2**31)


class Pairing(Settings):
    """How labels are cut from photos and shrunk to inputs."""

    crop: Annotated[Crop | None, Unset] = field(
        None,
        "label_size pixels from the middle (centre); shorter side to label_size first (fit); all labels that "
        "fit side by side (tiles); `crops` a photo, half of them from the photo shrunk first (random)",
        rule="centre, fit, tiles or random; tiles for sample and centre for others, where it is not given",
    )
    crops: int = field(6, "labels a photo of crop=random", ge=1, le=1000)
    label_size: int = field(150, "side of a label, in pixels", ge=6, le=4096)
    shrink: Filter = field("lanczos", "filter that makes the input from the label")
    recompress: Quality = field(
        None, "JPEG quality that labels and inputs go through (the study: 75)", rule="none or 1..95"
    )
    DEPENDS = {"crops": ("crop", "random")}


class Preprocess(Prepares, Pairing):
    """Turn sources of photos into a prepared dataset."""

    STEP = "preprocess"
    SMOKE = {"limit": 12, "label_size": 90, "crop": "centre"}
    source: Sources = field(
        ("sample",), "photos: sample, caltech256, a tar, a folder; several", rule="comma-separated"
    )
    categories: Categories = field((), "only these category folders", rule="all, or names, comma-separated")
    limit: Count = field(None, "only so many photos, those of the smallest content hashes", rule="none or >= 1")
    scales: Scales = field(
        TRAINED_SCALES, "a set of inputs for each, made from the same labels", rule="ratios such as 3:2,2:1"
    )
    luminance: Luminance = field("rec601", "how grey is made of colour; relative weighs in linear light")

    @model_validator(mode="after")
    def _sizes_divide(self) -> "Preprocess":
        for scale in self.scales:
            if self.label_size % scale.numerator:
                raise ValueError(
                    f"label_size: must be a multiple of {scale.numerator} for scale {text_of(scale)}, "
                    f"got {self.label_size}"
                )
        return self


class Train(Prepares):
    """Fit one network; the fields of a network stand under its name."""

    STEP = "train"
    dataset: str = field("sample", "a prepared folder, or a source that is prepared with defaults")
    network: str = field("convolutional", "what is trained", rule="convolutional, perceptron, ridge")
    scale: Scale = field(Fraction(3, 2), "label side over input side", rule="3:2, 2:1 or 3:1")
    threads: int = field(0, "cores that train; 0 is all", ge=0, le=1024)
    resume: Text = field(None, "id of a killed run to continue from its checkpoint", rule="none or a run id")

    @model_validator(mode="after")
    def _known_scale(self) -> "Train":
        if self.scale not in TRAINED_SCALES:
            raise ValueError(f"scale: must be 3:2, 2:1 or 3:1, got {text_of(self.scale)}")
        return self


class Trained(Train):
    """A network that is trained by steps of an optimizer."""

    skip: Literal["none", "ridge"] = field("none", "ridge: a trainable linear branch that starts as the ridge")
    pre_upscale: Literal["none", "bicubic", "lanczos", "nearest"] = field(
        "none", "enlarge by this filter inside the graph first; the network then works at scale 1"
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
    batch_size: int = field(8, "training pictures a step: crops, or patches", ge=1, le=65536)
    steps: int = field(4000, "of the optimizer", ge=1, le=100_000_000)
    decay_rate: float = field(0.96, "factor of schedule=exponential, every decay_steps", gt=0, le=1)
    decay_steps: int = field(
        lambda data: max(1, round(0.015 * data.get("steps", 0))), "1.5 % of steps, as in the study", ge=1
    )
    eval_every: int = field(
        lambda data: max(1, data.get("steps", 0) // 16), "steps between points of the curves; a 16th", ge=1
    )
    patience: int = field(0, "stop after so many points without a lower validation mae; 0 never", ge=0)
    augment: bool = field(True, "flips and quarter turns")
    DEPENDS = {
        "stddev": ("initializer", "gaussian"),
        "decay_rate": ("schedule", "exponential"),
        "decay_steps": ("schedule", "exponential"),
    }
    SMOKE = {"steps": 12}


class Convolutional(Trained):
    """Convolutions between fold and unfold: small blocks, a wide view."""

    network: Literal["convolutional"] = field("convolutional", "this network")
    filters: int = field(32, "of each hidden convolution", ge=1, le=1024)
    layers: int = field(6, "residual convolutions", ge=0, le=64)
    crop: int = field(32, "side of a training input, in pixels; a multiple of 2 at 3:2", ge=8, le=512)
    DEFAULTS = {"skip": "ridge", "activation": "relu", "initializer": "glorot_uniform"}
    SMOKE = {"filters": 8, "layers": 1, "crop": 16}

    @model_validator(mode="after")
    def _crop_is_whole_blocks(self) -> "Convolutional":
        if self.crop % self.scale.denominator:
            raise ValueError(f"crop: must be a multiple of 2 at scale 3:2, got {self.crop}")
        return self


class Perceptron(Trained):
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
    DEFAULTS = {"batch_size": 256, "steps": 800, "learning_rate": 3e-4}
    SMOKE = {"hidden": "32,16", "batch_size": 32}

    @model_validator(mode="after")
    def _patch_is_of_the_scale(self) -> "Perceptron":
        if self.patch != "whole":
            q, p = map(int, self.patch.split(":"))
            if Fraction(p, q) != self.scale:
                raise ValueError(f"patch: must be q:p of the scale {text_of(self.scale)}, got {self.patch}")
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


class Evaluate(Prepares, Pairing):
    """Score a model and the baselines on a dataset, or on a folder of photos."""

    STEP = "evaluate"
    model: str = field(
        "champion",
        "registry URI, run URI, file, or a baseline's name; without a champion yet, ridge is scored",
    )
    scale: Scale = field(Fraction(3, 2), "of the champion or baseline", rule="3:2, 2:1 or 3:1")
    dataset: str = field("sample", "a prepared folder, or a source that is prepared with defaults")
    split: Literal["test", "validation", "train", "all"] = field("test", "photos of the dataset to score on")
    photos: Text = field(None, "score on this folder or tar instead, cut as crop says", rule="none or a path")
    luminance: Annotated[Luminance | None, Unset] = field(
        None, "of the photos", rule="rec601, rec709 or relative; the model's, where it is not given"
    )
    limit: Count = field(None, "only so many photos, those of the smallest content hashes", rule="none or >= 1")
    recompose: Literal["concatenate", "gaussian"] = field(
        "concatenate", "side by side (the study), or overlapping and weighed by a Gaussian (its wish)"
    )
    protocol: Literal["photos", "study-patches"] = field(
        "photos", "whole pictures; study-patches: one random patch a photo, 20 draws"
    )
    out: Text = field(None, "write a JSON summary to this file", rule="none or a path")
    SMOKE = {"limit": 6}

    @property
    def pairing(self) -> dict[str, Any]:
        """The fields that only photos, not a dataset, are cut by."""
        return {name: getattr(self, name) for name in Pairing.model_fields if name not in Settings.model_fields}


class Register(Prepares):
    """Make a run's model a version of its scale's registered model; it becomes champion if it wins."""

    STEP = "register"
    run: str = field("best", "a train run's id, or best: of all of the scale (but smoke ones), the lowest mae")
    scale: Scale = field(Fraction(3, 2), "whose best run, where none is named", rule="3:2, 2:1 or 3:1")


class Upscale(Prepares):
    """Enlarge a photo 1.5 times: luminance by the champion, chroma by Lanczos."""

    STEP = "upscale"
    photo: str = field("sample", "the file to enlarge; sample is a bundled photo")
    out: str = field("upscaled.png", "the file to write; its suffix is the format")
    model: str = field(
        "champion", "registry URI, .onnx file, or a baseline's name; without a champion yet, ridge enlarges"
    )


class Main(Prepares):
    """Prepare, train, compare, register, enlarge: the whole job, as nested runs under one."""

    STEP = "main"
    dataset: str = field("sample", "a prepared folder, or a source that is prepared with defaults")
    threads: int = field(0, "cores that train; 0 is all", ge=0, le=1024)
    out: str = field("upscaled.png", "the enlarged photo")


STEPS: dict[str, type[Settings]] = {
    step.STEP: step for step in (Main, Preprocess, Train, Evaluate, Register, Upscale)
}


@cache
def train_class(network: str, optimizer: str | None = None) -> type[Train]:
    """The settings class of `train` for one network and, where it is trained by steps, one optimizer.

    Raises:
        SettingsError: one of the names is unknown.
    """
    chosen = _named("network", network, NETWORKS)
    if not issubclass(chosen, Trained):
        return chosen
    optimizer = optimizer or chosen.model_fields["optimizer"].default
    added = _named("optimizer", optimizer, OPTIMIZERS)
    return create_model(
        f"{chosen.__name__}With{added.__name__}",
        __base__=(added, chosen),
        __doc__=chosen.__doc__,
        optimizer=(Literal[optimizer], field(optimizer, "this optimizer")),  # type: ignore[arg-type]
    )


def settings_of(step: str, given: dict[str, Any]) -> Any:
    """Check what was given for a step, whole, before anything is read or started.

    Args:
        step: a key of STEPS.
        given: field -> text or value; what is not given takes its default.

    Raises:
        SettingsError: naming the field, the rule and the value.
    """
    settings = STEPS[step]
    if step == "train":
        settings = train_class(str(given.get("network", "convolutional")), given.get("optimizer"))
    try:
        return settings.model_validate(given)
    except ValidationError as error:
        raise SettingsError(_line(error, step)) from None


def owners(name: str) -> list[str]:
    """The networks and optimizers of `train` that have a field of this name, as `network=perceptron`."""
    found = []
    for kind, table in (("network", NETWORKS), ("optimizer", OPTIMIZERS)):
        found += [f"{kind}={key}" for key, settings in table.items() if name in settings.model_fields]
    return found


def _named(kind: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise SettingsError(f"{kind}: must be one of {', '.join(table)}, got {name!r}")
    return table[name]


def _line(error: ValidationError, step: str) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        elsewhere = owners(name) if step == "train" else []
        if elsewhere:
            return f"{name}: is a field of {' and '.join(elsewhere)} only, got {text_of(first['input'])!r}"
        return f"{name}: is no field of {step}; `loupe {step} --help` lists them"
    rule = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if first["type"] == "literal_error":
        rule = f"must be one of {first['ctx']['expected']}".replace("'", "").replace(" or ", ", ")
    return f"{name}: {rule}, got {text_of(first['input'])!r}" if name else rule


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The values of a choice field, () for others; `Crop | None` has the values of `Crop`."""
    if getattr(annotation, "__origin__", None) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in choices_of(part))
