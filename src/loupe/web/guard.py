"""Guards the demo: refuses requests of other sites, and limits uploads."""

import asyncio
import ipaddress
import json
import socket
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from loupe.web.storage import make_room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_FILE_BYTES = 100 * 10**6  # maximum size of an uploaded file
MAX_FORM_BYTES = 10_000  # maximum size of the rest of the upload form
MAX_BODY_BYTES = 100_000  # maximum body of a request that is not an upload
BODY_TIMEOUT_S = 300.0
UPLOAD_ROUTE = "/gradio_api/upload"
STREAM_ROUTES = "/gradio_api/queue/data", "/gradio_api/call/"  # the browser reads these until the result arrives


@dataclass(frozen=True)
class OwnHosts:
    """The host names and addresses under which browsers open the page of this server.

    The names are `localhost`, the name of the machine, `public` and `name`. Other names are refused: a DNS rebinding
    attack uses a name of the attacker. An IP address must be `listening`. But if `listening` is 0.0.0.0 or ::, any
    address is accepted, and if it is a loopback address, any loopback address is accepted.

    Args:
        listening: the IP address that the server listens on.
        public: further names, in lower case, such as the name of a proxy.
        name: the name or address that the user gave (`--host`), or "".
    """

    listening: str
    public: frozenset[str] = frozenset()
    name: str = ""

    def __contains__(self, host: object) -> bool:
        """Return whether the host part of a URL is a name or address of this server."""
        name, machine = _parse_host(str(host)), socket.gethostname().lower()
        if name in ("localhost", machine, f"{machine}.local", *self.public):
            return True
        if name and name == self.name.lower().rstrip("."):
            return True
        try:
            address, own_address = ipaddress.ip_address(name), ipaddress.ip_address(self.listening)
        except ValueError:
            return False
        return (
            address.is_loopback if own_address.is_loopback else own_address.is_unspecified or address == own_address
        )


@dataclass
class DemoGuard:
    """ASGI middleware around the app of Gradio.

    Args:
        app: the app.
        hosts: the names of this server.
        folder: the folder of uploads and results.
        cancel_session: ends the work for a visitor who has closed the page.
    """

    app: "ASGIApp"
    hosts: OwnHosts
    folder: Path
    cancel_session: Callable[[str], None]
    _uploading_bytes: int = field(default=0, init=False)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve or refuse a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"]
        refusal = self._check_site(scope) or self._check_body(scope)
        if refusal:
            await _refuse(*refusal, send)
        elif path.startswith(STREAM_ROUTES) and scope["method"] == "GET":
            await self._serve_stream(scope, receive, send)
        elif scope["method"] == "POST":
            try:
                with self._count_upload(_get_size(scope) if path.startswith(UPLOAD_ROUTE) else 0):
                    async with asyncio.timeout(BODY_TIMEOUT_S):
                        await self.app(scope, receive, send)
            except TimeoutError:
                await _refuse(408, f"body: must arrive within {BODY_TIMEOUT_S:g} s", send)
        else:
            await self.app(scope, receive, send)

    def _check_site(self, scope: "Scope") -> tuple[int, str] | None:
        """Return the status and reason of a refusal if another site caused the request, otherwise None."""
        hosts, origins = _get_headers(scope, b"host"), _get_headers(scope, b"origin")
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return 403, f"Host: must be an address of this server, got {', '.join(hosts)[:100]!r}"
        for origin in origins:
            host = origin.partition("://")[2].lower()
            # A proxy may replace the Host header; the Origin header keeps the public name.
            if host != hosts[0].lower() and _parse_host(host) not in self.hosts.public:
                return 403, f"Origin: must be this server, got {origin[:100]!r}"
        return None

    def _check_body(self, scope: "Scope") -> tuple[int, str] | None:
        """Return the status and reason of a refusal, or None.

        A request is refused if its body is too large or has no size, or if the folder is full.
        """
        size = _get_size(scope)
        is_upload = scope["path"].startswith(UPLOAD_ROUTE)
        limit = MAX_FILE_BYTES + MAX_FORM_BYTES if is_upload else MAX_BODY_BYTES
        if _get_headers(scope, b"transfer-encoding"):
            return 411, "body: must have a Content-Length"
        if size > limit:
            return 413, f"body: must have at most {limit / 1e6:.1f} MB, got {size / 1e6:.1f}"
        if is_upload and scope["method"] == "POST" and not make_room(self.folder, self._uploading_bytes + size):
            return 503, "server: has too many photos, try again in some minutes"
        return None

    @contextmanager
    def _count_upload(self, size: int) -> "Iterator[None]":
        self._uploading_bytes += size
        try:
            yield
        finally:
            self._uploading_bytes -= size

    async def _serve_stream(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve a stream of events, and end the work when the visitor closes the stream."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        session = query.get("session_hash", [scope["path"].rpartition("/")[2]])[0]
        disconnected = asyncio.Event()

        async def wait_for_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            disconnected.set()
            self.cancel_session(session)

        async def receive_disconnect() -> "Message":
            await disconnected.wait()
            return {"type": "http.disconnect"}

        task = asyncio.create_task(wait_for_disconnect())
        try:
            await self.app(scope, receive_disconnect, send)
        finally:
            task.cancel()


async def _refuse(status: int, reason: str, send: "Send") -> None:
    content = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    headers.append((b"connection", b"close"))  # the server does not read the body, which may be endless
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _get_headers(scope: "Scope", name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _get_size(scope: "Scope") -> int:
    return max(map(int, filter(str.isdecimal, _get_headers(scope, b"content-length"))), default=0)


def _parse_host(host: str) -> str:
    """Return the name or address in a Host header; "" for a malformed header."""
    if set(host) & set("/?#@"):  # `urlsplit` would accept these characters
        return ""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
