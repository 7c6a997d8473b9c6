"""Training: a resumed training equals an uninterrupted one, and the best weights are kept."""

import math
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import skimage
from hypothesis import given as draw
from hypothesis import strategies as st
from PIL import Image

from loupe.config import parse_settings
from loupe.config.fields import format_value
from loupe.config.training import GradientTrain
from loupe.data.labels import shrink_label
from loupe.data.pairs import Pairs
from loupe.errors import LoupeError, UsageError
from loupe.models import builder, keras_file
from loupe.models.builder import KerasUpscaler
from loupe.training import batches, loop, optimization, variant
from loupe.training.loop import Checkpoint, Point, Splits, TrainingState
from loupe.upscalers import ridge

PERCEPTRON = {
    "network": "perceptron",
    "hidden": "16,8",
    "mirror": False,
    "batch_size": 16,
    "steps": 9,
    "eval_every": 3,
}
CONVOLUTIONAL = {"filters": 4, "layers": 1, "crop_size": 8, "batch_size": 4, "steps": 6, "eval_every": 2}
DEMANDING = {
    "perceptron": PERCEPTRON
    | {
        "optimizer": "rmsprop", "momentum": 0.9, "learning_rate": 1e-3, "schedule": "exponential", "decay_rate": 0.7,
        "decay_steps": 2, "keep_prob": 0.5, "augment": True, "patience": 3, "initializer": "gaussian", "seed": 7,
    },
    "convolutional": CONVOLUTIONAL | {"optimizer": "adam", "augment": True, "skip": "ridge", "schedule": "cosine"},
    "convolutional in bfloat16": CONVOLUTIONAL | {"precision": "bfloat16", "learning_rate": 2e-3},
}  # fmt: skip


@pytest.fixture(scope="module")
def photos() -> dict[str, Pairs]:
    """Return pairs of two bundled photos at 3:2, in memory."""
    splits = {}
    for split, name in (("train", "camera.png"), ("validation", "coins.png")):
        photo = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / name))
        labels = [photo[y : y + 48, x : x + 48] for y in range(0, 240, 80) for x in range(0, 240, 80)]
        scale = parse_settings("train", {}).scale
        inputs = [shrink_label(label, scale, "lanczos") for label in labels]
        splits[split] = Pairs.from_images([{}] * len(labels), inputs, labels, scale)
    return splits


class Run:
    """A finished training with everything that it reported."""

    def __init__(self, photos: dict[str, Pairs], given: dict[str, Any], resume: Checkpoint | None = None) -> None:
        self.settings: GradientTrain = parse_settings("train", given | {"quiet": True})
        weights = ridge.fit(photos["train"])
        self.model = builder.build(self.settings, 32, "rec601", weights)
        self.points: list[Point] = []
        self.checkpoints: dict[int, Checkpoint] = {}
        self.progress: TrainingState = loop.fit(
            self.model, self.settings, Splits(photos["train"], photos["validation"]), self._report, resume
        )

    def _report(self, point: Point, checkpoint: Checkpoint) -> None:
        self.points.append(point)
        self.checkpoints[point.step] = {name: np.array(value) for name, value in checkpoint.items()}

    @property
    def weights(self) -> list[np.ndarray]:
        return self.model.get_weights()

    @property
    def steps(self) -> list[int]:
        return [point.step for point in self.points]


def drop_speed(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"step": point["step"]}
        | {key: value for key, value in point["metrics"].items() if key != "patches_per_second"}
        for point in points
    ]


def assert_bitwise_equal(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for value, again in zip(one, other, strict=True):
        assert value.tobytes() == again.tobytes()


@pytest.fixture(scope="module", params=DEMANDING)
def uninterrupted(request: pytest.FixtureRequest, photos: dict[str, Pairs]) -> tuple[dict[str, Any], Run]:
    given = DEMANDING[request.param]
    return given, Run(photos, given)


def test_a_training_resumed_from_any_checkpoint_gives_the_same_weights(
    uninterrupted: tuple[dict[str, Any], Run], photos: dict[str, Pairs]
) -> None:
    given, whole = uninterrupted
    assert len(whole.checkpoints) == 4
    last = max(whole.checkpoints)
    assert any(
        not np.array_equal(whole.checkpoints[0][f"weights/{number}"], whole.checkpoints[last][f"weights/{number}"])
        for number in range(len(whole.weights))
    )
    for step, checkpoint in whole.checkpoints.items():
        again = Run(photos, given, checkpoint)
        assert again.steps == [at for at in whole.steps if at > step]
        assert_bitwise_equal(again.weights, whole.weights)
        assert drop_speed(again.progress.points) == drop_speed(whole.progress.points)
        for name in ("step", "best_mae", "best_step", "waited"):
            assert getattr(again.progress, name) == getattr(whole.progress, name)
        if step != last:
            end, expected = again.checkpoints[last], whole.checkpoints[last]
            assert end.keys() == expected.keys()
            names = end.keys() - {"progress"}
            assert_bitwise_equal([end[name] for name in names], [expected[name] for name in names])


def test_dropout_seeds_are_32_bits() -> None:
    assert [optimization.compute_dropout_seed(seed, 2) for seed in (0, 3)] == [2, 3 * optimization.SEED_FACTOR + 2]
    assert 0 <= optimization.compute_dropout_seed(2**31 - 1, 2) < 2**32


@pytest.mark.parametrize("keep_prob", [1, 0.5])
def test_with_tensorflow_xla_compiles_only_perceptrons_without_dropout(keep_prob: float) -> None:
    settings = parse_settings("train", {"network": "perceptron", "hidden": "8", "keep_prob": keep_prob})
    assert isinstance(settings, GradientTrain)
    model = builder.build(settings, 20, "rec601")
    optimization.compile_model(model, settings)
    assert model.jit_compile == (keras.backend.backend() != "tensorflow" or keep_prob == 1)


def test_dropout_derives_from_seed_and_step(photos: dict[str, Pairs]) -> None:
    # with one image, no crops and no augmentation, steps differ in dropout only
    alone = {split: part.subsample(1) for split, part in photos.items()}
    given = DEMANDING["perceptron"] | {"patch": "whole", "hidden": "8", "augment": False, "steps": 4, "eval_every": 1}
    given |= {"optimizer": "sgd", "schedule": "constant", "learning_rate": 1e-30, "patience": 0}
    given = {name: value for name, value in given.items() if not name.startswith("decay")}
    losses = [
        [point.metrics["loss"] for point in Run(alone, given | {"seed": seed}).points[1:]] for seed in (7, 7, 8)
    ]
    assert len(set(losses[0])) == 4
    assert losses[0] == losses[1]
    assert not set(losses[0]) & set(losses[2])


@pytest.mark.parametrize("rate", [1e-3, 3.0])
def test_the_weights_of_the_best_point_are_kept(rate: float, photos: dict[str, Pairs]) -> None:
    run = Run(photos, CONVOLUTIONAL | {"learning_rate": rate, "schedule": "constant", "skip": "ridge"})
    by_step = {point.step: point.metrics["val/mae"] for point in run.points}
    best = min(by_step, key=lambda step: by_step[step])
    assert (run.progress.best_step, run.progress.best_mae) == (best, by_step[best])
    if rate > 1:
        assert best < max(by_step)  # otherwise keeping the last weights would pass as well
    kept = [run.checkpoints[best][f"weights/{number}"] for number in range(len(run.weights))]
    assert_bitwise_equal(run.weights, kept)
    again = loop.score_whole_images(KerasUpscaler(run.model), photos["validation"], 256)
    assert again["mae"] == pytest.approx(by_step[best], abs=1e-7)


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_stops_when_validation_error_no_longer_decreases(patience: int, photos: dict[str, Pairs]) -> None:
    # skip=ridge is good before training, and steps of this size only make it worse
    spoiling = CONVOLUTIONAL | {"learning_rate": 10.0, "skip": "ridge", "steps": 40, "schedule": "constant"}
    run = Run(photos, spoiling | {"patience": patience})
    assert run.progress.best_step == 0
    assert run.steps == [2 * number for number in range(patience + 1)]
    assert run.progress.waited == patience


def test_without_patience_all_steps_are_done(photos: dict[str, Pairs]) -> None:
    run = Run(photos, CONVOLUTIONAL | {"learning_rate": 10.0, "skip": "ridge", "schedule": "constant"})
    assert run.progress.best_step == 0
    assert run.progress.step == 6


def test_resuming_a_training_that_patience_ended_does_nothing(photos: dict[str, Pairs]) -> None:
    given = CONVOLUTIONAL | {
        "learning_rate": 10.0,
        "skip": "ridge",
        "steps": 40,
        "patience": 1,
        "schedule": "constant",
    }
    whole = Run(photos, given)
    again = Run(photos, given, whole.checkpoints[2])
    assert again.steps == []
    assert_bitwise_equal(again.weights, whole.weights)


def test_a_loss_that_is_nan_or_infinite_ends_the_training(photos: dict[str, Pairs]) -> None:
    exploding = PERCEPTRON | {"optimizer": "sgd", "learning_rate": 100, "loss": "mse", "schedule": "constant"}
    with pytest.raises(LoupeError, match=r"training: the loss is (nan|inf) at step \d+; .*learning_rate") as ended:
        Run(photos, exploding | {"steps": 60, "eval_every": 20})
    assert not isinstance(ended.value, UsageError)
    assert "\n" not in str(ended.value)
    step = re.search(r"step (\d+)", str(ended.value))
    assert step
    assert 0 < int(step[1]) <= 60


def test_a_network_that_could_not_be_loaded_again_is_refused_before_the_training(photos: dict[str, Pairs]) -> None:
    settings = parse_settings("train", {"network": "perceptron", "hidden": "512,512"})
    weights = ridge.fit(photos["train"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(keras_file.MAX_BYTES, keras_file.WEIGHTS, 10**6)
        with pytest.raises(UsageError, match=r"^network: must have at most 1000000 bytes of weights, got \d{7}$"):
            variant.build_network(settings, photos["train"], "rec601", weights)
    assert variant.build_network(settings, photos["train"], "rec601", weights).count_params() > 250_000


@pytest.mark.parametrize("devices", [3, "all"])
def test_devices_that_cannot_be_used_are_refused_before_the_training(
    devices: int | str, photos: dict[str, Pairs]
) -> None:
    """On the JAX backend, this test runs with four devices."""
    settings = parse_settings("train", CONVOLUTIONAL | {"devices": devices, "batch_size": 2, "skip": "none"})
    with pytest.raises(UsageError, match=rf"^devices: must be [^\n]*, got {devices}( \(4 devices\))?$"):
        variant.build_network(settings, photos["train"], "rec601", np.empty(0))


@pytest.mark.parametrize(
    ("given", "is_fitted"),
    [
        ({"network": "ridge"}, False),
        ({"network": "ridge", "limit": 1}, True),
        ({"network": "ridge", "alpha": 1}, True),
        (CONVOLUTIONAL | {"skip": "ridge"}, False),
        (CONVOLUTIONAL | {"skip": "ridge", "limit": 1}, True),
    ],
    ids=format_value,
)
def test_ridge_is_fitted_on_the_limited_photos(
    given: dict[str, Any], is_fitted: bool, photos: dict[str, Pairs]
) -> None:
    settings, limited = parse_settings("train", given), photos["train"].subsample(2)
    weights = ridge.fit(photos["train"])  # of all photos
    model = variant.build_network(settings, limited, "rec601", weights)
    if is_fitted:
        weights = ridge.fit(limited, getattr(settings, "alpha", ridge.ALPHA))
    image = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 20, 20, 1)).astype("float32")
    expected = ridge.RidgeUpscaler(weights, settings.scale, "rec601")(image)
    np.testing.assert_allclose(KerasUpscaler(model)(image), expected, atol=1e-4)


def test_weights_that_are_not_finite_give_no_checkpoint(
    photos: dict[str, Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    score = loop.score_whole_images
    scores: list[float] = []

    def score_badly(*arguments: Any) -> dict[str, float]:
        scores.append(math.nan if len(scores) >= 4 else 0.0)
        return {name: value + scores[-1] for name, value in score(*arguments).items()}

    reported: list[int] = []
    monkeypatch.setattr(Run, "_report", lambda run, point, checkpoint: reported.append(point.step))
    monkeypatch.setattr(loop, "score_whole_images", score_badly)
    with pytest.raises(LoupeError, match=r"val/mae is nan at step 2; the last good checkpoint is of step 1; lower"):
        Run(photos, CONVOLUTIONAL | {"steps": 3, "eval_every": 1})
    assert reported == [0, 1]


@pytest.mark.parametrize(
    ("steps", "every", "points"),
    [(7, 3, [0, 3, 6, 7]), (6, 3, [0, 3, 6]), (2, 5, [0, 2]), (1, 1, [0, 1])],
)
def test_points_are_at_step_0_every_eval_every_steps_and_at_the_end(
    steps: int, every: int, points: list[int], photos: dict[str, Pairs]
) -> None:
    run = Run(photos, CONVOLUTIONAL | {"steps": steps, "eval_every": every})
    assert run.steps == points
    assert [point["step"] for point in run.progress.points] == points
    assert [point.metrics for point in run.points] == [point["metrics"] for point in run.progress.points]


def test_every_point_has_the_documented_metrics(photos: dict[str, Pairs]) -> None:
    run = Run(photos, PERCEPTRON)
    named = {f"{split}/{score}" for split in ("train", "val") for score in ("mse", "mae", "psnr")}
    for point in run.points:
        more = {"patches_per_second"} if point.step else set()
        assert point.metrics.keys() == named | {"train/learning_rate", "loss"} | more
        assert all(math.isfinite(value) for value in point.metrics.values())
    assert run.points[0].metrics["loss"] == run.points[0].metrics["train/mae"]
    assert run.points[1].metrics["loss"] != run.points[1].metrics["train/mae"]  # the mean of the batches
    assert loop.load_points(run.checkpoints[3]) == run.progress.points[:2]


@pytest.mark.parametrize(
    ("schedule", "rate_at"),
    [
        ({"schedule": "constant"}, lambda step: 1.0),
        ({"schedule": "cosine"}, lambda step: (1 + math.cos(math.pi * step / 8)) / 2),
        ({"schedule": "exponential", "decay_rate": 0.5, "decay_steps": 4}, lambda step: 0.5 ** (step / 4)),
    ],
    ids=["constant", "cosine", "exponential"],
)
def test_the_learning_rate_follows_the_schedule(
    schedule: dict[str, Any], rate_at: Any, photos: dict[str, Pairs]
) -> None:
    given = CONVOLUTIONAL | {"steps": 8, "eval_every": 1, "learning_rate": 0.003} | schedule
    run = Run(photos, given)
    for point in run.points:
        assert point.metrics["train/learning_rate"] == pytest.approx(0.003 * rate_at(point.step), abs=1e-8)
    assert run.steps == list(range(9))


def test_exponential_decay_is_4_percent_every_1_5_percent_of_the_steps() -> None:
    settings = parse_settings("train", {"schedule": "exponential", "steps": 2_000_000, "learning_rate": 1.0})
    rate = optimization.build_learning_rate(settings)
    for times in (0, 1, 10):
        assert float(keras.ops.convert_to_numpy(rate(times * 30_000))) == pytest.approx(0.96**times, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "side", "count"),
    [
        ({"network": "perceptron", "batch_size": 64}, 10, 64),
        ({"network": "perceptron", "batch_size": 64, "patch": "2:3"}, 2, 64),
        ({"network": "perceptron", "batch_size": 64, "patch": "2:3", "skip": "ridge"}, 8, 4),
        ({"network": "perceptron", "batch_size": 64, "entry_convolutions": 2}, 30, 7),
        ({"network": "perceptron", "batch_size": 4, "patch": "whole", "pre_upscale": "bicubic"}, 32, 4),
        ({"network": "convolutional", "batch_size": 5, "crop_size": 12}, 12, 5),
    ],
    ids=format_value,
)
def test_the_shape_of_a_batch_follows_from_the_settings(given: dict[str, Any], side: int, count: int) -> None:
    settings = parse_settings("train", given)
    assert batches.compute_batch_shape(settings, builder.compute_geometry(settings, 32, "rec601"), 32) == (
        side,
        count,
    )


def test_crops_larger_than_the_inputs_are_refused(photos: dict[str, Pairs]) -> None:
    with pytest.raises(UsageError, match="32, got 34"):
        Run(photos, CONVOLUTIONAL | {"crop_size": 34})


def test_clip_norm_limits_the_step_of_gradient_descent(photos: dict[str, Pairs]) -> None:
    given = PERCEPTRON | {
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "schedule": "constant",
        "steps": 1,
        "eval_every": 1,
    }
    for limit in (1e-3, 1e-2):
        run = Run(photos, given | {"clip_norm": limit})
        start, end = (
            [run.checkpoints[step][f"weights/{number}"] for number in range(len(run.weights))] for step in (0, 1)
        )
        step = math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(start, end, strict=True)))
        assert step == pytest.approx(limit, rel=1e-3)


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_training_lowers_the_loss(loss: str, photos: dict[str, Pairs]) -> None:
    given = PERCEPTRON | {"optimizer": "adam", "learning_rate": 3e-3, "steps": 60, "eval_every": 20, "loss": loss}
    run = Run(photos, given)
    losses = [point.metrics[f"train/{loss}"] for point in run.points]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("given", [CONVOLUTIONAL | {"filters": 8}, PERCEPTRON], ids=["convolutional", "perceptron"])
def test_bfloat16_applies_to_steps_only_and_gives_nearly_the_same_loss(
    given: dict[str, Any], photos: dict[str, Pairs]
) -> None:
    given = given | {"steps": 40, "eval_every": 40}
    exact, rounded = (Run(photos, given | {"precision": precision}) for precision in ("float32", "bfloat16"))
    assert exact.points[0].metrics == rounded.points[0].metrics  # computed in float32 before the first step
    losses = [run.points[1].metrics["loss"] for run in (exact, rounded)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert {layer.compute_dtype for layer in rounded.model.layers} == {"float32"}
    assert all(weights.dtype == "float32" for weights in rounded.weights)
    with optimization.use_training_precision(rounded.model, rounded.settings):
        lowered = [layer.name for layer in rounded.model.layers if layer.compute_dtype == "bfloat16"]
    assert lowered
    assert not set(lowered) & {"skip", "blocks"}


FLOPS = {"flops": 3e6, "quiet": True}
WITHOUT_STEPS = {
    name: {
        key: value for key, value in given.items() if key not in ("steps", "eval_every", "decay_steps", "patience")
    }
    for name, given in DEMANDING.items()
}


@pytest.mark.parametrize("network", DEMANDING)
def test_a_budget_in_flops_gives_the_same_result_as_its_number_of_steps(
    network: str, photos: dict[str, Pairs]
) -> None:
    given = WITHOUT_STEPS[network]
    counted = Run(photos, given | FLOPS)
    steps = counted.progress.steps
    assert steps == {"perceptron": 9, "convolutional": 6}[network.partition(" ")[0]]
    assert counted.steps == list(range(steps + 1))
    whole = Run(photos, given | {"steps": steps})
    assert_bitwise_equal(counted.weights, whole.weights)
    assert drop_speed(counted.progress.points) == drop_speed(whole.progress.points)
    again = Run(photos, given | FLOPS, counted.checkpoints[steps // 2])
    assert again.progress.steps == steps
    assert again.steps == counted.steps[steps // 2 + 1 :]
    assert_bitwise_equal(again.weights, counted.weights)


def build_for_flops(given: dict[str, Any]) -> tuple[keras.Model, GradientTrain, int]:
    """Return the arguments of `compute_step_flops` for inputs of 32x32 pixels."""
    settings: GradientTrain = parse_settings("train", given)
    return builder.build(settings, 32, "rec601"), settings, 32


# The products of each layer for one patch or for one block of a crop, times patches or blocks, times batch size
@pytest.mark.parametrize(
    ("given", "products"),
    [
        (PERCEPTRON, (100 * 16 + 16 * 8 + 8 * 225) * 16),
        (PERCEPTRON | {"mirror": True}, (100 * 16 + 16 * 8 + 8 * 16 + 16 * 225) * 16),
        # 7 squares of 3x3 patches with 30x30 pixels
        (
            PERCEPTRON | {"batch_size": 64, "entry_convolutions": 2},
            (900 * (9 * 8 + 9 * 8 * 8) + 9 * (800 * 16 + 16 * 8 + 8 * 225)) * 7,
        ),
        (CONVOLUTIONAL | {"skip": "none"}, (36 * 4 + 36 * 8 + 8 * 4 + 4 * 9) * 16 * 4),
        (CONVOLUTIONAL | {"skip": "none", "expansion": 3}, (36 * 4 + 36 * 12 + 12 * 4 + 4 * 9) * 16 * 4),
        (CONVOLUTIONAL | {"skip": "ridge"}, (36 * 4 + 36 * 8 + 8 * 4 + 4 * 9 + 100 * 9) * 16 * 4),
        (
            CONVOLUTIONAL | {"skip": "none", "crop_size": 16, "batch_size": 3},
            (36 * 4 + 36 * 8 + 8 * 4 + 4 * 9) * 64 * 3,
        ),
    ],
    ids=format_value,
)
def test_flops_of_a_step_are_six_per_product_of_a_batch(given: dict[str, Any], products: int) -> None:
    assert batches.compute_step_flops(*build_for_flops(given)) == 6 * products
    assert batches.compute_steps(60.0 * products, *build_for_flops(given)) == 10


def test_twice_the_flops_give_twice_the_steps() -> None:
    built = build_for_flops(PERCEPTRON)

    @draw(flops=st.floats(1, 1e12))
    def check(flops: float) -> None:
        steps = batches.compute_steps(flops, *built)
        assert steps >= 1
        assert abs(batches.compute_steps(2 * flops, *built) - 2 * steps) <= 1

    check()


def test_a_budget_of_too_many_steps_is_refused(photos: dict[str, Pairs]) -> None:
    with pytest.raises(UsageError, match=r"flops: must allow at most 100,000,000 steps, got 1e20") as ended:
        Run(photos, WITHOUT_STEPS["perceptron"] | {"flops": 1e20})
    assert "\n" not in str(ended.value)


def test_points_score_at_most_eval_images_validation_images(photos: dict[str, Pairs]) -> None:
    for images in (1, 4, 256):
        run = Run(photos, CONVOLUTIONAL | {"eval_images": images, "steps": 1})
        scored = loop.score_whole_images(KerasUpscaler(run.model), photos["validation"].subsample(images), 256)
        assert run.progress.best_mae == pytest.approx(scored["mae"], abs=1e-7)
    everything = loop.score_whole_images(KerasUpscaler(run.model), photos["validation"], 256)
    assert run.progress.best_mae == pytest.approx(everything["mae"], abs=1e-7)
    few = loop.score_whole_images(KerasUpscaler(run.model), photos["validation"], 1)
    assert abs(few["mae"] - everything["mae"]) > 1e-4
