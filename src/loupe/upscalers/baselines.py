"""The baselines without weights: classical interpolation filters, and at 1:1 the input and non-local means."""

from fractions import Fraction

import numpy as np
from PIL import Image

from loupe.config.fields import get_block_sides
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.non_local_means import NonLocalMeans
from loupe.upscalers.tiling import UpscalingModel

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MARGIN = 4  # the result of a block depends on input pixels up to this distance from the block (Lanczos)


class FilterUpscaler:
    """Upscales with one of Pillow's filters, in floating point.

    With nearest at 3:2, every third result pixel is exactly between two input pixels. Pillow's choice depends on the
    position, so results of tiles can differ from results of the whole image.

    Args:
        name: a key of FILTERS.
        scale: the scale factor.
        luminance: the luminance formula to store in the geometry.
    """

    def __init__(self, name: str, scale: Fraction, luminance: str = "rec601") -> None:
        q, p = get_block_sides(scale)
        self.geometry = Geometry(q, p, q, -(-MARGIN // q) * q, luminance)
        self._filter = FILTERS[name]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Upscale images; see `UpscalingModel`."""
        height, width = (int(side * self.geometry.scale) for side in images.shape[1:3])
        large = [
            np.asarray(Image.fromarray(image[..., 0]).resize((width, height), self._filter))
            for image in images.astype("float32")
        ]
        return np.stack(large)[..., None]


def build_classical(scale: Fraction, luminance: str = "rec601") -> dict[str, UpscalingModel]:
    """Return the baselines without weights, by name; at 1:1, these are the input and non-local means."""
    if scale == 1:
        return {"input": FilterUpscaler("nearest", scale, luminance), "nlm": NonLocalMeans(luminance)}
    return {name: FilterUpscaler(name, scale, luminance) for name in FILTERS}


def get_references(scale: Fraction) -> tuple[str, str]:
    """Return the names of the simplest baseline and of the best filter; at 1:1, both are `input`."""
    return ("input", "input") if scale == 1 else ("nearest", "lanczos")


def compute_filter_weights(name: str, scale: Fraction) -> np.ndarray:
    """Compute the weights of a filter for one block, by filtering images that are 0 except for one pixel.

    Returns:
        float32, (window * window, p * p), where window = q + 2 MARGIN.
    """
    q, p = get_block_sides(scale)
    window = q + 2 * MARGIN
    margin_blocks = -(-MARGIN // q)
    side = (2 * margin_blocks + 3) * q  # one more block on each side, against effects of the border
    start = (margin_blocks + 1) * q
    baseline = FilterUpscaler(name, scale)
    weights = np.zeros((window, window, p, p), "float32")
    for y in range(window):
        for x in range(window):
            impulse = np.zeros((1, side, side, 1), "float32")
            impulse[0, start - MARGIN + y, start - MARGIN + x] = 1
            at = start * p // q
            weights[y, x] = baseline(impulse)[0, at : at + p, at : at + p, 0]
    return weights.reshape(window * window, p * p)
