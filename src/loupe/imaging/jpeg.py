"""Writes a JPEG while its rows are computed."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO, Any

import numpy as np
from PIL import Image

from loupe.imaging.image_data import ImageStream
from loupe.imaging.png import encode_png

START_BYTES = 2  # size of the marker at the start of a JPEG
QUANTIZATION_TABLE = b"\xff\xdb"  # marker of the first segment after the metadata


def write_jpeg(file: IO[bytes], stream: ImageStream, options: dict[str, Any]) -> None:
    """Encode a grey or RGB image with libvips, which reads the rows as an uncompressed PNG.

    Pillow would need all pixels in memory. But Pillow encodes the metadata, because libvips moves the maker note,
    adds EXIF tags, and omits other tags and the comment.

    Args:
        file: the file to write.
        stream: the image, uint8 or uint16.
        options: the quality and the metadata, as options of Pillow's JPEG writer.

    Raises:
        OSError: the file cannot be written, or libvips fails. An exception of `stream.strips` is raised unchanged.
    """
    import pyvips

    errors: list[BaseException] = []
    source, target = pyvips.SourceCustom(), pyvips.TargetCustom()
    parts = encode_png(replace(stream, dtype=np.dtype("uint8")), compress_level=0, options={})
    source.on_read(_make_reader(parts, errors))
    target.on_write(_make_writer(file, _encode_metadata(options), errors))
    try:
        image = pyvips.Image.new_from_source(source, "", access="sequential", unlimited=True)
        image.jpegsave_target(target, Q=options["quality"], subsample_mode="off", keep="none")
    except pyvips.Error as error:
        if not errors:
            raise OSError(" ".join(str(error).split())) from None
    if errors:
        raise errors[0]


def _make_reader(parts: Iterator[bytes], errors: list[BaseException]) -> Callable[[int], bytes]:
    """Return a read function for libvips. The function adds exceptions to `errors`, because libvips ignores them."""
    rest = memoryview(b"")

    def read(length: int) -> bytes:
        nonlocal rest
        try:
            while not rest:
                rest = memoryview(next(parts))
        except StopIteration:
            return b""
        except BaseException as error:
            errors.append(error)
            return b""
        block, rest = rest[:length], rest[length:]
        return bytes(block)

    return read


def _make_writer(file: IO[bytes], start: bytes, errors: list[BaseException]) -> Callable[[bytes], int]:
    """Return a write function for libvips. The function writes `start` in place of the JPEG's first START_BYTES.

    The function adds exceptions to `errors`, because libvips does not raise them.
    """

    def write(block: bytes) -> int:
        nonlocal start
        try:
            file.write(start + block[START_BYTES:] if start else block)
        except BaseException as error:
            errors.append(error)
            return -1
        start = b""
        return len(block)

    return write


def _encode_metadata(options: dict[str, Any]) -> bytes:
    """Return the start of a JPEG that Pillow writes with these options, up to the first quantization table."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "JPEG", **options)
    content, end = file.getvalue(), START_BYTES
    while content[end : end + 2] != QUANTIZATION_TABLE:
        end += 2 + int.from_bytes(content[end + 2 : end + 4], "big")
    return content[:end]
