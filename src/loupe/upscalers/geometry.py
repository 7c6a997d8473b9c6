"""What has to be known of a model to use it on any image, and the name by which every file format keeps it."""

import re
from dataclasses import dataclass
from fractions import Fraction

from loupe.errors import UsageError

_NUMBER = "([0-9]{1,4})"  # up to the largest label's side, and what is mirrored around it
_NAME = re.compile(rf"loupe\.q{_NUMBER}\.p{_NUMBER}\.side{_NUMBER}\.halo{_NUMBER}\.(\w{{1,20}})")


@dataclass(frozen=True)
class Geometry:
    """A model turns q x q blocks of the small image into p x p blocks of the large one.

    Args:
        q: sides of the images that the model takes are multiples of it.
        p: the large image's sides are p/q times those of the small one.
        min_side: the least side that the model takes, a multiple of q.
        halo: pixels of the small image beyond a block that the block's result depends on, a multiple of q.
        luminance: how the grey that it was trained on was made of colour.
    """

    q: int
    p: int
    min_side: int
    halo: int
    luminance: str

    @property
    def scale(self) -> Fraction:
        """Large side over small side."""
        return Fraction(self.p, self.q)

    @property
    def name(self) -> str:
        """As a model's name: the only text of ours that .keras, SavedModel and MLflow all keep."""
        return f"loupe.q{self.q}.p{self.p}.side{self.min_side}.halo{self.halo}.{self.luminance}"

    @classmethod
    def from_name(cls, name: str) -> "Geometry":
        """Read `name`; raises UsageError where a model of another program has another name, or none that can be."""
        found = _NAME.fullmatch(name)
        if not found:
            raise UsageError(f"model: {name!r} was not made by loupe: its name does not tell q, p, side and halo")
        q, p, min_side, halo = map(int, found.groups()[:4])
        if not 0 < q < p or not min_side or min_side % q or halo % q:
            raise UsageError(f"model: {name!r} has no scale, or its side and halo are no multiples of q")
        return cls(q, p, min_side, halo, found[5])
