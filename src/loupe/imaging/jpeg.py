"""Writes a JPEG while its rows are computed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from loupe.imaging.image_data import ImageStream
from loupe.imaging.metadata import Metadata, make_iptc_resource
from loupe.imaging.metadata_selection import PHOTOSHOP_NAME
from loupe.imaging.png import encode_png


def write_jpeg(file: Path, stream: ImageStream, quality: int) -> None:
    """Encode a grey or RGB image with libvips, which reads the rows as an uncompressed PNG.

    Pillow would need all pixels in memory.

    Raises:
        OSError: the file cannot be written. An exception of the strips is raised unchanged.
    """
    import pyvips

    errors: list[BaseException] = []
    source = pyvips.SourceCustom()
    parts = encode_png(replace(stream, dtype=np.dtype("uint8")), compress_level=0, options={})
    source.on_read(_make_reader(parts, errors))
    try:
        image = pyvips.Image.new_from_source(source, "", access="sequential", unlimited=True)
        add_metadata(image.copy(), stream.metadata).jpegsave(str(file), Q=quality, subsample_mode="off")
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


def add_metadata(image: Any, metadata: Metadata) -> Any:
    """Set EXIF, XMP, IPTC and profile of a pyvips image in place; return the image, or a copy with the resolution."""
    import pyvips

    blobs = {"icc-profile-data": metadata.icc, "xmp-data": metadata.xmp}
    if metadata.exif is not None:
        blobs["exif-data"] = b"Exif\0\0" + metadata.exif.tobytes().removeprefix(b"Exif\0\0")
    if metadata.iptc:
        blobs["iptc-data"] = PHOTOSHOP_NAME + make_iptc_resource(metadata.iptc)
    for field, data in blobs.items():
        if data:
            image.set_type(pyvips.GValue.blob_type, field, data)
    if metadata.dpi:  # libvips counts pixels per millimetre
        image = image.copy(xres=metadata.dpi[0] / 25.4, yres=metadata.dpi[1] / 25.4)
    return image
