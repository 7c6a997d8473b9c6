"""A residual convolutional network between fold and unfold, at the resolution of blocks."""

from collections.abc import Callable
from typing import Any

import keras

from loupe.config import Convolutional
from loupe.models.blocks import fold, pad, unfold


def body(
    picture: Any, settings: Convolutional, q: int, p: int, initializer: Callable[[int, int], dict[str, Any]]
) -> Any:
    """A 3x3 convolution to `filters` channels, `layers` residual ones, and one to p*p channels.

    Args:
        picture: (n, h, w, 1), h and w multiples of q.
        settings: filters, layers, activation.
        q: side of a block of the picture.
        p: side of a block of the result.
        initializer: (inputs, outputs) of a layer -> its initializers, as keyword arguments.

    Returns:
        (n, h p/q, w p/q, 1).
    """

    def convolution(x: Any, filters: int, activation: str | None, name: str | None = None) -> Any:
        layer = keras.layers.Conv2D(
            filters, 3, activation=activation, name=name, **initializer(9 * x.shape[-1], filters)
        )
        return layer(pad(x, 1))

    x = convolution(fold(picture, q), settings.filters, settings.activation)  # (n, h/q, w/q, filters)
    for _ in range(settings.layers):
        x = x + convolution(x, settings.filters, settings.activation)
    return unfold(convolution(x, p * p, None, "blocks"), p)


def reach(settings: Convolutional) -> int:
    """Blocks around a block that its result depends on."""
    return settings.layers + 2
