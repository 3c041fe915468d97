"""What comes over a connection before it is a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from serve import models

from naru.serve import http_protocol
from naru.serve.http_protocol import MOST_HEAD
from naru.serve.server import Server
from naru.serve.settings import ServerSettings

SLOW = "no request arrived within 0.02 s"
GET = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n"


async def answers(port: int, *parts: bytes) -> bytes:
    """What a server sends for parts of a request, on a connection that had another, until it closes
    that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET + b"\r\n")
    await reader.readuntil(b'{"live":true}')
    for part in parts:
        writer.write(part)
        await writer.drain()
    found = await reader.read()
    writer.close()
    return found


CASES: dict[str, tuple[tuple[bytes, ...], bytes, str]] = {
    "no HTTP": ((b"hello\r\n\r\n",), b"400 Bad Request", "Invalid HTTP request received."),
    "two lengths": (
        (GET + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",),
        b"400 Bad Request",
        "Invalid HTTP request received.",
    ),
    "a head that is too long": (
        (GET + b"x: " + b"a" * MOST_HEAD + b"\r\n\r\n",),
        b"431 Request Header Fields Too Large",
        f"the head of the request is longer than {MOST_HEAD} bytes",
    ),
    "a head without end": (
        (GET + b"x: ", *[b"a" * (MOST_HEAD // 4)] * 5),
        b"431 Request Header Fields Too Large",
        f"the head of the request is longer than {MOST_HEAD} bytes",
    ),
}


def serving(
    folder: Path, check: Callable[[int], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    """Runs a coroutine with the port of a server."""
    models.dense(folder / "dense.onnx")

    async def run() -> None:
        server = Server(
            ServerSettings(root=folder, port=0, load_at_start=0, page=False, **settings)
        )
        server.bind()
        running = asyncio.create_task(server.run())
        try:
            await check(server.port)
        finally:
            server.stop()
            await running

    asyncio.run(run())


def expect_error(answer: bytes, status: bytes, message: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"content-type: application/json" in head
    assert json.loads(body) == {"error": message}


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_request_is_told_so(name: str, tmp_path: Path) -> None:
    parts, status, message = CASES[name]

    async def check(port: int) -> None:
        expect_error(await answers(port, *parts), status, message)

    serving(tmp_path, check)


def test_a_head_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "SLOWEST_HEAD", 0.02)

    async def check(port: int) -> None:
        for part in (b"", GET):  # on a new connection
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(part)
            expect_error(await reader.read(), b"408 Request Timeout", SLOW)
            writer.close()
        expect_error(await answers(port, GET), b"408 Request Timeout", SLOW)

    serving(tmp_path, check)


def test_bodies_are_not_heads(tmp_path: Path) -> None:
    """A request that is longer than a head may be, at once; and one that would like HTTP/2."""
    body = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[0,1,2,3]}]}'
    body += b" " * (2 * MOST_HEAD)
    post = b"POST /v2/models/dense/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n" % len(body)
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"

    async def check(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for more in (b"", upgrade, b""):
            writer.write(post + more + b"\r\n" + body)
            answer = await reader.readuntil(b"}]}")
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert b"[14.0,20.0,26.0]" in answer
        writer.close()

    serving(tmp_path, check)


def test_connections_that_are_too_many(tmp_path: Path) -> None:
    async def check(port: int) -> None:
        _, first = await asyncio.open_connection("127.0.0.1", port)
        reader, second = await asyncio.open_connection("127.0.0.1", port)
        second.write(GET + b"\r\n")
        answer = await reader.read()
        expect_error(answer, b"503 Service Unavailable", "the server has 2 connections already")
        assert b"retry-after: 1" in answer
        first.close()
        second.close()

    serving(tmp_path, check, max_connections=2)
