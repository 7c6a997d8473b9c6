"""A residual convolutional network between fold and unfold, at the resolution of blocks."""

from collections.abc import Callable
from typing import Any

import keras

from loupe.config.training import Convolutional
from loupe.models.blocks import fold, pad, unfold


def body(
    image: Any, settings: Convolutional, q: int, p: int, initializer: Callable[[int, int], dict[str, Any]]
) -> Any:
    """A 3x3 convolution to `filters` channels, `layers` residual layers, and a 1x1 convolution to p*p channels.

    A residual layer is wide in front of its activation and narrow behind it: 3x3 to `expansion` times the filters,
    activation, 1x1 back (wide activation: Yu et al. 2018, «Wide Activation for Efficient and Accurate Image
    Super-Resolution», here with the 3x3 kernel first).

    Args:
        image: (n, h, w, 1), h and w multiples of q.
        settings: filters, layers, expansion, activation.
        q: side of a block of the image.
        p: side of a block of the result.
        initializer: (inputs, outputs) of a layer -> its initializers, as keyword arguments.

    Returns:
        (n, h p/q, w p/q, 1).
    """

    def convolution(x: Any, filters: int, side: int, activation: str | None, name: str | None = None) -> Any:
        layer = keras.layers.Conv2D(
            filters, side, activation=activation, name=name, **initializer(side**2 * x.shape[-1], filters)
        )
        return layer(pad(x, side // 2) if side > 1 else x)

    filters, activation = settings.filters, settings.activation
    x = convolution(fold(image, q), filters, 3, activation)  # (n, h/q, w/q, filters)
    for _ in range(settings.layers):
        wide = convolution(x, settings.expansion * filters, 3, activation)
        x = x + convolution(wide, filters, 1, None)
    return unfold(convolution(x, p * p, 1, None, "blocks"), p)


def reach(settings: Convolutional) -> int:
    """Blocks around a block that its result depends on."""
    return settings.layers + 1
