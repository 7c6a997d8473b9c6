"""The served model and the demo under hostile photos: memory, time, and small photos that do not wait."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import requests
from jobs import build_env
from peak_memory import MemoryWatch
from PIL import Image
from services import find_free_port

from loupe.imaging.memory import get_default_budget

MAX_MB = get_default_budget() / 1e6 + 300
MAX_S = 60
JOIN_S = 120


class ServedModel:
    """A client of the served model."""

    def __init__(self, url, pid):
        self.url, self.pid = url, pid

    def upscale(self, content, scale=1.5, format="same"):
        """Return the result, or the reason of a refusal as text."""
        table = {"columns": ["photo"], "data": [[base64.b64encode(content).decode()]]}
        data = json.dumps({"dataframe_split": table, "params": {"scale": scale, "format": format}})
        return self.send(data)

    def send(self, data):
        """Send a body."""
        headers = {"Content-Type": "application/json"}
        answer = requests.post(f"{self.url}/invocations", data=data, headers=headers, timeout=JOIN_S)
        if answer.status_code == 200:
            return base64.b64decode(answer.json()["predictions"][0])
        assert answer.status_code in (400, 413, 503, 504), answer.text
        return answer.json()["message"]


class DemoPage:
    """A client of the demo."""

    def __init__(self, url, pid):
        self.url, self.pid = f"{url}/gradio_api", pid

    def upscale(self, content, scale=1.5, format="same"):
        """Return the result, or the reason of a refusal as text; `format` is not used."""
        del format
        with Image.open(io.BytesIO(content)) as image:
            files = {"files": (f"photo.{image.format.lower()}", content)}
        (path,) = requests.post(f"{self.url}/upload", files=files, timeout=JOIN_S).json()
        photo = {"path": path, "meta": {"_type": "gradio.FileData"}}
        event = requests.post(f"{self.url}/call/upscale", json={"data": [photo, scale]}, timeout=JOIN_S).json()
        answer = requests.get(f"{self.url}/call/upscale/{event['event_id']}", timeout=JOIN_S)
        assert "event: complete" in answer.text, answer.text
        lines = [line for line in answer.text.splitlines() if line.startswith("data: [")]
        figure, button = json.loads(lines[-1].removeprefix("data: "))
        if "alert" in figure:
            return figure
        return requests.get(button["value"]["url"], timeout=JOIN_S).content


@contextmanager
def run_server(command, folder, url, path):
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            cwd=folder, env=build_env(), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + 90
        while True:
            try:
                requests.get(f"{url}{path}", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                assert server.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < until
                time.sleep(0.2)
        yield server.pid
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(30)
        print((folder / "log.txt").read_text()[-3000:])


@contextmanager
def serve_model(folder):
    import mlflow

    import loupe
    from loupe.tracking import photo_model
    from loupe.upscalers import bundled

    files = {scale: bundled.find_file("tiny", scale) for scale in bundled.list_scales("tiny")}
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=photo_model.__file__,
        artifacts={f"{scale.numerator}x{scale.denominator}": str(file) for scale, file in files.items()},
        code_paths=[str(Path(loupe.__file__).parent)],
        signature=photo_model.make_signature(),
        pip_requirements=[],
    )
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["mlflow", "models", "serve", "-m", folder / "model", "--env-manager", "local", "-p", port]
    with run_server(command, folder, url, "/ping") as pid:
        yield ServedModel(url, pid)


@contextmanager
def serve_demo(folder):
    pytest.importorskip("gradio", reason="gradio is not installed")
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    with run_server(["loupe", "demo", "--model", "tiny", "--port", port], folder, url, "/") as pid:
        yield DemoPage(url, pid)


SERVERS = {"model": serve_model, "demo": serve_demo}
GROUPS = {name: pytest.mark.xdist_group(f"served {name}") for name in SERVERS}  # one process starts the server


@pytest.fixture(scope="module", params=[pytest.param(name, marks=GROUPS[name]) for name in SERVERS])
def server(request, tmp_path_factory):
    with SERVERS[request.param](tmp_path_factory.mktemp("server")) as client:
        yield client


def encode(name, *images, **options):
    stream = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:]} if len(images) > 1 else {}
    images[0].save(stream, name, **more, **options)
    return stream.getvalue()


def make_frames(size, count, mode="RGB"):
    return [Image.new(mode, size, number % 250) for number in range(count)]


def repeat_frame(gif, count):
    """Return a GIF in which the frame of a GIF is repeated. Pillow would take 0.2 s per frame."""
    start = 13 + 3 * 2 ** (gif[10] % 8 + 1)  # after the header and the palette
    return gif[:start] + gif[start:-1] * count + gif[-1:]


def make_noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), "uint8"))


SMALL = encode("PNG", make_noise(60, 40))
# Name -> a function that returns a file, and the scale factor.
BOMBS = {
    "20 large pages after a small one": (
        lambda: encode("TIFF", Image.new("1", (1, 1)), *[Image.new("1", (13_000, 13_000))] * 20,
                       compression="tiff_adobe_deflate"), 1),
    "2,000 pages": (lambda: encode("TIFF", *make_frames((1, 1), 2000, "L")), 8),
    "400 pages": (lambda: encode("TIFF", *make_frames((200, 200), 400, "L"), compression="tiff_adobe_deflate"), 1),
    "63 megapixels in one row": (lambda: encode("PNG", Image.new("L", (63_000_000, 1))), 1),
    "63 megapixels in one column": (lambda: encode("PNG", Image.new("L", (1, 63_000_000))), 1),
    "PNG": (lambda: encode("PNG", Image.new("RGBA", (5400, 5400))), 1),
    "16-bit PNG": (lambda: encode("PNG", Image.fromarray(np.zeros((5400, 5400), "uint16"))), 1.4),
    "animated PNG": (lambda: encode("PNG", *make_frames((2000, 2000), 7)), 1.4),
    "animated GIF": (lambda: encode("GIF", *make_frames((2000, 2000), 7, "P")), 1.4),
    "100 frames": (lambda: repeat_frame(encode("GIF", Image.new("P", (2000, 2000))), 100), 8),
    "animated WebP": (lambda: encode("WEBP", *make_frames((2000, 2000), 7), lossless=True, method=0), 1.4),
    "animated AVIF": (lambda: encode("AVIF", *make_frames((2000, 2000), 7), speed=10), 1.4),
    "AVIF": (lambda: encode("AVIF", Image.new("RGB", (5400, 5400)), speed=10), 1.4),
    "BMP": (lambda: encode("BMP", Image.new("1", (5400, 5400))), 1.4),
    "JPEG": (lambda: encode("JPEG", make_noise(5400, 5400), progressive=True, quality=30), 1.4),
}  # fmt: skip


@cache
def make_bomb(name):
    """Return the file and the scale factor."""
    make, scale = BOMBS[name]
    return make(), scale


@contextmanager
def keep_asking(server):
    """Send a small photo again and again during the block; yields the times that the answers took."""
    seconds, stop = [], threading.Event()

    def ask():
        while not seconds or not stop.wait(0.1):
            started = time.monotonic()
            assert isinstance(server.upscale(SMALL), bytes)
            seconds.append(time.monotonic() - started)

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask)
        try:
            yield seconds
        finally:
            stop.set()
            asking.result(JOIN_S)


def measure(server, content, scale, format="same"):
    """Return the answer and the time that it took; checks memory and time."""
    server.upscale(SMALL)
    with MemoryWatch(server.pid) as watch, keep_asking(server) as seconds:
        started = time.monotonic()
        answer = server.upscale(content, scale, format)
        took = time.monotonic() - started
    print(f"{took:.1f} s, {watch.peak_mb:.0f} MB, small photos at most {max(seconds):.1f} s", str(answer)[:150])
    assert not watch.killed
    assert watch.peak_mb < MAX_MB
    assert max(took, *seconds) < MAX_S
    return answer, took, seconds


@pytest.mark.slow
def test_pages_are_checked_before_they_are_decoded(server):
    for name, reason in {
        "20 large pages after a small one": "megapixels, got 3380.0",
        "2,000 pages": "must have at most 500 frames or pages, got more",
    }.items():
        answer, took, _ = measure(server, *make_bomb(name))
        assert reason in answer
        assert took < 20


# The demo gets all files in one batch too, and has the worker processes of the served model.
CASES = [("model", name) for name in BOMBS]
CASES += [("demo", name) for name in ("63 megapixels in one row", "PNG", "100 frames", "JPEG")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "name"),
    [pytest.param(server, name, marks=GROUPS[server]) for server, name in CASES],
    indirect=["server"],
)
def test_memory_and_time_are_bounded_and_small_photos_do_not_wait(name, server):
    seconds = measure(server, *make_bomb(name))[2]
    assert sorted(seconds)[len(seconds) // 2] < 5


@pytest.mark.slow(300)
def test_many_requests_at_a_time_keep_the_bounds(server):
    contents = [make_bomb(name) for name in BOMBS]
    with (
        MemoryWatch(server.pid) as watch,
        keep_asking(server) as seconds,
        ThreadPoolExecutor(len(contents)) as threads,
    ):

        def ask(content, scale):
            started = time.monotonic()
            server.upscale(content, scale)
            return time.monotonic() - started

        times = list(threads.map(lambda pair: ask(*pair), contents))
    print(f"{max(times):.1f} s, {watch.peak_mb:.0f} MB, small photos at most {max(seconds):.1f} s")
    assert not watch.killed
    assert watch.peak_mb < MAX_MB
    assert max(*times, *seconds) < MAX_S
