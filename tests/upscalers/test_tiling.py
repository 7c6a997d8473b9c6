"""Images of any size with any model."""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import Ridge

from loupe.config import parse_settings
from loupe.config.fields import format_value, get_block_sides
from loupe.config.training import TRAINED_SCALES
from loupe.data.labels import shrink_label
from loupe.data.pairs import Pairs
from loupe.models import blocks, builder
from loupe.models.builder import KerasUpscaler
from loupe.upscalers import ridge
from loupe.upscalers.baselines import FILTERS, FilterUpscaler
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.tiling import SelfEnsemble, UpscalingModel, upscale

few = settings(max_examples=25)
SIDE = st.integers(1, 45)
TILE = st.integers(1, 24)
SEED = st.integers(0, 2**32 - 1)
SCALE = st.sampled_from(TRAINED_SCALES)
NETWORKS: dict[str, dict[str, Any]] = {
    "perceptron": {"hidden": "8", "stddev": 0.2},
    "perceptron-whole": {"hidden": "8", "patch": "whole", "stddev": 0.05},
    "perceptron-entry": {"hidden": "8", "entry_convolutions": 2, "skip": "ridge", "stddev": 0.1},
    "convolutional": {"filters": 4, "layers": 1, "skip": "none", "stddev": 0.2},
    "convolutional-upscaled": {"filters": 4, "layers": 1, "pre_upscale": "bicubic", "skip": "ridge", "stddev": 0.1},
}


class Blocked:
    """A model that claims larger blocks than it has."""

    def __init__(self, model: Callable[[np.ndarray], np.ndarray], scale: Fraction, factor: int) -> None:
        q, p = factor * scale.denominator, factor * scale.numerator
        self.geometry = Geometry(q, p, q, q, "rec601")
        self._model = model

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._model(images)


def noise(seed: int, *sides: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, *sides, 1)).astype("float32")


def expected_side(side: int, scale: Fraction) -> int:
    return (2 * side * scale.numerator + scale.denominator) // (2 * scale.denominator)


@cache
def photo_pairs(scale: Fraction) -> Pairs:
    photo = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / "camera.png"))
    labels = [photo[y : y + 48, x : x + 48] for y in range(0, 384, 96) for x in range(0, 384, 96)]
    return Pairs.from_images(
        [{}] * len(labels), [shrink_label(label, scale, "lanczos") for label in labels], labels, scale
    )


@cache
def ridge_upscaler(scale: Fraction) -> ridge.RidgeUpscaler:
    return ridge.RidgeUpscaler(ridge.fit(photo_pairs(scale)), scale, "rec601")


@cache
def network(name: str, scale: Fraction) -> KerasUpscaler:
    given = {
        "network": name.split("-")[0],
        "scale": scale,
        "initializer": "gaussian",
        "bias_initializer": "as_weights",
    }
    given |= NETWORKS[name]
    if scale == 1:
        given.pop("pre_upscale", None)  # refused at 1:1
    checked = parse_settings("train", given)
    model = builder.build(checked, 12, "rec601", ridge.fit(photo_pairs(scale)))
    rng = np.random.default_rng(0)
    for (
        variable
    ) in model.trainable_variables:  # the body of skip=ridge is zero before training and would not be tested
        if not np.any(variable):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return KerasUpscaler(model)


def model_of(name: str, scale: Fraction) -> UpscalingModel:
    if name in FILTERS:
        return FilterUpscaler(name, scale)
    return ridge_upscaler(scale) if name == "ridge" else network(name, scale)


@pytest.mark.parametrize("name", [*FILTERS, "ridge"])
@few
@given(scale=SCALE, height=SIDE, width=SIDE, seed=SEED)
def test_the_sides_of_the_result_are_rounded_half_up(
    name: str, scale: Fraction, height: int, width: int, seed: int
) -> None:
    large = upscale(model_of(name, scale), noise(seed, height, width, count=2))
    assert large.shape == (2, expected_side(height, scale), expected_side(width, scale), 1)
    assert large.dtype == "float32"
    assert np.abs(large).max() <= 1
    assert np.isfinite(large).all()


@pytest.mark.parametrize("scale", [Fraction(4, 3), Fraction(5, 4), Fraction(5, 2), Fraction(8)], ids=format_value)
@pytest.mark.parametrize("recompose", ["concatenate", "gaussian"])
def test_the_sides_of_the_result_are_rounded_half_up_at_other_scales(scale: Fraction, recompose: str) -> None:
    for side in range(1, 30):
        large = upscale(Blocked(FilterUpscaler("bicubic", scale), scale, 4), noise(side, side, 31 - side), recompose)
        assert large.shape == (1, expected_side(side, scale), expected_side(31 - side, scale), 1)


@pytest.mark.parametrize("recompose", ["concatenate", "gaussian"])
@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_upscale_images_from_1x1(name: str, scale: Fraction, recompose: str) -> None:
    for height, width in ((1, 1), (1, 7), (2, 1), (5, 13)):
        large = upscale(network(name, scale), noise(0, height, width), recompose)
        assert large.shape == (1, expected_side(height, scale), expected_side(width, scale), 1)
        assert np.isfinite(large).all()
        assert np.abs(large).max() <= 1


@pytest.mark.parametrize("name", [*FILTERS, "ridge"])
@settings(max_examples=25, phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink))
@given(scale=SCALE, height=SIDE, width=SIDE, tile=TILE, seed=SEED)
def test_tiling_does_not_change_the_result_of_baselines(
    name: str, scale: Fraction, height: int, width: int, tile: int, seed: int
) -> None:
    assume((name, scale) != ("nearest", Fraction(3, 2)))  # see FilterUpscaler
    images = noise(seed, height, width)
    model = model_of(name, scale)
    np.testing.assert_allclose(upscale(model, images, tile=tile), upscale(model, images, tile=4096), atol=1e-5)


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=6)
@given(height=SIDE, width=SIDE, tile=TILE, seed=SEED)
def test_tiling_does_not_change_the_result_of_networks(
    name: str, scale: Fraction, height: int, width: int, tile: int, seed: int
) -> None:
    model = network(name, scale)
    images = noise(seed, height, width) / 2
    whole = upscale(model, images, tile=4096)
    assert np.mean(np.abs(whole) < 1) > 0.5  # most of it is not clipped
    np.testing.assert_allclose(upscale(model, images, tile=tile), whole, atol=1e-5)


def test_tiles_are_at_most_the_tile_size_plus_the_halo() -> None:
    seen = []

    def recorded(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape[1:3])
        return images.repeat(2, 1).repeat(2, 2)

    model = Blocked(recorded, Fraction(2), 4)
    image = noise(0, 50, 30)
    np.testing.assert_array_equal(upscale(model, image, tile=16), image.repeat(2, 1).repeat(2, 2))
    assert len(seen) == 4 * 2
    for sides in seen:
        assert all(side <= 16 + 2 * model.geometry.halo for side in sides)
        assert all(side >= model.geometry.min_side and side % model.geometry.q == 0 for side in sides)


@pytest.mark.parametrize("factor", [4, 5, 6, 8])
@few
@given(height=SIDE, width=SIDE, seed=SEED)
def test_gaussian_equals_concatenate_for_a_model_that_ignores_its_blocks(
    factor: int, height: int, width: int, seed: int
) -> None:
    model = Blocked(lambda images: images.repeat(2, 1).repeat(2, 2), Fraction(2), factor)
    image = noise(seed, height, width)
    np.testing.assert_allclose(upscale(model, image, "gaussian"), image.repeat(2, 1).repeat(2, 2), atol=1e-5)


@few
@given(scale=SCALE, height=SIDE, width=SIDE, grey=st.floats(-1, 1, width=32), factor=st.sampled_from([2, 4, 5, 8]))
def test_gaussian_keeps_a_constant_image_constant(
    scale: Fraction, height: int, width: int, grey: float, factor: int
) -> None:
    constant = np.full((1, height, width, 1), grey, "float32")
    large = upscale(Blocked(FilterUpscaler("bilinear", scale), scale, factor), constant, "gaussian")
    np.testing.assert_allclose(large, grey, atol=1e-5)


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
def test_gaussian_equals_concatenate_for_ridge_away_from_the_border(scale: Fraction) -> None:
    # at the border, shifted blocks mirror the image differently
    image = noise(3, 40, 50)
    plain = upscale(ridge_upscaler(scale), image)
    np.testing.assert_array_equal(upscale(ridge_upscaler(scale), image, "gaussian"), plain)
    edge = int(blocks.MARGIN * scale)
    inside = np.s_[:, edge:-edge, edge:-edge]
    large = upscale(Blocked(ridge_upscaler(scale), scale, 5 * 4), image, "gaussian")
    np.testing.assert_allclose(large[inside], plain[inside], atol=1e-5)


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
def test_gaussian_differs_from_concatenate_for_a_perceptron(scale: Fraction) -> None:
    image = noise(0, 40, 40) / 2
    plain, smooth = (upscale(network("perceptron", scale), image, way) for way in ("concatenate", "gaussian"))
    assert plain.shape == smooth.shape
    assert np.abs(plain - smooth).mean() > 0.01


@few
@given(q=st.integers(1, 6), rows=st.integers(1, 4), columns=st.integers(1, 4), channels=st.integers(1, 3), seed=SEED)
def test_fold_equals_reshape_and_transpose_and_unfold_is_its_inverse(
    q: int, rows: int, columns: int, channels: int, seed: int
) -> None:
    x = np.random.default_rng(seed).normal(size=(2, rows * q, columns * q, channels)).astype("float32")
    folded = np.asarray(blocks.fold(x, q))
    expected = x.reshape(2, rows, q, columns, q, channels).transpose(0, 1, 3, 2, 4, 5)
    np.testing.assert_array_equal(folded, expected.reshape(2, rows, columns, q * q * channels))
    np.testing.assert_array_equal(blocks.unfold(folded, q), x)


@few
@given(p=st.integers(1, 6), rows=st.integers(1, 4), columns=st.integers(1, 4), seed=SEED)
def test_unfold_equals_reshape_and_transpose_and_fold_is_its_inverse(
    p: int, rows: int, columns: int, seed: int
) -> None:
    x = np.random.default_rng(seed).normal(size=(2, rows, columns, p * p)).astype("float32")
    unfolded = np.asarray(blocks.unfold(x, p))
    expected = x.reshape(2, rows, columns, p, p).transpose(0, 1, 3, 2, 4).reshape(2, rows * p, columns * p, 1)
    np.testing.assert_array_equal(unfolded, expected)
    np.testing.assert_array_equal(blocks.fold(unfolded, p), x)


@few
@given(height=st.integers(4, 9), width=st.integers(4, 9), margin=st.integers(0, 4), seed=SEED)
def test_pad_mirrors_the_border_including_the_edge_pixels(height: int, width: int, margin: int, seed: int) -> None:
    x = noise(seed, height, width)
    padded = np.asarray(blocks.pad(x, margin))
    around = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    np.testing.assert_array_equal(padded, np.pad(x, around, mode="symmetric"))


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
def test_ridge_in_numpy_equals_ridge_in_keras(scale: Fraction) -> None:
    weights = ridge.fit(photo_pairs(scale))
    in_keras = KerasUpscaler(builder.build_ridge(weights, scale, "rec601"))
    in_numpy = ridge.RidgeUpscaler(weights, scale, "rec601")
    assert in_keras.geometry == in_numpy.geometry
    for height, width in ((4, 4), (4, 10), (24, 36)):
        image = noise(height, height, width, count=2)
        np.testing.assert_allclose(in_keras(image), in_numpy(image), atol=1e-5)


@pytest.mark.parametrize("alpha", [0.01, 10.0])
@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
def test_ridge_equals_that_of_scikit_learn(scale: Fraction, alpha: float) -> None:
    q, p = get_block_sides(scale)
    rows, targets = [], []
    side = q + 2 * blocks.MARGIN
    for inputs, labels in photo_pairs(scale).batches(1):
        padded = np.pad(inputs[0, ..., 0], blocks.MARGIN, mode="symmetric").astype("float64")
        for y in range(inputs.shape[1] // q):
            for x in range(inputs.shape[2] // q):
                rows.append(padded[y * q : y * q + side, x * q : x * q + side].ravel())
                targets.append(labels[0, y * p : y * p + p, x * p : x * p + p, 0].ravel())
    expected = Ridge(alpha=alpha, fit_intercept=False).fit(np.array(rows), np.array(targets, "float64"))
    weights = ridge.fit(photo_pairs(scale), alpha)
    assert weights.shape == (side * side, p * p)
    np.testing.assert_allclose(weights, expected.coef_.T, atol=1e-4)


def test_ridge_beats_lanczos_on_its_training_images() -> None:
    inputs, labels = next(photo_pairs(Fraction(2)).batches(16))
    errors = [
        np.abs(upscale(model_of(name, Fraction(2)), inputs) - labels).mean()
        for name in ("ridge", "lanczos", "nearest")
    ]
    assert errors == sorted(errors)


@few
@given(rows=st.integers(2, 9), columns=st.integers(2, 9), scale=SCALE, seed=SEED, quarters=st.integers(0, 3))
def test_the_self_ensemble_of_a_rotated_image_is_the_rotated_result(
    rows: int, columns: int, scale: Fraction, seed: int, quarters: int
) -> None:
    alone = network("convolutional", scale)
    q = alone.geometry.q
    least = -(-alone.geometry.min_side // q)
    image = noise(seed, *((least + side) * q for side in (rows, columns)))
    ensemble = SelfEnsemble(alone)
    turned = np.ascontiguousarray(np.rot90(image, quarters, axes=(1, 2))[:, ::-1])
    expected = np.rot90(upscale(ensemble, image), quarters, axes=(1, 2))[:, ::-1]
    np.testing.assert_allclose(upscale(ensemble, turned), expected, atol=1e-5)


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
def test_the_self_ensemble_of_a_symmetric_filter_equals_the_filter(scale: Fraction) -> None:
    image = noise(0, 12, 18)
    filtered = FilterUpscaler("bicubic", scale)
    np.testing.assert_allclose(upscale(SelfEnsemble(filtered), image), upscale(filtered, image), atol=1e-5)
    assert np.abs(upscale(SelfEnsemble(network("convolutional", scale)), image)).max() <= 1
