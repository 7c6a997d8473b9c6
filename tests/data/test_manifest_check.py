"""Parquet files that are not manifests, and shards that are not files, are refused in one line."""

import hashlib
import json
import os
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loupe.config import parse_settings
from loupe.config.fields import parse_scale
from loupe.data import preparation
from loupe.data.dataset import Dataset
from loupe.data.shards import hash_file
from loupe.data.sources import list_photos
from loupe.errors import LoupeError, UsageError


@pytest.fixture
def dataset(photo_folder, tmp_path):
    settings = {"source": str(photo_folder), "label_size": "30", "data_dir": str(tmp_path / "data"), "quiet": "true"}
    prepared = preparation.prepare(parse_settings("preprocess", settings))
    prepared.table = pq.read_table(prepared.folder / "manifest.parquet")  # the intact manifest
    return prepared


def rewrite(dataset, metadata=None, **columns):
    """Write the manifest again with other metadata and columns; a column that is None is left out."""
    table = dataset.table
    for name, values in columns.items():
        position = table.column_names.index(name)
        table = table.remove_column(position)
        if values is not None:
            table = table.add_column(position, name, values)
    kept = json.loads(dataset.table.schema.metadata[b"loupe"])
    new = metadata if not isinstance(metadata, dict) else kept | metadata
    text = json.dumps(kept if metadata is None else new)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    table = table.replace_schema_metadata({"loupe": text, "loupe.sha256": checksum})
    pq.write_table(table, dataset.folder / "manifest.parquet")
    return dataset.folder


def load(folder):
    dataset = Dataset(folder)
    assert dataset.counts["labels"]
    assert not dataset.skip_reasons
    return dataset.load_pairs("all", parse_scale("3:2"))


def test_other_columns_are_refused(dataset):
    count = len(dataset.table)
    others = {
        "path": None,
        "width": pa.array([1.5] * count),
        "split": pa.array(["dev"] * count),
        "shard": pa.array([7] * count, pa.int32()),
        "row": pa.array([-1] * count, pa.int32()),
        "sha256": pa.array([None] * count, pa.string()),
    }
    for name, values in others.items():
        with pytest.raises(UsageError, match=r"^dataset: must be a prepared dataset, got "):
            load(rewrite(dataset, **{name: values}))
    load(rewrite(dataset))


def test_a_degraded_dataset_without_the_columns_is_refused(dataset):
    with pytest.raises(UsageError, match=r"the columns must be .*jpeg_quality"):
        load(rewrite(dataset, {"settings": dataset.settings | {"degrade": "jpeg"}}))


@pytest.mark.parametrize(
    "metadata",
    [
        [], 3, "text", {"digest": 3}, {"digest": "../1f"},
        {"settings": []}, {"settings": {}}, {"shards": ["labels"]}, {"statistics": 1},
        {"shards": {}}, {"shards": {"../labels-00000.npy": "0"}},
        {"settings": {"scales": "x", "luminance": "rec601", "source": "sample", "label_size": "30"}},
        {"settings": {"scales": "3:2", "luminance": "rec601", "source": "sample"}},
        {"settings": {"scales": "3:2", "luminance": "rec601", "source": "sample", "label_size": "30.5"}},
        {"settings": {"scales": "1:0", "luminance": "rec601", "source": "sample", "label_size": "30"}},
    ],
)  # fmt: skip
def test_other_metadata_are_refused(metadata, dataset):
    with pytest.raises(UsageError, match=r"^dataset: must be a prepared dataset, got "):
        load(rewrite(dataset, metadata))


def test_a_scale_with_an_exponent_is_refused(dataset):
    settings = {"scales": "3:2,2e0", "luminance": "rec601", "source": "sample", "label_size": "30"}
    with pytest.raises(UsageError, match="scales: must be a ratio such as 3:2"):
        load(rewrite(dataset, {"settings": settings}))


def test_a_scale_that_occurs_twice_is_refused(dataset):
    settings = {"scales": "3:2,2:1,1.5", "luminance": "rec601", "source": "sample", "label_size": "30"}
    with pytest.raises(UsageError, match=r"the scales must be different, got 3:2,2:1,1\.5"):
        load(rewrite(dataset, {"settings": settings}))


def test_inputs_that_do_not_match_the_labels_are_refused(dataset):
    shard = dataset.folder / "inputs-3x2-00000.npy"
    inputs = np.load(shard)
    np.save(shard, np.concatenate([inputs, inputs]))
    shards = json.loads(dataset.table.schema.metadata[b"loupe"])["shards"] | {shard.name: hash_file(shard)}
    with pytest.raises(LoupeError, match=f"must have {len(inputs)} images, one per label, got {2 * len(inputs)}"):
        load(rewrite(dataset, {"shards": shards}))


def test_rows_beyond_the_end_of_a_shard_are_refused(dataset):
    rows = pa.array([row and row + 100 for row in dataset.table["row"].to_pylist()], pa.int32())
    with pytest.raises(LoupeError, match="the manifest needs"):
        load(rewrite(dataset, row=rows))


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3), "uint8"), np.zeros((900, 30, 30)), np.zeros((900, 30, 20), "uint8")]
)
def test_shards_with_other_arrays_are_refused(array, dataset):
    shard = dataset.folder / "labels-00000.npy"
    np.save(shard, array)
    shards = json.loads(dataset.table.schema.metadata[b"loupe"])["shards"] | {shard.name: hash_file(shard)}
    with pytest.raises(LoupeError, match="must be a shard: it contains"):
        load(rewrite(dataset, {"shards": shards}))


def make_array_file(header):
    """Return a .npy file with this text as header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


ARRAY_FILES = {
    "empty": b"",
    "text": b"text",
    "zip": b"PK\x03\x04" + bytes(100),
    "cut header": make_array_file(b"{'descr': ("),
    "list as a key": make_array_file(b"{[]:1}"),
    "nested header": make_array_file(b"(" * 5000),
    "objects": make_array_file(b"{'descr': '|O', 'fortran_order': False, 'shape': (9,)}"),
    "too large": make_array_file(b"{'descr': '|u1', 'fortran_order': False, 'shape': (9%060d,)}" % 0),
}


@pytest.mark.parametrize("name", ARRAY_FILES)
def test_files_that_are_not_arrays_are_refused(name, dataset):
    shard = dataset.folder / "labels-00000.npy"
    shard.write_bytes(ARRAY_FILES[name])
    shards = json.loads(dataset.table.schema.metadata[b"loupe"])["shards"] | {shard.name: hash_file(shard)}
    with pytest.raises(LoupeError, match="must be a shard: ") as caught:
        load(rewrite(dataset, {"shards": shards}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.parquet", "labels-00000.npy"])
@pytest.mark.parametrize("create", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_fifo_a_folder_or_a_device_is_refused(create, name, dataset):
    (dataset.folder / name).unlink()
    create(dataset.folder / name)
    with pytest.raises(LoupeError, match=r"^dataset: "):
        load(dataset.folder)


def test_deep_trees_and_long_paths_are_skipped_with_a_reason(photo_folder, tmp_path):
    here = os.getcwd()
    os.chdir(photo_folder)
    try:
        for _ in range(30):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        os.chdir(photo_folder)
        for _ in range(1500):
            os.mkdir("e")
            os.chdir("e")
    finally:
        os.chdir(here)
    os.symlink(photo_folder, photo_folder / "loop")
    settings = {"source": str(photo_folder), "label_size": "30", "data_dir": str(tmp_path / "data"), "quiet": "true"}
    try:
        photos = list_photos(parse_settings("preprocess", settings))
    finally:
        subprocess.run(["rm", "-rf", photo_folder / "e", photo_folder / ("d" * 200)], check=True)  # rmtree recurses
    reasons = sorted(photo.reason for photo in photos if photo.reason)
    assert reasons == ["a link: not followed", "cannot be read: File name too long"]
    assert len([photo for photo in photos if not photo.reason]) == 7
