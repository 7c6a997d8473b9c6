"""Pages to an image file, written beside its name and renamed when whole."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from loupe.errors import UsageError
from loupe.imaging.atomic import write_atomically
from loupe.imaging.conversion import to_8_bits
from loupe.imaging.decoder import PhotoError
from loupe.imaging.metadata import EXIF_IFD, GPS_IFD, MAKER_NOTE
from loupe.imaging.png import chunks_of, write_png
from loupe.imaging.reader import FORMATS, LargePage, Page
from loupe.imaging.tiff import tags_of, write_tiff

WHOLE = 60_000_000  # pixels up to which a page is put together in memory before it is encoded
ALPHA = frozenset(("PNG", "WEBP", "TIFF", "AVIF", "GIF"))
FRAMES = frozenset(("PNG", "WEBP", "TIFF", "AVIF", "GIF"))
SIXTEEN_BITS = frozenset(("PNG", "TIFF"))
SIDES = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_535, "GIF": 65_535}
MARKER, XMP_NAME = 65_533, 29  # bytes that a segment of a JPEG holds, and of the name in front of XMP
QUALITIES = {"JPEG": 95, "WEBP": 95, "AVIF": 90}


@dataclass(frozen=True)
class Coding:
    """How files are encoded.

    Args:
        quality: 1..100 of JPEG, WebP and AVIF; None takes QUALITIES.
        compress_level: 0..9 of PNG.
        lossless: of WebP, where there is no quality.
    """

    quality: int | None = None
    compress_level: int = 1
    lossless: bool = False


def format_of(out: Path) -> str:
    """The format that the suffix of a file names; raises UsageError where it names none that can be written."""
    try:
        return FORMATS[out.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"out: must end in the suffix of an image format, {', '.join(FORMATS)}, got {str(out)!r}"
        ) from None


def refuse(out: Path, size: tuple[int, int], count: int, bands: int) -> None:
    """Raise PhotoError where the format of a file cannot hold such pages; bands 2 and 4 have transparency."""
    name = format_of(out)
    if count > 1 and name not in FRAMES:
        raise PhotoError(f"has {count} pages or frames, and {out.suffix} holds one; use .tif, .webp, .gif or .png")
    if bands in (2, 4) and name not in ALPHA:
        raise PhotoError(f"has transparency, and {out.suffix} has none; use .png or .webp")
    if max(size) > SIDES.get(name, 2**31 - 1):
        raise PhotoError(f"would have {size[0]}x{size[1]} pixels, and {out.suffix} has at most {SIDES[name]} a side")


def write(
    out: Path, pages: Iterable[LargePage], count: int = 1, loop: int | None = None, coding: Coding | None = None
) -> list[str]:
    """Write a file of one page, of several, or of frames; it gets its name only when it is whole.

    Args:
        out: the file; its suffix is the format, its folder exists.
        pages: asked for one after another.
        count: of the pages.
        loop: how often an animation runs, 0 for ever; None where the pages are no frames.
        coding: None is the default of each format.

    Returns:
        What of the metadata is too long for the format, and was left out.

    Raises:
        PhotoError: the format cannot hold the pages.
        OSError: the file cannot be written.
    """
    coding = coding or Coding()
    name = format_of(out)
    with write_atomically(out) as partial:
        rest = iter(pages)
        first = next(rest)
        left_out: list[str] = []
        if name == "JPEG":
            about, left_out = _fitting(first.about)
            first = replace(first, about=about)
        pixels = first.about.pixels
        deep = pixels.dtype == np.uint16 and name in SIXTEEN_BITS
        large = first.size[0] * first.size[1] > WHOLE
        if count == 1 and name == "PNG":
            with partial.open("wb") as stream:
                write_png(stream, first, deep, coding.compress_level, _options(name, first.about, coding))
        elif count == 1 and name == "TIFF" and (large or (deep and pixels.shape[2] > 1)):
            with partial.open("wb") as stream:
                write_tiff(stream, first, deep)
        elif count == 1 and name == "JPEG" and large:
            from loupe.imaging.jpeg import write_streamed

            write_streamed(partial, first, coding.quality or QUALITIES[name])
        elif count == 1:
            _image(first, name).save(partial, name, **_options(name, first.about, coding))
        else:
            _several(partial, name, itertools.chain([first], rest), loop, coding)
    return left_out


def _image(page: LargePage, name: str) -> Image.Image:
    pixels = _whole(page)
    if pixels.dtype == np.uint16 and (name not in SIXTEEN_BITS or pixels.shape[2] > 1):
        pixels = to_8_bits(pixels)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return image.convert("RGBA") if name == "GIF" and image.mode == "LA" else image  # Pillow drops the alpha else


def _whole(page: LargePage) -> np.ndarray:
    first = next(strips := iter(page.strips))
    whole = np.empty((page.size[1], *first.shape[1:]), first.dtype)
    top = 0
    for strip in itertools.chain([first], strips):
        whole[top : top + len(strip)] = strip
        top += len(strip)
    return whole


def _fitting(about: Page) -> tuple[Page, list[str]]:
    """The page without what is too long for a segment of a JPEG, and what that is; the maker's note goes first."""
    left_out = []
    exif, xmp, texts = about.exif, about.xmp, dict(about.texts)
    if exif is not None and len(exif.tobytes()) > MARKER:
        if exif.get_ifd(EXIF_IFD).pop(MAKER_NOTE, None) is not None and len(exif.tobytes()) <= MARKER:
            left_out.append("the camera maker's note")
        else:
            exif = None
            left_out.append("EXIF")
    if len(xmp) > MARKER - XMP_NAME:
        xmp = b""
        left_out.append("XMP")
    if len(texts.get("Comment", "").encode()) > MARKER:
        del texts["Comment"]
        left_out.append("the comment")
    return replace(about, exif=exif, xmp=xmp, texts=texts), left_out


def _options(name: str, about: Page, coding: Coding) -> dict[str, Any]:
    """What Pillow's writer of a format takes."""
    options: dict[str, Any] = {}
    if about.icc:
        options["icc_profile"] = about.icc
    if about.dpi and name in ("JPEG", "PNG", "TIFF", "BMP"):
        options["dpi"] = about.dpi
    if about.exif is not None:
        options["exif"] = about.exif
    if about.xmp and name in ("JPEG", "WEBP", "AVIF"):
        options["xmp"] = about.xmp
    if name == "WEBP" and coding.lossless and coding.quality is None:
        options["lossless"] = True
    elif name in QUALITIES:
        options["quality"] = coding.quality or QUALITIES[name]
    comment = about.texts.get("Comment")
    if name == "JPEG":
        options["subsampling"] = 0
        if comment:
            options["comment"] = comment
    elif name == "PNG":
        options |= {"compress_level": coding.compress_level, "pnginfo": chunks_of(about)}
    elif name == "TIFF":
        tags = tags_of(about)
        nested = EXIF_IFD in tags or GPS_IFD in tags  # which Pillow writes only where it does not compress
        options |= {"compression": None if nested else "tiff_adobe_deflate", "tiffinfo": tags}
        options.pop("exif", None)
    elif name == "GIF" and comment:
        options["comment"] = comment
    return options


def _several(partial: Path, name: str, pages: Iterable[LargePage], loop: int | None, coding: Coding) -> None:
    """Pages of a TIFF, one after another, or frames of an animation, which Pillow compares with each other."""
    if name == "TIFF":
        with partial.open("w+b") as stream, TiffImagePlugin.AppendingTiffWriter(stream) as appending:
            for page in pages:
                pixels = page.about.pixels
                if pixels.dtype == np.uint16 and pixels.shape[2] > 1:
                    write_tiff(appending, page, deep=True)
                else:
                    image = _image(page, name)
                    image.save(appending, name, **_options(name, page.about, coding))
                appending.newFrame()
        return
    durations, images = [], []
    about = None
    for page in pages:
        about = about or page.about
        durations.append(round(page.about.milliseconds))
        images.append(_image(page, name))
        if images[-1].size != images[0].size:
            raise PhotoError(f"has pages of different sizes, which {name} cannot hold; use .tif")
    assert about is not None
    options = _options(name, about, coding) | {"duration": durations, "loop": loop or 0}
    if name == "GIF":
        options |= {"disposal": 2, "optimize": False}
        if loop == 1:
            del options["loop"]  # a GIF that says nothing runs once
    if name == "PNG":
        options |= {"disposal": 1, "blend": 0}
    images[0].save(partial, name, save_all=True, append_images=images[1:], **options)
