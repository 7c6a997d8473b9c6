"""The JPEG quality of pixels that were saved again is estimated; other images have no traces."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from loupe.imaging.jpeg_traces import WINDOW, estimate_jpeg_quality


@pytest.fixture(scope="module")
def photo(real_crop):
    return real_crop("coffee.png", 100, 60, 250, 190)


def compress(photo, quality, **options):
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=quality, **options)
    return np.asarray(Image.open(stream).convert("RGB"))


@pytest.mark.parametrize("quality", [10, 30, 60, 75, 85, 90, 95])
@pytest.mark.parametrize("corner", [(0, 0), (3, 5)], ids=str)
@pytest.mark.parametrize("options", [{"subsampling": 2}, {"subsampling": 0}], ids=str)
def test_the_quality_is_found_also_in_a_cropped_image(photo, quality, corner, options):
    pixels = compress(photo, quality, **options)[corner[0] :, corner[1] :]
    assert estimate_jpeg_quality(pixels) == pytest.approx(quality, abs=1)


@pytest.mark.parametrize(
    ("first", "last"), [(25, 75), (50, 75), (25, 90), (50, 90), (70, 90), (25, 98), (50, 98), (80, 98)]
)
def test_the_lower_quality_of_two_compressions_is_found(photo, first, last):
    pixels = compress(Image.fromarray(compress(photo, first)), last)
    assert estimate_jpeg_quality(pixels) == pytest.approx(first, abs=1)
    assert estimate_jpeg_quality(pixels, last) == pytest.approx(first, abs=1)


@pytest.mark.parametrize("quality", [8, 20, 50, 75, 90, 95, 99])
def test_one_compression_has_no_earlier_quality(photo, quality):
    assert estimate_jpeg_quality(compress(photo, quality), quality) == quality
    worse = compress(Image.fromarray(compress(photo, 95)), quality)
    assert estimate_jpeg_quality(worse, quality) == (quality if quality < 99 else pytest.approx(95, abs=4))


def test_grey_and_alpha_are_supported(photo):
    grey = compress(photo.convert("L"), 70)
    alpha = np.full_like(grey[..., :1], 255)
    for pixels in (grey[..., :1], np.concatenate([grey[..., :1], alpha], -1), np.concatenate([grey, alpha], -1)):
        assert estimate_jpeg_quality(pixels) == 70


def test_photos_that_were_resized_or_never_compressed_have_no_traces(photo):
    small = Image.fromarray(compress(photo, 50)).resize((180, 140), Image.Resampling.BICUBIC)
    for image in (photo, small, photo.convert("1").convert("L"), photo.quantize(16).convert("RGB")):
        pixels = np.asarray(image)
        assert estimate_jpeg_quality(pixels.reshape(*pixels.shape[:2], -1)) is None


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_patterns_have_no_traces(side):
    blocks = np.random.default_rng(side).integers(0, 256, (256 // side, 256 // side), "uint8")
    checks = (np.indices((256, 256)).sum(0) // side % 2 * 255).astype("uint8")
    gradient = np.tile(np.arange(256, dtype="uint8"), (256, 1)) * side
    for pixels in (np.kron(blocks, np.ones((side, side), "uint8")), checks, gradient):
        assert estimate_jpeg_quality(pixels[..., None]) is None


def test_drawings_have_no_traces():
    image = Image.new("L", (300, 200), "white")
    draw = ImageDraw.Draw(image)
    for number in range(40):
        draw.text((number % 5 * 57, number * 5), f"line {number} of a text", fill=number * 3)
        draw.line((number * 7, 0, 300 - number * 5, 200), fill=number * 6, width=1 + number % 3)
    assert estimate_jpeg_quality(np.asarray(image)[..., None]) is None


@pytest.mark.parametrize("shape", [(1, 1), (WINDOW - 1, 500), (WINDOW, WINDOW), (16, 16), (9, 3000)], ids=str)
def test_small_images_have_no_traces(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), "uint8")
    assert estimate_jpeg_quality(noise) is None
