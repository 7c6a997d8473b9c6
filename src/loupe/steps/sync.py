"""Uploads runs that were buffered while the tracking server was unreachable."""

from pathlib import Path

from loupe.cli.progress import print_line
from loupe.config.steps import Sync


def run(settings: Sync) -> int:
    """Upload the buffered runs of a folder, and return the number of uploaded runs.

    Raises:
        LoupeError: the server is unreachable.
    """
    from loupe.tracking import delivery

    uploaded = delivery.upload_buffered_runs(Path(settings.folder), settings.quiet)
    if not uploaded:
        print_line(f"no run was uploaded from {settings.folder}", settings.quiet)
    return uploaded
