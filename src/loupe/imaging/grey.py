"""Decodes a photo and converts it to grey or RGB in strips, to use little memory."""

import io
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, TiffImagePlugin

from loupe.imaging.decoder import (
    BITS_PER_SAMPLE,
    PhotoError,
    expand_12_bit_values,
    has_12_bit_grey,
    scale_transparent_value,
    to_8_bit_mode,
    translate_errors,
    validate_pixel_count,
)
from loupe.imaging.estimates import read_webp_pixels
from loupe.imaging.exif import ORIENTATION
from loupe.imaging.jpeg_scans import validate_scans
from loupe.imaging.luminance import blend_with_white, compute_luminance
from loupe.imaging.metadata import correct_info, remove_texts
from loupe.imaging.pixels import make_upright
from loupe.imaging.placement import MIRRORED, ROTATED, UPSIDE_DOWN

Box = tuple[int, int, int, int]  # left, top, right, bottom
STRIP_PIXELS = 2**16  # pixels per strip, which fit into a core's cache
SHRINKING_STRIP_PIXELS = 2**18  # pixels per strip in `shrink`, before the strip is shrunk
OPENING_BYTES = 16 * 10**6  # memory to open a file; the estimates add two copies of the file
MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}  # bytes per pixel, by Pillow's mode
COLOUR_BYTES = 4  # bytes per pixel in other modes
# Additional bytes per pixel of a format's decoder
DECODER_BYTES = {"JPEG": 0, "MPO": 0, "PNG": 0, "BMP": 1, "GIF": 8, "TIFF": 0, "WEBP": 16, "AVIF": 24}
OTHER_DECODER_BYTES = 36  # additional bytes per pixel for other formats, such as JPEG 2000
ROWS_PER_STRIP, TILE_OFFSETS = 278, 324  # numbers of TIFF tags
KEPT_ROWS = 8  # rows that a decoder keeps
COEFFICIENT_BYTES = 2  # additional bytes per pixel and band of a JPEG with several scans


class GreyPhoto:
    """The first image of a file, upright. `read` converts the pixels to grey or RGB, in strips.

    Args:
        content: the bytes of a file.
        reserve_bytes: called with the estimated peak memory, in bytes, before opening and before decoding; can
            raise PhotoError.
        caller_bytes: memory that the caller needs in addition, in bytes per pixel; included in the estimate.

    Attributes:
        width, height: the size in pixels, upright.

    Raises:
        PhotoError: the file is not an image or is PostScript, is unsupported, damaged or too large, is a JPEG with
            too many scans, or the range of its values is unknown.
    """

    def __init__(self, content: bytes, reserve_bytes: Callable[[int], None], caller_bytes: int = 2) -> None:
        reserve_bytes(_estimate_opening(content, caller_bytes))
        with translate_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content))
            if image.format == "EPS":  # Pillow would run Ghostscript
                raise PhotoError("a PostScript program, not a photo")
            if image.format in ("JPEG", "MPO"):
                validate_scans(content)
            remove_texts(image)
            scale_transparent_value(image)
            reserve_bytes(_estimate_decoding(image, content, caller_bytes))
            image.load()
            self._has_12_bits = has_12_bit_grey(image)
            if not self._has_12_bits:
                to_8_bit_mode(image.crop((0, 0, 1, 1)))  # raises PhotoError for values without a known range
            correct_info(image)
            self._orientation = 1 if self._has_12_bits else image.getexif().get(ORIENTATION, 1)
        self._image = image
        self._grey: Image.Image | None = None  # all pixels in grey (rec601), if `shrink` used one strip
        is_rotated = self._orientation in ROTATED
        self.width, self.height = image.size[::-1] if is_rotated else image.size

    def read(self, luminance: str | None, box: Box | None = None) -> np.ndarray:
        """Convert the pixels of a box, or all pixels.

        Args:
            luminance: as in `compute_luminance`; None keeps the colours. Transparent pixels are blended with white.
            box: in pixels of the upright photo; None for all pixels.

        Returns:
            uint8, (height, width); (height, width, 3) if `luminance` is None and the photo has colours.
        """
        left, top, right, bottom = self._turn_back(box or (0, 0, self.width, self.height))
        converted = np.empty(0, "uint8")
        grey = self._grey if luminance == "rec601" else None
        with translate_errors():
            for x, y, end_x, end_y in _split((left, top, right, bottom)):
                box = (x, y, end_x, end_y)
                strip = grey.crop(box) if grey else self._crop(box)
                part = (
                    np.asarray(blend_with_white(strip)) if luminance is None else compute_luminance(strip, luminance)
                )
                if not converted.size:
                    converted = np.empty((bottom - top, right - left, *part.shape[2:]), "uint8")
                converted[y - top : end_y - top, x - left : end_x - left] = part
        return make_upright(converted, self._orientation)

    def shrink(self, side: int) -> np.ndarray:
        """Convert the pixels to grey and shrink them to a square of `side` x `side` pixels.

        Returns:
            float32, (side, side), from 0 to 255, not rotated by the EXIF orientation.
        """
        width, height = self._image.size
        # A pixel of `reduced` is the mean of `columns` x `rows` pixels.
        columns, rows = (max(1, stored // (4 * side)) for stored in (width, height))
        reduced = Image.new("L", (-(-width // columns), -(-height // rows)))
        strip_rows = max(1, SHRINKING_STRIP_PIXELS // (width * rows)) * rows
        with translate_errors():
            for top in range(0, height, strip_rows):
                strip = blend_with_white(self._crop((0, top, width, min(top + strip_rows, height)))).convert("L")
                self._grey = strip if strip.size == self._image.size else None
                reduced.paste(strip.reduce((columns, rows)), (0, top // rows))
        box = (0, 0, width / columns, height / rows)
        return np.asarray(reduced.convert("F").resize((side, side), Image.Resampling.HAMMING, box))

    def _crop(self, box: Box) -> Image.Image:
        """Return a box of the stored pixels in mode `L`, `RGB`, `LA` or `RGBA`."""
        strip = self._image if box == (0, 0, *self._image.size) else self._image.crop(box)
        return to_8_bit_mode(expand_12_bit_values(strip) if self._has_12_bits else strip)

    def _turn_back(self, box: Box) -> Box:
        """Convert a box of the upright photo to a box of the stored pixels."""
        left, top, right, bottom = box
        if self._orientation in UPSIDE_DOWN:
            top, bottom = self.height - bottom, self.height - top
        if self._orientation in MIRRORED:
            left, right = self.width - right, self.width - left
        return (top, left, bottom, right) if self._orientation in ROTATED else (left, top, right, bottom)


def _split(box: Box) -> Iterator[Box]:
    """Split a box into parts of at most STRIP_PIXELS: whole rows, or parts of a row."""
    left, top, right, bottom = box
    columns = max(1, min(right - left, STRIP_PIXELS))
    rows = max(1, STRIP_PIXELS // columns)
    for y in range(top, bottom, rows):
        for x in range(left, right, columns):
            yield x, y, min(x + columns, right), min(y + rows, bottom)


def _estimate_opening(content: bytes, caller_bytes: int) -> int:
    """Estimate the memory to open a file.

    For a WebP, this includes the memory for decoding, because Pillow allocates two frames when it opens the file.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return OPENING_BYTES + 2 * len(content)
    pixels = read_webp_pixels(content[:32])
    validate_pixel_count(pixels)
    return OPENING_BYTES + 2 * len(content) + pixels * (DECODER_BYTES["WEBP"] + COLOUR_BYTES + caller_bytes)


def _estimate_decoding(image: Image.Image, content: bytes, caller_bytes: int) -> int:
    name = image.format or ""
    per_pixel = MODE_BYTES.get(image.mode, COLOUR_BYTES) + DECODER_BYTES.get(name, OTHER_DECODER_BYTES) + caller_bytes
    if name in ("JPEG", "MPO") and (image.info.get("progressive") or content.count(b"\xff\xda") > 1):
        per_pixel += COEFFICIENT_BYTES * len(image.getbands())
    pixels = image.width * image.height
    # The decoder of a TIFF keeps a whole strip of the file, or all pixels of a tiled file. Pillow makes a
    # rotated copy of a TIFF whose orientation is not 1.
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        rows = min(image.height, int(image.tag_v2.get(ROWS_PER_STRIP, image.height)))
        pixel_bytes = len(image.getbands()) * max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) // 8 + 1
        rotation_bytes = COLOUR_BYTES if image.tag_v2.get(ORIENTATION, 1) != 1 else 0
        per_pixel += rotation_bytes
        has_strips = TILE_OFFSETS not in image.tag_v2
        pixels_per_strip = image.width * rows if has_strips else pixels
        return OPENING_BYTES + 2 * len(content) + pixels * per_pixel + 2 * pixels_per_strip * pixel_bytes
    kept_bytes = KEPT_ROWS * image.width * len(image.getbands())
    return OPENING_BYTES + 2 * len(content) + pixels * per_pixel + kept_bytes
