"""Bundled networks have their documented sizes, beat Lanczos, and are as good at the border as inside.

At 1:1, Lanczos returns its input: a JPEG, which the network must improve.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest

from loupe.config import parse_settings
from loupe.config.fields import BUNDLED_SIZES
from loupe.data.pairs import Pairs
from loupe.data.preparation import prepare_in_memory
from loupe.errors import UsageError
from loupe.imaging.jpeg_quality import compute_strength
from loupe.photos.networks import load_bundled
from loupe.upscalers import bundled
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.onnx import OnnxUpscaler
from loupe.upscalers.onnx_file import read_network, validate_network
from loupe.upscalers.tiling import upscale

FILES = sorted(bundled.FOLDER.glob("*.onnx"))
# By size, or by name. `small` of 4:1 has 5 layers instead of 3: it computes 16 pixels of the result at a time, not 9.
WEIGHTS = {"tiny": 20_000, "small": 65_000, "small-4x1": 105_000, "base": 400_000, "large": 1_500_000}
BYTES = {"tiny": 100_000, "small": 300_000, "small-4x1": 440_000, "base": 1_550_000, "large": 3_050_000}
TOTAL_BYTES = 5_000_000  # of one network per size
BORDER = 8  # pixels of the result


def scale_of_file(file: Path) -> Fraction:
    return Fraction(file.stem.partition("-")[2].replace("x", "/"))


@pytest.fixture(scope="module")
def sample() -> dict[Fraction, Pairs]:
    """Return the middle of each bundled photo at every scale. The networks were trained on these photos."""
    cut = {"source": "sample", "crop": "centre", "quiet": True}
    degraded = {"degrade": "jpeg", "jpeg_qualities": "10,60", "clean_share": 0}
    pairs = {}
    for scale in set(map(scale_of_file, FILES)):
        settings = parse_settings("preprocess", cut | {"scales": scale} | (degraded if scale == 1 else {}))
        pairs[scale] = prepare_in_memory(settings, scale)
    return pairs


def test_the_package_contains_the_documented_networks() -> None:
    scales = {
        "tiny": "1x1 3x2 2x1",
        "small": "1x1 3x2 2x1 3x1 4x1",
        "base": "1x1 3x2 2x1 4x1",
        "large": "3x2",
    }
    names = {f"{size}-{scale}" for size in scales for scale in scales[size].split()}
    assert {file.stem for file in FILES} == names
    others = {file.name for file in bundled.FOLDER.iterdir()} - {file.name for file in FILES}
    assert others == {"LICENCE.md", "credits.csv"}
    assert bundled.DEFAULT_SIZE == "small"
    assert sum(bundled.find_file(size, Fraction(3, 2)).stat().st_size for size in BUNDLED_SIZES) <= TOTAL_BYTES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_bundled_network_has_the_scale_and_size_of_its_name(file: Path) -> None:
    size = file.stem.partition("-")[0]
    assert bundled.find_file(size, scale_of_file(file)) == file
    geometry = OnnxUpscaler(file).geometry
    assert (geometry.scale, geometry.luminance) == (scale_of_file(file), "rec601")
    weights = sum(int(np.prod(array.dims)) for array in onnx.load(file).graph.initializer if len(array.dims) == 4)
    max_weights, max_bytes = (limits.get(file.stem, limits[size]) for limits in (WEIGHTS, BYTES))
    assert max_weights / 2 < weights <= max_weights
    assert file.stat().st_size <= max_bytes
    validate_network(file, read_network(file))  # so that a copy of the file is accepted


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_bundled_network_beats_lanczos_also_at_the_border(file: Path, sample: dict[Fraction, Pairs]) -> None:
    scale = scale_of_file(file)
    inputs, labels = next(sample[scale].batches(len(sample[scale])))
    ours, lanczos = (
        np.abs(upscale(model, inputs) - labels)[..., 0]
        for model in (OnnxUpscaler(file), FilterUpscaler("lanczos", scale))
    )
    assert (ours.mean(axis=(1, 2)) < lanczos.mean(axis=(1, 2))).mean() > 0.8  # some photos are noise or blurred
    assert ours.mean() < (0.95 if scale == 1 else 0.9) * lanczos.mean()
    inside = np.zeros(ours.shape[1:], bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    assert ours[:, ~inside].mean() < 1.3 * ours[:, inside].mean()


def test_a_scale_without_a_bundled_network_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^scale: must be 3:2 for the bundled network large, got 2:1$"):
        bundled.find_file("large", Fraction(2))


def test_base_replaces_large_for_images_with_more_artefacts_than_large_was_trained_for() -> None:
    large, base = (load_bundled(size, Fraction(3, 2)).model for size in ("large", "base"))
    alone = OnnxUpscaler(bundled.find_file("large", Fraction(3, 2)))
    images = np.random.default_rng(0).uniform(-1, 1, (3, 12, 12, 2)).astype("float32")
    images[..., 1] = compute_strength(np.array([95, 94, 100]))[:, None, None]
    results = large(images)
    for result, image, model in zip(results, images, (alone, base, alone), strict=True):
        np.testing.assert_allclose(result, model(image[None, ..., : model.geometry.channels])[0], atol=1e-5)
        np.testing.assert_array_equal(large(image[None])[0], result)
