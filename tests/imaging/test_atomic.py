"""What is half written, and whose it is."""

import os
import socket
import subprocess
import sys

import pytest

from loupe.imaging import atomic


def test_what_is_written_beside_has_its_name_at_the_end_or_is_gone(tmp_path):
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


def test_leftovers_of_this_machine_s_dead_alone_are_removed(tmp_path):
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
