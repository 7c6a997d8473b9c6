"""Converts positions in an image to positions in the rotated, flipped, scaled and cropped result."""

from collections.abc import Iterable
from dataclasses import dataclass

# To apply an EXIF orientation: transpose the image if the orientation is in ROTATED; then exchange left and right if
# it is in MIRRORED; then exchange top and bottom if it is in UPSIDE_DOWN.
ROTATED, MIRRORED, UPSIDE_DOWN = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
Size = tuple[int, int]  # width and height
Box = tuple[float, float, float, float]  # left, top, width, height, as fractions of the image


@dataclass(frozen=True)
class Placement:
    """The geometry of a result.

    Args:
        size: width and height of the image before the rotation.
        scaled_size: the size of the result before the crop to the centre.
        result_size: the size of the result.
        orientation: the EXIF orientation of the image, 1 to 8.
    """

    size: Size
    scaled_size: Size
    result_size: Size
    orientation: int = 1

    @property
    def is_identity(self) -> bool:
        """Whether all positions stay the same."""
        return self.orientation == 1 and self.size == self.scaled_size == self.result_size

    @property
    def is_rotated(self) -> bool:
        """Whether width and height are exchanged."""
        return self.orientation in ROTATED

    @property
    def scales(self) -> tuple[float, float]:
        """The horizontal and vertical scale factor, after the rotation."""
        size = self.size[::-1] if self.is_rotated else self.size
        return self.scaled_size[0] / size[0], self.scaled_size[1] / size[1]

    @property
    def margins(self) -> Size:
        """The pixels that the crop removes on the left and at the top."""
        return (self.scaled_size[0] - self.result_size[0]) // 2, (self.scaled_size[1] - self.result_size[1]) // 2

    def place(self, box: Box) -> Box:
        """Return the position of a box, clipped to the result, as fractions of the result."""
        left, top, width, height = box
        if self.is_rotated:
            left, top, width, height = top, left, height, width
        if self.orientation in MIRRORED:
            left = 1 - left - width
        if self.orientation in UPSIDE_DOWN:
            top = 1 - top - height
        origin, lengths = (left, top), (width, height)
        starts = [
            (value * scaled - margin) / side
            for value, scaled, margin, side in zip(
                origin, self.scaled_size, self.margins, self.result_size, strict=True
            )
        ]
        ends = [
            start + length * scaled / side
            for start, length, scaled, side in zip(starts, lengths, self.scaled_size, self.result_size, strict=True)
        ]
        (left, top), (right, bottom) = ([min(max(value, 0), 1) for value in values] for values in (starts, ends))
        return left, top, right - left, bottom - top

    def place_pixels(self, left: float, top: float, width: float = 0, height: float = 0) -> list[int]:
        """Convert a box in pixels of the image to left, top, width and height in pixels of the result."""
        (columns, rows), sides = self.size, (*self.result_size, *self.result_size)
        placed = self.place((left / columns, top / rows, width / columns, height / rows))
        return [round(value * side) for value, side in zip(placed, sides, strict=True)]

    def place_subject(self, values: Iterable[float]) -> tuple[int, ...]:
        """Return the position of a subject in the result, in pixels.

        Args:
            values: a point (x, y), a circle (x, y, diameter) or a rectangle (x, y, width, height); x and y are the
                centre (EXIF 3.0, SubjectArea). The returned values have the same form.
        """
        x, y, *sides = (float(value) for value in values)
        width, height = (sides * 2)[:2] if sides else (0, 0)
        left, top, width, height = self.place_pixels(x - width / 2, y - height / 2, width, height)
        return round(left + width / 2), round(top + height / 2), *(width, height)[: len(sides)]
