"""Degraded inputs: drawn from the seed and the photo, with their strength in the manifest and in the batches."""

from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from loupe.config import parse_settings
from loupe.config.base import SettingsError
from loupe.config.datasets import Luminance
from loupe.data import tasks
from loupe.data.dataset import Dataset
from loupe.data.degradation import Degradation, draw_degradation, make_inputs
from loupe.data.labels import FILTERS
from loupe.data.manifest import DEGRADATION_COLUMNS
from loupe.data.patches import Patches
from loupe.data.preparation import prepare
from loupe.imaging.conversion import compress_jpeg
from loupe.imaging.jpeg_quality import compute_strength

SHA = "0123456789abcdef" * 4
SCALES = "3:2,1:1"


def settings(**given):
    return parse_settings("preprocess", {"label_size": 96, "scales": SCALES, "degrade": "jpeg"} | given)


def draw(count, **given):
    return [draw_degradation(settings(**given), SHA, number) for number in range(count)]


@pytest.fixture(scope="module")
def photo(real_crop):
    return np.asarray(real_crop("coffee.png", 200, 150, 96, 96))


@pytest.fixture(scope="module")
def dataset(crops, tmp_path_factory):
    folder = tmp_path_factory.mktemp("degraded")
    for path, content in crops.items():
        file = folder / "photos" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    given = {"source": str(folder / "photos"), "label_size": 30, "data_dir": str(folder)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "count_cores", lambda: 1)
        return prepare(settings(**given, crop="random", labels_per_photo=5, quiet=True))


def test_draws_depend_on_seed_photo_and_number_only():
    first = draw(4)
    assert first == draw(4)
    assert len({one.qualities for one in first}) > 1
    assert draw_degradation(settings(), SHA[::-1], 0) != first[0]
    assert draw_degradation(settings(seed=1), SHA, 0) != first[0]


def test_the_shares_and_ranges_are_those_of_the_settings():
    drawn = draw(800, jpeg_qualities="40,60", clean_share=0.3, double_share=0.5, degrade="camera", shrink="random")
    counts = [sum(len(one.qualities) == number for one in drawn) / 800 for number in range(3)]
    assert counts == pytest.approx([0.3, 0.35, 0.35], abs=0.06)
    qualities = {quality for one in drawn for quality in one.qualities}
    assert (min(qualities), max(qualities)) == (40, 60)
    assert 0 <= min(one.noise for one in drawn) < 1 < 9 < max(one.noise for one in drawn) <= 10
    assert {one.shrink for one in drawn} == set(FILTERS)
    assert {one.subsampling for one in drawn} == {0, 2}
    assert all(one.qualities == () for one in draw(20, clean_share=1))
    assert all(one.noise == 0 for one in draw(20))


@pytest.mark.parametrize("side", [64, 96], ids=["3:2", "1:1"])
def test_an_input_is_the_shrunk_label_as_jpeg(photo, side):
    drawn = Degradation("lanczos", (50,), subsampling=2)
    small = Image.fromarray(photo).resize((side, side), Image.Resampling.LANCZOS)
    expected = np.asarray(Image.fromarray(compress_jpeg(np.asarray(small), 50, 2)).convert("L"))
    assert np.array_equal(make_inputs([(photo, drawn)], Fraction(96, side), settings())[0], expected)


def test_a_second_compression_has_a_shifted_grid(photo):
    grey = photo[..., 1].copy()
    drawn = Degradation("lanczos", (20, 100), shift=(3, 5))
    found = make_inputs([(grey, drawn)], Fraction(1), settings())[0].astype(int)
    assert found.shape == grey.shape
    steps = np.abs(np.diff(found, axis=1)).mean(axis=0)  # between columns x and x + 1
    assert np.bincount(np.arange(95) % 8, steps).argmax() == 7 - 5
    steps = np.abs(np.diff(found, axis=0)).mean(axis=1)
    assert np.bincount(np.arange(95) % 8, steps).argmax() == 7 - 3


@pytest.mark.parametrize("shot", [0.0, 1.0])
@pytest.mark.parametrize(
    ("bands", "luminance"), [(1, "rec601"), *((3, luminance) for luminance in get_args(Luminance))]
)
def test_noise_has_the_drawn_deviation_in_the_luminance(bands, luminance, shot):
    given = settings(luminance=luminance)
    grey = np.full((96, 96) if bands == 1 else (96, 96, bands), 127, "uint8")
    noisy = make_inputs([(grey, Degradation("box", noise=6.0, shot=shot, seed=3))], Fraction(1), given)[0]
    assert noisy.std() == pytest.approx(6, rel=0.05)
    assert noisy.mean() == pytest.approx(127, abs=0.3)
    dark = make_inputs([(grey // 4, Degradation("box", noise=6.0, shot=shot, seed=3))], Fraction(1), given)[0]
    assert dark.std() == pytest.approx(6 if shot == 0 else 3, rel=0.06)  # Poisson: half at a quarter of the light


def test_the_manifest_contains_the_strength_of_each_input(dataset):
    rows = dataset.rows
    assert {row["jpeg_quality"] is None for row in rows} == {True, False}
    assert {row["noise"] for row in rows} == {0}
    pairs = Dataset(dataset.folder).load_pairs("all", Fraction(3, 2))
    expected = [0 if row["jpeg_quality"] is None else compute_strength(row["jpeg_quality"]) for row in rows]
    assert pairs.strengths == pytest.approx(expected, abs=1e-6)
    inputs, labels = next(pairs.batches(100))
    assert (inputs.shape, labels.shape) == ((len(rows), 20, 20, 2), (len(rows), 30, 30, 1))
    assert (inputs[..., 1] == pairs.strengths[:, None, None]).all()


def test_batches_contain_strengths_on_demand(dataset):
    pairs = dataset.load_pairs("train", Fraction(1))
    plain, conditioned = (
        Patches(pairs.with_strengths(wanted), 16, "aligned", True, 0).draw_batch(3, 9) for wanted in (False, True)
    )
    chosen = Patches(pairs, 16, "aligned", True, 0).draw_positions(3, 9).pair_numbers
    assert plain[0].shape == (9, 16, 16, 1)
    assert np.array_equal(conditioned[0][..., :1], plain[0])
    assert (conditioned[0][..., 1] == pairs.strengths[chosen][:, None, None]).all()


def test_a_dataset_without_degradation_has_neither_columns_nor_strengths(photo_folder, preprocess):
    dataset = prepare(preprocess(source=str(photo_folder)))
    assert not set(DEGRADATION_COLUMNS) & dataset.rows[0].keys()
    pairs = dataset.load_pairs("all", Fraction(3, 2))
    assert pairs.strengths is None
    assert not pairs.with_strengths(True).strengths.any()


def test_labels_in_colour_give_nearly_the_labels_in_grey(photo_folder, preprocess, dataset):
    grey = prepare(preprocess(source=str(photo_folder), crop="random", labels_per_photo="5"))
    for one, other in zip(dataset.rows, grey.rows, strict=True):
        assert (one["path"], one["x"], one["y"]) == (other["path"], other["x"], other["y"])
    labels, others = (each.load_pairs("all", Fraction(3, 2)).copy_to_memory()[1] for each in (dataset, grey))
    assert np.abs(labels.astype(int) - others).max() <= 3  # half of the labels are resized before the conversion


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"degrade": "none", "scales": "1:1"}, "scales: must be above 1:1 with degrade=none, got 1:1"),
        ({"recompress": 75}, "recompress: has no effect with degrade=jpeg, got 75"),
        ({"noise_levels": "1,2"}, "noise_levels: has no effect with degrade=jpeg, got 1.0,2.0"),
        ({"jpeg_qualities": "50"}, "jpeg_qualities: must be two numbers from 1 to 100, the lower one first"),
        ({"jpeg_qualities": "50,20"}, "jpeg_qualities: must be two numbers from 1 to 100, the lower one first"),
        ({"jpeg_qualities": "0,20"}, "jpeg_qualities: must be two numbers from 1 to 100, the lower one first"),
        ({"degrade": "camera", "noise_levels": "nan,2"}, "noise_levels: must be two numbers from 0 to 100"),
    ],
)
def test_settings_without_effect_or_out_of_range_are_refused(given, text):
    with pytest.raises(SettingsError, match=text):
        settings(**given)
