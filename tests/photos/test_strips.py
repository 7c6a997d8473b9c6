"""Upscaling by strips: the result does not depend on the strips; colours and alpha are correct."""

import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loupe.config.datasets import Luminance
from loupe.config.fields import BUNDLED_SIZES
from loupe.imaging import threads
from loupe.imaging.conversion import from_floats, to_floats
from loupe.imaging.luminance import compute_luminance
from loupe.photos import strips
from loupe.photos.rows import VisibleColours
from loupe.photos.sizes import FittedSize
from loupe.tracking.resolver import resolve_model
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.tiling import SelfEnsemble, upscale, upscale_rows

SCALES = [Fraction(3, 2), Fraction(2), Fraction(3)]
NETWORKS = {("small", scale): resolve_model("small") for scale in SCALES} | {
    (size, Fraction(3, 2)): resolve_model(size) for size in ("tiny", "base")
}

# Prints by how many bytes calls with tiles of different sizes, up to the largest, raise the peak memory.
MEASURE_LAYERS = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from loupe.photos.networks import load_bundled

def read(name):
    return int(Path("/proc/self/status").read_text().split(name)[1].split()[0]) * 1024

loaded = load_bundled(sys.argv[1], Fraction(3, 2))
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
before = read("VmRSS:")
for rows, columns in ((168, 292), (168, 292), (168, 150), (232, 292), (232, 292)):
    loaded.model(np.zeros((1, rows, columns, loaded.model.geometry.channels), "float32"))
print(read("VmHWM:") - before, loaded.layer_bytes)
"""


class Blocks:
    """Like a perceptron on 4x4 patches: each block depends on its own mean, so that a wrong block is visible."""

    def __init__(self) -> None:
        self.geometry = FilterUpscaler("bicubic", Fraction(3, 2)).geometry.__class__(4, 6, 4, 0, "rec601")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        n, height, width, _ = images.shape
        means = images.reshape(n, height // 4, 4, width // 4, 4).mean(axis=(2, 4))
        ramp = np.linspace(-0.2, 0.2, 36, dtype="float32").reshape(6, 6)
        large = means[:, :, None, :, None] + ramp[None, None, :, None, :]
        return large.reshape(n, height * 6 // 4, width * 6 // 4, 1)


@given(x=st.integers(1, 99), y=st.integers(1, 99), top=st.integers(0, 99), radius=st.integers(0, 32))
@settings(max_examples=50, deadline=None)
def test_colours_of_visible_pixels_spread_in_all_directions(x, y, top, radius):
    pixels = np.zeros((100, 100, 4), "uint8")
    pixels[y, x] = 200, 100, 50, 255
    rows = VisibleColours(pixels)(top, 100)
    inside = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
    expected = np.zeros((100, 100), bool)
    expected[inside] = True
    assert (rows[expected[top:]] == (200, 100, 50)).all()


def upscale_to(pixels, size, model):
    return strips.upscale_strips(pixels, FittedSize(size, size), model)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


@settings(max_examples=30)
@given(
    key=st.sampled_from(sorted(NETWORKS)),
    height=st.integers(1, 90),
    width=st.integers(1, 50),
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    tile=st.sampled_from([8, 24, 512]),
)
def test_rows_of_bundled_networks_equal_the_whole_image(key, height, width, cuts, tile):
    check_rows(NETWORKS[key](key[1]), height, width, cuts, tile)


@settings(max_examples=20)
@given(
    model=st.sampled_from(
        [Blocks(), FilterUpscaler("lanczos", Fraction(2)), SelfEnsemble(FilterUpscaler("bicubic", Fraction(3, 2)))]
    ),
    height=st.integers(1, 70),
    width=st.integers(1, 40),
    cuts=st.lists(st.integers(1, 50), min_size=1, max_size=6),
)
def test_rows_of_blocks_and_filters_equal_the_whole_image(model, height, width, cuts):
    check_rows(model, height, width, cuts, 16)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("size", BUNDLED_SIZES)
def test_the_layers_of_a_network_take_at_most_the_estimated_memory(size):
    done = subprocess.run([sys.executable, "-c", MEASURE_LAYERS, size], capture_output=True, text=True, check=True)
    found, estimate = map(int, done.stdout.split())
    print(f"{size}: {found / 1e6:.1f} MB")
    assert found <= estimate


def check_rows(model, height, width, cuts, tile):
    image = noise(height * 100 + width, height, width)
    whole = upscale(model, image[None, ..., None], "gaussian")[0, ..., 0]
    asked, parts, top = [], [], 0

    def small(begin, end):
        asked.append(end - begin)
        return image[begin:end]

    for cut in [*cuts, 10_000]:
        bottom = min(top + cut, len(whole))
        if bottom > top:
            parts.append(upscale_rows(model, small, height, range(top, bottom), tile))
        top = bottom
    assert np.abs(np.concatenate(parts) - whole).max() <= 1e-5
    margin = 2 * (model.geometry.halo + 2 * model.geometry.q)
    assert max(asked) <= max(max(cuts), len(whole)) / float(model.geometry.scale) + margin + 2


@settings(max_examples=40)
@given(
    bands=st.integers(1, 4),
    deep=st.booleans(),
    height=st.integers(1, 80),
    width=st.integers(1, 30),
    factor=st.fractions(1, 8, max_denominator=20),
    least=st.integers(1, 40),
    most=st.integers(100, 9000),
    cores=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_strips_equal_one_strip_for_all_bands_and_depths(
    bands, deep, height, width, factor, least, most, cores, seed
):
    full = 65535 if deep else 255
    pixels = (
        np.random.default_rng(seed)
        .integers(0, full + 1, (height, width, bands))
        .astype("uint16" if deep else "uint8")
    )
    if bands in (2, 4):
        pixels[: height // 2, :, -1] = 0
    size = int(width * factor + Fraction(1, 2)), int(height * factor + Fraction(1, 2))
    model = FilterUpscaler("bicubic", [Fraction(3, 2), Fraction(2)][seed % 2])
    with patch.multiple(strips, count_cores=lambda: 1, STRIP_ROWS=10**6):
        (whole,) = upscale_to(pixels, size, model)
    with patch.multiple(strips, count_cores=lambda: cores, STRIP_ROWS=least, MAX_PIXELS_IN_WORK=most):
        parts = list(upscale_to(pixels, size, model))
    assert whole.shape == (size[1], size[0], bands)
    assert whole.dtype == pixels.dtype
    assert len(parts) >= min(cores, height // (4 * (model.geometry.halo + model.geometry.q)))
    difference = np.abs(np.concatenate(parts).astype(int) - whole.astype(int)).max()
    assert difference <= (2 if deep else 1)  # a value on the edge between two


@pytest.mark.parametrize("scale", [1, Fraction(7, 5), Fraction(3, 2)])
def test_a_cropped_result_is_the_centre_of_the_whole_result(scale):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 41, 4)).astype("uint8")
    size = int(41 * scale), int(90 * scale)
    model = None if scale == 1 else FilterUpscaler("bicubic", Fraction(3, 2))
    whole = np.concatenate(list(upscale_to(pixels, size, model)))
    cropped = FittedSize(size, (size[0] - 7, size[1] - 31))
    found = np.concatenate(list(strips.upscale_strips(pixels, cropped, model)))
    expected = whole[15 : size[1] - 16, 3 : size[0] - 4]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_closing_the_iterator_cancels_the_remaining_strips():
    before, asked, release = set(threading.enumerate()), [], threading.Event()

    class Slow(FilterUpscaler):
        def __call__(self, images):
            asked.append(len(images))
            assert len(asked) == 1 or release.wait(60)
            return super().__call__(images)

    pixels = np.zeros((3000, 30, 3), "uint8")
    with patch.object(threads, "count_cores", lambda: 1):
        parts = upscale_to(pixels, (45, 4500), Slow("bicubic", Fraction(3, 2)))
        next(parts)
        parts.close()  # one strip runs, and another one waits
    release.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert len(asked) <= 2


def test_grey_stays_grey_and_one_colour_stays_one_colour():
    networks = resolve_model("small")
    flat = np.empty((40, 31, 3), "uint8")
    flat[:] = (200, 60, 20)
    grey = np.random.default_rng(0).integers(0, 256, (40, 31, 1)).astype("uint8").repeat(3, axis=2)
    model = networks(Fraction(3, 2))
    large = np.concatenate(list(upscale_to(flat, (47, 60), model)))
    assert np.abs(large.astype(int) - (200, 60, 20)).max() <= 1
    large = np.concatenate(list(upscale_to(grey, (47, 60), model))).astype(int)
    assert np.ptp(large, axis=2).max() == 0
    alone = np.concatenate(list(upscale_to(grey[..., :1], (47, 60), model))).astype(int)
    assert np.abs(large - alone).max() <= 1


class LowContrast(FilterUpscaler):
    """Reduces the contrast, and records its input."""

    def __call__(self, images):
        self.seen = images[0, ..., 0]
        return 0.7 * super().__call__(images)


@pytest.mark.parametrize("luminance", get_args(Luminance))
def test_a_model_reads_and_changes_the_luminance_of_its_training(luminance):
    noise = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype("uint8")
    colours = np.asarray(Image.fromarray(noise).resize((36, 32), Image.Resampling.BILINEAR))
    colours = (40 + 0.6 * colours).astype("uint8")  # so that nothing is clipped
    model = LowContrast("lanczos", Fraction(3, 2), luminance)
    with patch.object(strips, "count_cores", lambda: 1):
        (large,) = upscale_to(colours, (54, 48), model)
    trained_on = to_floats(compute_luminance(Image.fromarray(colours), luminance))
    assert np.abs(model.seen - trained_on).max() < 0.6 / 127.5
    expected = from_floats(upscale(model, trained_on[None, ..., None])[0, ..., 0]).astype(int)
    assert np.abs(compute_luminance(Image.fromarray(large), luminance) - expected).max() <= 1


@pytest.mark.parametrize("luminance", get_args(Luminance))
def test_colours_are_unchanged_if_the_model_does_not_change_them(luminance):
    corners = [tuple(255 * (number >> bit & 1) for bit in range(3)) for number in range(8)]
    for colour in (*corners, (200, 60, 20), (3, 0, 1), (77, 77, 77)):
        flat = np.empty((20, 21, 3), "uint8")
        flat[:] = colour
        (large,) = upscale_to(flat, (32, 30), FilterUpscaler("lanczos", Fraction(3, 2), luminance))
        assert np.abs(large.astype(int) - colour).max() <= 1


def test_hidden_colours_of_transparent_pixels_have_no_effect():
    """A red disc on transparent black and on transparent white has the same visible pixels."""
    y, x = np.mgrid[:60, :60]
    inside = (y - 30) ** 2 + (x - 30) ** 2 < 400
    images = []
    for hidden in (0, 255):
        disc = np.full((60, 60, 4), hidden, "uint8")
        disc[..., 3] = 0
        disc[inside] = (210, 30, 40, 255)
        model = resolve_model("small")(Fraction(2))
        images.append(np.concatenate(list(upscale_to(disc, (120, 120), model))).astype(int))
    black, white = images
    visible = black[..., 3] > 0
    assert np.abs(black - white)[visible].max() <= 1
    assert np.abs(black[visible][:, :3] - (210, 30, 40)).max() <= 2
    assert (black[50:70, 50:70, 3] == 255).all()
    assert (black[:8, :8, 3] == 0).all()


@pytest.mark.parametrize(("side", "size", "limit"), [(60, 90, 1), (61, 92, 1), (60, 75, 10)])
def test_colour_and_luminance_are_aligned(side, size, limit):
    """Each channel is that of Lanczos, at the size of the network and about so at a size that Lanczos reaches."""
    image = np.empty((62, 62, 3), "uint8")
    image[:] = (200, 60, 90)
    image[30:, 30:] = (60, 120, 180)
    model = FilterUpscaler("lanczos", Fraction(3, 2))
    large = np.concatenate(list(upscale_to(image[:side, :side], (size, size), model))).astype(int)
    whole = side + side % 2  # at 3:2, a side of 61 pixels is rounded up
    expected = Image.fromarray(image[:whole, :whole]).resize((size + side % 2,) * 2, Image.Resampling.LANCZOS)
    inside = np.s_[10:-10, 10:-10]
    assert np.abs(large[inside] - np.asarray(expected)[:size, :size][inside]).max() <= limit
