"""Preparing a dataset: counts, reasons, checksums, equal results, and recovery after `kill -9`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from loupe.config import parse_settings
from loupe.config.base import DatasetSettings
from loupe.data import preparation, reservations
from loupe.data import shards as shard_module
from loupe.data.dataset import Dataset
from loupe.data.labels import shrink_label
from loupe.data.manifest import MANIFEST
from loupe.data.preparation import open_or_prepare, prepare, prepare_in_memory, reopen
from loupe.data.shards import PixelSums, hash_file, prepare_shard
from loupe.data.sources import SourcePhoto, list_photos
from loupe.errors import LoupeError, UsageError
from loupe.imaging import grey
from loupe.imaging.atomic import create_partial
from loupe.imaging.grey import GreyPhoto


@pytest.fixture(scope="session")
def bad_files(crops, encode):
    """Path -> content of an unusable file, and a pattern of the reason."""
    jpeg, png = crops["001.cat/001_0001.jpg"], crops["002.cup/002_0002.png"]
    return {
        "001.cat/cut.jpg": (jpeg[: len(jpeg) * 2 // 3], "damaged: .*truncated"),
        "001.cat/cut.png": (png[: len(png) // 2], "damaged: .*truncated"),
        "001.cat/empty.jpg": (b"", "not an image"),
        "001.cat/letter.jpg": (b"no photo", "not an image"),
        "001.cat/tiny.png": (encode(Image.new("L", (40, 20)), ".png"), "smaller than 30x30: 40x20"),
        "float.tif": (encode(Image.new("F", (40, 40)), ".tif"), "pixels must have a known range"),
        "notes.txt": (b"not a photo", "not an image"),
    }


@pytest.fixture
def mixed_folder(photo_folder, bad_files, write_folder):
    return write_folder(photo_folder, {path: content for path, (content, _) in bad_files.items()})


def shards(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.npy"))}


def facts(folder):
    return json.loads(pyarrow.parquet.read_schema(folder / MANIFEST).metadata[b"loupe"])


def moments(folder):
    return {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}


def test_real_and_bad_files_are_prepared(mixed_folder, bad_files, preprocess, crops):
    dataset = prepare(preprocess(source=str(mixed_folder), scheduler="none"))
    assert dataset.counts["photos"] == dataset.counts["labels"] == len(crops)
    assert dataset.counts["skipped"] == len(bad_files)
    assert all(dataset.counts[f"{split}_labels"] for split in ("train", "validation", "test"))
    assert re.fullmatch(r"photos-[0-9a-f]{12}", dataset.folder.name)
    assert dataset.folder.name.endswith(dataset.digest)
    assert [path.name for path in dataset.folder.parent.iterdir()] == [dataset.folder.name]


def test_skipped_photos_have_one_row_with_the_reason(mixed_folder, bad_files, preprocess):
    rows = prepare(preprocess(source=str(mixed_folder))).rows
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    skipped = {row["path"]: row for row in rows if row["reason"] is not None}
    assert skipped.keys() == bad_files.keys()
    for path, (_, reason) in bad_files.items():
        assert re.match(reason, skipped[path]["reason"])
        assert skipped[path]["split"] is skipped[path]["shard"] is skipped[path]["row"] is None
    assert (skipped["001.cat/tiny.png"]["width"], skipped["001.cat/tiny.png"]["height"]) == (40, 20)


def test_rows_contain_the_position_of_each_label(photo_folder, preprocess, crops):
    settings = preprocess(source=str(photo_folder), crop="tiles")
    dataset = prepare(settings)
    assert {row["path"] for row in dataset.rows} == set(crops)
    for row in dataset.rows:
        grey = GreyPhoto(crops[row["path"]], lambda size: None).read("rec601")
        assert (row["height"], row["width"]) == grey.shape
        assert row["category"] == row["path"].split("/")[0]
        label = np.load(dataset.folder / f"labels-{row['shard']:05d}.npy")[row["row"]]
        assert np.array_equal(label, grey[row["y"] : row["y"] + 30, row["x"] : row["x"] + 30])
        for scale in settings.scales:
            name = f"inputs-{scale.numerator}x{scale.denominator}-{row['shard']:05d}.npy"
            assert np.array_equal(np.load(dataset.folder / name)[row["row"]], shrink_label(label, scale, "lanczos"))


def test_the_manifest_contains_the_hash_of_every_shard_and_the_statistics(photo_folder, preprocess):
    folder = prepare(preprocess(source=str(photo_folder))).folder
    files = sorted(folder.glob("*.npy"))
    assert facts(folder)["shards"] == {file.name: hash_file(file) for file in files}
    assert {file.name for file in files} == {
        f"{name}-00000.npy" for name in ("labels", "inputs-3x2", "inputs-2x1", "inputs-3x1")
    }
    values = np.load(folder / "labels-00000.npy") / 127.5 - 1
    expected = {"mean": values.mean(), "std": values.std()}
    assert facts(folder)["statistics"]["labels"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("value", range(0, 256, 5))
def test_the_standard_deviation_of_equal_pixels_is_zero(value):
    sums = PixelSums(22_500, 22_500 * (value / 127.5 - 1), 22_500 * (value / 127.5 - 1) ** 2)
    assert sums.compute_statistics()["std"] == pytest.approx(0, abs=1e-6)


def test_the_same_call_again_changes_nothing(photo_folder, preprocess):
    settings = preprocess(source=str(photo_folder))
    first = prepare(settings)
    before = moments(first.folder)
    again = prepare(settings)
    assert (again.folder, again.digest) == (first.folder, first.digest)
    assert moments(first.folder) == before
    assert len(list(first.folder.parent.iterdir())) == 1


def test_the_same_call_again_asks_no_scheduler(photo_folder, preprocess):
    first = prepare(preprocess(source=str(photo_folder)))
    again = prepare(preprocess(source=str(photo_folder), scheduler="tcp://127.0.0.1:9"))  # no scheduler answers there
    assert again.folder == first.folder


@pytest.mark.parametrize("crop", ["tiles", "random"])
def test_a_dask_cluster_gives_the_same_digest_and_bytes_as_local_processes(
    mixed_folder, preprocess, scheduler, tmp_path, crop
):
    local = prepare(preprocess(source=str(mixed_folder), crop=crop, scheduler="none"))
    elsewhere = str(tmp_path / "elsewhere")
    on_dask = prepare(preprocess(source=str(mixed_folder), crop=crop, scheduler=scheduler, data_dir=elsewhere))
    assert on_dask.digest == local.digest
    assert shards(on_dask.folder) == shards(local.folder)
    assert facts(on_dask.folder)["statistics"] == facts(local.folder)["statistics"]
    assert on_dask.rows == local.rows


def test_a_tar_has_the_digest_and_the_bytes_of_its_folder(photo_folder, crops, preprocess, write_tar, tmp_path):
    tar = prepare(preprocess(source=str(write_tar(tmp_path / "photos.tar", crops))))
    folder = prepare(preprocess(source=str(photo_folder), data_dir=str(tmp_path / "elsewhere")))
    assert tar.folder.name == folder.folder.name
    assert shards(tar.folder) == shards(folder.folder)


CHANGES = {
    "luminance": "rec709",
    "shrink": "box",
    "recompress": "75",
    "degrade": "jpeg",
    "label_size": "36",
    "crop": "fit",
    "scales": "3:2",
    "limit": "5",
    "categories": "001.cat,003.person",
}


def test_the_digest_changes_with_every_setting_that_changes_the_result(photo_folder, preprocess):
    source = str(photo_folder)
    digests = {name: prepare(preprocess(source=source, **{name: value})).digest for name, value in CHANGES.items()}
    digests["none"] = prepare(preprocess(source=source)).digest
    assert len(set(digests.values())) == len(CHANGES) + 1, digests


def test_the_digest_changes_with_the_photos_and_their_paths(photo_folder, preprocess):
    settings = preprocess(source=str(photo_folder))
    digests = [prepare(settings).digest]
    first = photo_folder / "001.cat" / "001_0001.jpg"
    first.rename(first.with_name("renamed.jpg"))
    digests.append(prepare(settings).digest)
    first.with_name("renamed.jpg").write_bytes((photo_folder / "001.cat" / "001_0002.jpg").read_bytes())
    digests.append(prepare(settings).digest)
    first.with_name("renamed.jpg").unlink()
    digests.append(prepare(settings).digest)
    assert len(set(digests)) == 4


def test_the_seed_changes_random_crops_only(photo_folder, preprocess):
    source = str(photo_folder)
    digests = [
        prepare(preprocess(source=source, crop=crop, seed=seed)).digest
        for crop in ("centre", "random")
        for seed in (0, 1)
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_settings_without_effect_on_the_result_keep_the_digest(photo_folder, preprocess, tmp_path):
    source = str(photo_folder)
    digest = prepare(preprocess(source=source)).digest
    for same in ({"crop": "centre"}, {"scales": "3:1,3:2,2:1"}, {"limit": "99"}, {"categories": "all"}):
        assert prepare(preprocess(source=source, **same)).digest == digest
    assert prepare(preprocess(source=source, data_dir=str(tmp_path / "elsewhere"))).digest == digest


@pytest.mark.parametrize(
    ("degrade", "luminance", "digest", "is_kept"),
    [("none", "rec709", "66e3810d8ec3", True), ("jpeg", "rec709", "ec0c82b59929", True),
     ("camera", "rec601", "47f9ada668f0", True), ("camera", "rec709", "478b69ca5aae", False),
     ("camera", "relative", "11e930800dea", False)],
)  # fmt: skip
def test_datasets_of_older_versions_keep_their_digest_unless_their_noise_was_wrong(
    degrade, luminance, digest, is_kept
):
    settings = parse_settings("preprocess", {"degrade": degrade, "luminance": luminance})
    photos = [SourcePhoto("photos", "a.jpg", "", "a.jpg", sha256="ab" * 32)]
    assert (preparation._compute_digest(settings, photos) == digest) is is_kept


def test_random_labels_differ_by_the_seed_only(photo_folder, preprocess):
    made = {seed: prepare(preprocess(source=str(photo_folder), crop="random", seed=seed)) for seed in (0, 1)}
    places = [[(row["x"], row["y"], row["shrunk"]) for row in made[seed].rows] for seed in (0, 1)]
    assert len(places[0]) == len(places[1]) == 7 * 6
    assert places[0] != places[1]


def test_large_photos_have_more_labels_and_are_in_smaller_shards(
    real_crop, encode, write_folder, preprocess, tmp_path
):
    large, small = (encode(real_crop("astronaut.png", 0, 0, side, side), ".jpg", quality=95) for side in (500, 40))
    files = {f"{size}/{n}.jpg": photo + bytes([n]) for size, photo in (("l", large), ("s", small)) for n in range(8)}
    given = {"source": str(write_folder(tmp_path / "photos", files)), "crop": "random", "labels_per_megapixel": "100"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "MAX_SHARD_BYTES", 60 * 30**2)
        rows = prepare(preprocess(**given)).rows
    assert Counter(row["path"] for row in rows) == {path: 25 if path[0] == "l" else 1 for path in files}
    shards_of = {size: {row["shard"] for row in rows if row["category"] == size} for size in "ls"}
    assert len(shards_of["l"]) >= 3
    assert len(shards_of["s"]) <= 2


@pytest.mark.parametrize(
    "given",
    [
        {"label_size": 120, "crop": "random", "labels_per_photo": 300, "degrade": "jpeg"},
        {"label_size": 120, "crop": "random", "labels_per_photo": 300, "recompress": 90},
        {"label_size": 600, "crop": "centre", "degrade": "camera", "noise_levels": "10,10"},
        {"label_size": 600, "crop": "centre", "degrade": "camera", "noise_levels": "10,10", "scales": "1:1"},
        {"label_size": 600, "crop": "centre", "degrade": "jpeg", "luminance": "relative"},
    ],
)
def test_the_memory_of_labels_and_of_their_degradation_is_reserved(
    given, preprocess, real_crop, tmp_path, monkeypatch
):
    side = int(given["label_size"])
    real_crop("coffee.png", 0, 0, 400, 400).resize((side, side)).save(tmp_path / "photo.png")
    settings = preprocess(source=str(tmp_path / "photo.png"), **({"scales": "2:1"} | given))
    sizes = []
    monkeypatch.setattr(reservations, "reserve", lambda: nullcontext(sizes.append))
    for module in (grey, shard_module):
        monkeypatch.setattr(
            module, "OPENING_BYTES", 2 * 10**6
        )  # for Python's objects; the default hides small photos
    tracemalloc.start()
    prepare_shard(0, list_photos(settings), given["crop"], str(tmp_path), settings)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < max(sizes) < 8 * peak_bytes


def test_labels_per_megapixel_is_refused_without_random_crops(preprocess):
    for given in ({}, {"crop": "centre"}, {"crop": "tiles"}):
        with pytest.raises(UsageError, match=r"^labels_per_megapixel: has no effect with crop="):
            preprocess(labels_per_megapixel="6", **given)
    with pytest.raises(UsageError, match=r"^labels_per_photo: has no effect with labels_per_megapixel=6\.0, got 3"):
        preprocess(crop="random", labels_per_photo="3", labels_per_megapixel="6")


def test_a_source_without_usable_photos_is_refused_and_leaves_no_files(tmp_path, bad_files, preprocess, write_folder):
    source = write_folder(tmp_path / "bad", {path: content for path, (content, _) in bad_files.items()})
    with pytest.raises(UsageError, match="source: must contain a usable image, got 7 files") as caught:
        prepare(preprocess(source=str(source)))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("change", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-9])])
def test_a_photo_that_changes_after_listing_ends_the_step(change, photo_folder, preprocess, tmp_path):
    settings = preprocess(source=str(photo_folder))
    photos = list_photos(settings)
    change(Path(photos[2].file))
    with pytest.raises(LoupeError, match=f"source: must be a URL or a folder .*{photos[2].file}"):
        prepare(settings, photos)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("address", ["tcp//nowhere", "tls://127.0.0.1:9", "ucx://127.0.0.1:9"])
def test_a_scheduler_that_does_not_answer_is_refused_and_leaves_no_files(address, photo_folder, preprocess, tmp_path):
    with pytest.raises(
        UsageError, match=f"scheduler: must be the address of a running Dask scheduler, got '{address}'"
    ):
        prepare(preprocess(source=str(photo_folder), scheduler=address))
    assert list((tmp_path / "data").iterdir()) == []


PREPARE = """
import sys
from loupe.config import parse_settings
from loupe.data.preparation import prepare
prepare(parse_settings("preprocess", dict(pair.split("=") for pair in sys.argv[1:])))
"""


@pytest.fixture
def many_photos(tmp_path, real_crop, encode, write_folder):
    """A folder of 96 photos: six tasks of crop=random."""
    places = [(x, y) for y in range(0, 400, 50) for x in range(0, 420, 35)]
    files = {f"{x}-{y}.png": encode(real_crop("astronaut.png", x, y, 90, 80), ".png") for x, y in places}
    return write_folder(tmp_path / "many", files)


def wait_for(found, process):
    until = time.monotonic() + 60
    while not found():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.002)


def test_preparing_again_after_a_kill_gives_the_same_digest_and_bytes(many_photos, preprocess, tmp_path):
    data = tmp_path / "data"
    given = {"source": str(many_photos), "crop": "random", "labels_per_photo": "100"}  # slow enough to be killed
    words = [
        f"{name}={value}" for name, value in (given | {"data_dir": data, "label_size": 30, "quiet": True}).items()
    ]
    process = subprocess.Popen([sys.executable, "-c", PREPARE, *words], start_new_session=True)
    try:
        wait_for(lambda: list(data.glob(".loupe-*/labels-*.npy")), process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (left,) = data.iterdir()
    assert not (left / MANIFEST).exists()
    assert 0 < len(shards(left)) < 6 * 4

    repaired = prepare(preprocess(**given))
    unbroken = prepare(preprocess(**given, data_dir=str(tmp_path / "elsewhere")))
    assert repaired.folder.name == unbroken.folder.name
    assert len(shards(repaired.folder)) == 6 * 4
    assert shards(repaired.folder) == shards(unbroken.folder)
    assert repaired.rows == unbroken.rows
    assert list(data.iterdir()) == [repaired.folder]


def test_incomplete_folders_of_running_processes_are_kept(photo_folder, preprocess):
    settings = preprocess(source=str(photo_folder))
    data = Path(settings.data_dir)
    data.mkdir(parents=True)
    with create_partial(data, Path.mkdir) as running:
        prepared = prepare(settings).folder
        assert set(data.iterdir()) == {running, prepared}


def test_a_file_name_that_is_not_utf_8_is_accepted(photo_folder, preprocess, crops):
    name = os.fsencode(photo_folder / "001.cat") + b"/caf\xe9.jpg"
    with open(name, "wb") as file:
        file.write(crops["001.cat/001_0001.jpg"])
    assert prepare(preprocess(source=str(photo_folder))).counts["labels"] == len(crops) + 1


def test_pairs_in_memory_equal_those_of_the_dataset(mixed_folder, preprocess):
    settings = preprocess(source=str(mixed_folder), crop="tiles")
    stored = prepare(settings).load_pairs("all", Fraction(3, 2))
    held = prepare_in_memory(settings, Fraction(3, 2))
    assert [row["path"] for row in held.rows] == [row["path"] for row in stored.rows]
    for index in range(len(stored)):
        assert all(np.array_equal(a, b) for a, b in zip(held[index], stored[index], strict=True))


def test_pairs_in_memory_of_bad_photos_are_refused(tmp_path, bad_files, preprocess, write_folder):
    source = write_folder(tmp_path / "bad", {path: content for path, (content, _) in bad_files.items()})
    with pytest.raises(UsageError, match="photos: must contain a usable image, got "):
        prepare_in_memory(preprocess(source=str(source)), Fraction(2))


@pytest.mark.parametrize("place", ["file", "file/inside", "x" * 300, "/proc"])
def test_a_data_dir_that_cannot_be_created_or_written_is_refused(place, photo_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    settings = parse_settings("preprocess", {"source": str(photo_folder), "data_dir": place, "quiet": True})
    with pytest.raises(
        UsageError, match=rf"^data_dir: must be a folder where files can be written, got '{place}': \w"
    ):
        prepare(settings)


def test_a_file_url_as_data_dir_is_refused_before_photos_are_listed(preprocess, tmp_path):
    url = tmp_path.as_uri()
    with pytest.raises(UsageError, match=f"^data_dir: must be a path or the URL of an object store, got '{url}'$"):
        prepare(preprocess(source="nowhere", data_dir=url))


def test_a_dataset_is_opened_by_path_or_by_name_in_data_dir(photo_folder, preprocess):
    settings = preprocess(source=str(photo_folder))
    made = prepare(settings)
    assert open_or_prepare(settings, str(made.folder)).digest == made.digest
    assert open_or_prepare(settings, made.folder.name).digest == made.digest


@pytest.mark.parametrize(
    ("scale", "smoke", "expected"),
    [
        (Fraction(4), False, {"scales": "4:1", "label_size": "148", "degrade": "none"}),
        (Fraction(4), True, {"scales": "4:1", "label_size": "88", "degrade": "none"}),
        (Fraction(1), False, {"scales": "1:1", "label_size": "150", "degrade": "jpeg"}),
        (Fraction(2), False, {"scales": "3:2,2:1,3:1", "label_size": "150", "degrade": "none"}),
    ],
)
def test_a_dataset_that_is_prepared_for_a_scale_factor_contains_it(tmp_path, scale, smoke, expected):
    Image.new("L", (160, 160)).save(tmp_path / "photo.png")
    settings = DatasetSettings(data_dir=str(tmp_path / "data"), smoke=smoke, quiet=True)
    dataset = open_or_prepare(settings, str(tmp_path), scale)
    assert {name: dataset.settings[name] for name in expected} == expected
    assert reopen(settings, "deleted", dataset.digest, str(tmp_path), scale).folder == dataset.folder


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_a_missing_source_is_reported_with_the_field_dataset(preprocess, name):
    with pytest.raises(UsageError, match=rf"^dataset: .*, got '{name}'$"):
        open_or_prepare(preprocess(), name)


def test_reopen_refuses_another_digest(photo_folder, preprocess):
    settings = preprocess(source=str(photo_folder))
    made = prepare(settings)
    assert reopen(settings, made.folder.name, made.digest, str(photo_folder)).folder == made.folder
    with pytest.raises(UsageError, match=r"dataset: must be photos-.*, as recorded in MLflow"):
        reopen(settings, made.folder.name, "0" * 12, str(photo_folder))


def test_listed_photos_are_not_listed_again(photo_folder, preprocess):
    settings = preprocess(source=str(photo_folder))
    photos = list_photos(settings)
    (photo_folder / "later.jpg").write_bytes((photo_folder / "001.cat" / "001_0001.jpg").read_bytes())
    assert Dataset(prepare(settings, photos).folder).counts["photos"] == len(photos)
