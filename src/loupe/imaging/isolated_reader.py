"""Reads image files in a child process, whose memory and CPU time the system limits.

A file of a few hundred bytes can make a decoder allocate gigabytes or run for minutes before the decoder returns.
macOS limits only the CPU time.
"""

import io
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loupe.imaging.decoder import PhotoError
from loupe.imaging.estimates import estimate_opening
from loupe.imaging.image_data import ImageData
from loupe.imaging.jpeg_scans import count_scans
from loupe.imaging.launcher import start_reader_process
from loupe.imaging.memory import MemoryBudget
from loupe.imaging.metadata import Metadata, load_exif
from loupe.imaging.reader import Photo, read_photo

FIELDS = ("format", "count", "size", "loop", "lossless", "page_sizes", "decoding_bytes",
          "pixel_bytes")  # of `Photo`  # fmt: skip

# Limits of JPEG and PNG files that are decoded in this process. That saves the start of a child process: 60 ms.
MAX_DIRECT_PIXELS = 50_000_000
MAX_DIRECT_SCANNED_PIXELS = 500_000_000  # pixels times scans: about 5 s


@contextmanager
def open_readers(count: int, process: "subprocess.Popen[bytes] | None" = None) -> "Iterator[list[IsolatedReader]]":
    """Yield readers for several threads; the first one uses `process`, the others start their own on first use."""
    readers = [IsolatedReader(process), *(IsolatedReader() for _ in range(count - 1))]
    try:
        yield readers
    finally:
        for reader in readers:
            reader.stop()


def read_first_image(reader: "IsolatedReader", path: Path, memory: int, copies: int = 2) -> ImageData:
    """Read the first image of a file.

    Args:
        reader: reads the file.
        path: the file.
        memory: how many bytes reading may take.
        copies: how often the caller copies the pixels.

    Raises:
        PhotoError: as in `IsolatedReader.open`, or reading takes more memory.
    """
    budget, opening_bytes = MemoryBudget(memory), estimate_opening(path)
    with budget.reserve(opening_bytes, "the file") as reservation:
        photo = reader.open(path, opening_bytes, strip=True)
        try:
            width, height = photo.size
            pixels = width * height * photo.pixel_bytes
            needed = max(photo.decoding_bytes, (1 + copies) * pixels)
            reservation.resize(needed, f"an image of {width}x{height} pixels")
            return next(photo.images)
        finally:
            reader.close()


class IsolatedReader:
    """Reads one image file after another, in one thread at a time.

    Args:
        process: the result of `start_reader_process`; None to start one on first use.
    """

    def __init__(self, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self._process = process
        self._is_open = False  # True while a file is open and its images are not requested

    def start(self) -> None:
        """Start the process unless it runs, so that `open` does not have to wait for the start."""
        if self._process is None or self._process.poll() is not None:
            self._process = start_reader_process()

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def interrupt(self) -> None:
        """Kill the process that another thread waits for; the call of that thread raises PhotoError."""
        if process := self._process:
            process.kill()

    def open(self, path: Path, memory: int, strip: bool = False) -> Photo:
        """Open an image file; its images are decoded on demand, until `close` is called.

        A JPEG or PNG of usual size is decoded in this process, because the header limits the memory and time.

        Args:
            path: the file.
            memory: how many bytes opening the file may take; see `estimate_opening`.
            strip: as in `read_photo`.

        Raises:
            PhotoError: as in `read_photo`, or the file takes too much memory or time. Iterating over the images may
                also raise this error.
        """
        if _is_direct(path):
            return read_photo(path, strip)
        self.start()
        request = {"path": str(path.absolute()), "strip": strip, "opening_bytes": memory, "fields": FIELDS}
        self._write(json.dumps(request))
        facts = self._read_answer()
        self._is_open = True
        facts |= {"size": tuple(facts["size"]), "page_sizes": tuple(map(tuple, facts["page_sizes"]))}
        return Photo(images=self._read_images(), **facts)

    def close(self) -> None:
        """Close the opened file, whether it is decoded or not, and free the memory."""
        if self._is_open and self._process is not None:
            self._is_open = False
            with suppress(PhotoError):  # the process has ended
                self._write("")

    def _read_images(self) -> Iterator[ImageData]:
        self._is_open = False
        self._write("decode")
        complete = False
        try:
            while facts := self._read_answer():
                yield self._read_image(facts)
            complete = True
        except PhotoError:
            complete = True
            raise
        finally:
            if not complete:
                self.stop()  # the rest of the images is in the pipe

    def _read_image(self, facts: dict[str, Any]) -> ImageData:
        exif, icc, xmp = (bytes(self._read_into(bytearray(length))) for length in facts["blobs"])
        metadata = Metadata(
            exif=load_exif(exif) if exif else None,
            icc=icc,
            xmp=xmp,
            dpi=tuple(facts["dpi"]) if facts["dpi"] else None,
            texts=facts["texts"],
            colour_chunks={
                kind.encode("latin-1"): bytes.fromhex(data) for kind, data in facts["colour_chunks"].items()
            },
            duration_ms=facts["duration_ms"],
        )
        pixels = np.empty(facts["shape"], facts["dtype"])
        self._read_into(pixels.reshape(-1).view(np.uint8).data)
        return ImageData(pixels, metadata, facts["jpeg_quality"])

    def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._describe_end() from None

    def _read_answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._describe_end()
        facts: dict[str, Any] = json.loads(line)
        if "error" in facts:
            raise PhotoError(facts["error"])
        return facts

    def _read_into(self, target: bytearray | memoryview) -> bytearray | memoryview:
        assert self._process is not None
        assert isinstance(self._process.stdout, io.BufferedReader)
        if self._process.stdout.readinto(target) < len(target):
            raise self._describe_end()
        return target

    def _describe_end(self) -> PhotoError:
        """Return the error for a process that has ended, and forget the process."""
        assert self._process is not None
        process, self._process = self._process, None
        process.communicate()
        if process.returncode == -signal.SIGXCPU:
            return PhotoError("takes too long to decode")
        return PhotoError("damaged: the decoder crashed")


def _is_direct(path: Path) -> bool:
    """Return whether a file is a JPEG or PNG whose header shows that decoding takes little memory and time."""
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            pixels = image.width * image.height
            if pixels > MAX_DIRECT_PIXELS or getattr(image, "is_animated", False):
                return False
            return image.format == "PNG" or pixels * count_scans(path) <= MAX_DIRECT_SCANNED_PIXELS
    except Exception:  # a damaged file: Pillow raises errors of many types
        return False
