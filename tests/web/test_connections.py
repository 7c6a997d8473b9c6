"""Clients whose requests never end do not block the others."""

import asyncio

import pytest

pytest.importorskip("uvicorn", reason="gradio is not installed")

import uvicorn
from services import LOOPBACK, find_free_port

from loupe.web import connections

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize("busy_count", [1, 3])
def test_a_new_connection_closes_the_oldest_one_without_a_request_or_the_oldest_of_all(monkeypatch, busy_count):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)

    async def check() -> None:
        served, may_answer, writers = asyncio.Semaphore(0), asyncio.Event(), []

        async def app(scope, receive, send):
            served.release()
            await may_answer.wait()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        port = find_free_port()
        config = uvicorn.Config(
            app, LOOPBACK, port, http=connections.LimitedProtocol, lifespan="off", log_config=None
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())  # without uvicorn's handlers of signals
        while not server.started:
            await asyncio.sleep(0)

        async def send(content: bytes):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writers.append(writer)  # which would be closed when it is deleted
            writer.write(content)
            return reader

        readers = []
        for _ in range(busy_count):
            readers.append(await send(REQUEST + b"\r\n"))
            await served.acquire()
        slow = [await send(REQUEST + b"X: ") for _ in range(4)] if busy_count == 1 else []
        for reader in slow[:2]:
            assert not await reader.read()
        readers.append(await send(REQUEST + b"\r\n"))
        if busy_count == 3:
            assert not await readers.pop(0).read()
        may_answer.set()
        for reader in readers:
            assert (await reader.readline()).startswith(b"HTTP/1.1 204")
        server.should_exit = True
        await serving

    asyncio.run(asyncio.wait_for(check(), 20))
