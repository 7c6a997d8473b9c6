"""Restores images with any method, and blends the results with the original images, optionally with a mask."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from loupe.errors import UsageError
from loupe.imaging.conversion import to_8_bits, to_image
from loupe.imaging.decoder import PhotoError
from loupe.imaging.formats import has_alpha
from loupe.imaging.image_data import ImageData, ImageStream
from loupe.imaging.luminance import compute_luminance
from loupe.photos.processing import Transform
from loupe.photos.sizes import Size

BLEND_PIXELS = 300_000  # strips are blended in parts of about this number of pixels
BLEND_BYTES = 40  # memory to blend a part, in bytes per pixel of the part


def read_mask(file: Path, feather: float, read: Callable[[Path], ImageData]) -> np.ndarray:
    """Read a mask, uint8 (height, width), and blur its edges.

    Args:
        file: an image file.
        feather: the width of the blurred edges in pixels.
        read: a function that reads the first frame or page of a file.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        pixels = to_8_bits(read(file).pixels)
        if pixels.shape[2] in (2, 4):  # transparent pixels are black, so that the mask keeps these pixels
            alpha = pixels[..., -1:].astype(np.uint16)
            pixels = (pixels[..., :-1] * alpha // 255).astype(np.uint8)
    except PhotoError as error:
        raise UsageError(f"mask: {str(file)!r} cannot be used: {error}") from None
    grey = Image.fromarray(compute_luminance(to_image(pixels), "rec601"))
    return np.asarray(grey.filter(ImageFilter.GaussianBlur(feather / 2)))


@dataclass(frozen=True)
class BlendTransform:
    """Blends the results of another transform with the original images; see `Transform`. Alpha does not change.

    Args:
        restore: the other transform; its results have the size of the images, and can contain floats.
        strength: weight of the restored image, 0 to 1.
        mask: uint8, (height, width): 255 restores a pixel, 0 keeps it. None restores all pixels.
    """

    restore: Transform
    strength: float
    mask: np.ndarray | None = None

    def compute_size(self, size: Size) -> Size:
        """Return `size`, which the restoration does not change."""
        return size

    def estimate_memory(self, size: Size, pixel_bytes: int) -> int:
        """Estimate the bytes for the restoration and the blending."""
        return self.restore.estimate_memory(size, pixel_bytes) + max(BLEND_PIXELS, size[0]) * BLEND_BYTES

    def __call__(self, image: ImageData) -> ImageStream:
        """Restore an image; rows are computed on demand.

        Raises:
            PhotoError: the mask has another size, or `restore` raises this error.
        """
        height, width = image.pixels.shape[:2]
        if self.mask is not None and self.mask.shape != (height, width):
            got = f"{self.mask.shape[1]}x{self.mask.shape[0]}"
            raise PhotoError(f"mask: must have the photo's {width}x{height} pixels, got {got}")
        stream = self.restore(image)
        return replace(stream, strips=self._blend(image.pixels, stream.strips))

    def _blend(self, pixels: np.ndarray, strips: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        white, colours = np.iinfo(pixels.dtype).max, pixels.shape[2] - has_alpha(pixels.shape[2])
        rows = max(1, BLEND_PIXELS // pixels.shape[1])
        parts = (strip[top : top + rows, :, :colours] for strip in strips for top in range(0, len(strip), rows))
        top = 0
        for restored in parts:
            bottom = top + len(restored)
            part = pixels[top:bottom].copy()
            difference = restored.astype("float32") - part[..., :colours]
            difference *= self.strength
            if self.mask is not None:
                difference *= self.mask[top:bottom, :, None] / np.float32(255)
            part[..., :colours] = np.clip(np.rint(part[..., :colours] + difference), 0, white)
            yield part
            top = bottom
