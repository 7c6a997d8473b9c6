"""`Upscaler`: pictures in, larger pictures out, by whatever network a user names."""

import os
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from loupe import networks as package
from loupe import upscaling
from loupe.baselines import FILTERS, Baseline
from loupe.data.pages import Page, read_image
from loupe.data.photos import PhotoError
from loupe.errors import UsageError
from loupe.fields import scale_of
from loupe.upscaling.networks import BUNDLED, SCALES, Networks, alone, bundled, of_package
from loupe.upscaling.onnx import OnnxEnlarger

if TYPE_CHECKING:
    from loupe.enlarging import Enlarger
    from loupe.tracking.models import Found

CHAMPION = "champion"


class Upscaler:
    """Enlarges pictures in memory: luminance by a network, colour and alpha by Lanczos.

        large = Upscaler.load("models:/loupe@champion")(Image.open("photo.jpg"))

    Args:
        networks: to choose from.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    @classmethod
    def load(cls, model: str = BUNDLED, ensemble: bool = False) -> "Upscaler":
        """Take a model by its name.

        Args:
            model: `bundled`, a bundled size (tiny, small, base), `champion`, a registry or run URI of MLflow, an
                .onnx file, or a filter of Pillow (nearest, bilinear, bicubic, lanczos).
            ensemble: the mean over eight turns and flips: a little better, eight times as long.

        Raises:
            UsageError: there is no such model.
        """
        return cls(networks_of(model, ensemble))

    def __call__(
        self, image: Any, scale: float | str | Fraction | None = None, size: Sequence[int] | None = None
    ) -> Any:
        """Enlarge one picture.

        Args:
            image: a PIL image of any mode, or an array of uint8 or uint16, (height, width) or (height, width, 1..4):
                grey, grey and alpha, RGB, RGB and alpha, in the encoding of their file.
            scale: from 1 to 8; the network's own, or 1.5, where neither it nor the size is given.
            size: width and height of the result instead, in the shape of the picture.

        Returns:
            The same kind, upright, floor(side scale + 1/2) pixels a side: a PIL image (L, LA, RGB, RGBA or I;16)
            with the colour profile of the input, or an array of the same type and number of axes.

        Raises:
            TypeError: it is neither, or an array of other types.
            ValueError: the scale or the array's shape is out of range.
            PhotoError: the picture has no pixels, or the size has another shape than the picture.
        """
        if isinstance(image, Image.Image):
            page = read_image(image)
        elif isinstance(image, np.ndarray):
            page = Page(_bands(image))
        else:
            raise TypeError(f"image: must be a PIL image or a numpy array, got {type(image).__name__}")
        height, width = page.pixels.shape[:2]
        if not height or not width:
            raise PhotoError(f"image: has no pixels: it is {width}x{height}")
        if scale is not None and size is not None:
            raise ValueError(f"size: goes without scale, got {size} and {scale}")
        factor = None if scale is None else scale_of(scale, least_itself=True)
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


def networks_of(model: str, ensemble: bool = False) -> Networks:
    """The networks that a name stands for.

    Args:
        model: as `Upscaler.load` takes it. The champions are looked for where there is a store: MLFLOW_TRACKING_URI,
            or `mlflow.db` in the current folder. The bundled ones stand in for scales that have none.
        ensemble: as `Upscaler.load` takes it.

    Raises:
        UsageError: there is no such model.
    """
    if model in (BUNDLED, *package.SIZES):
        return bundled(model, ensemble)
    if model == CHAMPION:
        return Networks(SCALES, _champion if _is_store() else _stand_in, ensemble)
    if model in FILTERS:
        return Networks(SCALES, lambda scale: (model, Baseline(model, scale)), ensemble)
    if model.endswith(".onnx"):
        if not Path(model).is_file():
            raise UsageError(f"model: must be a file that exists, got {model!r}")
        return alone(model, OnnxEnlarger(Path(model)), ensemble)
    if model.startswith(("models:/", "runs:/")) and not _is_store():
        raise UsageError(f"model: {model} needs MLFLOW_TRACKING_URI, or mlflow.db in the current folder")
    from loupe.tracking import models

    found = models.find(model, Fraction(3, 2))
    assert found is not None  # only the champion may be missing
    return alone(found.shown, _onnx_of(found), ensemble)


def _is_store() -> bool:
    """Whether there is a store to look into; a look alone would make a new one."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = Path(uri.removeprefix("sqlite:///"))
    return not uri.startswith("sqlite:///") or (file.is_file() and file.stat().st_size > 0)


def _stand_in(scale: Fraction) -> "tuple[str, Enlarger]":
    name, model = of_package(package.FALLBACK, scale)
    return f"{name} (no champion)", model


def _champion(scale: Fraction) -> "tuple[str, Enlarger]":
    from loupe.tracking import models

    found = models.find(CHAMPION, scale)
    return _stand_in(scale) if found is None else (found.shown, _onnx_of(found))


def _onnx_of(found: "Found") -> "Enlarger":
    from loupe.tracking import models

    with tempfile.TemporaryDirectory() as folder:
        file = models.artifact(found.run_id, models.ONNX, folder)
        if file is None:
            raise UsageError(f"model: {found.shown} has no ONNX network beside it; register its run")
        return OnnxEnlarger(file)
