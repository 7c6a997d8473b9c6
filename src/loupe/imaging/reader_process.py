"""The program of the child process that decodes images for `isolated_reader`.

The program reads requests from standard input and writes answers to standard output. An answer is a line of JSON,
followed by the bytes that the line announces.
"""

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from loupe.imaging.decoder import PhotoError
from loupe.imaging.estimates import LIBRARY_BYTES
from loupe.imaging.image_data import ImageData
from loupe.imaging.reader import Photo, read_photo

# CPU time: a limit of elapsed time would depend on the load of the machine
BASE_LIMIT_S, LIMIT_S_PER_MEGAPIXEL = 10, 0.2  # the slowest photos take 0.1 s per megapixel
PART_BYTES = 2**20
MAX_EXIF_BYTES, MAX_METADATA_BYTES = 4_000_000, 64_000_000  # parsed EXIF takes up to 18 times its bytes


def main() -> None:
    """Answer requests until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent handles it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that libraries print does not mix with the answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.preinit()
    own_bytes = _read_data_bytes()
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_lines, args=[lines], daemon=True).start()
    while True:
        request = json.loads(lines.get())
        try:
            with _limit(own_bytes + request["opening_bytes"], BASE_LIMIT_S):
                photo = read_photo(Path(request["path"]), request["strip"])
            _send(answers, {name: getattr(photo, name) for name in request["fields"]})
        except PhotoError as error:
            _send(answers, {"error": str(error)})
            continue
        if lines.get().strip():  # an empty line closes the photo without decoding it
            _send_images(answers, photo, own_bytes)
        del photo


def _read_lines(lines: "SimpleQueue[bytes]") -> None:
    """Read requests. When the input ends, the parent has ended: exit, even while an image is decoded."""
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


def _send_images(answers: BinaryIO, photo: Photo, own_bytes: int) -> None:
    """Send each image, then an empty answer."""
    pixels = max(width * height for width, height in (photo.size, *photo.page_sizes))
    limit_s = round(BASE_LIMIT_S + LIMIT_S_PER_MEGAPIXEL * pixels / 1e6)
    try:
        while True:
            with _limit(own_bytes + photo.decoding_bytes + LIBRARY_BYTES, limit_s):
                image = next(photo.images, None)
            if image is None:
                break
            _send_image(answers, image)
            del image  # before the next one is decoded
        _send(answers, {})
    except PhotoError as error:
        _send(answers, {"error": str(error)})


@contextmanager
def _limit(data_bytes: int, cpu_s: int) -> Iterator[None]:
    """Limit the memory and the CPU time of this process inside the block. The system kills it at the CPU limit."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {resource.RLIMIT_CPU: round(used.ru_utime + used.ru_stime) + cpu_s, resource.RLIMIT_DATA: data_bytes}
    before = {kind: resource.getrlimit(kind) for kind in limits}
    for kind, limit in limits.items():
        hard = before[kind][1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        for kind, limit_before in before.items():
            resource.setrlimit(kind, limit_before)


def _read_data_bytes() -> int:
    """Return the size of the data of this process, as RLIMIT_DATA counts it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
    except (OSError, StopIteration):  # not Linux: only Linux counts memory-mapped data
        return 0


def _send(answers: BinaryIO, facts: dict[str, Any], *blobs: bytes) -> None:
    facts = facts | {"blobs": [len(blob) for blob in blobs]} if blobs else facts
    answers.write(json.dumps(facts).encode() + b"\n")
    for blob in blobs:
        answers.write(blob)
    answers.flush()


def _send_image(answers: BinaryIO, image: ImageData) -> None:
    metadata = image.metadata
    exif = b"" if metadata.exif is None else metadata.exif.tobytes()
    others = len(metadata.icc) + len(metadata.xmp) + sum(len(text) for text in metadata.texts.values())
    for name, found, most in (("EXIF", len(exif), MAX_EXIF_BYTES), ("metadata", others, MAX_METADATA_BYTES)):
        if found > most:
            raise PhotoError(f"{name}: must have at most {most:,} bytes, got {found:,}")
    facts = {
        "shape": image.pixels.shape,
        "dtype": image.pixels.dtype.name,
        "dpi": metadata.dpi,
        "texts": metadata.texts,
        "colour_chunks": {kind.decode("latin-1"): data.hex() for kind, data in metadata.colour_chunks.items()},
        "duration_ms": metadata.duration_ms,
        "jpeg_quality": image.jpeg_quality,
    }
    _send(answers, facts, exif, metadata.icc, metadata.xmp)
    pixels = image.pixels.reshape(-1).view(np.uint8).data
    for start in range(0, len(pixels), PART_BYTES):
        answers.write(pixels[start : start + PART_BYTES])
    answers.flush()


if __name__ == "__main__":
    main()
