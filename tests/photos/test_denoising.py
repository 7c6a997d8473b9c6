"""Denoising: less noise, equal edges, no change where the mask is black. Networks get photos without noise."""

import threading
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from loupe.errors import UsageError
from loupe.imaging.conversion import to_8_bits
from loupe.imaging.decoder import PhotoError
from loupe.imaging.image_data import ImageData
from loupe.imaging.reader import read_photo
from loupe.imaging.threads import StoppedError, stop_after
from loupe.photos import denoising
from loupe.photos.comparison import read_first
from loupe.photos.denoising import DenoiseTransform, choose_noise, remove_noise
from loupe.photos.inputs import PhotoJob
from loupe.photos.networks import LoadedModel, Networks
from loupe.photos.outcomes import describe_assumptions
from loupe.photos.processing import ProcessingOptions, process_jobs
from loupe.photos.restoration import BlendTransform, read_mask
from loupe.photos.sizes import Target
from loupe.photos.upscaling import UpscaleTransform, upscale_image
from loupe.tracking.resolver import resolve_model
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.non_local_means import estimate_noise


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    import skimage

    image = Image.open(Path(skimage.__file__).parent / "data" / "coffee.png").convert("RGB").resize((240, 160))
    return np.asarray(image)


def noisy(photo: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, photo.shape)
    return np.clip(np.rint(photo + noise), 0, 255).astype("uint8")


def made(pixels: np.ndarray, strength: float = 1, mask: np.ndarray | None = None) -> np.ndarray:
    transform = BlendTransform(DenoiseTransform(), strength, mask)
    return np.concatenate(list(transform(ImageData(pixels)).strips))


def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.square(one.astype(float) - other).mean())


@pytest.mark.parametrize("sigma", [8, 20])
def test_noise_is_removed_without_its_level(photo, sigma):
    rough = noisy(photo, sigma)
    smooth = made(rough)
    assert error(smooth, photo) < 0.6 * error(rough, photo)
    half = made(rough, 0.5)
    assert error(smooth, photo) < error(half, photo) < error(rough, photo)
    edges = np.abs(np.diff(photo.astype(float), axis=1)) > 60
    kept = np.abs(np.diff(smooth.astype(float), axis=1))[edges].mean()
    assert kept > 0.8 * np.abs(np.diff(photo.astype(float), axis=1))[edges].mean()


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_noise_0_changes_nothing_and_skips_the_filter(photo, depth, bands, monkeypatch):
    monkeypatch.delattr(denoising, "denoise")
    pixels = np.concatenate([noisy(photo, 10), photo[..., :1]], axis=2)[:40, :50, :bands].astype(depth)
    pixels *= 1 if depth == "uint8" else 201
    for transform, image in (
        (DenoiseTransform(0), ImageData(pixels)),
        (DenoiseTransform(), ImageData(pixels, noise=0)),
    ):
        stream = BlendTransform(transform, 1)(image)
        assert stream.removed_noise == 0
        assert np.array_equal(np.concatenate([*stream.strips]), pixels)


def test_all_frames_have_the_noise_of_the_first_frame(photo, tmp_path):
    """Otherwise rows that are equal in all frames would flicker."""
    frames = [noisy(photo, 6), noisy(photo, 25)]
    frames[1][120:] = frames[0][120:]
    first, *others = map(Image.fromarray, frames)
    first.save(tmp_path / "noisy.png", save_all=True, append_images=others, duration=100)
    options = ProcessingOptions(BlendTransform(DenoiseTransform(), 1))
    (outcome,) = process_jobs([PhotoJob(tmp_path / "noisy.png", tmp_path / "out.png")], options, lambda _: None)
    results = [image.pixels[130:] for image in read_photo(tmp_path / "out.png").images]
    assert np.array_equal(*results)
    assert not np.array_equal(results[0], frames[0][130:])
    assert outcome.removed_noise == pytest.approx(6, abs=2)
    assert describe_assumptions([outcome]).startswith("removed noise (standard deviation ")


def test_a_flat_border_does_not_change_the_estimate(photo):
    rough = np.pad(noisy(photo, 15), ((60, 60), (60, 60), (0, 0)), constant_values=255)
    inner = made(rough)[60:-60, 60:-60]
    assert error(inner, photo) < 0.6 * error(rough[60:-60, 60:-60], photo)


def test_all_conversions_from_16_to_8_bits_are_equal(tmp_path):
    deep = np.arange(0, 65536, 7, dtype="uint16")[None]
    eight = to_8_bits(deep)
    assert np.array_equal(eight, np.rint(deep / 257))
    Image.fromarray(deep).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", 0, read_first), eight)


def test_strength_0_and_a_black_mask_change_nothing(photo):
    rough = noisy(photo, 10)
    assert np.array_equal(made(rough, 0), rough)
    assert np.array_equal(made(rough, 1, np.zeros(rough.shape[:2], "uint8")), rough)


def test_a_mask_limits_denoising_and_has_soft_edges(photo, tmp_path):
    rough = noisy(photo, 15)
    half = np.zeros(rough.shape[:2], "uint8")
    half[:, 120:] = 255
    Image.fromarray(half).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", 8, read_first)
    assert 0 < mask[80, 118] < mask[80, 122] < 255
    result = made(rough, 1, mask)
    assert np.array_equal(result[:, :100], rough[:, :100])
    whole = made(rough)
    assert np.array_equal(result[:, 140:], whole[:, 140:])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_of_a_mask_are_black(mode, tmp_path):
    painted = Image.new(mode, (16, 12), (255,) * (len(mode) - 1) + (0,))
    painted.paste((255,) * len(mode), (4, 4, 8, 8))
    painted.save(tmp_path / "mask.png")
    expected = np.zeros((12, 16), "uint8")
    expected[4:8, 4:8] = 255
    assert np.array_equal(read_mask(tmp_path / "mask.png", 0, read_first), expected)


def test_strips_equal_one_strip_and_alpha_is_unchanged(photo):
    rough = np.concatenate([noisy(photo, 10), photo[..., :1]], axis=2)
    whole = made(rough)
    with patch.object(denoising, "STRIP_PIXELS", 240 * 20):
        parts = made(rough)
    assert np.abs(parts.astype(int) - whole.astype(int)).max() <= 1
    assert np.array_equal(whole[..., 3], rough[..., 3])


@pytest.mark.parametrize("sigma", [0, 5, 10, 25])
def test_the_noise_is_estimated(sigma):
    y, x = np.mgrid[:200, :300]
    slope = 60 + 0.3 * x + 0.2 * y
    found = estimate_noise(slope + np.random.default_rng(1).normal(0, sigma, slope.shape))
    assert found == pytest.approx(sigma, rel=0.15, abs=0.1)


def test_16_bit_grey_is_denoised(photo):
    deep = noisy(photo, 10)[..., :1].astype("uint16") * 257
    smooth = made(deep)
    assert smooth.dtype == np.uint16
    assert error(smooth / 257, photo[..., :1]) < error(deep / 257, photo[..., :1])


def test_a_mask_of_another_size_or_type_is_an_error(photo, tmp_path):
    with pytest.raises(PhotoError, match="240x160 pixels, got 3x2"):
        made(photo, 1, np.zeros((2, 3), "uint8"))
    (tmp_path / "mask.png").write_text("no image")
    with pytest.raises(UsageError, match=r"mask: .*mask\.png.*not an image"):
        read_mask(tmp_path / "mask.png", 8, read_first)


def upscaled(pixels: np.ndarray, model: str = "small", noise: float | None = None) -> np.ndarray:
    stream = UpscaleTransform(Target(Fraction(2)), resolve_model(model), noise=noise)(ImageData(pixels))
    return np.concatenate(list(stream.strips))


@pytest.mark.parametrize("sigma", [8, 16])
def test_a_noisy_photo_is_denoised_before_the_network(real_crop, sigma):
    label = real_crop("coffee.png", 200, 60, 280, 280)
    photo = np.asarray(label)
    small = noisy(np.asarray(label.resize((140, 140), Image.Resampling.LANCZOS)), sigma)
    found = error(upscaled(small), photo)
    assert found < 0.9 * error(upscaled(small, "lanczos"), photo)
    assert found < 0.8 * error(upscaled(small, noise=0), photo)
    assert np.array_equal(upscaled(small), upscaled(small, noise=choose_noise(ImageData(small))))


def test_clean_photos_and_filters_are_not_denoised_by_default(photo):
    assert choose_noise(ImageData(photo)) == 0
    rough = noisy(photo, 10)
    assert np.array_equal(upscaled(photo), upscaled(photo, noise=0))
    assert np.array_equal(upscaled(rough, "lanczos"), upscaled(rough, "lanczos", 0))
    assert not np.array_equal(upscaled(rough, "lanczos", 10), upscaled(rough, "lanczos", 0))


def test_the_given_noise_is_removed_and_the_outcome_has_it(photo):
    assert choose_noise(ImageData(photo, noise=2.5)) == 2.5
    networks = Networks([Fraction(2)], lambda scale: LoadedModel("m", FilterUpscaler("bicubic", scale)))
    stream = upscale_image(ImageData(photo, noise=2.5), Target(Fraction(2)), networks)
    assert stream.removed_noise == 2.5
    assert upscale_image(ImageData(photo), Target(Fraction(2)), networks).removed_noise == 0


@pytest.mark.parametrize("high", [False, True], ids=["8 bits", "16 bits"])
def test_removed_noise_keeps_alpha_the_input_and_the_dtype(photo, high):
    rough = np.concatenate([noisy(photo, 10), photo[..., :1]], axis=2) * (np.uint16(257) if high else np.uint8(1))
    before = rough.copy()
    smooth = remove_noise(rough, 10)
    assert smooth.dtype == rough.dtype
    assert np.array_equal(rough, before)
    assert np.array_equal(smooth[..., 3], rough[..., 3])
    unit = 257 if high else 1
    assert error(smooth[..., :3] / unit, photo) < 0.6 * error(rough[..., :3] / unit, photo)


def test_small_images_are_kept(photo):
    rough = noisy(photo, 10)
    assert choose_noise(ImageData(rough)) > 5
    assert choose_noise(ImageData(rough[:100])) == 0


@pytest.mark.parametrize("levels", [2, 4, 8, 16, 32, 64])
def test_dithered_images_and_pixel_art_are_kept(photo, levels):
    grey = np.asarray(Image.fromarray(photo).convert("L"), float)
    matrix = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16
    step = 255 / (levels - 1)
    ordered = np.floor(grey / step + np.tile(matrix, (40, 60))) * step
    few = np.random.default_rng(levels).choice(np.linspace(90, 140, min(levels, 8)), (160, 240))
    for image in (ordered, few):
        assert choose_noise(ImageData(np.rint(image).astype("uint8")[..., None])) == 0
    colours = Image.fromarray(photo).quantize(levels, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB")
    assert choose_noise(ImageData(np.asarray(colours))) == 0


def test_a_drawing_next_to_a_noisy_photo_is_kept(photo):
    slide = np.full((160, 480, 3), 255, "uint8")
    slide[:, :240] = noisy(photo, 15)
    slide[40:44, 280:460] = slide[60:100:4, 300:440] = 243  # pale lines
    smooth = remove_noise(slide, 15)
    assert np.array_equal(smooth[:, 260:], slide[:, 260:])
    assert error(smooth[:, :240], photo) < 0.6 * error(slide[:, :240], photo)
    assert np.array_equal(smooth[:, 16:224], remove_noise(slide[:, :240], 15)[:, 16:224])


def test_hidden_colours_of_transparent_pixels_are_not_noise(photo):
    pixels = np.full((160, 240, 4), 200, "uint8")
    pixels[80:, :, :3], pixels[..., 3] = noisy(photo, 15)[80:], 255
    assert choose_noise(ImageData(pixels)) > 5
    pixels[80:, :, 3] = 0
    assert choose_noise(ImageData(pixels)) == 0


def test_denoising_can_be_stopped(photo):
    event = threading.Event()
    with stop_after(event):
        remove_noise(photo, 10)
        event.set()
        with pytest.raises(StoppedError):
            remove_noise(photo, 10)
    remove_noise(photo, 10)
