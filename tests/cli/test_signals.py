"""SIGTERM and Ctrl-C end a step with one line and the status that a shell expects."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from loupe.cli import signals

STEP = """
import signal, sys, time
from loupe.cli import main
from loupe.steps import preprocess

def sleep(seconds):
    # Python does not interrupt a system call that starts at the same moment as a signal arrives.
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)

def run(settings):
    try:
        print("working", flush=True)
        sleep(60)
    finally:
        print("tidying", flush=True)
        sleep(float(sys.argv[1]))
        print("tidy", flush=True)

preprocess.run = run
sys.exit(main.run_step("preprocess", []))
"""


@pytest.fixture(autouse=True)
def handlers(unraisable_hook: None) -> Iterator[None]:
    """Check that the block leaves the handlers as they were."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def start(tidying_s: float, *prefix: str) -> "subprocess.Popen[str]":
    """Start a step that works for a minute, and wait until it does."""
    command = [*prefix, sys.executable, "-c", STEP, str(tidying_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_the_step_after_its_cleanup(number: int, status: int, word: str) -> None:
    process = start(0.0)
    process.send_signal(number)
    assert process.communicate(timeout=10) == ("tidying\ntidy\n", f"loupe preprocess: error: {word}\n")
    assert process.returncode == status


def test_a_second_ctrl_c_ends_the_cleanup() -> None:
    process = start(60.0)
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "tidying\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "loupe preprocess: error: interrupted\n")
    assert process.returncode == 130


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    process = start(0.0, "sh", "-c", 'trap "" INT; exec "$@"', "sh")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[1] == "loupe preprocess: error: terminated\n"


def test_signal_handlers_are_not_changed_in_other_threads() -> None:
    found = []

    def inside() -> None:
        with signals.raise_on_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_deferred_signal_is_raised_when_the_block_exits(number):
    reached = []

    def work():
        with signals.raise_on_signals():
            with signals.defer_signals():
                signal.raise_signal(number)
                reached.append("end of the block")
            reached.append("after the block")

    with pytest.raises((KeyboardInterrupt, signals.Terminated)):
        work()
    assert reached == ["end of the block"]


DISCARD = """
import sys, time, weakref
from loupe.cli import main
from loupe.steps import preprocess

class Value:
    pass

def wait(*_):
    print("working", flush=True)
    time.sleep(60)

def discard(way):
    if way == "destructor":
        Value.__del__ = wait
        Value()
    if way == "callback":
        value = Value()
        reference = weakref.ref(value, wait)
        del value
    if way == "constructor":
        Value.__init__ = wait
        Value.__del__ = lambda value: value.missing
        Value()
    if way == "except":
        try:
            wait()
        except BaseException:
            pass

def run(settings):
    discard(sys.argv[1])
    if sys.argv[2] == "continue":
        time.sleep(60)

preprocess.run = run
sys.exit(main.run_step("preprocess", []))
"""


@pytest.mark.parametrize("way", ["destructor", "callback", "except", "constructor"])
@pytest.mark.parametrize("then", ["continue", "end"])
def test_a_signal_ends_the_step_with_one_line_wherever_it_arrives(way, then):
    command = [sys.executable, "-c", DISCARD, way, then]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("", "loupe preprocess: error: terminated\n")
    assert process.returncode == 143


def test_long_cleaning_up_is_not_interrupted():
    process = start(2.5)  # longer than the time after which a discarded exception is detected
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("tidying\ntidy\n", "loupe preprocess: error: terminated\n")


def test_a_step_that_runs_until_it_is_stopped_ends_without_an_error():
    passed = []
    with signals.raise_on_signals(), signals.stop_at_signal():
        passed.append("start")
        signal.raise_signal(signal.SIGTERM)
        passed.append("after the signal")
    assert passed == ["start"]
