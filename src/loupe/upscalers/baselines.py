"""Classical upscaling with the face of a model: nearest, bilinear, bicubic, Lanczos."""

from fractions import Fraction

import numpy as np
from PIL import Image

from loupe.upscalers.geometry import Geometry

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MARGIN = 4  # pixels of the small image around a block that the widest filter, Lanczos, may look at


class FilterUpscaler:
    """A filter of Pillow, in floating point.

    By nearest at 3:2 the middle of every third large pixel lies between two small ones, and Pillow rounds to
    either side, differently along a image: there alone tiles may differ from the whole, as Pillow does.

    Args:
        name: a key of FILTERS.
        scale: large side over small side.
        luminance: told on; a filter works on any.
    """

    def __init__(self, name: str, scale: Fraction, luminance: str = "rec601") -> None:
        q = scale.denominator
        self.geometry = Geometry(q, scale.numerator, q, -(-MARGIN // q) * q, luminance)
        self._filter = FILTERS[name]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Float32 (n, h, w, 1) in [-1, 1] to (n, h p/q, w p/q, 1), not clipped; h, w multiples of q."""
        height, width = (int(side * self.geometry.scale) for side in images.shape[1:3])
        large = [
            np.asarray(Image.fromarray(image[..., 0]).resize((width, height), self._filter))
            for image in images.astype("float32")
        ]
        return np.stack(large)[..., None]


def compute_filter_weights(name: str, scale: Fraction) -> np.ndarray:
    """A filter as the weights of one block, read off its answer to single bright pixels.

    Args:
        name: a key of FILTERS.
        scale: p/q, in lowest terms.

    Returns:
        float32, (window * window, p * p) with window = q + 2 MARGIN: the weight of each pixel in the window
        around a q x q block for each pixel of its p x p block.
    """
    q, p = scale.denominator, scale.numerator
    window = q + 2 * MARGIN
    around = -(-MARGIN // q)  # whole blocks that hold the margin
    side = (2 * around + 3) * q  # one block more on each side: the border is out of reach
    start = (around + 1) * q
    baseline = FilterUpscaler(name, scale)
    weights = np.zeros((window, window, p, p), "float32")
    for y in range(window):
        for x in range(window):
            single = np.zeros((1, side, side, 1), "float32")
            single[0, start - MARGIN + y, start - MARGIN + x] = 1
            at = start * p // q
            weights[y, x] = baseline(single)[0, at : at + p, at : at + p, 0]
    return weights.reshape(window * window, p * p)
