"""The worker processes of a server: limits, small and large photos, time, memory, visitors who leave."""

import io
import os
import re
import signal
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from loupe.data.sources import find_bundled_photo
from loupe.errors import LoupeError, UsageError
from loupe.imaging.formats import READ_EXTENSIONS
from loupe.photos import worker, worker_pool
from loupe.photos.inputs import PhotoJob
from loupe.photos.outcomes import Outcome
from loupe.photos.worker import PhotoRequest
from loupe.photos.worker_pool import BusyError, Control, PhotoWorkers, RequestStoppedError
from loupe.tracking.resolver import resolve_model
from loupe.upscalers import bundled

FILES = {str(scale): str(bundled.find_file("tiny", scale)) for scale in bundled.list_scales("tiny")}
REFUSED = r"needs more than \d+ MB of memory; try a smaller scale factor, or a JPEG, PNG or TIFF file"
UNSUPPORTED = f"not an image of a supported format: {', '.join(READ_EXTENSIONS)}"
LARGE = 4500, 4500  # upscaling it takes seconds


@pytest.fixture(scope="module")
def workers():
    made = PhotoWorkers("loupe.photos.worker:serve_files", {"files": FILES})
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return save(tmp_path_factory.mktemp("small") / "small.png", (60, 40))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return save(tmp_path_factory.mktemp("large") / "large.jpg", LARGE)


def save(file, size, **options):
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), "uint8")).save(file, **options)
    return file


def ask(photo, scale="3/2", extension="", **more):
    return PhotoRequest(str(photo), str(photo.parent), scale, extension, 64_000_000, 64_000_000, 500, **more)


def get_processes(workers):
    return [worker._child.process for worker in (workers._small, workers._large)]


def test_photo_is_upscaled_in_the_process_for_its_size(workers, small, tmp_path):
    fractions, processes = [], get_processes(workers)
    answer = workers.upscale(ask(small), Control(60), fractions.append)
    assert (answer.reason, Path(answer.out).name, fractions[-1]) == ("", "small-1.5x.png", 1)
    with Image.open(answer.out) as image:
        assert image.size == (90, 60)
    photo = save(tmp_path / "photo.png", (1200, 900))
    psutil.Process(processes[1].pid).suspend()
    with pytest.raises(RequestStoppedError, match=r"took longer than 0\.3 s"):
        workers.upscale(ask(photo), Control(0.3))
    answer = workers.upscale(ask(photo, extension=".jpg", figure_size=(80, 60)), Control(60))
    assert (answer.reason, Path(answer.out).name) == ("", "photo-1.5x.jpg")
    assert "photo.png: 1200×900 to 1800×1350, by " in answer.figure
    assert get_processes(workers)[0] is processes[0]


def encode_pages(*sizes):
    stream, pages = io.BytesIO(), [Image.new("1", size) for size in sizes]
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_adobe_deflate")
    return stream.getvalue()


def encode_icon(content):
    """Return an ICO file, which Pillow decodes when it opens the file."""
    return struct.pack("<3H4B2H2I", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(content), 22) + content


@pytest.mark.parametrize(
    ("content", "scale", "reason"),
    [
        (encode_pages((1, 1), *[(5000, 5000)] * 3), "1", "photo: must have at most 64 megapixels, got 75.0"),
        (encode_pages((1, 1), (1100, 1100)), "8", "result: must have at most 64 megapixels, got 77.4"),
        (encode_pages(*[(1, 1)] * 501), "1", "must have at most 500 frames or pages, got more"),
        (b"text", "1", UNSUPPORTED),
        (encode_icon(b"\x89PNG of 13,000x13,000 pixels"), "1", UNSUPPORTED),
    ],
    ids=["pages", "result", "count", "text", "icon"],
)
def test_all_frames_and_pages_are_checked_before_decoding(content, scale, reason, workers, tmp_path):
    (tmp_path / "photo").write_bytes(content)
    processes = get_processes(workers)
    assert workers.upscale(ask(tmp_path / "photo", scale), Control(60)).reason == reason
    assert get_processes(workers) == processes
    assert [file.name for file in tmp_path.iterdir()] == ["photo"]


@pytest.mark.parametrize("end", ["time", "client"])
def test_work_stops_and_small_photos_do_not_wait_for_it(end, workers, small, large):
    started, control = threading.Event(), Control(60)
    process = get_processes(workers)[1]
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(workers.upscale, ask(large), control, lambda _: started.set())
        assert started.wait(30)
        assert workers.upscale(ask(small), Control(60)).reason == ""
        assert not working.done()
        if end == "client":
            control.cancelled.set()
        else:
            object.__setattr__(control, "timeout_s", 0)
        reason = "took longer than 0 s" if end == "time" else "the client has closed the connection"
        with pytest.raises(RequestStoppedError, match=reason):
            working.result(10)
    assert process.poll() is not None
    assert workers.upscale(ask(small), Control(60)).reason == ""


def test_work_that_waits_is_stopped(workers, large):
    with workers._large.use(Control(1)), pytest.raises(RequestStoppedError):
        workers.upscale(ask(large), Control(0.1))


def test_a_photo_that_takes_long_is_not_small(workers, small, monkeypatch):
    monkeypatch.setattr(worker_pool, "SMALL_TIMEOUT_S", 0)
    processes = get_processes(workers)
    assert workers.upscale(ask(small), Control(60)).reason == ""
    assert get_processes(workers)[1] is processes[1]
    assert get_processes(workers)[0] is not processes[0]


def test_a_small_photo_that_waits_for_the_processor_stays_small(workers, small, monkeypatch):
    monkeypatch.setattr(worker_pool, "SMALL_TIMEOUT_S", 0.2)
    processes = get_processes(workers)
    os.kill(processes[0].pid, signal.SIGSTOP)
    timer = threading.Timer(0.4, os.kill, (processes[0].pid, signal.SIGCONT))
    timer.start()
    assert workers.upscale(ask(small), Control(60)).reason == ""
    assert get_processes(workers) == processes


def test_a_file_that_crashes_the_process_is_refused(workers, small, large):
    def kill(_):
        get_processes(workers)[1].kill()

    answer = workers.upscale(ask(large), Control(60), kill)
    assert answer.reason == "cannot be upscaled: the worker process ended, perhaps for lack of memory"
    assert workers.upscale(ask(small), Control(60)).reason == ""


def test_a_process_ends_with_the_server_while_it_works(workers, large):
    process = get_processes(workers)[1]
    answer = workers.upscale(ask(large), Control(60), lambda _: process.stdin.close())
    assert process.wait(10) is not None
    assert answer.reason


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux limits the memory of a process")
def test_a_photo_that_needs_too_much_memory_is_refused(small, large, monkeypatch):
    monkeypatch.setattr(worker_pool, "get_default_budget", lambda: 300_000_000)
    workers = PhotoWorkers("loupe.photos.worker:serve_files", {"files": FILES})
    answer = workers.upscale(ask(large), Control(60))
    assert re.fullmatch(REFUSED, answer.reason)
    assert workers.upscale(ask(small), Control(60)).reason == ""
    workers.close()


def test_an_avif_that_needs_too_much_memory_is_refused_before_it_is_upscaled(workers, large, monkeypatch):
    shown: list[float] = []
    answer = workers.upscale(ask(large, "7/4", ".avif"), Control(60), shown.append)
    assert shown == []
    assert re.fullmatch(REFUSED, answer.reason)
    # as after an encoder that got no memory
    failure = RuntimeError("Failed to encode image: Encoding of color planes failed")
    monkeypatch.setattr(worker, "process_jobs", lambda jobs, *_: [Outcome(jobs[0], None, str(failure))])
    assert re.fullmatch(REFUSED, worker.answer_request(ask(large), resolve_model("tiny"), 10**9, print).reason)


def test_the_name_of_a_photo_is_not_a_sign_of_missing_memory(tmp_path, monkeypatch):
    photo = save(tmp_path / "memory-lane.png", (60, 40))
    reason = "memory-lane-1.5x.png cannot be written: No space left on device"
    outcome = Outcome(PhotoJob(photo, tmp_path / "out.png"), None, f"{tmp_path}/{reason}")
    monkeypatch.setattr(worker, "process_jobs", lambda *_: [outcome])
    assert worker.answer_request(ask(photo), resolve_model("tiny"), 10**9, print).reason == reason


def upscale_large(workers, photo):
    """Upscale a large photo, and return the CPU time in seconds, which does not depend on other tests."""
    before = measure_children()
    assert workers.upscale(ask(photo), Control(600)).reason == ""
    return measure_children() - before


def measure_children():
    """Return the CPU time of all child processes so far: a process that used much memory is replaced."""
    total = sum(os.times()[2:4])  # of ended processes
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


@pytest.mark.slow(60)
@pytest.mark.xdist_group("photo workers")
@pytest.mark.parametrize(
    ("name", "options"),
    [("jpg", {}), ("png", {"compress_level": 1}), ("webp", {"method": 0}), ("gif", {}), ("tif", {}), ("bmp", {})],
)
def test_photos_of_24_megapixels_are_upscaled(name, options, workers, tmp_path):
    with Image.open(find_bundled_photo()) as image:
        image.convert("RGB").resize((6000, 4000)).save(tmp_path / f"photo.{name}", **options)
    assert 1 < upscale_large(workers, tmp_path / f"photo.{name}") < 60


@pytest.mark.slow
@pytest.mark.xdist_group("photo workers")
def test_a_large_animation_is_upscaled(workers, tmp_path):
    frames = [Image.effect_noise((2500, 1700), 40 + number) for number in range(3)]
    frames[0].save(tmp_path / "photo.gif", save_all=True, append_images=frames[1:])
    assert 2 < upscale_large(workers, tmp_path / "photo.gif") < 60


def test_too_many_large_photos_are_refused(workers, large, monkeypatch):
    monkeypatch.setattr(workers, "_waiting", threading.Semaphore(0))
    with pytest.raises(BusyError, match="busy with 32 large photos; try again later"):
        workers.upscale(ask(large), Control(60))


def test_networks_that_cannot_be_loaded_are_an_error_at_the_start():
    workers = PhotoWorkers("loupe.web.worker:serve_model", {"model": "nothing.onnx", "device": "auto"})
    with pytest.raises(UsageError, match="model: must be "):
        workers.start()
    workers.close()


def test_networks_that_load_too_slowly_are_an_error_that_names_the_model(monkeypatch):
    monkeypatch.setattr(worker_pool, "START_TIMEOUT_S", 0)
    workers = PhotoWorkers("loupe.photos.worker:serve_files", {"files": FILES})
    with pytest.raises(LoupeError, match=r"^model: cannot be loaded: took longer than 0 s"):
        workers.start()
    workers.close()
