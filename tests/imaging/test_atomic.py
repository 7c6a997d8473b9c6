"""Atomic writing, and removal of leftovers."""

import os
import socket
import subprocess
import sys

import pytest

from loupe.imaging import atomic


def test_a_file_is_complete_or_does_not_exist(tmp_path):
    with atomic.write_atomically(tmp_path / "file.txt") as partial:
        partial.write_text("all of it")
        assert not (tmp_path / "file.txt").exists()

    def half() -> None:
        with atomic.write_atomically(tmp_path / "other.txt") as partial:
            partial.write_text("half of")
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        half()
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_only_leftovers_of_ended_processes_of_this_machine_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    names = [
        f".loupe-{dead.pid}-1-{here}.part",
        f".loupe-{dead.pid}-1-elsewhere.part",
        f".loupe-{os.getpid()}-1-{here}.part",
    ]
    for name in names:
        (tmp_path / name).touch()
    atomic.remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(names[1:])
