"""Luma, shrinking and scores of the classical protocol equal independent computations."""

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

from loupe.config import parse_settings
from loupe.data.sources import list_photos
from loupe.data.whole_photos import MIN_SIDE, WholePhotos, compute_border, shrink_bicubic
from loupe.errors import LoupeError, UsageError
from loupe.evaluation import scoring
from loupe.imaging.luminance import compute_luminance
from loupe.upscalers.baselines import FilterUpscaler

SCALES = [Fraction(3, 2), Fraction(2), Fraction(3)]


def keys(x):
    """The cubic convolution of Keys (1981) with a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def resizing(before, after):
    """Return imresize along one axis as a matrix (output side, input side): widened kernel, mirrored borders."""
    scale = after / before
    wide = max(1, 1 / scale)
    matrix = np.zeros((after, before))
    for row in range(after):
        middle = (row + 0.5) / scale - 0.5
        taps = np.arange(np.floor(middle - 2 * wide) - 1, np.ceil(middle + 2 * wide) + 2).astype(int)
        weights = keys((taps - middle) / wide)
        mirrored = np.where(taps < 0, -taps - 1, np.where(taps >= before, 2 * before - taps - 1, taps))
        np.add.at(matrix[row], mirrored, weights / weights.sum())
    return matrix


def resized(picture, scale):
    down, across = (resizing(side, int(side * scale)) for side in picture.shape)
    return down @ picture @ across.T


@pytest.fixture
def photos(tmp_path, real_crop, write_folder, encode):
    files = {
        "a.png": encode(real_crop("coffee.png", 100, 100, 131, 97), ".png"),
        "b.png": encode(real_crop("camera.png", 150, 60, 90, 120), ".png"),
        "broken.png": b"no image",
        "small.png": encode(real_crop("coffee.png", 0, 0, 12, 60), ".png"),
    }
    write_folder(tmp_path, files)
    return list_photos(parse_settings("preprocess", {"source": str(tmp_path)}))


def test_studio_luma_equals_scikit_image_and_keeps_grey(real_crop):
    colour = real_crop("coffee.png", 100, 100, 60, 50)
    expected = rgb2ycbcr(np.asarray(colour))[..., 0]
    assert np.abs(compute_luminance(colour, "studio") - expected).max() <= 0.5 + 1e-3
    assert compute_luminance(Image.new("RGB", (1, 1), "black"), "studio")[0, 0] == 16
    assert compute_luminance(Image.new("RGB", (1, 1), "white"), "studio")[0, 0] == 235
    grey = real_crop("camera.png", 0, 0, 30, 30)
    np.testing.assert_array_equal(compute_luminance(grey, "studio"), np.asarray(grey))


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_shrinking_equals_widened_cubic_convolution_with_mirrored_borders(scale):
    label = np.random.default_rng(0).uniform(-1, 1, (scale.numerator * 11, scale.numerator * 8)).astype("float32")
    np.testing.assert_allclose(shrink_bicubic(label, scale), resized(label, 1 / scale), atol=1e-5)


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_the_scores_of_bicubic_equal_a_direct_computation(photos, scale):
    pairs = WholePhotos(photos, scale)
    table = scoring.score({"bicubic": FilterUpscaler("bicubic", scale)}, pairs, border=compute_border(scale))
    assert list(table["path"]) == ["a.png", "b.png"]
    for path, found in zip(table["path"], table["psnr"], strict=True):
        photo = next(photo for photo in photos if photo.path == path)
        image = np.asarray(Image.open(io.BytesIO(photo.read_bytes())))
        luma = np.rint(rgb2ycbcr(image)[..., 0]) if image.ndim == 3 else image.astype(float)
        rows, columns = (side // scale.numerator * scale.numerator for side in luma.shape)
        label = luma[:rows, :columns]
        large = np.rint(resized(resized(label, 1 / scale), scale)).clip(0, 255)
        inside = np.s_[compute_border(scale) : -compute_border(scale), compute_border(scale) : -compute_border(scale)]
        expected = peak_signal_noise_ratio(label[inside], large[inside], data_range=255)
        assert found == pytest.approx(expected, abs=0.02)


def test_the_border_is_the_scale_rounded_up():
    assert [compute_border(scale) for scale in SCALES] == [2, 2, 3]


def test_batches_contain_one_photo_of_its_own_size(photos):
    pairs = WholePhotos(photos, Fraction(3, 2))
    assert len(pairs) == 2
    shapes = [(inputs.shape, labels.shape) for inputs, labels in pairs.batches(16)]
    assert shapes == [((1, 64, 86, 1), (1, 96, 129, 1)), ((1, 80, 60, 1), (1, 120, 90, 1))]
    assert [row["path"] for row in pairs.subsample(1).rows] == ["a.png"]


def delete(file):
    file.unlink()


def change(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "reason"), [(delete, "No such file or directory"), (change, "its content has changed")]
)
@pytest.mark.parametrize("is_opened", [False, True])
def test_a_photo_that_changes_after_the_listing_is_reported_by_name(photos, tmp_path, is_opened, harm, reason):
    pairs = WholePhotos(photos, Fraction(2)) if is_opened else None
    harm(tmp_path / "b.png")
    with pytest.raises(LoupeError, match=f"^photos: 'b.png' must not change during the step: {reason}$"):
        list((pairs or WholePhotos(photos, Fraction(2))).batches())


def test_skipped_photos_are_reported_with_the_first_reason(photos, capsys):
    WholePhotos(photos, Fraction(2))
    assert capsys.readouterr().out.startswith("skipped: 2 of 4 photos; the first: broken.png: ")
    WholePhotos(photos[:2], Fraction(2))
    WholePhotos(photos, Fraction(2), quiet=True)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("scale", "crop"), [("3", " after the crop to multiples of 3"), ("1", "")])
def test_a_photo_that_is_too_small_is_refused_with_the_compared_size(tmp_path, write_folder, encode, scale, crop):
    side = MIN_SIDE + 2 * int(scale) - (scale == "1")
    write_folder(tmp_path, {"a.png": encode(Image.new("L", (side, side)), ".png")})
    photos = list_photos(parse_settings("preprocess", {"source": str(tmp_path)}))
    smallest = MIN_SIDE + 2 * int(scale)
    with pytest.raises(UsageError, match=f"smaller than {smallest}x{smallest}{crop}: {side}x{side}$"):
        WholePhotos(photos, Fraction(scale))


def test_a_folder_without_usable_photos_is_refused_with_the_reason(photos):
    unusable = [photo for photo in photos if photo.path in ("broken.png", "small.png")]
    with pytest.raises(UsageError, match=r"usable image, got 2 files; the first unusable file: broken\.png: "):
        WholePhotos(unusable, Fraction(2))
