"""Reads metadata that Pillow skips, and lists the names of data that Loupe does not copy to results."""

import io
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from PIL import Image

MAX_BOX_BYTES = 2**24  # longer boxes are read up to this number of bytes
MAX_GIF_BYTES = 2**22  # a GIF is searched for a profile and an XMP packet only up to this position
CREDENTIALS = "content credentials"  # data of the standard C2PA
# Names of data by kind of box (JPEG 2000, JPEG XL, AVIF, HEIF); for a JPEG XL, `xml ` is read as XMP
BOXES = {b"xml ": "XML", b"jumb": CREDENTIALS, b"jhgm": "gain map", b"mpvd": "embedded video"}
# Names of data by kind of the box that is compressed in a `brob` box (JPEG XL)
COMPRESSED_BOXES = {b"Exif": "EXIF", b"xml ": "XMP", b"jumb": CREDENTIALS}
XMP_UUID = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
C2PA_UUID = bytes.fromhex("D8FEC3D61B0E483C92975828877EC481")
# Names of data by UUID of a box
UUIDS = {
    C2PA_UUID: CREDENTIALS,
    b"JpgTiffExif->JP2": "EXIF",
    bytes.fromhex("33C7A4D2B81D4723A0BAF1A3E097AD38"): "IPTC",
    bytes.fromhex("B14BF8BD083D4B43A5AE8CD7D5A6CE03"): "GeoTIFF",
}
# Boxes whose content is read
READ_BOXES = {
    b"jp2h", b"colr", b"xml ", b"uuid", b"brob",
    b"meta", b"pitm", b"iinf", b"infe", b"iref", b"thmb", b"auxl", b"dimg", b"iprp", b"ipco", b"auxC",
}  # fmt: skip
# Types of items that are images (HEIF). `tmap` applies a gain map to another image (ISO 21496-1).
IMAGE_ITEMS = {b"av01", b"hvc1", b"avc1", b"jpeg", b"grid", b"iovl", b"iden"}
# Names of auxiliary images by type; "" for alpha, which results contain
AUXILIARY_IMAGES = {
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha": "",
    b"urn:mpeg:hevc:2015:auxid:1": "",
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth": "depth map",
    b"urn:mpeg:hevc:2015:auxid:2": "depth map",
    b"urn:com:apple:photo:2020:aux:hdrgainmap": "gain map",
}
TIFF_TAGS = {37724: "Photoshop layers", 52545: CREDENTIALS}  # names of data by number of a TIFF tag
PHOTOSHOP_TAG, RESOURCES = 34377, "Photoshop resources"
# Photoshop resources that results contain in another form, or do not need: resolution, thumbnails, IPTC, profile,
# EXIF, XMP, and the checksum of IPTC.
KNOWN_RESOURCES = {0x03ED, 0x0409, 0x040C, 0x0404, 0x040F, 0x0422, 0x0423, 0x0424, 0x0425}
GIF_XMP, GIF_XMP_END, GIF_PROFILE = b"\x21\xff\x0bXMP DataXMP", b"\x01\xff\xfe", b"\x21\xff\x0bICCRGBG1012"


def read_skipped_metadata(image: Image.Image, path: Path) -> None:
    """Add metadata of a file to `image.info`, if the format is in READERS.

    The metadata are `attachments` (names of data that Loupe does not copy to results), and an XMP packet and a
    profile that Pillow skips.
    """
    if image.format in READERS:
        with path.open("rb") as file:
            image.info["attachments"] = [*dict.fromkeys(READERS[image.format](image, file))]


def list_attachments(image: Image.Image) -> list[str]:
    """Return the names of additional data in a file that Loupe does not copy to results."""
    names = [*image.info.get("attachments", ())]
    for marker, content in getattr(image, "applist", ()):
        if marker == "APP2" and content.startswith(b"urn:iso:std:iso:ts:21496"):
            names.append("gain map")
        elif marker == "APP2" and content.startswith(b"MPF\0"):
            names.append("further images")
        elif marker == "APP11" and content.startswith(b"JP"):
            names.append(CREDENTIALS)
    tags = getattr(image, "tag_v2", {})
    names += [name for tag, name in TIFF_TAGS.items() if tag in tags]
    content = tags.get(PHOTOSHOP_TAG)
    found = re.findall(rb"(?s)8BIM(..)", content) if isinstance(content, bytes) else []
    numbers = {int.from_bytes(number, "big") for number in found}
    if ({*image.info.get("photoshop", ())} | numbers) - KNOWN_RESOURCES:
        names.append(RESOURCES)
    return names


def _read_png(image: Image.Image, file: IO[bytes]) -> Iterator[str]:
    """Yield names for content credentials and repeated keywords. Pillow keeps only the last text of a keyword."""
    file.seek(8)  # after the signature
    keywords = set[bytes]()
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword = file.read(min(length, 80)).partition(b"\0")[0]
            if keyword in keywords:
                yield "earlier texts with a repeated keyword"
            keywords.add(keyword)
            file.seek(-min(length, 80), io.SEEK_CUR)
        elif kind == b"caBX":
            yield CREDENTIALS
        file.seek(length + 4, io.SEEK_CUR)  # the checksum has 4 bytes


def _read_webp(image: Image.Image, file: IO[bytes]) -> Iterator[str]:
    file.seek(12)  # after the header
    while len(head := file.read(8)) == 8:
        if head[:4] == b"C2PA":
            yield CREDENTIALS
        length = int.from_bytes(head[4:], "little")
        file.seek(length + length % 2, io.SEEK_CUR)


def _read_boxes(image: Image.Image, file: IO[bytes]) -> Iterator[str]:
    """Read the boxes of a JPEG 2000 (ISO/IEC 15444-1, annex I) or JPEG XL (ISO/IEC 18181-2).

    Add the profile and the XMP packet to `image.info`, and yield the names of other data.
    """
    for kind, content in _list_boxes(file):
        if kind == b"jp2h":
            for inner, colours in _list_boxes(io.BytesIO(content)):
                if inner == b"colr" and colours[:1] in (b"\2", b"\3"):  # the field METH: the box contains a profile
                    image.info["icc_profile"] = colours[3:]
        elif kind == b"xml " and image.format == "JXL":
            image.info["xmp"] = content
        elif kind == b"uuid" and content.startswith(XMP_UUID):
            image.info["xmp"] = content[16:]
        elif kind == b"uuid":
            yield UUIDS.get(content[:16], "a UUID box")
        elif kind == b"brob":  # compressed by Brotli, which Python cannot decompress
            name = COMPRESSED_BOXES.get(content[:4], "a compressed box")
            # If the file stores a compressed JPEG, Pillow's plugin has already read the metadata of this JPEG.
            if name.lower() not in image.info:
                yield name
        elif kind in BOXES:
            yield BOXES[kind]


def _list_boxes(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each box; the content is b"" if the kind is not in READ_BOXES."""
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big") - 8, head[4:]
        if length == -7:  # the stored length is 1: the real length follows, in 8 bytes
            length = int.from_bytes(file.read(8), "big") - 16
        elif length == -8:  # the stored length is 0: the box ends at the end of the file
            start = file.tell()
            length = file.seek(0, io.SEEK_END) - start
            file.seek(start)
        if length < 0:
            break
        end = file.tell() + length
        yield kind, file.read(min(length, MAX_BOX_BYTES)) if kind in READ_BOXES else b""
        file.seek(end)


def _read_heif(image: Image.Image, file: IO[bytes]) -> Iterator[str]:
    """Yield names for data of an AVIF or HEIF besides the primary image. Pillow does not list them for an AVIF."""
    for kind, content in _list_boxes(file):
        if kind == b"meta":
            yield from _list_other_images(content)
        elif kind == b"moov" and image.format == "HEIF":  # frames, which Loupe reads only from an AVIF
            yield "further images"
        elif kind == b"uuid":
            yield UUIDS.get(content[:16], "a UUID box")
        elif kind in BOXES:
            yield BOXES[kind]


def _list_other_images(meta: bytes) -> Iterator[str]:
    """Yield names for the images in a box `meta` that are not the primary image (ISO/IEC 23008-12)."""
    # Most of these boxes begin with a version (1 byte) and flags (3 bytes). Numbers have 2 or 4 bytes, by version.
    boxes = dict(_list_boxes(io.BytesIO(meta[4:])))
    primary, items, references = (boxes.get(kind, b"") for kind in (b"pitm", b"iinf", b"iref"))
    others = set()
    for _, item in _list_boxes(io.BytesIO(items[8 if items[:1] > b"\0" else 6 :])):
        end = 8 if item[:1] > b"\2" else 6
        kind = item[end + 2 : end + 6]
        if kind == b"tmap":
            yield "gain map"
        elif kind in IMAGE_ITEMS:
            others.add(int.from_bytes(item[4:end], "big"))
    others.discard(int.from_bytes(primary[4:], "big"))
    width = 4 if references[:1] > b"\0" else 2
    for kind, content in _list_boxes(io.BytesIO(references[4:])):
        positions = (0, *range(width + 2, len(content), width))
        source, *targets = (int.from_bytes(content[at : at + width], "big") for at in positions)
        if kind in (b"thmb", b"auxl"):
            others.discard(source)
        elif kind == b"dimg":  # the images from which another image is made, such as tiles
            others.difference_update(targets)
    properties = dict(_list_boxes(io.BytesIO(boxes.get(b"iprp", b"")))).get(b"ipco", b"")
    for kind, content in _list_boxes(io.BytesIO(properties)):
        if kind == b"auxC" and (name := AUXILIARY_IMAGES.get(content[4:].partition(b"\0")[0], "auxiliary image")):
            yield name
    if others:
        yield "further images"


def _read_gif(image: Image.Image, file: IO[bytes]) -> Iterator[str]:
    content = file.read(MAX_GIF_BYTES)
    if (start := content.find(GIF_XMP)) > 0:
        packet, end, _ = content[start + len(GIF_XMP) :].partition(GIF_XMP_END)
        if end:
            image.info["xmp"] = packet
        else:
            yield "XMP (damaged)"
    if (start := content.find(GIF_PROFILE)) > 0:
        start, profile = start + len(GIF_PROFILE), b""
        while length := int.from_bytes(content[start : start + 1], "big"):  # each block begins with its length
            profile += content[start + 1 : start + 1 + length]
            start += 1 + length
        image.info["icc_profile"] = profile


READERS: dict[str | None, Callable[[Image.Image, IO[bytes]], Iterator[str]]] = {
    "PNG": _read_png, "WEBP": _read_webp, "JPEG2000": _read_boxes, "JXL": _read_boxes, "GIF": _read_gif,
    "AVIF": _read_heif, "HEIF": _read_heif,
}  # fmt: skip
