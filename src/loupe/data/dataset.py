"""Opens a prepared dataset: its manifest, and the inputs and labels in its shards (files with many images)."""

import mmap
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from loupe.config.fields import format_value, parse_scale
from loupe.data import storage
from loupe.data.array_files import map_array
from loupe.data.manifest import INDEX_COLUMNS, MANIFEST, ManifestRows, open_manifest, read_metadata
from loupe.data.manifest_check import find_fault
from loupe.data.pairs import Pairs
from loupe.data.shards import hash_file, name_inputs, name_shard
from loupe.errors import LoupeError, UsageError, describe_error
from loupe.imaging.atomic import remove_leftovers

VERIFY_FIRST_BYTES = 2**30  # larger sets of shards are verified in the background
HASH_THREADS = 2


class Dataset:
    """A prepared dataset.

    `load_pairs` verifies shards by their checksums; it verifies large sets of shards in the background.
    Before the results of a step are stored, the step calls `finish_verification`.

    Args:
        location: the folder or URL that `prepare` created.

    Attributes:
        location: the folder or URL.
        folder: the location, or the local cache of a URL, to which shards are downloaded on demand.
        counts: the number of used photos (`photos`), of those with near-duplicates (`near_duplicates`), of groups of
            near-duplicates (`near_duplicate_groups`), of skipped photos (`skipped`), of labels (`labels`), and of
            labels per split (such as `train_labels`).
        skip_reasons: the number of skipped photos per reason.
        digest: a hash of the photos and the settings.
        settings: the settings of preprocess, as text.
        statistics: mean (`mean`) and standard deviation (`std`) of the pixel values, from -1 to 1, by kind of shard
            (`labels`, `inputs-3x2`).

    Raises:
        UsageError: the location is not a prepared dataset, or the local cache of a URL cannot be written.
        LoupeError: the object store of the URL or the manifest cannot be read, or the manifest is damaged.
    """

    def __init__(self, location: str | Path) -> None:
        location = str(location)
        folder = storage.get_local_folder(location)
        if storage.is_url(location):
            remove_leftovers(folder)
        try:
            if storage.is_url(location) and not storage.fetch_file(location, folder / MANIFEST):
                raise FileNotFoundError
            if not os.path.isfile(folder / MANIFEST):  # opening a FIFO would block
                raise FileNotFoundError
            with open_manifest(folder / MANIFEST) as file:
                metadata = read_metadata(file)
                fault = find_fault(file, metadata)
                # With threads, pyarrow would keep memory that it no longer needs.
                self._index: Any = None if fault else file.read(INDEX_COLUMNS, use_threads=False)
        except (OSError, KeyError, TypeError, ValueError, RecursionError):
            raise UsageError(f"dataset: must be a prepared dataset, got {location!r}") from None
        if fault:
            raise UsageError(f"dataset: must be a prepared dataset, got {location!r}: {fault}")
        self.location, self.folder = location, folder
        self.digest: str = metadata["digest"]
        self.settings: dict[str, str] = metadata["settings"]
        self.statistics: dict[str, dict[str, float]] = metadata["statistics"]
        self.counts: dict[str, int] = metadata["counts"]
        self.skip_reasons: dict[str, int] = metadata["skip_reasons"]
        self._shards: dict[str, str] = metadata["shards"]
        self._maps: dict[str, np.ndarray] = {}  # open shards by file name
        self._inodes: dict[str, int] = {}  # by name, of files from a URL that are used before they are verified
        self._unverified: deque[str] = deque()  # file names of shards that wait for verification in the background
        self._threads: list[threading.Thread] = []
        self._errors: list[Exception] = []

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """All rows of the manifest as dicts."""
        return list(ManifestRows(self.folder / MANIFEST, np.arange(len(self._index))))

    @cached_property
    def scales(self) -> list[Fraction]:
        """The scale factors of the inputs."""
        return [parse_scale(text) for text in self.settings["scales"].split(",")]

    def validate_inputs(self, scale: Fraction, crop: int = 0) -> None:
        """Raise UsageError if the dataset has no inputs of this scale factor, or if crops are larger than the inputs.

        `crop` is the side of a training crop or patch of the inputs, in pixels.
        """
        if scale not in self.scales:
            raise UsageError(
                f"scale: must be one of {self.settings['scales']} for {self.folder.name}, got {format_value(scale)}; "
                f"`loupe preprocess --scales {format_value(scale)}` prepares a dataset with this scale factor"
            )
        side = int(int(self.settings["label_size"]) / scale)
        if crop > side:
            raise UsageError(f"patch, crop_size: must be at most the inputs' side of {side}, got {crop}")

    def find_rows(self, split: str) -> np.ndarray:
        """Return the numbers of the rows of a split in the manifest; raise UsageError if the split is empty."""
        import pyarrow.compute as pc

        column = self._index["split"]
        chosen = column.is_valid() if split == "all" else pc.fill_null(pc.equal(column, split), False)
        numbers = np.flatnonzero(chosen.to_numpy())
        if not len(numbers):
            raise UsageError(
                f"split: must have a photo, got none in {split} of {self.folder.name}; with at least three photos "
                "that are not near-duplicates, no split is empty"
            )
        return numbers

    def load_pairs(self, split: str, scale: Fraction, limit: int | None = None) -> "Pairs":
        """Open the inputs and labels of a split as memory maps.

        Args:
            split: `train`, `validation`, `test` or `all`.
            scale: the scale factor.
            limit: use at most this many photos, those with the smallest content hashes; None uses all.

        Returns:
            The pairs, one per label, in the order of the manifest.

        Raises:
            UsageError: the dataset has no inputs of this scale factor, or the split is empty.
            LoupeError: a shard is missing or unreadable, differs from its checksum, or has a wrong number of images.
                Wrong checksums of shards that are verified in the background do not raise this error here; see
                `finish_verification`.
        """
        self.validate_inputs(scale)
        numbers = self.find_rows(split)
        rows = ManifestRows(self.folder / MANIFEST, numbers)
        if limit is not None:
            photos = rows.read_column("sha256")
            chosen = np.flatnonzero(np.isin(photos, np.unique(photos)[:limit]))
            rows, numbers = rows.select(chosen), numbers[chosen]
        shards, positions = (self._index[name].take(numbers).to_numpy() for name in ("shard", "row"))
        shard_numbers, stack_numbers = np.unique(shards, return_inverse=True)
        names = [[name_shard(kind, number) for number in shard_numbers] for kind in (name_inputs(scale), "labels")]
        self._verify_shards([name for kind in names for name in kind])
        last_positions = np.zeros(len(shard_numbers), np.int64)  # position of the last image to read, per shard
        np.maximum.at(last_positions, stack_numbers, positions)
        inputs, labels = (
            [self._open_shard(name, number) for name, number in zip(kind, last_positions.tolist(), strict=True)]
            for kind in names
        )
        for name, images, others in zip(names[0], inputs, labels, strict=True):
            if len(images) != len(others):
                raise LoupeError(f"dataset: {name} must have {len(others)} images, one per label, got {len(images)}")
        index = np.stack([stack_numbers, positions], axis=1).astype(np.int32)
        return Pairs(rows, (inputs, labels), index, scale, self.raise_if_damaged)

    def read_photo_hashes(self, splits: Sequence[str]) -> np.ndarray:
        """Return the different content hashes of the photos of these splits, sorted."""
        numbers = np.flatnonzero(np.isin(self._index["split"].fill_null("").to_numpy(), splits))
        return np.unique(ManifestRows(self.folder / MANIFEST, numbers).read_column("sha256"))

    def fetch_shards(self) -> None:
        """If the location is a URL, download and verify all shards now."""
        for name in self._shards if storage.is_url(self.location) else ():
            self._verify_shard(name)

    def raise_if_damaged(self) -> None:
        """Raise LoupeError if the background verification of any opened shard has failed until now."""
        if self._errors:
            raise self._errors[0]

    def is_verified(self) -> bool:
        """Return whether all opened shards are verified; raise LoupeError if one is damaged."""
        self.raise_if_damaged()
        return not self._unverified and not any(thread.is_alive() for thread in self._threads)

    def finish_verification(self) -> None:
        """Wait until all opened shards are verified, and raise LoupeError if one is damaged."""
        self._verify_waiting()
        for thread in self._threads:
            thread.join()
        self.raise_if_damaged()

    def _open_shard(self, name: str, last: int) -> np.ndarray:
        """Return the images of a shard, uint8 (n, side, side).

        Raises:
            LoupeError: the file is missing, is not a shard, or has no image `last`.
        """
        file = self._fetch_shard(name)
        try:
            images = self._maps.get(name)
            if images is None:
                images = map_array(file)
            if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1] != images.shape[2]:
                raise ValueError(f"it contains {images.dtype} {images.shape}")
            if len(images) <= last:
                raise ValueError(f"it contains {len(images)} images, the manifest needs {last + 1}")
        except ValueError as error:
            self._verify_shard(name)  # for a damaged file, this method raises an error with the remedy
            raise LoupeError(f"dataset: {str(file)!r} must be a shard: {describe_error(error)}") from None
        self._maps[name] = images
        file_map: Any = images.base
        file_map.madvise(mmap.MADV_RANDOM)  # otherwise, Linux reads up to megabytes around each image
        return images

    def _verify_shards(self, names: list[str]) -> None:
        """Verify shards, in the background if they have more than VERIFY_FIRST_BYTES in total."""
        states = {name: self._fetch_shard(name).stat() for name in names}
        if sum(state.st_size for state in states.values()) <= VERIFY_FIRST_BYTES:
            with ThreadPoolExecutor(HASH_THREADS) as pool:
                list(pool.map(self._verify_shard, names))
            return
        if storage.is_url(self.location):
            for name, state in states.items():
                self._inodes.setdefault(name, state.st_ino)
        self._unverified.extend(names)
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for _ in range(HASH_THREADS - len(self._threads)):
            # At exit, Python waits for threads that are not daemons, and for those of a ThreadPoolExecutor.
            thread = threading.Thread(target=self._verify_waiting, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _verify_waiting(self) -> None:
        """Verify the shards of `_unverified` until none is left or one is damaged; store the error."""
        while not self._errors:
            try:
                name = self._unverified.popleft()
            except IndexError:
                return
            try:
                self._verify_shard(name)
            except Exception as error:  # a shard that could not be verified must not count as intact
                self._errors.append(error)

    def _fetch_shard(self, name: str) -> Path:
        """Return the local file of a shard; download it if it is missing."""
        file = self.folder / name
        if not file.is_file() and not storage.fetch_file(self.location, file):
            raise self._describe_damage(name)
        return file

    def _verify_shard(self, name: str) -> None:
        """Compare a shard with its checksum; download a damaged shard again.

        Raises:
            LoupeError: the shard is unreadable; it is missing or damaged, and cannot be downloaded; or pairs already
                use the damaged file.
        """
        file, damaged_map = self._fetch_shard(name), None
        if not self._is_intact(file):
            damaged_map = self._maps.pop(name, None)
            if not (storage.fetch_file(self.location, file) and self._is_intact(file)):
                raise self._describe_damage(name)
        # Another process can also replace a damaged file.
        inode = file.stat().st_ino
        if damaged_map is not None or self._inodes.get(name, inode) != inode:
            raise LoupeError(
                f"dataset: {str(file)!r} was damaged or deleted, and is downloaded again; run the step again"
            )
        self._inodes.pop(name, None)

    def _describe_damage(self, name: str) -> LoupeError:
        shard = storage.join_path(self.location, name)
        return LoupeError(f"dataset: {shard} is missing or changed; remove {self.location} and prepare it again")

    def _is_intact(self, file: Path) -> bool:
        try:
            return file.is_file() and _hash_once(file) == self._shards[file.name]
        except OSError as error:
            raise LoupeError(f"dataset: {str(file)!r} cannot be read: {error.strerror or error}") from None


_hashes: dict[tuple[Any, ...], str] = {}


def _hash_once(file: Path) -> str:
    """Return the content hash of a file. The hash is computed again only if the file has changed."""
    state = file.stat()
    key = (file, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    if key not in _hashes:
        _hashes[key] = hash_file(file)
    return _hashes[key]
