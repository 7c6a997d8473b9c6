"""`loupe.Upscaler` upscales PIL images and arrays, and returns the same type."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageCms

import loupe
from loupe import Upscaler
from loupe.errors import UsageError
from loupe.imaging.decoder import PhotoError
from loupe.upscalers import bundled


@pytest.fixture(scope="module")
def upscaler():
    return Upscaler.load()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_an_image_gives_an_image(upscaler, mode):
    image = Image.fromarray(np.full((20, 31), 3000, "uint16")) if mode == "I;16" else Image.new(mode, (31, 20))
    large = upscaler(image)
    assert large.size == (47, 30)
    assert large.mode == {"1": "L", "P": "RGB", "CMYK": "RGB"}.get(mode, mode)


def test_grey_of_16_bits_with_a_transparent_value_becomes_grey_of_8_bits_with_alpha(upscaler):
    image = Image.fromarray(np.repeat(np.uint16([[3000, 60000]]), 10, axis=1).repeat(20, axis=0))
    image.info["transparency"] = 3000
    large = upscaler(image)
    assert (large.mode, large.size) == ("LA", (30, 30))
    grey, alpha = np.moveaxis(np.asarray(large), -1, 0)
    assert alpha[15, [2, 27]].tolist() == [0, 255]
    assert abs(int(grey[15, 27]) - 60000 / 257) <= 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [None, 1, 2, 3, 4])
def test_an_array_gives_an_array(upscaler, dtype, bands):
    pixels = np.full((20, 31) if bands is None else (20, 31, bands), 200, dtype)
    large = upscaler(pixels, scale="3:2")
    assert large.dtype == dtype
    assert large.shape == (30, 47, *pixels.shape[2:])
    assert np.abs(large.astype(int) - 200).max() <= (1 if dtype == "uint8" else 32)  # 1/8 of a level of 8 bits


def test_the_scale_or_the_size_sets_the_size_of_the_result(upscaler):
    image = Image.new("RGB", (40, 30))
    assert upscaler(image, scale=3.7).size == (148, 111)
    assert upscaler(image, scale=1).size == (40, 30)
    assert upscaler(image, size=(80, 60)).size == (80, 60)
    noise = np.random.default_rng(0).integers(0, 256, (30, 40), "uint8")
    assert np.array_equal(upscaler(noise, size=[40, 30]), noise)  # its own size: as it is
    assert {"of 2:1", "of 4:1"} <= {name[-6:] for name in upscaler.networks.used_names.split(", ")}


def test_the_colour_profile_is_kept_and_the_orientation_is_applied(upscaler):
    image = Image.new("RGB", (40, 30))
    image.getexif()[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.info["icc_profile"] = profile
    large = upscaler(image)
    assert large.size == (45, 60)
    assert large.info["icc_profile"] == profile


def test_a_model_can_be_a_file_or_a_filter(tmp_path):
    file = bundled.find_file("tiny", Fraction(3, 2))
    for name in (file, str(file)):
        assert Upscaler.load(name)(Image.new("L", (10, 10))).size == (15, 15)
    grey = np.random.default_rng(0).integers(0, 256, (12, 16)).astype("uint8")
    expected = Image.fromarray(grey.astype("float32")).resize((32, 24), Image.Resampling.LANCZOS)
    by_filter = Upscaler.load("lanczos")(grey, scale=2)
    assert np.abs(by_filter - np.clip(np.asarray(expected), 0, 255)).max() <= 1


SIZE_RULE = "size: must be two integers, width and height"


@pytest.mark.parametrize(
    ("image", "options", "kind", "word"),
    [
        ("photo.png", {}, TypeError, "PIL image or a numpy array, got str"),
        (np.zeros((4, 4)), {}, TypeError, "uint8 or uint16, got float64"),
        (np.zeros((4, 4, 5), "uint8"), {}, ValueError, r"got \(4, 4, 5\)"),
        (np.zeros((0, 4), "uint8"), {}, PhotoError, "at least one pixel"),
        (np.zeros((4, 4), "uint8"), {"scale": 9}, ValueError, "scale: must be a ratio .* from 1 to 8, got 9"),
        (np.zeros((4, 4), "uint8"), {"size": 8}, ValueError, f"{SIZE_RULE}, got 8"),
        (np.zeros((4, 4), "uint8"), {"size": (8,)}, ValueError, rf"{SIZE_RULE}, got \(8,\)"),
        (np.zeros((4, 4), "uint8"), {"size": (8, 8, 3)}, ValueError, rf"{SIZE_RULE}, got \(8, 8, 3\)"),
        (np.zeros((4, 4), "uint8"), {"size": (8.5, 8)}, ValueError, rf"{SIZE_RULE}, got \(8.5, 8\)"),
        (np.zeros((4, 4), "uint8"), {"size": (None, 8)}, ValueError, rf"{SIZE_RULE}, got \(None, 8\)"),
        (np.zeros((4, 4), "uint8"), {"size": "8x8"}, ValueError, f"{SIZE_RULE}, got '8x8'"),
        (np.zeros((4, 4), "uint8"), {"denoise": "5"}, ValueError, "denoise: must be None, or a number .*, got '5'"),
        (np.zeros((4, 4), "uint8"), {"size": (8, 8), "scale": 2}, ValueError, "must not be used with scale"),
        (np.zeros((4, 4), "uint8"), {"size": (9, 4), "fit": "exact"}, PhotoError, "aspect ratio"),
        (Image.new("F", (4, 4)), {}, PhotoError, "must have a known range"),
    ],
)
def test_invalid_images_and_arguments_are_refused(upscaler, image, options, kind, word):
    with pytest.raises(kind, match=word):
        upscaler(image, **options)


@pytest.mark.parametrize("model", ["nowhere.onnx", "huge", None, 3])
def test_a_missing_model_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"model: must be .*, got {model!r}"):
        Upscaler.load(model)


def test_the_package_has_no_other_lazy_names():
    with pytest.raises(AttributeError, match="nothing"):
        _ = loupe.nothing
