"""Downloads from a local server that drops connections, ignores range requests, or refuses."""

import hashlib
import random
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from unittest.mock import patch

import pytest

from loupe.data import download as downloads
from loupe.data.download import download
from loupe.errors import LoupeError

MEGABYTE = 1 << 20
SIZE = 5 * MEGABYTE + 123
CONTENT = random.Random(0).randbytes(SIZE)
MD5 = hashlib.md5(CONTENT).hexdigest()
REFUSED, EMPTY = -1, -2


@dataclass
class Served:
    """The behaviour of the server, and the requests that it received."""

    url: str = ""
    plan: list[int] = field(default_factory=list)  # bytes before each connection drops; later connections send all
    knows_ranges: bool = True
    ranges: list[str | None] = field(default_factory=list)  # of each request


@pytest.fixture
def served(serve):
    behaviour = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers["Range"]
            behaviour.ranges.append(asked)
            amount = behaviour.plan.pop(0) if behaviour.plan else SIZE
            if amount == REFUSED:
                self.send_error(503)
                return
            if amount == EMPTY:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and behaviour.knows_ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(SIZE - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : start + amount])

        def log_message(self, *_):
            pass

    behaviour.url = f"{serve(Handler)}/photos.tar"
    return behaviour


def fetch(target, served, md5=MD5, tries=3):
    with patch.multiple("loupe.data.download", MAX_TRIES=tries, FIRST_PAUSE_S=0.01):
        return download(target, served.url, md5, SIZE, quiet=True)


def names_in(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_complete_after_dropped_connections(served, tmp_path):
    served.plan = [2 * MEGABYTE, 2 * MEGABYTE]
    target = fetch(tmp_path / "new folder" / "photos.tar", served)
    assert target.read_bytes() == CONTENT
    assert served.ranges == [None, f"bytes={2 * MEGABYTE}-", f"bytes={4 * MEGABYTE}-"]
    assert names_in(target.parent) == ["photos.tar"]


def test_a_file_is_complete_after_connections_that_drop_early(served, tmp_path):
    served.plan = [300_000] * 5
    assert fetch(tmp_path / "photos.tar", served).read_bytes() == CONTENT
    assert len(served.ranges) == 6


def test_tries_count_only_connections_without_a_new_byte(served, tmp_path):
    served.plan = [MEGABYTE, 0, MEGABYTE, 0, MEGABYTE, REFUSED]
    assert fetch(tmp_path / "photos.tar", served, tries=2).read_bytes() == CONTENT
    assert len(served.ranges) == 7


def test_a_second_call_resumes_the_download(served, tmp_path):
    target = tmp_path / "photos.tar"
    served.plan = [2 * MEGABYTE, REFUSED]
    with pytest.raises(LoupeError, match=f"stopped at {2 * MEGABYTE} of {SIZE} bytes"):
        fetch(target, served, tries=1)
    assert names_in(tmp_path) == ["photos.tar.part"]
    served.ranges.clear()
    assert fetch(target, served).read_bytes() == CONTENT
    assert served.ranges == [f"bytes={2 * MEGABYTE}-"]
    assert names_in(tmp_path) == ["photos.tar"]


def test_a_server_that_ignores_ranges_works_too(served, tmp_path):
    served.knows_ranges = False
    served.plan = [2 * MEGABYTE, 3 * MEGABYTE]
    assert fetch(tmp_path / "photos.tar", served).read_bytes() == CONTENT
    assert served.ranges == [None, f"bytes={2 * MEGABYTE}-", f"bytes={3 * MEGABYTE}-"]


def test_a_file_with_another_md5_is_refused_and_deleted(served, tmp_path):
    with pytest.raises(LoupeError, match=f"md5 must be {'0' * 32}, got {MD5}"):
        fetch(tmp_path / "photos.tar", served, md5="0" * 32)
    assert names_in(tmp_path) == []


def test_the_download_stops_after_max_tries_if_the_server_refuses(served, tmp_path):
    served.plan = [REFUSED] * 9
    with pytest.raises(LoupeError, match="503") as caught:
        fetch(tmp_path / "photos.tar", served, tries=4)
    assert len(served.ranges) == 4
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "photos.tar").exists()


def test_a_server_that_sends_an_empty_file_is_reported(served, tmp_path):
    served.plan = [EMPTY] * 9
    with pytest.raises(LoupeError, match=f"stopped at 0 of {SIZE} bytes: the server sent no further data$"):
        fetch(tmp_path / "photos.tar", served, tries=2)


def test_two_downloads_of_a_file_make_one_request(served, tmp_path, monkeypatch):
    target, append = tmp_path / "photos.tar", downloads._append
    second = threading.Thread(target=download, args=(target, served.url, MD5, SIZE, True))

    def append_during_second_download(*arguments):
        if not second.ident:
            second.start()
            second.join(0.1)  # without a lock, the second download appends to the same file meanwhile
        return append(*arguments)

    monkeypatch.setattr(downloads, "_append", append_during_second_download)
    fetch(target, served)
    second.join()
    assert target.read_bytes() == CONTENT
    assert served.ranges == [None]
    assert names_in(tmp_path) == ["photos.tar"]


def test_a_server_that_does_not_answer_raises_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/photos.tar"
    with pytest.raises(LoupeError, match="stopped at 0"):
        fetch(tmp_path / "photos.tar", Served(url), tries=2)


def test_an_existing_file_is_kept_without_a_request(served, tmp_path):
    (tmp_path / "photos.tar").write_bytes(b"kept")
    assert fetch(tmp_path / "photos.tar", served).read_bytes() == b"kept"
    assert served.ranges == []
