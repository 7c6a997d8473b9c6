"""Runs that a tracking server could not be told of, brought in."""

from pathlib import Path

from loupe.cli.progress import print_line
from loupe.config.steps import Sync


def run(settings: Sync) -> int:
    """Tell the server of every run that was kept; gives their number."""
    from loupe.tracking import delivery

    told = delivery.upload_buffered_runs(Path(settings.folder), settings.quiet)
    if not told:
        print_line(f"no run to upload in {settings.folder}", settings.quiet)
    return told


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("sync")
