"""A page in the browser, on which photos are upscaled."""

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
        UsageError: there is no such model, or the port is taken.
    """
    import gradio
    import uvicorn
    from fastapi import FastAPI

    from loupe.tracking.resolver import resolve_model
    from loupe.web.page import MOST_BYTES, STYLE, THEME, page

    warnings.simplefilter("ignore")  # Pillow's, of what is odd in a file but does no harm
    networks = resolve_model(settings.model)
    with tempfile.TemporaryDirectory(prefix="loupe-demo-") as folder, _listening(settings) as listening:
        os.environ["GRADIO_TEMP_DIR"] = f"{folder}/uploads"  # photos of visitors must not outlive the server
        results = Path(folder, "results")
        results.mkdir()
        blocks = page(networks, results)
        blocks.has_launched = blocks.is_running = True  # else Gradio takes any file of this machine for an upload
        app = gradio.mount_gradio_app(
            FastAPI(),
            blocks,
            "/",
            theme=THEME,
            css=STYLE,
            footer_links=[],
            ssr_mode=False,
            max_file_size=MOST_BYTES,
        )
        # a page that is open holds its connection for ever: at the end it is cut, which is no error to tell
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
        host, port = listening.getsockname()[:2]
        with suppress(KeyboardInterrupt, signals.Terminated):
            print_line(f"http://{f'[{host}]' if ':' in host else host}:{port}", settings.quiet)
            server.run(sockets=[listening])


def _listening(settings: Demo) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # behind it Python repeats the address
        raise UsageError(f"port: must be free at {host}, got {port}: {reason}") from None


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("demo")
