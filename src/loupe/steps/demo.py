"""Serves a web page that upscales photos."""

import logging
import os
import socket
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from loupe.cli import signals
from loupe.cli.progress import print_line
from loupe.config.photos import Demo
from loupe.errors import UsageError


def run(settings: Demo) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        UsageError: the model does not exist, or the port is in use.
    """
    import gradio
    import uvicorn
    from fastapi import FastAPI

    from loupe.tracking.resolver import resolve_model
    from loupe.web.demo import MAX_FILE_BYTES, STYLE, THEME, build_page

    networks = resolve_model(settings.model)
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix="loupe-demo-") as folder,
        _open_socket(settings) as listening,
    ):
        warnings.simplefilter("ignore")  # Pillow warns about harmless faults in files
        os.environ["GRADIO_TEMP_DIR"] = f"{folder}/uploads"  # removed with the folder when the server ends
        results = Path(folder, "results")
        results.mkdir()
        blocks = build_page(networks, results)
        blocks.has_launched = blocks.is_running = True  # otherwise Gradio accepts any local file as an upload
        app = gradio.mount_gradio_app(
            FastAPI(),
            blocks,
            "/",
            theme=THEME,
            css=STYLE,
            footer_links=[],
            ssr_mode=False,
            max_file_size=MAX_FILE_BYTES,
        )
        # Open pages never close their connections. The server closes them after a second and does not log the errors.
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
        host, port = listening.getsockname()[:2]
        with suppress(KeyboardInterrupt, signals.Terminated):
            print_line(f"http://{f'[{host}]' if ':' in host else host}:{port}", settings.quiet)
            server.run(sockets=[listening])


def _open_socket(settings: Demo) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # Python then repeats the address
        raise UsageError(f"port: must be free on {host}, got {port}: {reason}") from None


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("demo")
