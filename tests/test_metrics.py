"""Scores against hand computations and scikit-image."""

import numpy as np
import pytest
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from loupe import metrics


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.uniform(-1, 1, (3, 16, 20, 1)).astype("float32")
    return np.clip(labels + rng.normal(0, 0.2, labels.shape), -1, 1).astype("float32"), labels


def test_scores_are_those_of_a_hand_computation() -> None:
    label = np.array([[0.0, 0.5], [-1.0, 1.0]]).reshape(1, 2, 2, 1)
    picture = np.array([[0.1, 0.5], [-0.8, 0.6]]).reshape(1, 2, 2, 1)  # off by 0.1, 0, 0.2, 0.4
    assert metrics.mae(picture, label) == pytest.approx([0.7 / 4])
    assert metrics.mse(picture, label) == pytest.approx([0.21 / 4])
    assert metrics.psnr(picture, label) == pytest.approx([10 * np.log10(4 / (0.21 / 4))])


def test_scores_are_those_of_scikit_image(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    found = metrics.scores(*pictures)
    for number, (picture, label) in enumerate(
        zip(*(part[..., 0].astype("float64") for part in pictures), strict=True)
    ):
        assert found["mse"][number] == pytest.approx(mean_squared_error(label, picture))
        assert found["psnr"][number] == pytest.approx(peak_signal_noise_ratio(label, picture, data_range=2))
        expected = structural_similarity(
            label, picture, data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert found["ssim"][number] == pytest.approx(expected, abs=1e-5)
        assert found["mae"][number] == pytest.approx(np.abs(label - picture).mean())


def test_there_is_one_value_an_image_for_every_score(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    found = metrics.scores(*pictures)
    assert tuple(found) == metrics.SCORES
    alone = [metrics.scores(*(part[number : number + 1] for part in pictures)) for number in range(3)]
    for name, values in found.items():
        assert values.shape == (3,)
        assert len(set(values)) == 3
        np.testing.assert_allclose(values, [one[name][0] for one in alone])


def test_scores_are_of_the_clipped_picture(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    picture, label = pictures
    beyond = np.where(picture > 0.9, 7.0, np.where(picture < -0.9, -5.0, picture))
    assert np.abs(beyond).max() > 1
    clipped = metrics.scores(np.clip(beyond, -1, 1), label)
    for name, values in metrics.scores(beyond, label).items():
        np.testing.assert_array_equal(values, clipped[name])


def test_a_picture_that_equals_its_label_scores_best_and_finite(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    found = metrics.scores(pictures[1], pictures[1])
    np.testing.assert_array_equal(found["mae"], 0)
    np.testing.assert_array_equal(found["mse"], 0)
    np.testing.assert_allclose(found["psnr"], 10 * np.log10(4 / 1e-9))
    np.testing.assert_allclose(found["ssim"], 1)


def test_white_against_black_has_psnr_zero() -> None:
    white = np.ones((1, 12, 12, 1), "float32")
    assert metrics.psnr(white, -white) == pytest.approx([0])


@pytest.mark.parametrize(("side", "known"), [(10, False), (11, True)])
def test_ssim_of_a_picture_below_its_window_is_unknown(side: int, known: bool) -> None:
    rng = np.random.default_rng(1)
    picture, label = rng.uniform(-1, 1, (2, 2, side, 30, 1)).astype("float32")
    assert (np.isfinite(metrics.ssim(picture, label)) == known).all()
    assert metrics.ssim(picture, label).shape == (2,)
