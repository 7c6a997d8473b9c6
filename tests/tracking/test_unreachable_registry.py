"""Models are looked up in MLflow only if it is installed and has a store, and only for a few seconds."""

import importlib.util
import os
import socket
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import mlflow
import pytest

from loupe.errors import UsageError
from loupe.tracking import server
from loupe.tracking.resolver import resolve_model

NAME, SCALE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", Fraction(3, 2)


@pytest.fixture
def dead_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The tracking URI of a server that refuses connections."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        uri, before = f"http://127.0.0.1:{reserved.getsockname()[1]}", mlflow.get_tracking_uri()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        yield uri
        mlflow.set_tracking_uri(before)


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


@pytest.mark.parametrize("name", ["champion", "models:/loupe@champion", "runs:/0/model"])
def test_an_unreachable_server_is_an_error_within_seconds(name: str, dead_server: str) -> None:
    started = time.monotonic()
    with pytest.raises((mlflow.MlflowException, UsageError), match=r"127\.0\.0\.1"):
        resolve_model(name).get(SCALE)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(("before", "inside"), [(None, "1"), ("3", "1"), ("0", "0")])
def test_retries_are_limited_in_the_block_only(
    before: str | None, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    if before is not None:
        monkeypatch.setenv(NAME, before)

    def look_up() -> None:
        with server.limit_retries(1):
            assert os.environ[NAME] == inside
            raise KeyError

    with pytest.raises(KeyError):
        look_up()
    assert os.environ.get(NAME) == before
