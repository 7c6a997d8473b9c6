"""The values of a key of [search] in a sweep file: a list, or a range."""

import math
import random
from fractions import Fraction
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from loupe.config.fields import format_value, quote_value

RULE = "must be a list of values or a range, {low = …, high = …}"


def _check_number(given: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(given)
    except ValidationError:
        raise ValueError(f"must be a number, got {quote_value(given)}") from None


FiniteNumber = Annotated[int | float, WrapValidator(_check_number), Field(ge=-1e15, le=1e15, allow_inf_nan=False)]


class Range(BaseModel):
    """The numbers from low to high, including both.

    With `step`, the range has only the numbers low, low + step, low + 2 * step and so on, up to high.
    With `log`, numbers between the ends are drawn on a logarithmic scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: FiniteNumber
    high: FiniteNumber
    log: bool = False
    step: FiniteNumber | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check_bounds(self) -> "Range":
        if not self.low < self.high or (self.log and (self.low <= 0 or self.step is not None)):
            raise ValueError(
                "low must be less than high; with log=true, low must be above 0 and step is not allowed; got "
                f"low={self.low}, high={self.high}, log={format_value(self.log)}, step={format_value(self.step)}"
            )
        return self

    @property
    def has_integer_ends(self) -> bool:
        """Whether both ends and the step are integers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    @property
    def last(self) -> int | float:
        """The highest number of the range: `high` or, with `step`, the last number that is not above `high`."""
        if self.step is None:
            return self.high
        # Decimal numbers as in the file: in floats, 0.3 / 0.1 is less than 3.
        low, high, step = (Fraction(str(number)) for number in (self.low, self.high, self.step))
        last = high - (high - low) % step
        return int(last) if self.has_integer_ends else float(last)

    def draw(self, rng: random.Random, is_integer: bool) -> int | float:
        """Draw the lowest number, the highest, or a random number between them, each with probability 1/3."""
        if self.step is not None:
            between = self.low + self.step * rng.randint(0, round((self.last - self.low) / self.step))
        elif self.log:
            between = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            between = rng.uniform(self.low, self.high)
        between = min(max(between, self.low), self.high)  # rounding errors can lead out of the interval
        return rng.choice([self.low, self.last, int(between) if is_integer else between])


def _check_values(given: Any) -> Any:
    if isinstance(given, dict) and not given.keys() & Range.model_fields.keys():
        raise ValueError(f'{RULE}; a key with a dot must be in quotes, such as "sgd.momentum"')
    if not isinstance(given, (dict, list, Range)):
        raise ValueError(f"{RULE}, got {quote_value(given)}")
    return given


Values = Annotated[Range | list[Any], BeforeValidator(_check_values)]
