"""A residual convolutional network on blocks.

`fold` makes one pixel with q * q channels from each q x q block. The layers process these pixels, and `unfold` makes
p x p pixels of the result from each.
"""

from collections.abc import Callable
from typing import Any

import keras

from loupe.config.fields import get_block_sides
from loupe.config.networks import Convolutional
from loupe.models.blocks import fold, pad, unfold


def add_body(
    image: Any, settings: Convolutional, q: int, p: int, initializer: Callable[[int, int], dict[str, Any]]
) -> Any:
    """Add a 3x3 convolution (`filters` channels), `layers` residual layers, and a 1x1 convolution (p*p channels).

    A residual layer is a 3x3 convolution (`expansion * filters` channels), the activation, and a 1x1 convolution
    (`filters` channels), plus the input of the layer. This is the wide activation of Yu et al. 2018, with the 3x3
    kernel first.

    Args:
        image: (n, h, w, 1 or 2), h and w multiples of q; the second channel is the strength of artefacts.
        settings: the settings of the network.
        q: side of a block of the image.
        p: side of a block of the result.
        initializer: maps the numbers of inputs and outputs of a layer to its initializers, as keyword arguments.

    Returns:
        (n, h p/q, w p/q, 1).
    """

    def convolve(x: Any, filters: int, side: int, activation: str | None, name: str | None = None) -> Any:
        layer = keras.layers.Conv2D(
            filters, side, activation=activation, name=name, **initializer(side**2 * x.shape[-1], filters)
        )
        return layer(pad(x, side // 2) if side > 1 else x)

    filters, activation = settings.filters, settings.activation
    x = convolve(_fold_channels(image, q), filters, 3, activation)  # (n, h/q, w/q, filters)
    for _ in range(settings.layers):
        wide = convolve(x, settings.expansion * filters, 3, activation)
        x = x + convolve(wide, filters, 1, None)
    return unfold(convolve(x, p * p, 1, None, "blocks"), p)


def _fold_channels(image: Any, q: int) -> Any:
    """Fold the first channel to q*q channels; if there is a second channel, append its mean per block."""
    if image.shape[-1] == 1:
        return fold(image, q)
    luminance, strength = keras.ops.split(image, 2, axis=-1)
    mean = keras.ops.mean(fold(strength, q), axis=-1, keepdims=True)
    return keras.ops.concatenate([fold(luminance, q), mean], axis=-1)  # (n, h/q, w/q, q*q + 1)


def compute_blocks(settings: Convolutional, input_side: int) -> tuple[int, int]:
    """Return the side q of an input block, and the number of pixels around a block on which the result depends."""
    q = get_block_sides(settings.scale)[0]
    return q, (settings.layers + 1) * q
