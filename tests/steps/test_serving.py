"""`mlflow models serve` with `loupe-photo` upscales the photos of many clients, and refuses invalid requests."""

import base64
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
import requests
from jobs import build_env, loupe
from PIL import Image
from services import find_free_port

pytestmark = pytest.mark.xdist_group("main")  # one process: the tests use the main job of test_main.py


@pytest.fixture(scope="module")
def photo() -> bytes:
    import skimage

    image = Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png").convert("RGB").resize((96, 64))
    stream = io.BytesIO()
    tags = Image.Exif()
    tags[0x010E] = "A cat"
    image.save(stream, "JPEG", exif=tags)
    return stream.getvalue()


@pytest.fixture(scope="module")
def address(finished_main, tmp_path_factory):
    port = find_free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/loupe-photo@champion",
               "--env-manager", "local", "-p", str(port)]  # fmt: skip
    log = tmp_path_factory.mktemp("serving") / "log.txt"
    with log.open("w") as stream:
        server = subprocess.Popen(
            command, cwd=finished_main, env=build_env(PYTHONPATH=""), stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 90
    try:
        while True:
            try:
                if requests.get(f"{url}/ping", timeout=2).ok:
                    break
            except requests.RequestException:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def send(address, data, params=None, content_type="application/json"):
    if not isinstance(data, (str, bytes)):
        data = json.dumps({"dataframe_split": {"columns": ["photo"], "data": [data]}, "params": params or {}})
    return requests.post(f"{address}/invocations", data=data, headers={"Content-Type": content_type}, timeout=60)


def open_photo(response):
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(base64.b64decode(response.json()["predictions"][0])))


def test_photo_is_upscaled_with_its_metadata(address, photo):
    large = open_photo(send(address, [base64.b64encode(photo).decode()]))
    assert (large.format, large.size) == ("JPEG", (144, 96))
    assert large.getexif()[0x010E] == "A cat"
    large = open_photo(send(address, [base64.b64encode(photo).decode()], {"scale": 3.7, "format": "png"}))
    assert (large.format, large.size) == ("PNG", (355, 237))


def test_200_requests_of_8_clients_succeed(address, photo):
    text = base64.b64encode(photo).decode()

    def timed(_):
        start = time.perf_counter()
        status = send(address, [text]).status_code
        return status, time.perf_counter() - start

    with ThreadPoolExecutor(8) as clients:
        responses = list(clients.map(timed, range(200)))
    assert {status for status, _ in responses} == {200}
    seconds = sorted(second for _, second in responses)
    print(f"p50 {seconds[100] * 1e3:.0f} ms, p95 {seconds[190] * 1e3:.0f} ms")


def png(width, height, rows=100):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(b"\0" * (width + 1) * rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "params", "word"),
    [
        (["no base64 at all"], {}, "must be an image file in base64"),
        ([base64.b64encode(b"no image").decode()], {}, "not an image"),
        ([""], {}, "is empty"),
        ([5], {}, "must be an image file in base64, got int"),
        ([base64.b64encode(png(60_000, 60_000)).decode()], {}, "too many pixels"),
        ([base64.b64encode(png(9_000, 9_000, 9_000)).decode()], {}, "at most 64 megapixels, got 81.0"),
        (["A" * 44_000_000], {}, "must have at most 32 MB, got 33 MB"),
        (["photo"], {"scale": 99.0}, "scale: must be from 1 to 8, got 99.0"),
        (["photo"], {"format": "exe"}, "format: must be same, jpg"),
        ("{", {}, "valid JSON"),
        (json.dumps({"dataframe_split": {"columns": ["other"], "data": [["x"]]}}), {}, "photo"),
        ("[" * 100_000, {}, "brackets"),
        ('{"dataframe_split": ' * 100_000, {}, "brackets"),
        ('{"inputs": ' + "[" * 200 + "]" * 200 + "}", {}, "Invalid input"),
        ('{"inputs": ' + "1" * 5000 + "}", {}, "input: must be a table of photos, got other data: ValueError"),
        ('{"dataframe_split": 5}', {}, "must be a dictionary"),
        ('{"dataframe_split": {"columns": 5, "data": {}}}', {}, "split"),
        ('{"dataframe_records": [5, null]}', {}, "photo"),
        ('{"inputs": null}', {}, "photo"),
        ('{"instances": [{"photo": {"a": [1]}}]}', {}, "must be an image file in base64"),
        ('{"dataframe_split": {"columns": ["photo"], "data": [["x"]]}, "params": [1]}', {}, "must be a dictionary"),
        (["photo"], {"scale": {"a": 1}}, "scale"),
        (["photo"], {"format": ["png"]}, "format"),
        (json.dumps({"dataframe_split": {"columns": ["photo"], "data": [["x"]] * 101}}), {}, "at most 100 photos"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_request_is_refused_and_the_server_continues(address, photo, data, params, word):
    good = base64.b64encode(photo).decode()
    response = send(address, [good] if data == ["photo"] else data, params)
    assert 400 <= response.status_code < 500
    assert word in response.json()["message"]
    assert "\n" not in response.json()["message"]
    assert "Traceback" not in response.text
    assert send(address, [good]).status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "", None, "application/vnd.apache.parquet"])
def test_unknown_content_type_is_refused(address, content_type):
    assert send(address, "photo", content_type=content_type).status_code == 415


def test_csv_is_accepted(address, photo):
    table = f"photo\n{base64.b64encode(photo).decode()}\n"
    assert open_photo(send(address, table, content_type="text/csv")).size == (144, 96)


def test_registered_photo_model_follows_the_champion(finished_main):
    mlflow.set_tracking_uri(f"sqlite:///{finished_main}/mlflow.db")
    client = mlflow.MlflowClient()
    champion = client.get_model_version_by_alias("loupe", "champion")
    served = client.get_model_version_by_alias("loupe-photo", "champion")
    assert f"loupe version {champion.version}" in served.description
    assert "the bundled network of 2:1" in served.description
    loupe("register", "--run", champion.run_id, cwd=finished_main)  # it is the champion already
    assert client.get_model_version_by_alias("loupe-photo", "champion").version == served.version
