"""The guard of the demo: other sites, large bodies and too many uploads are refused; closed streams end the work."""

import asyncio
import os
import time

import pytest

from loupe.web import guard, storage
from loupe.web.guard import MAX_FILE_BYTES, DemoGuard, OwnHosts

UPLOAD, LOCAL = guard.UPLOAD_ROUTE, "127.0.0.1"


def call(guarded, path="/", headers=(), method="GET", query=b"", messages=()):
    """Send a request to the guard; returns the status and the body."""
    scope = {"type": "http", "path": path, "method": method, "query_string": query, "headers": list(headers)}
    sent, waiting = [], list(messages)

    async def receive():
        return waiting.pop(0) if waiting else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    asyncio.run(guarded(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


@pytest.fixture
def guarded(tmp_path):
    return DemoGuard(app, OwnHosts("127.0.0.1", frozenset(["photos.example.org"])), tmp_path, lambda _: None)


def send(guarded, *headers, **more):
    return call(guarded, headers=[(name.encode(), value.encode()) for name, value in headers], **more)


@pytest.mark.parametrize(
    ("listening", "host", "own"),
    [
        *[(LOCAL, host, True) for host in ("127.0.0.1", "127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]")],
        *[(LOCAL, host, False) for host in ("evil.example", "@", "localhost.evil.example", "10.0.0.5", "", "[::1")],
        *[(LOCAL, host, False) for host in ("127.0.0.1.evil.example", "evil.example:1", "user@evil.example")],
        *[(LOCAL, f"{LOCAL}{sign}evil.example", False) for sign in "/?#@"],
        (LOCAL, f"evil.example@{LOCAL}", False),
        *[("0.0.0.0", host, True) for host in ("10.0.0.5:7860", "127.0.0.1", "[fe80::1]", "localhost")],
        *[("0.0.0.0", host, False) for host in ("evil.example", "10.0.0.5.evil.example")],
        *[("::", host, True) for host in ("[2001:db8::5]:7860", "10.0.0.5")],
        *[("10.0.0.5", host, own) for host, own in (("10.0.0.5", True), ("10.0.0.6", False), ("localhost", True))],
        ("127.0.0.1", "photos.example.org", True),
        ("127.0.0.1", "Photos.Example.Org.:443", True),
        *[("127.0.0.1", host, True) for host in ("mybox.lan", "MYBOX.LAN:7860")],
    ],
)  # fmt: skip
def test_a_host_belongs_to_the_server_or_not(listening, host, own):
    assert (host in OwnHosts(listening, frozenset(["photos.example.org"]), "MyBox.lan")) == own


def test_without_a_requested_name_malformed_hosts_are_refused():
    assert not any(host in OwnHosts(LOCAL) for host in ("", "a/b", "[::1"))


def test_a_request_has_one_host_of_this_server(guarded):
    assert send(guarded, ("host", "localhost:7860")) == (200, "page")
    assert send(guarded)[0] == 403
    assert send(guarded, ("host", "localhost"), ("host", "evil.example"))[0] == 403
    status, body = send(guarded, ("host", "evil.example:7860"))
    assert (status, body) == (
        403,
        '{"detail": "Host: must be an address of this server, got \'evil.example:7860\'"}',
    )


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:7860", "http://localhost:7860", 200),
        ("photos.example.org", "https://photos.example.org", 200),
        ("127.0.0.1:7860", "https://photos.example.org", 200),  # a proxy replaces the Host header
        *[("localhost:7860", f"http://{place}", 403) for place in ("localhost:3000", "evil.example", "[::1")],
        *[("localhost:7860", origin, 403) for origin in ("null", "", "http://evil.example//localhost:7860", "file://")],
    ],
)  # fmt: skip
def test_a_request_comes_from_a_page_of_this_server(host, origin, status, guarded):
    assert send(guarded, ("host", host), ("origin", origin), method="POST")[0] == status


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (UPLOAD, {"content-length": str(MAX_FILE_BYTES)}, 200),
        (UPLOAD, {"content-length": str(MAX_FILE_BYTES + 20_000)}, 413),
        (UPLOAD, {"transfer-encoding": "chunked"}, 411),
        ("/gradio_api/queue/join", {"content-length": "90000"}, 200),
        ("/gradio_api/queue/join", {"content-length": "200000"}, 413),
        ("/gradio_api/queue/join", {"transfer-encoding": "chunked"}, 411),
    ],
)
def test_bodies_are_bounded(path, headers, status, guarded):
    sent = send(guarded, ("host", "localhost"), *headers.items(), path=path, method="POST")
    assert sent[0] == status


def test_the_refusal_of_a_large_upload_states_the_limit_of_the_page(guarded):
    size = str(MAX_FILE_BYTES + 20_000_000)
    status, body = send(guarded, ("host", "localhost"), ("content-length", size), path=UPLOAD, method="POST")
    assert (status, body) == (413, '{"detail": "body: must have at most 100.0 MB, got 120.0"}')


def upload(guarded, size):
    return send(guarded, ("host", "localhost"), ("content-length", str(size)), path=UPLOAD, method="POST")[0]


def test_old_uploads_are_deleted_for_new_ones_and_the_newest_are_kept(guarded, monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "MAX_BYTES", 1000)
    (tmp_path / "uploads").mkdir()
    files = [tmp_path / "uploads" / name for name in ("oldest", "old", "new")]
    for file, age in zip(files, (300, 200, 1), strict=True):
        file.write_bytes(bytes(300))
        os.utime(file, (time.time() - age,) * 2)
    assert upload(guarded, 100) == 200
    assert all(file.exists() for file in files)
    assert upload(guarded, 400) == 200
    assert [file.exists() for file in files] == [False, True, True]
    assert upload(guarded, 800) == 503
    assert [file.exists() for file in files] == [False, False, True]
    monkeypatch.setattr(storage, "MAX_FILES", 1)
    assert upload(guarded, 0) == 503


def test_old_files_and_empty_folders_are_deleted(tmp_path):
    (tmp_path / "uploads" / "one").mkdir(parents=True)
    (tmp_path / "uploads" / "two").mkdir()
    for file in (tmp_path / "uploads" / "one" / "old", tmp_path / "uploads" / "two" / "new"):
        file.touch()
    old = time.time() - 100
    for path in ("uploads/one/old", "uploads/one", "uploads/two", "uploads"):
        os.utime(tmp_path / path, (old, old))
    storage.delete_old_files(tmp_path, old + 50)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "one", "two", "uploads"]
    os.utime(tmp_path / "uploads" / "one", (old, old))
    storage.delete_old_files(tmp_path, old + 50)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "two", "uploads"]


def test_a_folder_may_disappear_during_a_search(guarded, monkeypatch, tmp_path):
    scan = os.scandir

    def scan_without_folder(path):
        if str(path).endswith("gone"):
            (tmp_path / "gone").rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_without_folder)
    (tmp_path / "file").touch()
    (tmp_path / "gone").mkdir()
    assert upload(guarded, 100) == 200
    (tmp_path / "gone").mkdir()
    storage.delete_old_files(tmp_path, time.time() + 1)
    assert not any(tmp_path.iterdir())


def test_uploads_in_progress_count(guarded, monkeypatch):
    monkeypatch.setattr(storage, "MAX_BYTES", 1000)
    seen = []

    async def upload_another(scope, receive, send_outer):
        guarded.app = app

        async def send_inner(message):
            seen.append(message.get("status"))

        await guarded(scope, receive, send_inner)
        await app(scope, receive, send_outer)

    guarded.app = upload_another
    assert upload(guarded, 600) == 200
    assert seen[0] == 503
    assert upload(guarded, 600) == 200


@pytest.mark.parametrize("path", [UPLOAD, "/gradio_api/queue/join"])
def test_a_slow_body_is_refused(path, guarded, monkeypatch):
    async def wait(scope, receive, send):
        await receive()

    guarded.app = wait
    monkeypatch.setattr(guard, "BODY_TIMEOUT_S", 0.01)
    assert send(guarded, ("host", "localhost"), path=path, method="POST")[0] == 408


@pytest.mark.parametrize(
    ("path", "query"),
    [("/gradio_api/queue/data", b"session_hash=visitor"), ("/gradio_api/call/upscale/visitor", b"")],
)
def test_a_closed_stream_ends_the_work_for_its_visitor(path, query, guarded):
    left = []
    guarded.cancel_session = left.append

    async def stream(scope, receive, send):
        assert (await receive())["type"] == "http.disconnect"
        await app(scope, receive, send)

    guarded.app = stream
    messages = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]
    assert send(guarded, ("host", "localhost"), path=path, query=query, messages=messages)[0] == 200
    assert left == ["visitor"]


def test_websockets_are_refused(guarded):
    scope = {"type": "websocket", "path": "/", "headers": [(b"host", b"localhost")]}
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(guarded(scope, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
