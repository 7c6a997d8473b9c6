"""A page to a JPEG or PNG through libvips, which encodes while the next rows are computed."""

import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import PngImagePlugin

from loupe.data.pages import LargePage, Page
from loupe.data.photos import as_eight_bits

HEADER = 33  # bytes of a PNG's signature and IHDR, behind which other chunks may stand


def chunks_of(about: Page) -> PngImagePlugin.PngInfo:
    """The chunks of a PNG that tell a page's colours, its comments and its XMP."""
    chunks = PngImagePlugin.PngInfo()
    for name, data in about.chunks.items():
        chunks.add(name, data)
    for keyword, text in about.texts.items():
        chunks.add_itxt(keyword, text)
    if about.xmp:
        chunks.add_itxt("XML:com.adobe.xmp", about.xmp.decode("utf-8", "replace"))
    return chunks


def write_streamed(file: Path, name: str, page: LargePage, deep: bool, quality: int, compress_level: int) -> None:
    """Write a page while its rows are computed.

    Args:
        file: to write.
        name: `JPEG` or `PNG`.
        page: that is written.
        deep: whether in 16 bits, not 8; of PNG.
        quality: 1..100 of JPEG.
        compress_level: 0..9 of PNG.

    Raises:
        OSError: the file cannot be written.
    """
    import pyvips

    reading, writing = os.pipe()
    fault: list[BaseException] = []
    failed = threading.Event()

    def feed() -> None:
        try:
            with os.fdopen(writing, "wb") as pipe:
                _png(pipe, page, deep, failed)
        except BaseException as error:
            fault.append(error)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        _encode(reading, file, name, page.about, quality, compress_level)
        failure = None
    except (pyvips.Error, OSError) as error:
        failure = error if isinstance(error, OSError) else OSError(" ".join(str(error).split()))
        failed.set()
        while os.read(reading, 2**20):  # libvips keeps this end open, and the feeder may wait to write
            pass
    feeder.join()
    os.close(reading)
    if fault:
        raise fault[0]
    if failure:
        raise failure


def _encode(reading: int, file: Path, name: str, about: Page, quality: int, compress_level: int) -> None:
    import pyvips

    source = pyvips.Source.new_from_descriptor(reading)
    image = pyvips.Image.new_from_source(source, "", access="sequential", unlimited=True).copy()
    blobs = {"icc-profile-data": about.icc, "xmp-data": about.xmp if name == "JPEG" else b""}
    if about.exif is not None:
        blobs["exif-data"] = b"Exif\0\0" + about.exif.tobytes().removeprefix(b"Exif\0\0")
    for field, data in blobs.items():
        if data:
            image.set_type(pyvips.GValue.blob_type, field, data)
    if about.dpi:
        image = image.copy(xres=about.dpi[0] / 25.4, yres=about.dpi[1] / 25.4)
    if name == "JPEG":
        image.jpegsave(str(file), Q=quality, subsample_mode="off")
    else:
        chunks = b"".join(_chunk(kind, data) for kind, data, *_ in chunks_of(about).chunks)
        faults: list[OSError] = []
        target = pyvips.TargetCustom()
        with file.open("wb") as stream:
            target.on_write(_behind_the_header(stream, chunks, faults))
            try:
                image.write_to_target(target, ".png", compression=compress_level)
            finally:
                if faults:
                    raise faults[0]


def _behind_the_header(stream: IO[bytes], chunks: bytes, faults: list[OSError]) -> Callable[[bytes], int]:
    """What libvips gives a PNG to: it is written with further chunks, and what goes wrong is kept, not raised."""
    head = bytearray()

    def write(data: bytes) -> int:
        try:
            if len(head) < HEADER:
                head.extend(data)
                if len(head) >= HEADER:
                    stream.write(bytes(head[:HEADER]) + chunks + bytes(head[HEADER:]))
            else:
                stream.write(data)
        except OSError as error:
            faults.append(error)
            return -1
        return len(data)

    return write


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(pipe: IO[bytes], page: LargePage, deep: bool, failed: threading.Event) -> None:
    """A PNG that is not compressed (ISO/IEC 15948): what libvips reads from a pipe, row by row, in 8 or 16 bits."""
    pipe.write(b"\x89PNG\r\n\x1a\n")
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[page.about.pixels.shape[2]]
    pipe.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", *page.size, 16 if deep else 8, colour, 0, 0, 0)))
    stored = zlib.compressobj(0)
    for strip in page.strips:
        if failed.is_set():
            return
        pixels = strip.astype(">u2") if deep else as_eight_bits(strip)
        rows = pixels.reshape(len(pixels), -1).view(np.uint8)
        for part in np.array_split(rows, -(-rows.nbytes // 2**24)):
            filtered = np.pad(part, ((0, 0), (1, 0)))  # by filter 0: not at all
            pipe.write(_chunk(b"IDAT", stored.compress(filtered.tobytes())))
    pipe.write(_chunk(b"IDAT", stored.flush()))
    pipe.write(_chunk(b"IEND", b""))
