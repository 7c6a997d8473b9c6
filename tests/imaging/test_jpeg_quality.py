"""The quality of JPEG files is read from their tables; the strength of artefacts decreases with the quality."""

import numpy as np
import pytest
from PIL import Image

from loupe.imaging.jpeg_quality import compute_strength, read_jpeg_quality
from loupe.imaging.reader import read_photo

# flatter than the table of libjpeg
BASE_OF_MOZJPEG = np.clip(np.arange(64) // 8 * 4 + np.arange(64) % 8 * 4 + 16, 16, 255)


@pytest.fixture
def encode(tmp_path):
    def encode(image, name="JPEG", **options):
        image.save(tmp_path / "photo", name, **options)
        return tmp_path / "photo"

    return encode


@pytest.fixture(scope="module")
def photo(real_crop):
    return real_crop("coffee.png", 200, 150, 48, 40)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}], ids=str)
def test_every_quality_of_libjpeg_is_exact(photo, options, encode):
    for quality in range(1, 101):
        file = encode(photo, quality=quality, **options)
        assert next(read_photo(file).images).jpeg_quality == quality


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_the_quality_of_every_mode_is_exact(photo, mode, encode):
    assert next(read_photo(encode(photo.convert(mode), quality=63)).images).jpeg_quality == 63


def test_other_tables_get_the_nearest_quality(photo, encode):
    for percent, low, high in ((200, 15, 35), (100, 40, 60), (20, 85, 95)):
        table = np.clip(BASE_OF_MOZJPEG * percent // 100, 1, 255).tolist()
        image = Image.open(encode(photo, qtables=[table, table]))
        assert low <= read_jpeg_quality(image) <= high


def test_a_jpeg_that_was_saved_again_has_the_lower_quality(real_crop, encode):
    photo = real_crop("coffee.png", 100, 60, 250, 190)
    again = encode(Image.open(encode(photo, quality=40)), quality=95)
    assert next(read_photo(again).images).jpeg_quality == 40


@pytest.mark.parametrize(("name", "options"), [("PNG", {}), ("WEBP", {"quality": 30}), ("TIFF", {})])
def test_other_formats_have_no_quality(photo, name, options, encode):
    assert next(read_photo(encode(photo, name, **options)).images).jpeg_quality is None


def test_the_strength_grows_from_0_to_1_as_the_quality_falls():
    strengths = compute_strength(np.arange(100, 0, -1))
    assert strengths[0] == 0
    assert strengths[-1] == compute_strength(10) == 1
    assert (np.diff(strengths[:91]) > 0).all()
    assert compute_strength(75) == pytest.approx(0.456, abs=0.001)
