"""Upscales images in memory, with any model that `loupe upscale` accepts."""

import operator
import os
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from numbers import Real
from typing import Any, get_args

import numpy as np
from PIL import Image

from loupe.config.fields import Device, parse_scale
from loupe.config.photos import MODELS
from loupe.errors import UsageError
from loupe.imaging.conversion import to_8_bits, to_image
from loupe.imaging.decoder import PhotoError
from loupe.imaging.image_data import ImageData
from loupe.imaging.reader import read_pillow_image
from loupe.photos.networks import Networks
from loupe.photos.sizes import FITS, Size, Target
from loupe.photos.upscaling import upscale_image
from loupe.tracking.resolver import BUNDLED, ResolveOptions, resolve_model


class Upscaler:
    """Upscales images in memory: luminance by a network, colour and alpha by Lanczos.

    large = Upscaler.load("models:/loupe@champion")(Image.open("photo.jpg"))
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    @classmethod
    def load(
        cls, model: str | os.PathLike[str] = BUNDLED, ensemble: bool = False, device: Device = "auto"
    ) -> "Upscaler":
        """Load a model by its name.

        Args:
            model: any name that `resolver.resolve_model` accepts, or the path of a file.
            ensemble: use the self-ensemble (mean over 8 flips and rotations), 8 times slower.
            device: auto, cpu, cuda, coreml or directml, for ONNX networks.

        Raises:
            UsageError: the model does not exist, cannot be loaded or has only the scale factor 1:1, or the device is
                unknown.
            LoupeError: MLflow's store cannot be used.
        """
        if device not in get_args(Device):
            raise UsageError(f"device: must be one of {', '.join(get_args(Device))}, got {device!r}")
        if not isinstance(model, str | os.PathLike):
            raise UsageError(f"model: must be {MODELS}, got {model!r}")
        return cls(resolve_model(os.fspath(model), ResolveOptions(ensemble=ensemble, device=device)))

    def __call__(
        self,
        image: Any,
        scale: float | str | Fraction | None = None,
        size: Sequence[int] | None = None,
        fit: str = "inside",
        denoise: float | None = None,
    ) -> Any:
        """Upscale one image.

        Args:
            image: a PIL image, or an array of uint8 or uint16, (height, width) or (height, width, bands) with 1 to 4
                bands: grey, grey and alpha, RGB, RGBA. Values are gamma-encoded.
            scale: the scale factor, 1 to 8. If `scale` and `size` are None: the smallest scale factor of the model.
            size: width and height of a box, instead of a scale factor; `fit` defines the size of the result.
            fit: what happens if image and `size` differ in aspect ratio: `inside` (the largest result within `size`),
                `cover` (the smallest result that covers `size`; it is cropped to `size` at its centre) or `exact` (an
                error).
            denoise: the standard deviation of the noise to remove, 0 to 100 (white is 255). None: it is estimated,
                and the network gets the image without the noise if the estimate is at least `denoising.MIN_NOISE`.

        Returns:
            For a PIL image, an upright PIL image (L, LA, RGB, RGBA or I;16) with its colour profile; 16-bit grey with
            a transparent value becomes LA. For an array, an array of the same dtype and number of axes. With a scale
            factor, the result's sides have floor(side * scale + 1/2) pixels.

        Raises:
            TypeError: the image is neither a PIL image nor an array of uint8 or uint16.
            ValueError: the scale factor, the size, the fit, the noise or the shape is invalid, or both `scale` and
                `size` are given.
            PhotoError: the image has no pixels, is damaged or unsupported, does not fit `size`, or causes an
                error of the network.
            UsageError: the network cannot be loaded.
        """
        if isinstance(image, Image.Image):
            data = read_pillow_image(image)
        elif isinstance(image, np.ndarray):
            data = ImageData(_add_bands(image))
        else:
            raise TypeError(f"image: must be a PIL image or a numpy array, got {type(image).__name__}")
        if not data.pixels.size:
            raise PhotoError(
                f"image: must have at least one pixel, got {data.pixels.shape[1]}x{data.pixels.shape[0]}"
            )
        if scale is not None and size is not None:
            raise ValueError(f"size: must not be used with scale, got {size} and {scale}")
        if fit not in FITS:
            raise ValueError(f"fit: must be one of {', '.join(FITS)}, got {fit!r}")
        if denoise is not None and not (isinstance(denoise, Real) and 0 <= denoise <= 100):
            raise ValueError(f"denoise: must be None, or a number from 0 to 100, got {denoise!r}")
        target = Target(_parse_scale(scale), _parse_size(size), fit)
        large = np.concatenate(list(upscale_image(replace(data, noise=denoise), target, self.networks).strips))
        if isinstance(image, np.ndarray):
            return large[..., 0] if image.ndim == 2 else large
        # Pillow has no mode for 16-bit grey with alpha.
        result = to_image(to_8_bits(large) if large.shape[2] == 2 else large)
        if data.metadata.icc:
            result.info["icc_profile"] = data.metadata.icc
        return result


def _parse_scale(scale: Any) -> Fraction | None:
    try:
        return None if scale is None else parse_scale(scale)
    except ValueError as error:
        raise ValueError(f"scale: {error}, got {scale!r}") from None


def _parse_size(size: Any) -> Size | None:
    if size is None:
        return None
    try:
        width, height = map(operator.index, size)
    except (TypeError, ValueError):
        raise ValueError(f"size: must be two integers, width and height, got {size!r}") from None
    return width, height


def _add_bands(image: np.ndarray) -> np.ndarray:
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"image: must be uint8 or uint16, got {image.dtype}")
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4):
        raise ValueError(f"image: must be (height, width) or (height, width, 1..4), got {image.shape}")
    return pixels
