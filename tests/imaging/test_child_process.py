"""Child processes: messages, limits, and the end of the child with its parent."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from loupe.imaging.child_process import READER, ChildProcess


@pytest.fixture
def start():
    children = []

    def start(function, *arguments):
        children.append(ChildProcess(f"children:{function}", *arguments))
        return children[-1]

    yield start
    for child in children:
        child.stop()


def test_messages_with_binary_parts_are_exchanged_on_all_connections(start):
    child = start("echo", {"suffix": "!"}, 2)
    values = np.arange(1_000_000, dtype="float32").reshape(10, 100, 1000)
    for text, connection in zip("aü", child.connections, strict=True):
        connection.send(text, values, b"")
        answer, parts = connection.receive(30)
        assert (answer, parts[0]) == (f"{text}!", b"")
        assert np.array_equal(np.frombuffer(parts[1], "float32").reshape(values.shape), values)


def test_a_wait_ends_after_its_time_and_by_its_check(start):
    connection = start("echo", {"suffix": ""}).connections[0]
    with pytest.raises(TimeoutError):
        connection.receive(0.1)
    with pytest.raises(KeyError):
        connection.receive(check=lambda: {}["stopped"])


def test_the_limit_of_cpu_time_ends_the_child(start):
    child = start("compute")
    assert child.connections[0].receive(30)[0] == "started"
    with pytest.raises(EOFError):
        child.connections[0].receive(30)
    assert child.stop_and_check_cpu_limit()
    with pytest.raises(EOFError):
        child.connections[0].send("more")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux limits the memory of a process")
def test_the_limit_of_memory_holds_inside_its_block(start):
    child = start("allocate")
    assert child.connections[0].receive(30)[0] == [10_000_000, "MemoryError", 100_000_000]
    with pytest.raises(EOFError):
        child.connections[0].receive(30)
    assert not child.stop_and_check_cpu_limit()


def test_a_child_ends_when_its_parent_is_killed():
    code = """
import time
from loupe.imaging.child_process import ChildProcess
child = ChildProcess("children:sleep")
print(child.connections[0].receive(30)[0], flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path}\n{code}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    until = time.monotonic() + 5
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.02)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_images_of_a_closed_file_are_an_error_and_the_reader_continues():
    child = ChildProcess(READER)
    for _ in range(2):
        child.connections[0].send("close")
        child.connections[0].send("decode")
        assert child.connections[0].receive(30)[0] == {"error": "cannot be decoded: the file is closed"}
    child.stop()
