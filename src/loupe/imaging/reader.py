"""An image file to its pages: upright pixels, and all that goes with them."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from loupe.imaging import metadata
from loupe.imaging.decoder import MAX_PIXELS, PhotoError, scale_transparent_value, too_many_pixels
from loupe.imaging.pixels import by_pillow, by_vips, has_deep_colour, upright

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png", ".apng"), "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"), "BMP": (".bmp", ".dib"), "AVIF": (".avif",), "GIF": (".gif",),
}  # fmt: skip
FORMATS = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes}
EXTRA_SAMPLES = 338  # a TIFF's tag: what bands beyond the colours mean


@dataclass(frozen=True)
class Page:
    """One image of a file.

    Args:
        pixels: upright, uint8 or uint16, (height, width, bands): grey, grey and alpha, RGB, or RGB and alpha.
        exif: its descriptive tags, with a normal orientation; None where there are none.
        icc: the colour profile, b"" for none.
        xmp: the XMP packet, b"" for none.
        dpi: pixels an inch, across and down, None where unknown.
        texts: comments, by keyword.
        chunks: of a PNG that tell its colours where it has no profile, by name.
        milliseconds: that a frame of an animation is shown.
    """

    pixels: np.ndarray
    exif: Image.Exif | None = None
    icc: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    milliseconds: float = 0


@dataclass(frozen=True)
class LargePage:
    """A page to write: how large it is, its rows from top to bottom, and what goes with them.

    Args:
        size: width and height.
        strips: uint8 or uint16, (rows, width, bands) each, together the whole page.
        about: the page with what goes with it; its pixels are not looked at, but for their bands and type.
    """

    size: tuple[int, int]
    strips: Iterator[np.ndarray]
    about: Page


@dataclass(frozen=True)
class Photo:
    """An image file.

    Args:
        format: Pillow's name of it.
        count: of its pages.
        size: width and height of the first page, upright.
        loop: how often an animation runs, 0 for ever; None for a file that is none.
        pages: each decoded when it is asked for.
        lossless: whether a WebP is; of other formats False.
    """

    format: str
    count: int
    size: tuple[int, int]
    loop: int | None
    pages: Iterator[Page]
    lossless: bool = False


def read(source: bytes | Path, strip: bool = False) -> Photo:
    """Open an image file.

    Args:
        source: the bytes of a file, or its path.
        strip: leave out all that is not needed to show the pixels; the colour profile is.

    Raises:
        PhotoError: it is no image of a known format, is damaged, or too large. The pages may raise it, too.
    """
    with _faults():
        if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
            raise PhotoError("is empty")
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        if image.format == "MPO":  # a JPEG with further views behind it, which viewers do not show
            image.format = "JPEG"
            count = 1
        else:
            count = getattr(image, "n_frames", 1)
        if image.format not in SUFFIXES:
            raise PhotoError(f"its format is {image.format}, must be one of {', '.join(SUFFIXES)}")
        if min(image.size) < 1:
            raise PhotoError(f"has no pixels: it is {image.width}x{image.height}")
        # Asked first: a PNG's EXIF may stand behind its pixels, so that Pillow decodes these to find it.
        deep = has_deep_colour(image)
        scale_transparent_value(image)
        first = 1 if image.info.get("default_image") else 0  # of an APNG: for who knows no animations, no frame
        moves = count > 1 and image.format != "TIFF"
        pixels = image.width * image.height * (count if moves else 1)
        if pixels > MAX_PIXELS:
            raise too_many_pixels(pixels)
        # Pillow tells the upright size of a TIFF, and the stored one of others
        turned = image.format != "TIFF" and image.getexif().get(metadata.ORIENTATION, 1) in (5, 6, 7, 8)
        size = image.size[::-1] if turned else image.size
        loop = image.info.get("loop", 1 if image.format == "GIF" else 0) if moves else None
        lossless = image.format == "WEBP" and _is_lossless(source)
        found = _pages(image, source, range(first, count), strip, deep)
        return Photo(image.format, count - first, size, loop, found, lossless)


def _is_lossless(source: bytes | Path) -> bool:
    """Whether the first pixels of a WebP are in a chunk of the lossless kind (RFC 9649)."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        stream.seek(12)  # the file's own header
        while len(head := stream.read(8)) == 8:
            kind, size = head[:4], int.from_bytes(head[4:], "little")
            if kind in (b"VP8L", b"VP8 "):
                return kind == b"VP8L"
            stream.seek(16 if kind == b"ANMF" else size + size % 2, os.SEEK_CUR)  # a frame has chunks behind 16 bytes
    return False


def read_image(image: Image.Image) -> Page:
    """The first page of an image that is in memory, with its profile; raises PhotoError as `read`."""
    with _faults():
        if min(image.size) < 1:
            raise PhotoError(f"has no pixels: it is {image.width}x{image.height}")
        pixels, icc = by_pillow(image, image.info.get("icc_profile") or b"", ignore_faults=True)
        return Page(upright(pixels, image.getexif().get(metadata.ORIENTATION, 1)), icc=icc)


def _pages(image: Image.Image, source: bytes | Path, numbers: range, strip: bool, deep: bool) -> Iterator[Page]:
    with image:
        for number in numbers:
            with _faults():
                if number:
                    image.seek(number)
                    deep = has_deep_colour(image)
                if image.width * image.height > MAX_PIXELS:
                    raise too_many_pixels(image.width * image.height)
                page = _page(image, source, number, strip, deep)
            if number == numbers[-1]:
                image.close()  # its pixels are held twice else
            yield page


@contextmanager
def _faults() -> Iterator[None]:
    """Whatever decoders raise over a damaged file, as one PhotoError."""
    try:
        yield
    except PhotoError:
        raise
    except Image.UnidentifiedImageError:
        raise PhotoError("not an image, or one that is damaged in its first bytes") from None
    except Image.DecompressionBombError as error:
        raise too_many_pixels(error) from None
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise PhotoError(error.strerror[0].lower() + error.strerror[1:]) from None
        raise PhotoError(f"damaged: {' '.join(str(error).split()) or type(error).__name__}") from None


def _page(image: Image.Image, source: bytes | Path, number: int, strip: bool, deep: bool) -> Page:
    icc = image.info.get("icc_profile") or b""
    exif = image.getexif()
    orientation = exif.get(metadata.ORIENTATION, 1)
    if deep:
        pixels, icc = by_vips(source, number, icc, ignore_faults=strip)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(EXTRA_SAMPLES) == (0,):
            pixels = pixels[..., :-1]  # of no known meaning
    else:
        image.load()
        orientation = exif.get(metadata.ORIENTATION, 1)  # Pillow turns a TIFF itself
        pixels, icc = by_pillow(image, icc, ignore_faults=strip)
    pixels = upright(pixels, orientation)
    duration = float(image.info.get("duration") or 0)
    chunks = {} if icc else metadata.colour_chunks(image.info)
    if strip:
        return Page(pixels, icc=icc, chunks=chunks, milliseconds=duration)
    xmp = metadata.xmp_of(image.info)
    dpi = image.info.get("dpi")
    dpi = (float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None
    return Page(pixels, metadata.exif_of(image, exif), icc, xmp, dpi, metadata.texts_of(image), chunks, duration)


def with_size(page: Page, width: int, height: int) -> Page:
    """The same with other pixels' width and height in the tags and properties that tell them, where there are any."""
    return replace(page, xmp=metadata.resized(page.exif, page.xmp, width, height))
