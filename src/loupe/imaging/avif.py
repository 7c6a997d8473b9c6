"""Reads deep samples (more than 8 bits) and the colour space of AVIF and HEIF files, and writes them to AVIF files.

Pillow supports only 8 bits, and libvips does not write the colour space. Standards: ISO/IEC 14496-12, 23008-12.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from loupe.imaging.image_data import ImageStream
from loupe.imaging.maker_note import PREFIX

HEAD_BYTES = 2**16  # a file is searched for the properties of the image only up to this position
UNSPECIFIED, SRGB = (2, 2), (1, 13)  # codes of primaries and transfer function (ITU-T H.273)
BT601, FULL_RANGE = 6, 0x80  # codes of the matrix and the range that libvips writes
HIGH_BIT_DEPTH, TWELVE_BIT, SUBSAMPLED = 0x40, 0x20, 0x0C  # bits of the third byte of the AV1 configuration
CHROMA_BYTE = 16  # position of the byte for the chroma format in the HEVC configuration
FULL_CHROMA = b"\xff", b"\x03"  # values of this byte for 4:4:4
BITS, EFFORT = 10, 3  # bits per sample, and the effort that corresponds to Pillow's default speed
# Sizes of the fields of the box iloc as libvips writes them, and the resulting bytes per item
LOCATION_SIZES, LOCATION_BYTES = b"\x44\x40", 18
LOCATION = struct.Struct(">IHI")  # of an item: position, number of parts, offset of the first part; then its length
UNKNOWN_LAYOUT = "unknown layout of the AVIF file that libvips wrote"
EXIF_OFFSET = struct.pack(">I", len(PREFIX))  # precedes EXIF in an AVIF: the number of bytes before the TIFF header
COLOUR_BOX = struct.Struct(">I8sHHHB")  # length, name, primaries, transfer function, matrix and range


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file, up to the pixels: at most HEAD_BYTES."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES).partition(b"mdat")[0]


def read_cicp(head: bytes) -> bytes:
    """Return the colour space as the content of a PNG's cICP chunk (for RGB pixels).

    The result is b"" for sRGB, or if the colour space is missing, unspecified or invalid. `head` is the
    result of `read_head`.
    """
    fields = head.partition(b"colrnclx")[2][:4]
    if len(fields) < 4 or struct.unpack(">HH", fields) in (UNSPECIFIED, SRGB) or fields[0] or fields[2]:
        return b""
    return bytes([fields[1], fields[3], 0, 1])


def has_deep_samples(path: Path) -> bool:
    """Return whether an AVIF has 10 or 12 bits per sample."""
    return bool(_read_flags(path) & HIGH_BIT_DEPTH)


def is_subsampled(path: Path) -> bool:
    """Return whether an AVIF or HEIF stores fewer samples of colour than of brightness; True if unknown."""
    if configuration := read_head(path).partition(b"hvcC")[2]:  # ISO/IEC 14496-15, 8.3.3.1
        return configuration[CHROMA_BYTE : CHROMA_BYTE + 1] not in FULL_CHROMA
    return bool(_read_flags(path) & SUBSAMPLED)


def _read_flags(path: Path) -> int:
    """Return the third byte of the AV1 configuration. Without a configuration, assume 8 bits and 4:2:0."""
    configuration = read_head(path).partition(b"av1C")[2][:3]
    return configuration[2] if len(configuration) == 3 else SUBSAMPLED


def read_bits(path: Path) -> int:
    """Return the bits per sample of an AVIF for which `has_deep_samples` is True."""
    return 12 if _read_flags(path) & TWELVE_BIT else 10


def fill_lowest_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Fill the lowest 16 - `bits` bits of uint16 samples (0 after decoding) with the highest bits: white is 65535."""
    return pixels | pixels >> bits


def decode_deep_heif(path: Path) -> np.ndarray:
    """Decode a HEIF with more than 8 bits per sample: uint16, (height, width, bands)."""
    import pi_heif

    file = pi_heif.open_heif(path, convert_hdr_to_8bit=False)
    pixels = np.asarray(file[file.primary_index])
    return fill_lowest_bits(pixels.reshape(*pixels.shape[:2], -1), file.info["bit_depth"])


def write_10_bits(file: Path, stream: ImageStream, quality: int, subsampling: str) -> None:
    """Write an image, uint16, as an AVIF with 10 bits per sample."""
    import pyvips

    pixels, metadata = np.concatenate([*stream.strips]), stream.metadata
    height, width, bands = pixels.shape
    image = pyvips.Image.new_from_memory(pixels.data, width, height, bands, "ushort")
    image = image.copy(interpretation="rgb16" if bands > 2 else "grey16")
    for field, data in {"icc-profile-data": metadata.icc, "xmp-data": metadata.xmp}.items():
        if data:
            image.set_type(pyvips.GValue.blob_type, field, data)
    keep = pyvips.enums.ForeignKeep
    options: dict[str, Any] = {
        "bitdepth": BITS,
        "effort": EFFORT,
        "subsample_mode": "off" if subsampling == "4:4:4" else "on",
        # With keep.EXIF, libvips writes its own tags, which `_replace_exif` replaces by those of the image.
        "keep": keep.ICC | keep.XMP | (keep.EXIF if metadata.exif is not None else keep.NONE),
    }
    content = image.heifsave_buffer(compression="av1", Q=quality, **options)
    if metadata.exif is not None:
        content = _replace_exif(content, metadata.exif.tobytes())
    if not metadata.icc:
        content = set_cicp(content, metadata.colour_chunks.get(b"cICP", bytes([*SRGB, 0, 1])))
    file.write_bytes(content)


def _replace_exif(content: bytes, exif: bytes) -> bytes:
    """Append EXIF bytes to an AVIF that libvips wrote, and store their position and length in its box iloc.

    If libvips wrote these EXIF bytes, it would move the maker note and omit tags. Raise OSError if the file has
    another layout than expected.
    """
    item = EXIF_OFFSET + exif
    start = content.find(EXIF_OFFSET + PREFIX, content.index(b"mdat"))
    location = content.find(LOCATION.pack(max(0, start), 1, 0), content.index(b"iloc"))
    if start < 0 or location < 0:
        raise OSError(UNKNOWN_LAYOUT)
    changed = bytearray(content + struct.pack(">I4s", 8 + len(item), b"mdat") + item)
    LOCATION.pack_into(changed, location, len(content) + 8, 1, 0)
    struct.pack_into(">I", changed, location + LOCATION.size, len(item))
    return bytes(changed)


def set_cicp(content: bytes, chunk: bytes) -> bytes:
    """Set the primaries and the transfer function of an AVIF to those of a cICP chunk; return the bytes."""
    head, data, pixels = content.partition(b"mdat")
    if b"colrnclx" not in head:
        head = _insert_colour_box(bytearray(head))
    parts = head.split(b"colrnclx")
    codes = struct.pack(">HH", chunk[0], chunk[1])
    return b"colrnclx".join([parts[0], *(codes + part[4:] for part in parts[1:])]) + data + pixels


def _insert_colour_box(head: bytearray) -> bytes:
    """Add a `colr` box to the first image of an AVIF. `head` is the start of a file that libvips wrote.

    A box begins with its length and name, 4 bytes each. The box ipco contains all properties, the box
    ipma contains the property indices of each image, and the box iloc contains the positions of the pixels.
    """
    box = COLOUR_BOX.pack(COLOUR_BOX.size, b"colrnclx", *SRGB, BT601, FULL_RANGE)
    properties, locations = head.index(b"ipco") - 4, head.index(b"iloc") + 8
    (size,) = struct.unpack_from(">I", head, properties)
    property_count, end = 0, properties + 8
    while end < properties + size:
        property_count, end = property_count + 1, end + int.from_bytes(head[end : end + 4], "big")
    associations = head.index(b"ipma", end) + 14  # after name, version, flags, item count and first item number
    growth = len(box) + 1  # the box, and 1 byte in ipma for its index
    for name, added in ((b"meta", growth), (b"iprp", growth), (b"ipco", len(box)), (b"ipma", 1)):
        position = head.index(name) - 4
        struct.pack_into(">I", head, position, int.from_bytes(head[position : position + 4], "big") + added)
    # The number of properties of the first image, and the index of the new property
    head[associations : associations + 1] = bytes([head[associations] + 1, property_count + 1])
    if head[locations : locations + 2] != LOCATION_SIZES:
        raise OSError(UNKNOWN_LAYOUT)
    for item in range(int.from_bytes(head[locations + 2 : locations + 4], "big")):
        position = locations + 4 + LOCATION_BYTES * item + 4
        struct.pack_into(">I", head, position, int.from_bytes(head[position : position + 4], "big") + growth)
    head[end:end] = box
    return bytes(head)
