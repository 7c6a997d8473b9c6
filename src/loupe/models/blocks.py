"""The building blocks of the networks: fold, unfold, symmetric padding, and a linear branch."""

from fractions import Fraction
from typing import Any

import keras
import numpy as np

from loupe.config.fields import get_block_sides
from loupe.upscalers.baselines import MARGIN


def fold(x: Any, q: int) -> Any:
    """Move q x q blocks to channels (space-to-depth): (n, h, w, c) to (n, h/q, w/q, q*q*c)."""
    return x if q == 1 else keras.ops.space_to_depth(x, q)


def unfold(x: Any, p: int) -> Any:
    """Move channels to p x p blocks (depth-to-space, pixel shuffle): (n, h, w, p*p) to (n, h*p, w*p, 1)."""
    return x if p == 1 else keras.ops.depth_to_space(x, p)


def pad(x: Any, margin: int) -> Any:
    """Add `margin` mirrored pixels per side, including the edge pixels.

    The shape (n, h, w, c) becomes (n, h + 2 margin, w + 2 margin, c).
    """
    return keras.ops.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]], mode="symmetric")


def add_linear_branch(image: Any, scale: Fraction, name: str, trainable: bool) -> Any:
    """Compute each p x p block of the result linearly from a window of the image.

    The window contains a q x q block and MARGIN pixels around it. The initial weights are 0; see
    `set_linear_weights`.

    Args:
        image: (n, h, w, 1), h and w multiples of q.
        scale: the scale factor p/q; q must divide 2 MARGIN.
        name: the name of the layer.
        trainable: whether training changes the weights.

    Returns:
        (n, h p/q, w p/q, 1).
    """
    q, p = get_block_sides(scale)
    blocks = fold(pad(image, MARGIN), q)  # (n, (h + 2 MARGIN)/q, (w + 2 MARGIN)/q, q*q)
    side = 1 + 2 * MARGIN // q  # side of the window in blocks
    layer = keras.layers.Conv2D(
        p * p, side, padding="valid", use_bias=False, kernel_initializer="zeros",
        trainable=trainable, name=name,
    )  # fmt: skip
    return unfold(layer(blocks), p)


def set_linear_weights(model: keras.Model, name: str, weights: np.ndarray, scale: Fraction) -> None:
    """Set the weights of a linear branch, (window * window, p * p), where window = q + 2 MARGIN."""
    q, p = get_block_sides(scale)
    side = 1 + 2 * MARGIN // q  # side of the window in blocks
    kernel = weights.reshape(side, q, side, q, p * p).transpose(0, 2, 1, 3, 4)
    model.get_layer(name).set_weights([kernel.reshape(side, side, q * q, p * p).astype("float32")])
