"""Datasets and photos at s3://…, on a real S3 server: the same bytes as in a folder, whoever writes and reads."""

import io
import re
import subprocess
import sys
import tarfile
import time
from collections import Counter
from fractions import Fraction

import fsspec
import numpy as np
import pytest
import services
from jobs import build_env, loupe

from loupe.config import parse_settings
from loupe.data.dataset import Dataset
from loupe.data.manifest import MANIFEST
from loupe.data.preparation import open_or_prepare, prepare, reopen
from loupe.data.shards import hash_file
from loupe.errors import LoupeError, UsageError

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("object store")]

DATA, SCALE = "s3://loupe/data", Fraction(3, 2)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with one bucket; gives its log, and the environment of its clients."""
    folder = tmp_path_factory.mktemp("s3")
    with services.s3(folder) as client, pytest.MonkeyPatch.context() as patch:
        set_all(patch, client)
        fsspec.filesystem("s3").mkdir("loupe")
        yield folder / "s3.log", client


@pytest.fixture
def store(server, tmp_path, monkeypatch):
    """The server's file system, for a process with an empty cache of its own."""
    set_all(monkeypatch, server[1] | {"LOUPE_CACHE": str(tmp_path / "cache")})
    return fsspec.filesystem("s3")


@pytest.fixture(scope="module")
def dask(server, tmp_path_factory):
    """A scheduler with two workers, each in a folder of its own."""
    with services.dask_cluster(tmp_path_factory.mktemp("dask"), **server[1]) as address:
        yield address


@pytest.fixture(scope="module")
def in_a_folder(photo_folder, tmp_path_factory):
    """The dataset of the same photos in a local folder, prepared by a local cluster."""
    return prepare(preprocess(source=photo_folder, data_dir=tmp_path_factory.mktemp("data")))


def set_all(patch, variables):
    for name, value in variables.items():
        patch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()


def preprocess(**given):
    return parse_settings("preprocess", {"label_size": 30, "quiet": "true"} | {k: str(v) for k, v in given.items()})


def shards(dataset, store=None):
    """Name -> bytes of a dataset's shards, on this machine or at its address."""
    if store is None:
        return {file.name: file.read_bytes() for file in dataset.folder.glob("*.npy")}
    return {path.rpartition("/")[2]: store.cat_file(path) for path in store.glob(f"{dataset.location}/*.npy")}


def reads(server):
    """How often each object was asked for."""
    return Counter(line.split("GET ")[1].split()[0] for line in server[0].read_text().splitlines() if "GET " in line)


def test_a_local_cluster_writes_to_an_address_what_it_writes_to_a_folder(in_a_folder, photo_folder, store):
    settings = preprocess(source=photo_folder, data_dir=DATA)
    dataset = prepare(settings)
    assert dataset.location == f"{DATA}/cut-{in_a_folder.digest}"
    assert shards(dataset, store) == shards(in_a_folder)
    assert len(shards(in_a_folder)) == 5 * 4
    assert dataset.rows == in_a_folder.rows
    before = {path: about["LastModified"] for path, about in store.find(DATA, detail=True, refresh=True).items()}
    assert prepare(settings).digest == dataset.digest  # nothing is written a second time
    assert before == {
        path: about["LastModified"] for path, about in store.find(DATA, detail=True, refresh=True).items()
    }
    assert (
        open_or_prepare(parse_settings("train", {"data_dir": DATA}), dataset.folder.name).location == dataset.location
    )
    assert reopen(settings, dataset.folder.name, dataset.digest, "sample").location == dataset.location


@pytest.mark.parametrize("source", ["s3://loupe/cut/", "s3://loupe/cut.tar"])
def test_workers_that_share_no_folder_read_photos_from_an_address_and_write_to_one(
    source, in_a_folder, photo_folder, store, dask
):
    if source.endswith("/"):
        store.put(f"{photo_folder}/", source, recursive=True)
        store.pipe("s3://loupe/cut/.hidden/0001.jpg", b"no photo")
    else:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            tar.add(photo_folder, "cut")
        store.pipe(source, stream.getvalue())
    place = f"s3://loupe/from-{source.strip('/')[-3:]}"
    dataset = prepare(preprocess(source=source, data_dir=place, scheduler=dask))
    assert dataset.location == f"{place}/cut-{in_a_folder.digest}"
    assert shards(dataset, store) == shards(in_a_folder)


def test_a_shard_is_read_from_the_store_once(in_a_folder, photo_folder, store, server, dask):
    dataset = prepare(preprocess(source=photo_folder, data_dir=DATA, scheduler=dask))
    assert list(dataset.folder.glob("*.npy")) == []  # none is fetched before it is used
    before = reads(server)
    pairs = dataset.load_pairs("all", SCALE)
    assert np.array_equal(pairs.stack()[1], in_a_folder.load_pairs("all", SCALE).stack()[1])
    fetched = reads(server) - before
    assert len(fetched) == 2 * 5  # labels, and inputs of the one scale
    assert set(fetched.values()) == {1}
    again = Dataset(dataset.location)
    again.load_pairs("all", SCALE)
    assert not [name for name in (reads(server) - before - fetched) if name.endswith(".npy")]
    assert not [file for file in dataset.folder.iterdir() if file.name.startswith(".")]


def test_a_damaged_copy_is_fetched_again_and_a_damaged_shard_refused_by_name(photo_folder, store, dask):
    place = "s3://loupe/damaged"
    dataset = prepare(preprocess(source=photo_folder, data_dir=place, scheduler=dask))
    dataset.load_pairs("train", SCALE)
    copy = dataset.folder / "labels-00002.npy"
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    dataset.load_pairs("train", SCALE)
    assert copy.read_bytes() == whole
    store.pipe(f"{dataset.location}/labels-00002.npy", whole[:-100])
    dataset.load_pairs("train", SCALE)  # this machine's copy is right
    copy.unlink()
    with pytest.raises(LoupeError, match=rf"dataset: {dataset.location}/labels-00002.npy is missing or changed"):
        dataset.load_pairs("train", SCALE)
    store.rm(f"{dataset.location}/labels-00002.npy")
    copy.unlink()
    with pytest.raises(LoupeError, match=rf"dataset: {dataset.location}/labels-00002.npy is missing or changed"):
        Dataset(dataset.location).load_pairs("train", SCALE)
    store.rm(f"{dataset.location}/{MANIFEST}")  # which makes the dataset: without it, it is prepared again
    with pytest.raises(UsageError, match=r"dataset: must be a prepared dataset, got 's3://.*'"):
        Dataset(dataset.location)
    again = prepare(preprocess(source=photo_folder, data_dir=place, scheduler=dask))
    again.load_pairs("train", SCALE)
    assert hash_file(copy) == again._shards[copy.name]


def test_a_network_is_trained_on_what_lies_at_an_address(photo_folder, store, server, dask, tmp_path):
    dataset = prepare(preprocess(source=photo_folder, data_dir=DATA, scheduler=dask))
    before = reads(server)
    loupe("train", "--smoke", "true", "--data_dir", DATA, "--dataset", dataset.folder.name, "--quiet",
          cwd=tmp_path, LOUPE_CACHE=str(tmp_path / "cache"), **server[1])  # fmt: skip
    fetched = {name: count for name, count in (reads(server) - before).items() if name.endswith(".npy")}
    assert set(fetched.values()) == {1}
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("given", "changed", "kind", "line"),
    [
        ({"data_dir": "s3://nowhere/data"}, {}, LoupeError, "data_dir: 's3://nowhere/.*bucket does not exist"),
        ({}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, LoupeError, "data_dir: 's3://loupe/.*Could not connect"),
        ({}, {"AWS_ACCESS_KEY_ID": ""}, LoupeError, "data_dir: 's3://loupe/.*Unable to locate credentials"),
        ({"data_dir": "zzz://x/y"}, {}, UsageError, "data_dir: 'zzz://x/y.*Protocol not known: zzz"),
        (
            {"source": "s3://loupe/nothing/"},
            {},
            UsageError,
            "source: must contain an image, got 's3://loupe/nothing/'",
        ),
        ({"source": "s3://nowhere/photos.tar"}, {}, LoupeError, "source: 's3://nowhere/photos.tar': .*not exist"),
    ],
    ids=["bucket", "endpoint", "credentials", "protocol", "photos", "bucket-of-photos"],
)
def test_what_is_wrong_with_an_address_is_told_in_one_line(given, changed, kind, line, store, dask, monkeypatch):
    set_all(monkeypatch, {"AWS_EC2_METADATA_DISABLED": "true"} | changed)
    started = time.monotonic()
    with pytest.raises(kind) as told:
        prepare(preprocess(**{"limit": 3, "data_dir": "s3://loupe/wrong", "scheduler": dask} | given))
    assert re.fullmatch(f"{line}.*", str(told.value))
    assert isinstance(told.value, UsageError) == (kind is UsageError)
    assert time.monotonic() - started < 20


def test_keys_that_the_store_does_not_know_are_refused(tmp_path, monkeypatch):
    with services.s3(tmp_path / "s3", INITIAL_NO_AUTH_ACTION_COUNT="0") as client:
        set_all(monkeypatch, client)
        with pytest.raises(LoupeError, match=r"data_dir: 's3://loupe/data/sample-.*Forbidden"):
            prepare(preprocess(data_dir=DATA))


def test_a_package_that_is_missing_is_named():
    code = "import sys; sys.modules['s3fs'] = None; from loupe.data import storage; storage.exists('s3://a/b', 'c')"
    done = subprocess.run([sys.executable, "-c", code], env=build_env(), capture_output=True, text=True)
    line = "loupe.errors.UsageError: data_dir: 's3://a/b' needs another package: Install s3fs to access S3"
    assert done.stderr.splitlines()[-1] == line
