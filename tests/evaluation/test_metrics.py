"""Scores compared with hand-computed ones and with scikit-image."""

import numpy as np
import pytest
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from loupe.evaluation import metrics


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.uniform(-1, 1, (3, 16, 20, 1)).astype("float32")
    return np.clip(labels + rng.normal(0, 0.2, labels.shape), -1, 1).astype("float32"), labels


def test_scores_equal_hand_computed_ones() -> None:
    label = np.array([[0.0, 0.5], [-1.0, 1.0]]).reshape(1, 2, 2, 1)
    image = np.array([[0.1, 0.5], [-0.8, 0.6]]).reshape(1, 2, 2, 1)  # off by 0.1, 0, 0.2, 0.4
    assert metrics.mae(image, label) == pytest.approx([0.7 / 4])
    assert metrics.mse(image, label) == pytest.approx([0.21 / 4])
    assert metrics.psnr(image, label) == pytest.approx([10 * np.log10(4 / (0.21 / 4))])


def test_scores_equal_those_of_scikit_image(images: tuple[np.ndarray, np.ndarray]) -> None:
    found = metrics.compute_scores(*images)
    for number, (image, label) in enumerate(zip(*(part[..., 0].astype("float64") for part in images), strict=True)):
        assert found["mse"][number] == pytest.approx(mean_squared_error(label, image))
        assert found["psnr"][number] == pytest.approx(peak_signal_noise_ratio(label, image, data_range=2))
        expected = structural_similarity(
            label, image, data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert found["ssim"][number] == pytest.approx(expected, abs=1e-5)
        assert found["mae"][number] == pytest.approx(np.abs(label - image).mean())


def test_every_score_has_one_value_per_image(images: tuple[np.ndarray, np.ndarray]) -> None:
    found = metrics.compute_scores(*images)
    assert tuple(found) == metrics.SCORES
    alone = [metrics.compute_scores(*(part[number : number + 1] for part in images)) for number in range(3)]
    for name, values in found.items():
        assert values.shape == (3,)
        assert len(set(values)) == 3
        np.testing.assert_allclose(values, [one[name][0] for one in alone])


def test_images_are_clipped_before_scoring(images: tuple[np.ndarray, np.ndarray]) -> None:
    image, label = images
    beyond = np.where(image > 0.9, 7.0, np.where(image < -0.9, -5.0, image))
    assert np.abs(beyond).max() > 1
    clipped = metrics.compute_scores(np.clip(beyond, -1, 1), label)
    for name, values in metrics.compute_scores(beyond, label).items():
        np.testing.assert_array_equal(values, clipped[name])


def test_an_image_that_equals_its_label_has_finite_scores(images: tuple[np.ndarray, np.ndarray]) -> None:
    found = metrics.compute_scores(images[1], images[1])
    np.testing.assert_array_equal(found["mae"], 0)
    np.testing.assert_array_equal(found["mse"], 0)
    np.testing.assert_allclose(found["psnr"], 10 * np.log10(4 / 1e-9))
    np.testing.assert_allclose(found["ssim"], 1)


def test_white_against_black_has_psnr_zero() -> None:
    white = np.ones((1, 12, 12, 1), "float32")
    assert metrics.psnr(white, -white) == pytest.approx([0])


@pytest.mark.parametrize(("side", "known"), [(10, False), (11, True)])
def test_ssim_is_nan_below_its_window(side: int, known: bool) -> None:
    rng = np.random.default_rng(1)
    image, label = rng.uniform(-1, 1, (2, 2, side, 30, 1)).astype("float32")
    assert (np.isfinite(metrics.ssim(image, label)) == known).all()
    assert metrics.ssim(image, label).shape == (2,)


def test_dark_pixels_are_lost_if_the_image_is_at_least_0_there() -> None:
    label = np.array([[-0.5, -0.1, 0.0], [0.3, -1.0, -0.2]]).reshape(1, 2, 3, 1)
    image = np.array([[0.0, -0.1, -1.0], [-1.0, 0.4, -0.001]]).reshape(1, 2, 3, 1)
    assert metrics.compute_lost_dark_share(image, label) == pytest.approx(
        [2 / 4]
    )  # 0.0 and 0.4; labels >= 0 are not dark
    assert metrics.compute_lost_dark_share(label, label) == pytest.approx([0])


def test_the_lost_share_is_nan_without_dark_pixels() -> None:
    labels = np.stack([np.full((2, 2, 1), 0.5), np.full((2, 2, 1), -0.5)])
    found = metrics.compute_lost_dark_share(np.ones_like(labels), labels)
    assert np.isnan(found[0])
    assert found[1] == 1


def test_gradient_energy_equals_a_hand_computed_one() -> None:
    image = np.array([[0.0, 0.5], [-0.5, 1.0]]).reshape(1, 2, 2, 1)
    assert metrics.compute_gradient_energy(image) == pytest.approx([0.5**2 + 0.5**2 + 0.5**2 + 1.5**2])


def test_gradient_energy_depends_on_contrast_but_not_on_brightness(images: tuple[np.ndarray, np.ndarray]) -> None:
    label = images[1]
    np.testing.assert_allclose(
        metrics.compute_gradient_energy(label / 2 + 0.25), metrics.compute_gradient_energy(label) / 4, rtol=1e-5
    )
    np.testing.assert_array_equal(metrics.compute_gradient_energy(np.full_like(label, 0.3)), 0)
    np.testing.assert_allclose(
        metrics.compute_gradient_energy(label.swapaxes(1, 2)), metrics.compute_gradient_energy(label)
    )


def test_blur_decreases_gradient_energy(images: tuple[np.ndarray, np.ndarray]) -> None:
    label = images[1]
    blurred = (label[:, 1:, 1:] + label[:, :-1, 1:] + label[:, 1:, :-1] + label[:, :-1, :-1]) / 4
    assert (metrics.compute_gradient_energy(blurred) < 0.5 * metrics.compute_gradient_energy(label[:, 1:, 1:])).all()


@pytest.mark.parametrize("block", [3, 5, 10])
def test_errors_at_borders_of_blocks_are_separate_from_errors_inside(block: int) -> None:
    height, width = 2 * block, 3 * block
    label = np.zeros((2, height, width, 1))
    image = np.full_like(label, 0.1)
    image[1] = 0.0
    for start in range(0, width, block):  # each block drawn by hand
        for top in range(0, height, block):
            for y, x in ((top, start), (top + block - 1, start)):
                image[:, y, x : x + block] = 0.5
            for y, x in ((top, start), (top, start + block - 1)):
                image[:, y : y + block, x] = 0.5
    border, inside = metrics.compute_seam_errors(image, label, block)
    assert border == pytest.approx([0.5, 0.5])
    assert inside == pytest.approx([0.1, 0.0])


@pytest.mark.parametrize("block", [1, 2])
def test_blocks_below_3_pixels_have_no_inside(block: int, images: tuple[np.ndarray, np.ndarray]) -> None:
    border, inside = metrics.compute_seam_errors(*images, block)
    np.testing.assert_allclose(border, metrics.mae(*images))
    assert np.isnan(inside).all()
