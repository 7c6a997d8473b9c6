"""The types of the fields. Each type converts text to a validated value; `format_value` converts it back to text.

Each type accepts its values as text and as Python objects. Therefore `--patch 10:15`, `-P patch=10:15` and
`patch = "10:15"` in a sweep file are equivalent.
"""

import math
import posixpath
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from loupe.errors import mask_secrets

LARGEST_SCALE = 8
MAX_SCALE_CHARACTERS = 40  # of the text of a scale factor
LARGEST_LABEL_SIDE = 4096  # in pixels
LARGE_NUMBER = 1e9  # a float of at least this value is formatted with an exponent
TAG_KEY = re.compile(r"[/\w.\- :]{1,250}")  # keys of tags that MLflow accepts
LONGEST_QUOTE = 200  # maximum number of characters of a value that an error message quotes

DEVICE = (
    "device that runs the network. auto: for bundled networks, CUDA or DirectML if onnxruntime supports one of them; "
    "for other ONNX networks, the CPU; for Keras models, the device that Keras selects"
)
CHAMPION = "champion"  # name of the best registered model, and its alias in MLflow
URI_SCHEMES = ("models:/", "runs:/")  # of models in MLflow
BUNDLED_SIZES = ("tiny", "small", "base", "large")


def field(default: Any, text: str, *, rule: str = "", **bounds: float) -> Any:
    """Define a field.

    Args:
        default: the default, or a function that computes the default from the values of earlier fields.
        text: the help text.
        rule: a description of the accepted values. In the help, it replaces the choices, and also the default if it
            contains the word `default`.
        bounds: as in `pydantic.Field`: ge, gt, le, lt.
    """
    about: dict[str, Any] = {"description": text, "json_schema_extra": {"rule": rule} if rule else None, **bounds}
    return Field(default_factory=default, **about) if callable(default) else Field(default, **about)


def format_value(value: Any) -> str:
    """Convert a value to text that the type of the field can parse: `3:2`, `2048,1024`, `1e12`, `true` or `none`."""
    if value is None or (isinstance(value, tuple) and not value):
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Fraction):
        return f"{value.numerator}:{value.denominator}"
    if isinstance(value, tuple):
        return ",".join(format_value(part) for part in value)
    if isinstance(value, float) and LARGE_NUMBER <= value < math.inf:
        return f"{Decimal(repr(value)).normalize():e}".replace("e+", "e")
    return str(value)


def quote_value(value: Any) -> str:
    """Return a refused value for an error message: secrets masked, cut to LONGEST_QUOTE characters, in quotes."""
    try:
        # The text is masked before it is shortened, because `mask_secrets` may not find a shortened secret.
        text = mask_secrets(format_value(value))
    except ValueError:  # Python does not convert integers of more than 4300 digits to text
        text = "a number of thousands of digits"
    return repr(text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…")


def is_true(value: Any) -> bool:
    """Return whether pydantic converts a value to True."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return False


def parse_scale(value: Any) -> Fraction:
    """Parse a scale factor.

    Args:
        value: a ratio or number such as `3:2`, `3/2`, `1.5` or `2`.

    Returns:
        The scale factor, rounded to a fraction with a denominator of at most 1000.

    Raises:
        ValueError: the value is not a ratio or number, or is not from 1 to LARGEST_SCALE after rounding.
    """
    rule = f"must be a ratio such as 3:2 or 1.5, from 1 to {LARGEST_SCALE}"
    try:
        text = str(value).strip()
        if not text.isascii() or len(text) > MAX_SCALE_CHARACTERS:
            raise ValueError(rule)
        # Replacing `e` makes exponents invalid: Fraction("1e999999999") would take minutes.
        scale = Fraction(text.lower().replace(":", "/").replace("e", "x")).limit_denominator(1000)
    except (ValueError, ZeroDivisionError):
        raise ValueError(rule) from None
    if not 1 <= scale <= LARGEST_SCALE:
        raise ValueError(rule)
    return scale


def get_block_sides(scale: Fraction) -> tuple[int, int]:
    """Return q and p: at the scale factor p/q, a block of q x q input pixels becomes p x p pixels.

    q and p are the terms of the reduced fraction p/q. At 1:1, both are 2, because convolutions on 2x2 blocks take a
    quarter of the time of convolutions on pixels.
    """
    return (2, 2) if scale == 1 else (scale.denominator, scale.numerator)


def _parse_size(value: Any) -> Any:
    if _convert_empty_to_none(value) is None:
        return None
    match = re.fullmatch(r"([0-9]{1,7})x([0-9]{1,7})", str(value).strip().lower())
    if not match or not int(match[1]) or not int(match[2]):
        raise ValueError("must be width x height such as 1920x1080, or none")
    return f"{int(match[1])}x{int(match[2])}"


def _parse_list(parse_part: Callable[[str], Any], rule: str, empty: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Return a validator of comma-separated lists.

    Args:
        parse_part: parses one part of a list; raises ValueError or TypeError if the part is invalid.
        rule: the message of the ValueError for an invalid list.
        empty: texts that mean an empty list. With (), an empty list is invalid.
    """

    def parse(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            text = value.strip()
            value = [] if text.lower() in empty else text.split(",")
        elif hasattr(value, "tolist"):  # an array of NumPy
            value = value.tolist()
        if not isinstance(value, (list, tuple)):
            value = [] if value is None else [value]
        if not value and not empty:
            raise ValueError(rule)
        try:
            parts = [part.strip() if isinstance(part, str) else part for part in value]
            if any(part in ("", None) for part in parts):
                raise ValueError(rule)
            return tuple(map(parse_part, parts))
        except (ValueError, TypeError):
            raise ValueError(rule) from None

    return parse


def _parse_number(highest: int) -> Callable[[Any], int]:
    """Return a parser of a whole number from 1 to `highest`."""

    def parse(part: Any) -> int:
        number = int(str(part))
        if not str(part).isascii() or not 1 <= number <= highest:
            raise ValueError
        return number

    return parse


def _parse_host_name(part: Any) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", str(part).lower()):
        raise ValueError
    return str(part).lower()


def _parse_host(value: Any) -> str:
    text = str(value).strip()
    if not text:
        raise ValueError("must be an address or a host name")
    return text


def _parse_patch(value: Any) -> str:
    text = str(value).strip().lower()
    if text == "whole":
        return text
    match = re.fullmatch("([0-9]{1,4}):([0-9]{1,4})", text)
    if not match or not 0 < int(match[1]) <= int(match[2]) <= LARGEST_LABEL_SIDE:
        largest = LARGEST_LABEL_SIDE
        raise ValueError(f"must be input side:label side, such as 10:15 (not 15:10), at most {largest}, or whole")
    return f"{int(match[1])}:{int(match[2])}"


def _parse_number_or(word: str, lowest: int, highest: int, convert: type = int) -> Callable[[Any], Any]:
    """Return a validator that accepts the text `word` and numbers of the type `convert` in a range."""
    pattern = "[0-9]{1,4}" if convert is int else r"[0-9]{1,4}(\.[0-9]{1,20})?"

    def parse(value: Any) -> Any:
        text = str(value).strip().lower()
        if text == word:
            return text
        if not re.fullmatch(pattern, text) or not lowest <= convert(text) <= highest:
            raise ValueError(f"must be {word}, or a number from {lowest} to {highest}")
        return convert(text)

    return parse


def _parse_tag(part: Any) -> str:
    key, equals, _ = str(part).partition("=")
    if not equals or key.startswith(("loupe.", "mlflow.")) or not TAG_KEY.fullmatch(key):
        raise ValueError
    if posixpath.normpath(key) != key or key.startswith(("/", "..")):  # MLflow refuses such keys
        raise ValueError
    return str(part)


def _parse_range(parse_number: Callable[[str], Any], lowest: int, highest: int) -> Callable[[Any], Any]:
    """Return a validator of two numbers from `lowest` to `highest`, the lower number first."""
    rule = f"must be two numbers from {lowest} to {highest}, the lower one first, such as {lowest},{highest}"
    parse = _parse_list(lambda part: parse_number(str(part)), rule)

    def parse_range(value: Any) -> tuple[Any, ...]:
        numbers = parse(value)
        if len(numbers) != 2 or not lowest <= numbers[0] <= numbers[1] <= highest:
            raise ValueError(rule)
        return numbers

    return parse_range


def _convert_empty_to_none(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in ("none", "") else value


Scale = Annotated[Fraction, BeforeValidator(parse_scale)]
Unique = AfterValidator(lambda values: tuple(dict.fromkeys(values)))  # keeps the first of equal values
Factor = Annotated[
    Fraction | None,
    BeforeValidator(lambda value: None if _convert_empty_to_none(value) is None else parse_scale(value)),
]
Size = Annotated[str | None, BeforeValidator(_parse_size)]
Paths = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: [part.strip() for part in value.split(",")] if isinstance(value, str) else value),
]
SCALES_RULE = f"ratios from 1 to {LARGEST_SCALE}, such as 3:2,2:1"
Scales = Annotated[tuple[Fraction, ...], BeforeValidator(_parse_list(parse_scale, f"must be {SCALES_RULE}")), Unique]
JpegQualities = Annotated[tuple[int, int], BeforeValidator(_parse_range(int, 1, 100))]
Qualities = Annotated[
    tuple[int, ...],
    BeforeValidator(_parse_list(_parse_number(100), "must be numbers from 1 to 100, comma-separated")),
    AfterValidator(lambda numbers: tuple(sorted(set(numbers), reverse=True))),
]
NoiseLevels = Annotated[tuple[float, float], BeforeValidator(_parse_range(float, 0, 100))]
Sources = Annotated[
    tuple[str, ...],
    BeforeValidator(_parse_list(str, "must be sample, caltech256, paths or URLs, comma-separated")),
    Unique,
]
Categories = Annotated[
    tuple[str, ...], BeforeValidator(_parse_list(str, "must be all, or names, comma-separated", ("all", "none")))
]
Names = Annotated[
    tuple[str, ...], BeforeValidator(_parse_list(str, "must be models, comma-separated, or none", ("none",)))
]
Hidden = Annotated[
    tuple[int, ...],
    BeforeValidator(_parse_list(_parse_number(65536), "must be widths from 1 to 65536, or none", ("none",))),
]
Host = Annotated[str, BeforeValidator(_parse_host)]
HostNames = Annotated[
    tuple[str, ...],
    BeforeValidator(_parse_list(_parse_host_name, "must be host names, comma-separated, or none", ("none",))),
]
Tags = Annotated[
    tuple[str, ...],
    BeforeValidator(
        _parse_list(
            _parse_tag,
            "must be key=value, comma-separated; no key may start with loupe. or mlflow., or have a character that "
            "MLflow refuses",
            ("none",),
        )
    ),
]
Patch = Annotated[str, BeforeValidator(_parse_patch)]
Unset = BeforeValidator(_convert_empty_to_none)  # accepts "none" and "" for None
Quality = Annotated[Annotated[int, Field(ge=1, le=95)] | None, Unset]
Norm = Annotated[Annotated[float, Field(gt=0, le=1e6)] | None, Unset]
Rate = Annotated[Annotated[float, Field(gt=0, le=1000)] | None, Unset]
Seconds = Annotated[Annotated[float, Field(gt=0, le=1e8)] | None, Unset]
Flops = Annotated[Annotated[float, Field(gt=0, le=1e30)] | None, Unset]
Devices = Annotated[int | str, BeforeValidator(_parse_number_or("all", 1, 1024))]
JpegQuality = Annotated[int | str, BeforeValidator(_parse_number_or("auto", 1, 100))]
Denoise = Annotated[float | str, BeforeValidator(_parse_number_or("auto", 0, 100, float))]
Luminance = Literal["rec601", "rec709", "relative"]
Device = Literal["auto", "cpu", "cuda", "coreml", "directml"]
Count = Annotated[Annotated[int, Field(ge=1, le=10**9)] | None, Unset]
Text = Annotated[str | None, Unset]
