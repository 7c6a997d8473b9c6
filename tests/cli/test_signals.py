"""A signal ends what is at work, whatever Python or a library do with the exception that it raises."""

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from loupe.cli import signals

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a system without timers")
BOTH = pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, signals.Terminated), (signal.SIGINT, KeyboardInterrupt)]
)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """What stands afterwards is what stood before."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = [*map(signal.getsignal, numbers), sys.unraisablehook]
    yield
    assert [*map(signal.getsignal, numbers), sys.unraisablehook] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def ended_by(work: Callable[[], None]) -> BaseException | None:
    """What ends work that signals reach."""
    try:
        with signals.as_exits():
            work()
    except (KeyboardInterrupt, SystemExit) as stop:
        return stop
    return None


def send(number: int) -> None:
    """Send this process a signal, and let its handler run."""
    os.kill(os.getpid(), number)
    time.sleep(0.001)


def go_on() -> None:
    """Longer than a signal takes."""
    end = time.monotonic() + 5.0
    while time.monotonic() < end:
        time.sleep(0.001)


@BOTH
def test_it_arrives_though_it_comes_in_a_destructor(
    number: int, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Library:
        def __del__(self) -> None:
            send(number)  # here the handler runs, and Python drops what it raises

    def work() -> None:
        Library()
        go_on()

    monkeypatch.setattr(signals, "RAISED_AGAIN", 60.0)
    stop = ended_by(work)
    assert type(stop) is raised
    assert getattr(stop, "code", 143) == 143
    assert capfd.readouterr().err == ""


def test_it_arrives_though_a_library_swallows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with suppress(BaseException):
            send(signal.SIGINT)
        go_on()

    monkeypatch.setattr(signals, "RAISED_AGAIN", 0.1)
    assert isinstance(ended_by(work), KeyboardInterrupt)


def test_it_is_raised_once_though_tidying_up_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def work() -> None:
        try:
            send(signal.SIGTERM)
        finally:
            try:
                raise OSError("of tidying up")
            except OSError:
                time.sleep(0.2)
            time.sleep(0.2)
            done.append("tidy")

    monkeypatch.setattr(signals, "RAISED_AGAIN", 0.05)
    assert isinstance(ended_by(work), signals.Terminated)
    assert done == ["tidy"]


def test_a_second_one_breaks_off_the_tidying_up() -> None:
    done = []

    def work() -> None:
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGINT)
            done.append("tidy")

    assert isinstance(ended_by(work), KeyboardInterrupt)
    assert done == []


@BOTH
def test_amid_an_import_it_waits(number: int, raised: type[BaseException]) -> None:
    done: list[str] = []
    text = "kill(pid, number)\nfor _ in range(1000): pass\ndone.append('imported')"
    code = compile(text, signals.IMPORTING, "exec")

    def work() -> None:
        exec(code, {"kill": os.kill, "pid": os.getpid(), "number": number, "done": done})
        go_on()
        done.append("more")

    assert isinstance(ended_by(work), raised)
    assert done == ["imported"]


@BOTH
def test_it_leaves_no_lock_taken(number: int, raised: type[BaseException]) -> None:
    class Resource:
        def __enter__(self) -> None:
            os.kill(os.getpid(), number)
            held.append(self)

        def __exit__(self, *_: object) -> None:
            os.kill(os.getpid(), number)
            held.remove(self)

    held: list[Resource] = []

    def work() -> None:
        with Resource():
            go_on()

    assert isinstance(ended_by(work), raised)
    assert held == []


def test_python_names_the_file_of_its_import_so() -> None:
    assert sys.modules["_frozen_importlib"]._find_and_load.__code__.co_filename == signals.IMPORTING


@BOTH
def test_a_first_one_is_held_until_the_end(number: int, raised: type[BaseException]) -> None:
    done = []

    def work() -> None:
        threading.Timer(0.05, _thread.interrupt_main, [number]).start()
        with signals.held():
            time.sleep(0.2)
            done.append("whole")
        go_on()
        done.append("more")

    assert isinstance(ended_by(work), raised)
    assert done == ["whole"]


def test_a_second_one_is_not_held() -> None:
    done = []

    def work() -> None:
        with signals.held():
            send(signal.SIGTERM)
            done.append("goes on")
            send(signal.SIGTERM)
            done.append("whole")

    assert isinstance(ended_by(work), signals.Terminated)
    assert done == ["goes on"]


def test_a_process_that_is_started_while_it_is_held_does_not_hear_ctrl_c() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('alive')"
    command = [sys.executable, "-c", code]
    with signals.held():
        assert subprocess.run(command, capture_output=True, text=True).stdout == "alive\n"
    assert subprocess.run(command, capture_output=True, text=True).stdout == ""


def test_in_another_thread_nothing_is_changed() -> None:
    found = []

    def inside() -> None:
        with signals.as_exits():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_another_exception_of_a_destructor_is_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("of a destructor")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(str(lost.exc_value)))
    assert ended_by(Broken) is None
    assert told == ["of a destructor"]


def test_one_that_the_caller_has_set_to_be_ignored_is_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert ended_by(lambda: send(signal.SIGINT)) is None
        assert isinstance(ended_by(lambda: send(signal.SIGTERM)), SystemExit)
    finally:
        signal.signal(signal.SIGINT, before)
