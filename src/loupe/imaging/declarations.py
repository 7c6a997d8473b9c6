"""Reads the colour space that an image file declares without a profile, and the profile of a BMP."""

import io
import math
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, TiffImagePlugin

from loupe.imaging.avif import read_cicp, read_head
from loupe.imaging.profiles import ADOBE_GAMMA, ADOBE_RGB, SRGB, make_profile

# Numbers of EXIF tags, and the value of INTEROPERABILITY_INDEX for Adobe RGB
EXIF_IFD, INTEROPERABILITY_IFD, INTEROPERABILITY_INDEX, COLOUR_SPACE = 0x8769, 0xA005, 1, 0xA001
ADOBE_INDEX = "R03"
TRANSFER_FUNCTION, WHITE_POINT, PRIMARY_CHROMATICITIES = 301, 318, 319  # numbers of TIFF tags
CHUNK_UNIT = 1e5  # the PNG chunks gAMA and cHRM store numbers multiplied by this factor
BMP_HEADER_START, BMP_V4_BYTES, BMP_V5_BYTES = 14, 108, 124  # position of the header; sizes of its versions 4 and 5
BMP_SPACE = slice(70, 74)  # the field with the kind of colour space
CALIBRATED = bytes(4)  # the value of this field if the header contains primaries and gamma
MAX_PROFILE_BYTES = 2**24
TAG_ERRORS = (ArithmeticError, TypeError, ValueError, struct.error)  # caused by damaged TIFF tags
HDR_CHUNKS = frozenset((b"mDCV", b"cLLI"))  # PNG chunks: mastering display and brightness of an HDR image
CHUNK_BYTES = {b"cICP": 4, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"mDCV": 24, b"cLLI": 8}  # lengths of PNG chunks


def read_colour_chunks(image: Image.Image, path: Path) -> dict[bytes, bytes]:
    """Return the colour space that a PNG, AVIF, HEIF, BMP or TIFF declares, as PNG chunks (PNG, third edition).

    The result contains the contents by chunk type. It is empty if the file has another format, declares no colour
    space, or is an AVIF or HEIF with a profile. For a PNG, it also contains the HDR_CHUNKS of the file.
    """
    chunks: dict[bytes, bytes] = {}
    if image.format == "PNG":
        chunks = _read_png_chunks(path)
    elif image.format in ("AVIF", "HEIF") and "icc_profile" not in image.info:
        codes = read_cicp(read_head(path))
        chunks = {b"cICP": codes} if codes else {}
    elif image.format == "BMP":
        chunks = _read_bmp_header(path)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        chunks = _read_tiff_tags(image.tag_v2)
    return chunks


def read_exif_profile(exif: Image.Exif) -> bytes:
    """Return the Adobe RGB profile if the EXIF tags declare it (DCF 2.0); otherwise b""."""
    with suppress(Exception):  # damaged tags
        if EXIF_IFD not in exif:  # for a missing directory, get_ifd would add an empty directory
            return b""
        tags = exif.get_ifd(EXIF_IFD)
        # Some cameras write the colour space 2 for Adobe RGB. The colour space 1 is sRGB.
        if tags.get(COLOUR_SPACE) == 2 or (
            tags.get(COLOUR_SPACE) != 1
            and exif.get_ifd(INTEROPERABILITY_IFD).get(INTEROPERABILITY_INDEX, "").strip("\0 ") == ADOBE_INDEX
        ):
            return make_profile(ADOBE_RGB, ADOBE_GAMMA)
    return b""


def read_bmp_profile(path: Path) -> bytes | None:
    """Return a BMP's profile, which Pillow skips; b"" if the profile is in another file, None without a profile."""
    with path.open("rb") as file:
        head = file.read(BMP_HEADER_START + BMP_V5_BYTES)
        if len(head) < BMP_HEADER_START + BMP_V5_BYTES or head[BMP_HEADER_START] < BMP_V5_BYTES:
            return None
        kind = head[BMP_SPACE]
        offset, length = struct.unpack_from("<II", head, 126)
        file.seek(BMP_HEADER_START + offset)
        profile = file.read(min(length, MAX_PROFILE_BYTES))
    return {b"DEBM": profile, b"KNIL": b""}.get(kind)  # PROFILE_EMBEDDED and PROFILE_LINKED, in reverse byte order


def _read_png_chunks(path: Path) -> dict[bytes, bytes]:
    # Do not use Pillow's `info`: there, a text with the keyword `gamma` replaces the value of gAMA.
    chunks = {}
    with path.open("rb") as file:
        file.seek(8)  # after the signature
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            length = int.from_bytes(head[:4], "big")
            if length == CHUNK_BYTES.get(head[4:]):
                chunks[head[4:]] = file.read(length)
                length = 0
            file.seek(length + 4, io.SEEK_CUR)  # the checksum has 4 bytes
    return chunks


def _read_bmp_header(path: Path) -> dict[bytes, bytes]:
    """Read the colorimetry of a BMP (BITMAPV4HEADER) as gAMA and cHRM chunks; the white of cHRM is D65."""
    with path.open("rb") as file:
        head = file.read(BMP_HEADER_START + BMP_V4_BYTES)
    if len(head) < BMP_HEADER_START + BMP_V4_BYTES or head[BMP_HEADER_START] < BMP_V4_BYTES:
        return {}
    # `endpoints` contains X, Y and Z of red, green and blue.
    *endpoints, _, green_gamma, _ = struct.unpack_from("<9i3I", head, 74)
    if head[BMP_SPACE] != CALIBRATED or not any(endpoints):
        return {}
    chunks = {}
    if green_gamma:  # programs write 2.2 or 1 / 2.2, multiplied by 2**16
        gamma = green_gamma / 2**16
        chunks[b"gAMA"] = struct.pack(">I", round(CHUNK_UNIT * min(gamma, 1 / gamma)))
    with suppress(ArithmeticError, struct.error):
        values = [
            value / sum(endpoints[start : start + 3]) for start in (0, 3, 6) for value in endpoints[start : start + 2]
        ]
        chunks[b"cHRM"] = struct.pack(">8I", *(round(CHUNK_UNIT * value) for value in (*SRGB[:2], *values)))
    return chunks


def _read_tiff_tags(tags: Any) -> dict[bytes, bytes]:
    """Read the tags for colorimetry (TIFF 6.0, section 20) as gAMA and cHRM chunks; damaged tags are ignored."""
    chunks = {}
    with suppress(*TAG_ERRORS):
        if PRIMARY_CHROMATICITIES in tags:
            white, primaries = tags.get(WHITE_POINT, (0.3127, 0.329)), tags[PRIMARY_CHROMATICITIES]
            values = [round(float(value) * CHUNK_UNIT) for value in (*white, *primaries)]
            chunks[b"cHRM"] = struct.pack(">8I", *values)
    with suppress(*TAG_ERRORS):
        if table := tags.get(TRANSFER_FUNCTION):  # one table, or one per band
            levels = len(table) // 3 if len(table) in (3 * 2**8, 3 * 2**16) else len(table)
            middle = levels // 2
            exponent = math.log(table[middle] / 65535) / math.log(middle / (levels - 1))
            chunks[b"gAMA"] = struct.pack(">I", round(CHUNK_UNIT / exponent))
    return chunks
