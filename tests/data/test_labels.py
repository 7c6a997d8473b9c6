"""Labels have the position that the settings select, in photos of any size; inputs are shrunk labels."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loupe.config import parse_settings
from loupe.data.degradation import draw_degradation, make_inputs
from loupe.data.labels import BATCHED_LABELS, FILTERS, cut_labels, shrink_label, shrink_labels
from loupe.imaging.conversion import compress_jpeg
from loupe.imaging.decoder import PhotoError

SIZE = 24
SHA = "0123456789abcdef" * 4
SIDES = st.integers(SIZE, 130)
BY_SIZES = settings(max_examples=30)


def pairing(**given):
    return parse_settings("preprocess", {"label_size": SIZE} | given)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width), dtype="uint8")


def cut(grey, crop, seed=0, sha256=SHA, **given):
    return cut_labels(grey, pairing(crop=crop, **given), crop, seed, sha256)


def places(labels):
    return [(label.x, label.y, label.factor) for label in labels]


@pytest.mark.parametrize("crop", ["centre", "fit", "tiles", "random"])
@BY_SIZES
@given(height=SIDES, width=SIDES)
def test_labels_have_their_size_and_are_inside_the_photo(crop, height, width):
    labels = cut(noise(height, width), crop)
    assert labels
    for label in labels:
        assert label.pixels.shape == (SIZE, SIZE)
        assert label.pixels.dtype == np.uint8
        assert 0 <= label.x <= round(width * label.factor) - SIZE
        assert 0 <= label.y <= round(height * label.factor) - SIZE


@pytest.mark.parametrize("crop", ["centre", "tiles", "random"])
@BY_SIZES
@given(height=SIDES, width=SIDES)
def test_labels_without_resizing_equal_the_pixels_at_their_position(crop, height, width):
    grey = noise(height, width)
    native = [label for label in cut(grey, crop) if label.factor == 1]
    assert native
    for label in native:
        assert np.array_equal(label.pixels, grey[label.y :, label.x :][:SIZE, :SIZE])


@BY_SIZES
@given(height=SIDES, width=SIDES)
def test_centre_cuts_one_label_from_the_middle(height, width):
    (label,) = cut(noise(height, width), "centre")
    assert label.factor == 1
    assert abs((width - SIZE - label.x) - label.x) <= 1
    assert abs((height - SIZE - label.y) - label.y) <= 1


@BY_SIZES
@given(height=SIDES, width=SIDES)
def test_fit_shrinks_the_shorter_side_to_the_label(height, width):
    grey = noise(height, width)
    (label,) = cut(grey, "fit")
    small = round(width * label.factor), round(height * label.factor)
    assert min(small) == SIZE
    assert abs((small[0] - SIZE - label.x) - label.x) <= 1
    assert abs((small[1] - SIZE - label.y) - label.y) <= 1
    resized = np.asarray(Image.fromarray(grey).resize(small, Image.Resampling.LANCZOS))
    assert np.array_equal(label.pixels, resized[label.y :, label.x :][:SIZE, :SIZE])


@BY_SIZES
@given(height=SIDES, width=SIDES)
def test_tiles_fill_the_photo_without_overlap(height, width):
    labels = cut(noise(height, width), "tiles")
    covered = np.zeros((height, width), int)
    for label in labels:
        covered[label.y : label.y + SIZE, label.x : label.x + SIZE] += 1
    assert covered.max() == 1
    assert len(labels) == (height // SIZE) * (width // SIZE)


@BY_SIZES
@given(height=SIDES, width=SIDES, count=st.integers(1, 12))
def test_random_crops_shrink_every_second_photo_by_a_factor_of_at_least_0_5(height, width, count):
    labels = cut(noise(height, width), "random", labels_per_photo=count)
    assert len(labels) == count
    assert all(label.factor == 1 for label in labels[::2])
    assert all(0.5 <= label.factor <= 1 for label in labels[1::2])


@pytest.mark.parametrize(("rule", "tolerance"), [({}, 0), ({"labels_per_megapixel": 1000}, 1)])
def test_random_labels_equal_the_pixels_of_the_shrunk_photo(rule, tolerance):
    grey = noise(90, 120)
    labels = cut(grey, "random", **rule)
    assert any(label.factor < 1 for label in labels)
    for label in labels:
        small = round(120 * label.factor), round(90 * label.factor)
        resized = np.asarray(Image.fromarray(grey).resize(small, Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(label.pixels - resized[label.y :, label.x :][:SIZE, :SIZE]).max() <= tolerance


@pytest.mark.parametrize(("sides", "count"), [((24, 24), 1), ((100, 125), 1), ((1000, 1000), 6), ((1500, 3000), 27)])
def test_large_photos_have_more_random_labels(sides, count):
    grey = np.zeros(sides, np.uint8)
    labels = cut(grey, "random", labels_per_megapixel=6)
    assert len(labels) == count
    assert places(labels) == places(cut(grey, "random", labels_per_megapixel=6))


@BY_SIZES
@given(seed=st.integers(0, 2**31 - 1), sha256=st.text("0123456789abcdef", min_size=64, max_size=64))
def test_random_crops_depend_on_seed_and_content_hash(seed, sha256):
    grey = noise(150, 170)
    first, again = (cut(grey, "random", seed, sha256) for _ in range(2))
    assert places(first) == places(again)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, again, strict=True))
    assert places(first) != places(cut(grey, "random", seed + 1, sha256))
    another = f"{int(sha256[0], 16) ^ 1:x}{sha256[1:]}"
    assert places(first) != places(cut(grey, "random", seed, another))


@pytest.mark.parametrize("crop", ["centre", "fit", "tiles", "random"])
@pytest.mark.parametrize("shape", [(SIZE - 1, 100), (100, SIZE - 1), (1, 1)])
def test_a_photo_smaller_than_a_label_is_refused_with_both_sizes(crop, shape):
    with pytest.raises(PhotoError, match=f"smaller than {SIZE}x{SIZE}: {shape[1]}x{shape[0]}"):
        cut(noise(*shape), crop)


@pytest.mark.parametrize("crop", ["centre", "fit", "tiles", "random"])
def test_a_photo_of_the_size_of_a_label_becomes_the_label(crop):
    grey = noise(SIZE, SIZE)
    for label in cut(grey, crop):
        assert (label.x, label.y) == (0, 0)
        assert np.array_equal(label.pixels, grey)


@BY_SIZES
@given(blocks=st.integers(2, 12), scale=st.sampled_from(["3:2", "2:1", "3:1", "5:4", "8:3"]))
def test_the_side_of_an_input_is_that_of_the_label_divided_by_the_scale(blocks, scale):
    ratio = Fraction(scale.replace(":", "/"))
    side = 2 * ratio.numerator * blocks
    small = shrink_label(noise(side, side), ratio, "lanczos")
    assert small.shape == (2 * ratio.denominator * blocks,) * 2
    assert small.dtype == np.uint8


@pytest.mark.parametrize("shrink", FILTERS)
def test_the_setting_shrink_selects_the_filter(shrink):
    label = noise(SIZE, SIZE)
    pillow = Image.Resampling[shrink.upper()]
    expected = np.asarray(Image.fromarray(label).resize((SIZE // 2, SIZE // 2), pillow))
    assert np.array_equal(shrink_label(label, Fraction(2), shrink), expected)


def test_box_by_two_is_the_mean_of_four_pixels():
    label = np.kron(noise(SIZE // 2, SIZE // 2), np.ones((2, 2), "uint8"))
    assert np.array_equal(shrink_label(label, Fraction(2), "box"), label[::2, ::2])


@pytest.mark.parametrize("filters", [[name] * BATCHED_LABELS for name in FILTERS] + [list(FILTERS), ["lanczos"] * 2])
def test_labels_shrunk_together_equal_single_labels(filters):
    labels = [noise(SIZE + number, SIZE)[number:] for number in range(len(filters))]
    colour = np.repeat(labels[0][..., None], 3, axis=2)
    for scale in (Fraction(3, 2), Fraction(2)):
        for group in (labels, [colour, *labels[1:]]):
            single = [shrink_label(label, scale, name) for label, name in zip(group, filters, strict=True)]
            together = shrink_labels(group, scale, filters)
            assert all(np.array_equal(*pair) for pair in zip(single, together, strict=True))


def test_shrinking_keeps_a_constant_grey():
    for shrink in FILTERS:
        small = shrink_label(np.full((SIZE, SIZE), 77, "uint8"), Fraction(3, 2), shrink)
        assert (small == 77).all()


@pytest.mark.parametrize("crop", ["centre", "fit", "tiles", "random"])
def test_recompress_compresses_labels_as_jpeg(real_crop, crop):
    grey = np.asarray(real_crop("camera.png", 200, 80, 60, 50))
    plain, recompressed = cut(grey, crop), cut(grey, crop, recompress=75)
    assert places(plain) == places(recompressed)
    for before, after in zip(plain, recompressed, strict=True):
        assert np.array_equal(after.pixels, compress_jpeg(before.pixels, 75))
        assert not np.array_equal(after.pixels, before.pixels)


def test_recompress_compresses_inputs_as_jpeg(real_crop):
    label = np.asarray(real_crop("camera.png", 200, 80, SIZE, SIZE))
    plain, recompressed = (
        make_inputs([(label, draw_degradation(given, SHA, 0))], Fraction(3, 2), given)[0]
        for given in (pairing(), pairing(recompress=75))
    )
    assert np.array_equal(recompressed, compress_jpeg(plain, 75))
    assert not np.array_equal(recompressed, plain)
