"""Measures training on growing datasets: the time before the first step and the time per step.

    python tests/benchmarks/scale_training.py --photos caltech256-subset.tar --sizes 1000,10000,30000

The photos of the tar are prepared once. A larger dataset has copies of their shards, with own rows in the manifest.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow.parquet

from loupe.config import parse_settings
from loupe.data import manifest, preparation
from loupe.data.dataset import Dataset
from loupe.data.shards import name_shard
from loupe.models import builder
from loupe.training import batches, optimization
from loupe.upscalers.geometry import Geometry

STEPS = 50


def repeat_dataset(small, folder, size):
    """Write a dataset of `size` labels, which repeats a small one; returns its folder."""
    folder.mkdir()
    rows = pyarrow.parquet.read_table(small.folder / manifest.MANIFEST)
    table, checksums, parts = rows.filter(rows["row"].is_valid()), {}, []
    numbers = 1 + max(table["shard"].to_pylist())
    for turn in range(-(-size // len(table))):
        rows = table.slice(0, min(len(table), size - turn * len(table))).to_pylist()
        parts.append(manifest.build_table([row | {"shard": row["shard"] + turn * numbers} for row in rows]))
        for name, digest in small._shards.items():
            kind, _, number = name.removesuffix(".npy").rpartition("-")
            copy = folder / name_shard(kind, int(number) + turn * numbers)
            shutil.copy(small.folder / name, copy)
            checksums[copy.name] = digest
    facts = {"digest": small.digest, "settings": small.settings, "statistics": small.statistics, "shards": checksums}
    manifest.write_manifest(str(folder), parts, facts)
    return folder


def measure(folder, size):
    """Return a row of the table as a dict."""
    settings = parse_settings("train", {"network": "convolutional", "quiet": True})
    started = time.perf_counter()
    pairs = Dataset(folder).load_pairs("train", settings.scale)
    opened = time.perf_counter() - started
    model = builder.build(settings, pairs.sides[0], "rec601")
    optimization.compile_model(model, settings)
    started = time.perf_counter()
    patches, count = batches.open_patches(settings, pairs, Geometry.from_name(model.name))
    copied = time.perf_counter() - started
    cutting, stepping = [], []
    with optimization.use_training_precision(model, settings):
        for step in range(STEPS):
            started = time.perf_counter()
            inputs, labels = patches.draw_batch(step, count)
            cutting.append(time.perf_counter() - started)
            model.train_on_batch(inputs, labels)
            stepping.append(time.perf_counter() - started)
    return {
        "labels": size,
        "opening s": opened,
        "copying s": copied,
        "batch ms": 1e3 * statistics.median(cutting[5:]),
        "step ms": 1e3 * statistics.median(stepping[5:]),
        "MB": psutil.Process().memory_info().rss / 2**20,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True)
    parser.add_argument("--sizes", default="1000,10000,30000")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = preparation.prepare(parse_settings("preprocess", {"source": options.photos, "data_dir": folder}))
        for size in map(int, options.sizes.split(",")):
            rows.append(measure(repeat_dataset(prepared, Path(folder) / str(size), size), size))
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(f"{value:.2f}" if value < 100 else f"{value:.0f}" for value in row.values()))


if __name__ == "__main__":
    main()
