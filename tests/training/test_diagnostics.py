"""Diagnostics of images and curves with known values."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from PIL import Image

from loupe.config import parse_settings
from loupe.data.labels import shrink_label
from loupe.data.pairs import Pairs
from loupe.training import diagnostics
from loupe.upscalers.baselines import FilterUpscaler
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.tiling import upscale

SCALE = Fraction(3, 2)
CONVOLUTIONAL = parse_settings("train", {})
PERCEPTRON = parse_settings("train", {"network": "perceptron"})


def photo_pairs(name: str, rows: list[dict[str, Any]] | None = None) -> Pairs:
    photo = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / name))
    labels = [photo[y : y + 60, x : x + 60] for y in range(0, 240, 80) for x in range(0, 240, 80)]
    inputs = [shrink_label(label, SCALE, "lanczos") for label in labels]
    return Pairs.from_images(
        rows or [{"sha256": f"{name} {number}"} for number in range(len(labels))], inputs, labels, SCALE
    )


@pytest.fixture(scope="module")
def train() -> Pairs:
    return photo_pairs("camera.png")


@pytest.fixture(scope="module")
def validation() -> Pairs:
    return photo_pairs("coins.png")


class Remembered:
    """A model that returns the changed labels of known inputs.

    Args:
        known: pairs with these inputs.
        change: function from labels (n, height, width, 1) to results.
        q: side of the model's blocks.
    """

    def __init__(self, known: list[Pairs], change: Any, q: int = 10) -> None:
        self.geometry = Geometry(q, int(q * SCALE), q, 0, "rec601")
        self._change = change
        self._labels = {
            small.tobytes(): large
            for part in known
            for inputs, labels in part.batches(16)
            for small, large in zip(inputs, labels, strict=True)
        }

    def __call__(self, images: np.ndarray) -> np.ndarray:
        labels = np.stack([self._labels[np.ascontiguousarray(image).tobytes()] for image in images])
        return self._change(labels).astype("float32")


def blurred(labels: np.ndarray) -> np.ndarray:
    wide = np.pad(labels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    side = labels.shape[1]
    return np.mean([wide[:, y : y + side, x : x + side] for y in range(3) for x in range(3)], axis=0)


def test_lanczos_as_the_model_has_no_gap(train: Pairs, validation: Pairs) -> None:
    found = diagnostics.diagnose_network(FilterUpscaler("lanczos", SCALE), CONVOLUTIONAL, train, validation)
    assert found["val/gap"] == pytest.approx(0, abs=1e-7)
    assert found["val/best_mae"] == found["val/lanczos/mae"]
    assert found["val/gain"] == pytest.approx(found["val/nearest/mae"] / found["val/lanczos/mae"])
    assert found["val/gain"] > 1
    assert found["val/nearest_wins"] == 0
    assert "val/input_mae" not in found


def test_nearest_as_the_model_has_gain_1_and_no_wins(train: Pairs, validation: Pairs) -> None:
    found = diagnostics.diagnose_network(FilterUpscaler("nearest", SCALE), CONVOLUTIONAL, train, validation)
    assert found["val/gain"] == pytest.approx(1)
    assert found["val/nearest_wins"] == 0


def test_scores_are_means_over_the_validation_images(train: Pairs, validation: Pairs) -> None:
    off = Remembered([train, validation], lambda labels: np.where(labels > 0, labels - 0.1, labels + 0.1))
    found = diagnostics.diagnose_network(off, PERCEPTRON, train, validation)
    assert found["val/best_mae"] == pytest.approx(0.1, abs=1e-5)
    assert found["val/best_mse"] == pytest.approx(0.01, abs=1e-5)
    assert found["val/best_psnr"] == pytest.approx(10 * np.log10(4 / 0.01), abs=1e-3)
    inputs, labels = next(validation.batches(100))
    for name in ("nearest", "lanczos"):
        error = np.abs(upscale(FilterUpscaler(name, SCALE), inputs) - labels).mean()
        assert found[f"val/{name}/mae"] == pytest.approx(error, abs=1e-6)


def test_a_model_that_memorised_its_photos_has_a_gap(train: Pairs, validation: Pairs) -> None:
    lanczos = FilterUpscaler("lanczos", SCALE)
    seen = {small.tobytes() for inputs, _ in train.batches(16) for small in inputs}
    by_heart = Remembered([train], lambda labels: labels)

    class Overfitted:
        geometry = by_heart.geometry

        def __call__(self, images: np.ndarray) -> np.ndarray:
            known = np.ascontiguousarray(images[0]).tobytes() in seen
            return by_heart(images) if known else lanczos(images)

    found = diagnostics.diagnose_network(Overfitted(), PERCEPTRON, train, validation)
    inputs, labels = next(train.batches(100))
    assert found["val/gap"] == pytest.approx(np.abs(upscale(lanczos, inputs) - labels).mean(), abs=1e-6)
    assert found["val/gap"] > 0.01


@pytest.mark.parametrize("before", ["bicubic", "lanczos", "nearest"])
def test_the_input_mae_is_that_of_the_pre_upscale_filter(before: str, train: Pairs, validation: Pairs) -> None:
    settings = parse_settings("train", {"network": "perceptron", "pre_upscale": before})
    found = diagnostics.diagnose_network(FilterUpscaler(before, SCALE), settings, train, validation)
    assert found["val/input_mae"] == found["val/best_mae"]


def test_blur_and_lower_contrast_decrease_the_gradient_energy(train: Pairs, validation: Pairs) -> None:
    energies = {
        name: diagnostics.diagnose_network(Remembered([train, validation], change), PERCEPTRON, train, validation)[
            "val/gradient_energy"
        ]
        for name, change in {"blurred": blurred, "shifted": lambda labels: 0.9 * labels + 0.05}.items()
    }
    assert 0 < energies["blurred"] < 0.7
    assert energies["shifted"] == pytest.approx(0.81, abs=1e-3)


def test_a_model_without_values_below_0_loses_all_dark_pixels(train: Pairs, validation: Pairs) -> None:
    lost = {
        name: diagnostics.diagnose_network(Remembered([train, validation], change), PERCEPTRON, train, validation)[
            "val/dark_lost"
        ]
        for name, change in {"relu": lambda labels: np.maximum(labels, 0), "half": lambda labels: labels / 2}.items()
    }
    assert lost == {"relu": 1, "half": 0}


@pytest.mark.parametrize(("q", "seams"), [(10, 1.0), (2, None)])
def test_seams_are_measured_at_the_borders_of_the_models_blocks(
    q: int, seams: float | None, train: Pairs, validation: Pairs
) -> None:
    def even(labels: np.ndarray) -> np.ndarray:
        return np.where(labels > 0, labels - 0.1, labels + 0.1)

    def at_seams(labels: np.ndarray) -> np.ndarray:
        at = np.isin(np.arange(labels.shape[1]) % 15, (0, 14))
        border = (at[:, None] | at[None, :])[None, ..., None]
        return np.where(border, labels + np.where(labels > 0, -0.4, 0.4), even(labels))

    found = {
        change: diagnostics.diagnose_network(
            Remembered([train, validation], change, q), PERCEPTRON, train, validation
        )
        for change in (even, at_seams)
    }
    assert found[even]["val/seams"] == pytest.approx(1, abs=1e-4)
    if seams:
        assert found[at_seams]["val/seams"] == pytest.approx(4, abs=1e-3)
    else:  # its own blocks are smaller than these
        assert found[at_seams]["val/seams"] < 2


def test_only_perceptrons_choose_how_patches_are_combined() -> None:
    overlapping = parse_settings("train", {"network": "perceptron", "recompose": "gaussian"})
    ridge = parse_settings("train", {"network": "ridge"})
    assert diagnostics.choose_recompose(overlapping) == "gaussian"
    assert {diagnostics.choose_recompose(one) for one in (PERCEPTRON, CONVOLUTIONAL, ridge)} == {"concatenate"}


def test_diagnostics_combine_patches_as_the_settings_say(train: Pairs, validation: Pairs) -> None:
    class Blocky:
        """A model whose result blocks have the mean of their input block."""

        geometry = Geometry(10, 15, 10, 0, "rec601")

        def __call__(self, images: np.ndarray) -> np.ndarray:
            n, height, width, _ = images.shape
            means = images.reshape(n, height // 10, 10, width // 10, 10).mean(axis=(2, 4))
            return means.repeat(15, axis=1).repeat(15, axis=2)[..., None].astype("float32")

    overlapping = parse_settings("train", {"network": "perceptron", "recompose": "gaussian"})
    plain, smooth = (
        diagnostics.diagnose_network(Blocky(), settings, train, validation) for settings in (PERCEPTRON, overlapping)
    )
    assert smooth["val/best_mae"] < 0.95 * plain["val/best_mae"]
    assert smooth["val/seams"] < plain["val/seams"]


def rows_of(*names: str) -> Pairs:
    image = np.zeros((2, 2), "uint8")
    return Pairs.from_images([{"sha256": name} for name in names], [image] * len(names), [image] * len(names), SCALE)


@pytest.mark.parametrize(
    ("photos", "wins", "share"),
    [
        ("abcd", [1, 0, 0, 0], 0.25),
        ("abcd", [1, 1, 1, 1], 1),
        ("aaab", [1, 1, 0, 0], 0.5),  # two of three of one photo, none of the other
        ("aabb", [1, 0, 1, 0], 0),  # half is not most
        ("abab", [1, 0, 1, 0], 0.5),
    ],
)
def test_a_photo_counts_once_regardless_of_its_number_of_images(photos: str, wins: list[int], share: float) -> None:
    assert diagnostics.compute_win_share(np.array(wins, bool), rows_of(*photos)) == pytest.approx(share)


def test_images_without_a_photo_hash_count_individually() -> None:
    plain = Pairs.from_images([{}] * 4, [np.zeros((2, 2), "uint8")] * 4, [np.zeros((3, 3), "uint8")] * 4, SCALE)
    assert diagnostics.compute_win_share(np.array([True, False, False, False]), plain) == 0.25


def curve(*maes: float) -> dict[str, float]:
    return diagnostics.diagnose_curve([{"step": at, "metrics": {"val/mae": mae}} for at, mae in enumerate(maes)])


@pytest.mark.parametrize(
    ("maes", "saturated", "lowest"),
    [
        ([1.0, 0.5, 0.4, 0.3], 0.3, 0.3),  # never saturates
        ([1.0, 0.5, 0.499, 0.498, 0.1], 0.498, 0.1),  # two points of 0.2 %, then a decrease that is too late
        ([1.0, 0.5, 0.499, 0.4, 0.399, 0.3], 0.3, 0.3),  # one such point alone does not count
        ([1.0, 0.5, 0.6, 0.7, 0.1], 0.5, 0.1),  # worse points count as well
        ([1.0, 1.1, 1.2], 1.0, 1.0),
        ([1.0, 0.995, 0.990], 0.990, 0.990),  # each is below 1 %, though both together are not
        ([1.0, 0.98, 0.96, 0.94], 0.94, 0.94),
        ([0.7], 0.7, 0.7),
    ],
)
def test_a_curve_saturates_at_the_second_consecutive_point_below_1_percent(
    maes: list[float], saturated: float, lowest: float
) -> None:
    found = curve(*maes)
    assert (found["val/saturated_mae"], found["val/lowest_mae"]) == (saturated, lowest)


def test_roughness_is_the_deviation_of_differences_in_the_second_half() -> None:
    assert curve(9, 1, 5, 3, 0.4, 0.3, 0.2, 0.1)["val/roughness"] == pytest.approx(0, abs=1e-12)
    found = curve(0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.5, 0.3)  # differences of -0.2, 0.2, -0.2
    assert found["val/roughness"] == pytest.approx(np.std([-0.2, 0.2, -0.2]))
    assert "val/roughness" not in curve(1.0, 0.5, 0.4)  # one difference has no spread
