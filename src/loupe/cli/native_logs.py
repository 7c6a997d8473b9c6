"""Removes information messages and warnings of TensorFlow and JAX from standard error.

The environment variables of these libraries do not hide all of these messages.

A separate process filters them, because a thread could not show the last messages of a crashed process.
"""

import os
import re
import subprocess
import sys

LIBRARIES = ("tensorflow", "jaxlib")
# Matches information messages and warnings of Abseil, such as "I0000 00:00:1795843437.98 30949 port.cc:153] ...". The
# pattern also matches two harmless errors of TensorFlow's GPU version.
NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|([IW]|E(?=.*(Unable to register cu\w+ factory|failed call to cuInit: .*\(303\))))"
    rb"\d{4} \d\d:\d\d:[\d.]+ +\d+ [\w./-]+:\d+\] "
)


def filter_native_logs() -> None:
    """Filter the messages of this process and its children as soon as TensorFlow or JAX is imported."""
    sys.meta_path.insert(0, _Trigger())


class _Trigger:
    """An import hook that starts the filter."""

    def __init__(self) -> None:
        self._has_started = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in LIBRARIES and not self._has_started:
            self._has_started = True
            _start_filter()


def _start_filter() -> None:
    read_end, write_end = os.pipe()
    try:
        # In a new session, Ctrl-C does not end the filter.
        subprocess.Popen([sys.executable, "-I", "-S", __file__], stdin=read_end, start_new_session=True)
    except OSError:
        os.close(write_end)
    else:
        # Only native libraries write to descriptor 2. Python writes to another descriptor; see `streams`.
        os.dup2(write_end, 2)
        os.close(write_end)
    os.close(read_end)


def _copy_lines() -> None:
    for line in sys.stdin.buffer:
        if not NOISE.match(line):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


if __name__ == "__main__":
    _copy_lines()
