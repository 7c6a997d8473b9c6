"""Turns listed photos into a prepared dataset on disk, on all cores or on a Dask cluster.

Every task turns a few photos into one shard of labels and one of inputs for each scale; only rows of the
manifest and sums come back, so that memory stays the same however many photos there are. What a task
writes depends on its photos and the settings alone, not on the machine, the order or the core.
"""

import glob
import hashlib
import itertools
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from loupe.cli.progress import ProgressBar, print_left_out
from loupe.config import parse_settings
from loupe.config.base import DatasetSettings
from loupe.config.fields import format_value
from loupe.config.steps import Preprocess
from loupe.data import manifest, shards, storage, tasks
from loupe.data.dataset import Dataset, Pairs
from loupe.data.labels import shrink_label
from loupe.data.sources import SourcePhoto, list_photos, name_sources
from loupe.errors import UsageError

VERSION = 1  # of this code: a change that gives other labels or inputs raises it
PHOTOS_A_TASK = {"centre": 64, "fit": 64, "random": 16, "tiles": 4}


def find_photos(settings: Preprocess) -> list[SourcePhoto]:
    """The photos that the settings name, with their content hashes; raises UsageError where there are none."""
    return list_photos(settings.source, settings.categories, settings.limit, settings.data_dir, settings.quiet)


def prepare(settings: Preprocess, photos: list[SourcePhoto] | None = None) -> Dataset:
    """Make the dataset of these photos and settings, or open it where it exists already.

    A folder is written beside its final name and renamed when whole, so that a killed run leaves nothing under
    that name; what it left beside is removed by the next one. At an address, where nothing can be renamed, the
    manifest comes last and makes the dataset: whoever writes the same shards again writes the same bytes.

    Args:
        settings: what to prepare.
        photos: what `listed` gave for the settings; None lists them here.

    Raises:
        UsageError: not one label came out of the photos.
    """
    photos = find_photos(settings) if photos is None else photos
    digest = _compute_digest(settings, photos)
    place = storage.join_path(settings.data_dir, f"{name_sources(settings.source)}-{digest}")
    if storage.is_url(place):
        if not storage.exists(place, manifest.MANIFEST):
            _write_dataset(settings, photos, digest, place)
        return Dataset(place)
    folder = Path(place)
    if not folder.exists():
        _remove_leftovers(folder)
        partial = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}")
        partial.mkdir(parents=True)
        try:
            _write_dataset(settings, photos, digest, str(partial.resolve()))
            try:
                partial.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Dataset(folder)


def choose_crop(settings: Preprocess, photo: SourcePhoto) -> str:
    """The crop that a photo gets: as set, else tiles for the bundled sample and centre for the rest."""
    return settings.crop or ("tiles" if photo.source == "sample" else "centre")


def _compute_digest(settings: Preprocess, photos: list[SourcePhoto]) -> str:
    given = settings.to_texts()
    for name in ("source", "data_dir", "scheduler", "smoke", "limit", "categories", "crop"):
        given.pop(name, None)  # they choose the photos, which stand below, or change nothing in the result
    if all(choose_crop(settings, photo) != "random" for photo in photos):
        given.pop("seed")
    given["scales"] = ",".join(format_value(scale) for scale in sorted(settings.scales))
    # As json.dumps writes [VERSION, given, [[path, sha256, crop], …]], without the memory that it takes for all.
    hashed = hashlib.sha256(f"[{VERSION}, {json.dumps(given, sort_keys=True)}, [".encode())
    for number, photo in enumerate(photos):
        one = json.dumps([photo.path, photo.sha256, choose_crop(settings, photo)])
        hashed.update(f"{', ' if number else ''}{one}".encode())
    hashed.update(b"]]")
    return hashed.hexdigest()[:12]


def _write_dataset(settings: Preprocess, listed: list[SourcePhoto], digest: str, place: str) -> None:
    parts: dict[int, Any] = {}  # of the manifest, by the number of their shard
    digests: dict[str, str] = {}
    sums = dict.fromkeys(["labels", *map(shards.name_inputs, settings.scales)], np.zeros(3))
    results = tasks.run_tasks(shards.prepare_shard, _list_tasks(settings, listed, place), settings.scheduler)
    with closing(results), ProgressBar("preparing photos", len(listed), settings.quiet) as bar:
        done = 0
        for result in results:
            parts[result["number"]] = manifest.build_table(result["rows"])
            digests |= result["shards"]
            sums = {name: sums[name] + result["sums"].get(name, 0) for name in sums}
            done += result["photos"]
            bar.update(done)
    ordered = _sort_parts(parts)
    if not sums["labels"][0]:
        reason = ordered[0]["reason"][0].as_py() if ordered else "there is none"
        raise UsageError(f"source: not one of {len(listed)} photos can be used; the first: {reason}")
    manifest.write_manifest(
        place,
        manifest.assign_splits(ordered),
        {
            "version": VERSION,
            "digest": digest,
            "settings": settings.to_texts(),
            "statistics": {name: _compute_statistics(total) for name, total in sums.items()},
            "shards": dict(sorted(digests.items())),
        },
    )


def _sort_parts(parts: dict[int, Any]) -> list[Any]:
    """The manifest's rows by path, content hash, shard and row: as the photos were listed, if all had one crop."""
    import pyarrow as pa

    ordered = [parts[number] for number in sorted(parts)]
    ends = [tuple(part[name][at].as_py() for name in ("path", "sha256")) for part in ordered for at in (0, -1)]
    if ends == sorted(ends):
        return ordered
    keys = [(name, "ascending") for name in ("path", "sha256", "shard", "row")]
    return [pa.concat_tables(ordered).sort_by(keys)]


def _list_tasks(settings: Preprocess, listed: list[SourcePhoto], place: str) -> Iterator[tuple[Any, ...]]:
    """The arguments of `shards.prepare_shard` for each shard."""
    numbers = itertools.count()
    for crop, step in PHOTOS_A_TASK.items():
        group = [photo for photo in listed if choose_crop(settings, photo) == crop]
        for start in range(0, len(group), step):
            yield next(numbers), group[start : start + step], crop, place, settings.to_texts()


def prepare_in_memory(settings: Preprocess, scale: Fraction) -> Pairs:
    """Cut photos for scoring, without a dataset on disk: what can be used, in the order of paths.

    Raises:
        UsageError: not one label came out of the photos.
    """
    rows, inputs, labels = [], [], []
    reasons: list[str] = []
    given = find_photos(settings)
    for photo in given:
        row, found = shards.cut_photo(photo, choose_crop(settings, photo), settings)
        if row.reason:
            reasons.append(f"{photo.path}: {row.reason}")
        rows += [asdict(row)] * len(found)
        labels += [label.pixels for label in found]
        inputs += [shrink_label(label.pixels, scale, settings) for label in found]
    if not labels:
        first = reasons[0] if reasons else "there is none"
        raise UsageError(f"photos: not one photo of {','.join(settings.source)} can be used; the first: {first}")
    print_left_out(reasons, len(given), settings.quiet)
    return Pairs(rows, inputs, labels, scale)


def find_dataset(data_dir: str, name: str) -> str | None:
    """Where a prepared dataset is, by its folder or address or by its name in data_dir; None where it is not."""
    named = [name] if storage.is_url(name) else [name, storage.join_path(data_dir, name)]
    return next((place for place in named if storage.exists(place, manifest.MANIFEST, "dataset")), None)


def open_or_prepare(settings: DatasetSettings, name: str) -> Dataset:
    """The dataset of a step: one that is prepared already, or a source that is prepared with defaults."""
    place = find_dataset(settings.data_dir, name)
    if place is not None:
        return Dataset(place)
    shared = settings.select(DatasetSettings.model_fields)
    try:
        return prepare(parse_settings("preprocess", {"source": name} | shared))
    except UsageError as error:
        raise UsageError(str(error).replace("source:", "dataset:", 1)) from None


def open_sample(data_dir: str) -> Dataset:
    """Open the dataset of the bundled photos below a folder; prepare it first if it is missing."""
    return open_or_prepare(DatasetSettings(data_dir=data_dir, quiet=True), "sample")


def reopen(settings: DatasetSettings, name: str, digest: str, source: str) -> Dataset:
    """The dataset that a run was trained on: by its name in data_dir, else prepared again.

    Raises:
        UsageError: what is there, or came out, has another digest.
    """
    place = storage.join_path(settings.data_dir, name)
    found = Dataset(place) if storage.exists(place, manifest.MANIFEST) else open_or_prepare(settings, source)
    if found.digest != digest:
        raise UsageError(f"dataset: the run was trained on {name}, got {found.folder.name}; set data_dir")
    return found


def _compute_statistics(total: np.ndarray) -> dict[str, float]:
    mean = total[1] / total[0]
    return {"mean": round(float(mean), 6), "std": round(float(np.sqrt(total[2] / total[0] - mean**2)), 6)}


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed runs on this machine left of this dataset."""
    import psutil

    for partial in folder.parent.glob(f".{glob.escape(folder.name)}.{socket.gethostname()}.*"):
        owner = partial.name.rpartition(".")[2]
        if owner.isdecimal() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            shutil.rmtree(partial, ignore_errors=True)
