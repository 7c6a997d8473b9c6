"""Replaces the standard streams: secrets are masked, and a command continues if its reader, such as `head`, exits."""

import errno
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from loupe.cli.progress import print_error
from loupe.errors import LoupeError, mask_secrets

DESCRIPTORS = {"stdin": 0, "stdout": 1, "stderr": 2}


def use_utf8() -> None:
    """Restart this process in UTF-8 mode if the locale has another encoding: SQLite, Arrow and MLflow use UTF-8."""
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # for child processes
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def open_streams() -> None:
    """Replace standard output and standard error by streams that mask secrets, and whose errors do not end the step.

    After its first error, a stream discards all output. The descriptors of closed streams (also standard input) are
    opened as `/dev/null`. Otherwise, the next opened file would get one of these descriptors, and libraries would
    write messages to this file.
    """
    for number in DESCRIPTORS.values():
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system assigns the lowest free descriptor, which is `number`
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _wrap(name, stream))


def write_output(file: Path) -> None:
    """Write the content of a file to the standard output.

    Raises:
        LoupeError: the standard output is closed or cannot be written, for another reason than a reader that exited.
    """
    if sys.stdout is None:
        raise LoupeError("out: the standard output is closed")
    with file.open("rb") as stream:
        shutil.copyfileobj(stream, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    error = getattr(getattr(sys.stdout.buffer, "raw", None), "error", None)
    if error is not None and error.errno != errno.EPIPE:
        raise LoupeError(f"out: the standard output cannot be written: {error.strerror}")


def _wrap(name: str, stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw = _TolerantFile(os.dup(DESCRIPTORS[name]), "w", closefd=False)
    raw.title = {"stdout": "standard output"}.get(name, "")
    return _MaskingStream(
        io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )  # fmt: skip


class _MaskingStream(io.TextIOWrapper):
    def write(self, text: str, /) -> int:
        super().write(mask_secrets(text))
        return len(text)


class _TolerantFile(io.FileIO):
    """A stream that discards its output after the first error.

    A stream with a title prints this error, unless the reader has exited or the terminal is closed.
    """

    title = ""
    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            written = super().write(data)
        except OSError as error:
            self.error = error
            with open(os.devnull, "wb") as null_device:
                os.dup2(null_device.fileno(), self.fileno(), inheritable=False)
            if self.title and error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a closed terminal
                print_error(f"loupe: {self.title} cannot be written: {error.strerror}")
            written = memoryview(data).nbytes
        return written
