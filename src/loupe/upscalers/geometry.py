"""The geometry of a model: block sizes and margins."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import get_args

from loupe.config.fields import LARGEST_SCALE, Luminance
from loupe.errors import UsageError

# Limit of `min_side` and `halo` in pixels, because files can come from untrusted sources
MAX_SIDE = 2048
_NUMBER = "([0-9]{1,4})"
_NAME = re.compile(rf"loupe\.q{_NUMBER}\.p{_NUMBER}\.side{_NUMBER}\.halo{_NUMBER}\.(\w{{1,20}})(?:\.(jpeg))?")


@dataclass(frozen=True)
class Geometry:
    """The geometry of a model that maps q x q blocks of an image to p x p blocks of the result.

    Args:
        q: side of an input block.
        p: side of a result block; the scale factor is p/q.
        min_side: smallest side of an input, a multiple of q.
        halo: the result of a block depends on input pixels up to this distance from the block; a multiple of q.
        luminance: the formula that computed the grey training images; see `imaging.luminance`.
        condition: `jpeg` if the inputs have a second channel with the strength of JPEG artefacts (see
            `imaging.jpeg_quality.compute_strength`), otherwise `none`.
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
        """The geometry as text, used as the name of the Keras model.

        Every file format keeps this name. Keras does not save attributes, and MLflow's tags are lost if the file is
        copied.
        """
        condition = "" if self.condition == "none" else f".{self.condition}"
        return f"loupe.q{self.q}.p{self.p}.side{self.min_side}.halo{self.halo}.{self.luminance}{condition}"

    @classmethod
    def from_name(cls, name: str) -> "Geometry":
        """Parse the name of a model; raise UsageError if Loupe did not make the model, or a part is invalid."""
        found = _NAME.fullmatch(name)
        if not found:
            raise UsageError(f"model: must be made by Loupe, got a model with the name {name!r}")
        q, p, min_side, halo = map(int, found.groups()[:4])
        if not 0 < q <= p or not min_side or min_side % q or halo % q:
            rule = "0 < q <= p, side > 0, and side and halo that are multiples of q"
            raise UsageError(f"model: must have {rule}, got {name!r}")
        if p > LARGEST_SCALE * q or max(min_side, halo) > MAX_SIDE:
            rule = f"a scale factor of at most {LARGEST_SCALE}, and side and halo of at most {MAX_SIDE}"
            raise UsageError(f"model: must have {rule}, got {name!r}")
        if found[5] not in get_args(Luminance):
            rule = f"one of the luminance formulas {', '.join(get_args(Luminance))}"
            raise UsageError(f"model: must have {rule}, got {name!r}")
        return cls(q, p, min_side, halo, found[5], found[6] or "none")
