"""Records of a run are buffered in order, sent once, and deleted without touching other files."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.utils.rest_utils import verify_rest_response

from loupe.cli.main import run_step
from loupe.errors import LoupeError
from loupe.tracking import buffered_runs, delivery, liveness
from loupe.tracking.buffer import SUFFIX, RunBuffer
from loupe.tracking.record_handlers import RECORD_HANDLERS

DESCRIPTION = {
    "run_id": "lost",
    "experiment": "kept",
    "name": "one",
    "start_time": 1,
    "tags": {"a": "b"},
    "params": {},
}


@pytest.fixture
def local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    before, uri = mlflow.get_tracking_uri(), f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(uri)
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(before)


def create(file: Path) -> RunBuffer:
    """A buffer with one metric."""
    buffer = RunBuffer.create(file, DESCRIPTION)
    buffer.append("metrics", {"values": {"mae": 0.5}, "time": 1, "step": 0})
    return buffer


def send(buffer: RunBuffer) -> list[object]:
    """Mark all records as sent; returns their values."""
    records = buffer.list_unsent()
    if records:
        buffer.mark_sent(records[-1].number)
    return [record.body.get("value") for record in records]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_records_are_sent_once_and_in_order_by_this_or_a_later_process(tmp_path: Path) -> None:
    file = tmp_path / f"run{SUFFIX}"
    buffer = RunBuffer.create(file, DESCRIPTION)
    assert buffer.is_sent()
    for value in range(12):
        buffer.append("metrics", {"value": value})
        if value == 4:
            assert send(buffer) == [0, 1, 2, 3, 4]
    assert not buffer.is_sent()
    again = RunBuffer(file)
    assert send(again) == list(range(5, 12))
    assert again.is_sent()
    again.append("metrics", {"value": 12})
    buffer.close()
    assert send(RunBuffer.create(file, DESCRIPTION)) == [12]
    again.mark_sent(0)
    assert send(again) == list(range(13))


def test_a_file_is_buffered_as_it_was_when_it_was_logged(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text("before")
    buffer = RunBuffer.create(tmp_path / f"run{SUFFIX}", DESCRIPTION)
    buffer.append("file", {}, file)
    file.write_text("after")
    (record,) = buffer.list_unsent()
    with buffer.extract_file(record) as copy:
        assert copy is not None
        assert (copy.name, copy.read_text()) == ("table.json", "before")


def test_only_checkpoints_that_a_newer_one_replaces_are_pruned(tmp_path: Path) -> None:
    file = tmp_path / "1.npz"
    file.write_bytes(b"arrays")
    buffer = RunBuffer.create(tmp_path / f"run{SUFFIX}", DESCRIPTION)
    for value in range(3):
        buffer.append("checkpoint", {"value": value}, file)
        buffer.append("file", {"value": 10 + value}, file)
    buffer.delete_old_checkpoints()
    assert send(buffer) == [10, 11, 2, 12]


def test_one_thread_appends_while_another_sends_and_prunes(tmp_path: Path) -> None:
    file, sent = tmp_path / "1.npz", []
    file.write_bytes(bytes(10_000))
    buffer = RunBuffer.create(tmp_path / f"run{SUFFIX}", DESCRIPTION)
    with ThreadPoolExecutor(1) as thread:
        appending = thread.submit(lambda: [buffer.append("checkpoint", {"value": n}, file) for n in range(200)])
        while not appending.done() or not buffer.is_sent():
            buffer.delete_old_checkpoints()
            sent += send(buffer)
    assert sent == sorted(set(sent))
    assert sent[-1] == 199


def test_buffers_of_many_runs_share_a_folder_that_is_removed_with_the_last(tmp_path: Path) -> None:
    def use(number: int) -> None:
        buffer = RunBuffer.create(tmp_path / "all" / f"{number}{SUFFIX}", DESCRIPTION)
        buffer.append("tags", {"value": number})
        assert send(buffer) == [number]
        buffer.remove()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(100)))
    assert not (tmp_path / "all").exists()


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "all").symlink_to(tmp_path / "gone" / "deeper")
    (tmp_path / "file").touch()
    for folder in ("all", "file"):
        with pytest.raises(OSError, match=folder):
            RunBuffer.create(tmp_path / folder / f"run{SUFFIX}", DESCRIPTION)


def test_a_process_that_is_killed_leaves_its_records(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from loupe.tracking.buffer import RunBuffer
buffer = RunBuffer.create(Path(sys.argv[1]), {DESCRIPTION})
for value in range(3):
    buffer.append("metrics", {{"value": value}})
buffer._database.execute("BEGIN")
buffer.append("metrics", {{"value": 3}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    file = tmp_path / f"run{SUFFIX}"
    subprocess.run([sys.executable, "-c", code, file], check=False)
    assert send(RunBuffer(file)) == [0, 1, 2]


def test_the_end_of_a_run_does_not_wait_for_a_server_that_answers_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SimpleNamespace(status_code=200, text="[]")
    handler = {"metrics": lambda *record: verify_rest_response(answer, "/api/2.0/mlflow/runs/log-batch")}
    monkeypatch.setattr(delivery, "RECORD_HANDLERS", handler)
    monkeypatch.setattr(delivery, "is_reachable", lambda: True)
    monkeypatch.setattr(delivery, "PROBE_TIMEOUT_S", 0.2)
    buffer = create(tmp_path / f"run{SUFFIX}")
    uploader = delivery.RunUploader(buffer, quiet=True)
    start = time.monotonic()
    assert not uploader.finish(60)
    assert time.monotonic() - start < 10
    assert len(buffer.list_unsent()) == 1  # `loupe sync` uploads it


def test_the_end_of_a_run_waits_as_long_as_records_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "RECORD_HANDLERS", {"metrics": lambda *record: time.sleep(0.2)})
    monkeypatch.setattr(delivery, "is_reachable", lambda: True)
    buffer = create(tmp_path / f"run{SUFFIX}")
    for _ in range(4):
        buffer.append("metrics", {})
    assert delivery.RunUploader(buffer, quiet=True).finish(0.5, extends=True)


def test_records_that_a_reachable_server_does_not_accept_are_reported_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*record: object) -> None:
        raise MlflowException("the disk of the server is full", INTERNAL_ERROR)

    monkeypatch.setattr(delivery, "RECORD_HANDLERS", {"metrics": fail})
    monkeypatch.setattr(delivery, "is_reachable", lambda: True)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://server")
    uploader = delivery.RunUploader(create(tmp_path / f"run{SUFFIX}"), quiet=True)
    assert not uploader.finish(0.3)
    expected = "tracking: http://server did not accept all records: the disk of the server is full"
    assert uploader.describe_failure() == expected


@pytest.mark.parametrize("second", [MlflowException("second", INVALID_PARAMETER_VALUE), ValueError("second")])
def test_the_end_of_a_run_raises_the_first_error_and_does_not_wait_for_records_that_always_fail(
    second: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> object:
        raise error

    first = MlflowException("first", INVALID_PARAMETER_VALUE)
    handlers = {"metrics": lambda *record: fail(first), "tags": lambda *record: fail(second)}
    monkeypatch.setattr(delivery, "RECORD_HANDLERS", handlers)
    monkeypatch.setattr(delivery, "is_reachable", lambda: True)
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.1)
    buffer = create(tmp_path / f"run{SUFFIX}")
    buffer.append("tags", {"a": "b"})
    uploader = delivery.RunUploader(buffer, quiet=True)
    start = time.monotonic()
    with pytest.raises(MlflowException, match="first"):
        uploader.finish(60)
    assert time.monotonic() - start < 30


def test_a_finished_run_whose_server_is_unreachable_raises_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "is_reachable", lambda: False)
    monkeypatch.setattr(delivery, "MLFLOW_HTTP_REQUEST_TIMEOUT", SimpleNamespace(get=lambda: 0))
    file = tmp_path / f"run{SUFFIX}"
    monkeypatch.setitem(delivery._UPLOADERS, "1", delivery.RunUploader(create(file), quiet=True))
    with pytest.raises(delivery.UnsentRecordsError, match="is unreachable; run 1 is buffered in"):
        delivery.end_run("1", "FINISHED")
    assert [record.kind for record in RunBuffer(file).list_unsent()] == ["metrics", "end", "remove checkpoint"]


def test_the_thread_ends_without_an_error_if_its_request_ends_after_the_buffer_was_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends, may_end, errors = threading.Event(), threading.Event(), list[object]()

    def send_slowly(*record: object) -> None:
        sends.set()
        may_end.wait(10)

    monkeypatch.setattr(delivery, "RECORD_HANDLERS", {"metrics": send_slowly})
    monkeypatch.setattr(delivery, "is_reachable", lambda: True)
    monkeypatch.setattr(delivery, "PROBE_TIMEOUT_S", 0)
    monkeypatch.setattr(threading, "excepthook", errors.append)
    buffer = create(tmp_path / f"run{SUFFIX}")
    uploader = delivery.RunUploader(buffer, quiet=True)
    uploader._wake.set()
    assert sends.wait(10)
    assert not uploader.finish(0)
    buffer.close()
    may_end.set()
    uploader._thread.join()
    assert not errors


def test_a_run_that_another_process_uploads_is_skipped(
    tmp_path: Path, local_store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upload(run_id: str, body: object, file: object) -> None:
        (tmp_path / "all" / f"run{SUFFIX}").unlink()
        (tmp_path / "all").rmdir()

    create(tmp_path / "all" / f"run{SUFFIX}")
    monkeypatch.setitem(RECORD_HANDLERS, "metrics", upload)
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=True) == (0, 0)
    assert not (tmp_path / "all").exists()


def execute(*statements: str) -> Callable[[Path], None]:
    """Return a function that creates a buffer with one record and executes statements on it."""

    def write(file: Path) -> None:
        create(file)
        with sqlite3.connect(file) as database:
            for statement in statements:
                database.execute(statement)

    return write


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\xff\xd8\xff a photo" * 100),
        lambda file: file.mkdir(),
        lambda file: sqlite3.connect(file).execute("CREATE TABLE records (number, kind, body)").connection.commit(),
        execute("DELETE FROM records"),
        execute("DROP TABLE records"),
        execute("UPDATE records SET kind = 'photo'"),
        execute("UPDATE records SET body = '{'"),
        execute("UPDATE records SET body = '[]' WHERE number = 0"),
        execute("UPDATE records SET body = '{\"run_id\": 3}' WHERE number = 0"),
        execute("UPDATE records SET body = '[]' WHERE number = 1"),
        execute("UPDATE records SET body = 3"),
        lambda file: os.mkfifo(file),
        lambda file: (create(file), file.write_bytes(file.read_bytes()[:5000])),
    ],
    ids=[
        *("empty", "bytes", "folder", "another", "no run", "no table", "kind", "body", "list", "types", "record"),
        *("number", "pipe", "cut"),
    ],
)
def test_a_file_that_is_not_a_buffered_run_is_kept_and_reported(
    write: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all").mkdir()
    file = tmp_path / "all" / f"odd{SUFFIX}"
    write(file)
    for name in ("photo.jpg", "run.json", "mlflow.db"):
        (tmp_path / "all" / name).write_bytes(b"not of Loupe")
    before = contents(tmp_path)
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=True) == (0, 1)
    assert contents(tmp_path) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tracking: {file} is not uploaded and stays as it is: ")


def test_the_error_names_the_damaged_buffer_of_a_resumed_run(tmp_path: Path) -> None:
    file = tmp_path / f"run{SUFFIX}"
    execute("UPDATE records SET body = '{' WHERE number = 1")(file)
    with pytest.raises(LoupeError, match=rf"tracking: {file} is damaged \(.*\); move it to another folder"):
        RunBuffer.create(file, DESCRIPTION)


def test_a_record_that_its_handler_does_not_accept_does_not_end_the_upload_of_others(
    tmp_path: Path, local_store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all").mkdir()
    execute("UPDATE records SET body = '{\"values\": 3}' WHERE number = 1")(tmp_path / "all" / f"1{SUFFIX}")
    create(tmp_path / "all" / f"2{SUFFIX}").close()
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=False) == (1, 1)
    assert [file.name for file in (tmp_path / "all").iterdir()] == [f"1{SUFFIX}"]
    assert f"1{SUFFIX} is not uploaded" in capsys.readouterr().err


def test_a_buffer_whose_file_cannot_be_read_completely_does_not_end_the_upload_of_others(
    tmp_path: Path, local_store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    file, content = tmp_path / "all" / f"1{SUFFIX}", tmp_path / "table.txt"
    content.write_bytes(b"a" * 200_000)
    buffer = create(file)
    buffer.append("file", {"folder": None}, content)
    buffer.close()
    # Damage the pages that contain only content of the logged file. Each starts with the number of the next page.
    file.write_bytes(re.sub(rb"(?s).{4}a{4092}", b"\xff" * 4096, file.read_bytes()))
    create(tmp_path / "all" / f"2{SUFFIX}").close()
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=True) == (1, 1)
    assert [path.name for path in (tmp_path / "all").iterdir()] == [file.name]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tracking: {file} is not uploaded completely: ")


def test_a_run_that_was_deleted_on_the_server_does_not_end_the_upload_of_others(
    tmp_path: Path, local_store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = local_store.create_run("0").info.run_id
    buffer = RunBuffer.create(tmp_path / "all" / f"1{SUFFIX}", DESCRIPTION | {"run_id": run_id})
    buffer.append("tags", {"a": "b"})
    buffer.close()
    local_store.delete_run(run_id)
    create(tmp_path / "all" / f"2{SUFFIX}").close()
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=False) == (1, 0)
    assert not (tmp_path / "all").exists()
    line, _ = capsys.readouterr().out.splitlines()
    assert line == (
        f"tracking: run {run_id} (one) was deleted on the server; {tmp_path / 'all' / f'1{SUFFIX}'} is removed"
    )


def test_a_record_that_the_server_rejects_does_not_end_the_upload_of_others(
    tmp_path: Path, local_store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = create(tmp_path / "all" / f"1{SUFFIX}")
    buffer.append("metrics", {"values": {"a?b": 0.5}, "time": 1, "step": 0})  # MLflow refuses this name
    buffer.append("tags", {"a": "c"})
    buffer.close()
    create(tmp_path / "all" / f"2{SUFFIX}").close()
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=False) == (1, 1)
    assert f"1{SUFFIX} is not uploaded completely: " in capsys.readouterr().err
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=False) == (1, 0)  # without the rejected record
    (kept,) = [found for found in local_store.search_experiments() if found.name == "kept"]
    runs = local_store.search_runs([kept.experiment_id])
    assert sorted((run.data.metrics["mae"], run.data.tags["a"]) for run in runs) == [(0.5, "b"), (0.5, "c")]


def test_only_the_buffers_of_uploaded_runs_are_deleted(tmp_path: Path, local_store: mlflow.MlflowClient) -> None:
    file = tmp_path / "table.txt"
    file.write_text("a table")
    for name in ("a", "b"):
        create(tmp_path / "all" / f"{name}{SUFFIX}").append("file", {"folder": None}, file)
    (tmp_path / "all" / "run").mkdir()
    others = {"photo.jpg": b"3", "run.json": b"{}", "run/photo.jpg": b"1", "run/run.json": json.dumps({}).encode()}
    for name, content in others.items():
        (tmp_path / "all" / name).write_bytes(content)
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=True) == (2, 0)
    assert contents(tmp_path / "all") == others
    (kept,) = [found for found in local_store.search_experiments() if found.name == "kept"]
    runs = local_store.search_runs([kept.experiment_id])
    assert [run.data.metrics for run in runs] == [{"mae": 0.5}] * 2
    assert [item.path for run in runs for item in local_store.list_artifacts(run.info.run_id)] == ["table.txt"] * 2


def test_a_buffer_whose_process_is_alive_is_not_uploaded(tmp_path: Path, local_store: mlflow.MlflowClient) -> None:
    buffer = create(tmp_path / "all" / f"run{SUFFIX}")  # its description has no tags of a process
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=True) == (0, 0)
    assert buffer.list_unsent()
    buffer.close()
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=True) == (1, 0)
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(("ended", "uploaded"), [(False, 0), (True, 1)])
def test_a_run_with_recent_heartbeats_is_uploaded_only_if_its_process_has_ended_it(
    ended: bool, uploaded: int, tmp_path: Path, local_store: mlflow.MlflowClient
) -> None:
    """The lock of a process on another machine can be invisible."""
    tags = {"loupe.host": "elsewhere", liveness.HEARTBEAT_TAG: str(time.time())}
    run_id = local_store.create_run("0", tags=tags).info.run_id
    buffer = RunBuffer.create(tmp_path / "all" / f"run{SUFFIX}", DESCRIPTION | {"run_id": run_id})
    buffer.append("tags", {"a": "b"})
    if ended:
        buffer.append("end", {"status": "FINISHED", "end_time": 1})
    buffer.close()
    assert buffered_runs.upload_buffered_runs(tmp_path / "all", quiet=True) == (uploaded, 0)
    assert local_store.get_run(run_id).info.status == ("FINISHED" if ended else "RUNNING")


def test_sync_fails_if_a_file_is_not_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://server")
    (tmp_path / f"odd{SUFFIX}").write_bytes(b"not a buffer")
    assert run_step("sync", ["--folder", str(tmp_path), "--quiet"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"tracking: {tmp_path / 'odd'}{SUFFIX} is not uploaded")
    assert second == f"loupe sync: error: folder: {tmp_path} contains files that were not uploaded completely: 1"


def test_sync_refuses_a_store_that_is_not_a_server_and_a_missing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for uri, error in (
        (
            "sqlite:///mlflow.db",
            "MLFLOW_TRACKING_URI: must be the URL of the tracking server, got 'sqlite:///mlflow.db'",
        ),
        ("http://server", f"folder: must be an existing folder, got '{tmp_path / 'missing'}'"),
    ):
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda uri=uri: uri)
        assert run_step("sync", ["--folder", str(tmp_path / "missing")]) == 2
        assert capsys.readouterr().err == f"loupe sync: error: {error}\n"
