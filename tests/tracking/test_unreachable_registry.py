"""Models are looked up in MLflow only if it is installed and has a store, and only for a few seconds."""

import contextlib
import importlib
import importlib.util
import os
import socket
import socketserver
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import mlflow
import pytest

from loupe.config import parse_settings
from loupe.errors import LoupeError, UsageError
from loupe.tracking import liveness, resolver, runs, server, store
from loupe.tracking.resolver import resolve_model

NAME, SCALE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", Fraction(3, 2)


def test_without_mlflow_the_champion_is_the_bundled_network_although_a_store_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("mlflow.db").write_bytes(b"a store")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find_spec(name))
    assert resolve_model("champion").get(SCALE).name == "the bundled network small of 3:2 (mlflow is not installed)"
    assert Path("mlflow.db").read_bytes() == b"a store"


HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
ANSWERS = {
    "nothing": (),
    "a byte per 0.1 s": HEADER[:60],
    "reset": None,
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /again\r\nConnection: close\r\n\r\n",),
    "page": (HEADER + b"<html>not MLflow</html>",),
    "list": (HEADER + b"[]",),
    "null": (HEADER + b"null",),
    "other types": (HEADER + b'{"model_version": [1], "run": 3}',),
    "numbers": (HEADER + b'{"model_version": {"name": 1, "version": {}, "run_id": [], "source": 0}}',),
    "error": (b"HTTP/1.1 500 Error\r\nConnection: close\r\n\r\n",),
}


class BadServer(socketserver.ThreadingTCPServer):
    """A server whose answer is one of ANSWERS: parts, one after the other, or bytes sent slowly."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, answer: bytes | tuple[bytes, ...] | None) -> None:
        self.answer, self.is_closed = answer, threading.Event()
        super().__init__(("127.0.0.1", 0), BadAnswer)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: the lines of the client are counted."""


class BadAnswer(socketserver.BaseRequestHandler):
    server: BadServer

    def handle(self) -> None:
        answer = self.server.answer
        if answer is None:
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        with contextlib.suppress(OSError):
            self.request.recv(65536)
            for part in answer if isinstance(answer, tuple) else (bytes([byte]) for byte in answer):
                self.request.sendall(part)
                if not isinstance(answer, tuple):
                    self.server.is_closed.wait(0.1)
            if answer == () or isinstance(answer, bytes):
                self.server.is_closed.wait(60)


@pytest.fixture
def bad_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The tracking URI of a BadServer with the answer that the parameter names."""
    bad, before = BadServer(ANSWERS[request.param]), mlflow.get_tracking_uri()
    threading.Thread(target=bad.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    uri = f"http://user:secret@127.0.0.1:{bad.server_address[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    monkeypatch.setattr(resolver, "LOOKUP_TIMEOUT_S", 0.5)
    yield uri
    bad.is_closed.set()
    mlflow.set_tracking_uri(before)
    bad.shutdown()
    bad.server_close()


def check_fallback(capsys: pytest.CaptureFixture[str], seconds: float = 3.0) -> str:
    """Check that the champion is the bundled network, after one line; returns the line."""
    started = time.monotonic()
    networks = resolve_model("champion")
    assert networks.get(SCALE).name == "the bundled network small of 3:2 (the store cannot be used)"
    assert networks.get(Fraction(2)).name == "the bundled network small of 2:1 (the store cannot be used)"
    assert time.monotonic() - started < seconds
    printed = capsys.readouterr().err.splitlines()
    # threads of other tests may still show MLflow's progress bar
    lines = [line for line in printed if line and not line.startswith("Downloading")]
    assert len(lines) == 1, lines
    (line,) = lines
    assert line.endswith("; the bundled networks are used")
    assert "secret" not in line
    return str(line)


@pytest.mark.parametrize("bad_server", ANSWERS, indirect=True)
def test_with_a_bad_server_the_bundled_network_is_used_after_one_line(
    bad_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_fallback(capsys).startswith("tracking: http://***@127.0.0.1:")


@pytest.mark.parametrize("bad_server", ["nothing", "list"], indirect=True)
@pytest.mark.parametrize("name", ["models:/loupe@champion", "runs:/0/model"])
def test_a_model_by_its_uri_is_an_error_if_the_server_is_bad(name: str, bad_server: str) -> None:
    started = time.monotonic()
    with pytest.raises(LoupeError, match=r"tracking: |model: ") as caught:
        resolve_model(name).get(SCALE)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("bad_server", ["error", "page"], indirect=True)
def test_a_run_does_not_count_as_missing_if_the_server_is_bad(
    bad_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STARTUP_TIMEOUT_S", 0)
    monkeypatch.setenv(NAME, "0")
    with pytest.raises(LoupeError, match=r"^tracking: http://.* (is unreachable|cannot be used: .*)$") as caught:
        runs.get_run("0" * 32, "resume")
    assert not isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("step", "given"),
    [
        ("register", {}),
        ("register", {"rollback": True}),
        ("register", {"version": 1}),
        ("report", {}),
        ("sweep", {"sweep": "sweeps/activation.toml"}),
        ("train", {}),
        ("evaluate", {}),
    ],
)
@pytest.mark.parametrize("bad_server", ["error"], indirect=True)
def test_a_step_that_needs_the_server_ends_before_it_sends_a_request_of_mlflow(
    step: str, given: dict[str, object], bad_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(*request: object, **fields: object) -> None:
        raise AssertionError(request)

    monkeypatch.setattr(server, "STARTUP_TIMEOUT_S", 0)
    monkeypatch.setattr("mlflow.utils.rest_utils.http_request", send)
    monkeypatch.setenv("MLFLOW_RUN_ID", "1")
    with pytest.raises(LoupeError, match=r"^tracking: http://.* is unreachable$"):
        importlib.import_module(f"loupe.steps.{step}").run(parse_settings(step, given))


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mssql", "mysql+pymysql", "postgresql+psycopg2"])
@pytest.mark.parametrize("bad_server", ["nothing"], indirect=True)
def test_with_a_bad_database_the_bundled_network_is_used_after_one_line(
    scheme: str, bad_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow.set_tracking_uri(bad_server.replace("http", scheme))
    check_fallback(capsys)


@pytest.mark.parametrize(
    "uri", ["http://[::1", "http://", "http://a:99999", "sqlite:", "postgresql://[::1/x", "no://x"]
)
def test_with_a_malformed_uri_the_bundled_network_is_used_after_one_line(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    try:
        check_fallback(capsys)
    finally:
        mlflow.set_tracking_uri(before)


def test_a_store_that_cannot_be_written_is_an_error_for_steps_that_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage("none", tmp_path / "mlflow.db")
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"sqlite:///{tmp_path}/mlflow.db")
    store.check_store()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # as on a file system that is read-only
    store.check_store(writes=False)
    with pytest.raises(
        LoupeError, match=r"^tracking: the store and its folder must be writable, got '.*mlflow\.db'$"
    ):
        store.check_store()


def damage(what: str, file: Path) -> object:
    """Create a store that cannot be used; returns what must be kept open."""
    if what == "pipe":
        return os.mkfifo(file)
    if what == "folder":
        return file.mkdir()
    if what == "text":
        return file.write_text("not a database " * 1000)
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("CREATE TABLE a (b)")
    if what == "locked":
        return database.execute("BEGIN EXCLUSIVE")
    database.close()
    if what == "none":
        return None
    content = bytearray(file.read_bytes())
    place = content.index(b"CREATE TABLE") if what == "schema" else 16
    content[place : place + 20] = b"\xff" * 20
    return file.write_bytes(content)


@pytest.mark.parametrize("what", ["pipe", "folder", "text", "locked", "header", "schema"])
def test_with_a_bad_file_the_bundled_network_is_used_after_one_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, before = damage(what, tmp_path / "mlflow.db"), mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(resolver, "LOOKUP_TIMEOUT_S", 0.5)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        check_fallback(capsys)
        with pytest.raises(LoupeError, match=r"^tracking: "):
            store.check_store(0.1)
    finally:
        mlflow.set_tracking_uri(before)
        del opened


@pytest.mark.parametrize("before", [None, "3", "0"])
def test_retries_are_limited_in_the_block_only(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    if before is not None:
        monkeypatch.setenv(NAME, before)

    def look_up() -> None:
        with server.limit_requests():
            assert os.environ[NAME] == "0"
            raise KeyError

    with pytest.raises(KeyError):
        look_up()
    assert os.environ.get(NAME) == before


@pytest.mark.parametrize("bad_server", ["page", "list"], indirect=True)
def test_a_request_is_repeated_only_for_a_short_time_after_a_wrong_answer(
    bad_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PROBE_TIMEOUT_S", 0.1)
    started = time.monotonic()
    with pytest.raises(mlflow.exceptions.MlflowException, match="the response body was not"):
        server.retry_while_unreachable(liveness.close_orphaned_runs, 10, quiet=True)
    assert time.monotonic() - started < 5
