"""Filters equal those of Pillow, and their weights give the same result."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from loupe.config.fields import format_value, get_block_sides
from loupe.config.training import TRAINED_SCALES
from loupe.imaging.conversion import from_floats, to_floats
from loupe.upscalers.baselines import FILTERS, MARGIN, FilterUpscaler, compute_filter_weights
from loupe.upscalers.ridge import RidgeUpscaler

CASES = [(name, scale) for name in FILTERS for scale in TRAINED_SCALES]


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 24, 30), dtype="uint8")


@pytest.mark.parametrize(("name", "scale"), CASES, ids=str)
def test_a_filter_equals_pillows_resize_in_floating_point(name: str, scale: Fraction, grey: np.ndarray) -> None:
    images = to_floats(grey)[..., None]
    large = FilterUpscaler(name, scale)(images)
    assert large.shape == (3, int(24 * scale), int(30 * scale), 1)
    assert large.dtype == "float32"
    size = int(30 * scale), int(24 * scale)
    for number in range(3):
        image = Image.fromarray(images[number, ..., 0])
        assert image.mode == "F"
        expected = np.asarray(image.resize(size, Image.Resampling[name.upper()]))
        np.testing.assert_array_equal(large[number, ..., 0], expected)


@pytest.mark.parametrize(("name", "scale"), CASES, ids=str)
def test_a_filter_agrees_with_pillows_resize_of_8_bit_images(name: str, scale: Fraction, grey: np.ndarray) -> None:
    soft = grey[0] // 4 + 96  # low contrast: Pillow clips and rounds 8-bit images between its two passes
    large = FilterUpscaler(name, scale)(to_floats(soft)[None, ..., None])
    size = int(30 * scale), int(24 * scale)
    expected = np.asarray(Image.fromarray(soft).resize(size, Image.Resampling[name.upper()]))
    assert np.abs(from_floats(large[0, ..., 0]).astype(int) - expected).max() <= 1


def test_lanczos_and_bicubic_overshoot_and_are_not_clipped() -> None:
    edge = np.where(np.arange(16) < 8, -1.0, 1.0).astype("float32") * np.ones((1, 16, 1), "float32")
    for name, beyond in (("nearest", False), ("bilinear", False), ("bicubic", True), ("lanczos", True)):
        large = FilterUpscaler(name, Fraction(2))(edge[..., None])
        assert (np.abs(large).max() > 1.01) == beyond


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
def test_a_filter_has_the_smallest_blocks_of_its_scale(scale: Fraction) -> None:
    geometry = FilterUpscaler("lanczos", scale, "rec709").geometry
    assert (geometry.q, geometry.p, geometry.scale) == (*get_block_sides(scale), scale)
    assert geometry.luminance == "rec709"
    assert geometry.halo >= MARGIN
    assert geometry.halo % geometry.q == geometry.min_side % geometry.q == 0


# Without nearest at 3:2: the middle of every third pixel is exactly between two pixels, and rounding decides which of
# them Pillow takes.
@pytest.mark.parametrize(("name", "scale"), [case for case in CASES if case != ("nearest", Fraction(3, 2))], ids=str)
def test_filter_weights_give_the_result_of_the_filter_away_from_the_border(
    name: str, scale: Fraction, grey: np.ndarray
) -> None:
    images = to_floats(grey)[..., None]
    weights, (q, p) = compute_filter_weights(name, scale), get_block_sides(scale)
    assert weights.shape == ((q + 2 * MARGIN) ** 2, p**2)
    edge = int(MARGIN * scale)
    inside = np.s_[:, edge:-edge, edge:-edge]
    large, expected = RidgeUpscaler(weights, scale, "rec601")(images), FilterUpscaler(name, scale)(images)
    assert large.shape == expected.shape
    np.testing.assert_allclose(large[inside], expected[inside], atol=1e-5)


@pytest.mark.parametrize(("name", "scale"), CASES, ids=str)
def test_filter_weights_of_every_pixel_sum_to_one(name: str, scale: Fraction) -> None:
    np.testing.assert_allclose(compute_filter_weights(name, scale).sum(axis=0), 1, atol=1e-5)
