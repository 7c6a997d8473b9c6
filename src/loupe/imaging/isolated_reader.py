"""Reads image files in a child process with limited memory and CPU time.

A file of a few hundred bytes can make a decoder allocate gigabytes or run for minutes.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loupe.imaging.child_process import READER, ChildProcess
from loupe.imaging.decoder import PhotoError
from loupe.imaging.estimates import estimate_opening
from loupe.imaging.exif import load_exif
from loupe.imaging.image_data import ImageData
from loupe.imaging.jpeg_scans import count_scans
from loupe.imaging.memory import MemoryBudget
from loupe.imaging.metadata import Metadata
from loupe.imaging.reader import Photo, read_photo

# JPEG and PNG files within these limits, except animations, are decoded in this process, because starting a child
# takes 60 ms.
MAX_DIRECT_PIXELS = 50_000_000
MAX_DIRECT_BYTES = 16_000_000  # a file with many small chunks takes 1 s per megabyte
MAX_DIRECT_SCANNED_PIXELS = 500_000_000  # pixels times scans of a JPEG; decoding takes 5 s at this limit


@contextmanager
def open_readers(count: int, process: ChildProcess | None = None) -> "Iterator[list[PhotoReader]]":
    """Yield `count` readers, one per thread; stop them when the block exits. The first reader uses `process`."""
    readers = [PhotoReader(process), *(PhotoReader() for _ in range(count - 1))]
    try:
        yield readers
    finally:
        for reader in readers:
            reader.stop()


def read_first_image(reader: "PhotoReader", path: Path, memory: int, copies: int = 2) -> ImageData:
    """Read the first image of a file, without metadata except the colour space and the display time.

    Args:
        reader: reads the file.
        path: the file.
        memory: maximum memory in bytes.
        copies: number of copies of the pixels that the caller makes, within `memory`.

    Raises:
        PhotoError: the file cannot be read, or reading and copying would take more than `memory`.
    """
    opening_bytes = estimate_opening(path)
    with MemoryBudget(memory).reserve() as reserve_bytes:
        reserve_bytes(opening_bytes, "the file")
        photo = reader.open(path, opening_bytes, strip=True)
        try:
            width, height = photo.size
            image_bytes = width * height * photo.pixel_bytes
            needed = max(photo.decoding_bytes, (1 + copies) * image_bytes)
            reserve_bytes(needed, f"an image of {width}x{height} pixels")
            return next(photo.images)
        finally:
            reader.close()


class PhotoReader:
    """Reads one image file after another, in one thread at a time.

    Args:
        process: a running `ChildProcess(READER)`; None starts a process on first use.
        isolated: whether a child process reads all files except small JPEGs and PNGs. Otherwise, the calling process
            reads all files, and the memory and CPU time of the calling process must be limited.
    """

    def __init__(self, process: ChildProcess | None = None, isolated: bool = True) -> None:
        self._process, self._isolated = process, isolated
        self._is_open = False  # whether the child has an open file whose images were not requested

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def interrupt(self) -> None:
        """Kill the child process; a waiting thread gets a PhotoError."""
        if process := self._process:
            process.process.kill()

    def open(self, path: Path, opening_bytes: int, strip: bool = False) -> Photo:
        """Open an image file. Its images are decoded on demand.

        Args:
            path: the file.
            opening_bytes: maximum memory for opening the file in the child process; see `estimate_opening`.
            strip: as in `read_photo`.

        Raises:
            PhotoError: as in `read_photo`, or opening the file takes too much memory or time. Iterating over the
                images can also raise this error.
        """
        if not self._isolated or _is_direct(path):
            return read_photo(path, strip)
        if self._process is None or self._process.process.poll() is not None:
            self._process = ChildProcess(READER)
        self._send({"path": str(path.absolute()), "strip": strip, "opening_bytes": opening_bytes})
        fields, _ = self._receive()
        self._is_open = True
        fields |= {"size": tuple(fields["size"]), "page_sizes": tuple(map(tuple, fields["page_sizes"]))}
        return Photo(images=self._read_images(), **fields)

    def close(self) -> None:
        """Close the file in the child process if its images were not requested; otherwise do nothing."""
        if self._is_open and self._process is not None:
            self._is_open = False
            with suppress(PhotoError):
                self._send("close")

    def _read_images(self) -> Iterator[ImageData]:
        self._is_open = False
        try:
            self._send("decode")
            while (answer := self._receive())[0]:
                yield _make_image(*answer)
                del answer  # frees the pixels
        except PhotoError:
            raise
        except BaseException:
            self.stop()  # the child may still send images, which the next request must not receive
            raise

    def _send(self, value: Any) -> None:
        assert self._process is not None
        try:
            self._process.connections[0].send(value)
        except EOFError:
            raise self._remove_process() from None

    def _receive(self) -> tuple[dict[str, Any], list[bytearray]]:
        assert self._process is not None
        try:
            fields, parts = self._process.connections[0].receive()
        except EOFError:
            raise self._remove_process() from None
        if "error" in fields:
            raise PhotoError(fields["error"])
        return fields, parts

    def _remove_process(self) -> PhotoError:
        """Remove the ended child process, and return the error."""
        assert self._process is not None
        process, self._process = self._process, None
        is_too_slow = process.stop_and_check_cpu_limit()
        return PhotoError("takes too long to decode" if is_too_slow else "damaged: the decoder crashed")


def _make_image(fields: dict[str, Any], parts: list[bytearray]) -> ImageData:
    """Make an image from an answer of `reader_process`."""
    pixels, exif, icc, xmp, iptc, *chunks = parts
    metadata = Metadata(
        exif=load_exif(bytes(exif)) if exif else None,
        icc=bytes(icc),
        xmp=bytes(xmp),
        dpi=tuple(fields["dpi"]) if fields["dpi"] else None,
        texts=fields["texts"],
        colour_chunks={name.encode(): bytes(chunk) for name, chunk in zip(fields["chunks"], chunks, strict=True)},
        duration_ms=fields["duration_ms"],
        iptc=bytes(iptc),
        omitted=tuple(fields["omitted"]),
    )
    upright = np.frombuffer(pixels, fields["dtype"]).reshape(fields["shape"])
    return ImageData(upright, metadata, fields["jpeg_quality"])


def _is_direct(path: Path) -> bool:
    """Return whether a file is a JPEG or PNG that takes little memory and time to decode."""
    try:
        if path.stat().st_size > MAX_DIRECT_BYTES:
            return False
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            pixels = image.width * image.height
            if pixels > MAX_DIRECT_PIXELS or getattr(image, "is_animated", False):
                return False
            return image.format == "PNG" or pixels * count_scans(path) <= MAX_DIRECT_SCANNED_PIXELS
    except Exception:  # the file has another format or is damaged
        return False
