"""Limits the number of open connections of the demo."""

import asyncio
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 200  # with the files of the server, fewer than a process may open (macOS: 256)


class LimitedProtocol(H11Protocol):
    """A connection. If there are too many, a new connection closes the oldest one that does not serve a request.

    If all connections serve requests, the new connection closes the oldest of them. Without this limit, a thousand
    slow clients would block all others, because uvicorn waits forever for the end of a request's headers.
    """

    opened_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the new connection, and close another one if necessary."""
        self.opened_at = time.monotonic()
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            oldest = min(self.connections, key=_rank)
            self.connections.discard(oldest)  # otherwise the next connection would choose the same one
            oldest.transport.abort()


def _rank(connection: Any) -> tuple[bool, float]:
    return connection.conn.their_state is not h11.IDLE, connection.opened_at
