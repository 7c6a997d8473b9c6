"""Sizes are exact, and the networks on the way reach them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.imaging.decoder import PhotoError
from loupe.photos.sizes import fitted, network_scale, scaled

SCALES = [Fraction(3), Fraction(3, 2), Fraction(2)]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [("1", None), ("1.2", "3/2"), ("1.5", "3/2"), ("1.51", "2"), ("2", "2"), ("2.5", "3"), ("3", "3"), ("8", "3")],
)
def test_the_smallest_network_that_reaches_the_size_is_taken(scale, expected):
    wanted = scaled((101, 67), Fraction(scale))
    assert network_scale((101, 67), wanted, SCALES) == (None if expected is None else Fraction(expected))


@given(st.integers(1, 5000), st.integers(1, 5000), st.fractions(1, 8, max_denominator=100))
def test_scaled_rounds_halves_up(width, height, scale):
    for side, large in zip((width, height), scaled((width, height), scale), strict=True):
        assert Fraction(-1, 2) < large - side * scale <= Fraction(1, 2)


@given(st.integers(1, 3000), st.integers(1, 3000), st.fractions(1, 8, max_denominator=100))
def test_a_size_made_by_a_scale_has_the_shape_of_the_photo(width, height, scale):
    wanted = scaled((width, height), scale)
    assert fitted((width, height), wanted) == wanted


def test_another_shape_is_refused_with_both():
    with pytest.raises(PhotoError, match=r"1920x1080.*768x512; 1920x1280 and 1620x1080"):
        fitted((768, 512), (1920, 1080))
    with pytest.raises(PhotoError, match="1 to 8 times"):
        fitted((768, 512), (384, 256))
    with pytest.raises(PhotoError, match="1 to 8 times"):
        fitted((10, 10), (81, 81))
