"""Preparing more and more photos: seconds, memory of every process, and the same work in a bare loop.

    python tests/benchmarks/scale_preprocess.py --photos caltech256-subset.tar --sizes 1000,10000,30000

The photos are those of the tar, as often as it takes, each time shifted by other pixels and encoded again, so that
no two have the same content; they are written once, as tars, into --folder. For each size `loupe preprocess`
(start-up excluded) and the bare loop take turns: --rounds of each, the medians count.
"""

import argparse
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
from loupe.data.sources import list_photos
from loupe.imaging import decoder, luminance

PROCESSES = 2
CHUNK = 64


def shifted(content, number):
    """A JPEG of the same photo, rolled by `number` pixels and encoded again."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    rolled = np.roll(np.asarray(image), (number // 7, number), axis=(0, 1))
    stream = io.BytesIO()
    Image.fromarray(rolled).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def write_tar(given, file, count):
    """A tar of `count` photos, made from those of the tar `given`; one that is there already stays."""
    if file.exists():
        return file
    partial = file.with_name(file.name + ".part")
    with tarfile.open(given) as source, tarfile.open(partial, "w") as tar:
        members = [member for member in source if member.isreg()]
        contents = [source.extractfile(member).read() for member in members]
        for number in range(count):
            turn, at = divmod(number, len(members))
            content = shifted(contents[at], turn)
            member = tarfile.TarInfo(f"{turn:03d}.turn/{Path(members[at].name).name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    partial.rename(file)
    return file


def bare(chunk):
    """Decode, hash, crop and shrink some files of a tar; gives how many labels came out."""
    file, places, settings = chunk
    done = 0
    with open(file, "rb") as stream:
        for offset, size in places:
            stream.seek(offset)
            content = stream.read(size)
            digest = hashlib.sha256(content).hexdigest()
            try:
                grey = luminance.compute_luminance(decoder.open_photo(content), settings.luminance)
                for label in cut_labels(grey, settings, "centre", 0, digest):
                    for scale in settings.scales:
                        shrink_label(label.pixels, scale, settings)
                    done += 1
            except decoder.PhotoError:
                continue
    return done


def bare_loop(file):
    """Labels, and the seconds that PROCESSES took for them, without their start and without the listing."""
    settings = parse_settings("preprocess", {"source": str(file)})
    with tarfile.open(file) as tar:
        places = [(member.offset_data, member.size) for member in tar if member.isreg()]
    chunks = [(str(file), places[start : start + CHUNK], settings) for start in range(0, len(places), CHUNK)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(bare, [(str(file), places[:2], settings)] * PROCESSES, 1)
        started = time.perf_counter()
        labels = sum(pool.imap_unordered(bare, chunks, 1))
        return labels, time.perf_counter() - started


def peaks_of_command(file):
    """Peak memory of `loupe preprocess`, in MB: of its own process, and of the largest worker.

    Pages of files that are mapped are not counted: they are the system's, and shared. Looked at every few
    milliseconds, since a large photo is in memory no longer than that.
    """
    peaks, looked = {}, 0.0
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        command = [sys.executable, "-m", "loupe", "preprocess", "--source", file.resolve(), "--quiet"]
        process = psutil.Popen([*map(str, command)], cwd=folder, env=build_env())
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                if time.monotonic() - looked > 0.5:
                    looked, running = time.monotonic(), [process, *process.children(recursive=True)]
                for each in running:
                    memory = each.memory_info()
                    peaks[each.pid] = max((memory.rss - memory.shared) / 2**20, peaks.get(each.pid, 0))
            time.sleep(0.005)
        assert process.returncode == 0
    return peaks.pop(process.pid), max(peaks.values())


def prepared(file):
    """Photos, and the seconds that listing and preparing took."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        given = {"source": str(file), "data_dir": folder, "quiet": True}
        settings = parse_settings("preprocess", given)
        started = time.perf_counter()
        found = list_photos(settings.source, (), None, folder, True)
        listed = time.perf_counter() - started
        dataset = preparation.prepare(settings, found)
        seconds = time.perf_counter() - started
        counts = dataset.counts
        return counts, seconds, listed


def measure_loupe(file, answer):
    """Counts, seconds and the seconds of listing, after a small dataset has started the worker processes."""
    prepared(write_tar(file, file.with_name("photos-256.tar"), 256))
    answer.put(prepared(file))


def of_loupe(file):
    """`measure_loupe`, in a process that ends with it."""
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.Queue()
    process = spawn.Process(target=measure_loupe, args=(file, answer))
    process.start()
    found = answer.get()
    process.join()
    return found


def measure(given, folder, size, rounds):
    """A row of the table, as a dict."""
    file = write_tar(given, folder / f"photos-{size}.tar", size)
    runs, loops = [], []
    for _ in range(rounds):
        runs.append(of_loupe(file))
        loops.append(bare_loop(file))
    counts = runs[0][0]
    assert {labels for labels, _ in loops} == {counts["labels"]}
    seconds, listed = (statistics.median(run[at] for run in runs) for at in (1, 2))
    client, worker = peaks_of_command(file)
    loop = statistics.median(seconds for _, seconds in loops)
    return {
        "photos": size,
        "seconds": seconds,
        "listing": listed,
        "photos/s": size / seconds,
        "bare photos/s": size / loop,
        "ratio": seconds / loop,
        "without listing": (seconds - listed) / loop,
        "client MB": client,
        "worker MB": worker,
    }


def told(rows):
    """The table, and from each size to the next the slopes: milliseconds and kilobytes a photo."""
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(f"{value:.2f}" if value < 100 else f"{value:.0f}" for value in row.values()))
    for before, after in itertools.pairwise(rows):
        more = after["photos"] - before["photos"]
        print(
            f"{before['photos']} to {after['photos']}: {1e3 * (after['seconds'] - before['seconds']) / more:.3f} ms, "
            f"client {1024 * (after['client MB'] - before['client MB']) / more:.2f} kB, "
            f"worker {1024 * (after['worker MB'] - before['worker MB']) / more:.2f} kB a photo"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--sizes", default="1000,10000,30000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    rows = []
    for size in map(int, given.sizes.split(",")):
        rows.append(measure(given.photos, given.folder, size, given.rounds))
        print(rows[-1], file=sys.stderr, flush=True)
    told(rows)


if __name__ == "__main__":
    main()
