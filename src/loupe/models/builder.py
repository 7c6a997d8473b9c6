"""Builds Keras models from settings, and adapts them to the interface `UpscalingModel`."""

import functools
import itertools
import json
import math
from collections.abc import Callable
from fractions import Fraction
from importlib import import_module
from typing import Any

import keras
import numpy as np

from loupe.config.training import GradientTrain
from loupe.models.blocks import add_linear_branch, set_linear_weights
from loupe.models.network_size import measure_network
from loupe.upscalers.baselines import MARGIN, compute_filter_weights
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.ridge import build_geometry as build_ridge_geometry
from loupe.upscalers.tiling import compute_largest_input

MAX_CALL_BYTES = 2**29  # maximum size of an intermediate result of a call with several images
MAX_UNSPLIT_PIXELS = 2**18  # a call with at most this number of input pixels is never split
COMPILED_MODELS = 8  # number of models that stay compiled for JAX


def build(settings: GradientTrain, input_side: int, luminance: str, ridge: np.ndarray | None = None) -> keras.Model:
    """Build the network of the settings with its initial weights.

    Args:
        settings: the settings of a network.
        input_side: side of the dataset's inputs in pixels, for patch=whole.
        luminance: the luminance formula of the dataset.
        ridge: initial weights of the linear branch of skip=ridge, from `ridge.fit`; None: zeros.

    Returns:
        An uncompiled functional model that maps images, (n, h, w, 1) in [-1, 1], to (n, h p/q, w p/q, 1). A
        conditioned model has a second input channel (`Geometry.condition`). The model's name is `Geometry.name`.
    """
    scale = settings.scale
    geometry = compute_geometry(settings, input_side, luminance)
    image = luminance_plane = keras.Input((None, None, geometry.channels), name="image")
    if geometry.channels > 1:
        luminance_plane, _ = keras.ops.split(image, 2, axis=-1)
    body_input, q = image, geometry.q
    if settings.pre_upscale != "none":
        body_input, q = add_linear_branch(luminance_plane, scale, "pre_upscale", trainable=False), geometry.p
    large = import_module(settings.MODULE).add_body(
        body_input, settings, q, geometry.p, _make_initializer_factory(settings)
    )
    if settings.skip == "ridge":
        large = large + add_linear_branch(luminance_plane, scale, "skip", trainable=True)
    model = keras.Model(image, large, name=geometry.name)
    if settings.pre_upscale != "none":
        set_linear_weights(model, "pre_upscale", compute_filter_weights(settings.pre_upscale, scale), scale)
    if settings.skip == "ridge" and ridge is not None:
        set_linear_weights(model, "skip", ridge, scale)
        last_layer = model.get_layer("blocks")  # if it returns zeros, the untrained network is ridge regression
        last_layer.set_weights([np.zeros(weights.shape) for weights in last_layer.weights])
    return model


def build_ridge(weights: np.ndarray, scale: Fraction, luminance: str) -> keras.Model:
    """Build a Keras model of a fitted ridge; `weights` is the result of `ridge.fit`."""
    image = keras.Input((None, None, 1), name="image")
    large = add_linear_branch(image, scale, "ridge", trainable=True)
    model = keras.Model(image, large, name=build_ridge_geometry(scale, luminance).name)
    set_linear_weights(model, "ridge", weights, scale)
    return model


def copy_matching_weights(model: keras.Model, other: keras.Model) -> int:
    """Copy weights from `other` to `model`. Layer n gets the weights of layer n of `other` if the shapes are equal.

    Layers without weights do not count. If only `model` is conditioned, the weights of its second input channel
    become 0.

    Returns:
        The number of layers whose weights were copied.
    """
    layers, sources = ([layer for layer in each.layers if layer.weights] for each in (model, other))
    copied_layers = 0
    for number, (layer, source) in enumerate(zip(layers, sources, strict=False)):
        values = source.get_weights()
        conditioned = Geometry.from_name(model.name).channels > Geometry.from_name(other.name).channels
        if conditioned and number == 0 and values[0].ndim == 4:  # a convolution
            values[0] = np.pad(values[0], ((0, 0), (0, 0), (0, 1), (0, 0)))
        if [weights.shape for weights in layer.weights] == [value.shape for value in values]:
            layer.set_weights(values)
            copied_layers += 1
    return copied_layers


def compute_geometry(settings: GradientTrain, input_side: int, luminance: str) -> Geometry:
    """Compute the geometry of the network that `build` returns."""
    scale: Fraction = settings.scale
    q, reach = import_module(settings.MODULE).compute_blocks(settings, input_side)
    if settings.pre_upscale != "none":
        reach += MARGIN
    min_side = q
    if settings.skip == "ridge" or settings.pre_upscale != "none":
        # A linear branch reads MARGIN pixels around a block, and mirrors MARGIN pixels at the border of the image.
        min_side, reach = max(q, MARGIN), max(reach, MARGIN)
    condition = getattr(settings, "condition", "none")
    return Geometry(q, int(q * scale), -(-min_side // q) * q, -(-reach // q) * q, luminance, condition)


def measure_costs(model: keras.Model) -> dict[str, float]:
    """Return `weights`, the number of weights, and `macs_per_pixel`, the multiply-adds per pixel of the result."""
    geometry = Geometry.from_name(model.name)
    side = compute_largest_input(geometry)
    size = measure_network(json.loads(model.to_json()), side)
    pixels = (side * geometry.p / geometry.q) ** 2
    return {"weights": float(size.weights), "macs_per_pixel": size.products / pixels}


class KerasUpscaler:
    """Adapts a model of `build` or `build_ridge` to the interface `UpscalingModel`."""

    def __init__(self, model: keras.Model) -> None:
        self.geometry = Geometry.from_name(model.name)
        self._model = model
        # Bytes of the largest intermediate result, per pixel of an image; None until they are needed
        self._bytes_per_pixel: float | None = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`."""
        count = self._count_images_per_call(images.shape)
        if len(images) > count:
            return np.concatenate([self(images[start : start + count]) for start in range(0, len(images), count)])
        if keras.backend.backend() == "jax":
            model = self._model
            groups = model.trainable_variables, model.non_trainable_variables
            large = _compile(model)(*([variable.value for variable in group] for group in groups), images)
        else:
            large = self._model(images, training=False)  # `predict` would compile the model for each image size
        return keras.ops.convert_to_numpy(large)

    def _count_images_per_call(self, shape: tuple[int, ...]) -> int:
        """Return the number of images per call, at least 1.

        One call takes all images if they have at most MAX_UNSPLIT_PIXELS in total. Otherwise, MAX_CALL_BYTES
        limits the number.
        """
        if math.prod(shape[:3]) <= MAX_UNSPLIT_PIXELS:
            return shape[0]
        if self._bytes_per_pixel is None:
            side = compute_largest_input(self.geometry)
            size = measure_network(json.loads(self._model.to_json()), side)
            self._bytes_per_pixel = 4 * size.largest / side**2
        return max(1, int(MAX_CALL_BYTES / (self._bytes_per_pixel * math.prod(shape[1:3]))))


@functools.lru_cache(COMPILED_MODELS)
def _compile(model: keras.Model) -> Callable[..., Any]:
    """Compile a model for JAX, as a function of trainable weights, other weights and images."""
    import jax

    return jax.jit(lambda *state: model.stateless_call(*state, training=False)[0])


def _make_initializer_factory(settings: GradientTrain) -> Callable[[int, int], dict[str, Any]]:
    """Return a function that makes the initializers of a layer. Each call uses new seeds.

    The standard deviation of `xavier` is that in the text of the 2016 study. It differs from the original formula of
    Glorot and Bengio (2010), sqrt(2 / (inputs + outputs)).
    """
    seeds = itertools.count(settings.seed * 10_000 + 2, 2)  # two seeds per layer: for weights and biases

    def make_initializers(inputs: int, outputs: int) -> dict[str, Any]:
        stddev = {"xavier": 6**0.5 / (inputs**0.5 + outputs**0.5), "gaussian": settings.stddev}.get(
            settings.initializer
        )

        def make_initializer(seed: int) -> Any:
            if stddev is not None:
                return keras.initializers.TruncatedNormal(stddev=stddev, seed=seed)
            name = {"glorot_uniform": "GlorotUniform", "he_normal": "HeNormal"}[settings.initializer]
            return getattr(keras.initializers, name)(seed=seed)

        seed = next(seeds) % 2**32  # JAX accepts seeds of at most 32 bits
        bias = "zeros" if settings.bias_initializer == "zeros" else make_initializer(seed + 1)
        return {"kernel_initializer": make_initializer(seed), "bias_initializer": bias}

    return make_initializers
