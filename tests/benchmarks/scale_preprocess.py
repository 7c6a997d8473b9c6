"""Measures `loupe preprocess` on growing numbers of photos: run time, memory, and the same work in a bare loop.

    python tests/benchmarks/scale_preprocess.py --photos caltech256-subset.tar --sizes 1123,3000,30000

The program repeats the photos of the tar. It shifts each copy by a different number of pixels and encodes it again,
so that all contents differ, and writes them as tars to --folder. For each size it runs the preparation of `loupe
preprocess` and the bare loop --rounds times in turn, and prints the medians. Both list the photos and start new
processes, and the times include that. The bare loop runs twice: it saves its images, or drops them.
"""

import argparse
import collections
import contextlib
import hashlib
import io
import itertools
import multiprocessing
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "steps"))

from jobs import build_env

from loupe.config import parse_settings
from loupe.data import preparation
from loupe.data.labels import cut_labels, shrink_label
from loupe.imaging.decoder import PhotoError
from loupe.imaging.grey import GreyPhoto

PROCESSES = 2
CHUNK = 64


def shift_photo(content, number):
    """Return a JPEG of the same photo, rolled by `number` pixels."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    rolled = np.roll(np.asarray(image), (number // 7, number), axis=(0, 1))
    stream = io.BytesIO()
    Image.fromarray(rolled).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def write_tar(given, file, count):
    """Write a tar of `count` photos from those of another tar, unless the file exists; returns the file."""
    if file.exists():
        return file
    partial = file.with_name(file.name + ".part")
    with tarfile.open(given) as source, tarfile.open(partial, "w") as tar:
        members = [member for member in source if member.isreg()]
        contents = [source.extractfile(member).read() for member in members]
        for number in range(count):
            turn, at = divmod(number, len(members))
            content = shift_photo(contents[at], turn)
            member = tarfile.TarInfo(f"{turn:03d}.turn/{Path(members[at].name).name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    partial.rename(file)
    return file


def process_chunk(chunk):
    """Decode, hash, crop and shrink some files of a tar, and save the images in a folder unless the folder is None.

    Returns the number of labels.
    """
    file, ranges, settings, folder = chunk
    images = collections.defaultdict(list)
    with open(file, "rb") as stream:
        for offset, size in ranges:
            stream.seek(offset)
            content = stream.read(size)
            digest = hashlib.sha256(content).hexdigest()
            try:
                grey = GreyPhoto(content, lambda size: None).read(settings.luminance)
                for label in cut_labels(grey, settings, "centre", 0, digest):
                    images["labels"].append(label.pixels)
                    for scale in settings.scales:
                        images[f"{float(scale):.2f}"].append(shrink_label(label.pixels, scale, settings.shrink))
            except PhotoError:
                continue
    if folder is not None:
        for name, each in images.items():
            np.save(Path(folder) / f"{ranges[0][0]}-{name}.npy", np.stack(each))
    return len(images["labels"])


def run_bare_loop(file, saves=True):
    """Return the number of labels and the run time in s, with the listing and the start of PROCESSES."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        return run_processes(file, folder if saves else None)


def run_processes(file, folder):
    """Run the bare loop with a folder for its images, or None."""
    settings = parse_settings("preprocess", {"source": str(file)})
    started = time.perf_counter()
    with tarfile.open(file) as tar:
        ranges = [(member.offset_data, member.size) for member in tar if member.isreg()]
    chunks = [(str(file), ranges[start : start + CHUNK], settings, folder) for start in range(0, len(ranges), CHUNK)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        labels = sum(pool.imap_unordered(process_chunk, chunks, 1))
        return labels, time.perf_counter() - started


def measure_memory(file):
    """Return the peak memory of `loupe preprocess` in MB: of its main process, and of the largest worker.

    Shared memory is not counted. The memory is read every few milliseconds, because a large photo is in memory for
    no longer than that. A new process is a copy of the main process, with its memory and command line, until it runs
    its own program, and does not count before that.
    """
    peaks, looked = {}, 0.0
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        command = [sys.executable, "-m", "loupe", "preprocess", "--source", file.resolve(), "--quiet"]
        process = psutil.Popen([*map(str, command)], cwd=folder, env=build_env())
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                if time.monotonic() - looked > 0.5:
                    looked, children = time.monotonic(), process.children(recursive=True)
                    running = [process, *(child for child in children if child.cmdline() != process.cmdline())]
                for each in running:
                    memory = each.memory_info()
                    peaks[each.pid] = max((memory.rss - memory.shared) / 2**20, peaks.get(each.pid, 0))
            time.sleep(0.005)
        assert process.returncode == 0
    return peaks.pop(process.pid), max(peaks.values())


def prepare_tar(file):
    """Prepare the photos of a tar; returns the counts of the dataset and the run time in s."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        given = {"source": str(file), "data_dir": folder, "quiet": True}
        settings = parse_settings("preprocess", given)
        started = time.perf_counter()
        dataset = preparation.prepare(settings)
        return dataset.counts, time.perf_counter() - started


def measure_loupe(file, queue):
    """Put the result of `prepare_tar` into a queue, after a small dataset has imported all modules."""
    prepare_tar(write_tar(file, file.with_name("photos-256.tar"), 256))
    queue.put(prepare_tar(file))


def measure_in_new_process(file):
    """Run `measure_loupe` in a new process."""
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    process = spawn.Process(target=measure_loupe, args=(file, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def measure(given, folder, size, rounds):
    """Return a row of the table as a dict."""
    file = write_tar(given, folder / f"photos-{size}.tar", size)
    runs, loops, dropping = [], [], []
    for _ in range(rounds):
        runs.append(measure_in_new_process(file))
        loops.append(run_bare_loop(file))
        dropping.append(run_bare_loop(file, saves=False))
    counts = runs[0][0]
    assert {labels for labels, _ in loops} == {counts["labels"]}
    seconds = statistics.median(seconds for _, seconds in runs)
    client, worker = measure_memory(file)
    loop, dropped = (statistics.median(seconds for _, seconds in each) for each in (loops, dropping))
    return {
        "photos": size,
        "seconds": seconds,
        "photos/s": size / seconds,
        "bare photos/s": size / loop,
        "ratio": seconds / loop,
        "without saving": seconds / dropped,
        "client MB": client,
        "worker MB": worker,
    }


def print_table(rows):
    """Print the table, and the slopes from each size to the next in ms and kB per photo."""
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(f"{value:.2f}" if value < 100 else f"{value:.0f}" for value in row.values()))
    for before, after in itertools.pairwise(rows):
        more = after["photos"] - before["photos"]
        print(
            f"{before['photos']} to {after['photos']}: {1e3 * (after['seconds'] - before['seconds']) / more:.3f} ms, "
            f"client {1024 * (after['client MB'] - before['client MB']) / more:.2f} kB, "
            f"worker {1024 * (after['worker MB'] - before['worker MB']) / more:.2f} kB per photo"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--sizes", default="1123,3000,30000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    rows = []
    for size in map(int, given.sizes.split(",")):
        rows.append(measure(given.photos, given.folder, size, given.rounds))
        print(rows[-1], file=sys.stderr, flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
