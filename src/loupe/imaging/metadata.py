"""What goes with the pixels of an image file: EXIF, XMP, comments, and what tells colours beside a profile."""

import re
import struct
from typing import Any

from PIL import Image

ORIENTATION, WIDTHS, HEIGHTS = 0x0112, (0x0100, 0xA002), (0x0101, 0xA003)
EXIF_IFD, GPS_IFD, MAKER_NOTE = 0x8769, 0x8825, 0x927C
# Tags of a TIFF page that tell how its pixels lie in the file (TIFF 6.0), that are kept under other names, or that
# hold the layers of Photoshop at their old size.
STRUCTURE = frozenset(
    {*range(254, 260), *range(262, 267), 273, *range(277, 285), *range(290, 294), 296, 297, 301, *range(317, 326),
     330, *range(332, 348), *range(512, 533), 700, 34377, 34675, 37724}
)  # fmt: skip


class AsRead(str):
    """Text of an EXIF tag or a TIFF's, a character for each of its bytes, that is written as those bytes.

    Pillow reads such text as Latin-1 and writes ASCII alone; cameras and editors write UTF-8 and more.
    """

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        """The bytes that were read, whatever is asked for."""
        return super().encode("latin-1")


def _as_read(exif: Image.Exif) -> None:
    nested = [exif.get_ifd(tag) for tag in (EXIF_IFD, GPS_IFD) if tag in exif]
    for tags in (exif, *nested):
        for tag, value in list(tags.items()):
            if isinstance(value, str) and not value.isascii():
                tags[tag] = AsRead(value)


def exif_of(image: Image.Image, exif: Image.Exif) -> Image.Exif | None:
    """The descriptive tags, with a normal orientation and without the open file; None where there are none."""
    if image.format == "TIFF":
        for tag in STRUCTURE & set(exif):
            del exif[tag]
    if not len(exif):
        return None
    if ORIENTATION in exif:
        exif[ORIENTATION] = 1
    try:
        _as_read(exif)
        kept = Image.Exif()  # that does not need the open file any more
        kept.load(exif.tobytes())
        _as_read(kept)
    except Exception:  # tags that nobody can read
        return None
    return kept


def xmp_of(info: dict[Any, Any]) -> bytes:
    """The XMP packet, with a normal orientation; b"" where there is none."""
    found = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    packet = (found.encode() if isinstance(found, str) else bytes(found)).strip(b"\0")
    return re.sub(rb"(tiff:Orientation(?:=[\"']|>))\d", rb"\g<1>1", packet)


def resized(exif: Image.Exif | None, xmp: bytes, width: int, height: int) -> bytes:
    """Set width and height in tags, and give the XMP packet with them in its properties; only where they are told."""
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
    return xmp


def colour_chunks(info: dict[Any, Any]) -> dict[bytes, bytes]:
    """gAMA, cHRM and sRGB (ISO/IEC 15948) as they stood in the file."""
    chunks = {}
    if "gamma" in info:
        chunks[b"gAMA"] = struct.pack(">I", round(info["gamma"] * 1e5))
    if "chromaticity" in info:
        chunks[b"cHRM"] = struct.pack(">8I", *(round(value * 1e5) for value in info["chromaticity"]))
    if "srgb" in info:
        chunks[b"sRGB"] = bytes([info["srgb"]])
    return chunks


def texts_of(image: Image.Image) -> dict[str, str]:
    """Comments by keyword."""
    texts = {name: str(text) for name, text in getattr(image, "text", {}).items() if "xmp" not in name}
    comment = image.info.get("comment")
    if comment:
        texts["Comment"] = _text(comment) if isinstance(comment, bytes) else str(comment)
    return texts


def _text(comment: bytes) -> str:
    try:
        return comment.decode()
    except UnicodeDecodeError:  # no format tells the encoding
        return comment.decode("latin-1")
