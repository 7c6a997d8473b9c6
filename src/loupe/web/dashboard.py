"""Shows the study of a sweep in optuna-dashboard while the sweep runs."""

import importlib.util
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from loupe.errors import UsageError
from loupe.web.guard import OwnHosts

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

HOST = "127.0.0.1"


def check_installed() -> None:
    """Raise UsageError if optuna-dashboard is not installed."""
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise UsageError("dashboard: needs optuna-dashboard: pip install optuna-dashboard")


@contextmanager
def serve_dashboard(storage: "BaseStorage") -> Iterator[str]:
    """Serve optuna-dashboard on a free port of this machine until the block exits.

    The command `optuna-dashboard` is not used: other users could read the password of a database in its arguments.

    Yields:
        The address of the page.
    """
    from optuna_dashboard import wsgi

    app, hosts = wsgi(storage), OwnHosts(HOST)

    def refuse_other_sites(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        names = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN", f"http://{HOST}").partition("://")[2]
        if all(name in hosts for name in names):
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"only pages of this machine may send requests"]

    with make_server(HOST, 0, refuse_other_sites, _Server, _QuietHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{HOST}:{server.server_port}/"
        finally:
            server.shutdown()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # an open connection of a browser must not delay the end of the sweep
    block_on_close = False

    def handle_error(self, request: Any, address: Any) -> None:
        """Do not print tracebacks: most errors are connections that the browser has closed."""


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Do not print a line per request."""
