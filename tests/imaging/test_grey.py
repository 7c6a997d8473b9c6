"""The grey pixels of a photo are those of the whole image, whatever its mode, orientation and size of strips."""

import io

import numpy as np
import pytest
from PIL import Image
from whole_images import open_photo

from loupe.data import reservations
from loupe.errors import LoupeError
from loupe.imaging import grey
from loupe.imaging.decoder import PhotoError
from loupe.imaging.luminance import compute_luminance


def encode(image, suffix, orientation=1, **options):
    exif = Image.Exif()
    exif[0x112] = orientation
    stream = io.BytesIO()
    image.save(stream, suffix, exif=exif, **options)
    return stream.getvalue()


@pytest.fixture
def photo(real_crop):
    return real_crop("astronaut.png", 180, 60, 61, 43)


def check(content, luminance, monkeypatch):
    whole = compute_luminance(open_photo(content), luminance)
    monkeypatch.setattr(grey, "STRIP_PIXELS", 200)
    found = grey.GreyPhoto(content, lambda size: None)
    assert (found.height, found.width) == whole.shape
    assert np.array_equal(found.read(luminance), whole)
    found.shrink(16)  # keeps the grey pixels
    assert np.array_equal(found.read(luminance, (3, 5, 40, 31)), whole[5:31, 3:40])


@pytest.mark.parametrize("luminance", ["rec601", "rec709", "relative", "studio"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_strips_give_the_pixels_of_the_whole_image(mode, luminance, photo, monkeypatch):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(photo.convert("L")).astype("uint16") * 257 + 3)
    else:
        image = photo.convert(mode)
    check(encode(image, "PNG"), luminance, monkeypatch)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["JPEG", "TIFF", "PNG"])
def test_orientation_is_applied_to_the_grey_pixels(suffix, orientation, photo, monkeypatch):
    check(encode(photo, suffix, orientation), "rec709", monkeypatch)


def test_a_transparent_grey_value_is_white_with_8_and_16_bits():
    values = np.array([[20, 60], [60, 20]], "uint16")
    for image, transparent in ((values.astype("uint8"), 20), (values * 257, 20 * 257)):
        content = encode(Image.fromarray(image), "PNG", transparency=transparent)
        for luminance in (None, "rec709"):
            found = grey.GreyPhoto(content, lambda size: None).read(luminance)
            assert found.tolist() == [[255, 60], [60, 255]]


def test_rows_longer_than_a_strip_are_split(monkeypatch):
    monkeypatch.setattr(grey, "STRIP_PIXELS", 7)
    values = np.arange(20, dtype="uint8").reshape(2, 10)
    found = grey.GreyPhoto(encode(Image.fromarray(values), "PNG"), lambda size: None)
    assert np.array_equal(found.read("rec709"), values)


def test_a_photo_beyond_the_budget_is_refused_before_it_is_decoded(photo, monkeypatch):
    monkeypatch.setattr(reservations, "MAX_PHOTO_BYTES", 17 * 10**6)
    content = encode(photo.resize((1000, 900)), "PNG")
    with (
        reservations.reserve() as reserve_bytes,
        pytest.raises(PhotoError, match=r"memory: must be at most 17 MB per photo, got 23 MB"),
    ):
        grey.GreyPhoto(content, reserve_bytes)


def test_a_machine_with_too_little_memory_for_a_photo_does_not_skip_the_photo(photo, monkeypatch):
    monkeypatch.setattr(reservations, "get_budget", lambda: 17 * 10**6)
    content = encode(photo.resize((1000, 900)), "PNG")
    with (
        reservations.reserve() as reserve_bytes,
        pytest.raises(LoupeError, match=r"memory: must be at least 23 MB for a photo, got 17 MB on this machine"),
    ):
        grey.GreyPhoto(content, reserve_bytes)
