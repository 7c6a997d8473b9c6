"""Restoration by a network of the scale factor 1:1 changes only the luminance, by the strength, inside the mask."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from loupe.errors import UsageError
from loupe.imaging.conversion import compress_jpeg
from loupe.imaging.image_data import ImageData
from loupe.imaging.luminance import REC_601
from loupe.photos import restoration
from loupe.photos.networks import LoadedModel, Networks
from loupe.photos.restoration import BlendTransform
from loupe.photos.sizes import Target
from loupe.photos.upscaling import UpscaleTransform
from loupe.tracking.resolver import ResolveOptions, resolve_model
from loupe.upscalers.baselines import FilterUpscaler

BRIGHTER = 20  # grey values


class Brighter:
    """Adds BRIGHTER to the luminance, and records the strengths of the JPEG artefacts."""

    def __init__(self):
        self.geometry = replace(FilterUpscaler("nearest", Fraction(1)).geometry, condition="jpeg")
        self.strengths = set()

    def __call__(self, images):
        self.strengths |= set(np.unique(images[..., 1]).tolist())
        return images[..., :1] + np.float32(BRIGHTER / 127.5)


def restored(pixels, strength=1.0, mask=None, model=None, quality=None):
    networks = Networks([Fraction(1)], lambda _: LoadedModel("m", model or Brighter()))
    transform = BlendTransform(UpscaleTransform(Target(), networks, quality), strength, mask)
    stream = transform(ImageData(pixels))
    assert transform.estimate_memory((pixels.shape[1], pixels.shape[0]), pixels.itemsize * pixels.shape[2]) > 0
    assert stream.size == (pixels.shape[1], pixels.shape[0])
    return np.concatenate(list(stream.strips))


@pytest.fixture(scope="module")
def photo(real_crop):
    pixels = np.asarray(real_crop("coffee.png", 200, 150, 101, 67))
    return pixels // 2 + 40  # no colour is clipped


def test_the_luminance_changes_by_the_strength_and_the_colours_keep_their_differences(photo):
    for strength in (1, 0.5, 0):
        change = restored(photo, strength).astype(int) - photo
        assert np.abs(change - strength * BRIGHTER).max() <= 0.5
        assert np.abs(change @ REC_601 - strength * BRIGHTER).max() <= 0.5


def test_the_mask_limits_the_restoration(photo, monkeypatch):
    mask = np.zeros(photo.shape[:2], "uint8")
    mask[:, 50:] = 255
    mask[:, 49] = 51
    result = restored(photo, 1, mask)
    assert np.array_equal(result[:, :49], photo[:, :49])
    assert np.array_equal(result[:, 50:], restored(photo)[:, 50:])
    assert np.abs(result[:, 49].astype(int) - photo[:, 49] - BRIGHTER / 5).max() <= 0.5
    monkeypatch.setattr(restoration, "BLEND_PIXELS", 10 * photo.shape[1] + 1)
    assert np.array_equal(restored(photo, 1, mask), result)


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_16_bits_and_alpha_are_kept(photo, bands):
    deep = np.repeat(photo[..., :1], bands, axis=2).astype("uint16") * 257
    deep[:40, :, -1] //= 2
    result = restored(deep)
    colours = bands - (bands in (2, 4))
    assert result.dtype == np.uint16
    assert np.array_equal(result[..., colours:], deep[..., colours:])
    assert np.abs(result[..., :colours].astype(int) - deep[..., :colours] - BRIGHTER * 257).max() <= 1


def test_the_network_gets_the_quality_of_the_pixels_or_the_given_quality(photo):
    strengths = [(model := Brighter(), restored(compress_jpeg(photo, 40), model=model, quality=given))[0].strengths
                 for given in (None, 40, 90)]  # fmt: skip
    assert strengths[0] == strengths[1] != strengths[2]


def test_only_networks_of_the_scale_factor_are_offered():
    assert resolve_model("champion", ResolveOptions(restore=True)).scales == [1]
    assert min(resolve_model("champion").scales) > 1
    with pytest.raises(UsageError, match=r"^model: must have the scale factor 1:1, got 'lanczos'$"):
        resolve_model("lanczos", ResolveOptions(restore=True))
