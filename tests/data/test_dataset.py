"""Splits depend on content hashes, and a dataset verifies its files before it uses them."""

import hashlib
import math
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import psutil
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.config import parse_settings
from loupe.data import dataset as data
from loupe.data.dataset import Dataset
from loupe.data.manifest import MANIFEST, SMALL_COLLECTION, assign_splits, build_table
from loupe.data.pairs import Pairs
from loupe.data.preparation import prepare
from loupe.data.shards import hash_file, name_inputs, name_shard
from loupe.data.sources import find_bundled_photo, list_photos
from loupe.errors import LoupeError, UsageError
from loupe.imaging.atomic import write_atomically
from loupe.imaging.conversion import to_floats

SCALES = [Fraction(3, 2), Fraction(2), Fraction(3)]
SHARES = {"train": 0.75, "validation": 0.125, "test": 0.125}


def sha256(text):
    return hashlib.sha256(str(text).encode()).hexdigest()


def splits_of(hashes):
    """Return the split of each content hash in a dataset of these photos; fails if a hash has two splits."""
    rows = [{"sha256": key, "row": number} for number, key in enumerate(hashes)]
    parts = assign_splits([build_table(rows[:1]), build_table(rows[1:])], {})
    rows = [row for part in parts for row in part.to_pylist()]
    found = {row["sha256"]: row["split"] for row in rows}
    assert all(found[row["sha256"]] == row["split"] for row in rows)
    return found


def shares(splits):
    return {name: count / len(splits) for name, count in Counter(splits.values()).items()}


def test_splits_of_many_photos_have_the_stated_shares():
    assert shares(splits_of(map(sha256, range(8000)))) == pytest.approx(SHARES, abs=0.02)


def test_splits_of_a_limited_collection_have_the_stated_shares():
    chosen = sorted(map(sha256, range(40_000)))[:4000]
    assert shares(splits_of(chosen)) == pytest.approx(SHARES, abs=0.03)


@settings(max_examples=30)
@given(more=st.integers(1, 500))
def test_added_photos_do_not_move_others_to_another_split(more):
    before = splits_of(map(sha256, range(SMALL_COLLECTION)))
    after = splits_of(map(sha256, range(SMALL_COLLECTION + more)))
    assert {key: after[key] for key in before} == before


def test_the_order_of_the_photos_does_not_matter():
    hashes = list(map(sha256, range(5)))
    assert splits_of(hashes) == splits_of(hashes[::-1])


@settings(max_examples=30)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_copies_of_a_photo_are_in_the_same_split(photos):
    assert splits_of(map(sha256, photos)).keys() == set(map(sha256, photos))  # it refuses two splits for one hash


@settings(max_examples=50)
@given(st.sets(st.integers(), min_size=3, max_size=SMALL_COLLECTION - 1))
def test_each_split_of_a_small_collection_has_its_share(photos):
    counts = Counter(splits_of(map(sha256, photos)).values())
    assert counts["validation"] == counts["test"] == math.ceil(len(photos) / 8)
    assert counts["train"] >= counts["test"]


def test_the_photos_of_a_small_collection_are_split_by_the_rank_of_the_hash():
    at = {f"{'0' * 48}{int(place * 2**64):016x}": place for place in (0.74, 0.1, 0.7, 0.3)}
    found = {at[key]: split for key, split in splits_of(at).items()}
    assert found == {0.1: "train", 0.3: "train", 0.7: "validation", 0.74: "test"}


def test_the_sample_has_several_test_photos_and_its_example_is_one_of_them():
    photos = list_photos(parse_settings("preprocess", {}))
    splits = splits_of(photo.sha256 for photo in photos)
    test = [photo.file for photo in photos if splits[photo.sha256] == "test"]
    assert len(test) == 3
    assert str(find_bundled_photo()) in test


def test_skipped_photos_have_no_split():
    table = build_table([{"sha256": sha256(number), "row": number or None} for number in range(6)])
    (part,) = assign_splits([table], {})
    assert [split is None for split in part["split"].to_pylist()] == [True] + [False] * 5


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, scheduler, crops, write_folder):
    place = tmp_path_factory.mktemp("dataset")
    extra = {"notes.txt": b"no photo"}
    source = write_folder(place / "photos", crops | extra)
    given = {"source": str(source), "data_dir": str(place), "scheduler": scheduler, "quiet": "true"}
    return prepare(parse_settings("preprocess", given | {"label_size": 24, "crop": "tiles"})).folder


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / prepared.name)


@pytest.mark.parametrize("scale", SCALES)
def test_pairs_are_inputs_and_labels_of_the_same_rows(prepared, scale):
    dataset = Dataset(prepared)
    pairs = dataset.load_pairs("all", scale)
    assert pairs.sides == (24 / scale, 24)
    assert len(pairs) == dataset.counts["labels"]
    for index, row in enumerate(pairs.rows):
        small, label = pairs[index]
        for name, pixels in ((name_inputs(scale), small), ("labels", label)):
            assert np.array_equal(pixels, np.load(prepared / name_shard(name, row["shard"]))[row["row"]])


@pytest.mark.skipif(sys.platform != "linux", reason="the page cache of Linux")
def test_a_crop_reads_its_image_from_the_disk_and_not_the_shard(prepared, tmp_path):
    """A system with the usual settings would read at least 128 kB per crop."""
    side, images = 150, 200
    file = tmp_path / "labels-00000.npy"
    np.save(file, np.zeros((images, side, side), "uint8"))
    dataset = Dataset(prepared)
    with patch.object(dataset, "_fetch_shard", lambda name: file):
        shard = dataset._open_shard(file.name, images - 1)
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    chosen = np.arange(0, images, 20)
    index = np.stack([np.zeros(images, np.int32), np.arange(images, dtype=np.int32)], axis=1)
    pairs = Pairs([], ([shard], [shard]), index, Fraction(1))
    before, faults = psutil.Process().io_counters().read_bytes, resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
    pairs.cut(chosen, (np.zeros((len(chosen), 2), int),) * 2, (side, side))
    assert psutil.Process().io_counters().read_bytes - before < 2 * len(chosen) * side**2
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_majflt - faults <= len(chosen)  # not one per page


def test_pairs_are_memory_maps_of_bytes(prepared):
    dataset = Dataset(prepared)
    small, label = dataset.load_pairs("all", Fraction(2))[0]
    for pixels, kind in ((small, name_inputs(Fraction(2))), (label, "labels")):
        shard = dataset._maps[name_shard(kind, 0)]
        assert isinstance(shard, np.memmap)
        assert np.shares_memory(pixels, shard)
    assert small.dtype == label.dtype == np.uint8


def test_every_photo_is_in_exactly_one_split(prepared):
    dataset = Dataset(prepared)
    parts = [{row["sha256"] for row in dataset.load_pairs(name, Fraction(2)).rows} for name in SHARES]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == dataset.counts["photos"] == 7


def test_counts_match_the_manifest(prepared):
    dataset = Dataset(prepared)
    counts = dataset.counts
    assert counts["skipped"] == 1
    assert counts["labels"] == sum(row["reason"] is None for row in dataset.rows) > 7
    assert counts["labels"] == sum(counts[f"{name}_labels"] for name in SHARES)


def test_limit_keeps_all_labels_of_the_photos_with_the_smallest_hashes(prepared):
    dataset = Dataset(prepared)
    rows = dataset.load_pairs("all", Fraction(2)).rows
    hashes = sorted({row["sha256"] for row in rows})
    for limit in (1, 3, 7, 100):
        chosen = [row for row in rows if row["sha256"] in hashes[:limit]]
        assert list(dataset.load_pairs("all", Fraction(2), limit).rows) == chosen


def test_a_larger_limit_of_the_training_split_includes_a_smaller_one(prepared):
    dataset = Dataset(prepared)
    whole = dataset.load_pairs("train", Fraction(2))
    images = {(row["path"], row["x"], row["y"]): whole[index] for index, row in enumerate(whole.rows)}
    photos = len({row["sha256"] for row in whole.rows})
    assert photos > 2
    before = set()
    for limit in range(1, photos + 2):
        part = dataset.load_pairs("train", Fraction(2), limit)
        assert len({row["sha256"] for row in part.rows}) == min(limit, photos)
        names = [(row["path"], row["x"], row["y"]) for row in part.rows]
        assert before <= set(names) <= images.keys()
        for index, name in enumerate(names):
            assert all(map(np.array_equal, part[index], images[name]))
        before = set(names)
    assert before == images.keys()


def test_batches_contain_all_pairs_in_order_as_floats(prepared):
    pairs = Dataset(prepared).load_pairs("all", Fraction(3, 2))
    batches = list(pairs.batches(4))
    assert [len(inputs) for inputs, _ in batches[:-1]] == [4] * (len(batches) - 1)
    inputs, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert inputs.shape == (len(pairs), 16, 16, 1)
    assert labels.shape == (len(pairs), 24, 24, 1)
    assert inputs.dtype == labels.dtype == np.float32
    for index in range(len(pairs)):
        assert np.array_equal(inputs[index, ..., 0], to_floats(pairs[index][0]))
        assert np.array_equal(labels[index, ..., 0], to_floats(pairs[index][1]))


def test_batches_of_large_labels_are_smaller(prepared, monkeypatch):
    pairs = Dataset(prepared).load_pairs("all", Fraction(2))
    for pixels, expected in ((3 * 24**2, 3), (24**2 - 1, 1), (100 * 24**2, 4)):
        monkeypatch.setattr("loupe.data.pairs.MAX_BATCH_PIXELS", pixels)
        batches = list(pairs.batches(4))
        assert max(len(labels) for _, labels in batches) == expected
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), pairs.load_floats()[1])


def test_subsample_keeps_inputs_and_labels_together(prepared):
    pairs = Dataset(prepared).load_pairs("all", Fraction(2))
    few = pairs.subsample(5)
    assert len(few) == 5
    assert (few.rows[0], few.rows[-1]) == (pairs.rows[0], pairs.rows[-1])
    for index, row in enumerate(few.rows):
        whole = pairs[pairs.rows.index(row)]
        assert all(np.array_equal(a, b) for a, b in zip(few[index], whole, strict=True))
    assert len(pairs.subsample(10_000)) == len(pairs)


@pytest.mark.parametrize("name", ["labels-00000.npy", "inputs-2x1-00000.npy"])
@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_changed_shard_is_refused_by_name(copy, name, harm):
    file = copy / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    if harm != "gone":
        file.write_bytes(content if harm == "changed" else content[:-100])
    with pytest.raises(LoupeError, match=name) as caught:
        Dataset(copy).load_pairs("all", Fraction(2))
    assert not isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)


def test_a_process_hashes_each_shard_once_until_it_changes(copy):
    hashed = Counter()

    def counted(file):
        hashed[file.name] += 1
        return hash_file(file)

    with patch.object(data, "hash_file", counted):
        for _ in range(2):
            dataset = Dataset(copy)
            for split in ("train", "validation", "test", "all"):
                dataset.load_pairs(split, Fraction(2))
        names = {name_shard(name, 0) for name in ("labels", name_inputs(Fraction(2)))}
        assert names <= hashed.keys()
        assert set(hashed.values()) == {1}
        with (copy / "labels-00000.npy").open("r+b") as file:  # name and size stay the same
            file.seek(-1, 2)
            last = file.read(1)[0]
            file.seek(-1, 2)
            file.write(bytes([last ^ 1]))
        with pytest.raises(LoupeError, match="labels-00000"):
            dataset.load_pairs("all", Fraction(2))


def damage(file):
    """Change the last byte of a file in place."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def load_and_verify(dataset):
    dataset.load_pairs("train", Fraction(2))
    dataset.finish_verification()


def refuse_background(dataset):
    """Load the training split, and return the error that the background verification raises."""
    pairs = dataset.load_pairs("train", Fraction(2))
    with pytest.raises(LoupeError) as caught:
        dataset.finish_verification()
    for part in (pairs.select(np.arange(1)), pairs.compress_inputs(50)):
        with pytest.raises(LoupeError):
            part.raise_if_damaged()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def background(monkeypatch):
    """All shards are verified in the background."""
    monkeypatch.setattr(data, "VERIFY_FIRST_BYTES", 0)


def test_a_damaged_shard_is_found_in_the_background(background, copy):
    dataset = Dataset(copy)
    for split in SHARES:
        dataset.load_pairs(split, Fraction(2)).raise_if_damaged()
    dataset.finish_verification()
    damage(copy / "labels-00000.npy")
    for damaged in (Dataset(copy), dataset):
        assert "labels-00000.npy is missing or changed" in refuse_background(damaged)


@pytest.mark.parametrize("harm", [damage, lambda file: os.truncate(file, 500)], ids=["changed", "cut"])
@pytest.mark.parametrize("is_used", [False, True])
def test_a_damaged_copy_of_a_url_is_not_used_and_downloaded_again(
    is_used, harm, background, prepared, tmp_path, monkeypatch
):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    dataset = Dataset(prepared.as_uri())
    intact = dataset.load_pairs("train", Fraction(2)).copy_to_memory()
    dataset.finish_verification()
    harm(dataset.folder / "labels-00000.npy")
    user = dataset if is_used else Dataset(prepared.as_uri())
    with pytest.raises(LoupeError, match=r"labels-00000\.npy' was damaged or deleted.* run the step again"):
        load_and_verify(user)
    next_run = Dataset(prepared.as_uri())
    assert all(map(np.array_equal, next_run.load_pairs("train", Fraction(2)).copy_to_memory(), intact))
    next_run.finish_verification()


def test_a_damaged_shard_at_a_url_is_refused(background, copy, tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    damage(copy / "labels-00000.npy")
    for _ in range(2):
        assert "labels-00000.npy is missing or changed" in refuse_background(Dataset(copy.as_uri()))


def test_a_copy_that_another_process_replaces_is_not_counted_as_intact(background, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    monkeypatch.setattr(data, "HASH_THREADS", 0)  # `finish_verification` verifies all shards
    Dataset(prepared.as_uri()).load_pairs("train", Fraction(2))
    dataset = Dataset(prepared.as_uri())
    damage(dataset.folder / "labels-00000.npy")
    dataset.load_pairs("train", Fraction(2))
    shutil.copy(prepared / "labels-00000.npy", tmp_path / "new")
    os.replace(tmp_path / "new", dataset.folder / "labels-00000.npy")
    with pytest.raises(LoupeError, match="run the step again"):
        dataset.finish_verification()


def test_a_verified_copy_of_a_url_may_be_deleted(background, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    dataset = Dataset(prepared.as_uri())
    file = dataset.folder / "labels-00000.npy"
    for _ in range(2):
        load_and_verify(dataset)
        assert file.read_bytes() == (prepared / file.name).read_bytes()
        file.unlink()


@pytest.mark.parametrize("place", ["file", "/proc/loupe"])
def test_a_cache_that_cannot_be_written_is_refused_by_name(place, prepared, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    cache = str(tmp_path / place)
    monkeypatch.setenv("LOUPE_CACHE", cache)
    with pytest.raises(
        UsageError, match=f"^LOUPE_CACHE: must be a folder where files can be written, got '{cache}': \\w"
    ):
        Dataset(prepared.as_uri())


def test_partial_downloads_of_killed_processes_are_removed(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    folder = Dataset(prepared.as_uri()).folder
    code = "import os, sys; from pathlib import Path; from loupe.imaging.atomic import write_atomically\n"
    code += "with write_atomically(Path(sys.argv[1])) as partial: os._exit(0)"
    subprocess.run([sys.executable, "-c", code, folder / "labels-00000.npy"], check=True)
    assert len(list(folder.iterdir())) == 2
    with write_atomically(folder / "labels-00001.npy") as partial:  # of a running process
        Dataset(prepared.as_uri())
        assert {file.name for file in folder.iterdir()} == {MANIFEST, partial.name}


def fail_to_read(file):
    raise OSError(5, "Input/output error", str(file))


@pytest.mark.parametrize("first_bytes", [0, data.VERIFY_FIRST_BYTES])
def test_a_shard_that_cannot_be_read_is_reported_with_the_reason(first_bytes, copy, monkeypatch):
    monkeypatch.setattr(data, "VERIFY_FIRST_BYTES", first_bytes)
    monkeypatch.setattr(data, "hash_file", fail_to_read)
    with pytest.raises(LoupeError, match=r"\.npy' cannot be read: Input/output error$"):
        load_and_verify(Dataset(copy))


EXIT = """
import sys, threading
from fractions import Fraction
from loupe.data import dataset
dataset.VERIFY_FIRST_BYTES = 0
dataset.hash_file = lambda file: threading.Event().wait()
dataset.Dataset(sys.argv[1]).load_pairs("train", Fraction(2))
sys.exit(3)
"""


def test_a_process_exits_without_waiting_for_the_background(prepared):
    done = subprocess.run([sys.executable, "-c", EXIT, prepared], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")


def test_a_damaged_shard_of_another_scale_is_ignored(copy):
    (copy / "inputs-3x1-00000.npy").unlink()
    assert len(Dataset(copy).load_pairs("all", Fraction(2)))


def test_a_folder_that_is_not_a_dataset_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="must be a prepared dataset"):
            Dataset(folder)


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_cut_manifest_is_refused(copy, keep):
    content = (copy / MANIFEST).read_bytes()
    (copy / MANIFEST).write_bytes(content[: int(len(content) * keep)])
    assert "manifest.parquet" in get_refusal(lambda: Dataset(copy))


@pytest.mark.parametrize("column", ["split", "row", "path", "sha256"])
def test_a_changed_byte_in_a_column_of_the_manifest_is_refused_when_it_is_read(copy, column):
    with pyarrow.parquet.ParquetFile(copy / MANIFEST) as file:
        chunk = file.metadata.row_group(0).column(file.schema_arrow.names.index(column))
        last_byte = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1
    content = bytearray((copy / MANIFEST).read_bytes())
    content[last_byte] ^= 1
    (copy / MANIFEST).write_bytes(content)
    assert "manifest.parquet" in get_refusal(lambda: Dataset(copy).rows)


@pytest.mark.parametrize("key", [b'"train_labels": ', b'"digest": "'])
def test_changed_metadata_of_the_manifest_are_refused(copy, key):
    table = pyarrow.parquet.read_table(copy / MANIFEST)
    metadata = table.schema.metadata
    changed = metadata | {b"loupe": metadata[b"loupe"].replace(key, key + b"1")}
    pyarrow.parquet.write_table(table.replace_schema_metadata(changed), copy / MANIFEST)
    assert "no valid checksum" in get_refusal(lambda: Dataset(copy))


def test_a_manifest_without_a_checksum_of_its_metadata_is_refused(copy):
    table = pyarrow.parquet.read_table(copy / MANIFEST)
    without = {b"loupe": table.schema.metadata[b"loupe"]}
    pyarrow.parquet.write_table(table.replace_schema_metadata(without), copy / MANIFEST)
    assert "no valid checksum" in get_refusal(lambda: Dataset(copy))


def get_refusal(read):
    """Return the error about a damaged dataset that `read` raises."""
    with pytest.raises(LoupeError, match=r"^dataset: .* is damaged: ") as caught:
        read()
    assert not isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_parquet_file_of_another_program_is_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a"]}), tmp_path / MANIFEST)
    with pytest.raises(UsageError, match="must be a prepared dataset"):
        Dataset(tmp_path)


def test_a_scale_without_inputs_is_refused(prepared):
    with pytest.raises(UsageError, match=r"scale: must be one of 3:2,2:1,3:1 for .*, got 4:1"):
        Dataset(prepared).load_pairs("all", Fraction(4))


def test_an_empty_split_is_refused(tmp_path, preprocess, crops, write_folder):
    source = write_folder(tmp_path / "one", {"one.jpg": crops["001.cat/001_0001.jpg"]})
    dataset = prepare(preprocess(source=str(source)))
    empty = [name for name in SHARES if not dataset.counts[f"{name}_labels"]]
    assert len(empty) == 2
    with pytest.raises(UsageError, match=f"split: must have a photo, got none in {empty[0]}"):
        dataset.load_pairs(empty[0], Fraction(2))


def test_hash_file_returns_the_sha256_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert hash_file(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
