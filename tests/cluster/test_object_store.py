"""Datasets and photos at s3:// URLs on a real S3 server are the same as in local folders."""

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
from loupe.data.sources import list_photos
from loupe.errors import LoupeError, UsageError

pytestmark = [pytest.mark.slow(80), pytest.mark.xdist_group("object store")]

DATA, SCALE = "s3://loupe/data", Fraction(3, 2)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with one bucket: its log and the environment variables of its clients."""
    folder = tmp_path_factory.mktemp("s3")
    with services.s3(folder) as client, pytest.MonkeyPatch.context() as patch:
        set_variables(patch, client)
        fsspec.filesystem("s3").mkdir("loupe")
        yield folder / "s3.log", client


@pytest.fixture
def store(server, tmp_path, monkeypatch):
    """The file system of the server, in a process with an empty cache."""
    set_variables(monkeypatch, server[1] | {"LOUPE_CACHE": str(tmp_path / "cache")})
    return fsspec.filesystem("s3")


@pytest.fixture(scope="module")
def dask(server, tmp_path_factory):
    """A Dask scheduler with two workers, each in a folder of its own."""
    with services.dask_cluster(tmp_path_factory.mktemp("dask"), **server[1]) as address:
        yield address


@pytest.fixture(scope="module")
def local_dataset(photo_folder, tmp_path_factory):
    """The dataset of the same photos, prepared in a local folder."""
    return prepare(preprocess_settings(source=photo_folder, data_dir=tmp_path_factory.mktemp("data")))


def set_variables(patch, variables):
    for name, value in variables.items():
        patch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()


def preprocess_settings(**fields):
    return parse_settings("preprocess", {"label_size": 30, "quiet": "true"} | {k: str(v) for k, v in fields.items()})


def read_shards(dataset, store=None):
    """Map the names of a dataset's shards to their bytes, from the local folder or from the store."""
    if store is None:
        return {file.name: file.read_bytes() for file in dataset.folder.glob("*.npy")}
    return {path.rpartition("/")[2]: store.cat_file(path) for path in store.glob(f"{dataset.location}/*.npy")}


def count_reads(server):
    """Count the read requests of each object."""
    return Counter(line.split("GET ")[1].split()[0] for line in server[0].read_text().splitlines() if "GET " in line)


def test_dataset_at_a_url_is_the_same_as_in_a_folder(local_dataset, photo_folder, store):
    settings = preprocess_settings(source=photo_folder, data_dir=DATA)
    dataset = prepare(settings)
    assert dataset.location == f"{DATA}/cut-{local_dataset.digest}"
    assert read_shards(dataset, store) == read_shards(local_dataset)
    assert len(read_shards(local_dataset)) == 5 * 4
    assert dataset.rows == local_dataset.rows
    before = {path: about["LastModified"] for path, about in store.find(DATA, detail=True, refresh=True).items()}
    assert prepare(settings).digest == dataset.digest  # writes nothing again
    assert before == {
        path: about["LastModified"] for path, about in store.find(DATA, detail=True, refresh=True).items()
    }
    assert (
        open_or_prepare(parse_settings("train", {"data_dir": DATA}), dataset.folder.name).location == dataset.location
    )
    assert reopen(settings, dataset.folder.name, dataset.digest, "sample").location == dataset.location


@pytest.mark.parametrize("source", ["s3://loupe/cut/", "s3://loupe/cut.tar"])
def test_dask_workers_without_a_shared_folder_read_and_write_urls(source, local_dataset, photo_folder, store, dask):
    if source.endswith("/"):
        store.put(f"{photo_folder}/", source, recursive=True)
        store.pipe("s3://loupe/cut/.hidden/0001.jpg", b"no photo")
    else:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            tar.add(photo_folder, "cut")
        store.pipe(source, stream.getvalue())
    url = f"s3://loupe/from-{source.strip('/')[-3:]}"
    dataset = prepare(preprocess_settings(source=source, data_dir=url, scheduler=dask))
    assert dataset.location == f"{url}/cut-{local_dataset.digest}"
    assert read_shards(dataset, store) == read_shards(local_dataset)


def test_folder_objects_are_not_photos_and_the_url_of_an_image_is_a_source(photo_folder, store):
    photo = next(photo_folder.rglob("*.jpg")).read_bytes()
    for name, content in (("", b""), ("cat/", b""), ("cat/1.jpg", photo)):
        store.call_s3("put_object", Bucket="loupe", Key=f"marked/{name}", Body=content)
    for source, path in (("marked", "cat/1.jpg"), ("marked/", "cat/1.jpg"), ("marked/cat/1.jpg", "1.jpg")):
        (found,) = list_photos(preprocess_settings(source=f"s3://loupe/{source}"))
        assert (found.path, found.size, found.read_bytes()) == (path, len(photo), photo)


def test_shard_is_downloaded_once(local_dataset, photo_folder, store, server, dask):
    dataset = prepare(preprocess_settings(source=photo_folder, data_dir=DATA, scheduler=dask))
    assert list(dataset.folder.glob("*.npy")) == []  # nothing is downloaded before it is used
    before = count_reads(server)
    pairs = dataset.load_pairs("all", SCALE)
    assert np.array_equal(pairs.copy_to_memory()[1], local_dataset.load_pairs("all", SCALE).copy_to_memory()[1])
    fetched = count_reads(server) - before
    assert len(fetched) == 2 * 5  # labels and inputs of one scale
    assert set(fetched.values()) == {1}
    again = Dataset(dataset.location)
    again.load_pairs("all", SCALE)
    assert not [name for name in (count_reads(server) - before - fetched) if name.endswith(".npy")]
    assert not [file for file in dataset.folder.iterdir() if file.name.startswith(".")]


def test_damaged_local_copy_is_downloaded_again_and_damaged_shard_is_refused(photo_folder, store, dask):
    url = "s3://loupe/damaged"
    dataset = prepare(preprocess_settings(source=photo_folder, data_dir=url, scheduler=dask))
    dataset.load_pairs("train", SCALE)
    copy = dataset.folder / "labels-00002.npy"
    content = copy.read_bytes()
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(LoupeError, match="run the step again"):  # the first pairs use the damaged file
        dataset.load_pairs("train", SCALE)
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    dataset = Dataset(dataset.location)
    dataset.load_pairs("train", SCALE)
    assert copy.read_bytes() == content
    store.pipe(f"{dataset.location}/labels-00002.npy", content[:-100])
    dataset.load_pairs("train", SCALE)  # the local copy is valid
    copy.unlink()
    with pytest.raises(LoupeError, match=rf"dataset: {dataset.location}/labels-00002.npy is missing or changed"):
        dataset.load_pairs("train", SCALE)
    store.rm(f"{dataset.location}/labels-00002.npy")
    copy.unlink()
    with pytest.raises(LoupeError, match=rf"dataset: {dataset.location}/labels-00002.npy is missing or changed"):
        Dataset(dataset.location).load_pairs("train", SCALE)
    store.rm(f"{dataset.location}/{MANIFEST}")  # without it the dataset is prepared again
    with pytest.raises(UsageError, match=r"dataset: must be a prepared dataset, got 's3://.*'"):
        Dataset(dataset.location)
    again = prepare(preprocess_settings(source=photo_folder, data_dir=url, scheduler=dask))
    again.load_pairs("train", SCALE)
    assert hash_file(copy) == again._shards[copy.name]


def test_train_reads_a_dataset_at_a_url(photo_folder, store, server, dask, tmp_path):
    dataset = prepare(preprocess_settings(source=photo_folder, data_dir=DATA, scheduler=dask))
    before = count_reads(server)
    loupe("train", "--smoke", "true", "--data_dir", DATA, "--dataset", dataset.folder.name, "--quiet",
          cwd=tmp_path, LOUPE_CACHE=str(tmp_path / "cache"), **server[1])  # fmt: skip
    fetched = {name: count for name, count in (count_reads(server) - before).items() if name.endswith(".npy")}
    assert set(fetched.values()) == {1}
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("fields", "changed", "kind", "line"),
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
def test_wrong_url_is_refused_in_one_line(fields, changed, kind, line, store, dask, monkeypatch):
    set_variables(monkeypatch, {"AWS_EC2_METADATA_DISABLED": "true"} | changed)
    started = time.monotonic()
    with pytest.raises(kind) as error:
        prepare(preprocess_settings(**{"limit": 3, "data_dir": "s3://loupe/wrong", "scheduler": dask} | fields))
    assert re.fullmatch(f"{line}.*", str(error.value))
    assert isinstance(error.value, UsageError) == (kind is UsageError)
    assert time.monotonic() - started < 20


def test_unknown_credentials_are_refused(tmp_path, monkeypatch):
    with services.s3(tmp_path / "s3", INITIAL_NO_AUTH_ACTION_COUNT="0") as client:
        set_variables(monkeypatch, client)
        with pytest.raises(LoupeError, match=r"data_dir: 's3://loupe/data/sample-.*Forbidden"):
            prepare(preprocess_settings(data_dir=DATA))


def test_missing_package_is_named():
    code = "import sys; sys.modules['s3fs'] = None; from loupe.data import storage; storage.exists('s3://a/b', 'c')"
    done = subprocess.run([sys.executable, "-c", code], env=build_env(), capture_output=True, text=True)
    line = "loupe.errors.UsageError: data_dir: 's3://a/b' needs another package: Install s3fs to access S3"
    assert done.stderr.splitlines()[-1] == line
