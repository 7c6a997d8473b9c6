"""Serves a web page that upscales photos."""

import errno
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.cli import signals
from loupe.cli.progress import print_line
from loupe.config.fields import quote_value
from loupe.config.photos import Demo
from loupe.errors import UsageError
from loupe.imaging.threads import repeat

if TYPE_CHECKING:
    import uvicorn

    from loupe.photos.worker_pool import PhotoWorkers

CLEANING_INTERVAL_S = 30.0


def run(settings: Demo) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        UsageError: the model cannot be loaded, the host is not an address of this machine, or the port is in use or
            not allowed for this user.
        LoupeError: loading the model takes too long.
    """
    import gradio  # noqa: F401 # a missing package is reported early

    from loupe.photos.worker_pool import PhotoWorkers
    from loupe.upscalers.onnx import CPU

    with (
        tempfile.TemporaryDirectory(prefix="loupe-demo-") as folder,
        _open_socket(settings) as server_socket,
        closing(PhotoWorkers("loupe.web.worker:serve_model", settings.select(["model", "device"]))) as workers,
    ):
        device = workers.start()
        address, port = server_socket.getsockname()[:2]
        with _use_temporary_folder(folder), signals.stop_at_signal(), _clean(Path(folder)):
            server = _make_server(settings, address, workers, Path(folder))
            if device not in ("", CPU):
                print_line(f"device: {device}", settings.quiet)
            print_line(f"http://{f'[{address}]' if ':' in address else address}:{port}", settings.quiet)
            server.run(sockets=[server_socket])


def _make_server(settings: Demo, address: str, workers: "PhotoWorkers", folder: Path) -> "uvicorn.Server":
    import gradio
    import uvicorn
    from fastapi import FastAPI

    from loupe.web.connections import LimitedProtocol
    from loupe.web.demo import MAX_QUEUED, STYLE, THEME, Visitors, build_page
    from loupe.web.guard import MAX_FILE_BYTES, DemoGuard, OwnHosts

    visitors = Visitors()
    blocks = build_page(workers, visitors, folder).queue(max_size=MAX_QUEUED)
    blocks.has_launched = blocks.is_running = True  # otherwise, Gradio accepts any local file that a visitor names
    app = gradio.mount_gradio_app(
        FastAPI(), blocks, "/", theme=THEME, css=STYLE, footer_links=[], ssr_mode=False, max_file_size=MAX_FILE_BYTES
    )
    hosts = OwnHosts(address, frozenset(settings.host_names), settings.host)
    guard = DemoGuard(app, hosts, folder, visitors.cancel_session)
    # When the server stops, it waits a second and closes the connections of open pages. The filter hides the errors
    # of this second.
    server = uvicorn.Server(
        uvicorn.Config(guard, http=LimitedProtocol, backlog=100, log_level="warning", timeout_graceful_shutdown=1)
    )
    logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
    return server


@contextmanager
def _use_temporary_folder(folder: str) -> Iterator[None]:
    """Write temporary files and uploads to a folder until the block exits."""
    previous, previous_variable = tempfile.tempdir, os.environ.get("GRADIO_TEMP_DIR")
    tempfile.tempdir, os.environ["GRADIO_TEMP_DIR"] = folder, f"{folder}/uploads"
    try:
        yield
    finally:
        tempfile.tempdir = previous
        if previous_variable is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = previous_variable


def _clean(folder: Path) -> AbstractContextManager[None]:
    """Delete visitors' files that are older than LIFETIME_S, at intervals, until the block exits."""
    from loupe.web.storage import LIFETIME_S, delete_old_files

    return repeat(lambda: delete_old_files(folder, time.time() - LIFETIME_S), CLEANING_INTERVAL_S)


def _open_socket(settings: Demo) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise UsageError(f"port: must be free on {host}, got {port}: {reason}") from None
    except (TypeError, ValueError) as error:  # Python cannot encode the host name
        reason = str(error)
    raise UsageError(f"host: must be an address of this machine, got {quote_value(host)}: {reason}")
