"""Sizes of results: exact, within the limits, and reached by the right network."""

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loupe.imaging.decoder import PhotoError
from loupe.photos.sizes import FITS, FittedSize, choose_scale, find_uncropped_size, fit_size, scale_size

SCALES = [Fraction(3), Fraction(3, 2), Fraction(2)]
SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


@pytest.mark.parametrize(
    ("scale", "expected"),
    [("1", None), ("1.2", "3/2"), ("1.5", "3/2"), ("1.51", "2"), ("2", "2"), ("2.5", "3"), ("3", "3"), ("8", "3")],
)
def test_the_smallest_network_that_reaches_the_size_is_chosen(scale, expected):
    wanted = scale_size((101, 67), Fraction(scale))
    assert choose_scale((101, 67), wanted, SCALES) == (None if expected is None else Fraction(expected))


@given(SIZES, st.fractions(1, 8, max_denominator=100))
def test_scale_size_rounds_halves_up(size, scale):
    for side, large in zip(size, scale_size(size, scale), strict=True):
        assert Fraction(-1, 2) < large - side * scale <= Fraction(1, 2)


@given(SIZES, st.fractions(1, 8, max_denominator=100), st.sampled_from(FITS))
def test_a_box_with_the_photos_aspect_ratio_is_the_result_for_every_fit(size, scale, fit):
    box = scale_size(size, scale)
    # A photo that already fits inside is not resized by a pixel, such as 1x2 for the box 1x3.
    assume(fit != "inside" or box == size or all(large > side for large, side in zip(box, size, strict=True)))
    assert fit_size(size, box, fit) == FittedSize(box, box)


def fit_or_skip(size, box, fit):
    try:
        return fit_size(size, box, fit)
    except PhotoError:
        assume(False)


@given(st.data())
def test_inside_is_the_largest_size_with_the_aspect_ratio_in_the_box(data):
    size = data.draw(SIZES)
    box = tuple(data.draw(st.integers(side, 8 * side)) for side in size)
    fitted = fit_or_skip(size, box, "inside")
    assert fitted.cropped == fitted.upscaled
    assert all(side <= limit for side, limit in zip(fitted.upscaled, box, strict=True))
    assert any(side == limit for side, limit in zip(fitted.upscaled, box, strict=True))  # one pixel more does not fit
    check_aspect_ratio(size, fitted.upscaled)


@given(st.data())
def test_cover_is_the_smallest_size_with_the_aspect_ratio_around_the_box(data):
    size = data.draw(SIZES)
    box = tuple(data.draw(st.integers(1, 8 * side)) for side in size)
    fitted = fit_or_skip(size, box, "cover")
    assert fitted.cropped == box
    assert all(side >= limit for side, limit in zip(fitted.upscaled, box, strict=True))
    assert any(side == limit for side, limit in zip(fitted.upscaled, box, strict=True))
    check_aspect_ratio(size, fitted.upscaled)
    assert find_uncropped_size(size, fitted.cropped) == fitted.upscaled


def check_aspect_ratio(size, large):
    """Check that both sides have the same scale factor, to within a pixel."""
    (width, height), (large_width, large_height) = size, large
    by_width, by_height = width * Fraction(large_height, height), height * Fraction(large_width, width)
    assert abs(by_width - large_width) <= Fraction(3, 2) or abs(by_height - large_height) <= Fraction(3, 2)


def test_a_photo_that_already_fits_inside_is_not_resized_by_a_pixel():
    assert fit_size((300, 299), (300, 300), "inside") == FittedSize((300, 299), (300, 299))
    assert fit_size((300, 299), (300, 300), "cover").cropped == (300, 300)


def test_examples_of_each_fit():
    assert fit_size((768, 512), (1920, 1080), "inside") == FittedSize((1620, 1080), (1620, 1080))
    assert fit_size((512, 768), (1920, 1080), "inside") == FittedSize((720, 1080), (720, 1080))
    assert fit_size((768, 512), (1920, 1080), "cover") == FittedSize((1920, 1280), (1920, 1080))
    with pytest.raises(PhotoError, match="photo's 768x512, such as 1920x1280 or 1620x1080, got 1920x1080"):
        fit_size((768, 512), (1920, 1080), "exact")


@pytest.mark.parametrize("fit", FITS)
def test_a_size_out_of_range_is_an_error(fit):
    for size, box in (((768, 512), (384, 256)), ((10, 10), (81, 81))):
        with pytest.raises(PhotoError, match=f"1 to 8 times the photo's .*, got {box[0]}x{box[1]}"):
            fit_size(size, box, fit)
