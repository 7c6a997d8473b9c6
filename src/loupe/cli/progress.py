"""Prints output, errors and progress bars."""

import sys
import unicodedata
from functools import cache
from typing import Self

from loupe.errors import mask_error, mask_secrets

# Unicode categories of characters that change the output of a terminal, are invisible, or cannot be encoded
CONTROL_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
LONGEST_ERROR = 600  # characters; the middle of a longer error is omitted


def escape_control_characters(text: str) -> str:
    """Escape the characters of CONTROL_CATEGORIES, such as line breaks."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in CONTROL_CATEGORIES
        else character
        for character in text
    )


def print_line(text: str, quiet: bool) -> None:
    """Print a line with masked secrets, unless quiet."""
    if not quiet:
        print(escape_control_characters(mask_secrets(text)), flush=True)


def print_lines(text: str, quiet: bool) -> None:
    """Print several lines, such as a table, unless quiet."""
    for line in text.split("\n"):
        print_line(line, quiet)


def print_error(text: str) -> None:
    """Print one line with masked secrets to standard error, unless it is closed."""
    if sys.stderr is None:  # `print` would use the standard output, which may contain an image
        return
    line = escape_control_characters(mask_error(" ".join(text.split())))
    half = LONGEST_ERROR // 2
    print(line if len(line) <= LONGEST_ERROR else f"{line[:half]}…{line[-half:]}", file=sys.stderr, flush=True)


@cache
def print_error_once(text: str) -> None:
    """Print a line to standard error, unless this function has already printed it."""
    print_error(text)


def print_skipped(reasons: list[str], total: int, quiet: bool) -> None:
    """If photos are skipped, print their number and the first reason. `total` is the number of all photos."""
    if reasons:
        print_line(f"skipped: {len(reasons)} of {total} photos; the first: {reasons[0]}", quiet)


class ProgressBar:
    """A progress bar with the remaining time, on standard error.

    Args:
        text: the title.
        total: the value of a full bar.
        quiet: show nothing.
        unit: `bytes` shows sizes such as 0.5/3.2 MB, `percent` the percentage, "" the value and the total.
    """

    def __init__(self, text: str, total: float, quiet: bool, unit: str = "") -> None:
        self._progress = None
        if quiet or sys.stderr is None:  # a closed standard error: rich would use the standard output
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TimeRemainingColumn,
        )

        value_column = {"bytes": DownloadColumn, "percent": TaskProgressColumn}.get(unit, MofNCompleteColumn)()
        self._progress = Progress(
            "{task.description}",
            BarColumn(),
            value_column,
            TimeRemainingColumn(),
            "{task.fields[note]}",
            console=Console(file=sys.stderr),
            # Only if stdout is a terminal: rich would also print the lines for a file or pipe on the terminal. If
            # stdout is closed, `sys.stdout` is None.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )
        self._note = ""
        self._task = self._progress.add_task(text, total=total, note="")

    def update(self, value: float, note: str = "") -> None:
        """Set the value, and the text after the bar; "" keeps the previous text."""
        if self._progress:
            self._note = note or self._note
            self._progress.update(self._task, completed=value, note=self._note)

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *reason: object) -> None:
        if self._progress:
            self._progress.stop()
