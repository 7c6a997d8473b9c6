"""Upscales the images of photos with networks."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from loupe.config.fields import LARGEST_SCALE
from loupe.imaging.decoder import PhotoError
from loupe.imaging.image_data import ImageData, ImageStream
from loupe.imaging.jpeg_quality import MAX_QUALITY, compute_strength
from loupe.imaging.jpeg_traces import estimate_jpeg_quality
from loupe.imaging.metadata import place_metadata
from loupe.imaging.placement import Placement
from loupe.photos import denoising
from loupe.photos.networks import Networks
from loupe.photos.sizes import FittedSize, Size, Target, choose_scale, fit_size, scale_size
from loupe.photos.strips import estimate_memory, upscale_strips
from loupe.upscalers.tiling import AssumedStrength


def compute_size(size: Size, target: Target, networks: Networks) -> FittedSize:
    """Compute the size of a photo's result; raise PhotoError as `fit_size` does."""
    if target.megapixels is not None:
        megapixels = math.prod(size) / 10**6
        box = scale_size(size, Fraction(math.sqrt(target.megapixels / megapixels)))
        message = f"must be 1 to {LARGEST_SCALE**2} times the photo's {megapixels:.6g}, got {target.megapixels:.6g}"
        return fit_size(size, box, "inside", f"megapixels: {message}")
    if target.longest_side is not None:
        side = target.longest_side
        message = f"must be 1 to {LARGEST_SCALE} times the photo's {max(size)}, got {side}"
        return fit_size(size, (side, side), "inside", f"longest_side: {message}")
    if target.box is not None:
        return fit_size(size, target.box, target.fit)
    scaled = scale_size(size, min(networks.scales) if target.scale is None else target.scale)
    return FittedSize(scaled, scaled)


def upscale_image(image: ImageData, target: Target, networks: Networks) -> ImageStream:
    """Upscale an image; rows are computed on demand.

    Raises:
        PhotoError: as in `compute_size`.
        UsageError: the network cannot be loaded.
    """
    height, width, bands = image.pixels.shape
    size = compute_size((width, height), target, networks)
    scale = choose_scale((width, height), size.upscaled, networks.scales)
    model, assumed = None if scale is None else networks(scale), None
    if model is not None and model.geometry.condition == "jpeg":
        # Only an image with 8 bits per sample can be a decoded JPEG.
        traces = estimate_jpeg_quality(image.pixels) if image.pixels.dtype == np.uint8 else None
        assumed = image.jpeg_quality or traces or MAX_QUALITY
        model = AssumedStrength(model, compute_strength(assumed))
    noise = 0.0 if scale is None or _keeps_noise(networks, scale, image.noise) else denoising.choose_noise(image)
    pixels = denoising.remove_noise(image.pixels, noise) if noise else image.pixels
    strips = upscale_strips(pixels, size, model)
    metadata = place_metadata(image.metadata, Placement((width, height), size.upscaled, size.cropped))
    return ImageStream(size.cropped, bands, image.pixels.dtype, strips, metadata, assumed, noise)


def _keeps_noise(networks: Networks, scale: Fraction, noise: float | None) -> bool:
    """Return whether noise is never removed: filters do not amplify it, so it is only removed if `noise` is given."""
    return noise == 0 or (noise is None and networks.get(scale).is_filter)


@dataclass(frozen=True)
class UpscaleTransform:
    """Upscales the images of photo files; see `Transform`.

    Args:
        target: the size of the results.
        networks: the networks.
        jpeg_quality: the JPEG quality, 1 to 100, for networks that adapt to it. None uses the quality of the file, or
            else an estimate from the pixels, or else 100.
        noise: the standard deviation of the noise to remove first, 0 to 100 (white is 255); None: see
            `denoising.choose_noise`.
    """

    target: Target
    networks: Networks
    jpeg_quality: int | None = None
    noise: float | None = None

    def compute_size(self, size: Size) -> Size:
        """Compute the size of the result."""
        return compute_size(size, self.target, self.networks).cropped

    def estimate_memory(self, size: Size, pixel_bytes: int) -> int:
        """Estimate the bytes for the upscaling."""
        large, scale = self._choose_scale(size)
        if scale is None:
            return 0
        needed = estimate_memory(size, large, self.networks.get(scale), pixel_bytes)
        if _keeps_noise(self.networks, scale, self.noise):
            return needed
        copy_bytes = math.prod(size) * pixel_bytes
        return max(needed, denoising.estimate_memory(size, pixel_bytes, self.noise)) + copy_bytes

    def __call__(self, image: ImageData) -> ImageStream:
        """Upscale an image. The settings of the transform replace those of the image.

        Raises:
            PhotoError: as in `compute_size`, or `jpeg_quality` is set but the used network ignores it.
            UsageError: the network cannot be loaded.
        """
        if self.noise is not None:
            image = replace(image, noise=self.noise)
        if self.jpeg_quality is None:
            return upscale_image(image, self.target, self.networks)
        stream = upscale_image(replace(image, jpeg_quality=self.jpeg_quality), self.target, self.networks)
        height, width, _ = image.pixels.shape
        if stream.assumed_quality is None and self._choose_scale((width, height))[1] is not None:
            rule = "must be auto if no network adapts to the quality"
            raise PhotoError(f"jpeg_quality: {rule}, got {self.jpeg_quality}")
        return stream

    def _choose_scale(self, size: Size) -> tuple[Size, Fraction | None]:
        """Return the size of the result before the crop, and the scale factor of the network (None: no network)."""
        large = compute_size(size, self.target, self.networks).upscaled
        return large, choose_scale(size, large, self.networks.scales)
