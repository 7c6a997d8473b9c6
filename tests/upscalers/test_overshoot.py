"""The limit of the overshoot at the edges of text."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from loupe.photos.networks import LoadedModel, Networks, load_bundled
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.overshoot import LimitedOvershoot
from loupe.upscalers.tiling import SelfEnsemble, upscale, upscale_rows


@pytest.fixture(scope="module", params=[(120, 255), (90, 200), (180, 60)])
def text(request):
    """Lines of text of different sizes, float32 in [-1, 1]."""
    colour, background = request.param
    page = Image.new("L", (200, 120), background)
    draw = ImageDraw.Draw(page)
    for top, size in ((5, 8), (20, 10), (40, 13), (60, 20), (90, 16)):
        draw.text((4, top), "Fine print 123 (illumination)", fill=colour, font=ImageFont.load_default(size))
    return np.asarray(page, "float32") / 127.5 - 1


def measure_overshoot(image, large, scale):
    """Measure how far pixels are outside the range of the 3x3 pixels of the image around them, in grey levels."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, 1, mode="edge"), (3, 3))
    rows, columns = (((np.arange(side) + 0.5) / float(scale)).astype(int) for side in large.shape)
    low, high = (extreme(windows, axis=(2, 3))[rows][:, columns] for extreme in (np.min, np.max))
    return 127.5 * max((low - large).max(), (large - high).max())


@pytest.mark.parametrize("scale", ["3/2", "2", "3"])
def test_grey_text_has_the_overshoot_of_lanczos(text, scale):
    scale = Fraction(scale)
    model = load_bundled("small", scale).model
    images = text[None, ..., None]
    limited, unlimited = (upscale(each, images)[0, ..., 0] for each in (LimitedOvershoot(model), model))
    lanczos = np.asarray(Image.fromarray(text).resize(limited.shape[::-1], Image.Resampling.LANCZOS)).clip(-1, 1)
    allowed = measure_overshoot(text, lanczos, scale)
    assert measure_overshoot(text, limited, scale) <= allowed < measure_overshoot(text, unlimited, scale)


def test_the_limit_does_not_depend_on_tiles_and_strips(text):
    model = LimitedOvershoot(load_bundled("tiny", Fraction(3, 2)).model)
    large = upscale(model, text[None, ..., None])[0, ..., 0]
    for tile in (16, 50):
        assert np.abs(upscale(model, text[None, ..., None], tile=tile)[0, ..., 0] - large).max() < 1e-5
    strips = [
        upscale_rows(model, lambda top, bottom: text[top:bottom], len(text), range(top, top + 30))
        for top in range(0, len(large), 30)
    ]
    assert np.abs(np.concatenate(strips) - large).max() < 1e-5


def test_photos_use_the_limit_and_filters_do_not():
    networks = Networks([Fraction(1), Fraction(2)], lambda scale: load_bundled("small", Fraction(3, 2)))
    assert isinstance(networks(Fraction(2)), LimitedOvershoot)
    assert not isinstance(networks(Fraction(1)), LimitedOvershoot)
    for ensemble in (False, True):
        filters = Networks(
            [Fraction(2)], lambda scale: LoadedModel("lanczos", FilterUpscaler("lanczos", scale)), ensemble
        )
        assert isinstance(filters(Fraction(2)), SelfEnsemble if ensemble else FilterUpscaler)
