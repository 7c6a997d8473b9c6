"""Measures the time and memory to open a dataset of many small labels, and to cut its first batch.

    python tests/benchmarks/scale_dataset.py --labels 1000,1000000,8000000

The images are random. The manifest has the same columns and row groups as that of `loupe preprocess`.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil

from loupe.data import manifest
from loupe.data.dataset import Dataset
from loupe.data.patches import Patches
from loupe.data.shards import hash_file, name_shard

LABELS_PER_SHARD = 1 << 16
SIDES = {"labels": 12, "inputs-3x2": 8}
CROP, CROPS_PER_BATCH, BATCHES = 8, 64, 200


def write_dataset(folder, labels, sides=SIDES, labels_per_shard=LABELS_PER_SHARD):
    """Write a dataset of random images, 6 of 8 in the training split; `sides` are their sides by kind of shard."""
    import pyarrow as pa

    folder.mkdir()
    rng, shards, parts = np.random.default_rng(0), {}, []
    for shard, start in enumerate(range(0, labels, labels_per_shard)):
        numbers = range(start, min(start + labels_per_shard, labels))
        for kind, side in sides.items():
            file = folder / name_shard(kind, shard)
            np.save(file, rng.integers(0, 256, (len(numbers), side, side), dtype="uint8"))
            shards[file.name] = hash_file(file)
        columns = {name: [None] * len(numbers) for name in manifest.Row.__dataclass_fields__} | {
            "path": [f"photos/{number:09d}.jpg" for number in numbers],
            "category": ["photos"] * len(numbers),
            "sha256": [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers],
            "split": [("train", "validation", "test")[max(0, number % 8 - 5)] for number in numbers],
            "shard": [shard] * len(numbers),
            "row": list(range(len(numbers))),
        }
        parts.append(pa.table(columns, schema=manifest.build_table([]).schema))
    settings = {"scales": "3:2", "label_size": "150", "luminance": "rec601", "source": "photos"}
    manifest.write_manifest(
        str(folder), parts, {"digest": "0", "settings": settings, "statistics": {}, "shards": shards}
    )


def measure(folder):
    """Return the figures of this process as a dict."""
    started = time.perf_counter()
    pairs = Dataset(folder).load_pairs("train", Fraction(3, 2))
    opened = time.perf_counter() - started
    memory = psutil.Process().memory_info().rss / 1e6
    started = time.perf_counter()
    patches = Patches(pairs, CROP, "aligned", augment=True, seed=0)
    patches.draw_batch(0, CROPS_PER_BATCH)
    first = time.perf_counter() - started
    durations = []
    for step in range(BATCHES):
        started = time.perf_counter()
        patches.draw_batch(step, CROPS_PER_BATCH)
        durations.append(time.perf_counter() - started)
    return {"open s": opened, "MB": memory, "first batch s": first, "batch ms": 1e3 * statistics.median(durations)}


def measure_in_new_process(labels):
    """Write a dataset of this many labels, and return the figures of a process that opens it."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "dataset"
        write_dataset(folder, labels)
        command = [sys.executable, __file__, "--folder", str(folder)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", default="1000,1000000,8000000")
    parser.add_argument("--folder", help="measure this dataset in this process, and print the figures as JSON")
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measure(options.folder)))
        return
    for labels in map(int, options.labels.split(",")):
        found = measure_in_new_process(labels)
        print(f"{labels} labels: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
