"""Reads the metadata of an image: EXIF, XMP, colour information and comments."""

import re
import struct
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

ORIENTATION, WIDTHS, HEIGHTS = 0x0112, (0x0100, 0xA002), (0x0101, 0xA003)
EXIF_IFD, GPS_IFD, MAKER_NOTE = 0x8769, 0x8825, 0x927C
# TIFF tags that are not copied, for one of these reasons: the tag describes how the pixels are stored (TIFF 6.0),
# `Metadata` has a field for the tag, or the tag contains Photoshop layers with the size of the original.
STRUCTURE = frozenset(
    {*range(254, 260), *range(262, 267), 273, *range(277, 285), *range(290, 294), 296, 297, 301, *range(317, 326),
     330, *range(332, 348), *range(512, 533), 700, 34377, 34675, 37724}
)  # fmt: skip


@dataclass(frozen=True)
class Metadata:
    """Metadata of one image of a file.

    Args:
        exif: the EXIF tags, with the orientation 1 (upright); None without tags.
        icc: the colour profile; b"" without a profile.
        xmp: the XMP packet; b"" without a packet.
        dpi: horizontal and vertical pixels per inch; None if unknown.
        texts: comments by keyword.
        colour_chunks: PNG chunks that define the colours of an image without a profile, by chunk type.
        duration_ms: display time of a frame of an animation.
    """

    exif: Image.Exif | None = None
    icc: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    colour_chunks: dict[bytes, bytes] = field(default_factory=dict)
    duration_ms: float = 0


class RawText(str):
    """Text of a tag, with one character per byte. Saving the image writes these bytes unchanged.

    Pillow decodes texts as Latin-1, but encodes only ASCII. Cameras and editors also write UTF-8.
    """

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        """Return the original bytes, whatever encoding is requested."""
        return super().encode("latin-1")


def read_metadata(image: Image.Image, exif: Image.Exif, icc: bytes) -> Metadata:
    """Collect the metadata of an opened image.

    Args:
        image: the opened image, positioned at a frame or page.
        exif: the tags of the image; changed in place.
        icc: the profile of the decoded pixels, which can differ from the profile of the file.
    """
    dpi = image.info.get("dpi")
    return Metadata(
        exif=_read_exif(image, exif),
        icc=icc,
        xmp=_read_xmp(image.info),
        dpi=(float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None,
        texts=_read_texts(image),
        colour_chunks={} if icc else read_colour_chunks(image.info),
        duration_ms=read_duration(image.info),
    )


def update_size(metadata: Metadata, width: int, height: int) -> Metadata:
    """Update the width and height in the EXIF tags and XMP properties; `metadata.exif` is changed in place."""
    exif, xmp = metadata.exif, metadata.xmp
    if exif is not None:
        for tags in (exif, exif.get_ifd(EXIF_IFD) if EXIF_IFD in exif else {}):
            for names, side in ((WIDTHS, width), (HEIGHTS, height)):
                for name in names:
                    if name in tags:
                        tags[name] = side
    for properties, side in (
        (rb"exif:PixelXDimension|tiff:ImageWidth", width), (rb"exif:PixelYDimension|tiff:ImageLength", height)
    ):  # fmt: skip
        xmp = re.sub(rb"((?:%s)(?:=[\"']|>))\d+" % properties, rb"\g<1>%d" % side, xmp)
    return replace(metadata, xmp=xmp)


def load_exif(content: bytes) -> Image.Exif:
    """Parse EXIF bytes. Non-ASCII texts become `RawText`, so that saving the image writes the original bytes."""
    exif = Image.Exif()
    exif.load(content)
    _use_raw_text(exif)
    return exif


def read_colour_chunks(info: dict[Any, Any]) -> dict[bytes, bytes]:
    """Return the chunks gAMA, cHRM and sRGB (ISO/IEC 15948) of Pillow's `info`, encoded as in the file."""
    chunks = {}
    if "gamma" in info:
        chunks[b"gAMA"] = struct.pack(">I", round(info["gamma"] * 1e5))
    if "chromaticity" in info:
        chunks[b"cHRM"] = struct.pack(">8I", *(round(value * 1e5) for value in info["chromaticity"]))
    if "srgb" in info:
        chunks[b"sRGB"] = bytes([info["srgb"]])
    return chunks


def read_duration(info: dict[Any, Any]) -> float:
    """Return the display time of a frame in milliseconds; 0 for an image without a display time."""
    return float(info.get("duration") or 0)


def _read_exif(image: Image.Image, exif: Image.Exif) -> Image.Exif | None:
    if image.format == "TIFF":
        for tag in STRUCTURE & set(exif):
            del exif[tag]
    if not len(exif):
        return None
    if ORIENTATION in exif:
        exif[ORIENTATION] = 1
    exif.bigtiff = False  # EXIF has offsets of 4 bytes in all other formats
    try:
        _use_raw_text(exif)
        return load_exif(exif.tobytes())  # the copy does not need the open file
    except Exception:  # damaged tags
        return None


def _use_raw_text(exif: Image.Exif) -> None:
    nested = [exif.get_ifd(tag) for tag in (EXIF_IFD, GPS_IFD) if tag in exif]
    for tags in (exif, *nested):
        for tag, value in list(tags.items()):
            if isinstance(value, str) and not value.isascii():
                tags[tag] = RawText(value)


def _read_xmp(info: dict[Any, Any]) -> bytes:
    """Return the XMP packet with the orientation 1 (upright)."""
    content = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    packet = (content.encode() if isinstance(content, str) else bytes(content)).strip(b"\0")
    return re.sub(rb"(tiff:Orientation(?:=[\"']|>))\d", rb"\g<1>1", packet)


def _read_texts(image: Image.Image) -> dict[str, str]:
    texts = {name: str(text) for name, text in getattr(image, "text", {}).items() if "xmp" not in name}
    comment = image.info.get("comment")
    if comment:
        texts["Comment"] = _decode_comment(comment) if isinstance(comment, bytes) else str(comment)
    return texts


def _decode_comment(comment: bytes) -> str:
    try:
        return comment.decode()
    except UnicodeDecodeError:  # the encoding is unknown, because image files do not store the encoding of comments
        return comment.decode("latin-1")
