"""Reads and writes AVIF images with more than 8 bits per sample, and their colour space (ISO/IEC 14496-12, 23008-12).

Pillow decodes and encodes 8 bits, and libvips writes no colour space.
"""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from loupe.imaging.image_data import ImageStream

HEAD_BYTES = 2**16  # libavif and libheif write the boxes of an image's properties first
UNSPECIFIED, SRGB = (2, 2), (1, 13)  # codes of the primaries and of the transfer function (ITU-T H.273)
BT601, FULL_RANGE = 6, 0x80  # the matrix and the range that libvips uses
HIGH_BIT_DEPTH = 0x40  # a bit of the third byte of the AV1 configuration
BITS, EFFORT = 10, 3  # the effort of libvips that equals the default speed of Pillow
LOCATION_SIZES = b"\x44\x40"  # each location has 18 bytes: all positions and lengths have 4 bytes


def read_head(source: bytes | Path) -> bytes:
    """Return the start of a file: the boxes (units of the file) before the pixels."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        return file.read(HEAD_BYTES).partition(b"mdat")[0]


def read_cicp(head: bytes) -> bytes:
    """Return the colour space as the content of a PNG's cICP chunk; b"" for sRGB. The decoder applies the matrix."""
    fields = head.partition(b"colrnclx")[2][:4]
    if len(fields) < 4 or struct.unpack(">HH", fields) in (UNSPECIFIED, SRGB) or fields[0] or fields[2]:
        return b""
    return bytes([fields[1], fields[3], 0, 1])


def has_deep_samples(source: bytes | Path) -> bool:
    """Return whether an AVIF has 10 or 12 bits per sample, from its AV1 configuration."""
    configuration = read_head(source).partition(b"av1C")[2][:3]
    return len(configuration) == 3 and bool(configuration[2] & HIGH_BIT_DEPTH)


def scale_to_16_bits(pixels: np.ndarray) -> np.ndarray:
    """Scale the values of libvips, whose lowest bits are 0, so that white is 65535."""
    return pixels | pixels >> BITS


def write_10_bits(file: Path, stream: ImageStream, quality: int, subsampling: str) -> None:
    """Encode an image with 10 bits per sample."""
    import pyvips

    from loupe.imaging.jpeg import add_metadata

    pixels, metadata = np.concatenate([*stream.strips]), stream.metadata
    height, width, bands = pixels.shape
    image = pyvips.Image.new_from_memory(pixels.data, width, height, bands, "ushort")
    image = add_metadata(image.copy(interpretation="rgb16" if bands > 2 else "grey16"), metadata)
    kept = pyvips.enums.ForeignKeep
    options: dict[str, Any] = {
        "bitdepth": BITS,
        "effort": EFFORT,
        "subsample_mode": "off" if subsampling == "4:4:4" else "on",
        # Without EXIF, libvips would make tags of its own.
        "keep": kept.ICC | kept.XMP | (kept.EXIF if metadata.exif is not None else kept.NONE),
    }
    content = image.heifsave_buffer(compression="av1", Q=quality, **options)
    if not metadata.icc:
        content = set_cicp(content, metadata.colour_chunks.get(b"cICP", bytes([*SRGB, 0, 1])))
    file.write_bytes(content)


def set_cicp(content: bytes, chunk: bytes) -> bytes:
    """Write the primaries and the transfer function of a cICP chunk to an AVIF."""
    head, data, pixels = content.partition(b"mdat")
    if b"colrnclx" not in head:
        head = _insert_colour_box(bytearray(head))
    parts = head.split(b"colrnclx")
    codes = struct.pack(">HH", chunk[0], chunk[1])
    return b"colrnclx".join([parts[0], *(codes + part[4:] for part in parts[1:])]) + data + pixels


def _insert_colour_box(head: bytearray) -> bytes:
    """Add a `colr` box to the properties of the first image of a file that libvips wrote."""
    box = struct.pack(">I8sHHHB", 19, b"colrnclx", *SRGB, BT601, FULL_RANGE)
    properties, locations = head.index(b"ipco") - 4, head.index(b"iloc") + 8
    (size,) = struct.unpack_from(">I", head, properties)
    count, at = 0, properties + 8
    while at < properties + size:
        count, at = count + 1, at + int.from_bytes(head[at : at + 4], "big")
    associations = head.index(b"ipma", at) + 14  # after flags, number of items, and number of the first item
    for name, growth in ((b"meta", 20), (b"iprp", 20), (b"ipco", 19), (b"ipma", 1)):
        place = head.index(name) - 4
        struct.pack_into(">I", head, place, int.from_bytes(head[place : place + 4], "big") + growth)
    head[associations : associations + 1] = bytes([head[associations] + 1, count + 1])
    if head[locations : locations + 2] != LOCATION_SIZES:
        raise OSError("libvips writes another layout of AVIF files")
    for item in range(int.from_bytes(head[locations + 2 : locations + 4], "big")):
        place = locations + 4 + 18 * item + 4  # the position of the data in the file
        struct.pack_into(">I", head, place, int.from_bytes(head[place : place + 4], "big") + 20)
    head[at:at] = box
    return bytes(head)
