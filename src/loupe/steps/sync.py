"""Uploads runs that were buffered while the tracking server was unreachable."""

from pathlib import Path

from loupe.cli.progress import print_line
from loupe.config.steps import Sync
from loupe.config.training import validate_backend
from loupe.errors import LoupeError, UsageError


def run(settings: Sync) -> int:
    """Upload the buffered runs of a folder, and return the number of uploaded runs.

    Raises:
        UsageError: the store is not a server, the given folder does not exist, or Loupe does not support the backend
            of Keras.
        LoupeError: the server is unreachable, or files could not be uploaded.
    """
    from loupe.tracking import buffered_runs, server

    validate_backend()
    server.require_server()
    folder = Path(settings.folder)
    if "folder" in settings.model_fields_set and not folder.is_dir():
        raise UsageError(f"folder: must be an existing folder, got {settings.folder!r}")
    uploaded, failed = buffered_runs.upload_buffered_runs(folder, settings.quiet)
    if failed:
        raise LoupeError(f"folder: {settings.folder} contains files that were not uploaded completely: {failed}")
    if not uploaded:
        print_line(f"no run was uploaded from {settings.folder}", settings.quiet)
    return uploaded
