"""Limits the number of open connections of the demo."""

import asyncio
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 200  # a process may open 256 files on macOS


class LimitedProtocol(H11Protocol):
    """A connection. If a new connection exceeds MAX_CONNECTIONS, the oldest other connection is closed.

    Connections without a request are closed first. uvicorn waits forever for the headers of a request: a thousand
    slow clients would block all others.
    """

    opened_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the new connection, and close another one if necessary."""
        self.opened_at = time.monotonic()
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            oldest = min(self.connections - {self}, key=_rank)
            self.connections.discard(oldest)
            oldest.transport.abort()


def _rank(connection: Any) -> tuple[bool, float]:
    return connection.conn.their_state is not h11.IDLE, connection.opened_at
