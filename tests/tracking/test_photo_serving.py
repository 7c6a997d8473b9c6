"""The guard of MLflow's scoring server: bodies and time are bounded, errors have one line, results are streamed."""

import asyncio
import base64
import json
import threading

import pytest

from loupe.tracking import photo_model, served_http, serving
from loupe.tracking.served_http import MAX_BODY_BYTES
from loupe.tracking.serving import RequestGuard, get_request

JSON = {"content-type": "application/json"}
GONE = {"type": "http.disconnect"}


def call(app, body=b"{}", headers=JSON, path="/invocations", messages=None, timeout_s=30):
    """Send a request to a guarded app; returns the status, the content and the messages of the response."""
    return asyncio.run(call_soon(RequestGuard(app, timeout_s), body, headers, path, messages))


async def call_soon(guarded, body=b"{}", headers=JSON, path="/invocations", messages=None):
    size = {} if messages else {"content-length": str(len(body))}
    raw = [(name.encode(), value.encode()) for name, value in (headers | size).items()]
    waiting = list(messages or [{"type": "http.request", "body": body}])
    sent = []

    async def receive():
        return waiting.pop(0) if waiting else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await guarded({"type": "http", "path": path, "headers": raw}, receive, send)
    content = b"".join(message.get("body", b"") for message in sent)
    return (sent[0]["status"] if sent else None), content, sent


def read_error(content):
    message = json.loads(content)["message"]
    assert "\n" not in message
    return message


async def answer(send, status, content):
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": content})


async def echo(scope, receive, send):
    await answer(send, 200, (await receive())["body"])


async def fail(scope, receive, send):
    raise AssertionError("MLflow received the request")


def test_photo_in_lines_of_base64_is_decoded():
    content = bytes(range(256))
    text = base64.encodebytes(content).decode()
    assert text.count("\n") > 1
    for lines in (text, text.replace("\n", "\r\n"), f"data:image/png;base64, {text}"):
        assert photo_model._decode(lines) == content


def test_body_reaches_mlflow_whole():
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in (b'{"a"', b": ")]
    parts.append({"type": "http.request", "body": b"1}"})
    assert call(echo, messages=parts)[:2] == (200, b'{"a": 1}')
    assert call(echo, b"[" * 1000, path="/ping")[:2] == (200, b"[" * 1000)


@pytest.mark.parametrize(
    ("body", "headers", "status", "word"),
    [
        (b"[" * 301, JSON, 400, "at most 2000 separators and 300 opening brackets"),
        (b'{"a":' * 301, JSON, 400, "at most 2000 separators and 300 opening brackets"),
        (b"0," * 2001, JSON, 400, "at most 2000 separators"),
        (b"0\n" * 2001, {"content-type": "text/csv"}, 400, "at most 2000 separators"),
        (b"", {}, 415, "content-type: must be application/json or text/csv, got ''"),
        (b"", {"content-type": "application/vnd.apache.parquet"}, 415, "content-type: must be "),
        (b"", JSON | {"content-length": "48000001"}, 413, "body: must have at most 48 MB, got 48.0"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_request_is_refused_before_mlflow_reads_it(body, headers, status, word):
    messages = [{"type": "http.request", "body": body}]
    found, content, _ = call(fail, headers=headers, messages=messages)
    assert (found, word in read_error(content)) == (status, True)


def test_body_without_a_declared_size_is_bounded():
    parts = [{"type": "http.request", "body": bytes(MAX_BODY_BYTES // 2), "more_body": True}] * 3
    status, content, sent = call(fail, messages=[*parts, GONE])
    assert (status, read_error(content)) == (413, "body: must have at most 48 MB, got more")
    assert (b"connection", b"close") in sent[0]["headers"]


def test_error_has_one_line_without_the_input():
    message = (
        "Failed to predict data '  photo\n0 x'. \nError: Parameters must\nbe a dictionary. \nInput: \n" + "x" * 10**5
    )

    async def refuse(scope, receive, send):
        await answer(
            send, 400, json.dumps({"error_code": "BAD_REQUEST", "message": message, "stack_trace": "x"}).encode()
        )

    status, content, _ = call(refuse)
    assert status == 400
    assert json.loads(content) == {
        "error_code": "INVALID_PARAMETER_VALUE", "message": "Parameters must be a dictionary."
    }  # fmt: skip


def test_input_that_mlflow_did_not_expect_is_the_error_of_the_client():
    async def crash(scope, receive, send):
        await answer(send, 500, b"Internal Server Error")
        raise RecursionError("too\ndeep")

    status, content, _ = call(crash)
    assert (status, read_error(content)) == (
        400,
        "input: must be a table of photos, got other data: RecursionError: too deep",
    )


def test_results_are_sent_from_files_in_blocks(monkeypatch):
    monkeypatch.setattr(served_http, "BLOCK_BYTES", 3)
    folders = []

    async def predict(scope, receive, send):
        request = get_request()
        folders.append(request.folder)
        for number, content in enumerate((b"one result", b"", b"123")):
            request.results.append(request.folder / str(number))
            request.results[-1].write_bytes(content)
        await answer(send, 200, b'{"predictions": ["", "", ""]}')

    status, content, sent = call(predict)
    texts = [base64.b64encode(part).decode() for part in (b"one result", b"", b"123")]
    assert (status, content.decode()) == (200, json.dumps({"predictions": texts}))
    assert (b"content-length", str(len(content)).encode()) in sent[0]["headers"]
    assert max(len(message.get("body", b"")) for message in sent) <= 18
    assert not folders[0].exists()


@pytest.mark.parametrize("end", ["time", "client"])
def test_work_ends_when_the_time_is_over_or_the_client_has_gone(end, monkeypatch):
    monkeypatch.setattr(serving, "GRACE_S", 0)
    ended = []

    async def work(scope, receive, send):
        control = get_request().control
        await asyncio.to_thread(control.cancelled.wait, 20 if end == "client" else 0)
        await asyncio.Event().wait()

    async def watch(scope, receive, send):
        ended.append(get_request().control.cancelled)
        await work(scope, receive, send)

    messages = [{"type": "http.request", "body": b"{}"}, *([GONE] if end == "client" else [])]
    status, content, _ = call(watch, messages=messages, timeout_s=0.1 if end == "time" else 20)
    assert ended[0].is_set()
    if end == "time":
        assert (status, read_error(content)) == (504, "took longer than 0.1 s")
    else:
        assert status is None


@pytest.mark.parametrize("size", ["9", "40000000"])
def test_a_slow_body_is_refused_soon(size, monkeypatch):
    monkeypatch.setattr(serving, "BODY_TIMEOUT_S", 0.1)
    part = {"type": "http.request", "body": b"{", "more_body": True}
    status, content, _ = call(fail, headers=JSON | {"content-length": size}, messages=[part])
    assert (status, read_error(content)) == (408, "body: must arrive within 0.1 s")


def test_a_large_body_that_makes_progress_is_read(monkeypatch):
    monkeypatch.setattr(serving, "BODY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(serving, "MIN_BODY_BYTES_PER_S", 1)
    parts = [{"body": b"x" * 50, "more_body": True}, {"body": b"x"}]

    async def receive():
        await asyncio.sleep(0.1 if len(parts) == 1 else 0)
        return parts.pop(0) | {"type": "http.request"}

    assert len(asyncio.run(serving._read_body(receive, 50))) == 51


def test_an_endless_body_without_a_declared_size_is_refused_and_the_connection_closed():
    part = {"type": "http.request", "body": b"{", "more_body": True}
    status, content, sent = call(fail, messages=[part], timeout_s=0.1)
    assert (status, read_error(content)) == (408, "body: must arrive within 0.1 s")
    assert (b"connection", b"close") in sent[0]["headers"]


def test_other_routes_close_the_connection():
    status, content, sent = call(echo, path="/ping")
    assert (status, content, sent[0]["headers"]) == (200, b"{}", [(b"connection", b"close")])


def test_large_bodies_are_parsed_one_at_a_time_and_small_ones_do_not_wait(monkeypatch):
    monkeypatch.setattr(serving, "MAX_SMALL_BODY_BYTES", 2)
    working, most, release = 0, 0, asyncio.Event()

    async def work(scope, receive, send):
        nonlocal working, most
        body = (await receive())["body"]
        if len(body) > 2:
            working += 1
            most = max(most, working)
            await release.wait()
            working -= 1
        await answer(send, 200, body)

    async def run():
        guarded = RequestGuard(work, 20)
        large = [asyncio.create_task(call_soon(guarded, b"large")) for _ in range(6)]
        assert (await call_soon(guarded, b"{}"))[0] == 200
        assert not any(task.done() for task in large)
        release.set()
        return [(await task)[0] for task in large]

    assert asyncio.run(run()) == [200] * 6
    assert most == 1


def test_many_small_requests_wait_for_a_thread():
    barrier = threading.Barrier(20)  # more than MLflow's threads on a machine with few cores

    async def work(scope, receive, send):
        await asyncio.to_thread(barrier.wait, 20)
        await answer(send, 200, b"{}")

    async def run():
        guarded = RequestGuard(work, 20)
        return [status for status, *_ in await asyncio.gather(*(call_soon(guarded) for _ in range(100)))]

    assert asyncio.run(run()) == [200] * 100
