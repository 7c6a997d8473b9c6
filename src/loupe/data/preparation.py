"""Prepares a dataset from photos in parallel, on this machine or with a Dask cluster.

The memory for decoded photos does not depend on their number. The files of the dataset depend only on the photos and
the settings.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from loupe.cli.progress import ProgressBar, print_skipped
from loupe.config import parse_settings
from loupe.config.base import DatasetSettings
from loupe.config.datasets import Preprocess
from loupe.config.fields import format_value
from loupe.data import manifest, reservations, shards, storage, tasks
from loupe.data.dataset import Dataset
from loupe.data.degradation import draw_degradation, make_inputs, to_grey
from loupe.data.near_duplicates import find_groups
from loupe.data.pairs import Pairs
from loupe.data.sources import SAMPLE_SOURCE, SourcePhoto, list_photos, name_sources
from loupe.errors import UsageError
from loupe.imaging.atomic import create_partial, publish, remove_leftovers

VERSION = 2  # of the prepared data; increase it with every change of labels, inputs or splits
MIN_PHOTOS_PER_SHARD = {"centre": 64, "fit": 64, "random": 16, "tiles": 4}  # by `crop`; 1 with `labels_per_megapixel`
MAX_SHARD_BYTES = 96 * 2**20  # estimated bytes of the labels of a shard with more than the minimum number of photos
TILES_PER_PHOTO = 24  # estimated number of tiles of 150x150 pixels in a photo of 0.5 megapixels
PIXELS_PER_BYTE = 2  # estimated pixels per byte of a file; measured: 1.3 to 6 in JPEGs, 0.5 in PNGs
# Many photos are split into about this number of tasks, or more, so that all cores finish at about the same time.
MIN_TASKS = 64


def prepare(settings: Preprocess, photos: list[SourcePhoto] | None = None) -> Dataset:
    """Create the dataset of photos and settings, or open it if it exists.

    A folder is written under a temporary name and then renamed. Under a URL, the manifest is written last, and marks
    the dataset as complete. Two processes can write the same dataset at the same time, because their shards are
    equal.

    Args:
        settings: the settings of preprocess.
        photos: the result of `list_photos`; None lists the photos.

    Raises:
        UsageError: no photo is usable, or `data_dir` cannot be created or written, or is a file:// URL; see also
            `list_photos` and `tasks.run_tasks`.
        LoupeError: see `shards.prepare_shard` and `tasks.run_tasks`.
    """
    if settings.data_dir.startswith("file://"):  # a dataset would not be written atomically
        raise UsageError(f"data_dir: must be a path or the URL of an object store, got {settings.data_dir!r}")
    photos = list_photos(settings) if photos is None else photos
    digest = _compute_digest(settings, photos)
    location = storage.join_path(settings.data_dir, f"{name_sources(settings.source)}-{digest}")
    if storage.is_url(location):
        if not storage.exists(location, manifest.MANIFEST):
            _write_dataset(settings, photos, digest, location)
        return Dataset(location)
    folder = Path(location)
    if not os.path.exists(folder):  # for a path that is too long, Path.exists raises an error
        with ExitStack() as stack:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers(folder.parent)
                partial = stack.enter_context(create_partial(folder.parent, Path.mkdir))
            except OSError as error:
                got = f"got {settings.data_dir!r}: {error.strerror}"
                raise UsageError(f"data_dir: must be a folder where files can be written, {got}") from None
            _write_dataset(settings, photos, digest, str(partial.resolve()))
            try:
                publish(partial, folder)
            except OSError:
                if not folder.exists():  # if it exists, another process has prepared the dataset
                    raise
    return Dataset(folder)


def choose_crop(settings: Preprocess, photo: SourcePhoto) -> str:
    """Return the value of `crop` for a photo: by default, `tiles` for bundled photos, `centre` for others."""
    return settings.crop or ("tiles" if photo.source == SAMPLE_SOURCE else "centre")


def _compute_digest(settings: Preprocess, photos: list[SourcePhoto]) -> str:
    texts = settings.to_texts()
    for name in ("source", "data_dir", "scheduler", "smoke", "limit", "categories", "crop"):
        texts.pop(name, None)  # these settings do not change the data, or are hashed below
    has_random_inputs = settings.degrade != "none" or settings.shrink == "random"
    if not has_random_inputs and all(choose_crop(settings, photo) != "random" for photo in photos):
        texts.pop("seed")
    if settings.degrade == "none":
        texts.pop("degrade")  # datasets older than this field keep their digest
    if settings.degrade == "camera" and settings.luminance != "rec601":
        texts["noise"] = "luminance"  # a new digest: the noise of older datasets was too strong
    if len(photos) < manifest.SMALL_COLLECTION:
        texts["splits"] = "rank"
    texts["scales"] = ",".join(format_value(scale) for scale in sorted(settings.scales))
    # Hash the text of json.dumps([VERSION, texts, [[path, sha256, crop], ...]]) in parts, to save memory.
    digest = hashlib.sha256(f"[{VERSION}, {json.dumps(texts, sort_keys=True)}, [".encode())
    for number, photo in enumerate(photos):
        entry = json.dumps([photo.path, photo.sha256, choose_crop(settings, photo)])
        digest.update(f"{', ' if number else ''}{entry}".encode())
    digest.update(b"]]")
    return digest.hexdigest()[:12]


def _write_dataset(settings: Preprocess, photos: list[SourcePhoto], digest: str, location: str) -> None:
    parts: dict[int, Any] = {}  # manifest tables by shard number
    checksums: dict[str, str] = {}
    thumbnails: list[tuple[np.ndarray, np.ndarray]] = []  # content hashes and thumbnails per shard
    sums = dict.fromkeys(["labels", *map(shards.name_inputs, settings.scales)], shards.PixelSums())
    results = tasks.run_tasks(shards.prepare_shard, _list_tasks(settings, photos, location), settings.scheduler)
    with closing(results), ProgressBar("preparing photos", len(photos), settings.quiet) as bar:
        photo_count = 0
        for result in results:
            parts[result.number] = manifest.build_table(result.rows, settings.degrade != "none")
            checksums |= result.checksums
            thumbnails.append((result.hashes, result.thumbnails))
            sums = {kind: sums[kind] + result.sums.get(kind, shards.PixelSums()) for kind in sums}
            photo_count += result.photo_count
            bar.update(photo_count)
    ordered = _sort_parts(parts)
    if not sums["labels"].count:
        first = "none"
        if ordered:
            first = ": ".join(ordered[0][name][0].as_py() for name in ("path", "reason"))
        raise UsageError(
            f"source: must contain a usable image, got {len(photos)} files; the first unusable file: {first}"
        )
    metadata = {
        "version": VERSION,
        "digest": digest,
        "settings": settings.to_texts(),
        "statistics": {kind: total.compute_statistics() for kind, total in sums.items()},
        "shards": dict(sorted(checksums.items())),
    }
    groups = find_groups(*map(np.concatenate, zip(*thumbnails, strict=True)))
    manifest.write_manifest(location, list(manifest.assign_splits(ordered, groups)), metadata)


def _sort_parts(parts: dict[int, Any]) -> list[Any]:
    """Return the manifest tables, sorted by path, content hash, shard and row."""
    import pyarrow as pa

    ordered = [parts[number] for number in sorted(parts)]
    # Photos with different values of `crop` are in different tables, whose ranges of paths can overlap.
    ends = [tuple(part[name][at].as_py() for name in ("path", "sha256")) for part in ordered for at in (0, -1)]
    if ends == sorted(ends):
        return ordered
    keys = [(name, "ascending") for name in ("path", "sha256", "shard", "row")]
    return [pa.concat_tables(ordered).sort_by(keys)]


def _list_tasks(settings: Preprocess, photos: list[SourcePhoto], location: str) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of `prepare_shard`."""
    numbers = itertools.count()
    for crop in MIN_PHOTOS_PER_SHARD:
        group = [photo for photo in photos if choose_crop(settings, photo) == crop]
        for part in _split_into_shards(settings, crop, group):
            yield next(numbers), part, crop, location, settings


def _split_into_shards(settings: Preprocess, crop: str, photos: list[SourcePhoto]) -> Iterator[list[SourcePhoto]]:
    """Yield the photos of each shard."""
    rate = settings.labels_per_megapixel
    min_photos = MIN_PHOTOS_PER_SHARD[crop] if rate is None else 1
    max_photos = max(MIN_PHOTOS_PER_SHARD[crop], -(-len(photos) // MIN_TASKS))
    max_labels = MAX_SHARD_BYTES // settings.label_size**2
    part: list[SourcePhoto] = []
    label_count = 0
    for photo in photos:
        if rate is None:
            new_labels = {"random": settings.labels_per_photo, "tiles": TILES_PER_PHOTO}.get(crop, 1)
        else:
            new_labels = max(1, round(rate * PIXELS_PER_BYTE * (photo.size or 0) / 1e6))
        if len(part) >= min_photos and (len(part) >= max_photos or label_count + new_labels > max_labels):
            yield part
            part, label_count = [], 0
        part.append(photo)
        label_count += new_labels
    if part:
        yield part


def prepare_in_memory(settings: Preprocess, scale: Fraction) -> Pairs:
    """Make pairs for scoring from the photos of the settings, without writing a dataset.

    Raises:
        UsageError: no photo is usable; see also `list_photos`.
        LoupeError: see `shards.cut_photo`.
    """
    rows, inputs, labels = [], [], []
    reasons: list[str] = []
    photos = list_photos(settings)
    for photo in photos:
        with reservations.reserve() as reserve_bytes:
            row, new_labels, _ = shards.cut_photo(photo, choose_crop(settings, photo), settings, reserve_bytes)
        if row.reason:
            reasons.append(f"{photo.path}: {row.reason}")
        for number, label in enumerate(new_labels):
            labels.append(to_grey(label.pixels, settings.luminance))
            degradation = draw_degradation(settings, photo.sha256, number)
            inputs += make_inputs([(label.pixels, degradation)], scale, settings)
            rows.append(asdict(row) | (degradation.columns if settings.degrade != "none" else {}))
    if not labels:
        first = reasons[0] if reasons else "none"
        raise UsageError(
            f"photos: must contain a usable image, got {','.join(settings.source)}; the first unusable file: {first}"
        )
    print_skipped(reasons, len(photos), settings.quiet)
    return Pairs.from_images(rows, inputs, labels, scale)


def find_dataset(data_dir: str, name: str) -> str | None:
    """Find a prepared dataset by location or name; return its location, or None if it does not exist."""
    locations = [name] if storage.is_url(name) else [name, storage.join_path(data_dir, name)]
    return next((found for found in locations if storage.exists(found, manifest.MANIFEST, "dataset")), None)


def open_or_prepare(settings: DatasetSettings, name: str, *scales: Fraction) -> Dataset:
    """Open a prepared dataset by location or name. If it does not exist, prepare the source `name`.

    Args:
        settings: the settings for this preparation; all other fields of preprocess have their defaults.
        name: the location, name or source of the dataset.
        scales: the scale factors that are needed. If the default settings do not contain them, the prepared dataset
            has only these scale factors. If one of them is 1:1, the inputs have JPEG artefacts.
    """
    location = find_dataset(settings.data_dir, name)
    if location is not None:
        return Dataset(location)
    given = {"source": (name,) if name else ""} | settings.select(DatasetSettings.model_fields)
    try:
        wanted = parse_settings("preprocess", given)
        if not set(scales) <= set(wanted.scales):
            given |= {"scales": scales} | ({"degrade": "jpeg"} if 1 in scales else {})
            wanted = parse_settings("preprocess", given)
        return prepare(wanted)
    except UsageError as error:
        raise UsageError(str(error).replace("source:", "dataset:", 1)) from None


def open_sample(data_dir: str, scale: Fraction) -> Dataset:
    """Open or prepare the dataset `sample`, with this scale factor, in the folder or URL `data_dir`."""
    return open_or_prepare(DatasetSettings(data_dir=data_dir, quiet=True), "sample", scale)


def reopen(settings: DatasetSettings, name: str, digest: str, source: str, *scales: Fraction) -> Dataset:
    """Open a dataset that is recorded in MLflow, by the name of its folder; if it is missing, prepare it again.

    Args:
        settings: the settings for the preparation; see `open_or_prepare`.
        name: the name of the folder in `data_dir`.
        digest: the recorded digest.
        source: the location, name or source of the dataset, if the folder is missing.
        scales: see `open_or_prepare`.

    Raises:
        UsageError: the dataset has another digest than the recorded one.
    """
    location = storage.join_path(settings.data_dir, name)
    is_there = storage.exists(location, manifest.MANIFEST)
    dataset = Dataset(location) if is_there else open_or_prepare(settings, source, *scales)
    if dataset.digest != digest:
        raise UsageError(
            f"dataset: must be {name}, as recorded in MLflow, got {dataset.folder.name}; "
            f"set data_dir to the folder that contains {name}"
        )
    return dataset
