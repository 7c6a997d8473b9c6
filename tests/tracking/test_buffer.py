"""The record of a run in a folder: in order, once, and of checkpoints the newest."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loupe.tracking import delivery
from loupe.tracking.buffer import Journal


def told(journal: Journal) -> list[object]:
    """What would be told now, in order; nothing of it is left to tell then."""
    found = journal.unsent()
    if found:
        journal.note_told(found[-1].number)
    return [record.body.get("value") for record in found]


def test_records_are_told_once_and_in_order_also_by_a_later_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    for value in range(12):
        journal.append("metrics", {"value": value})
        if value == 4:
            assert told(journal) == [0, 1, 2, 3, 4]
    assert not journal.all_told()
    again = Journal(tmp_path / "run")
    assert told(again) == list(range(5, 12))
    assert again.all_told()
    again.append("metrics", {"value": 12})
    assert told(Journal(tmp_path / "run")) == [12]
    again.note_told(0)
    assert told(again) == list(range(13))


def test_a_file_is_kept_as_it_was_when_it_was_told_of(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text("before")
    journal = Journal(tmp_path / "run")
    journal.append("file", {}, file)
    file.write_text("after")
    (record,) = journal.unsent()
    assert record.file is not None
    assert (record.file.name, record.file.read_text()) == ("table.json", "before")


def test_of_checkpoints_the_newest_stays_and_nothing_else_goes(tmp_path: Path) -> None:
    file = tmp_path / "1.npz"
    file.write_bytes(b"arrays")
    journal = Journal(tmp_path / "run")
    for value in range(3):
        journal.append("checkpoint", {"value": value}, file)
        journal.append("file", {"value": 10 + value}, file)
    journal.prune()
    assert told(journal) == [10, 11, 2, 12]
    assert len(list((tmp_path / "run").glob("*/1.npz"))) == 4


def test_journals_of_many_runs_share_a_folder_that_goes_with_the_last(tmp_path: Path) -> None:
    def one(number: int) -> None:
        journal = Journal(tmp_path / "all" / str(number))
        journal.append("tags", {"value": number})
        assert told(journal) == [number]
        journal.remove()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, range(400)))
    assert not (tmp_path / "all").exists()


def test_a_folder_that_cannot_be_made_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    (tmp_path / "all").symlink_to(tmp_path / "gone")
    with pytest.raises(FileExistsError):
        Journal(tmp_path / "all" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Journal(tmp_path / "file" / "run")


def test_a_run_is_described_whole_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    assert journal.run == {}
    journal.run = {"run_id": "a", "tags": {"one": "two"}}
    assert Journal(tmp_path / "run").run == {"run_id": "a", "tags": {"one": "two"}}
    with pytest.raises(TypeError):
        journal.run = {"run_id": object()}
    assert journal.run["run_id"] == "a"


def test_a_record_that_another_process_brings_in_meanwhile_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(Journal):
        def __init__(self, folder: Path) -> None:
            shutil.rmtree(folder)
            super().__init__(folder)

    Journal(tmp_path / "unsent" / "run").run = {"tags": {}}
    monkeypatch.setattr(delivery, "Journal", Late)
    assert delivery.bring_in(tmp_path / "unsent", quiet=True) == 0
    assert list(tmp_path.iterdir()) == []
