"""Reads, checks and writes the HTTP messages of MLflow's scoring server."""

import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.errors import LONGEST_DESCRIPTION

if TYPE_CHECKING:
    from starlette.types import Receive, Send

MAX_BODY_BYTES = 48_000_000  # enough for a photo of 32 MB in base64
SEPARATORS = {"application/json": b",:[{", "text/csv": b",\n\r"}  # characters before values, by content type
# Limits per body: 3 bytes of JSON can take 64 bytes after parsing, and deep nesting exceeds the parser's stack.
MAX_SEPARATORS, MAX_BRACKETS = 2000, 300
BLOCK_BYTES = 48 * 1024  # a multiple of 3, so that only the last block of a file has base64 padding
ERROR_CODES = {408: "DEADLINE_EXCEEDED", 504: "DEADLINE_EXCEEDED", 413: "INVALID_PARAMETER_VALUE"}


class HttpError(Exception):
    """The request is refused with an HTTP status and a message of one line."""


class ClientGoneError(Exception):
    """The client closed the connection."""


async def read_body(receive: "Receive", report: Callable[[int], None]) -> bytes:
    """Read a body. After each part, `report` is called with the number of bytes received so far.

    Raises:
        HttpError: the body is too large.
        ClientGoneError: the client closed the connection.
    """
    parts, size = [], 0
    async for part in _receive_parts(receive):
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise HttpError(413, f"body: must have at most {MAX_BODY_BYTES / 1e6:g} MB, got more")
        report(size)
        parts.append(part)
    return b"".join(parts)


async def discard_body(receive: "Receive") -> None:
    """Read a body without storing it; raise ClientGoneError if the client closes the connection."""
    async for _ in _receive_parts(receive):
        pass


async def _receive_parts(receive: "Receive") -> AsyncIterator[bytes]:
    has_more = True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        yield message.get("body", b"")
        has_more = message.get("more_body", False)


def get_separators(content_type: str) -> bytes:
    """Return the separators of values in a content type; raise HttpError for an unsupported type."""
    kind = content_type.partition(";")[0].strip()
    if kind not in SEPARATORS:
        raise HttpError(415, f"content-type: must be {' or '.join(SEPARATORS)}, got {kind[:40]!r}")
    return SEPARATORS[kind]


def validate_body(body: bytes, separators: bytes) -> None:
    """Raise HttpError for a body that may take too much memory after parsing, or may be nested too deeply."""
    if sum(body.count(separator) for separator in separators) > MAX_SEPARATORS or (
        body.count(b"[") + body.count(b"{") > MAX_BRACKETS
    ):
        raise HttpError(
            400, f"body: must have at most {MAX_SEPARATORS} separators and {MAX_BRACKETS} opening brackets, got more"
        )


def shorten_error(status: int, content: bytes) -> bytes:
    """Shorten an error response of MLflow to one line, without the input and the traceback."""
    try:
        message = str(json.loads(content)["message"])
    except (ValueError, TypeError, KeyError):
        message = content.decode("utf-8", "replace")
    if message.startswith("Failed to predict data"):
        message = message.partition("\nError: ")[2]
    message = re.split(r"\s*Input: ?\n", message, maxsplit=1)[0]
    return make_error(status, " ".join(message.split()))


def make_error(status: int, line: str) -> bytes:
    """Make the body of an error response in the format of MLflow's server. A long line is cut."""
    code = ERROR_CODES.get(status, "TEMPORARILY_UNAVAILABLE" if status == 503 else "INVALID_PARAMETER_VALUE")
    return json.dumps({"error_code": code, "message": line[:LONGEST_DESCRIPTION]}).encode()


async def send_response(status: int, content: bytes | list[Path], send: "Send") -> None:
    """Send a response: bytes, or files as MLflow's predictions."""
    if isinstance(content, bytes):
        parts, size = iter([content]), len(content)
    else:
        parts, size = _encode_predictions(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]
    if status not in (200, 400):  # close the connection, because a part of the request may be unread
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _encode_predictions(files: list[Path]) -> tuple[Iterator[bytes], int]:
    """Return the parts of MLflow's response with these files in base64, and the size of the response in bytes."""
    size = len(json.dumps({"predictions": [""] * len(files)}))
    size += sum(-(-file.stat().st_size // 3) * 4 for file in files)  # base64: 4 bytes for up to 3 bytes of a file

    def generate() -> Iterator[bytes]:
        yield b'{"predictions": ['
        for number, file in enumerate(files):
            yield b', "' if number else b'"'
            with file.open("rb") as stream:
                while block := stream.read(BLOCK_BYTES):
                    yield base64.b64encode(block)
            yield b'"'
        yield b"]}"

    return generate(), size
