"""Keeps the position of a camera's maker note in EXIF.

Many maker notes contain positions that count from the start of the TIFF header. If the maker note moved, these
positions would be wrong.
"""

import struct

from PIL import Image

EXIF_IFD, MAKER_NOTE = 0x8769, 0x927C  # numbers of EXIF tags
BYTE, UNDEFINED = 1, 7  # types of tags
PREFIX = b"Exif\0\0"  # precedes the TIFF header (byte order, position of the first directory)
HEADER_BYTES = 8
INLINE_BYTES = 4  # a tag itself contains a value of up to this size
MAX_POSITION = 2**16  # a JPEG has at most this number of bytes of EXIF


class PlacedExif(Image.Exif):
    """EXIF tags whose maker note keeps its position; the directories follow the maker note.

    Attributes:
        note_position: bytes from the start of the TIFF header to the maker note; 0 if the maker note may move.
    """

    note_position = 0

    @property
    def note(self) -> bytes:
        """The maker note; b"" if it is missing, may move, or has at most INLINE_BYTES."""
        note = self.get_ifd(EXIF_IFD).get(MAKER_NOTE, b"") if EXIF_IFD in self else b""
        return note if self.note_position and len(note) > INLINE_BYTES else b""

    def tobytes(self, offset: int = HEADER_BYTES) -> bytes:
        """Return the header, the maker note, and the directories; if `note` is empty, the result of Pillow."""
        note = self.note
        if not note:
            return super().tobytes(offset)
        nested, start = self.get_ifd(EXIF_IFD), self.note_position + len(note) + len(note) % 2
        nested[MAKER_NOTE] = b""  # `link_note` replaces the empty tag
        try:
            content = super().tobytes(start)
        finally:
            nested[MAKER_NOTE] = note
        header, directories = content[: len(PREFIX) + INLINE_BYTES], content[len(PREFIX) + HEADER_BYTES :]
        order = "<" if self.endian == "<" else ">"
        padding = bytes(self.note_position - HEADER_BYTES)
        linked = link_note(directories, note, self.note_position, f"{order}HHII")
        return header + struct.pack(f"{order}I", start) + padding + note + bytes(len(note) % 2) + linked


def link_note(directories: bytes, note: bytes, position: int, entry_format: str) -> bytes:
    """Replace the empty maker note in directories by a link to the position of the note.

    `entry_format` is the format of a directory entry for `struct`.
    """
    empty = struct.pack(entry_format, MAKER_NOTE, BYTE, 0, 0)  # Pillow writes bytes with the type BYTE
    link = struct.pack(entry_format, MAKER_NOTE, UNDEFINED, len(note), position)
    return directories.replace(empty, link, 1)


def find_note(content: bytes, note: bytes) -> int:
    """Return the position of a maker note in EXIF bytes, counted from the start of the TIFF header.

    The result is 0 if the maker note is not found, or if no JPEG can store it at this position.
    """
    position = content.find(note) - (len(PREFIX) if content.startswith(PREFIX) else 0)
    return position if HEADER_BYTES <= position < MAX_POSITION else 0
