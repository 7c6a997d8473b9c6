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
import pkgutil
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from loupe.config import Prepares, Preprocess, settings_of
from loupe.data import dataset, pairs, photos, places
from loupe.data.sources import SourcePhoto, list_photos, short_name
from loupe.errors import LoupeError, UsageError
from loupe.fields import text_of
from loupe.progress import Bar, say_left_out

VERSION = 1  # of this code: a change that gives other labels or inputs raises it
AT_A_TIME = 64  # tasks that are given out, unless there are more cores
# Dask looks at each thread every 10 ms, and remembers thousands of steps of each task, unless it is told not to.
QUIET = {"distributed.worker.profile.enabled": False, "distributed.admin.low-level-log-length": 100}
PHOTOS_A_TASK = {"centre": 64, "fit": 64, "random": 16, "tiles": 4}


def listed(settings: Preprocess) -> list[SourcePhoto]:
    """The photos that the settings name, with their content hashes; raises UsageError where there are none."""
    return list_photos(settings.source, settings.categories, settings.limit, settings.data_dir, settings.quiet)


def prepare(settings: Preprocess, photos: list[SourcePhoto] | None = None) -> dataset.Dataset:
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
    photos = listed(settings) if photos is None else photos
    digest = _digest(settings, photos)
    place = places.inside(settings.data_dir, f"{short_name(settings.source)}-{digest}")
    if places.is_address(place):
        if not places.exists(place, dataset.MANIFEST):
            _write(settings, photos, digest, place)
        return dataset.Dataset(place)
    folder = Path(place)
    if not folder.exists():
        _remove_leftovers(folder)
        partial = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}")
        partial.mkdir(parents=True)
        try:
            _write(settings, photos, digest, str(partial.resolve()))
            try:
                partial.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return dataset.Dataset(folder)


def crop_of(settings: Preprocess, photo: SourcePhoto) -> str:
    """The crop that a photo gets: as set, else tiles for the bundled sample and centre for the rest."""
    return settings.crop or ("tiles" if photo.source == "sample" else "centre")


def _digest(settings: Preprocess, photos: list[SourcePhoto]) -> str:
    given = settings.texts()
    for name in ("source", "data_dir", "scheduler", "smoke", "limit", "categories", "crop"):
        given.pop(name, None)  # they choose the photos, which stand below, or change nothing in the result
    if all(crop_of(settings, photo) != "random" for photo in photos):
        given.pop("seed")
    given["scales"] = ",".join(text_of(scale) for scale in sorted(settings.scales))
    # As json.dumps writes [VERSION, given, [[path, sha256, crop], …]], without the memory that it takes for all.
    hashed = hashlib.sha256(f"[{VERSION}, {json.dumps(given, sort_keys=True)}, [".encode())
    for number, photo in enumerate(photos):
        one = json.dumps([photo.path, photo.sha256, crop_of(settings, photo)])
        hashed.update(f"{', ' if number else ''}{one}".encode())
    hashed.update(b"]]")
    return hashed.hexdigest()[:12]


def _write(settings: Preprocess, listed: list[SourcePhoto], digest: str, place: str) -> None:
    parts: dict[int, Any] = {}  # of the manifest, by the number of their shard
    shards: dict[str, str] = {}
    sums = dict.fromkeys(["labels", *map(dataset.input_name, settings.scales)], np.zeros(3))
    with client(settings.scheduler) as cluster, Bar("preparing photos", len(listed), settings.quiet) as bar:
        done = 0
        for result in _results(cluster, _tasks(settings, listed), place, settings.texts()):
            parts[result["number"]] = dataset.table_of(result["rows"])
            shards |= result["shards"]
            sums = {name: sums[name] + result["sums"].get(name, 0) for name in sums}
            done += result["photos"]
            bar.at(done)
    ordered = _in_order(parts)
    if not sums["labels"][0]:
        reason = ordered[0]["reason"][0].as_py() if ordered else "there is none"
        raise UsageError(f"source: not one of {len(listed)} photos can be used; the first: {reason}")
    dataset.write_manifest(
        place,
        dataset.with_splits(ordered),
        {
            "version": VERSION,
            "digest": digest,
            "settings": settings.texts(),
            "statistics": {name: _mean_and_deviation(total) for name, total in sums.items()},
            "shards": dict(sorted(shards.items())),
        },
    )


def _in_order(parts: dict[int, Any]) -> list[Any]:
    """The manifest's rows by path, content hash, shard and row: as the photos were listed, if all had one crop."""
    import pyarrow as pa

    ordered = [parts[number] for number in sorted(parts)]
    ends = [tuple(part[name][at].as_py() for name in ("path", "sha256")) for part in ordered for at in (0, -1)]
    if ends == sorted(ends):
        return ordered
    keys = [(name, "ascending") for name in ("path", "sha256", "shard", "row")]
    return [pa.concat_tables(ordered).sort_by(keys)]


def _tasks(settings: Preprocess, listed: list[SourcePhoto]) -> Iterator[tuple[int, list[SourcePhoto], str]]:
    """The number of each shard, its photos, and their crop."""
    numbers = itertools.count()
    for crop, step in PHOTOS_A_TASK.items():
        group = [photo for photo in listed if crop_of(settings, photo) == crop]
        for start in range(0, len(group), step):
            yield next(numbers), group[start : start + step], crop


def _results(cluster: Any, tasks: Iterator[tuple[Any, ...]], *shared: Any) -> Iterator[dict[str, Any]]:
    """What `_make_shard` gives, as it comes; so few tasks are given out at a time that none fills a memory."""
    from distributed import as_completed

    def given(count: int) -> list[Any]:
        return [cluster.submit(_make_shard, *task, *shared, pure=False) for task in itertools.islice(tasks, count)]

    running = as_completed(given(max(AT_A_TIME, 2 * sum(cluster.nthreads().values()))), with_results=True)
    for _, result in running:
        running.update(given(1))
        yield result


def pairs_in_memory(settings: Preprocess, scale: Fraction) -> dataset.Pairs:
    """Cut photos for scoring, without a dataset on disk: what can be used, in the order of paths.

    Raises:
        UsageError: not one label came out of the photos.
    """
    rows, inputs, labels = [], [], []
    reasons: list[str] = []
    given = listed(settings)
    for photo in given:
        row, cut = _cut(photo, crop_of(settings, photo), settings)
        if row.reason:
            reasons.append(f"{photo.path}: {row.reason}")
        rows += [asdict(row)] * len(cut)
        labels += [label.pixels for label in cut]
        inputs += [pairs.input_of(label.pixels, scale, settings) for label in cut]
    if not labels:
        first = reasons[0] if reasons else "there is none"
        raise UsageError(f"photos: not one photo of {','.join(settings.source)} can be used; the first: {first}")
    say_left_out(reasons, len(given), settings.quiet)
    return dataset.Pairs(rows, inputs, labels, scale)


def prepared_place(settings: Prepares, name: str) -> str | None:
    """Where a prepared dataset is, by its folder or address or by its name in data_dir; None where it is not."""
    named = [name] if places.is_address(name) else [name, places.inside(settings.data_dir, name)]
    return next((place for place in named if places.exists(place, dataset.MANIFEST, "dataset")), None)


def open_or_prepare(settings: Prepares, name: str) -> dataset.Dataset:
    """The dataset of a step: one that is prepared already, or a source that is prepared with defaults."""
    place = prepared_place(settings, name)
    if place is not None:
        return dataset.Dataset(place)
    shared = {key: getattr(settings, key) for key in ("data_dir", "scheduler", "seed", "smoke", "quiet")}
    try:
        return prepare(settings_of("preprocess", {"source": name} | shared))
    except UsageError as error:
        raise UsageError(str(error).replace("source:", "dataset:", 1)) from None


def reopen(settings: Prepares, name: str, digest: str, source: str) -> dataset.Dataset:
    """The dataset that a run was trained on: by its name in data_dir, else prepared again.

    Raises:
        UsageError: what is there, or came out, has another digest.
    """
    place = places.inside(settings.data_dir, name)
    found = dataset.Dataset(place) if places.exists(place, dataset.MANIFEST) else open_or_prepare(settings, source)
    if found.digest != digest:
        raise UsageError(f"dataset: the run was trained on {name}, got {found.folder.name}; set data_dir")
    return found


def _cut(photo: SourcePhoto, crop: str, settings: Preprocess) -> tuple[dataset.Row, list[pairs.Label]]:
    """The labels of one photo with its row; a photo that cannot be used has none, and a reason."""
    row = dataset.Row(path=photo.path, category=photo.category, sha256=photo.sha256)
    if photo.reason:
        return replace(row, reason=photo.reason), []
    try:
        image = photos.open_photo(_as_listed(photo))
        row = replace(row, width=image.width, height=image.height)
        grey = photos.luminance_of(image, settings.luminance)
        return row, pairs.labels_of(grey, settings, crop, settings.seed, photo.sha256)
    except photos.PhotoError as error:
        return replace(row, reason=str(error)), []


def _make_shard(
    number: int, listed: list[SourcePhoto], crop: str, place: str, given: dict[str, str]
) -> dict[str, Any]:
    """One task: decode, cut, shrink, write; gives the manifest's rows, the files' sha256 and pixel sums.

    Raises:
        LoupeError: a photo is not, here, what it was where it was listed.
    """
    settings = settings_of("preprocess", given)
    rows: list[dict[str, Any]] = []
    labels: list[np.ndarray] = []
    for photo in listed:
        row, cut = _cut(photo, crop, settings)
        if not cut:
            rows.append(vars(row))
        for label in cut:
            where = {"x": label.x, "y": label.y, "shrunk": label.shrunk, "shard": number, "row": len(labels)}
            rows.append(vars(row) | where)
            labels.append(label.pixels)
    arrays = {"labels": labels}
    for scale in settings.scales if labels else ():
        small = [pairs.input_of(label, scale, settings) for label in labels]
        arrays[dataset.input_name(scale)] = small
    shards, sums = {}, {}
    for name, pictures in arrays.items():
        if pictures:
            stacked = np.stack(pictures)
            with places.written(place, dataset.shard_name(name, number)) as file:
                dataset.write_shard(file, stacked)
                shards[file.name] = dataset.sha256_of(file)
            values, counts = np.arange(256) / 127.5 - 1, np.bincount(stacked.ravel(), minlength=256)
            sums[name] = np.array([stacked.size, counts @ values, counts @ values**2])
    return {"number": number, "rows": rows, "shards": shards, "sums": sums, "photos": len(listed)}


def _as_listed(photo: SourcePhoto) -> Path | bytes:
    """The file or bytes of a photo; refused where this machine does not see what the one that listed it saw."""
    try:
        content = photo.opened()
        found = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else dataset.sha256_of(content)
        why = "is another file" if found != photo.sha256 else ""
    except OSError as error:
        why = error.strerror or str(error)
    if why:  # as a photo that cannot be read it would be left out, silently, with all others of its machine
        raise LoupeError(
            "source: must be at an address or in a folder that all machines share, and stay as it is; on "
            f"{socket.gethostname()}, {photo.file!r}: {why}"
        )
    return content


def _mean_and_deviation(total: np.ndarray) -> dict[str, float]:
    mean = total[1] / total[0]
    return {"mean": round(float(mean), 6), "std": round(float(np.sqrt(total[2] / total[0] - mean**2)), 6)}


@contextmanager
def client(scheduler: str | None) -> Iterator[Any]:
    """A Dask client of this scheduler, or of a cluster of this machine's cores that ends with it.

    Raises:
        UsageError: no scheduler answers there, or one that has no Loupe.
        LoupeError: it is gone, whatever exception tells.
    """
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="10s")
        except (OSError, ValueError) as error:
            raise UsageError(f"scheduler: no Dask scheduler answers at {scheduler!r} ({error})") from None
        with client:
            try:
                client.run_on_scheduler(pkgutil.resolve_name, "loupe:__version__")
            except ImportError:
                raise UsageError(f"scheduler: needs Loupe, on its workers too; {scheduler!r} has none") from None
            try:
                yield client
            except Exception:
                if client.status != "running":
                    raise LoupeError(f"scheduler: {scheduler!r} does not answer any more") from None
                raise
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with (
        dask.config.set(QUIET),
        LocalCluster(
            n_workers=cores, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50, memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed runs on this machine left of this dataset."""
    import psutil

    for partial in folder.parent.glob(f".{glob.escape(folder.name)}.{socket.gethostname()}.*"):
        owner = partial.name.rpartition(".")[2]
        if owner.isdecimal() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            shutil.rmtree(partial, ignore_errors=True)
