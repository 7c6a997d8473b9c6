"""What all tests share."""

import fcntl
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

# An example that takes long on a machine in other use is no fault.
settings.register_profile("loupe", deadline=None)
settings.load_profile("loupe")
# A shell has what it starts in the background ignore Ctrl-C, and processes that ignore it start others that do.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that is marked `alone` run beside no other of any process: it holds the lock that others share."""
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing would not: processes that a test forked have it open too
