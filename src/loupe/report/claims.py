"""A `[[claim]]` of a sweep file: a sentence of the study, and which arms of the sweep decide whether it holds."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from loupe.config.fields import format_value


def _texts(arm: Any) -> Any:
    """A TOML table's values as the texts that the table of runs holds."""
    if not isinstance(arm, dict):
        return arm
    for name, value in arm.items():
        if isinstance(value, dict):
            raise ValueError(f'a field with a dot must stand in quotes, "{name}.{next(iter(value), "")}"')
    return {name: format_value(tuple(value) if isinstance(value, list) else value) for name, value in arm.items()}


Arm = Annotated[dict[str, str], BeforeValidator(_texts)]


class Claim(BaseModel):
    """What the study says of one arm, alone or against others; README says what each field means."""

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

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Claim":
        kinds = ("beats", "beats_metric", "like", "like_metric", "between")
        given = [name for name in kinds if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"must have one of {', '.join(kinds)}, got {' and '.join(given) or 'none'}")
        if (self.within is not None) != given[0].startswith("like"):
            raise ValueError("within: must stand beside like or like_metric, and only there")
        if self.between is not None and not self.between[0] <= self.between[1]:
            raise ValueError(f"between: must be the lower bound, then the upper, got {list(self.between)}")
        return self

    @model_validator(mode="after")
    def _arms_differ(self) -> "Claim":
        for name in ("each", "worst_over"):
            if any(getattr(self, name) in arm for arm in (*self.arms, self.change_to)):
                raise ValueError(f"{name}: must be no field that an arm names, got {getattr(self, name)}")
        if self.each is not None and self.each == self.worst_over:
            raise ValueError(f"each: must be another field than worst_over, got {self.each}")
        if self.arm in self.others:
            raise ValueError("arm: must not stand among those that it is compared with")
        return self

    @property
    def others(self) -> tuple[dict[str, str], ...]:
        """The arms that it is compared with; none where it is judged alone or by another metric."""
        return self.beats or self.like

    @property
    def arms(self) -> tuple[dict[str, str], ...]:
        """All arms that it names, its own first; with change_to, as they are before the change."""
        return (self.arm, *self.others)

    @property
    def fields(self) -> set[str]:
        """All searched fields that it names."""
        named = {name for arm in (*self.arms, self.change_to) for name in arm}
        return named | {name for name in (self.each, self.worst_over) if name is not None}

    @property
    def other_metric(self) -> str | None:
        """The metric of its own runs that it is compared with, if it is."""
        return self.beats_metric or self.like_metric

    @property
    def order(self) -> tuple[int, str]:
        """What claims are sorted by: 9, 10, 10a, 11."""
        digits = self.number.rstrip("abcdefghijklmnopqrstuvwxyz")
        return int(digits), self.number
