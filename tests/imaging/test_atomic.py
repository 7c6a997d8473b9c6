"""Atomic writing, and removal of leftovers."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import build_env

from loupe.errors import UsageError
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


def test_a_published_folder_flushes_the_names_of_its_files(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(atomic, "_sync", lambda path: flushed.append((path.name, sorted(os.listdir(tmp_path / "a")))))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "partial").touch()
    atomic.publish(tmp_path / "a" / "partial", tmp_path / "a" / "file", flush_name=False)
    assert flushed == [("partial", ["partial"])]
    atomic.publish(tmp_path / "a", tmp_path / "a")
    assert flushed[1] == ("a", ["file"])


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


@pytest.mark.parametrize("kind", ["pipe", "device", "stream"])
def test_a_pipe_a_device_or_a_stream_is_not_replaced(kind, tmp_path):
    file = tmp_path / "file.txt"
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/null" if kind == "device" else f"/proc/{os.getpid()}/fd/1")
    before = file.lstat()
    with pytest.raises(OSError, match="Not a regular file"):
        atomic.write_file(file, "content")
    with pytest.raises(UsageError, match=r"^out: must be a regular file, got the device, pipe or stream '"):
        atomic.validate_output_file("out", file)
    assert os.path.samestat(file.lstat(), before)


def test_a_link_to_itself_can_be_replaced(tmp_path):
    file = tmp_path / "loop.txt"
    file.symlink_to(file.name)
    atomic.validate_output_file("out", file)
    atomic.write_file(file, "content")
    assert file.read_text(encoding="utf-8") == "content"


def test_a_name_that_is_too_long_is_refused_before_the_file_is_written(tmp_path):
    with pytest.raises(UsageError, match=r"^out: must be the name of a file that can be written, got '"):
        atomic.validate_output_file("out", tmp_path / f"{'a' * 300}.txt")


@pytest.mark.parametrize("name", ["loop.txt", f"{'a' * 300}.txt"])
def test_a_path_below_a_file_that_is_no_folder_is_refused(name, tmp_path):
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    with pytest.raises(UsageError, match=r"^out: must be in a folder that exists, got '"):
        atomic.validate_output_file("out", tmp_path / name / "file.txt")


CREATE = """
import signal, sys
import time
from pathlib import Path
from loupe.imaging.atomic import create_partial
with create_partial(Path(sys.argv[1]), {"file": Path.touch, "folder": Path.mkdir}[sys.argv[2]]) as partial:
    print(partial.name, flush=True)
    signal.pause()
"""
# A container with a process namespace of its own, in which no other process has a number.
CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]


def can_run_containers():
    return not subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("prefix", [[], CONTAINER], ids=["process", "container"])
def test_only_the_leftovers_of_ended_processes_are_removed(prefix, kind, tmp_path):
    if prefix and not can_run_containers():
        pytest.skip("the system does not allow containers")
    command = [*prefix, sys.executable, "-c", CREATE, str(tmp_path), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        partial = tmp_path / process.stdout.readline().strip()
        os.utime(partial, (0, 0))
        atomic.remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [partial]
    finally:
        process.kill()
        process.wait()
    if kind == "folder":
        (partial / "shard").touch()
    until = time.monotonic() + 10
    while partial.exists() and time.monotonic() < until:  # the processes of a container end one after another
        atomic.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_leftover_of_another_machine_is_removed_after_a_day(tmp_path):
    names = [".loupe-0badc0de-1.part", ".loupe-0badc0de-2.part", ".loupe-kept.txt"]
    for name in names:
        (tmp_path / name).touch()
    os.utime(tmp_path / names[0], (0, 0))
    atomic.remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(names[1:])


def test_on_a_file_system_without_locks_the_age_decides(tmp_path, monkeypatch):
    def fail(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with atomic.create_partial(tmp_path, Path.touch) as partial:
        atomic.remove_leftovers(tmp_path)
        assert partial.exists()
        os.utime(partial, (0, 0))
        atomic.remove_leftovers(tmp_path)
        assert not partial.exists()


def test_a_partial_file_that_is_removed_before_it_is_locked_is_created_again(tmp_path):
    created = []

    def create(partial):
        partial.touch()
        created.append(partial)
        if len(created) == 1:
            atomic.remove_leftovers(tmp_path)

    with atomic.create_partial(tmp_path, create) as partial:
        assert partial.exists()
        assert created == [created[0], partial]
    assert not partial.exists()


@pytest.mark.parametrize("system", ["hard links", "no hard links", "not Linux"])
def test_a_file_of_another_process_is_not_replaced(system, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    if system != "hard links":
        monkeypatch.setattr(atomic.os, "link", refuse)
    if system == "no hard links" and sys.platform == "linux":  # a killed process must not leave an empty file
        monkeypatch.setattr(Path, "rename", refuse)
    if system == "not Linux":
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, **__: object())
    file = tmp_path / "file.txt"
    atomic.write_file(file, "new", overwrite=False)
    assert file.read_text() == "new"
    with pytest.raises(FileExistsError), atomic.write_atomically(file, overwrite=False) as partial:
        partial.write_text("second")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]
