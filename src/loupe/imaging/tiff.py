"""Writes a TIFF (TIFF 6.0, or BigTIFF for large images), compressed by deflate, while its rows are computed.

Pillow's writer needs all pixels in memory and has no 16-bit colour. libvips does not write EXIF, and tifffile cannot
write directories for EXIF and GPS.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import IO, NamedTuple

import numpy as np
from PIL import TiffImagePlugin

from loupe.imaging.conversion import to_8_bits
from loupe.imaging.exif import GPS_IFD, STRUCTURE_TAGS, RawText
from loupe.imaging.formats import has_alpha
from loupe.imaging.image_data import ImageStream
from loupe.imaging.maker_note import EXIF_IFD, MAKER_NOTE, PlacedExif, link_note
from loupe.imaging.metadata import IPTC_TAG, Metadata
from loupe.imaging.threads import run_in_order

MAX_PIXEL_BYTES = 2**32 - 2**24  # 4 GiB minus 16 MiB for metadata
STRIP_BYTES = 2**20
# Numbers of tags
WIDTH, HEIGHT, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, IMAGE_DESCRIPTION = 256, 257, 258, 259, 262, 270
STRIP_OFFSETS, SAMPLES_PER_PIXEL, ROWS_PER_STRIP, STRIP_BYTE_COUNTS = 273, 277, 278, 279
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, PREDICTOR, EXTRA_SAMPLES = 282, 283, 296, 317, 338
XMP, ICC_PROFILE = 700, 34675
GREY, RGB = 1, 2  # values of PHOTOMETRIC
INCHES, STRAIGHT_ALPHA = 2, 2  # values of RESOLUTION_UNIT and EXTRA_SAMPLES
DEFLATE, HORIZONTAL_PREDICTOR = 8, 2  # values of COMPRESSION and PREDICTOR
BYTE, LONG, UNDEFINED, LONG8 = 1, 4, 7, 16  # types of tags


class Layout(NamedTuple):
    """How a file stores directories (lists of tags), with positions and sizes in bytes.

    Args:
        header: the header of the file; the offset of the first directory is still 0.
        link: the position of the offset of the first directory.
        count_bytes: the size of the field with the number of tags.
        entry_bytes: the size of a tag.
        value_start: the position of the value, or of its offset, within a tag.
        offset_type: the tag type of offsets.
        offset_format: the format of offsets for `struct`.
    """

    header: bytes
    link: int
    count_bytes: int
    entry_bytes: int
    value_start: int
    offset_type: int
    offset_format: str


TIFF = Layout(
    b"II*\0" + bytes(4), 4, count_bytes=2, entry_bytes=12, value_start=8, offset_type=LONG, offset_format="L"
)
BIG_TIFF = Layout(
    b"II+\0\x08" + bytes(11), 8, count_bytes=8, entry_bytes=20, value_start=12, offset_type=LONG8, offset_format="Q"
)


def write_tiff(file: IO[bytes], pages: Iterable[ImageStream], count: int, total_bytes: int = 0) -> None:
    """Write the header and the maker note of the first page (see `PlacedExif`), then each page: strips and directory.

    Args:
        file: the file to write.
        pages: the pages, uint8 or uint16.
        count: the number of pages.
        total_bytes: the maximum bytes of the pixels of all pages; 0 if all pages have the size of the first page. If
            the pixels can have more than MAX_PIXEL_BYTES, the file is a BigTIFF.
    """
    layout, link = TIFF, 0  # `link`: position of the offset of the next directory
    for page in pages:
        row_bytes = page.size[0] * page.bands * page.dtype.itemsize
        note, note_position = b"", 0
        if not link:
            total_bytes = total_bytes or row_bytes * page.size[1] * count
            layout = BIG_TIFF if total_bytes > MAX_PIXEL_BYTES else TIFF
            link = layout.link
            file.write(layout.header)
            exif = page.metadata.exif
            if isinstance(exif, PlacedExif) and exif.note and exif.note_position >= len(layout.header):
                note, note_position = exif.note, exif.note_position
                file.write(bytes(note_position - len(layout.header)) + note)
        strip_rows = min(page.size[1], max(1, STRIP_BYTES // row_bytes))
        offsets, lengths = [], []
        strips = _regroup(page.strips, strip_rows)
        for deflated in run_in_order(partial(_compress, strip, page.dtype.itemsize) for strip in strips):
            offsets.append(file.tell())
            lengths.append(file.write(deflated))
        file.write(bytes(file.tell() % 2))  # directories start at even offsets
        position = file.tell()
        tags = _make_page_tags(page, strip_rows, lengths, layout)
        if note:
            tags[EXIF_IFD][MAKER_NOTE] = b""
        directory = link_note(tags.tobytes(position), note, note_position, f"<HH{2 * layout.offset_format}")
        file.write(_set_offsets(directory, position, offsets, layout))
        file.seek(link)
        file.write(struct.pack(f"<{layout.offset_format}", position))
        link = position + layout.count_bytes + layout.entry_bytes * len(tags)
        file.seek(0, os.SEEK_END)


def _make_page_tags(
    page: ImageStream, strip_rows: int, lengths: list[int], layout: Layout
) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Make the tags of a page. The offsets of the strips are 0; `_set_offsets` sets them later."""
    tags = _make_metadata_tags(page.metadata, layout)
    tags[WIDTH], tags[HEIGHT] = page.size
    tags[BITS_PER_SAMPLE] = (8 * page.dtype.itemsize,) * page.bands
    tags[COMPRESSION], tags[PREDICTOR] = DEFLATE, HORIZONTAL_PREDICTOR
    tags[PHOTOMETRIC], tags[SAMPLES_PER_PIXEL] = RGB if page.bands > 2 else GREY, page.bands
    tags[ROWS_PER_STRIP] = strip_rows
    if has_alpha(page.bands):
        tags[EXTRA_SAMPLES] = STRAIGHT_ALPHA
    if page.metadata.dpi:
        tags[X_RESOLUTION], tags[Y_RESOLUTION], tags[RESOLUTION_UNIT] = *page.metadata.dpi, INCHES
    if page.metadata.icc:
        tags[ICC_PROFILE] = page.metadata.icc
        tags.tagtype[ICC_PROFILE] = UNDEFINED
    tags[STRIP_OFFSETS], tags[STRIP_BYTE_COUNTS] = (0,) * len(lengths), tuple(lengths)
    tags.tagtype[STRIP_OFFSETS] = layout.offset_type
    return tags


def _regroup(strips: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """Regroup rows into strips of `rows` rows; the last strip can have fewer rows."""
    rest: np.ndarray | None = None
    for strip in strips:
        rest = strip if rest is None or not len(rest) else np.concatenate([rest, strip])
        while len(rest) >= rows:
            yield rest[:rows]
            rest = rest[rows:]
    if rest is not None and len(rest):
        yield rest


def _compress(strip: np.ndarray, sample_bytes: int) -> bytes:
    """Compress differences of horizontal neighbours by deflate. Z_RLE is 8 times as fast as zlib's level 6."""
    pixels = strip.astype("<u2") if sample_bytes == 2 else to_8_bits(strip)
    differences = np.concatenate([pixels[:, :1], pixels[:, 1:] - pixels[:, :-1]], axis=1)
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return deflate.compress(differences.data) + deflate.flush()


def _set_offsets(directory: bytes, position: int, offsets: list[int], layout: Layout) -> bytes:
    """Set the offsets of the strips in a directory, which begins at `position` in the file; return its bytes.

    Pillow adds the end of the directory to the offsets, as if the strips followed it. They are replaced here.
    """
    entry = layout.count_bytes
    while directory[entry : entry + 2] != struct.pack("<H", STRIP_OFFSETS):
        entry += layout.entry_bytes
    start = entry + layout.value_start
    # Several offsets do not fit into the tag. Instead, the tag contains the position of their list.
    if len(offsets) > 1:
        start = struct.unpack_from(f"<{layout.offset_format}", directory, start)[0] - position
    encoded = struct.pack(f"<{len(offsets)}{layout.offset_format}", *offsets)
    return directory[:start] + encoded + directory[start + len(encoded) :]


def _make_metadata_tags(metadata: Metadata, layout: Layout) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Make the tags for all metadata except resolution and profile."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(layout.header)
    if metadata.exif is not None:
        for tag, value in metadata.exif.items():
            if tag not in {EXIF_IFD, GPS_IFD, *STRUCTURE_TAGS}:
                tags[tag] = value
        for tag in (EXIF_IFD, GPS_IFD):
            if tag in metadata.exif:
                tags[tag] = dict(metadata.exif.get_ifd(tag))
    if metadata.xmp:
        tags[XMP] = metadata.xmp
        tags.tagtype[XMP] = BYTE
    if metadata.iptc:
        tags[IPTC_TAG] = metadata.iptc
        tags.tagtype[IPTC_TAG] = UNDEFINED
    if "Comment" in metadata.texts:
        tags[IMAGE_DESCRIPTION] = RawText(metadata.texts["Comment"].encode().decode("latin-1"))
    return tags
