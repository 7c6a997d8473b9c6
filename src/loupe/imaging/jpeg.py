"""A page to a JPEG through libvips, which encodes while the next rows are computed."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from loupe.imaging.png import write_png
from loupe.imaging.reader import LargePage, Page


def write_streamed(file: Path, page: LargePage, quality: int) -> None:
    """Write a page as JPEG while its rows are computed.

    Args:
        file: to write.
        page: that is written.
        quality: 1..100.

    Raises:
        OSError: the file cannot be written.
    """
    import pyvips

    reading, writing = os.pipe()
    fault: list[BaseException] = []
    failed = threading.Event()

    def until_failed() -> Iterator[np.ndarray]:
        for strip in page.strips:
            if failed.is_set():
                return
            yield strip

    def feed() -> None:
        try:
            with os.fdopen(writing, "wb") as pipe:  # what libvips reads from a pipe, row by row
                write_png(pipe, replace(page, strips=until_failed()), deep=False, compress_level=0, options={})
        except BaseException as error:
            fault.append(error)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        _encode(reading, file, page.about, quality)
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


def _encode(reading: int, file: Path, about: Page, quality: int) -> None:
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
    image.jpegsave(str(file), Q=quality, subsample_mode="off")
