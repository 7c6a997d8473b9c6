"""Tells the person at the terminal how far a step is; silent when asked to be."""

import sys
import unicodedata
from types import TracebackType
from typing import Self

# Unicode's categories of what a terminal would act on and nobody would see: controls, formats such as an
# override of the direction of writing, lone surrogates (bytes of names that are no text), ends of lines.
CONTROL_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def escape_control_characters(text: str) -> str:
    """One line of text, in which what names of files and the like would have a terminal do is escaped."""
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in CONTROL_CATEGORIES else sign
        for sign in text
    )


def print_line(text: str, quiet: bool) -> None:
    """Print a line, unless quiet."""
    if not quiet:
        print(escape_control_characters(text), flush=True)


def print_lines(text: str, quiet: bool) -> None:
    """Print several lines, such as a table, unless quiet."""
    for line in text.split("\n"):
        print_line(line, quiet)


def print_error(text: str) -> None:
    """Print a line to standard error, also where quiet; what is several lines becomes one."""
    print(escape_control_characters(" ".join(text.split())), file=sys.stderr, flush=True)


def print_left_out(reasons: list[str], total: int, quiet: bool) -> None:
    """Tell how many of the photos are left out, and why the first of them is; nothing where all are used."""
    if reasons:
        print_line(f"left out: {len(reasons)} of {total} photos; the first: {reasons[0]}", quiet)


class ProgressBar:
    """A progress bar on standard error with the time left; `at` says how much is done.

    Args:
        text: what is being done.
        total: how much there is to do.
        quiet: show nothing.
        unit: `bytes` counts in MB, `percent` in hundredths of the total.
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

        count = {"bytes": DownloadColumn, "percent": TaskProgressColumn}.get(unit, MofNCompleteColumn)()
        self._progress = Progress(
            "{task.description}",
            BarColumn(),
            count,
            TimeRemainingColumn(),
            "{task.fields[note]}",
            console=Console(file=sys.stderr),
        )
        self._note = ""
        self._task = self._progress.add_task(text, total=total, note="")

    def update(self, done: float, note: str = "") -> None:
        """So much is done; `note` stands behind the bar."""
        if self._progress:
            self._note = note or self._note
            self._progress.update(self._task, completed=done, note=self._note)

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()
