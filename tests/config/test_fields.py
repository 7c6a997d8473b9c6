"""Fields convert text to values and back."""

import string
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from loupe.config import parse_settings
from loupe.config.base import SettingsError
from loupe.config.fields import (
    LARGEST_SCALE,
    Categories,
    Count,
    Flops,
    Hidden,
    Patch,
    Qualities,
    Quality,
    Scale,
    Scales,
    Sources,
    Text,
    format_value,
    parse_scale,
)

SCALE = st.integers(1, 60).flatmap(lambda q: st.integers(q + 1, q * LARGEST_SCALE).map(lambda p: Fraction(p, q)))
WORD = st.text(string.ascii_letters + string.digits + "-_./ ", min_size=1).map(str.strip)
NAME = WORD.filter(lambda word: word.lower() not in ("", "all", "none"))
VALUES = {
    "scale": (Scale, SCALE),
    "scales": (Scales, st.lists(SCALE, min_size=1, max_size=5, unique=True).map(tuple)),
    "sources": (Sources, st.lists(NAME, min_size=1, max_size=5, unique=True).map(tuple)),
    "categories": (Categories, st.lists(NAME, max_size=5).map(tuple)),
    "hidden": (Hidden, st.lists(st.integers(1, 65536), max_size=6).map(tuple)),
    "patch": (
        Patch,
        st.just("whole")
        | st.tuples(st.integers(1, 200), st.integers(1, 200)).map(lambda side: f"{side[0]}:{side[0] + side[1]}"),
    ),
    "qualities": (
        Qualities,
        st.sets(st.integers(1, 100), min_size=1).map(lambda numbers: tuple(sorted(numbers, reverse=True))),
    ),
    "quality": (Quality, st.none() | st.integers(1, 95)),
    "count": (Count, st.none() | st.integers(1, 10**9)),
    "flops": (Flops, st.none() | st.floats(0, 1e30, exclude_min=True)),
    "text": (Text, st.none() | NAME),
    "float": (float, st.floats(allow_nan=False, allow_infinity=False)),
    "integer": (int, st.integers(-(10**15), 10**15)),
    "truth": (bool, st.booleans()),
}


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
def test_a_value_survives_conversion_to_text_and_back(kind: str, data: st.DataObject) -> None:
    annotation, values = VALUES[kind]
    value = data.draw(values)
    adapter = TypeAdapter(annotation)
    assert adapter.validate_python(format_value(value)) == value
    assert adapter.validate_python(value) == value


@given(value=SCALE)
def test_a_scale_is_parsed_from_ratios_and_fractions(value: Fraction) -> None:
    p, q = value.numerator, value.denominator
    assert (
        parse_scale(f"{p}:{q}")
        == parse_scale(f" {p}/{q} ")
        == parse_scale(value)
        == parse_scale(f"{7 * p}:{7 * q}")
        == value
    )


def test_a_scale_is_parsed_from_decimal_numbers() -> None:
    assert [parse_scale(text) for text in ("1.5", 1.5, "2", 2, "3.0", "1.333333333333")] == [
        Fraction(3, 2), Fraction(3, 2), 2, 2, 3, Fraction(4, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["1.50000000000000000000junk", f"2{' ' * 30}x", f"1.{'5' * 60}", "1e1", "²", "1:0"])
def test_a_text_that_only_starts_with_a_scale_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a ratio such as 3:2"):
        parse_scale(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"), ((), "none"), (True, "true"), (False, "false"), (Fraction(3, 2), "3:2"),
        (Fraction(3), "3:1"), ((2048, 1024), "2048,1024"), ((Fraction(3, 2), Fraction(2)), "3:2,2:1"),
        ("whole", "whole"), (0.0001, "0.0001"), (7, "7"),
    ],
)  # fmt: skip
def test_values_are_formatted(value: object, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("scale", text) for text in ("0.9", "0.5", "-2", "9", "3e0", "3E0", "3:0", "", "x", "nan", "inf", "3:2:1")),
        *(("scales", text) for text in ("", "3:2,", "3:2,,2:1", "3:2,0.5")),
        *(("sources", text) for text in ("", "a,,b", ",")),
        *(("categories", text) for text in ("a,,b", ",")),
        *(("hidden", text) for text in ("0", "65537", "8,,8", "a", "8;8", "1.5", "-1", "none,8")),
        *(("patch", text) for text in ("15:10", "0:2", "10", "10:", ":15", "-2:3", "1.5:3", "")),
        *(("quality", text) for text in ("0", "96", "x")),
        *(("count", text) for text in ("0", "-1", "x", "1.5")),
    ],
)
def test_a_wrong_text_is_refused_in_one_line(kind: str, text: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(VALUES[kind][0]).validate_python(text)
    message = refused.value.errors()[0]["msg"]
    assert message
    assert "\n" not in message


def test_none_and_all_are_parsed_in_any_case_and_with_spaces() -> None:
    for kind, text, value in (
        (Hidden, " None ", ()), (Categories, "ALL", ()), (Text, " NONE", None), (Count, "", None),
        (Patch, " WHOLE ", "whole"), (Patch, "010:015", "10:15"),
    ):  # fmt: skip
        assert TypeAdapter(kind).validate_python(text) == value


@pytest.mark.parametrize(("step", "name"), [("evaluate", "others"), ("train", "tags"), ("preprocess", "categories")])
def test_python_none_is_an_empty_list(step: str, name: str) -> None:
    assert getattr(parse_settings(step, {name: None}), name) == ()
    with pytest.raises(SettingsError, match=rf"^{name}: must be "):
        parse_settings(step, {name: [None]})


def test_python_none_is_refused_for_a_list_that_must_not_be_empty() -> None:
    with pytest.raises(SettingsError, match=r"^source: must be sample, .*, got 'none'$"):
        parse_settings("preprocess", {"source": None})


@pytest.mark.parametrize("number", ["9" * 5000, 10**5000], ids=["text", "number"])
@pytest.mark.parametrize("name", ["entry_convolutions", "seed"])
def test_the_error_for_thousands_of_digits_states_the_rule(name: str, number: str | int) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}: must be .*, got '") as refused:
        parse_settings("train", {"network": "perceptron", name: number})
    assert "string" not in str(refused.value)


def test_duplicates_are_removed() -> None:
    """Otherwise `preprocess` would write the inputs of a scale factor twice."""
    assert TypeAdapter(Scales).validate_python("2:1,3:2,2,1.5") == (Fraction(2), Fraction(3, 2))
    assert TypeAdapter(Sources).validate_python("b,a,b") == ("b", "a")


@pytest.mark.parametrize(
    "tag", ["owner!=ana", "../x=1", "a//b=1", "/a=1", "=1", "loupe.step=train", f"{'k' * 251}=1"]
)
def test_a_tag_whose_key_mlflow_refuses_is_refused(tag):
    with pytest.raises(SettingsError, match=r"^tags: must be key=value"):
        parse_settings("train", {"tags": tag})


def test_a_list_can_be_a_numpy_array():
    assert parse_settings("train", {"network": "perceptron", "hidden": np.array([3, 4])}).hidden == (3, 4)
    with pytest.raises(SettingsError, match=r"^hidden: must be widths .*, got '\[3\.5 4\. \]'"):
        parse_settings("train", {"network": "perceptron", "hidden": np.array([3.5, 4])})
