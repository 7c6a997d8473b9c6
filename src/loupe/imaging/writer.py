"""Writes image files atomically, with metadata."""

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from loupe.imaging.atomic import write_atomically
from loupe.imaging.avif import set_cicp, write_10_bits
from loupe.imaging.colour import fit_colours
from loupe.imaging.conversion import to_8_bits, to_image
from loupe.imaging.decoder import PhotoError
from loupe.imaging.formats import DEEP_FORMATS, MAX_PIXELS_IN_MEMORY, get_format
from loupe.imaging.gif import write_gif
from loupe.imaging.image_data import ImageStream
from loupe.imaging.jpeg import write_jpeg
from loupe.imaging.metadata import Metadata, make_iptc_resource
from loupe.imaging.metadata_selection import PHOTOSHOP_NAME, fit_metadata
from loupe.imaging.png import encode_png, make_chunks, select_strategy
from loupe.imaging.tiff import write_tiff

DEFAULT_QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90}
FULL_COLOUR_QUALITY = 90  # for AVIF: `subsampled` has no effect at this quality and above
# Methods of the WebP encoder. Method 2 takes 9 bytes of memory per pixel; the default method 4 takes 29. For a
# lossless WebP, method 0 takes 24 bytes per pixel; method 4 takes 41.
LOW_MEMORY_METHOD, LOW_MEMORY_LOSSLESS_METHOD = 2, 0
APP13 = b"\xff\xed"  # JPEG marker of Photoshop resources
PILLOW_STRATEGY = -1  # with this value, Pillow selects the strategy of zlib
# A PNG stores a display time in seconds as the ratio of two 16-bit numbers. Pillow merges equal frames and adds their
# times. If a time or such a sum cannot be stored, all times are rounded to the next of these units.
TIME_UNITS_MS = (1, 10, 100, 1000)
# The largest number of runs that an animation stores; a GIF stores the number of repetitions in 16 bits.
MAX_RUNS = {"WEBP": 2**16 - 1, "GIF": 2**16}


@dataclass(frozen=True)
class EncodeOptions:
    """Options of the encoders.

    Args:
        quality: 1 to 100, for JPEG, WebP and AVIF; None for DEFAULT_QUALITY.
        compress_level: 0 to 9, for PNG.
        lossless: whether a WebP is lossless if `quality` is None. With a `quality`, a WebP is lossy.
        subsampled: whether an AVIF below FULL_COLOUR_QUALITY has colours of lower resolution.
        overwrite: whether an existing file is replaced.
        attributes_of: the written file gets the permissions of this file; None for the default permissions.
        keep_times: whether the written file also gets the times and other attributes of `attributes_of`, as with
            `shutil.copystat`.
        low_memory: whether encoders take less memory; WebPs then become larger, and AVIFs get 4:2:0.
        total_bytes: upper bound of the bytes of all pages of a TIFF; 0: computed from the first page and the number
            of pages.
    """

    quality: int | None = None
    compress_level: int = 1
    lossless: bool = False
    subsampled: bool = False
    overwrite: bool = True
    attributes_of: Path | None = None
    keep_times: bool = False
    low_memory: bool = False
    total_bytes: int = 0

    @property
    def avif_subsampling(self) -> str:
        """The chroma subsampling of an AVIF."""
        is_subsampled = self.subsampled and (self.quality or DEFAULT_QUALITY["AVIF"]) < FULL_COLOUR_QUALITY
        return "4:2:0" if is_subsampled or self.low_memory else "4:4:4"


def write_photo(
    out: Path,
    images: Iterable[ImageStream],
    count: int = 1,
    loop: int | None = None,
    options: EncodeOptions | None = None,
) -> list[str]:
    """Write an image file atomically.

    Args:
        out: the file; the extension selects the format. The folder must exist.
        images: the frames or pages, requested one after another.
        count: the number of images.
        loop: how often an animation runs (0: forever), limited to MAX_RUNS; None if the images are not frames. Pages
            that become an animation run forever.
        options: the options of the encoder.

    Returns:
        The names of the metadata that were omitted.

    Raises:
        UsageError: the extension does not belong to a supported format.
        PhotoError: the format cannot store the images, or an image cannot be decoded.
        OSError: the file cannot be written. FileExistsError: it exists, and `options.overwrite` is False.
    """
    options = options or EncodeOptions()
    name = get_format(out)
    with write_atomically(out, options.overwrite) as partial:
        omitted: dict[str, None] = {}  # an ordered set
        runs = min(loop or 0, MAX_RUNS.get(name, loop or 0))
        fitted = (_fit_image(image, name, omitted) for image in images)
        if name == "GIF":
            write_gif(partial, fitted, count, 1 if count == 1 else runs)
        elif name == "TIFF":
            with partial.open("wb") as opened:
                write_tiff(opened, fitted, count, options.total_bytes)
        elif count == 1:
            _write_one(partial, name, next(fitted), options)
        else:
            _write_frames(partial, name, fitted, runs, options)
        if options.attributes_of:
            (shutil.copystat if options.keep_times else shutil.copymode)(options.attributes_of, partial)
    return [*omitted]


def _fit_image(image: ImageStream, name: str, omitted: dict[str, None]) -> ImageStream:
    """Convert the colours and select the metadata for a format; add the names of omitted metadata to `omitted`."""
    image = fit_colours(image, name)
    metadata = fit_metadata(image.metadata, name)
    omitted |= dict.fromkeys(metadata.omitted)
    return replace(image, metadata=metadata)


def _write_one(file: Path, name: str, stream: ImageStream, options: EncodeOptions) -> None:
    large = math.prod(stream.size) > MAX_PIXELS_IN_MEMORY
    deep_colour = stream.dtype == np.uint16 and stream.bands > 1
    pillow_options = _make_pillow_options(name, stream.metadata, options)
    if name == "PNG" and (large or deep_colour):
        with file.open("wb") as opened:
            opened.writelines(encode_png(stream, options.compress_level, pillow_options))
    elif name == "AVIF" and stream.dtype == np.uint16:
        write_10_bits(file, stream, options.quality or DEFAULT_QUALITY[name], options.avif_subsampling)
    elif name == "JPEG" and large:
        with file.open("wb") as opened:
            write_jpeg(opened, stream, pillow_options)
    else:
        with file.open("wb") as opened:
            # Pillow would write to the descriptor of a real file and ignore a full disk. `target` has no descriptor.
            target: Any = SimpleNamespace(write=opened.write)
            _make_image(stream, name in DEEP_FORMATS).save(target, name, **pillow_options)
        _write_colour_space(file, name, stream.metadata)


def _write_frames(file: Path, name: str, frames: Iterable[ImageStream], loop: int, options: EncodeOptions) -> None:
    durations_ms, images = [], []
    metadata: Metadata | None = None
    for frame in frames:
        metadata = metadata or frame.metadata
        durations_ms.append(round(frame.metadata.duration_ms))
        images.append(_make_image(frame))
        if images[-1].size != images[0].size:
            raise PhotoError(f"has pages of different sizes, which {name} cannot store; use .tif")
        if (frame.metadata.icc, frame.metadata.colour_chunks) != (metadata.icc, metadata.colour_chunks):
            raise PhotoError(f"has pages with different colour spaces, which {name} cannot store; use .tif")
    assert metadata is not None
    images = _match_modes(images)
    animation = _make_pillow_options(name, metadata, options) | {"loop": loop}
    if name == "PNG":
        # OP_NONE: with OP_BACKGROUND instead, Pillow would omit black frames. OP_SOURCE: each frame replaces the
        # previous frame.
        animation |= {"disposal": PngImagePlugin.Disposal.OP_NONE, "blend": PngImagePlugin.Blend.OP_SOURCE}
    for unit_ms in TIME_UNITS_MS:
        animation["duration"] = _round_durations(durations_ms, unit_ms)
        try:
            images[0].save(file, name, save_all=True, append_images=images[1:], **animation)
            break
        except ValueError as error:
            if "duration" not in str(error) or unit_ms == TIME_UNITS_MS[-1]:
                raise
    _write_colour_space(file, name, metadata)


def _round_durations(durations_ms: list[int], unit_ms: int) -> list[int]:
    """Round display times to multiples of a unit, without a change of the total time by more than half a unit."""
    ends = np.rint(np.cumsum(durations_ms) / unit_ms).astype(int) * unit_ms
    return [int(duration) for duration in np.diff(ends, prepend=0)]


def _write_colour_space(file: Path, name: str, metadata: Metadata) -> None:
    """Write the colour space of a cICP chunk to an AVIF without an ICC profile, because Pillow always writes sRGB."""
    if name == "AVIF" and (chunk := metadata.colour_chunks.get(b"cICP")) and not metadata.icc:
        file.write_bytes(set_cicp(file.read_bytes(), chunk))


def _match_modes(images: list[Image.Image]) -> list[Image.Image]:
    """Convert frames to one mode with the colours and the transparency of all. Pillow would omit some of them."""
    bands = {band for image in images for band in image.getbands()}
    mode = ("RGB" if "R" in bands else "L") + ("A" if "A" in bands else "")
    return [image if image.mode == mode else image.convert(mode) for image in images]


def _make_image(stream: ImageStream, keeps_16_bits: bool = False) -> Image.Image:
    """Make a Pillow image with 8 bits per band; with `keeps_16_bits`, 16-bit grey stays 16-bit grey."""
    deep_grey = stream.dtype == np.uint16 and stream.bands == 1 and keeps_16_bits
    pixels = np.empty((stream.size[1], stream.size[0], stream.bands), "uint16" if deep_grey else "uint8")
    top = 0
    for strip in stream.strips:
        pixels[top : top + len(strip)] = strip if deep_grey else to_8_bits(strip)
        top += len(strip)
    return to_image(pixels)


def _make_pillow_options(name: str, metadata: Metadata, encoding: EncodeOptions) -> dict[str, Any]:
    """Return the arguments of Pillow's writer for a format."""
    options: dict[str, Any] = {}
    comment = metadata.texts.get("Comment")
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if metadata.dpi and name in ("JPEG", "PNG", "BMP"):
        options["dpi"] = metadata.dpi
    if metadata.exif is not None:
        options["exif"] = metadata.exif
    if metadata.xmp and name in ("JPEG", "WEBP", "AVIF"):
        options["xmp"] = metadata.xmp
    if name == "WEBP" and encoding.lossless and encoding.quality is None:
        options["lossless"] = True
        if encoding.low_memory:
            options["method"] = LOW_MEMORY_LOSSLESS_METHOD
    elif name in DEFAULT_QUALITY:
        options["quality"] = encoding.quality or DEFAULT_QUALITY[name]
        if name == "WEBP" and encoding.low_memory:
            options["method"] = LOW_MEMORY_METHOD
    if name == "JPEG":
        options["subsampling"] = "4:4:4"
        if metadata.iptc:
            resource = PHOTOSHOP_NAME + make_iptc_resource(metadata.iptc)
            options["extra"] = APP13 + (len(resource) + 2).to_bytes(2, "big") + resource
    if name == "AVIF":
        options["subsampling"] = encoding.avif_subsampling
    if comment and name == "JPEG":
        options["comment"] = comment
    if name == "PNG":
        level = encoding.compress_level
        strategy = select_strategy(level, PILLOW_STRATEGY)
        options |= {"compress_level": level, "compress_type": strategy, "pnginfo": make_chunks(metadata)}
    return options
