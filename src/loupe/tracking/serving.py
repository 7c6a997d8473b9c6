"""Guards `/invocations`, the route at which MLflow's scoring server upscales photos.

MLflow's server reads bodies of any size, does not stop its work after a timeout, and answers some requests with a
traceback. It has no hooks, so `guard_server` replaces the class of its app while MLflow loads the model.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.photos.worker_pool import Control
from loupe.tracking.served_http import (
    MAX_BODY_BYTES,
    ClientGoneError,
    HttpError,
    discard_body,
    get_separators,
    make_error,
    read_body,
    send_response,
    shorten_error,
    validate_body,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SERVER_MODULE = "mlflow.pyfunc.scoring_server.app"
ROUTE = "/invocations"
MAX_SMALL_BODY_BYTES = 1_000_000
MAX_LARGE_BODIES, MAX_SMALL_BODIES = 3, 48  # bodies in memory; further requests wait before their bodies are read
# Limits for slow clients: without these limits, three slow clients could block all requests with large bodies.
BODY_TIMEOUT_S, MIN_BODY_BYTES_PER_S = 10.0, 300_000
MARGIN_S = 5.0  # the guard's time limit is shorter than MLflow's timeout by at most this time
GRACE_S = 2.0  # after the time limit, the model has this time to return its own error
SEND_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class ServedRequest:
    """A request that the server works on.

    Args:
        control: ends the work after the time limit, or when the client closes the connection.
        folder: a temporary folder, removed after the response.
        results: the files to send instead of MLflow's predictions.
    """

    control: Control
    folder: Path
    results: list[Path] = field(default_factory=list)


_current: ContextVar[ServedRequest | None] = ContextVar("request", default=None)


def get_request() -> ServedRequest | None:
    """Return the request of this thread; None outside of a guarded server."""
    return _current.get()


def guard_server() -> None:
    """If this process is MLflow's scoring server, guard its app."""
    if SERVER_MODULE not in sys.modules:
        return
    import fastapi
    from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

    unguarded = fastapi.FastAPI
    timeout_s = float(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())

    class GuardedApp(unguarded):  # type: ignore[misc, valid-type]
        """MLflow's app, in which the guard comes before all middleware."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            fastapi.FastAPI = unguarded  # type: ignore[misc]
            super().__init__(*arguments, **options)

        def build_middleware_stack(self) -> "ASGIApp":
            """Put the guard around MLflow's app."""
            return RequestGuard(super().build_middleware_stack(), max(timeout_s - MARGIN_S, timeout_s / 2))

    fastapi.FastAPI = GuardedApp  # type: ignore[misc]


class RequestGuard:
    """ASGI middleware that limits the memory and the time of requests.

    Args:
        app: the app of MLflow.
        timeout_s: the time for a request, without the time to send the response.
    """

    def __init__(self, app: "ASGIApp", timeout_s: float) -> None:
        self._app, self._timeout_s = app, timeout_s
        self._small_bodies, self._large_bodies = map(asyncio.Semaphore, (MAX_SMALL_BODIES, MAX_LARGE_BODIES))
        # Until MLflow has the results, it keeps the body and the parsed texts, which take several times the memory of
        # the body. Requests with large bodies are therefore processed one at a time.
        self._large_requests = asyncio.Semaphore(1)
        self._has_threads = False

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["path"] != ROUTE:
            await self._app(scope, receive, partial(_send_and_close, send))
            return
        if not self._has_threads:  # each request takes a thread; asyncio's default, cores + 4 threads, is too low
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
            status, content = 504, make_error(504, f"took longer than {self._timeout_s:g} s")
        except HttpError as error:
            status, content = error.args[0], make_error(*error.args)
            if status in (413, 415):  # many clients send the whole body before they read a response
                with suppress(ClientGoneError, TimeoutError):
                    async with asyncio.timeout(BODY_TIMEOUT_S):
                        await discard_body(receive)
        except ClientGoneError:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send_response(status, content if status != 200 else request.results or content, send)

    async def _answer(self, scope: "Scope", receive: "Receive") -> tuple[int, bytes]:
        """Return the status and the content of MLflow's response."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        separators = get_separators(headers.get(b"content-type", ""))
        size = int(headers.get(b"content-length", MAX_BODY_BYTES))
        if size > MAX_BODY_BYTES:
            raise HttpError(413, f"body: must have at most {MAX_BODY_BYTES / 1e6:g} MB, got {size / 1e6:.1f}")
        is_small = size <= MAX_SMALL_BODY_BYTES
        async with self._small_bodies if is_small else self._large_bodies:
            request = _current.get()
            assert request is not None
            body = await _read_body(receive, request.control.get_remaining_s())
            validate_body(body, separators)
            if is_small:
                return await self._call_app(scope, receive, body)
            async with self._large_requests:
                return await self._call_app(scope, receive, body)

    async def _call_app(self, scope: "Scope", receive: "Receive", body: bytes) -> tuple[int, bytes]:
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        response: list[Message] = []

        async def receive_body() -> "Message":
            return messages.pop() if messages else await asyncio.Event().wait()  # type: ignore[return-value]

        async def record(message: "Message") -> None:
            response.append(message)

        async with _watch_client(receive):
            try:
                await self._app(scope, receive_body, record)
            except Exception as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                return 400, make_error(400, f"input: must be a table of photos, got other data: {reason}")
        content = b"".join(message.get("body", b"") for message in response)
        status: int = response[0]["status"]
        return status, content if status == 200 else shorten_error(status, content)


async def _read_body(receive: "Receive", timeout_s: float) -> bytes:
    """Read a body; raise HttpError if it is too large or too slow."""
    started = asyncio.get_running_loop().time()
    limit_s = min(BODY_TIMEOUT_S, timeout_s)

    def extend(size: int) -> None:
        nonlocal limit_s
        limit_s = min(BODY_TIMEOUT_S + size / MIN_BODY_BYTES_PER_S, timeout_s)
        timeout.reschedule(started + limit_s)

    try:
        async with asyncio.timeout(limit_s) as timeout:
            return await read_body(receive, extend)
    except TimeoutError:
        raise HttpError(408, f"body: must arrive within {limit_s:.1f} s") from None


async def _send_and_close(send: "Send", message: "Message") -> None:
    """Send a message of a response. A header closes the connection, because the request's body may be endless."""
    if message["type"] == "http.response.start":
        message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
    await send(message)


@asynccontextmanager
async def _watch_client(receive: "Receive") -> AsyncIterator[None]:
    """End the block with ClientGoneError when the client closes the connection."""
    request = _current.get()
    assert request is not None
    task = asyncio.current_task()
    is_disconnected = False

    async def watch() -> None:
        nonlocal is_disconnected
        while (await receive())["type"] != "http.disconnect":
            pass
        is_disconnected = True
        request.control.cancelled.set()
        assert task is not None
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not is_disconnected:
            raise
        assert task is not None
        task.uncancel()
        raise ClientGoneError from None
    finally:
        watcher.cancel()
