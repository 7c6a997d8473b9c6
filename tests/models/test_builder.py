"""Every network of any valid settings trains, saves, loads and predicts the same.

Fields and values come from the settings classes, so these tests include every new choice. A choice must change the
network or its training.
"""

import json
import subprocess
import sys
import warnings
from fractions import Fraction
from functools import cache
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import skimage
from PIL import Image

from loupe.config import parse_settings
from loupe.config.base import DatasetSettings, Settings, SettingsError, list_choices
from loupe.config.fields import format_value, parse_scale
from loupe.config.networks import DEFAULT_PATCHES, NETWORKS, Perceptron, build_train_class
from loupe.config.optimizers import OPTIMIZERS
from loupe.config.training import TRAINED_SCALES, GradientTrain
from loupe.data.labels import shrink_label
from loupe.data.pairs import Pairs
from loupe.data.patches import Patches
from loupe.models import builder, keras_file
from loupe.training import batches, loop, optimization
from loupe.training.diagnostics import choose_recompose
from loupe.upscalers import ridge
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.tiling import upscale

Given = dict[str, Any]
TRAINED = [name for name, network in NETWORKS.items() if issubclass(network, GradientTrain)]
NARROW = {
    "hidden": "8", "filters": 4, "layers": 1, "crop_size": 8, "batch_size": 4, "steps": 2, "eval_every": 2,
    "quiet": True,
}  # fmt: skip
# The values to test for fields without a list of choices; None means that the field is not given.
FEW: dict[str, tuple[str | None, ...]] = {
    "scale": ("1:1", "3:2", "2:1"),
    "optimizer": tuple(OPTIMIZERS),
    "patch": (None, "whole", "2:2", "2:3"),
    "hidden": ("none", "8", "8,4"),
    "keep_prob": ("1.0", "0.5"),
    "stddev": (None, "0.05"),
    "decay_rate": (None, "0.5"),
    "layers": ("0", "1"),
}


def narrow(network: str, **more: Any) -> Given:
    fields = NETWORKS[network].model_fields
    return {"network": network} | {name: value for name, value in NARROW.items() if name in fields} | more


def values_of(network: str) -> dict[str, tuple[Any, ...]]:
    """Return the values to try of every field of a network and its optimizers that has more than one."""
    values: dict[str, tuple[Any, ...]] = {}
    for optimizer in OPTIMIZERS:
        for name, info in build_train_class(network, optimizer).model_fields.items():
            if name in FEW:
                values[name] = FEW[name]
            elif name not in DatasetSettings.model_fields and len(list_choices(info.annotation)) > 1:
                values[name] = list_choices(info.annotation)
            elif name not in DatasetSettings.model_fields and info.annotation is bool:
                values[name] = (True, False)
    return values


class AllPairs:
    """A small set of valid combinations that contains every valid pair of values.

    Greedy: each combination starts with a missing pair, and takes for every other field the valid value that covers
    the most missing pairs.
    """

    def __init__(self, network: str) -> None:
        self._network = network
        self._values = values_of(network)
        self._complaints: dict[frozenset[Any], str] = {}

    def combinations(self) -> list[Given]:
        missing = {
            frozenset(((one, a), (other, b)))
            for one, other in combinations(self._values, 2)
            for a in self._values[one]
            for b in self._values[other]
        }
        rows = []
        for pair in sorted(missing, key=lambda pair: sorted(map(repr, pair))):
            if pair not in missing or not self._possible(dict(pair)):
                continue
            row = self._filled(dict(pair), missing)
            missing -= {frozenset(of) for of in combinations(row.items(), 2)}
            rows.append({name: row[name] for name in self._values if row[name] is not None})
        return rows

    def _filled(self, row: Given, missing: set[frozenset[Any]]) -> Given:
        for name, values in self._values.items():
            if name not in row:
                gains = {
                    value: sum(frozenset(((name, value), item)) in missing for item in row.items())
                    for value in values
                }
                ordered = sorted(values, key=lambda value: -gains[value])
                row[name] = next(value for value in ordered if self._possible(row | {name: value}))
        return row

    def _possible(self, row: Given, depth: int = 2) -> bool:
        """Return whether some choice of up to `depth` other fields that change the error makes the row valid."""
        complaint = self._complaint(row)
        if not complaint or not depth:
            return not complaint
        return any(
            self._complaint(row | {name: value}) != complaint and self._possible(row | {name: value}, depth - 1)
            for name, values in self._values.items()
            if name not in row
            for value in values
        )

    def _complaint(self, row: Given) -> str:
        key = frozenset(row.items())
        if key not in self._complaints:
            try:
                checked = {name: value for name, value in row.items() if value is not None}
                parse_settings("train", narrow(self._network) | checked)
                self._complaints[key] = ""
            except SettingsError as error:
                self._complaints[key] = str(error)
        return self._complaints[key]


COMBINATIONS = {network: AllPairs(network).combinations() for network in TRAINED}
CASES = [
    pytest.param(network, given, id=f"{network}-{number:02d}")
    for network, rows in COMBINATIONS.items()
    for number, given in enumerate(rows)
]


@cache
def photo_pairs(scale: Fraction) -> Pairs:
    """Return labels of 24x24 pixels: small for patch=whole, large enough for every other patch and crop."""
    photo = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / "camera.png"))
    labels = [photo[y : y + 24, x : x + 24] for y in range(0, 480, 80) for x in range(0, 480, 80)]
    return Pairs.from_images(
        [{}] * len(labels), [shrink_label(label, scale, "lanczos") for label in labels], labels, scale
    )


@cache
def ridge_weights(scale: Fraction) -> np.ndarray:
    return ridge.fit(photo_pairs(scale))


def built(settings: GradientTrain) -> keras.Model:
    keras.utils.clear_session(free_memory=False)  # resets the names of layers; a garbage collection takes 0.5 s
    side = photo_pairs(settings.scale).sides[0]
    return builder.build(settings, side, "rec709", ridge_weights(settings.scale))


def trained(settings: GradientTrain) -> keras.Model:
    """Return a network with its weights after two steps, even if the initial weights are better."""
    model = built(settings)
    checkpoints: dict[int, loop.Checkpoint] = {}

    def report(point: loop.Point, checkpoint: loop.Checkpoint) -> None:
        checkpoints[point.step] = {name: np.array(value) for name, value in checkpoint.items()}

    photos = photo_pairs(settings.scale)
    loop.fit(model, settings, loop.Splits(photos, photos.subsample(4)), report)
    assert list(checkpoints) == [0, 2]
    first, last = ([of[f"weights/{number}"] for number in range(len(model.weights))] for of in checkpoints.values())
    assert any(not np.array_equal(before, after) for before, after in zip(first, last, strict=True))
    assert all(np.isfinite(value).all() for value in last)
    model.set_weights(last)
    return model


def image_for(geometry: Geometry) -> np.ndarray:
    sides = (2, geometry.min_side, geometry.min_side + geometry.q, geometry.channels)
    return np.random.default_rng(0).uniform(-1, 1, sides).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize(("network", "given"), CASES)
def test_networks_of_any_valid_settings_train_save_load_and_predict_the_same(
    network: str, given: Given, tmp_path: Path
) -> None:
    settings = parse_settings("train", narrow(network) | given)
    model = trained(settings)
    geometry = Geometry.from_name(model.name)
    image = image_for(geometry)
    large = builder.KerasUpscaler(model)(image)
    file = tmp_path / "model.keras"
    model.save(file)
    loaded = keras.saving.load_model(file, compile=False)
    assert Geometry.from_name(loaded.name) == geometry
    assert (geometry.scale, geometry.luminance) == (settings.scale, "rec709")
    assert large.shape == (2, *(int(side * settings.scale) for side in image.shape[1:3]), 1)
    assert np.isfinite(large).all()
    assert large.std() > 0
    np.testing.assert_allclose(builder.KerasUpscaler(loaded)(image), large, atol=1e-6)


def test_saved_models_load_without_this_package(tmp_path: Path) -> None:
    code = (
        "import sys, keras, numpy\n"
        "for name in sys.argv[1:]:\n"
        "    model = keras.saving.load_model(name + '.keras', compile=False)\n"
        "    numpy.save(name + '-large.npy', model(numpy.load(name + '-small.npy'), training=False))\n"
        "assert 'loupe' not in sys.modules\n"
    )
    expected = {}
    extremes = {
        "convolutional": {"skip": "ridge", "condition": "jpeg"},
        "perceptron": {"skip": "ridge", "pre_upscale": "bicubic", "entry_convolutions": 2, "keep_prob": 0.5},
    }
    for network, own in extremes.items():
        model = built(parse_settings("train", narrow(network) | own))
        small = image_for(Geometry.from_name(model.name))
        np.save(tmp_path / f"{network}-small.npy", small)
        model.save(tmp_path / f"{network}.keras")
        expected[network] = builder.KerasUpscaler(model)(small)
    subprocess.run([sys.executable, "-c", code, *TRAINED], cwd=tmp_path, check=True, capture_output=True)
    for network, large in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{network}-large.npy"), large, atol=1e-6)


@pytest.mark.parametrize("network", TRAINED)
def test_the_combinations_cover_every_value_and_every_optimizer_with_every_scale(network: str) -> None:
    rows = COMBINATIONS[network]
    for name, values in values_of(network).items():
        assert {row.get(name) for row in rows} == set(values)
    both = {(row["optimizer"], row["scale"]) for row in rows}
    assert both == {(optimizer, scale) for optimizer in FEW["optimizer"] for scale in FEW["scale"]}


def condition(network: str, name: str) -> Given:
    """Return the values of other fields that a field needs to have an effect."""
    depends: dict[str, Any] = {}
    for base in NETWORKS[network].__mro__:
        depends |= vars(base).get("DEPENDS", {})
    return depends.get(name, {})


def fingerprint(given: Given) -> str:
    """Hash everything that settings can change: graph, weights, optimizer, loss, batches and result."""
    settings = parse_settings("train", given)
    model = built(settings)
    optimization.compile_model(model, settings)
    images = photo_pairs(settings.scale)
    side, count = batches.compute_batch_shape(settings, Geometry.from_name(model.name), images.sides[0])
    images = images.with_strengths(image_for(Geometry.from_name(model.name)).shape[-1] > 1)
    patches = Patches(images, side, settings.crop_positions, settings.augment, settings.seed)
    arrays = [*model.get_weights(), *(array for step in range(4) for array in patches.draw_batch(step, count))]
    image = image_for(Geometry.from_name(model.name))
    arrays.append(upscale(builder.KerasUpscaler(model), image, choose_recompose(settings)))
    with optimization.use_training_precision(model, settings):
        described = [model.get_config(), model.get_compile_config(), side, count]
    digest = sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for array in arrays:
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


CHOICES = [
    (network, name)
    for network in TRAINED
    for name, info in build_train_class(network).model_fields.items()
    if name not in DatasetSettings.model_fields
    and (name in ("optimizer", "scale") or info.annotation is bool or len(list_choices(info.annotation)) > 1)
]


@pytest.mark.parametrize(("network", "name"), CHOICES)
def test_every_choice_changes_the_network_or_its_training(network: str, name: str) -> None:
    # several hidden layers with dropout, so that every field can have an effect
    several = {"hidden": "8,4", "keep_prob": "0.5"}
    base = narrow(network) | {key: value for key, value in several.items() if key in NETWORKS[network].model_fields}
    base |= condition(network, name)
    prints = {value: fingerprint(base | {name: value}) for value in values_of(network)[name]}
    assert len(prints) > 1
    assert len(set(prints.values())) == len(prints), prints
    value, before = next(iter(prints.items()))
    assert fingerprint(base | {name: value}) == before  # the fingerprint is deterministic


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
def test_a_conditioned_network_starts_from_the_weights_of_an_unconditioned_one(
    scale: Fraction, tmp_path: Path
) -> None:
    plain, conditioned = (
        built(
            parse_settings(
                "train", narrow("convolutional", scale=scale, skip="ridge", condition=condition, seed=seed)
            )
        )
        for seed, condition in enumerate(("none", "jpeg"))
    )
    plain.set_weights([np.random.default_rng(0).normal(0, 0.1, value.shape) for value in plain.get_weights()])
    assert builder.copy_matching_weights(conditioned, plain) == len(
        [layer for layer in plain.layers if layer.weights]
    )
    image = image_for(Geometry.from_name(plain.name))
    degraded = np.concatenate([image, np.full_like(image, 0.5)], axis=-1)
    large, same = (upscale(builder.KerasUpscaler(model), degraded) for model in (plain, conditioned))
    np.testing.assert_allclose(large, same, atol=1e-6)
    first = next(layer for layer in conditioned.layers if isinstance(layer, keras.layers.Conv2D))
    first.kernel.assign(first.kernel + 1)
    ignored, used = (upscale(builder.KerasUpscaler(conditioned), each) for each in (image, degraded))
    assert np.abs(ignored - used).max() > 1e-3  # without the second channel, the image counts as clean
    file = tmp_path / "model.keras"
    conditioned.save(file)
    loaded = keras_file.load(file)
    noise = np.random.default_rng(1).uniform(-1, 1, (1, 60, 66, 2)).astype("float32")
    whole = upscale(builder.KerasUpscaler(loaded), noise)
    np.testing.assert_allclose(upscale(builder.KerasUpscaler(conditioned), noise, tile=12), whole, atol=1e-5)


def test_a_loaded_model_takes_an_array_without_a_warning_of_keras(tmp_path: Path) -> None:
    model, file = built(parse_settings("train", narrow("convolutional"))), tmp_path / "model.keras"
    keras.Model([model.input], [model.output], name=model.name).save(file)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        builder.KerasUpscaler(keras_file.load(file))(image_for(Geometry.from_name(model.name)))
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_field_of_an_optimizer_reaches_keras(optimizer: str) -> None:
    own = sorted(OPTIMIZERS[optimizer].model_fields.keys() - Settings.model_fields.keys())
    assert own
    given = {name: 0.25 + number / 100 for number, name in enumerate(own)}
    settings = parse_settings("train", narrow("convolutional", optimizer=optimizer, **given))
    model = built(settings)
    optimization.compile_model(model, settings)
    shown = model.optimizer.get_config()
    assert {name: shown[name] for name in own} == pytest.approx(given)
    assert type(model.optimizer).__name__.lower() == optimizer


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
@pytest.mark.parametrize("network", TRAINED)
def test_a_network_with_skip_ridge_equals_the_ridge_before_training(network: str, scale: Fraction) -> None:
    settings = parse_settings("train", narrow(network, scale=scale, skip="ridge", pre_upscale="none"))
    model = built(settings)
    side = 5 * 24  # a multiple of every default block
    image = np.random.default_rng(0).uniform(-1, 1, (1, side, side, 1)).astype("float32")
    expected = ridge.RidgeUpscaler(ridge_weights(scale), scale, "rec709")(image)
    np.testing.assert_allclose(builder.KerasUpscaler(model)(image), expected, atol=1e-5)


@pytest.mark.parametrize("output_activation", list_choices(Perceptron.model_fields["output_activation"].annotation))
@pytest.mark.parametrize("activation", list_choices(Perceptron.model_fields["activation"].annotation))
def test_a_perceptron_with_skip_ridge_equals_the_ridge_and_has_a_gradient(
    activation: str, output_activation: str
) -> None:
    given = {"skip": "ridge", "activation": activation, "output_activation": output_activation}
    try:
        settings = parse_settings("train", narrow("perceptron") | given)
    except SettingsError as error:
        pytest.skip(f"refused, see test_config.py: {error}")
    model = built(settings)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 40, 40, 1)).astype("float32")
    expected = ridge.RidgeUpscaler(ridge_weights(settings.scale), settings.scale, "rec709")(image)
    np.testing.assert_allclose(builder.KerasUpscaler(model)(image), expected, atol=1e-5)
    optimization.compile_model(model, settings)
    model.train_on_batch(image, np.ones_like(expected))
    assert any(np.any(weights) for weights in model.get_layer("blocks").get_weights())


@pytest.mark.parametrize("network", TRAINED)
def test_the_skip_branch_is_trainable_and_the_pre_upscale_branch_is_not(network: str) -> None:
    model = built(parse_settings("train", narrow(network, skip="ridge", pre_upscale="bicubic")))
    trainable = {variable.path for variable in model.trainable_variables}
    assert any("skip" in path for path in trainable)
    assert not any("pre_upscale" in path for path in trainable)
    assert any("pre_upscale" in variable.path for variable in model.weights)


@pytest.mark.parametrize(
    ("network", "given", "expected"),
    [
        ("perceptron", {}, Geometry(10, 15, 10, 0, "rec709")),
        ("perceptron", {"patch": "whole"}, Geometry(16, 24, 16, 0, "rec709")),
        ("perceptron", {"patch": "2:3", "entry_convolutions": 2}, Geometry(2, 3, 2, 2, "rec709")),
        ("perceptron", {"skip": "ridge"}, Geometry(10, 15, 10, 10, "rec709")),
        ("convolutional", {"skip": "none"}, Geometry(2, 3, 2, 4, "rec709")),
        ("convolutional", {"skip": "none", "scale": "3:1"}, Geometry(1, 3, 1, 2, "rec709")),
        ("convolutional", {"skip": "ridge", "scale": "1:1"}, Geometry(2, 2, 4, 4, "rec709")),
        ("convolutional", {"skip": "ridge", "layers": 0}, Geometry(2, 3, 4, 4, "rec709")),
        ("convolutional", {"skip": "none", "pre_upscale": "lanczos"}, Geometry(2, 3, 4, 8, "rec709")),
    ],
    ids=str,
)
def test_the_geometry_of_a_network_follows_from_its_settings(network: str, given: Given, expected: Geometry) -> None:
    settings = parse_settings("train", narrow(network) | given)
    assert builder.compute_geometry(settings, 16, "rec709") == expected
    assert Geometry.from_name(built(settings).name) == expected


@pytest.mark.parametrize(("network", "given"), [case for case in CASES if int(str(case.id)[-2:]) < 8])
def test_a_block_does_not_depend_on_pixels_beyond_the_halo(network: str, given: Given) -> None:
    settings = parse_settings("train", narrow(network) | given)
    model = built(settings)
    rng = np.random.default_rng(0)
    model.set_weights([weights + rng.normal(0, 0.02, weights.shape) for weights in model.get_weights()])
    geometry = Geometry.from_name(model.name)
    q, p, halo = geometry.q, geometry.p, geometry.halo
    start = 2 * (halo + geometry.min_side)
    side = 2 * start + q
    one, other = rng.uniform(-1, 1, (2, 1, side, side, geometry.channels)).astype("float32")
    reach = slice(start - halo, start + q + halo)
    other[:, reach, reach] = one[:, reach, reach]
    block = slice(start * p // q, start * p // q + p)
    large, again = (builder.KerasUpscaler(model)(image)[:, block, block] for image in (one, other))
    np.testing.assert_allclose(large, again, atol=1e-5)


@pytest.mark.parametrize(
    ("initializer", "inputs", "outputs", "stddev"),
    [("xavier", 100, 8, 6**0.5 / (10 + 8**0.5)), ("gaussian", 100, 8, 0.03)],
)
def test_initial_weights_have_the_standard_deviation_of_the_initializer(
    initializer: str, inputs: int, outputs: int, stddev: float
) -> None:
    given = {"stddev": stddev} if initializer == "gaussian" else {}
    settings = parse_settings("train", narrow("perceptron", initializer=initializer, hidden=outputs, **given))
    first, bias = built(settings).get_weights()[:2]
    assert first.shape == (inputs, outputs)
    assert not bias.any()
    # Keras truncates the normal distribution at two standard deviations, which reduces them to 0.88
    assert first.std() == pytest.approx(0.88 * stddev, rel=0.1)
    assert np.abs(first).max() <= 2 * stddev


def test_initial_weights_differ_between_layers_and_seeds() -> None:
    alike = narrow("convolutional", skip="none", layers=2)
    one, again, other = (built(parse_settings("train", alike | {"seed": seed})).get_weights() for seed in (0, 0, 1))
    assert not np.array_equal(one[2], one[4])  # two convolutions of the same shape
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True) if a.any())


def test_seeds_of_initial_weights_have_32_bits() -> None:
    settings = parse_settings("train", narrow("perceptron", bias_initializer="as_weights", seed=2**31 - 1))
    initializers = builder._make_initializer_factory(settings)(1, 1)
    assert all(0 <= initializer.seed < 2**32 for initializer in initializers.values())


def test_a_conditioned_network_copies_nothing_from_a_perceptron() -> None:
    perceptron = built(parse_settings("train", narrow("perceptron")))
    conditioned = built(parse_settings("train", narrow("convolutional", condition="jpeg")))
    assert builder.copy_matching_weights(conditioned, perceptron) == 0


def test_a_conditioned_network_takes_the_inner_layers_of_an_unconditioned_one_of_another_scale() -> None:
    plain, conditioned = (
        built(parse_settings("train", narrow("convolutional", layers=2, scale=scale, condition=condition)))
        for scale, condition in (("2:1", "none"), ("3:2", "jpeg"))
    )
    assert builder.copy_matching_weights(conditioned, plain) == 4  # two residual layers of two convolutions


def test_copy_matching_weights_copies_layers_of_the_same_shapes() -> None:
    one, same, other_scale = (
        built(parse_settings("train", narrow("convolutional", layers=2, seed=seed, scale=scale)))
        for seed, scale in ((0, "3:2"), (1, "3:2"), (1, "2:1"))
    )
    with_weights = sum(bool(layer.weights) for layer in one.layers)
    before = [layer.get_weights() for layer in other_scale.layers if layer.weights]
    assert builder.copy_matching_weights(same, one) == with_weights
    assert all(np.array_equal(a, b) for a, b in zip(one.get_weights(), same.get_weights(), strict=True))
    assert builder.copy_matching_weights(other_scale, one) == 4  # two residual layers of two convolutions
    after, theirs = ([layer.get_weights() for layer in model.layers if layer.weights] for model in (other_scale, one))
    taken = [np.array_equal(a[0], b[0]) for a, b in zip(after, theirs, strict=True) if a[0].shape == b[0].shape]
    assert taken == [True] * 4
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(before, after, strict=True))


def test_the_default_patch_has_the_ratio_of_its_scale() -> None:
    assert {scale: parse_scale(":".join(reversed(patch.split(":")))) for scale, patch in DEFAULT_PATCHES.items()} == {
        scale: scale for scale in TRAINED_SCALES
    }
