"""Reads EXIF tags, and updates the tags that describe positions and sizes."""

import re
import struct
from contextlib import suppress
from typing import Any

from PIL import Image, TiffImagePlugin

from loupe.imaging.maker_note import EXIF_IFD, INLINE_BYTES, MAKER_NOTE, PlacedExif, find_note
from loupe.imaging.placement import Placement

# Numbers of tags. WIDTHS and HEIGHTS each contain a TIFF tag and an EXIF tag.
ORIENTATION, WIDTHS, HEIGHTS = 0x0112, (0x0100, 0xA002), (0x0101, 0xA003)
IMAGE_DESCRIPTION, GPS_IFD, INTEROPERABILITY_IFD = 0x010E, 0x8825, 0xA005
RELATED_WIDTH, RELATED_HEIGHT = 0x1001, 0x1002
SUBJECTS = 0x9214, 0xA214  # SubjectArea and SubjectLocation
RESOLUTIONS = 0x011A, 0x011B  # horizontal and vertical
FOCAL_PLANE_RESOLUTIONS = 0xA20E, 0xA20F  # horizontal and vertical
PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS = 33550, 33922, 34264, 34735  # OGC GeoTIFF 1.1
RATIONAL_POLYNOMIAL = 50844
RASTER_TYPE, PIXEL_IS_POINT = 1025, 2  # a key in GEO_KEYS, and a value of this key
GEO_PARAMETERS = 34736, 34737  # numbers and texts to which GEO_KEYS refers
GEO_TAGS = frozenset((PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS, *GEO_PARAMETERS, RATIONAL_POLYNOMIAL))
# TIFF tags that are not copied: the structure of the file (TIFF 6.0), fields of `Metadata`, and Photoshop layers
STRUCTURE_TAGS = frozenset(
    {*range(254, 260), *range(262, 267), 273, *range(277, 285), *range(290, 294), 296, 297, 301, *range(317, 326),
     330, *range(332, 348), *range(512, 533), 700, 33723, 34377, 34675, 37724}
)  # fmt: skip
# Tags that point to data that is not copied: strips, tiles, directories and a thumbnail
POINTER_TAGS = frozenset({273, 279, 288, 289, 324, 325, 330, 513, 514})
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes per value, by type
ENTRY_BYTES = 12  # an entry of a directory: tag, type, number of values, value or position
MAX_EXIF_BYTES = 4_000_000  # parsing EXIF takes up to 18 times its size in memory
NUMBER_BYTES = 8  # maximum bytes of a number
MAX_DIRECTORIES = 3  # the first directory, EXIF and GPS
MAKER_NOTE_NAME = "the camera's maker note"
# Start of an image description that contains the size of the image: OME-XML, ImageJ and tifffile
SIZE_DESCRIPTION = re.compile(r'<\?xml[^>]*>\s*(<!--.*?-->\s*)?<OME|<OME|ImageJ=|\{"shape"', re.DOTALL)


class RawText(str):
    """Text of a tag, one character per byte, as Pillow reads it. Pillow would write non-ASCII characters as `?`."""

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        """Return the original bytes."""
        return super().encode("latin-1")


def load_exif(content: bytes) -> PlacedExif:
    """Parse EXIF bytes. Non-ASCII texts become `RawText`, so that they are saved unchanged."""
    exif = PlacedExif()
    exif.load(content)
    directories = _get_directories(exif)
    exif.note_position = find_note(content, _get_note(exif))
    if EXIF_IFD in exif and INTEROPERABILITY_IFD in (nested := exif.get_ifd(EXIF_IFD)):
        # Read the interoperability directory from a copy. If Pillow read it from `exif`, Pillow would also write it
        # to the first directory.
        copy = Image.Exif()
        copy.load(content)
        nested[INTEROPERABILITY_IFD] = copy.get_ifd(INTEROPERABILITY_IFD)
        exif.pop(INTEROPERABILITY_IFD, None)
    for tags in directories:
        _use_raw_text(tags)
    return exif


def disable_truncated_tags(content: bytes) -> tuple[bytes, list[str]]:
    """Disable truncated tags in EXIF bytes; return the changed bytes, and the names of the disabled tags.

    Pillow would ignore all tags after a truncated tag.
    """
    changed, names = bytearray(content), list[str]()
    start = 6 if content.startswith(b"Exif\0\0") else 0
    order = "<" if content[start : start + 2] == b"II" else ">"
    with suppress(struct.error):
        directories = [struct.unpack_from(f"{order}I", content, start + 4)[0]]
        for directory in directories:
            (tag_count,) = struct.unpack_from(f"{order}H", content, start + directory)
            for entry in range(start + directory + 2, start + directory + 2 + ENTRY_BYTES * tag_count, ENTRY_BYTES):
                tag, tag_type, value_count, position = struct.unpack_from(f"{order}HHII", content, entry)
                length = TYPE_BYTES.get(tag_type, 0) * value_count
                if tag in (EXIF_IFD, GPS_IFD) and len(directories) < MAX_DIRECTORIES:
                    directories.append(position)
                elif length > 4 and start + position + length > len(content):
                    changed[entry + 2 : entry + 4] = bytes(2)  # type 0, which Pillow skips
                    names.append(f"EXIF tag {tag:#06x}")
    return bytes(changed), names


def read_exif(image: Image.Image, exif: Image.Exif) -> tuple[Image.Exif | None, list[str]]:
    """Return a copy of the EXIF tags for a result, and the names of omitted tags. Changes `exif`.

    The orientation becomes 1 (upright). The copy and the names do not contain STRUCTURE_TAGS (for a TIFF) or
    POINTER_TAGS (for other formats). If all tags are of these kinds, the copy is None.
    """
    for tag in (STRUCTURE_TAGS if image.format == "TIFF" else POINTER_TAGS) & set(exif):
        del exif[tag]
    if not len(exif):
        return None, [*image.info.get("unreadable_tags", ())]
    if ORIENTATION in exif:
        exif[ORIENTATION] = 1
    exif.bigtiff = False  # the copy has offsets of 4 bytes, also for a BigTIFF
    omitted = [*image.info.get("unreadable_tags", ())]
    with suppress(Exception):  # damaged tags
        if SIZE_DESCRIPTION.match(exif.get(IMAGE_DESCRIPTION, "")):
            del exif[IMAGE_DESCRIPTION]
            omitted.append("image description (with the original size)")
    note = _get_note(exif)
    note_position = find_note(image.info.get("start") or image.info.get("exif") or b"", note)
    if len(note) > INLINE_BYTES and not note_position:
        del exif.get_ifd(EXIF_IFD)[MAKER_NOTE]
        omitted.append(MAKER_NOTE_NAME)
    try:
        omitted += _remove_long_tags(exif)
        for tags in _get_directories(exif):
            _use_raw_text(tags)
        content = exif.tobytes()
    except Exception:  # damaged tags
        omitted += _remove_unreadable(exif)
        content = exif.tobytes()
    loaded = load_exif(content)  # the copy does not need the open file
    loaded.note_position = note_position
    return loaded, omitted


def place_exif(exif: Image.Exif, placement: Placement) -> list[str]:
    """Update sizes and positions in place; return names of removed tags."""
    nested = exif.get_ifd(EXIF_IFD) if EXIF_IFD in exif else {}
    width, height = placement.result_size
    for tags in (exif, nested):
        for names, side in ((WIDTHS, width), (HEIGHTS, height)):
            for name in names:
                if name in tags:
                    tags[name] = side
    if placement.is_identity:
        return []
    if placement.is_rotated:
        values = [exif.pop(tag, None) for tag in RESOLUTIONS]
        for tag, value in zip(RESOLUTIONS, values[::-1], strict=True):
            if value is not None:
                exif[tag] = value
    omitted = []
    for tag in SUBJECTS:
        if tag in nested:
            try:
                nested[tag] = placement.place_subject(nested[tag])
            except (TypeError, ValueError):
                del nested[tag]
                omitted.append("subject area")
    try:
        resolutions = [nested.pop(tag, None) for tag in FOCAL_PLANE_RESOLUTIONS]
        ordered = resolutions[::-1] if placement.is_rotated else resolutions
        for tag, value, scale in zip(FOCAL_PLANE_RESOLUTIONS, ordered, placement.scales, strict=True):
            if value is not None:
                nested[tag] = TiffImagePlugin.IFDRational(float(value) * scale)
    except (TypeError, ValueError, ArithmeticError):
        omitted.append("focal-plane resolution")
        for tag in FOCAL_PLANE_RESOLUTIONS:
            nested.pop(tag, None)
    if isinstance(related := nested.get(INTEROPERABILITY_IFD), dict):
        related |= {tag: side for tag, side in ((RELATED_WIDTH, width), (RELATED_HEIGHT, height)) if tag in related}
    if GEO_TAGS & set(exif):
        omitted += _place_geo_tags(exif, placement)
    return omitted


def _get_note(exif: Image.Exif) -> bytes:
    with suppress(Exception):  # damaged tags
        note = exif.get_ifd(EXIF_IFD).get(MAKER_NOTE) if EXIF_IFD in exif else b""
        return note if isinstance(note, bytes) else b""
    return b""


def _get_directories(exif: Image.Exif) -> list[Any]:
    return [exif, *(exif.get_ifd(tag) for tag in (EXIF_IFD, GPS_IFD) if tag in exif)]


def _use_raw_text(tags: Any) -> None:
    for tag, value in list(tags.items()):
        if isinstance(value, str) and not value.isascii():
            tags[tag] = RawText(value)


def _remove_long_tags(exif: Image.Exif) -> list[str]:
    """Remove the longest tags until the others take at most MAX_EXIF_BYTES; return the names of removed tags."""
    lengths = [
        (len(value) * (1 if isinstance(value, (bytes, str)) else NUMBER_BYTES) + ENTRY_BYTES, tag, tags)
        for tags in _get_directories(exif)
        for tag, value in tags.items()
        if isinstance(value, (bytes, str, tuple))
    ]
    removed, total = [], sum(length for length, _, _ in lengths)
    for length, tag, tags in sorted(lengths, key=lambda entry: entry[0], reverse=True):
        if total <= MAX_EXIF_BYTES:
            break
        del tags[tag]
        removed.append(f"EXIF tag {tag:#06x} (too long)")
        total -= length
    return removed


def _remove_unreadable(exif: Image.Exif) -> list[str]:
    """Convert or remove tags that Pillow cannot write; return the names of removed tags."""
    removed = []
    directories = {tag: exif.get_ifd(tag) for tag in (EXIF_IFD, GPS_IFD) if tag in exif}
    for group, tags in ((None, exif), *directories.items()):
        for tag in list(tags):
            try:
                value = tags[tag]
                if tag in (EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD):
                    if not exif.get_ifd(tag):
                        raise ValueError("an empty directory")
                    continue
                _validate_tag(group, tag, RawText(value) if isinstance(value, str) else value)
            except Exception:
                try:  # some programs write a number as text
                    number = float(value.strip("\0 "))
                    _validate_tag(group, tag, number)
                    tags[tag] = number
                except Exception:
                    del tags[tag]
                    removed.append(f"EXIF tag {tag:#06x}")
    return removed


def _validate_tag(group: int | None, tag: int, value: Any) -> None:
    """Raise an exception if Pillow cannot write a tag of the directory `group` (None: the first directory)."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(group=group)
    directory[tag] = value
    directory.tobytes()


def _place_geo_tags(exif: Image.Exif, placement: Placement) -> list[str]:
    """Update the tags that map pixels to coordinates (GeoTIFF 1.1, annex B); return the names of removed tags.

    If the image was rotated or flipped, or the tags are damaged, remove all GEO_TAGS. Always remove
    RATIONAL_POLYNOMIAL.
    """
    try:
        if placement.orientation != 1:
            raise ValueError("GeoTIFF tags apply to the pixels before the rotation")
        (scale_x, scale_y), (left, top) = placement.scales, placement.margins
        keys = tuple(exif.get(GEO_KEYS, ()))
        # GEO_KEYS contains four numbers, then four numbers per key: the first is the key, the last is its value.
        entries = dict(zip(keys[4::4], keys[7::4], strict=False))
        # RASTER_TYPE defines whether the coordinates of a pixel are those of its centre or those of its corner.
        centre = 0.5 if entries.get(RASTER_TYPE) == PIXEL_IS_POINT else 0.0
        shifts = centre * scale_x - centre - left, centre * scale_y - centre - top
        if PIXEL_SCALE in exif:
            x, y, *z = map(float, exif[PIXEL_SCALE])  # Pillow cannot write a tag with integers and floats
            exif[PIXEL_SCALE] = x / scale_x, y / scale_y, *z
        if TIE_POINTS in exif:  # six numbers per point; the first two are the position in pixels
            points = [float(value) for value in exif[TIE_POINTS]]
            points[::6] = [value * scale_x + shifts[0] for value in points[::6]]
            points[1::6] = [value * scale_y + shifts[1] for value in points[1::6]]
            exif[TIE_POINTS] = tuple(points)
        if TRANSFORMATION in exif:  # a 4x4 matrix
            matrix = [float(value) for value in exif[TRANSFORMATION]]
            for row in range(0, 16, 4):
                matrix[row] /= scale_x
                matrix[row + 1] /= scale_y
                matrix[row + 3] -= matrix[row] * shifts[0] + matrix[row + 1] * shifts[1]
            exif[TRANSFORMATION] = tuple(matrix)
    except (TypeError, ValueError, IndexError):
        for tag in GEO_TAGS & set(exif):
            del exif[tag]
        return ["GeoTIFF"]
    if RATIONAL_POLYNOMIAL in exif:
        del exif[RATIONAL_POLYNOMIAL]
        return ["GeoTIFF rational polynomial"]
    return []
