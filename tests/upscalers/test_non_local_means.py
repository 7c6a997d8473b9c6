"""Non-local means give the result of scikit-image."""

import numpy as np
import pytest
from skimage.restoration import denoise_nl_means

from loupe.upscalers.non_local_means import MARGIN, denoise

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
