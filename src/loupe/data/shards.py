"""Writes the shards of a prepared dataset: files with many labels, or with many inputs of one scale factor."""

import hashlib
import math
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from loupe.config.datasets import Preprocess
from loupe.data import reservations, storage
from loupe.data.degradation import Degradation, draw_degradation, make_inputs, to_grey
from loupe.data.labels import BATCHED_LABELS, Label, cut_labels
from loupe.data.manifest import Row
from loupe.data.near_duplicates import SIDE, normalise_thumbnails
from loupe.data.sources import SourcePhoto
from loupe.errors import LoupeError
from loupe.imaging.decoder import PhotoError
from loupe.imaging.grey import OPENING_BYTES, GreyPhoto

# Memory for the grey or RGB image and its copies, in bytes per pixel and band, for each value of `crop`
GREY_BYTES = {"centre": 0, "fit": 3, "tiles": 2, "random": 7}
COLOURS = 3  # bands of a label in colour
CHUNK_BYTES = 2**18  # per read of a file; fits into a core's cache
BLACK = np.zeros((SIDE, SIDE), np.float32)  # thumbnail of an unusable photo
# Before a worker reads a file above this size, it reserves the maximum for a photo, not an estimate from the size.
LARGE_FILE_BYTES = 32 * 10**6
MAX_BATCHED_SIDE = 512  # inputs of larger labels are made one by one, to limit the memory


@dataclass(frozen=True)
class ShardResult:
    """The result of `prepare_shard`.

    Args:
        number: the number in the names of the shards.
        rows: the rows of the manifest.
        checksums: the SHA-256 of each file by name.
        sums: the sums of the pixel values by kind of shard (`labels`, `inputs-3x2`).
        photo_count: the number of photos.
        hashes: the distinct content hashes of the photos, as ASCII bytes.
        thumbnails: the normalised thumbnail for each content hash, for `near_duplicates.find_groups`.
    """

    number: int
    rows: list[dict[str, Any]]
    checksums: dict[str, str]
    sums: dict[str, "PixelSums"]
    photo_count: int
    hashes: np.ndarray
    thumbnails: np.ndarray


def prepare_shard(
    number: int, photos: list[SourcePhoto], crop: str, location: str, settings: Preprocess
) -> ShardResult:
    """Decode photos, and write a shard of labels and a shard of inputs per scale factor in a folder or under a URL.

    The names of the shards contain `number`. Without labels, no shards are written. For `crop`, see `cut_labels`.

    Raises:
        LoupeError: a photo has changed since the listing, or this machine cannot read it.
    """
    rows: list[dict[str, Any]] = []
    thumbnails: dict[str, np.ndarray] = {}  # by content hash of the photo
    with ExitStack() as files:
        output = _Shards(files, location, number, settings)

        def add_photo(photo: SourcePhoto, reserve_bytes: Callable[[int], None]) -> None:
            row, labels, thumbnails[photo.sha256] = cut_photo(photo, crop, settings, reserve_bytes)
            if not labels:
                rows.append(vars(row))
            for index, label in enumerate(labels):
                degradation = draw_degradation(settings, photo.sha256, index)
                position = {"x": label.x, "y": label.y, "shrunk": label.factor, "shard": number}
                position["row"] = output.add_label(label.pixels, degradation)
                rows.append(vars(row) | position | degradation.columns)

        for photo in photos:
            with reservations.reserve() as reserve_bytes:
                add_photo(photo, reserve_bytes)
        output.complete()
    return ShardResult(
        number,
        rows,
        checksums={name_shard(kind, number): shard.sha256 for kind, shard in output.shards.items()},
        sums={kind: shard.sum_pixels() for kind, shard in output.shards.items()},
        photo_count=len(photos),
        hashes=np.array(list(thumbnails), "S64"),
        thumbnails=normalise_thumbnails(np.stack(list(thumbnails.values()))),
    )


def cut_photo(
    photo: SourcePhoto, crop: str, settings: Preprocess, reserve_bytes: Callable[[int], None]
) -> tuple[Row, list[Label], np.ndarray]:
    """Cut the labels of one photo, and make its thumbnail, float32 (SIDE, SIDE) from 0 to 255.

    If the inputs are degraded, labels of a colour photo are in colour, because JPEG compression depends on the
    colours. For `crop`, see `cut_labels`; for `reserve_bytes`, see `reservations.reserve`.

    Returns:
        The row of the manifest, the labels, and the thumbnail. For an unusable photo, the row contains the reason,
        the list of labels is empty, and the thumbnail is black.

    Raises:
        LoupeError: the photo has changed since the listing, or this machine cannot read it or has too little memory.
    """
    row = Row(path=photo.path, category=photo.category, sha256=photo.sha256)
    if photo.reason:
        return replace(row, reason=photo.reason), [], BLACK
    try:
        luminance, bands = (settings.luminance, 1) if settings.degrade == "none" else (None, COLOURS)
        # Memory for the labels, in bytes per pixel and band of the photo
        label_bytes = (settings.labels_per_megapixel or 0) * settings.label_size**2 / 1e6
        copies = 1 if settings.recompress is None else 2
        # With `recompress`, tiles are also copies. They have at most as many pixels as the photo: `copies - 1`.
        result_bytes = bands * (GREY_BYTES[crop] + copies * math.ceil(label_bytes) + copies - 1)
        work_bytes = reservations.estimate_label_bytes(settings, crop, bands)
        content = _read_verified(photo, reserve_bytes)
        image = GreyPhoto(content, lambda size: reserve_bytes(size + work_bytes), result_bytes)
        row = replace(row, width=image.width, height=image.height)
        small = image.shrink(SIDE)
        size = settings.label_size
        if crop != "centre" or min(image.width, image.height) < size:
            grey = image.read(luminance)
            del image
            return row, cut_labels(grey, settings, crop, settings.seed, photo.sha256), small
        x, y = (image.width - size) // 2, (image.height - size) // 2
        grey = image.read(luminance, (x, y, x + size, y + size))
        labels = cut_labels(grey, settings, crop, settings.seed, photo.sha256)
        return row, [replace(label, x=x, y=y) for label in labels], small
    except PhotoError as error:
        return replace(row, reason=str(error)), [], BLACK
    except MemoryError:
        return replace(row, reason="memory: the photo needs more memory than estimated"), [], BLACK


def _read_verified(photo: SourcePhoto, reserve_bytes: Callable[[int], None]) -> bytes:
    """Return the bytes of a photo.

    Raises:
        LoupeError: they are unreadable or have changed since the listing.
        PhotoError: they exceed the memory limit of a photo.
    """
    try:
        size = photo.size or 0
        most = min(reservations.MAX_PHOTO_BYTES, reservations.get_budget())
        reserve_bytes(most if size > LARGE_FILE_BYTES else OPENING_BYTES + 2 * size)
        content = photo.read_bytes()
        reason = "its content has changed" if hashlib.sha256(content).hexdigest() != photo.sha256 else ""
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:  # without the error, a machine that cannot read the source would skip all photos
        raise LoupeError(
            "source: must be a URL or a folder that all machines share, and must not change; on "
            f"{socket.gethostname()}, {photo.file!r}: {reason}"
        )
    return content


def name_inputs(scale: Fraction) -> str:
    """Return the kind of the shards with the inputs of one scale factor, such as `inputs-3x2`."""
    return f"inputs-{scale.numerator}x{scale.denominator}"


def name_shard(kind: str, number: int) -> str:
    """Return the file name of a shard, such as `labels-00007.npy`."""
    return f"{kind}-{number:05d}.npy"


@dataclass(frozen=True)
class PixelSums:
    """The number of pixels, the sum of their values in [-1, 1], and the sum of their squares."""

    count: int = 0
    values: float = 0.0
    squares: float = 0.0

    def __add__(self, other: "PixelSums") -> "PixelSums":
        return PixelSums(self.count + other.count, self.values + other.values, self.squares + other.squares)

    def compute_statistics(self) -> dict[str, float]:
        """Return the mean and the standard deviation of the values."""
        mean = self.values / self.count
        variance = max(0.0, self.squares / self.count - mean**2)  # for equal values, rounding can make it negative
        return {"mean": round(mean, 6), "std": round(math.sqrt(variance), 6)}


class Shard:
    """A .npy file to which images, uint8 (side, side), are appended.

    Attributes:
        count: the number of images.
        sha256: the hash of the complete file.
    """

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self.count, self.sha256 = 0, ""
        self._file, self._stream, self._side = file, stream, 0
        self._histogram = np.zeros(256, "int64")

    def append(self, image: np.ndarray) -> None:
        """Write an image. np.save is not used, because it ignores a full disk."""
        if not self.count:
            self._side = len(image)
            self._write_header(1)  # `complete` replaces this number of images, 1
        self.count += 1
        self._stream.write(np.ascontiguousarray(image).data)

    def complete(self) -> None:
        """Write the number of images to the header, flush the file, and compute its hash and histogram."""
        self._stream.seek(0)
        self._write_header(self.count)
        header_bytes = self._stream.tell()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        with self._file.open("rb") as stream:
            digest = hashlib.sha256(stream.read(header_bytes))
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
                pixels = Image.frombuffer("L", (len(chunk), 1), chunk, "raw", "L", 0, 1)
                self._histogram += np.array(pixels.histogram())
        self.sha256 = digest.hexdigest()

    def sum_pixels(self) -> PixelSums:
        """Return the sums over the pixels of all images; only after `complete`."""
        values = np.arange(256) / 127.5 - 1
        return PixelSums(
            int(self._histogram.sum()), float(self._histogram @ values), float(self._histogram @ values**2)
        )

    def _write_header(self, count: int) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, self._side, self._side)}
        np.lib.format.write_array_header_1_0(self._stream, header)


class _Shards:
    """The shards of one task, by kind: `labels`, and inputs of each scale factor."""

    def __init__(self, files: ExitStack, location: str, number: int, settings: Preprocess) -> None:
        self.shards: dict[str, Shard] = {}
        self._files, self._location, self._number, self._settings = files, location, number, settings
        self._waiting: list[tuple[np.ndarray, Degradation]] = []  # labels whose inputs are not made yet

    def add_label(self, pixels: np.ndarray, degradation: Degradation) -> int:
        """Append a label, and later the inputs of the label; return the label's index in the shard."""
        self._append("labels", to_grey(pixels, self._settings.luminance))
        self._waiting.append((pixels.copy(), degradation))  # a view would keep the photo in memory
        if len(self._waiting) == BATCHED_LABELS or self._settings.label_size > MAX_BATCHED_SIDE:
            self._add_inputs()
        return self.shards["labels"].count - 1

    def complete(self) -> None:
        """Append the remaining inputs, and complete all shards in parallel, because flushing waits for the disk."""
        self._add_inputs()
        with ThreadPoolExecutor(len(self._settings.scales) + 1) as threads:
            list(threads.map(Shard.complete, self.shards.values()))

    def _add_inputs(self) -> None:
        for scale in self._settings.scales:
            for image in make_inputs(self._waiting, scale, self._settings):
                self._append(name_inputs(scale), image)
        self._waiting.clear()

    def _append(self, kind: str, image: np.ndarray) -> None:
        if kind not in self.shards:
            shard = create_shard(self._location, name_shard(kind, self._number))
            self.shards[kind] = self._files.enter_context(shard)
        self.shards[kind].append(image)


@contextmanager
def create_shard(location: str, name: str) -> Iterator[Shard]:
    """Create a shard in a folder or under a URL; the caller's block must append images and call `complete`."""
    with storage.create_file(location, name) as file, file.open("wb") as stream:
        yield Shard(file, stream)


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
