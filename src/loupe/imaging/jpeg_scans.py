"""Refuses JPEGs with too many scans, which take long: the decoder processes all pixels once per scan."""

import mmap
import re
from pathlib import Path

from loupe.imaging.decoder import PhotoError

MAX_SCANS = 100  # libtiff has the same limit; encoders write up to 20 scans
START_OF_SCAN, END_OF_IMAGE, TEMPORARY = 0xDA, 0xD9, 0x01  # markers (ITU-T T.81, B.1.1)
# The pattern excludes 0x00 and the restart markers 0xD0 to 0xD7, which can be inside a scan.
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def validate_scans(source: bytes | Path) -> None:
    """Raise PhotoError if a JPEG has more than MAX_SCANS scans."""
    if isinstance(source, bytes) and source.count(b"\xff\xda") <= MAX_SCANS:
        return  # this check takes a sixth of the time of count_scans
    if count_scans(source) > MAX_SCANS:
        raise PhotoError(f"must have at most {MAX_SCANS} scans, got more")


def count_scans(source: bytes | Path) -> int:
    if isinstance(source, bytes):
        return _count_scans(source)
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _count_scans(content)


def _count_scans(content: bytes | mmap.mmap) -> int:
    count, position = 0, 2  # after the first marker
    while count <= MAX_SCANS and (found := MARKER.search(content, position)):
        marker = found[1][0]
        if marker == END_OF_IMAGE:
            break
        position = found.end()
        if marker == START_OF_SCAN:
            count += 1
        if marker != TEMPORARY:  # the segment after the marker begins with its length
            position += int.from_bytes(content[position : position + 2], "big")
    return count
