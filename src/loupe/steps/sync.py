"""Runs that a tracking server could not be told of, brought in."""

from pathlib import Path

from loupe.config.steps import Sync
from loupe.progress import say


def run(settings: Sync) -> int:
    """Tell the server of every run that was kept; gives their number."""
    from loupe.tracking import outbox

    told = outbox.bring_in(Path(settings.folder), settings.quiet)
    if not told:
        say(f"no run to upload in {settings.folder}", settings.quiet)
    return told


if __name__ == "__main__":
    from loupe.command_line import entry

    entry("sync")
