"""Compares file formats for the images of a dataset: the .npy shards of Loupe, zarr v3, and ArrayRecord with Grain.

    pip install zarr tensorstore array_record grain fsspec aiohttp
    python tests/benchmarks/shard_formats.py --images 20000

All formats store the same random images (labels of 150x150 pixels, inputs of 100x100) without compression, in shards
of the same number of images. Each measure runs in a new process. A local HTTP server counts requests.
"""

import argparse
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import scale_dataset

from loupe.data import storage
from loupe.data.dataset import HASH_THREADS, Dataset
from loupe.data.patches import cut_squares
from loupe.data.preparation import MAX_SHARD_BYTES
from loupe.data.shards import name_shard

SIDES = {"inputs-3x2": 100, "labels": 150}
CROPS = (64, 96)  # sides of a crop of the input and of the label
CROPS_PER_BATCH, BATCHES, COLD_BATCHES = 256, 20, 5
IMAGES_PER_SHARD = MAX_SHARD_BYTES // SIDES["labels"] ** 2


class Npy:
    """Memory maps of the .npy shards, as `loupe train` reads them. A URL is downloaded."""

    is_remote = True

    def __init__(self, location):
        self._dataset = Dataset(location)
        self._dataset._verify_shards = lambda names: list(map(self._dataset._fetch_shard, names))
        self._pairs = self._dataset.load_pairs("all", Fraction(3, 2))

    @staticmethod
    def write(source, folder):
        folder.symlink_to(source)

    def cut(self, chosen, corners):
        return self._pairs.cut(chosen, corners, CROPS)

    def verify(self):
        with ThreadPoolExecutor(HASH_THREADS) as pool:
            list(pool.map(self._dataset._verify_shard, self._dataset._shards))


class Zarr:
    """One zarr array per kind, with one image per chunk."""

    is_remote = True

    def __init__(self, location):
        self._arrays = [self._open(storage.join_path(str(location), kind)) for kind in SIDES]

    @staticmethod
    def _open(location):
        import zarr

        store = zarr.storage.FsspecStore.from_url(location, read_only=True) if "://" in location else location
        return zarr.open_array(store, mode="r")

    @staticmethod
    def write(source, folder):
        import zarr

        for kind, side in SIDES.items():
            shards = [np.load(file, mmap_mode="r") for file in sorted(source.glob(f"{kind}-*.npy"))]
            array = zarr.create_array(
                str(folder / kind), shape=(sum(map(len, shards)), side, side), dtype="uint8",
                chunks=(1, side, side), shards=(len(shards[0]), side, side), compressors=zarr.codecs.Crc32cCodec(),
            )  # fmt: skip
            for number, shard in enumerate(shards):
                array[number * len(shards[0]) : number * len(shards[0]) + len(shard)] = shard

    def _read(self, chosen):
        return [array.oindex[chosen] for array in self._arrays]

    def cut(self, chosen, corners):
        return cut_stacks(self._read(chosen), corners)

    def verify(self):
        for start in range(0, self._arrays[0].shape[0], CROPS_PER_BATCH):
            self._read(np.arange(start, min(start + CROPS_PER_BATCH, self._arrays[0].shape[0])))


class TensorStore(Zarr):
    """The same zarr arrays, read by TensorStore (C++)."""

    @staticmethod
    def _open(location):
        import tensorstore

        context = {"cache_pool": {"total_bytes_limit": 16 * 2**20}}  # for the indexes of the shards
        store = location if "://" in location else f"file://{location}"
        return tensorstore.open(
            {"driver": "zarr3", "kvstore": store, "context": context}, open=True, read=True
        ).result()

    @staticmethod
    def write(source, folder):
        folder.symlink_to(folder.with_name("Zarr"))

    def _read(self, chosen):
        futures = [array[chosen].read() for array in self._arrays]
        return [future.result() for future in futures]


class ArrayRecord:
    """ArrayRecord files with one record per pair: the bytes of the input and of the label."""

    is_remote = False

    def __init__(self, location):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._source = ArrayRecordDataSource(sorted(map(str, location.glob("*.array_record"))))

    @staticmethod
    def write(source, folder):
        from array_record.python.array_record_module import ArrayRecordWriter

        folder.mkdir()
        for number in range(len(list(source.glob("labels-*.npy")))):
            writer = ArrayRecordWriter(str(folder / f"{number:05d}.array_record"), "group_size:1,uncompressed")
            shards = [np.load(source / name_shard(kind, number), mmap_mode="r") for kind in SIDES]
            for pair in zip(*shards, strict=True):
                writer.write(b"".join(image.tobytes() for image in pair))
            writer.close()

    def cut(self, chosen, corners):
        records = self._source.__getitems__(chosen.tolist())
        return cut_stacks([np.stack(images) for images in zip(*map(split_record, records), strict=True)], corners)

    def verify(self):
        for start in range(0, len(self._source), CROPS_PER_BATCH):
            self._source.__getitems__(range(start, min(start + CROPS_PER_BATCH, len(self._source))))


class Grain(ArrayRecord):
    """The same ArrayRecord files in a Grain pipeline, whose threads read and cut ahead."""

    def __init__(self, location):
        import grain

        super().__init__(location)

        def cut(record, rng):
            corner = rng.integers(SIDES["inputs-3x2"] - CROPS[0] + 1, size=2) // 2 * 2
            corners = corner, corner * 3 // 2
            return tuple(
                image[y : y + side, x : x + side]
                for image, (y, x), side in zip(split_record(record), corners, CROPS, strict=True)
            )

        data = grain.MapDataset.source(self._source).seed(0).shuffle().repeat().random_map(cut).batch(CROPS_PER_BATCH)
        self._iterator = iter(data.to_iter_dataset(grain.ReadOptions(num_threads=os.cpu_count())))

    @staticmethod
    def write(source, folder):
        folder.symlink_to(folder.with_name("ArrayRecord"))

    def cut(self, chosen, corners):
        return next(self._iterator)


FORMATS = {found.__name__: found for found in (Npy, Zarr, TensorStore, ArrayRecord, Grain)}


def split_record(record):
    """Return the input and the label of a record."""
    small, large = SIDES.values()
    pixels = np.frombuffer(record, np.uint8)
    return pixels[: small**2].reshape(small, small), pixels[small**2 :].reshape(large, large)


def cut_stacks(stacks, corners):
    """Cut one crop from each image: inputs and labels."""
    return [
        cut_squares(stack, np.arange(len(stack)), at, side)
        for stack, at, side in zip(stacks, corners, CROPS, strict=True)
    ]


def cut_batch(reader, images, seed):
    """Cut a batch of random crops."""
    rng = np.random.default_rng(seed)
    corners = rng.integers((SIDES["inputs-3x2"] - CROPS[0]) // 2 + 1, size=(CROPS_PER_BATCH, 2)) * 2
    return reader.cut(rng.integers(images, size=CROPS_PER_BATCH), (corners, corners * 3 // 2))


def drop_from_cache(folder):
    """Remove the files of a folder from the page cache. No process may have them mapped into memory."""
    for file in filter(Path.is_file, folder.rglob("*")):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_opening(create, folder, images):
    """Return the time until a reader is open in s, imports included, and the time of its first batch in ms."""
    import pyarrow.parquet  # noqa: F401 - all formats need it to read the manifest

    started = time.perf_counter()
    reader = create(folder)
    opened = time.perf_counter()
    cut_batch(reader, images, 0)
    return {"open s": opened - started, "first batch ms": 1e3 * (time.perf_counter() - opened)}


def measure_warm(create, folder, images):
    """Return the wall time and the CPU time of a batch, in ms, and the time to verify all images, in s."""
    reader = create(folder)
    started = time.perf_counter()
    reader.verify()
    verified = time.perf_counter() - started
    cut_batch(reader, images, 0)
    started, spent = time.perf_counter(), time.process_time()
    for seed in range(BATCHES):
        cut_batch(reader, images, seed)
    wall, cpu = time.perf_counter() - started, time.process_time() - spent
    memory = psutil.Process().memory_full_info().uss / 1e6
    return {"batch ms": 1e3 * wall / BATCHES, "CPU ms": 1e3 * cpu / BATCHES, "verify s": verified, "MB": memory}


def measure_cold(create, folder, images):
    """Return the time of the first batch of an open reader in ms, and what it reads from the disk in MB."""
    drop_from_cache(folder)
    reader = create(folder)
    before, started = psutil.Process().io_counters().read_bytes, time.perf_counter()
    cut_batch(reader, images, 0)
    wall = time.perf_counter() - started
    return {"cold batch ms": 1e3 * wall, "cold MB": (psutil.Process().io_counters().read_bytes - before) / 1e6}


def measure_requests(create, folder, images):
    """Return the requests to a server and the MB that it sends, for the first batch and for a further one."""
    if not create.is_remote:
        return {}
    with tempfile.TemporaryDirectory() as cache, Server(folder) as server:
        os.environ["LOUPE_CACHE"] = cache
        reader = create(server.url)
        cut_batch(reader, images, 0)
        first = server.requests, server.sent / 1e6
        cut_batch(reader, images, 1)
        further = server.requests - first[0], server.sent / 1e6 - first[1]
    return {"first requests": first[0], "first MB": first[1], "requests": further[0], "batch MB": further[1]}


def measure_damage(create, folder, images):
    """Return whether a changed byte in the middle of the largest file is detected. The byte is restored."""
    file = max(filter(Path.is_file, folder.rglob("*")), key=lambda file: file.stat().st_size)
    with file.open("r+b") as stream:
        position = file.stat().st_size // 2
        stream.seek(position)
        byte = stream.read(1)
        try:
            stream.seek(position)
            stream.write(bytes([byte[0] ^ 1]))
            stream.flush()
            create(folder).verify()
        except Exception as error:  # each format has its own exceptions
            return {"detected": type(error).__name__}
        finally:
            stream.seek(position)
            stream.write(byte)
    return {"detected": "no"}


class Server:
    """A local HTTP server with byte ranges, which counts the requests and the bytes that it sends."""

    def __init__(self, folder):
        self.requests = self.sent = 0
        counter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                counter.requests += 1
                file = folder / self.path.lstrip("/")
                if not file.is_file():
                    self.send_error(404)
                    return
                size = file.stat().st_size
                first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
                start = int(first) if first else size - int(last or size)
                stop = min(int(last) + 1, size) if first and last else size
                self.send_response(206 if "Range" in self.headers else 200)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(stop - start))
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
                self.end_headers()
                if self.command == "GET":
                    counter.sent += stop - start
                    with file.open("rb") as stream:
                        stream.seek(start)
                        self.wfile.write(stream.read(stop - start))

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()


MEASURES = {
    found.__name__.removeprefix("measure_"): found
    for found in (measure_opening, measure_warm, measure_cold, measure_requests, measure_damage)
}


def measure(name, folder, images):
    """Return the figures of a format as a dict; each measure runs in a new process."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    found = {"files": len(files), "disk MB": sum(file.stat().st_size for file in files) / 1e6}
    for what in [*MEASURES, *["cold"] * (COLD_BATCHES - 1)]:
        command = [sys.executable, __file__, "--measure", what, name, str(folder), "--images", str(images)]
        done = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        found |= {key: min(value, found.get(key, value)) for key, value in done.items()}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--folder", help="write the files here; default: a temporary folder")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "FORMAT", "FOLDER"), help="print one measure as JSON")
    options = parser.parse_args()
    if options.measure:
        what, name, folder = options.measure
        print(json.dumps(MEASURES[what](FORMATS[name], Path(folder), options.images)), flush=True)
        os._exit(0)  # the threads of Grain delay a normal exit by up to a minute
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source = Path(folder) / "source"
        scale_dataset.write_dataset(source, options.images, SIDES, IMAGES_PER_SHARD)
        for name in options.formats.split(","):
            target = Path(folder) / name
            started = time.perf_counter()
            FORMATS[name].write(source, target)
            found = {"write s": time.perf_counter() - started} | measure(name, target.resolve(), options.images)
            print(f"{name}: {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
