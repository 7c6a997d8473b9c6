"""The networks that ship: of the size that they claim, better than Lanczos, and as good at the border as inside."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest

from loupe.config import parse_settings
from loupe.data.dataset import Pairs
from loupe.data.preparation import prepare_in_memory
from loupe.errors import UsageError
from loupe.upscalers import bundled
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.onnx import OnnxUpscaler
from loupe.upscalers.tiling import upscale

FILES = sorted(bundled.FOLDER.glob("*.onnx"))
WEIGHTS = {"tiny": 20_000, "small": 65_000, "base": 400_000}
BYTES = {"tiny": 100_000, "small": 300_000, "base": 1_500_000}
TOGETHER = 2_000_000  # bytes of one of each size
BORDER = 8  # pixels of the large image


def scale_of_file(file: Path) -> Fraction:
    return Fraction(file.stem.partition("-")[2].replace("x", "/"))


@pytest.fixture(scope="module")
def sample() -> dict[Fraction, Pairs]:
    """The middle of each bundled photo, at every scale; trained on by the networks, so that no score counts."""
    cut = {"source": "sample", "crop": "centre", "scales": "3:2,2:1,3:1", "quiet": True}
    return {scale: prepare_in_memory(parse_settings("preprocess", cut), scale) for scale in map(scale_of_file, FILES)}


def test_there_is_one_of_every_size_at_3_2_and_a_small_one_at_every_scale() -> None:
    names = {file.stem for file in FILES}
    assert names == {"tiny-3x2", "small-3x2", "base-3x2", "small-2x1", "small-3x1"}
    assert bundled.DEFAULT_SIZE == "small"
    assert sum(bundled.find_file(size, Fraction(3, 2)).stat().st_size for size in bundled.SIZES) <= TOGETHER


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_network_is_of_its_scale_and_size(file: Path) -> None:
    size = file.stem.partition("-")[0]
    assert bundled.find_file(size, scale_of_file(file)) == file
    geometry = OnnxUpscaler(file).geometry
    assert (geometry.scale, geometry.luminance) == (scale_of_file(file), "rec601")
    weights = sum(int(np.prod(array.dims)) for array in onnx.load(file).graph.initializer if len(array.dims) == 4)
    assert WEIGHTS[size] / 2 < weights <= WEIGHTS[size]
    assert file.stat().st_size <= BYTES[size]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_network_beats_lanczos_and_its_border_is_as_good_as_its_inside(
    file: Path, sample: dict[Fraction, Pairs]
) -> None:
    scale = scale_of_file(file)
    inputs, labels = next(sample[scale].batches(len(sample[scale])))
    ours, lanczos = (
        np.abs(upscale(model, inputs) - labels)[..., 0]
        for model in (OnnxUpscaler(file), FilterUpscaler("lanczos", scale))
    )
    assert (ours.mean(axis=(1, 2)) < lanczos.mean(axis=(1, 2))).mean() > 0.8  # not where a photo is noise or a blur
    assert ours.mean() < 0.9 * lanczos.mean()
    inside = np.zeros(ours.shape[1:], bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    assert ours[:, ~inside].mean() < 1.3 * ours[:, inside].mean()


def test_what_does_not_ship_is_refused_with_what_does() -> None:
    with pytest.raises(UsageError, match=r"^scale: must be 3:2 for the bundled network tiny, got 2:1$"):
        bundled.find_file("tiny", Fraction(2))
