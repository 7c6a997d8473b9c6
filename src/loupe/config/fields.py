"""Turns the text of a flag, a parameter or a sweep key into a checked value, and back into one text.

Every type here accepts its own text and its own value, and refuses the rest with the rule in words, so
that `--patch 10:15`, `-P patch=10:15` and `patch = "10:15"` in a sweep file mean and refuse the same.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

LARGEST_SCALE = 8
LARGEST_LABEL = 4096  # its side, in pixels
LONGEST_SHOWN = 200  # signs of a quote_value value


def field(default: Any, text: str, *, rule: str = "", **bounds: float) -> Any:
    """One field: its default (or a function of the fields before it), what it means, and the rule in
    words where bounds and choices do not say it."""
    about: dict[str, Any] = {"description": text, "json_schema_extra": {"rule": rule} if rule else None, **bounds}
    return Field(default_factory=default, **about) if callable(default) else Field(default, **about)


def format_value(value: Any) -> str:
    """The one text of a value: `3:2`, `2048,1024`, `true`, `none`; what its type reads back as the value."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Fraction):
        return f"{value.numerator}:{value.denominator}"
    if isinstance(value, tuple):
        return ",".join(format_value(part) for part in value)
    return str(value)


def quote_value(value: Any) -> str:
    """A quote_value value as errors show it: its text in quotes, cut where it is long."""
    try:
        text = format_value(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = "a number of thousands of digits"
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…")


def hide_password(text: str) -> str:
    """A URL as it may be shown: `postgresql://loupe:***@host/studies`."""
    return re.sub(r"(://[^/:@\s]*):\S*@", r"\1:***@", text)


def is_true(value: Any) -> bool:
    """Whether a flag's text means true, as pydantic reads it; what is neither true nor false is not."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return False


def parse_scale(value: Any, least_itself: bool = False) -> Fraction:
    """Read a scale: `3:2`, `1.5`, `3/2` or `2`.

    Args:
        value: the text or number.
        least_itself: whether 1 is a scale, too.

    Raises:
        ValueError: it is no ratio above 1 (or from 1 on) and up to 8.
    """
    rule = f"must be a ratio such as 3:2 or 1.5, {'from' if least_itself else 'above'} 1 and up to {LARGEST_SCALE}"
    try:
        if not str(value).isascii():
            raise ValueError(rule)
        scale = Fraction(str(value).strip()[:20].replace(":", "/").replace("e", "x")).limit_denominator(1000)
    except (ValueError, ZeroDivisionError):
        raise ValueError(rule) from None
    if not 1 <= scale <= LARGEST_SCALE or (scale == 1 and not least_itself):
        raise ValueError(rule)
    return scale


def _size(value: Any) -> Any:
    if _text_none(value) is None:
        return None
    found = re.fullmatch(r"([0-9]{1,7})x([0-9]{1,7})", str(value).strip().lower())
    if not found or not int(found[1]) or not int(found[2]):
        raise ValueError("must be width x height such as 1920x1080, or none")
    return f"{int(found[1])}x{int(found[2])}"


def _listed(read: Callable[[str], Any], rule: str, empty: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    def reader(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            text = value.strip()
            value = [] if text.lower() in empty else text.split(",")
            if not value and not empty:
                raise ValueError(rule)
        if not isinstance(value, (list, tuple)):
            value = [value]
        try:
            parts = [read(part.strip() if isinstance(part, str) else part) for part in value]
        except (ValueError, TypeError):
            raise ValueError(rule) from None
        if any(part == "" for part in parts):
            raise ValueError(rule)
        return tuple(parts)

    return reader


def _width(part: Any) -> int:
    width = int(str(part))
    if not str(part).isascii() or not 1 <= width <= 65536:
        raise ValueError
    return width


def _patch(value: Any) -> str:
    text = str(value).strip().lower()
    if text == "whole":
        return text
    found = re.fullmatch("([0-9]{1,4}):([0-9]{1,4})", text)
    if not found or not 0 < int(found[1]) < int(found[2]) <= LARGEST_LABEL:
        raise ValueError(f"must be input side:label side, such as 10:15, up to {LARGEST_LABEL}, or whole")
    return f"{int(found[1])}:{int(found[2])}"


def _text_none(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in ("none", "") else value


Scale = Annotated[Fraction, BeforeValidator(parse_scale)]
Factor = Annotated[
    Fraction | None, BeforeValidator(lambda value: None if _text_none(value) is None else parse_scale(value, True))
]
Size = Annotated[str | None, BeforeValidator(_size)]
Paths = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)
]
Scales = Annotated[tuple[Fraction, ...], BeforeValidator(_listed(parse_scale, "must be ratios such as 3:2,2:1"))]
Sources = Annotated[tuple[str, ...], BeforeValidator(_listed(str, "must be sample, caltech256 or paths"))]
Categories = Annotated[
    tuple[str, ...], BeforeValidator(_listed(str, "must be all, or names, comma-separated", ("all", "none")))
]
Names = Annotated[
    tuple[str, ...], BeforeValidator(_listed(str, "must be models, comma-separated, or none", ("none",)))
]
Hidden = Annotated[
    tuple[int, ...], BeforeValidator(_listed(_width, "must be widths from 1 to 65536, or none", ("none",)))
]
Patch = Annotated[str, BeforeValidator(_patch)]
Number = BeforeValidator(lambda value: int(value) if str(value).strip().isdecimal() else value)
Unset = BeforeValidator(_text_none)
Quality = Annotated[Annotated[int, Field(ge=1, le=95)] | None, Unset]
Seconds = Annotated[Annotated[float, Field(gt=0, le=1e8)] | None, Unset]
Count = Annotated[Annotated[int, Field(ge=1, le=10**9)] | None, Unset]
Text = Annotated[str | None, Unset]
