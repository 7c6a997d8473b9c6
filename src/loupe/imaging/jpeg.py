"""Writes a JPEG while its rows are computed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loupe.imaging.conversion import to_8_bits
from loupe.imaging.image_data import ImageStream
from loupe.imaging.metadata import Metadata


def write_jpeg(file: Path, stream: ImageStream, quality: int) -> None:
    """Encode an image by libvips, which pulls the rows as a PPM file. Pillow would need all pixels in memory.

    Args:
        file: the file to write.
        stream: grey or RGB.
        quality: 1..100.

    Raises:
        OSError: the file cannot be written.
    """
    import pyvips

    errors: list[BaseException] = []
    source = pyvips.SourceCustom()
    source.on_read(_make_reader(_encode_ppm(stream), errors))
    try:
        image = pyvips.Image.new_from_source(source, "", access="sequential")
        _add_metadata(image.copy(), stream.metadata).jpegsave(str(file), Q=quality, subsample_mode="off")
    except pyvips.Error as error:
        if not errors:
            raise OSError(" ".join(str(error).split())) from None
    if errors:
        raise errors[0]


def _encode_ppm(stream: ImageStream) -> Iterator[bytes]:
    width, height = stream.size
    yield f"P{5 if stream.bands == 1 else 6} {width} {height} 255\n".encode()
    for strip in stream.strips:
        yield to_8_bits(strip).tobytes()


def _make_reader(parts: Iterator[bytes], errors: list[BaseException]) -> Callable[[int], bytes]:
    """Make libvips's read function. An exception must not leave it: it ends the data and is kept in `errors`."""
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


def _add_metadata(image: Any, metadata: Metadata) -> Any:
    import pyvips

    blobs = {"icc-profile-data": metadata.icc, "xmp-data": metadata.xmp}
    if metadata.exif is not None:
        blobs["exif-data"] = b"Exif\0\0" + metadata.exif.tobytes().removeprefix(b"Exif\0\0")
    for field, data in blobs.items():
        if data:
            image.set_type(pyvips.GValue.blob_type, field, data)
    if metadata.dpi:
        image = image.copy(xres=metadata.dpi[0] / 25.4, yres=metadata.dpi[1] / 25.4)
    return image
