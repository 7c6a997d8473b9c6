"""Pages to an image file, written beside its name and renamed when whole."""

import itertools
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from loupe.data.pages import EXIF_IFD, FORMATS, GPS_IFD, Page
from loupe.data.photos import PhotoError
from loupe.errors import UsageError

WHOLE = 60_000_000  # pixels up to which a page is put together in memory before it is encoded
ALPHA = frozenset(("PNG", "WEBP", "TIFF", "AVIF", "GIF"))
FRAMES = frozenset(("PNG", "WEBP", "TIFF", "AVIF", "GIF"))
SIXTEEN_BITS = frozenset(("PNG", "TIFF"))
STREAMED = frozenset(("PNG", "TIFF", "JPEG"))  # those that can be written row by row
SIDES = {"JPEG": 65_535, "WEBP": 16_383, "AVIF": 65_535, "GIF": 65_535}
QUALITIES = {"JPEG": 95, "WEBP": 95, "AVIF": 90}


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
class Coding:
    """How files are encoded.

    Args:
        quality: 1..100 of JPEG, WebP and AVIF; None takes QUALITIES.
        compress_level: 0..9 of PNG.
    """

    quality: int | None = None
    compress_level: int = 1


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
) -> None:
    """Write a file of one page, of several, or of frames; it gets its name only when it is whole.

    Args:
        out: the file; its suffix is the format, its folder exists.
        pages: asked for one after another.
        count: of the pages.
        loop: how often an animation runs, 0 for ever; None where the pages are no frames.
        coding: None is the default of each format.

    Raises:
        PhotoError: the format cannot hold the pages.
        OSError: the file cannot be written.
    """
    coding = coding or Coding()
    name = format_of(out)
    with beside(out) as partial:
        rest = iter(pages)
        first = next(rest)
        pixels = first.about.pixels
        deep = pixels.dtype == np.uint16 and name in SIXTEEN_BITS
        large = first.size[0] * first.size[1] > WHOLE
        if count == 1 and name in STREAMED and (large or (deep and pixels.shape[2] > 1)):
            if name == "TIFF":
                _tiff(partial, first, deep)
            else:
                _by_vips(partial, name, first, coding, deep)
        elif count == 1:
            image = _image(first, name)
            image.save(partial, name, **_options(name, image, first.about, coding))
        else:
            _several(partial, name, itertools.chain([first], rest), loop, coding)


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A name in the same folder to write to; what is written there is renamed to `out` at the end, or removed."""
    partial = out.with_name(f".loupe-{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield partial
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that are dead began to write in a folder."""
    for partial in folder.glob(".loupe-*-*.part"):
        try:
            os.kill(int(partial.name.split("-")[1]), 0)
        except (ProcessLookupError, ValueError):
            partial.unlink(missing_ok=True)
        except OSError:
            pass  # alive, and another user's


def _image(page: LargePage, name: str) -> Image.Image:
    pixels = np.concatenate(list(page.strips))
    if pixels.dtype == np.uint16 and (name not in SIXTEEN_BITS or pixels.shape[2] > 1):
        pixels = _eight(pixels)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _options(name: str, image: Image.Image, about: Page, coding: Coding) -> dict[str, Any]:
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
    if name in QUALITIES:
        options["quality"] = coding.quality or QUALITIES[name]
    comment = about.texts.get("Comment")
    if name == "JPEG":
        options["subsampling"] = 0
        if comment:
            options["comment"] = comment
    elif name == "PNG":
        options |= {"compress_level": coding.compress_level, "pnginfo": _chunks(about)}
    elif name == "TIFF":
        tags = _tags(about)
        nested = EXIF_IFD in tags or GPS_IFD in tags  # which Pillow writes only where it does not compress
        options |= {"compression": None if nested else "tiff_adobe_deflate", "tiffinfo": tags}
        options.pop("exif", None)
    elif name == "GIF" and comment:
        options["comment"] = comment
    return options


def _chunks(about: Page) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    for keyword, text in about.texts.items():
        chunks.add_itxt(keyword, text)
    if about.xmp:
        chunks.add_itxt("XML:com.adobe.xmp", about.xmp.decode("utf-8", "replace"))
    return chunks


def _tags(about: Page) -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if about.exif is not None:
        for tag, value in about.exif.items():
            if tag not in (EXIF_IFD, GPS_IFD):
                tags[tag] = value
        for tag in (EXIF_IFD, GPS_IFD):
            if tag in about.exif:
                tags[tag] = dict(about.exif.get_ifd(tag))
    if about.xmp:
        tags[700] = about.xmp
        tags.tagtype[700] = 1  # bytes
    if "Comment" in about.texts and 270 not in tags:
        tags[270] = about.texts["Comment"]
    return tags


def _several(partial: Path, name: str, pages: Iterable[LargePage], loop: int | None, coding: Coding) -> None:
    """Pages of a TIFF, one after another, or frames of an animation, which Pillow compares with each other."""
    if name == "TIFF":
        with partial.open("w+b") as stream, TiffImagePlugin.AppendingTiffWriter(stream) as appending:
            for page in pages:
                image = _image(page, name)
                image.save(appending, name, **_options(name, image, page.about, coding))
                appending.newFrame()
        return
    durations, images = [], []
    about = None
    for page in pages:
        about = about or page.about
        durations.append(page.about.milliseconds)
        images.append(_image(page, name))
    assert about is not None
    options = _options(name, images[0], about, coding) | {"duration": durations, "loop": loop or 0}
    if name == "GIF":
        options |= {"disposal": 2, "optimize": False}
        if loop == 1:
            del options["loop"]  # a GIF that says nothing runs once
    if name == "PNG":
        options |= {"disposal": 1, "blend": 0}
    images[0].save(partial, name, save_all=True, append_images=images[1:], **options)


def _by_vips(partial: Path, name: str, page: LargePage, coding: Coding, deep: bool) -> None:
    """Row by row through libvips, which encodes while the next rows are computed."""
    import pyvips

    about = page.about
    reading, writing = os.pipe()
    fault: list[BaseException] = []

    def feed() -> None:
        try:
            with os.fdopen(writing, "wb") as pipe:
                _png(pipe, page, deep)
        except BrokenPipeError:
            pass  # the encoder has failed, and tells why
        except BaseException as error:
            fault.append(error)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        image = pyvips.Image.new_from_source(
            pyvips.Source.new_from_descriptor(reading), "", access="sequential", unlimited=True
        ).copy()
        blobs = {"icc-profile-data": about.icc, "xmp-data": about.xmp}
        if about.exif is not None:
            blobs["exif-data"] = b"Exif\0\0" + about.exif.tobytes().removeprefix(b"Exif\0\0")
        for field, data in blobs.items():
            if data:
                image.set_type(pyvips.GValue.blob_type, field, data)
        if about.dpi:
            image = image.copy(xres=about.dpi[0] / 25.4, yres=about.dpi[1] / 25.4)
        if "Comment" in about.texts:
            image.set_type(pyvips.GValue.gstr_type, "png-comment-0-Comment", about.texts["Comment"])
        save: dict[str, Callable[[], None]] = {
            "JPEG": lambda: image.jpegsave(str(partial), Q=coding.quality or QUALITIES["JPEG"], subsample_mode="off"),
            "PNG": lambda: image.pngsave(str(partial), compression=coding.compress_level),
        }
        save[name]()
    except pyvips.Error as error:
        if not fault:
            raise OSError(f"cannot be written: {' '.join(str(error).split())}") from None
    finally:
        os.close(reading)
        feeder.join()
    if fault:
        raise fault[0]


def _png(pipe: IO[bytes], page: LargePage, deep: bool) -> None:
    """A PNG that is not compressed (ISO/IEC 15948): what libvips reads from a pipe, row by row, in 8 or 16 bits."""

    def chunk(kind: bytes, data: bytes) -> None:
        pipe.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

    pipe.write(b"\x89PNG\r\n\x1a\n")
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[page.about.pixels.shape[2]]
    chunk(b"IHDR", struct.pack(">IIBBBBB", *page.size, 16 if deep else 8, colour, 0, 0, 0))
    stored = zlib.compressobj(0)
    for strip in page.strips:
        pixels = strip.astype(">u2") if deep else _eight(strip)
        rows = pixels.reshape(len(pixels), -1).view(np.uint8)
        for part in np.array_split(rows, -(-rows.nbytes // 2**24)):
            chunk(b"IDAT", stored.compress(np.pad(part, ((0, 0), (1, 0))).tobytes()))  # row filter 0: none
    chunk(b"IDAT", stored.flush())
    chunk(b"IEND", b"")


def _tiff(partial: Path, page: LargePage, deep: bool) -> None:
    """Row by row to a TIFF that is not compressed (TIFF 6.0): its directory, and then one strip."""
    width, height = page.size
    bands = page.about.pixels.shape[2]
    bits = 16 if deep else 8
    length = width * height * bands * bits // 8
    if length > 2**32 - 2**24:
        raise PhotoError("would take more than 4 GB, which a TIFF cannot hold; use .png or .jpg")
    tags = _tags(page.about)
    tags[256], tags[257], tags[258], tags[259] = width, height, (bits,) * bands, 1
    tags[262], tags[277], tags[278], tags[279] = 2 if bands > 2 else 1, bands, height, length
    if bands in (2, 4):
        tags[338] = 2  # alpha, not premultiplied
    if page.about.dpi:
        tags[282], tags[283], tags[296] = *page.about.dpi, 2
    if page.about.icc:
        tags[34675] = page.about.icc
        tags.tagtype[34675] = 7
    tags[273] = 0  # where the strip begins, from the end of the directory on: Pillow adds where that is
    tags.tagtype[273] = 4
    with partial.open("wb") as stream:
        tags.save(stream)
        for strip in page.strips:
            stream.write((strip if deep else _eight(strip)).astype("<u2" if deep else "u1").tobytes())


def _eight(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
