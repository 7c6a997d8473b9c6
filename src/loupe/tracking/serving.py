"""Guards the route of MLflow's scoring server that upscales photos.

MLflow's server reads bodies of any size, works on after its timeout, and answers some malformed requests with status
500 and a traceback. It has no hooks: `guard_server` replaces the class of its app while MLflow loads the model.
"""

import asyncio
import base64
import json
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.errors import LONGEST_DESCRIPTION
from loupe.photos.worker_pool import Control

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SERVER_MODULE = "mlflow.pyfunc.scoring_server.app"  # makes the app as soon as the model is loaded
ROUTE = "/invocations"
MAX_BODY_BYTES = 48_000_000  # a photo of 32 MB has 43 MB in base64
MAX_SMALL_BODY_BYTES = 1_000_000
MAX_LARGE_BODIES, MAX_SMALL_BODIES = 3, 48  # in memory at a time; other requests wait before their body is read
SMALL_BODY_TIMEOUT_S = 10.0  # for the transfer
PARTS = {"application/json": b",:[{", "text/csv": b",\n\r"}  # separators of values, for the accepted content types
MAX_PARTS, MAX_BRACKETS = (
    2000,
    300,
)  # in a body: 3 bytes of JSON can take 64 bytes of memory, and parsers are recursive
MARGIN_S = 5.0  # between the end of the work and MLflow's timeout
GRACE_S = 2.0  # for the error of the work that has ended
SEND_TIMEOUT_S = 300.0  # for a result, which a client may read slowly
BLOCK_BYTES = 48 * 1024  # a multiple of 3: the parts of a text in base64 can be joined
ERROR_CODES = {408: "DEADLINE_EXCEEDED", 504: "DEADLINE_EXCEEDED", 413: "INVALID_PARAMETER_VALUE"}


@dataclass(frozen=True)
class ServedRequest:
    """A request that the server works on.

    Args:
        control: ends the work when the time is over or the client has gone.
        folder: for temporary files; removed when the response is sent.
        results: the files of the results, which the guard sends in place of the predictions.
    """

    control: Control
    folder: Path
    results: list[Path] = field(default_factory=list)


_current: ContextVar[ServedRequest | None] = ContextVar("request", default=None)


def get_request() -> ServedRequest | None:
    """Return the request that this thread works on; None outside of a guarded server."""
    return _current.get()


def guard_server() -> None:
    """Guard the app that MLflow's scoring server makes next, if this process is such a server."""
    if SERVER_MODULE not in sys.modules:
        return
    import fastapi
    from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

    unguarded = fastapi.FastAPI
    timeout_s = float(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())

    class GuardedApp(unguarded):  # type: ignore[misc, valid-type]
        """The app; the guard is outside of all middleware of MLflow."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            fastapi.FastAPI = unguarded  # type: ignore[misc]
            super().__init__(*arguments, **options)

        def build_middleware_stack(self) -> "ASGIApp":
            """Put the guard around MLflow's app."""
            return RequestGuard(super().build_middleware_stack(), max(timeout_s - MARGIN_S, timeout_s / 2))

    fastapi.FastAPI = GuardedApp  # type: ignore[misc]


class HttpError(Exception):
    """The request is refused; the arguments are a status and a line."""


class ClientGoneError(Exception):
    """The client closed the connection."""


class RequestGuard:
    """ASGI middleware that bounds the memory and the time of requests.

    Args:
        app: the app of MLflow.
        timeout_s: the time for a request without that for sending the result.
    """

    def __init__(self, app: "ASGIApp", timeout_s: float) -> None:
        self._app, self._timeout_s = app, timeout_s
        self._small, self._large = asyncio.Semaphore(MAX_SMALL_BODIES), asyncio.Semaphore(MAX_LARGE_BODIES)
        self._parsed = asyncio.Semaphore(1)  # large bodies that MLflow parses, which takes several times their size
        self._has_threads = False

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["path"] != ROUTE:
            await self._app(scope, receive, send)
            return
        if not self._has_threads:  # MLflow uses the default threads, 4 more than cores
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MAX_SMALL_BODIES + 1))
            self._has_threads = True
        request = ServedRequest(Control(self._timeout_s), Path(tempfile.mkdtemp(prefix="loupe-served-")))
        _current.set(request)
        try:
            await self._serve(request, scope, receive, send)
        finally:
            request.control.cancelled.set()
            shutil.rmtree(request.folder, ignore_errors=True)

    async def _serve(self, request: ServedRequest, scope: "Scope", receive: "Receive", send: "Send") -> None:
        try:
            async with asyncio.timeout(self._timeout_s + GRACE_S):
                status, content = await self._answer(scope, receive)
        except TimeoutError:
            status, content = (
                504,
                _make_error(504, f"server: must answer within {self._timeout_s:g} s, try again later"),
            )
        except HttpError as error:
            status, content = error.args[0], _make_error(*error.args)
            if status in (413, 415):  # many clients read no response before they have sent the whole body
                with suppress(ClientGoneError, TimeoutError):
                    async with asyncio.timeout(SMALL_BODY_TIMEOUT_S):
                        await _discard(receive)
        except ClientGoneError:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await _send(status, content if status != 200 else request.results or content, send)

    async def _answer(self, scope: "Scope", receive: "Receive") -> tuple[int, bytes]:
        """Return the status and the content of MLflow's response."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        separators = _get_separators(headers.get(b"content-type", ""))
        size = int(headers.get(b"content-length", MAX_BODY_BYTES))
        if size > MAX_BODY_BYTES:
            raise HttpError(413, f"body: must have at most {MAX_BODY_BYTES / 1e6:g} MB, got {size / 1e6:.1f}")
        small = size <= MAX_SMALL_BODY_BYTES
        async with self._small if small else self._large:
            try:
                async with asyncio.timeout(SMALL_BODY_TIMEOUT_S if small else None):
                    body = await _read_body(receive)
            except TimeoutError:
                raise HttpError(408, f"body: must arrive within {SMALL_BODY_TIMEOUT_S:g} s") from None
            _validate_body(body, separators)
            if small:
                return await self._call_app(scope, receive, body)
            async with self._parsed:
                return await self._call_app(scope, receive, body)

    async def _call_app(self, scope: "Scope", receive: "Receive", body: bytes) -> tuple[int, bytes]:
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Message] = []
        del body  # so that MLflow can free it

        async def receive_body() -> "Message":
            return messages.pop() if messages else await asyncio.Event().wait()  # type: ignore[return-value]

        async def record(message: "Message") -> None:
            sent.append(message)

        async with _watch_client(receive):
            try:
                await self._app(scope, receive_body, record)
            except Exception as error:  # MLflow did not expect this input
                reason = " ".join(str(error).split())[:LONGEST_DESCRIPTION]
                return 400, _make_error(
                    400, f"input: must be photos, got other data: {type(error).__name__}: {reason}"
                )
        content = b"".join(message.get("body", b"") for message in sent)
        status: int = sent[0]["status"]
        return status, content if status == 200 else _shorten_error(status, content)


@asynccontextmanager
async def _watch_client(receive: "Receive") -> AsyncIterator[None]:
    """End the block with ClientGoneError when the client closes the connection."""
    request = _current.get()
    assert request is not None
    task = asyncio.current_task()
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        request.control.cancelled.set()
        assert task is not None
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        assert task is not None
        task.uncancel()
        raise ClientGoneError from None
    finally:
        watching.cancel()


async def _read_body(receive: "Receive") -> bytes:
    parts, size = [], 0
    async for part in _receive_parts(receive):
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise HttpError(413, f"body: must have at most {MAX_BODY_BYTES / 1e6:g} MB, got more")
        parts.append(part)
    return b"".join(parts)


async def _discard(receive: "Receive") -> None:
    async for _ in _receive_parts(receive):
        pass


async def _receive_parts(receive: "Receive") -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        yield message.get("body", b"")
        more = message.get("more_body", False)


def _get_separators(content_type: str) -> bytes:
    kind = content_type.partition(";")[0].strip()
    if kind not in PARTS:
        raise HttpError(415, f"content-type: must be {' or '.join(PARTS)}, got {kind[:40]!r}")
    return PARTS[kind]


def _validate_body(body: bytes, separators: bytes) -> None:
    """Refuse a body that would become a large object in memory, or is too nested for a parser."""
    if sum(body.count(separator) for separator in separators) > MAX_PARTS or (
        body.count(b"[") + body.count(b"{") > MAX_BRACKETS
    ):
        raise HttpError(
            400, f"body: must have at most {MAX_PARTS} separators and {MAX_BRACKETS} opening brackets, got more"
        )


def _shorten_error(status: int, content: bytes) -> bytes:
    """Make one line of MLflow's error, which may contain the whole input and a traceback."""
    try:
        message = str(json.loads(content)["message"])
    except (ValueError, TypeError, KeyError):
        message = content.decode("utf-8", "replace")
    if message.startswith("Failed to predict data"):
        message = message.partition("\nError: ")[2]
    message = re.split(r"\s*Input: ?\n", message, maxsplit=1)[0]
    return _make_error(status, " ".join(message.split())[:LONGEST_DESCRIPTION])


def _make_error(status: int, line: str) -> bytes:
    """Make the content of an error as MLflow's server does."""
    code = ERROR_CODES.get(status, "TEMPORARILY_UNAVAILABLE" if status == 503 else "INVALID_PARAMETER_VALUE")
    return json.dumps({"error_code": code, "message": line}).encode()


async def _send(status: int, content: bytes | list[Path], send: "Send") -> None:
    """Send a response: a content, or predictions that are read from files."""
    if isinstance(content, bytes):
        parts, size = iter([content]), len(content)
    else:
        parts, size = _encode_predictions(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _encode_predictions(files: list[Path]) -> tuple[Iterator[bytes], int]:
    """Return the parts of MLflow's response for these results in base64, and its number of bytes."""
    size = (
        len(b'{"predictions": []}')
        + sum(2 + -(-file.stat().st_size // 3) * 4 for file in files)
        + 2 * (len(files) - 1)
    )

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
