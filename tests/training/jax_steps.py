"""Steps in compiled calls equal single steps of Keras. `test_jax.py` runs this module on the JAX backend."""

from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest

from loupe.config import parse_settings
from loupe.data.pairs import Pairs
from loupe.data.patches import Patches
from loupe.errors import UsageError
from loupe.models import builder
from loupe.models.onnx_export import export
from loupe.training import batches, compiled_steps, optimization
from loupe.training.compiled_steps import CompiledSteps
from loupe.training.steps import SingleSteps
from loupe.upscalers.geometry import Geometry

STEPS = 50
SETTINGS = {
    "convolutional": {"filters": 8, "layers": 2, "crop_size": 16, "batch_size": 8, "clip_norm": 0.1},
    "convolutional, mae, any": {"filters": 4, "layers": 1, "crop_size": 16, "loss": "mae", "crop_positions": "any"},
    "convolutional, conditioned": {"filters": 4, "layers": 1, "crop_size": 16, "batch_size": 8, "condition": "jpeg"},
    "perceptron with dropout": {
        "network": "perceptron", "hidden": "32", "keep_prob": 0.5, "batch_size": 16, "optimizer": "rmsprop",
        "schedule": "exponential", "seed": 2**31 - 1,
    },
    "perceptron, sgd": {"network": "perceptron", "hidden": "16", "optimizer": "sgd", "momentum": 0.9},
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return make_pairs()


@cache
def make_pairs() -> Pairs:
    rng = np.random.default_rng(0)
    inputs, labels = (list(rng.integers(0, 256, (6, side, side), dtype="uint8")) for side in (24, 36))
    rows = [{"jpeg_quality": quality} for quality in (None, 100, 80, 50, 20, 1)]
    return Pairs.from_images(rows, inputs, labels, parse_settings("train", {}).scale)


def train(kind: type, pairs: Pairs, given: dict, parts: list[range]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the weights and the losses after these steps."""
    settings = parse_settings("train", {"steps": STEPS, "quiet": True} | given)
    model = builder.build(settings, 24, "rec601")
    optimization.compile_model(model, settings)
    patches, count = batches.open_patches(settings, pairs, Geometry.from_name(model.name))
    losses: list[float] = []
    runner = kind(model, settings, patches, count)
    for steps in parts:
        runner.run(steps, lambda first, found: losses.extend(found))
    return model.get_weights(), np.array(losses)


@cache
def train_in_single_steps(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    return train(SingleSteps, make_pairs(), SETTINGS[name], [range(STEPS)])


@pytest.mark.parametrize(
    ("name", "where"),
    [
        *[(name, where) for name in SETTINGS for where in ("images on the device", "batches cut on the host")],
        *[(name, "one step per call") for name in SETTINGS if name.startswith("convolutional")],
    ],
)
def test_compiled_steps_equal_single_steps(
    name: str, where: str, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_steps, "LOOP_CONVOLUTIONS_ON_CPU", where != "one step per call")
    if where == "batches cut on the host":
        monkeypatch.setattr(compiled_steps, "DEFAULT_MAX_IMAGES_BYTES", 0)
    expected, expected_losses = train_in_single_steps(name)
    weights, losses = train(CompiledSteps, pairs, SETTINGS[name], [range(7), range(7, STEPS)])
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    for value, other in zip(weights, expected, strict=True):
        assert value == pytest.approx(other, abs=1e-4)


def test_four_devices_give_the_curve_of_one(pairs: Pairs) -> None:
    given = SETTINGS["convolutional"]
    _, one = train(CompiledSteps, pairs, given | {"devices": 1}, [range(STEPS)])
    _, four = train(CompiledSteps, pairs, given | {"devices": "all"}, [range(STEPS)])
    assert len(one) == STEPS
    assert four == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize(
    ("devices", "size", "rule"),
    [
        (5, 8, "all, or 1 to 4 on this machine, got 5"),
        (3, 8, "a divisor of the number of inputs per batch, 8, got 3"),
        ("all", 6, r"a divisor of the number of inputs per batch, 6, got all \(4 devices\)"),
    ],
)
def test_devices_must_exist_and_divide_the_batch(devices: int | str, size: int, rule: str) -> None:
    with pytest.raises(UsageError, match=f"^devices: must be {rule}$"):
        compiled_steps.choose_devices(devices, size)


def test_positions_are_cut_and_turned_as_by_numpy(pairs: Pairs) -> None:
    patches = Patches(pairs.with_strengths(False), 16, "aligned", augment=True, seed=3)
    drawn = patches.draw_positions(5, 40)
    expected = patches.draw_batch(5, 40)
    at = [drawn.pair_numbers, drawn.input_corners, drawn.label_corners, drawn.symmetries]
    found = compiled_steps._make_batch(pairs.copy_to_memory(), at, patches.sides)
    assert set(drawn.symmetries) == set(range(8))
    for value, other in zip(found, expected, strict=True):
        assert np.asarray(value) == pytest.approx(other, abs=1e-6)


def test_the_backend_is_jax() -> None:
    assert keras.backend.backend() == "jax"


@pytest.mark.parametrize("given", SETTINGS.values(), ids=SETTINGS)
def test_a_compiled_upscaler_gives_the_results_of_the_model_with_its_present_weights(given: dict) -> None:
    model = builder.build(parse_settings("train", given), 24, "rec601")
    geometry = Geometry.from_name(model.name)
    shape = (2, 2 * geometry.min_side, 3 * geometry.min_side, geometry.channels)
    image = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    for factor in (1, 2):
        model.set_weights([factor * weights for weights in model.get_weights()])
        expected = keras.ops.convert_to_numpy(model(image, training=False))
        np.testing.assert_allclose(builder.KerasUpscaler(model)(image), expected, atol=1e-5)
    assert builder._compile(model)._cache_size() == 1


def test_a_network_is_exported_to_onnx(tmp_path: Path) -> None:
    """TensorFlow converts it in another process."""
    model = builder.build(parse_settings("train", SETTINGS["perceptron, sgd"]), 24, "rec601")
    assert export(model, Geometry.from_name(model.name), tmp_path / "model.onnx") < 1e-5
