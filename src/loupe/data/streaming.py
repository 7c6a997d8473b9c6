"""A page to a JPEG or PNG through libvips, which encodes while the next rows are computed."""

import os
import struct
import threading
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from loupe.data.pages import LargePage, Page
from loupe.data.photos import as_eight_bits


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
        failure = ""
    except pyvips.Error as error:
        failure = " ".join(str(error).split())
        failed.set()
        while os.read(reading, 2**20):  # libvips keeps this end open, and the feeder may wait to write
            pass
    feeder.join()
    os.close(reading)
    if fault:
        raise fault[0]
    if failure:
        raise OSError(failure)


def _encode(reading: int, file: Path, name: str, about: Page, quality: int, compress_level: int) -> None:
    import pyvips

    source = pyvips.Source.new_from_descriptor(reading)
    image = pyvips.Image.new_from_source(source, "", access="sequential", unlimited=True).copy()
    blobs = {"icc-profile-data": about.icc, "xmp-data": about.xmp}
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
        for number, (keyword, text) in enumerate(about.texts.items()):
            image.set_type(pyvips.GValue.gstr_type, f"png-comment-{number}-{keyword}", text)
        image.pngsave(str(file), compression=compress_level)


def _png(pipe: IO[bytes], page: LargePage, deep: bool, failed: threading.Event) -> None:
    """A PNG that is not compressed (ISO/IEC 15948): what libvips reads from a pipe, row by row, in 8 or 16 bits."""

    def chunk(kind: bytes, data: bytes) -> None:
        pipe.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

    pipe.write(b"\x89PNG\r\n\x1a\n")
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[page.about.pixels.shape[2]]
    chunk(b"IHDR", struct.pack(">IIBBBBB", *page.size, 16 if deep else 8, colour, 0, 0, 0))
    stored = zlib.compressobj(0)
    for strip in page.strips:
        if failed.is_set():
            return
        pixels = strip.astype(">u2") if deep else as_eight_bits(strip)
        rows = pixels.reshape(len(pixels), -1).view(np.uint8)
        for part in np.array_split(rows, -(-rows.nbytes // 2**24)):
            chunk(b"IDAT", stored.compress(np.pad(part, ((0, 0), (1, 0))).tobytes()))  # row filter 0: none
    chunk(b"IDAT", stored.flush())
    chunk(b"IEND", b"")
