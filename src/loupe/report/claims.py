"""A `[[claim]]` of a sweep file: a statement, usually of the 2016 study, and the arms of the sweep to compare."""

from collections.abc import Iterable
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from loupe.config.fields import format_value

KINDS = ("beats", "beats_metric", "like", "like_metric", "between")
MIN_SEEDS = 2  # a confidence interval needs at least two values
# Names in braces that `Surprise.text` may contain: the means of both arms in the comparison with the weakest support,
# their difference, the mean number of training steps of each arm with the median time, and the budget without times
TEXT_FIELDS = ("first", "second", "difference", "first_steps", "second_steps", "budget")


def _convert_values(arm: Any) -> Any:
    """Convert the values of a TOML table to texts, as in the table of runs; raise ValueError for a nested table."""
    if not isinstance(arm, dict):
        return arm
    for name, value in arm.items():
        if isinstance(value, dict):
            raise ValueError(f'a key with a dot must be in quotes: "{name}.{next(iter(value), "")}"')
    return {name: format_value(tuple(value) if isinstance(value, list) else value) for name, value in arm.items()}


def normalise_value(value: str) -> tuple[int, float, str]:
    """Convert the text of a value to a tuple. Those of 1.0 and 1 are equal, and numbers come before texts."""
    try:
        return (0, float(value), "")
    except ValueError:
        return (1, 0.0, value)


def normalise_arm(arm: dict[str, str]) -> dict[str, tuple[int, float, str]]:
    """Return an arm with normalised values, for comparisons with other arms and with points of a sweep."""
    return {key: normalise_value(value) for key, value in arm.items()}


def format_full_name(arm: dict[str, str]) -> str:
    """Format an arm with all its keys, such as `activation=tanh, hidden=512,256`."""
    return ", ".join(f"{key}={value}" for key, value in arm.items())


Arm = Annotated[dict[str, str], BeforeValidator(_convert_values)]


def _has_only_known_fields(text: str) -> bool:
    """Return whether all fields in braces are in TEXT_FIELDS, without attribute, index, conversion or format."""
    try:
        fields = {(name, options, conversion) for _, name, options, conversion in Formatter().parse(text)}
    except ValueError:  # a single brace
        return False
    return fields <= {(name, "", None) for name in TEXT_FIELDS} | {(None, None, None)}


class Surprise(BaseModel):
    """Text and figure for the report page, used only if the claim has the outcome `outcome`; see docs/sweeps.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: Literal["holds", "does not hold"]
    text: Annotated[str, Field(min_length=1)]
    curves: dict[str, str] = {}
    metrics: dict[str, str] = {}

    @model_validator(mode="after")
    def _validate(self) -> "Surprise":
        if bool(self.curves) == bool(self.metrics):
            raise ValueError(f"surprise: must have either curves or metrics, got {'both' if self.curves else 'none'}")
        if not _has_only_known_fields(self.text):
            raise ValueError(f"text: must have only the fields {', '.join(TEXT_FIELDS)} in braces")
        return self


class Claim(BaseModel):
    """A claim about an arm (field values), or about the difference between arms or metrics; see docs/sweeps.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: Annotated[str, BeforeValidator(format_value), Field(pattern=r"^[0-9]+[a-z]*$")]
    text: Annotated[str, Field(min_length=1)]
    metric: Annotated[str, Field(min_length=1)]
    higher: bool = False
    arm: Arm
    beats: tuple[Arm, ...] = ()
    beats_metric: str | None = None
    like: tuple[Arm, ...] = ()
    like_metric: str | None = None
    within: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    between: tuple[float, float] | None = None
    each: str | None = None
    worst_over: str | None = None
    change_to: Arm = {}
    study: str = ""
    note: str = ""
    surprise: Surprise | None = None

    @model_validator(mode="after")
    def _validate_kind(self) -> "Claim":
        kinds = [name for name in KINDS if getattr(self, name)]
        if len(kinds) != 1:
            raise ValueError(f"must have exactly one of {', '.join(KINDS)}, got {' and '.join(kinds) or 'none'}")
        if (self.within is not None) != kinds[0].startswith("like"):
            rule = "be set" if self.within is None else "not be set"
            raise ValueError(f"within: must {rule} with {kinds[0]}, got {self.within}")
        if self.between is not None and not self.between[0] <= self.between[1]:
            raise ValueError(f"between: must be the lower bound, then the upper bound, got {list(self.between)}")
        return self

    @model_validator(mode="after")
    def _validate_arms(self) -> "Claim":
        for name in ("each", "worst_over"):
            if any(getattr(self, name) in arm for arm in (*self.arms, self.change_to)):
                raise ValueError(f"{name}: must be a field that no arm contains, got {getattr(self, name)}")
        if self.each is not None and self.each == self.worst_over:
            raise ValueError(f"each: must differ from worst_over, got {self.each}")
        if self.each is not None and self.surprise and self.surprise.curves:
            raise ValueError(f"surprise.curves: must not be used with each, got {self.each}")
        if normalise_arm(self.arm) in map(normalise_arm, self.others):
            raise ValueError(f"arm: must differ from the arms that it is compared with, got {self.arm}")
        return self

    @property
    def others(self) -> tuple[dict[str, str], ...]:
        """The arms to compare with."""
        return self.beats or self.like

    @property
    def arms(self) -> tuple[dict[str, str], ...]:
        """The arm that the claim is about, then the arms to compare with."""
        return (self.arm, *self.others)

    def list_all_arms(self, variants: Iterable[dict[str, str]] = ({},)) -> list[dict[str, str]]:
        """List the arms with the settings of each variant, without and (if it is set) with those of `change_to`."""
        changes = ({}, self.change_to) if self.change_to else ({},)
        return [arm | variant | change for variant in variants for arm in self.arms for change in changes]

    @property
    def fields(self) -> set[str]:
        """The searched fields that the claim uses."""
        names = {name for arm in (*self.arms, self.change_to) for name in arm}
        return names | {name for name in (self.each, self.worst_over) if name is not None}

    @property
    def other_metric(self) -> str | None:
        """The metric that `metric` is compared with, or None."""
        return self.beats_metric or self.like_metric

    @property
    def order(self) -> tuple[int, str]:
        """The sort key, which gives the order 9, 10, 10a, 11."""
        digits = self.number.rstrip("abcdefghijklmnopqrstuvwxyz")
        return int(digits), self.number
