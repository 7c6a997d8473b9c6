"""PNG files: every kind of page, however its rows come, is read back as it was, by two readers."""

import io

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from loupe.imaging import reader
from loupe.imaging.png import write_png
from loupe.imaging.reader import LargePage, Page

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def written(pixels, cuts=(), deep=False, compress_level=1, **options):
    height, width = pixels.shape[:2]
    file = io.BytesIO()
    page = LargePage((width, height), iter(np.split(pixels, cuts)), Page(pixels))
    write_png(file, page, deep, compress_level, options)
    return file.getvalue()


@settings(max_examples=60)
@given(
    bands=st.integers(1, 4),
    deep=st.booleans(),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    compress_level=st.integers(0, 9),
    smooth=st.booleans(),
    cuts=st.lists(st.integers(1, 39), max_size=4),
    seed=st.integers(0, 1000),
)
def test_pixels_come_back(bands, deep, height, width, compress_level, smooth, cuts, seed):
    full = 65535 if deep else 255
    pixels = np.random.default_rng(seed).integers(0, full + 1, (height, width, bands))
    if smooth:
        pixels = np.sort(np.sort(pixels, axis=0), axis=1)
    pixels = pixels.astype("uint16" if deep else "uint8")
    file = written(pixels, sorted({cut for cut in cuts if cut < height}), deep, compress_level)
    image = pyvips.Image.new_from_buffer(file, "")
    assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)
    assert image.format == ("ushort" if deep else "uchar")
    if not deep:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))).reshape(pixels.shape), pixels)


def test_a_page_of_sixteen_bits_is_written_in_eight_where_asked():
    pixels = np.arange(300, dtype="uint16").reshape(10, 10, 3) * 200
    found = np.asarray(Image.open(io.BytesIO(written(pixels))))
    assert np.array_equal(found, np.rint(pixels / 257))


@pytest.mark.parametrize(("compress_level", "share"), [(1, 1.0), (6, 1.05), (9, 1.05)])
def test_a_photo_is_about_as_small_as_pillow_makes_it(real_crop, compress_level, share):
    photo = real_crop("coffee.png", 0, 0, 400, 300).resize((600, 450))
    file = io.BytesIO()
    photo.save(file, "PNG", compress_level=compress_level)
    assert len(written(np.asarray(photo), compress_level=compress_level)) <= share * file.tell()


def test_what_goes_with_the_page_stands_where_readers_look_for_it(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "A cup"
    file = tmp_path / "page.png"
    file.write_bytes(written(np.zeros((3, 4, 3), "uint8"), icc_profile=SRGB, dpi=(300, 200), exif=exif))
    page = next(reader.read(file).pages)
    assert page.icc == SRGB
    assert page.exif[0x010E] == "A cup"
    assert page.dpi == pytest.approx((300, 200), abs=0.02)
