"""`Upscaler`: upscales images in memory with a model of any name."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from loupe.config.fields import parse_scale
from loupe.imaging.decoder import PhotoError
from loupe.imaging.reader import Page, read_image
from loupe.photos import upscaling
from loupe.photos.networks import Networks
from loupe.tracking.resolver import BUNDLED, ResolveOptions, resolve_model


class Upscaler:
    """Upscales images in memory: luminance with a network, colour and transparency with Lanczos.

        large = Upscaler.load("models:/loupe@champion")(Image.open("photo.jpg"))

    Args:
        networks: one per scale factor.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    @classmethod
    def load(cls, model: str = BUNDLED, ensemble: bool = False) -> "Upscaler":
        """Load a model.

        Args:
            model: its name; see `resolver.resolve_model`.
            ensemble: use the self-ensemble (mean over 8 flips and rotations): slightly better, 8 times slower.

        Raises:
            UsageError: there is no such model.
        """
        return cls(resolve_model(model, ResolveOptions(ensemble=ensemble)))

    def __call__(
        self, image: Any, scale: float | str | Fraction | None = None, size: Sequence[int] | None = None
    ) -> Any:
        """Upscale one image.

        Args:
            image: a PIL image of any mode, or an array of uint8 or uint16, (height, width) or (height, width, 1..4),
                with gamma-encoded grey, grey and alpha, RGB, or RGB and alpha.
            scale: the scale factor, from 1 to 8. Without `scale` and `size`, it is that of the network if it has
                only one, else 1.5.
            size: the width and height of the result instead of `scale`, with the aspect ratio of the image.

        Returns:
            An upright PIL image (L, LA, RGB, RGBA or I;16) with the colour profile of the input, or an array of the
            input's type and number of axes. Each side has floor(side * scale + 1/2) pixels.

        Raises:
            TypeError: the image is neither, or an array of another type.
            ValueError: the scale or the shape of the array is out of range, or both scale and size are given.
            PhotoError: the image has no pixels, or the size has another aspect ratio.
        """
        if isinstance(image, Image.Image):
            page = read_image(image)
        elif isinstance(image, np.ndarray):
            page = Page(_bands(image))
        else:
            raise TypeError(f"image: must be a PIL image or a numpy array, got {type(image).__name__}")
        height, width = page.pixels.shape[:2]
        if not height or not width:
            raise PhotoError(f"image: must have pixels, got {width}x{height}")
        if scale is not None and size is not None:
            raise ValueError(f"size: must be given without scale, got {size} and scale {scale}")
        factor = None if scale is None else parse_scale(scale, allow_one=True)
        asked = None if size is None else (size[0], size[1])
        wanted = upscaling.size_of((width, height), factor, asked, self.networks)
        large = np.concatenate(list(upscaling.large_page(page, wanted, self.networks).strips))
        if isinstance(image, np.ndarray):
            return large[..., 0] if image.ndim == 2 else large
        result = Image.fromarray(large[..., 0] if large.shape[2] == 1 else large)
        if page.icc:
            result.info["icc_profile"] = page.icc
        return result


def _bands(image: np.ndarray) -> np.ndarray:
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"image: must be uint8 or uint16, got {image.dtype}")
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4):
        raise ValueError(f"image: must be (height, width) or (height, width, 1..4), got {image.shape}")
    return pixels
