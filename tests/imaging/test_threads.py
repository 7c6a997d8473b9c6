"""Tasks run in threads, their results keep the order, and a generator that is abandoned does not block."""

import threading
import time
from concurrent.futures import thread
from functools import partial

import pytest

from loupe.imaging.threads import count_cores, run_in_order


def test_results_have_the_order_of_the_tasks():
    assert list(run_in_order(partial(int, number) for number in range(50))) == list(range(50))


def test_the_error_of_a_task_is_raised_and_ends_the_threads():
    before = set(threading.enumerate())
    tasks = [partial(int, 1), partial(int, "x"), *[partial(int, 2)] * 50]
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_in_order(tasks))
    assert not set(threading.enumerate()) - before


def test_an_abandoned_generator_starts_no_further_tasks_and_waits_for_no_lock():
    before = set(threading.enumerate())
    started = []
    release = threading.Event()

    def run(number):
        started.append(number)
        assert release.wait(10)

    tasks = iter([partial(int, 0), *(partial(run, number) for number in range(1, 1000))])
    results = run_in_order(tasks)
    assert next(results) == 0
    with thread._global_shutdown_lock:  # the garbage collector can run inside this lock
        closing = threading.Thread(target=results.close)
        closing.start()
        closing.join(5)
        assert not closing.is_alive()
    release.set()
    del results
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(started) <= count_cores()
