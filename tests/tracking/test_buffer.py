"""The record of a run in a folder: in order, once, and of checkpoints the newest."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from loupe.tracking import delivery
from loupe.tracking.buffer import RunBuffer


def told(journal: RunBuffer) -> list[object]:
    """What would be told now, in order; nothing of it is left to tell then."""
    found = journal.unsent()
    if found:
        journal.note_told(found[-1].number)
    return [record.body.get("value") for record in found]


def test_records_are_told_once_and_in_order_also_by_a_later_process(tmp_path: Path) -> None:
    journal = RunBuffer(tmp_path / "run")
    for value in range(12):
        journal.append("metrics", {"value": value})
        if value == 4:
            assert told(journal) == [0, 1, 2, 3, 4]
    assert not journal.all_told()
    again = RunBuffer(tmp_path / "run")
    assert told(again) == list(range(5, 12))
    assert again.all_told()
    again.append("metrics", {"value": 12})
    assert told(RunBuffer(tmp_path / "run")) == [12]
    again.note_told(0)
    assert told(again) == list(range(13))


def test_a_file_is_kept_as_it_was_when_it_was_told_of(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text("before")
    journal = RunBuffer(tmp_path / "run")
    journal.append("file", {}, file)
    file.write_text("after")
    (record,) = journal.unsent()
    assert record.file is not None
    assert (record.file.name, record.file.read_text()) == ("table.json", "before")


def test_of_checkpoints_the_newest_stays_and_nothing_else_goes(tmp_path: Path) -> None:
    file = tmp_path / "1.npz"
    file.write_bytes(b"arrays")
    journal = RunBuffer(tmp_path / "run")
    for value in range(3):
        journal.append("checkpoint", {"value": value}, file)
        journal.append("file", {"value": 10 + value}, file)
    journal.prune()
    assert told(journal) == [10, 11, 2, 12]
    assert len(list((tmp_path / "run").glob("*/1.npz"))) == 4


def test_journals_of_many_runs_share_a_folder_that_goes_with_the_last(tmp_path: Path) -> None:
    def one(number: int) -> None:
        journal = RunBuffer(tmp_path / "all" / str(number))
        journal.append("tags", {"value": number})
        assert told(journal) == [number]
        journal.remove()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, range(400)))
    assert not (tmp_path / "all").exists()


def test_a_folder_that_cannot_be_made_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    (tmp_path / "all").symlink_to(tmp_path / "gone")
    with pytest.raises(FileExistsError):
        RunBuffer(tmp_path / "all" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        RunBuffer(tmp_path / "file" / "run")


def test_a_run_is_described_whole_or_not_at_all(tmp_path: Path) -> None:
    journal = RunBuffer(tmp_path / "run")
    assert journal.run == {}
    journal.run = {"run_id": "a", "tags": {"one": "two"}}
    assert RunBuffer(tmp_path / "run").run == {"run_id": "a", "tags": {"one": "two"}}
    with pytest.raises(TypeError):
        journal.run = {"run_id": object()}
    assert journal.run["run_id"] == "a"


def test_a_record_that_another_process_brings_in_meanwhile_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(RunBuffer):
        def __init__(self, folder: Path) -> None:
            shutil.rmtree(folder)
            super().__init__(folder)

    RunBuffer(tmp_path / "unsent" / "run").run = {"tags": {}}
    monkeypatch.setattr(delivery, "RunBuffer", Late)
    assert delivery.upload_buffered_runs(tmp_path / "unsent", quiet=True) == 0
    assert list(tmp_path.iterdir()) == []


FACTS = {"run_id": "lost", "experiment": "kept", "name": "one", "start_time": 1, "tags": {"a": "b"}, "params": {}}


@pytest.fixture
def local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    before, uri = mlflow.get_tracking_uri(), f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(uri)
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def journal_of_a_run(folder: Path) -> RunBuffer:
    """Of a run with metrics, that no server has."""
    journal = RunBuffer(folder)
    journal.run = FACTS
    journal.append("metrics", {"values": {"mae": 0.5}, "time": 1, "step": 0})
    return journal


def with_run(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "run.json").write_text(text)


def with_record(**changed: object) -> Callable[[Path], object]:
    """Makes a run with one record in which some fields are changed."""
    record = {"kind": "metrics", "body": {"values": {}, "time": 1, "step": 0}, "file": None} | changed
    return lambda folder: journal_of_a_run(folder).folder.joinpath("000001.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "write",
    [
        with_run("{}"),
        with_run(""),
        with_run("[1]"),
        with_run('{"run_id": "another", "tags": {}}'),
        lambda folder: (folder / "run.json").write_bytes(b"\xff\xd8\xff"),
        lambda folder: (folder / "run.json").mkdir(),
        lambda folder: (journal_of_a_run(folder).folder / "told.json").write_text(""),
        lambda folder: (journal_of_a_run(folder).folder / "000002.json").write_text("{}"),
        with_record(kind="photo"),
        with_record(file="../photo.jpg"),
    ],
    ids=["{}", "empty", "list", "facts", "bytes", "folder", "told", "record", "kind", "path"],
)
def test_a_folder_that_no_journal_wrote_stays_as_it_is_and_a_line_says_so(
    write: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "all" / "odd"
    (odd / "000001").mkdir(parents=True)
    write(odd)
    for name in ("photo.jpg", "000001/photo.jpg", "2024.json"):
        (odd / name).write_bytes(b"not of Loupe")
    before = contents(tmp_path)
    assert delivery.upload_buffered_runs(tmp_path / "all", quiet=False) == 0
    assert contents(tmp_path) == before
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"tracking: {odd} is not uploaded and stays as it is: ")


def test_of_an_uploaded_run_only_the_files_of_the_journal_are_deleted(
    tmp_path: Path, local_store: mlflow.MlflowClient
) -> None:
    file = tmp_path / "table.txt"
    file.write_text("a table")
    for name in ("mixed", "pure"):
        journal_of_a_run(tmp_path / "all" / name).append("file", {"folder": None}, file)
    others = {"mixed/photo.jpg": b"1", "mixed/000002/photo.jpg": b"2", "mixed/2024.json": b"{}", "photo.jpg": b"3"}
    for name, content in others.items():
        (tmp_path / "all" / name).write_bytes(content)
    assert delivery.upload_buffered_runs(tmp_path / "all", quiet=True) == 2
    assert contents(tmp_path / "all") == others
    assert not (tmp_path / "all" / "pure").exists()
    (kept,) = [found for found in local_store.search_experiments() if found.name == "kept"]
    assert [run.data.metrics for run in local_store.search_runs([kept.experiment_id])] == [{"mae": 0.5}] * 2


def test_a_record_whose_copy_was_interrupted_is_removed_with_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(source: Path, copy: Path) -> None:
        copy.write_bytes(source.read_bytes()[:3])
        raise KeyboardInterrupt

    file = tmp_path / "1.npz"
    file.write_bytes(b"arrays")
    journal = journal_of_a_run(tmp_path / "all" / "run")
    monkeypatch.setattr(shutil, "copyfile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        journal.append("checkpoint", {}, file)
    again = RunBuffer(tmp_path / "all" / "run")
    assert [record.kind for record in again.unsent()] == ["metrics"]
    again.remove()
    assert list(tmp_path.iterdir()) == [file]
