"""Prints output, errors and progress bars."""

import sys
import unicodedata
from functools import cache
from types import TracebackType
from typing import Self

from loupe.errors import mask_error, mask_secrets

# Unicode categories of characters that change the output of a terminal or are invisible: control characters, format
# characters such as right-to-left overrides, lone surrogates (bytes of file names that are not text), and separators
# of lines and paragraphs.
CONTROL_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
# Maximum number of characters of an error. The middle of a longer error, often a path, is omitted.
LONGEST_ERROR = 600


def escape_control_characters(text: str) -> str:
    """Escape control characters and line breaks, for example in file names."""
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
    """Print one line with masked secrets to standard error; line breaks become spaces."""
    line = escape_control_characters(mask_error(" ".join(text.split())))
    half = LONGEST_ERROR // 2
    print(line if len(line) <= LONGEST_ERROR else f"{line[:half]}…{line[-half:]}", file=sys.stderr, flush=True)


@cache
def print_error_once(text: str) -> None:
    """Print one line to standard error, unless this process has already printed the same line."""
    print_error(text)


def print_skipped(reasons: list[str], total: int, quiet: bool) -> None:
    """Print how many photos are skipped, and the first reason; print nothing if no photo is skipped."""
    if reasons:
        print_line(f"skipped: {len(reasons)} of {total} photos; the first: {reasons[0]}", quiet)


class ProgressBar:
    """A progress bar with the remaining time, on standard error.

    Args:
        text: the title.
        total: the value at which the bar is full.
        quiet: show nothing.
        unit: `bytes` shows megabytes, `percent` the percentage, and "" the value and the total.
    """

    def __init__(self, text: str, total: float, quiet: bool, unit: str = "") -> None:
        self._progress = None
        if quiet:
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
        )
        self._note = ""
        self._task = self._progress.add_task(text, total=total, note="")

    def update(self, value: float, note: str = "") -> None:
        """Set the value of the bar and the text after the bar (`note`); with "", the previous text stays."""
        if self._progress:
            self._note = note or self._note
            self._progress.update(self._task, completed=value, note=self._note)

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()
