"""Atomic writing, and removal of leftovers."""

import errno
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import build_env

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


def test_content_and_name_are_flushed_to_the_disk(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (flushed.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    atomic.write_file(tmp_path / "file.txt", "ü \udcff")
    assert [Path(path).suffix for path in flushed] == [".part", ""]
    assert flushed[1] == str(tmp_path)
    assert (tmp_path / "file.txt").read_bytes() == "ü ?".encode()


def test_text_is_utf_8_in_every_locale(tmp_path):
    code = "import pathlib; from loupe.imaging.atomic import write_file; write_file(pathlib.Path('page'), '\\u2212')"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=build_env(**ascii_only))
    assert (tmp_path / "page").read_bytes() == "\u2212".encode()


def test_a_folder_that_cannot_be_flushed_is_not_an_error(tmp_path, monkeypatch):
    def fail(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fail)
    atomic.write_file(tmp_path / "file.txt", b"all of it")
    assert (tmp_path / "file.txt").read_bytes() == b"all of it"


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
