"""The decoder and the luminance formulas: a file is decoded or raises PhotoError with a reason."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from whole_images import open_photo

from loupe.imaging.conversion import compress_jpeg, from_floats, to_floats
from loupe.imaging.decoder import PhotoError
from loupe.imaging.luminance import compute_luminance

LUMINANCES = ["rec601", "rec709", "relative"]


@pytest.fixture(scope="session")
def photo(real_crop):
    return real_crop("chelsea.png", 130, 60, 40, 24)


def reason(content):
    with pytest.raises(PhotoError) as caught:
        open_photo(content)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mode_or_reason(content):
    try:
        return open_photo(content).mode
    except PhotoError as error:
        return str(error)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_8_bit_modes_are_unchanged(photo, encode, mode):
    opened = open_photo(encode(photo.convert(mode), ".png"))
    assert opened.mode == mode
    assert np.array_equal(opened, photo.convert(mode))


def test_a_path_and_its_bytes_give_equal_images(photo, encode, tmp_path):
    (tmp_path / "photo.png").write_bytes(encode(photo, ".png"))
    assert np.array_equal(open_photo(tmp_path / "photo.png"), photo)


def test_a_palette_becomes_rgb(photo, encode):
    palette = photo.quantize(64)
    opened = open_photo(encode(palette, ".png"))
    assert opened.mode == "RGB"
    assert np.array_equal(opened, palette.convert("RGB"))


def test_black_and_white_becomes_0_and_255(photo, encode):
    opened = open_photo(encode(photo.convert("1"), ".png"))
    assert opened.mode == "L"
    assert np.array_equal(opened, np.where(photo.convert("1"), 255, 0))


@pytest.mark.parametrize(("suffix", "tolerance"), [(".tif", 0), (".jpg", 3)])
def test_cmyk_becomes_rgb(photo, encode, suffix, tolerance):
    opened = open_photo(encode(photo.convert("CMYK"), suffix, quality=95))
    assert opened.mode == "RGB"
    assert np.abs(np.asarray(opened, int) - np.asarray(photo, int)).mean() <= tolerance


@pytest.mark.parametrize(("suffix", "order"), [(".png", "<u2"), (".tif", "<u2"), (".tif", ">u2")])
def test_16_bit_grey_is_divided_by_257(encode, suffix, order):
    values = np.arange(256, dtype="uint8").reshape(8, 32)
    content = encode(Image.fromarray((values.astype("uint16") * 257).astype(order)), suffix)
    opened = open_photo(content)
    assert opened.mode == "L"
    assert np.array_equal(opened, values)


def test_16_bit_grey_is_rounded(encode):
    opened = open_photo(encode(Image.fromarray(np.array([[128, 129, 65535, 256 * 100]], "uint16")), ".png"))
    assert np.asarray(opened).tolist() == [[0, 1, 255, 100]]


def test_the_first_frame_of_an_animation_is_decoded(photo, encode):
    frames = [photo.convert("L").quantize(256), Image.new("P", photo.size, 0)]
    opened = open_photo(encode(frames[0], ".gif", save_all=True, append_images=frames[1:], duration=50))
    assert np.array_equal(compute_luminance(opened, "rec601"), photo.convert("L"))


STORED = {  # EXIF orientation -> stored pixels of an upright image
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16"])
@pytest.mark.parametrize("orientation", STORED)
def test_the_exif_orientation_is_applied(photo, encode, orientation, mode):
    upright = photo.convert("L" if mode in ("I;16", "P") else mode)
    pixels = np.asarray(upright).astype("uint16") * 257 if mode == "I;16" else np.asarray(upright)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels)))
    stored = stored.quantize(256) if mode == "P" else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_photo(encode(stored, ".png", exif=exif))
    assert opened.size == upright.size
    assert np.array_equal(compute_luminance(opened, "rec601"), upright.convert("L"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_is_ignored(photo, encode):
    content = encode(photo, ".jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff")
    assert open_photo(content).size == photo.size


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".tif", ".webp"])
def test_a_truncated_file_is_an_error(photo, encode, suffix):
    content = encode(photo, suffix)
    assert reason(content[: len(content) * 2 // 3])


def test_a_truncated_jpeg_is_damaged(photo, encode):
    content = encode(photo, ".jpg")
    assert reason(content[: len(content) // 2 + 200]).startswith("damaged: ")


@pytest.mark.parametrize("content", [b"", b"a letter, not a photo", b"<svg/>"])
def test_a_file_that_is_not_an_image_is_an_error(content):
    assert reason(content) == "not an image"


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70_000)])
def test_values_without_a_known_range_are_an_error(encode, mode, value):
    assert (
        reason(encode(Image.new(mode, (8, 8), value), ".tif"))
        == f"pixels must have a known range, got Pillow's mode {mode!r}"
    )


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=40)
@given(
    suffix=st.sampled_from([".jpg", ".png", ".gif", ".tif", ".webp"]),
    keep=st.floats(0, 1),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
)
def test_damaged_files_are_decoded_or_raise_photo_error(photo, encode, suffix, keep, damage):
    content = bytearray(encode(photo, suffix))
    for place, value in damage:
        content[int(place * len(content))] = value
    assert re.fullmatch(
        "L|RGB|LA|RGBA|not an image|damaged: .+|pixels must have a known range, got Pillow's mode '.'",
        mode_or_reason(bytes(content[: int(keep * len(content))])),
    )


@settings(max_examples=30)
@given(arrays("uint8", (5, 7, 3)))
def test_rec601_equals_mode_l_of_pillow(pixels):
    image = Image.fromarray(pixels)
    assert np.array_equal(compute_luminance(image, "rec601"), np.asarray(image.convert("L")))


@pytest.mark.parametrize(
    ("luminance", "colour", "grey"),
    [
        ("rec601", (255, 0, 0), 76), ("rec601", (0, 255, 0), 150), ("rec601", (0, 0, 255), 29),
        ("rec709", (255, 0, 0), 54), ("rec709", (0, 255, 0), 182), ("rec709", (0, 0, 255), 18),
        ("rec709", (255, 255, 0), 237), ("rec709", (0, 255, 255), 201), ("rec709", (100, 0, 0), 21),
        ("relative", (255, 0, 0), 127), ("relative", (0, 255, 0), 220), ("relative", (0, 0, 255), 76),
        ("relative", (255, 255, 0), 247), ("relative", (0, 10, 0), 7),
    ],
)  # fmt: skip
def test_luminance_of_pure_colours(luminance, colour, grey):
    assert compute_luminance(Image.new("RGB", (2, 3), colour), luminance).tolist() == [[grey] * 2] * 3


@pytest.mark.parametrize("luminance", LUMINANCES)
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_grey_is_unchanged_by_all_formulas(luminance, mode):
    greys = np.arange(256, dtype="uint8").reshape(16, 16)
    grey = compute_luminance(Image.fromarray(greys).convert(mode), luminance)
    assert grey.dtype == np.uint8
    assert np.array_equal(grey, greys)


@pytest.mark.parametrize("luminance", LUMINANCES)
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_parts_are_blended_with_white(encode, luminance, mode):
    image = Image.new(mode, (3, 1), 0)
    for x, alpha in enumerate((255, 128, 0)):
        image.putpixel((x, 0), (0,) * (len(mode) - 1) + (alpha,))
    grey = compute_luminance(open_photo(encode(image, ".png")), luminance)
    assert grey.tolist() == [[0, 127, 255]]


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_transparent_palette_colour_is_white(encode, suffix):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    opened = open_photo(encode(image, suffix, transparency=1))
    assert opened.mode == "RGBA"
    assert compute_luminance(opened, "rec601").tolist() == [[0, 255]]


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (10, 20, 30)), ("L", 20)])
def test_a_transparent_colour_of_a_png_without_alpha_is_white(encode, mode, colour):
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), colour)
    opened = open_photo(encode(image, ".png", transparency=colour))
    assert compute_luminance(opened, "rec601").tolist() == [[0, 255]]


def test_bytes_to_floats_and_back_are_equal():
    every = np.arange(256, dtype="uint8")
    floats = to_floats(every)
    assert floats.dtype == np.float32
    assert (floats[0], floats[255]) == (-1, 1)
    assert np.array_equal(from_floats(floats), every)
    assert from_floats(floats).dtype == np.uint8


def test_floats_out_of_range_are_clipped():
    assert from_floats(np.array([-3.0, -1.001, 0.9999, 1.2], "float32")).tolist() == [0, 0, 255, 255]


def test_a_lower_jpeg_quality_gives_a_worse_image(photo):
    grey = np.asarray(photo.convert("L"))
    losses = [np.abs(compress_jpeg(grey, quality).astype(int) - grey).mean() for quality in (95, 75, 20, 1)]
    assert losses == sorted(losses)
    assert 0 < losses[0] < 3 < losses[3]
