"""Scores per JPEG quality of the inputs: strengths, table, figure, and comparison with lanczos."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from loupe.data.labels import shrink_label
from loupe.data.pairs import Pairs
from loupe.evaluation import figures, metrics, qualities, scoring
from loupe.imaging.conversion import compress_jpeg, to_floats
from loupe.imaging.jpeg_quality import compute_strength
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.tiling import upscale

SCALE = Fraction(3, 2)
TESTED = (100, 75, 20)


class Conditioned(FilterUpscaler):
    """A conditioned model that is Lanczos without artefacts, and black with artefacts."""

    def __init__(self):
        super().__init__("lanczos", SCALE)
        self.geometry = replace(self.geometry, condition="jpeg")
        self.strengths = []

    def __call__(self, images):
        self.strengths.append(images[..., 1])
        large = super().__call__(images[..., :1])
        return large if not images[..., 1].any() else np.full_like(large, -1)


@pytest.fixture(scope="module")
def pairs(real_crop):
    labels = [np.asarray(real_crop("coffee.png", x, 150, 96, 96).convert("L")) for x in (100, 200)]
    rows = [{"path": f"{number}.png", "sha256": str(number)} for number in range(2)]
    return Pairs.from_images(rows, [shrink_label(label, SCALE, "lanczos") for label in labels], labels, SCALE)


@pytest.fixture(scope="module")
def model():
    return Conditioned()


@pytest.fixture(scope="module")
def table(pairs, model):
    methods = {
        "model": model,
        "nearest": FilterUpscaler("nearest", SCALE),
        "lanczos": FilterUpscaler("lanczos", SCALE),
    }
    return qualities.score_qualities(methods, pairs, TESTED, "concatenate")


def test_only_a_conditioned_model_gets_the_strength_of_each_quality(table, model):
    expected = [np.full((2, 64, 64), compute_strength(quality), "float32") for quality in TESTED]
    np.testing.assert_array_equal(model.strengths, expected)


def test_quality_100_means_no_compression_and_others_compress_the_inputs_only(pairs):
    for quality in (100, 75):
        for (small, label), (before, same) in zip(pairs.compress_inputs(quality), pairs, strict=True):
            assert np.array_equal(small, before if quality == 100 else compress_jpeg(before, quality))
            assert np.array_equal(label, same)
    assert pairs.strengths is None  # the given pairs do not change


def test_the_first_columns_have_the_scores_because_mlflow_shows_only_those(table):
    assert [*table] == ["quality", "path", "method", *metrics.SCORES, "image", "photo"]


def test_each_quality_has_the_scores_of_its_inputs(table, pairs):
    summary = qualities.summarise_qualities(table)
    assert list(summary) == ["100", "75", "20"]
    clean = scoring.summarise(scoring.score({"lanczos": FilterUpscaler("lanczos", SCALE)}, pairs))["lanczos"]
    assert summary["100"]["lanczos"]["psnr"] == clean["psnr"]
    assert summary["100"]["lanczos"]["interval"] == clean["interval"]
    small = np.stack([compress_jpeg(pairs[number][0], 20) for number in range(2)])
    large = upscale(FilterUpscaler("lanczos", SCALE), to_floats(small)[..., None])
    labels = to_floats(np.stack([pairs[number][1] for number in range(2)]))[..., None]
    assert summary["20"]["lanczos"]["mae"] == pytest.approx(np.abs(large - labels).mean(), rel=1e-5)


def test_the_text_has_a_row_per_quality_and_says_which_networks_are_below_lanczos(table):
    psnr = qualities.compute_psnr(table)
    below = qualities.find_qualities_below("lanczos", psnr, ["model", "lanczos"])
    assert below == {"model": [75, 20], "lanczos": []}
    header, columns, *rows, first, second = qualities.format_psnr(psnr, "lanczos", below, 2).split("\n")
    assert "100: not compressed" in header
    assert columns.split() == ["quality", "model", "nearest", "lanczos"]
    assert [row.split()[0] for row in rows] == ["100", "75", "20"]
    assert rows[1].split()[3] == f"{psnr['lanczos'][75]:.2f}"
    assert first == "model is below lanczos at quality 75, 20"
    assert second == "lanczos is not below lanczos at any quality"


def test_the_figure_has_a_distinct_line_per_method(table):
    psnr = qualities.compute_psnr(table)
    lines = figures.plot_psnr(psnr).axes[0].lines
    assert [line.get_label() for line in lines] == ["model", "nearest", "lanczos"]
    assert np.array_equal(lines[2].get_xydata(), psnr["lanczos"].reset_index())
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 3
