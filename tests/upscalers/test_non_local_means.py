"""Non-local means give the result of scikit-image, and texture and text are not white noise."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from skimage.restoration import denoise_nl_means

from loupe.upscalers.non_local_means import MARGIN, denoise, estimate_noise, estimate_white_noise

NOISE = 0.06


@pytest.mark.parametrize("shape", [(90, 70, 3), (90, 70, 1), (3, 5, 3), (1, 1, 1)], ids=str)
def test_the_result_is_that_of_scikit_image(shape):
    generator = np.random.default_rng(0)
    height, width, _ = shape
    slope = np.linspace(0.2, 0.8, height)[:, None, None] * np.linspace(0.5, 1, width)[:, None]
    image = (slope + generator.normal(0, NOISE, shape)).astype("float32")
    expected = denoise_nl_means(image, 5, 6, h=0.7 * NOISE, sigma=NOISE, fast_mode=True, channel_axis=-1)
    # scikit-image approximates exp
    assert np.abs(denoise(image, NOISE) - expected.reshape(shape)).max() < 1 / 255


def test_a_part_depends_on_its_margin_only():
    image = np.random.default_rng(1).random((60, 40, 1), "float32")
    whole = denoise(image, 0.2)
    part = denoise(image[20 - MARGIN : 40 + MARGIN], 0.2)[MARGIN:-MARGIN]
    assert np.allclose(part, whole[20:40], atol=1e-6)


@pytest.mark.parametrize("name", ["camera", "coffee", "astronaut", "chelsea"])
def test_white_noise_is_estimated_and_clean_photos_have_little(name):
    photo = getattr(data, name)()
    grey = np.asarray(Image.fromarray(photo).convert("L"), "float32")
    assert estimate_white_noise(grey) < 1.7
    for noise in (5, 10, 20):
        noisy = grey + np.random.default_rng(noise).normal(0, noise, grey.shape)
        assert estimate_white_noise(noisy) == pytest.approx(noise, rel=0.15)


@pytest.mark.parametrize("name", ["grass", "gravel", "brick", "coins"])
def test_texture_is_not_noise(name):
    grey = np.asarray(Image.fromarray(getattr(data, name)()).convert("L"), "float32")
    assert estimate_white_noise(grey) < 1


@pytest.mark.parametrize("size", [8, 10, 12, 16, 24])
def test_text_is_not_noise(size):
    image = Image.new("L", (600, 400), 255)
    line, font = "The quick brown fox jumps over the lazy dog 0123456789 " * 3, ImageFont.load_default(size)
    for top in range(0, 400, int(1.2 * size)):
        ImageDraw.Draw(image).text((5, top), line, 0, font)
    grey = np.asarray(image, "float32")
    assert estimate_noise(grey) > 10
    assert estimate_white_noise(grey) == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 90), (5, 7)], ids=str)
def test_small_and_flat_images_have_no_noise(shape):
    assert estimate_white_noise(np.full(shape, 7, "float32")) == 0
