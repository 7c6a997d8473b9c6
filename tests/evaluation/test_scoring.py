"""Summaries of scores: means, intervals over photos, and comparisons with the baselines."""

import numpy as np
import pandas as pd
import pytest

from loupe.evaluation import metrics, scoring


def test_an_interval_has_the_width_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    columns = np.stack([values, -2 * values], axis=1)
    (low, high), (negative_low, negative_high) = scoring.compute_intervals(columns, np.arange(400))
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.02)
    assert (negative_low, negative_high) == pytest.approx((-2 * high, -2 * low))


def test_tiles_of_a_photo_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=50)
    once = scoring.compute_intervals(values[:, None], np.arange(50))
    tiled = scoring.compute_intervals(np.repeat(values, 9)[:, None], np.repeat(np.arange(50), 9))
    np.testing.assert_allclose(tiled, once)


@pytest.mark.parametrize(("photos", "tiles"), [(8, 1), (8, 6), (15, 1), (15, 6)])
def test_the_intervals_of_few_photos_contain_the_mean_as_often_as_they_state(photos, tiles):
    rng, trials = np.random.default_rng(0), 4000
    names = np.repeat(np.arange(photos), rng.integers(1, tiles + 1, photos))
    values = (rng.normal(size=(photos, trials)) + 5)[names] + rng.normal(size=(len(names), trials))
    ends = np.array(scoring.compute_intervals(values, names))
    assert ((ends[:, 0] < 5) & (ends[:, 1] > 5)).mean() == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("photos", [1, 2, 7])
def test_few_photos_have_no_interval(photos):
    assert scoring.compute_intervals(np.ones((30, 2)), np.arange(30) % photos) == [None, None]


def test_one_perfect_image_does_not_raise_the_psnr_of_the_mean_mse():
    table = pd.DataFrame({"photo": [*"abcd"], "image": range(4), "method": "model", "mae": 0.1, "ssim": 0.9})
    table["mse"] = [0.01, 0.01, 0.01, 0.0]
    table["psnr"] = metrics.convert_to_psnr(table["mse"].to_numpy())
    means = scoring.summarise(table)["model"]
    assert means["psnr"] > means["psnr_of_mse"] + 15
    assert means["psnr_of_mse"] == pytest.approx(10 * np.log10(4 / 0.0075))
    assert (means["photos"], scoring.to_metrics({"model": means})["test/photo_count"]) == (4, 4)


@pytest.mark.parametrize(("count", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images")])
def test_a_count_has_the_singular_only_for_one(count, text):
    assert scoring.format_count(count, "image") == text


def scored(maes: dict[str, list[float]], photos: list[str]) -> pd.DataFrame:
    rows = [
        {"photo": photo, "image": image, "method": name} | dict.fromkeys(metrics.SCORES, mae)
        for name, found in maes.items()
        for image, (photo, mae) in enumerate(zip(photos, found, strict=True))
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_a_method_is_compared_with_the_baselines_image_by_image():
    table = scored({"model": [0.1, 0.2, 0.5], "nearest": [0.2, 0.3, 0.4]}, ["a", "a", "b"])
    over = scoring.summarise(table)["model"]["over"]
    assert over.keys() == {"nearest"}
    assert over["nearest"]["mae"] == pytest.approx(-0.1 / 3)
    assert over["nearest"]["gain"] == pytest.approx(0.9 / 0.8)
    assert over["nearest"]["baseline_wins"] == 0.5  # one photo of two
    assert over["nearest"]["interval"] is None


def test_the_text_has_the_column_gain_only_for_whole_images():
    whole = scoring.summarise(scored({"model": [0.1, 0.2], "nearest": [0.2, 0.4]}, ["a", "b"]))
    header, *_, model, last = scoring.format_scores(whole).split("\n")
    assert (header.split()[-1], model.split()[-1], last) == ("nearest", "2.00x", "means over the images of 2 photos")
    draws = pd.DataFrame([{"draw": 0, "method": "model", "photos": 3} | dict.fromkeys(metrics.SCORES, 0.1)])
    header, model, last = scoring.format_scores(scoring.summarise(draws)).split("\n")
    assert (header.split()[-1], len(model)) == ("ssim", len(header))
    assert last == "means over 3 photos, 20 patches per photo"
