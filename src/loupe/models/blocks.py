"""The parts that every network is made of: fold, unfold, pad, and a linear branch from blocks to blocks."""

from fractions import Fraction
from typing import Any

import keras
import numpy as np

from loupe.upscalers.baselines import MARGIN


def fold(x: Any, q: int) -> Any:
    """Blocks to channels: (n, h, w, c) to (n, h/q, w/q, q*q*c)."""
    return x if q == 1 else keras.ops.space_to_depth(x, q)


def unfold(x: Any, p: int) -> Any:
    """Channels to blocks: (n, h, w, p*p) to (n, h*p, w*p, 1)."""
    return x if p == 1 else keras.ops.depth_to_space(x, p)


def pad(x: Any, margin: int) -> Any:
    """Mirror the border, itself included: (n, h, w, c) to (n, h + 2 margin, w + 2 margin, c)."""
    return keras.ops.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]], mode="symmetric")


def add_linear_branch(image: Any, scale: Fraction, name: str, trainable: bool) -> Any:
    """Every p x p block of the result is linear in the window around its q x q block of the image.

    Args:
        image: (n, h, w, 1).
        scale: p/q, in lowest terms.
        name: of the layer; `set_linear_weights` finds it by this name.
        trainable: whether training may change the weights.

    Returns:
        (n, h p/q, w p/q, 1).
    """
    q, p = scale.denominator, scale.numerator
    blocks = fold(pad(image, MARGIN), q)  # (n, h/q + 2 MARGIN/q, …, q*q)
    layer = keras.layers.Conv2D(
        p * p, 1 + 2 * MARGIN // q, padding="valid", use_bias=False, kernel_initializer="zeros",
        trainable=trainable, name=name,
    )  # fmt: skip
    return unfold(layer(blocks), p)


def set_linear_weights(model: keras.Model, name: str, weights: np.ndarray, scale: Fraction) -> None:
    """Give a linear branch its weights, (window * window, p * p) with window = q + 2 MARGIN."""
    q, p = scale.denominator, scale.numerator
    side = 1 + 2 * MARGIN // q
    kernel = weights.reshape(side, q, side, q, p * p).transpose(0, 2, 1, 3, 4)
    model.get_layer(name).set_weights([kernel.reshape(side, side, q * q, p * p).astype("float32")])
