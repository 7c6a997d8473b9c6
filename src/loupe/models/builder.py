"""Names to networks: builds the Keras model of checked settings, and gives any Keras model its face."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import keras
import numpy as np

from loupe.config.training import Convolutional, GradientTrain, Perceptron
from loupe.models import convolutional, perceptron
from loupe.models.blocks import add_linear_branch, set_linear_weights
from loupe.upscalers.baselines import MARGIN, compute_filter_weights
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.ridge import build_geometry as build_ridge_geometry


def build(settings: GradientTrain, input_side: int, luminance: str, ridge: np.ndarray | None = None) -> keras.Model:
    """Build the network of these settings, with its starting weights.

    Args:
        settings: of a perceptron or convolutional network.
        input_side: of the dataset's inputs, which patch=whole goes by.
        luminance: of the dataset, kept in the model's name.
        ridge: the starting weights of skip=ridge, from `ridge.load_or_fit`.

    Returns:
        An uncompiled functional model from (n, h, w, 1) to (n, h p/q, w p/q, 1), both in [-1, 1], whose
        name tells its geometry.
    """
    scale = settings.scale
    facts = compute_geometry(settings, input_side, luminance)
    image = keras.Input((None, None, 1), name="picture")
    upscaled, q = image, facts.q
    if settings.pre_upscale != "none":
        upscaled, q = add_linear_branch(image, scale, "pre_upscale", trainable=False), facts.p
    add_body: Any = perceptron.body if isinstance(settings, Perceptron) else convolutional.body
    large = add_body(upscaled, settings, q, facts.p, _initializers(settings))
    if settings.skip == "ridge":
        large = large + add_linear_branch(image, scale, "skip", trainable=True)
    model = keras.Model(image, large, name=facts.name)
    if settings.pre_upscale != "none":
        set_linear_weights(model, "pre_upscale", compute_filter_weights(settings.pre_upscale, scale), scale)
    if settings.skip == "ridge" and ridge is not None:
        set_linear_weights(model, "skip", ridge, scale)
        blocks = model.get_layer("blocks")  # the body starts by adding nothing to the ridge
        blocks.set_weights([np.zeros(weights.shape) for weights in blocks.weights])
    return model


def build_ridge(weights: np.ndarray, scale: Fraction, luminance: str) -> keras.Model:
    """A fitted ridge as a Keras model like any other."""
    image = keras.Input((None, None, 1), name="picture")
    large = add_linear_branch(image, scale, "ridge", trainable=True)
    model = keras.Model(image, large, name=build_ridge_geometry(scale, luminance).name)
    set_linear_weights(model, "ridge", weights, scale)
    return model


def copy_matching_weights(model: keras.Model, other: keras.Model) -> int:
    """Give a model the weights of another, layer by layer in their order, where a layer's shapes agree.

    Returns:
        How many layers got theirs.
    """
    layers, others = ([layer for layer in each.layers if layer.weights] for each in (model, other))
    found = 0
    for layer, like in zip(layers, others, strict=False):
        if [weights.shape for weights in layer.weights] == [weights.shape for weights in like.weights]:
            layer.set_weights(like.get_weights())
            found += 1
    return found


def compute_geometry(settings: GradientTrain, input_side: int, luminance: str) -> Geometry:
    """What the network of these settings needs of a image; see Geometry."""
    scale: Fraction = settings.scale
    if isinstance(settings, Convolutional):
        q, reach = scale.denominator, convolutional.reach(settings) * scale.denominator
    else:
        patch = getattr(settings, "patch", "whole")
        q = input_side if patch == "whole" else int(patch.split(":")[0])
        reach = getattr(settings, "entry_convolutions", 0)
    if settings.pre_upscale != "none":
        reach += MARGIN
    linear = settings.skip == "ridge" or settings.pre_upscale != "none"
    if linear:
        reach = max(reach, MARGIN)
    least = max(q, MARGIN if linear else 1)
    return Geometry(q, int(q * scale), -(-least // q) * q, -(-reach // q) * q, luminance)


class KerasUpscaler:
    """A Keras model with the face that `upscale` asks for.

    Args:
        model: built here, or loaded from where such a model was saved.
    """

    def __init__(self, model: keras.Model) -> None:
        self.geometry = Geometry.from_name(model.name)
        self._model = model

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Float32 (n, h, w, 1) in [-1, 1] to (n, h p/q, w p/q, 1); h, w multiples of q."""
        large = self._model(images, training=False)  # compiling for each size costs more than it gains
        return keras.ops.convert_to_numpy(large)


def _initializers(settings: GradientTrain) -> Callable[[int, int], dict[str, Any]]:
    """Initializers of each layer, asked for in order: built into Keras, so that a model loads anywhere.

    `xavier` is the study's text: a truncated normal of stddev sqrt(6) / (sqrt(inputs) + sqrt(outputs)). Its
    code has 1 added below the root. Neither is Glorot and Bengio's (2010): sqrt(2 / (inputs + outputs)).
    """
    count = 0

    def of_layer(inputs: int, outputs: int) -> dict[str, Any]:
        nonlocal count
        count += 2
        stddev = {
            "xavier": 6**0.5 / (inputs**0.5 + outputs**0.5),
            "gaussian": settings.stddev,
        }.get(settings.initializer)

        def make(seed: int) -> Any:
            if stddev is not None:
                return keras.initializers.TruncatedNormal(stddev=stddev, seed=seed)
            name = {"glorot_uniform": "GlorotUniform", "he_normal": "HeNormal"}[settings.initializer]
            return getattr(keras.initializers, name)(seed=seed)

        seed = settings.seed * 10_000 + count
        bias = "zeros" if settings.bias_initializer == "zeros" else make(seed + 1)
        return {"kernel_initializer": make(seed), "bias_initializer": bias}

    return of_layer
