"""Bundled networks that adapt to the JPEG quality add no block edges, and less ringing than Lanczos.

At 1:1, Lanczos returns its input: the networks are compared with the decoded JPEG.
"""

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from loupe.data.labels import shrink_label
from loupe.data.sources import find_bundled_photo
from loupe.imaging.conversion import compress_jpeg, to_floats
from loupe.imaging.jpeg_quality import compute_strength
from loupe.upscalers import bundled
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.onnx import OnnxUpscaler
from loupe.upscalers.tiling import upscale

FILES = {
    file: network.geometry.scale
    for file in sorted(bundled.FOLDER.glob("*.onnx"))
    if (network := OnnxUpscaler(file)).geometry.condition == "jpeg"
}
PHOTOS = ("coffee.png", "astronaut.png", "camera.png")
SIDE = 480  # side of a label in pixels, a multiple of 8 * 3 and 8 * 4
GRID = 8  # side of a JPEG block in pixels
BLACK, WHITE = 40, 215  # of the text; away from 0 and 255, where ringing would be clipped


def upscale_jpeg(label: np.ndarray, file: Path, quality: int = 100) -> list[np.ndarray]:
    """Shrink a label, compress it (not for 100), and upscale it with the network and with Lanczos; grey values."""
    network = OnnxUpscaler(file)
    scale = network.geometry.scale
    small = shrink_label(label, scale, "lanczos")
    grey = to_floats(compress_jpeg(small, quality) if quality < 100 else small)
    image = np.stack([grey, np.full_like(grey, compute_strength(quality))], axis=-1)[None]
    return [(upscale(model, image)[0, ..., 0] + 1) * 127.5 for model in (network, FilterUpscaler("lanczos", scale))]


def measure_grid(image: np.ndarray, scale: Fraction) -> float:
    """Return the mean squared difference across the edges of blocks minus the mean at other edges of p x p blocks."""
    period, p, energy = int(GRID * scale), scale.numerator, 0.0
    for turned in (image, image.T):
        squares = np.square(np.diff(turned, axis=1)).mean(axis=0)
        *others, edge = [squares[start::period].mean() for start in range(p - 1, period, p)]
        energy += float(edge - np.mean(others))
    return energy


def measure_added_energy(label: np.ndarray, file: Path) -> np.ndarray:
    """Return the energy at the grid that JPEG quality 75 adds to the results of the network and of Lanczos.

    The photo itself may have edges at the grid, which a network makes sharper than Lanczos does.
    """
    without, with_jpeg = (
        [measure_grid(image, FILES[file]) for image in upscale_jpeg(label, file, quality)] for quality in (100, 75)
    )
    return np.subtract(with_jpeg, without)


def open_photo(name: str, side: int) -> np.ndarray:
    photo = Image.open(find_bundled_photo().parent / name).convert("L")
    return np.asarray(photo.resize((side, side), Image.Resampling.LANCZOS))


@pytest.mark.parametrize("file", [file for file in FILES if FILES[file] < 4], ids=lambda file: file.stem)
def test_a_jpeg_adds_no_more_energy_at_the_grid_than_with_lanczos(file: Path) -> None:
    for name in PHOTOS:
        ours, lanczos = measure_added_energy(open_photo(name, SIDE), file)
        assert ours <= lanczos, name


@pytest.mark.parametrize("file", [file for file in FILES if FILES[file] >= 3], ids=lambda file: file.stem)
def test_at_large_scales_a_jpeg_adds_less_energy_at_the_grid_than_with_lanczos_on_average(file: Path) -> None:
    """Compare means over three photos and 16 positions of the grid.

    At 4:1, a label has only 14 edges of blocks in each direction. At a single position, chance decides which method
    has more energy at the grid.
    """
    p, added = FILES[file].numerator, []
    for name in PHOTOS:
        pixels = open_photo(name, SIDE + GRID * p)
        for top, left in itertools.product(range(0, GRID * p, 2 * p), repeat=2):
            added.append(measure_added_energy(pixels[top : top + SIDE, left : left + SIDE], file))
    ours, lanczos = np.mean(added, axis=0)
    assert ours < lanczos


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_text_has_less_ringing_than_with_lanczos(file: Path) -> None:
    image = Image.new("L", (SIDE, SIDE), WHITE)
    draw = ImageDraw.Draw(image)
    for row, size in enumerate((14, 18, 24, 30, 36, 42)):
        draw.text(
            (10, 10 + 78 * row), "The quick brown fox jumps over", fill=BLACK, font=ImageFont.load_default(size)
        )
    label = np.asarray(image)
    near = np.asarray(Image.fromarray((label != WHITE).astype("uint8") * 255).filter(ImageFilter.MaxFilter(5))) > 0
    around = np.asarray(Image.fromarray(near.astype("uint8") * 255).filter(ImageFilter.MaxFilter(25))) > 0
    ours, lanczos = (np.abs(large - WHITE)[around & ~near].mean() for large in upscale_jpeg(label, file, 30))
    assert ours < lanczos
