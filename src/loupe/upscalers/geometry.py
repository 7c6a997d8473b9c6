"""The geometry of a model: the block sizes and margins with which `upscale` applies it to images of any size."""

import re
from dataclasses import dataclass
from fractions import Fraction

from loupe.config.fields import LARGEST_SCALE
from loupe.errors import UsageError

# Limit in pixels for blocks, smallest inputs and halos. A file from an untrusted source can contain any number.
MAX_SIDE = 2048
_NUMBER = "([0-9]{1,4})"
_NAME = re.compile(rf"loupe\.q{_NUMBER}\.p{_NUMBER}\.side{_NUMBER}\.halo{_NUMBER}\.(\w{{1,20}})(?:\.(jpeg))?")


@dataclass(frozen=True)
class Geometry:
    """The geometry of a model that maps q x q blocks of an image to p x p blocks of the result.

    Args:
        q: side of an input block; the sides of the model's inputs are multiples of q.
        p: side of a result block; the scale factor is p/q.
        min_side: smallest side of an input, a multiple of q.
        halo: number of pixels on each side of a block that the result of the block depends on, a multiple of q.
        luminance: the formula that computed the grey training images; see `imaging.luminance`.
        condition: `jpeg` for a model whose inputs have a second channel, which contains the strength of the JPEG
            artefacts (see `imaging.jpeg_quality.compute_strength`); `none` for other models.
    """

    q: int
    p: int
    min_side: int
    halo: int
    luminance: str
    condition: str = "none"

    @property
    def channels(self) -> int:
        """The number of channels of the model's inputs."""
        return 1 if self.condition == "none" else 2

    @property
    def scale(self) -> Fraction:
        """The scale factor, p/q."""
        return Fraction(self.p, self.q)

    @property
    def name(self) -> str:
        """The geometry as the name of a Keras model.

        The name stores the geometry, because every file format keeps the name and a program can load the model
        without custom classes. In contrast, Keras does not save attributes of models and layers, and drops extra
        entries of metadata.json in a .keras file. If only the file of a model is copied, tags of MLflow and files
        next to the model are lost. An ONNX file has the name in the metadata entry `loupe`.
        """
        condition = "" if self.condition == "none" else f".{self.condition}"
        return f"loupe.q{self.q}.p{self.p}.side{self.min_side}.halo{self.halo}.{self.luminance}{condition}"

    @classmethod
    def from_name(cls, name: str) -> "Geometry":
        """Parse the name of a model.

        Raises:
            UsageError: the model was not made by Loupe, or no model can have this geometry.
        """
        found = _NAME.fullmatch(name)
        if not found:
            raise UsageError(f"model: must be made by Loupe, got {name!r}, a name without q, p, side and halo")
        q, p, min_side, halo = map(int, found.groups()[:4])
        if not 0 < q <= p or not min_side or min_side % q or halo % q:
            raise UsageError(f"model: must have 0 < q <= p, and side and halo that are multiples of q, got {name!r}")
        if p > LARGEST_SCALE * q or max(min_side, halo) > MAX_SIDE:
            rule = f"a scale factor of at most {LARGEST_SCALE}, and side and halo of at most {MAX_SIDE}"
            raise UsageError(f"model: must have {rule}, got {name!r}")
        return cls(q, p, min_side, halo, found[5], found[6] or "none")
