"""The streaming PNG encoder: pixels and metadata are equal in two readers."""

import io

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from loupe.imaging.image_data import ImageStream
from loupe.imaging.png import encode_png
from loupe.imaging.reader import read_photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def written(pixels, cuts=(), compress_level=1, **options):
    height, width, bands = pixels.shape
    stream = ImageStream((width, height), bands, pixels.dtype, iter(np.split(pixels, cuts)))
    return b"".join(encode_png(stream, compress_level, options))


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
def test_pixels_are_equal_after_reading(bands, deep, height, width, compress_level, smooth, cuts, seed):
    full = 65535 if deep else 255
    pixels = np.random.default_rng(seed).integers(0, full + 1, (height, width, bands))
    if smooth:
        pixels = np.sort(np.sort(pixels, axis=0), axis=1)
    pixels = pixels.astype("uint16" if deep else "uint8")
    file = written(pixels, sorted({cut for cut in cuts if cut < height}), compress_level)
    image = pyvips.Image.new_from_buffer(file, "")
    assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)
    assert image.format == ("ushort" if deep else "uchar")
    if not deep:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))).reshape(pixels.shape), pixels)


@pytest.mark.parametrize(("compress_level", "limit"), [(1, 1.05), (6, 1.1), (9, 1.1)])
def test_the_file_is_about_as_small_as_with_pillow(real_crop, compress_level, limit):
    photo = real_crop("coffee.png", 0, 0, 400, 300).resize((600, 450))
    file = io.BytesIO()
    photo.save(file, "PNG", compress_level=compress_level)
    assert len(written(np.asarray(photo), compress_level=compress_level)) <= limit * file.tell()


def test_metadata_are_read_back(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "A cup"
    file = tmp_path / "page.png"
    file.write_bytes(written(np.zeros((3, 4, 3), "uint8"), icc_profile=SRGB, dpi=(300, 200), exif=exif))
    metadata = next(read_photo(file).images).metadata
    assert metadata.icc == SRGB
    assert metadata.exif[0x010E] == "A cup"
    assert metadata.dpi == pytest.approx((300, 200), abs=0.02)
