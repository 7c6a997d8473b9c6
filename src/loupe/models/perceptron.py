"""The networks of the 2016 study: dense layers from q x q blocks of the image to p x p blocks of the result."""

from collections.abc import Callable
from typing import Any

import keras

from loupe.config.networks import Perceptron
from loupe.models.blocks import fold, pad, unfold

ENTRY_FILTERS = 8  # channels of an entry convolution


def add_body(
    image: Any, settings: Perceptron, q: int, p: int, initializer: Callable[[int, int], dict[str, Any]]
) -> Any:
    """Add the entry convolutions, the hidden dense layers with dropout, and a dense layer of p*p units.

    For arguments and result, see `convolutional.add_body`.
    """
    x = image
    for _ in range(settings.entry_convolutions):
        x = keras.layers.Conv2D(
            ENTRY_FILTERS, 3, activation=settings.activation, **initializer(9 * x.shape[-1], ENTRY_FILTERS)
        )(pad(x, 1))
    x = fold(x, q)  # (n, h/q, w/q, q*q*channels)
    # `mirror` repeats all but the last width in reverse order.
    widths = [*settings.hidden, *(settings.hidden[-2::-1] if settings.mirror else ())]
    for number, width in enumerate(widths):
        x = keras.layers.Dense(width, activation=settings.activation, **initializer(x.shape[-1], width))(x)
        x = _add_dropout(x, settings, number)
    if not widths:
        x = _add_dropout(x, settings, 0)
    activation = settings.activation if settings.output_activation == "same" else None
    x = keras.layers.Dense(p * p, activation=activation, name="blocks", **initializer(x.shape[-1], p * p))(x)
    return unfold(x, p)


def compute_blocks(settings: Perceptron, input_side: int) -> tuple[int, int]:
    """Return the side of an input block, and the width of its margin; see `convolutional.compute_blocks`."""
    return settings.crop_side or input_side, settings.entry_convolutions


def _add_dropout(x: Any, settings: Perceptron, number: int) -> Any:
    """Add dropout after hidden layer `number` (from 0), or before the last layer of a network without hidden layers.

    If the settings exclude dropout for this layer, return `x` unchanged.
    """
    if settings.keep_prob == 1 or (settings.dropout_layers == "first" and number):
        return x
    return keras.layers.Dropout(1 - settings.keep_prob, seed=0)(x)
