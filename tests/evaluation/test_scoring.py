"""Summaries of scores: means, bootstrap intervals over photos, and comparisons with the baselines."""

import numpy as np
import pandas as pd
import pytest

from loupe.evaluation import metrics, scoring


def test_an_interval_has_the_width_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    columns = np.stack([values, -2 * values], axis=1)
    (low, high), (negative_low, negative_high) = scoring.bootstrap_intervals(columns, np.arange(400))
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert (negative_low, negative_high) == pytest.approx((-2 * high, -2 * low))


def test_tiles_of_a_photo_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=50)
    once = scoring.bootstrap_intervals(values[:, None], np.arange(50))
    tiled = scoring.bootstrap_intervals(np.repeat(values, 9)[:, None], np.repeat(np.arange(50), 9))
    np.testing.assert_allclose(tiled, once)


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
    low, high = over["nearest"]["interval"]
    assert -0.1 <= low < over["nearest"]["mae"] < high <= 0.1
