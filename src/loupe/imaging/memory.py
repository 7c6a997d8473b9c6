"""The memory that images take and may take."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from loupe.imaging.decoder import MAX_PIXELS, PhotoError, too_many_pixels

MEGABYTE = 1_000_000
MAX_DEFAULT_BYTES = 2000 * MEGABYTE
MAX_EXIF_BYTES, MAX_METADATA_BYTES = 4_000_000, 64_000_000  # parsed EXIF takes up to 18 times its bytes
# For each version of Linux control groups: the name of the controller in /proc/self/cgroup, the folder of the groups,
# and the file of a group's limit.
CONTROL_GROUPS = (
    ("", Path("/sys/fs/cgroup"), "memory.max"),
    ("memory", Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
)
# The largest number of bytes per pixel while an image is decoded: Pillow's image, its conversion, and the result.
DECODING_BYTES = {"1": 5, "L": 5, "LA": 9, "P": 10, "I;16": 24, "RGB": 8, "RGBA": 9, "CMYK": 13, "LAB": 13}
TRANSPARENT_BYTES = 13  # of grey and colour images with one transparent value
DEEP_BYTES = {1: 8, 2: 12, 3: 16, 4: 20}  # of images with 16 bits per sample, by the number of bands
CODEC_BYTES = {"WEBP": 20, "AVIF": 28, "GIF": 22}  # codecs that keep several copies of a frame
OTHER_BYTES = 24
LIBRARY_BYTES = 40_000_000  # that decoders take for an image of any size
OPENING_BYTES = 150_000_000  # that opening a file takes at most, in addition to what `estimate_opening` adds


class MemoryBudget:
    """A number of bytes that several threads share.

    Args:
        total: the number of bytes.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, count: int, purpose: str) -> Iterator[None]:
        """Reserve bytes until the block exits; wait until other threads have released enough.

        A thread that waits must not have reserved bytes already: two such threads could wait for each other.

        Args:
            count: the number of bytes.
            purpose: what they are for, for the error.

        Raises:
            PhotoError: `count` exceeds the budget.
        """
        if count > self.total:
            needed = -(-count // MEGABYTE)
            raise PhotoError(f"memory: must be at least {needed} MB for {purpose}, got {self.total // MEGABYTE}")
        with self._changed:
            self._changed.wait_for(lambda: self._used + count <= self.total)
            self._used += count
        try:
            yield
        finally:
            with self._changed:
                self._used -= count
                self._changed.notify_all()


def estimate_opening(path: Path) -> int:
    """Estimate the memory that opening a file takes, at most.

    Raises:
        PhotoError: the file cannot be read, or has too many pixels.
    """
    try:
        with path.open("rb") as file:
            head = file.read(32)
            file_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise PhotoError((error.strerror or str(error)).lower()) from None
    if head[:4] != b"RIFF":  # a WebP
        return OPENING_BYTES + (2 * file_bytes if head[4:8] == b"ftyp" else 0)  # an AVIF is read as a whole
    pixels = _read_webp_pixels(head)
    if pixels > MAX_PIXELS:
        raise too_many_pixels(pixels)
    return OPENING_BYTES + 2 * file_bytes + 8 * pixels  # for two frames


def _read_webp_pixels(head: bytes) -> int:
    """Return the number of pixels from the first bytes of a WebP (RFC 9649, 2.5 to 2.7)."""
    if head[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return width * height


def estimate_decoding(image: Image.Image, deep: bool, file_bytes: int) -> int:
    """Estimate the memory that decoding the current frame or page takes, at most, with the result.

    Args:
        image: an opened image; not decoded.
        deep: whether libvips decodes it, with 16 bits per sample.
        file_bytes: the size of the file.
    """
    name, mode = image.format or "", image.mode
    if deep:
        per_pixel = DEEP_BYTES.get(len(image.getbands()), OTHER_BYTES)
    elif name in CODEC_BYTES:
        per_pixel = CODEC_BYTES[name]
    elif "transparency" in image.info and mode in ("1", "L", "RGB"):
        per_pixel = TRANSPARENT_BYTES
    else:
        per_pixel = DECODING_BYTES.get(mode, OTHER_BYTES)
        if getattr(image, "is_animated", False) and name == "PNG":
            per_pixel += 8  # the last frame, and the canvas
        if name == "JPEG":
            per_pixel = max(per_pixel, 3 * len(image.getbands()) + 1)  # with several scans, it keeps all coefficients
    whole_file = 2 * file_bytes if name in ("WEBP", "AVIF") else 0
    return image.width * image.height * per_pixel + whole_file + LIBRARY_BYTES


def get_default_budget() -> int:
    """Return how many bytes images may take by default: MAX_DEFAULT_BYTES, or half of the memory if that is less."""
    return min(MAX_DEFAULT_BYTES, read_total_memory() // 2)


def read_total_memory() -> int:
    """Return the bytes of memory that this process may use: those of the machine, or the limit of its container."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_read_container_limits(Path("/proc/self/cgroup"))])


def _read_container_limits(membership: Path) -> Iterator[int]:
    """Yield the limits of the control groups of this process and of all groups above them."""
    if not membership.exists():  # not Linux
        return
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        for controller, folder, name in CONTROL_GROUPS:
            if controller in controllers.split(","):
                # inside a container, the group's own folder is often mounted as the root
                for part in (group.lstrip("/"), *map(str, Path(group.lstrip("/")).parents)):
                    file = folder / part / name
                    if file.is_file() and (text := file.read_text(encoding="utf-8").strip()).isdecimal():
                        yield int(text)
