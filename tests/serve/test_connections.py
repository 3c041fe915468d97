"""Connections as they should not be: slow, vanishing, speaking something else."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve.asgi import tensor

from naru.serve.http_messages import Request, Response
from naru.serve.http_protocol import MOST_HEAD
from naru.serve.http_short import Writer
from naru.serve.server import Server
from naru.serve.settings import ModelSettings, ServerSettings

BODY = json.dumps({"inputs": [tensor("x", np.ones((1, 4), np.float32), "FP32")]}).encode()
POST = b"POST /v2/models/dense/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"

CHUNKED = POST.replace(b"content-length: %d", b"transfer-encoding: chunked")
CHUNKED += b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


def connected(
    root: Path, test: Callable[[Server], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    """Runs a coroutine beside a server in the same loop."""

    async def run() -> None:
        server = Server(ServerSettings(root=root, port=0, **settings))
        ready = asyncio.Event()
        running = asyncio.create_task(server.run(ready.set))
        await asyncio.wait(
            {running, asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        try:
            await asyncio.wait_for(test(server), 30)
        finally:
            server.stop()
            await running

    asyncio.run(run())


async def answer_to(server: Server, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that comes back until the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(pause)
    found = await reader.read()
    writer.close()
    return found


def test_what_is_no_http(folder: Path) -> None:
    async def check(server: Server) -> None:
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"hello\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
        ):
            found = await answer_to(server, garbage)
            head, _, body = found.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400")
            assert set(json.loads(body)) == {"error"}

    connected(folder, check, load_at_start=0)


def test_mistakes_of_ours_are_none_of_the_client(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The parser calls the server, and tells both of them in the same way."""

    def fail(*_: Any) -> None:
        raise RuntimeError("not as it should be")

    monkeypatch.setattr(Writer, "write", fail)

    async def check(server: Server) -> None:
        found = await answer_to(server, b"GET /v2 HTTP/1.1\r\nhost: a\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 500")
        assert "not as it should be" in caplog.text
        for path in (b"/\xff", b"http://", b"?"):  # which only what is called finds wrong
            found = await answer_to(server, b"GET %s HTTP/1.1\r\nhost: a\r\n\r\n" % path)
            assert found.startswith(b"HTTP/1.1 400")

    connected(folder, check, load_at_start=0)


def test_slow_heads_and_bodies(folder: Path) -> None:
    async def check(server: Server) -> None:
        assert await answer_to(server, b"") == b""  # says nothing
        assert await answer_to(server, b"POST /v2", b"/models", b"/dense") == b""
        found = await answer_to(server, POST % len(BODY), BODY[:9])
        assert found.startswith(b"HTTP/1.1 408")
        assert server.plane.room.held == 0
        # A body in pieces that comes in time is answered.
        close = POST.replace(b"host: a", b"connection: close")
        found = await answer_to(server, close % len(BODY), BODY[:9], BODY[9:], pause=0.02)
        assert found.startswith(b"HTTP/1.1 200")

    connected(folder, check, load_at_start=0, head_timeout=0.3, body_timeout=0.3)


def test_clients_that_go(folder: Path) -> None:
    async def check(server: Server) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(POST % len(BODY) + BODY)
        while not (servable := server.plane.find("dense", None)) or not len(servable.queue):
            await asyncio.sleep(0.005)
        writer.transport.abort()
        while len(servable.queue):
            await asyncio.sleep(0.005)
        assert servable.statistics.refused == {"cancelled": 1}
        assert servable.statistics.runs == 0  # nobody would have had the answer
        assert server.plane.room.held == 0

    waits = ModelSettings(max_delay_us=10_000_000)
    connected(folder, check, load_at_start=0, model=waits, drain_limit=1.0)


def test_as_many_requests_as_it_may_have(folder: Path) -> None:
    async def check(server: Server) -> None:
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        for _, writer in held:
            writer.write(POST % len(BODY))
        while server.application.busy < 2:
            await asyncio.sleep(0.005)
        close = POST.replace(b"host: a", b"connection: close")
        found = await answer_to(server, close % len(BODY), BODY)
        assert found.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in found
        live = b"GET /v2/health/live HTTP/1.1\r\nconnection: close\r\n\r\n"
        assert (await answer_to(server, live)).startswith(b"HTTP/1.1 200")
        for reader, writer in held:
            writer.write(BODY)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()

    connected(folder, check, load_at_start=0, max_requests=2)


def test_heads_that_are_too_long(folder: Path) -> None:
    get = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n"

    async def check(server: Server) -> None:
        for parts in (
            (get + b"x: " + b"a" * MOST_HEAD + b"\r\n\r\n",),
            (get + b"x: ", *[b"a" * (MOST_HEAD // 4)] * 5),  # without end
        ):
            found = await answer_to(server, *parts)
            head, _, body = found.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 431")
            assert b"content-type: application/json" in head
            assert f"longer than {MOST_HEAD} bytes" in json.loads(body)["error"]

    connected(folder, check, load_at_start=0)


def test_bodies_are_not_heads(folder: Path) -> None:
    """A request that is longer than a head may be, at once; one that would rather have HTTP/2, as
    Java's client asks; and one after them on the same connection."""
    body = BODY + b" " * (2 * MOST_HEAD)
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"

    async def check(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for more in (b"", upgrade, upgrade.upper(), b""):
            head = (POST % len(body)).replace(b"host: a\r\n", b"host: a\r\n" + more)
            middle = len(head) - len(more) // 2  # inside the word
            for part in (head[:middle], head[middle:], body):
                writer.write(part)
                await asyncio.sleep(0.01)
            answer = await reader.readuntil(b"}]}")
            assert answer.startswith(b"HTTP/1.1 200")
        writer.close()
        last = (POST % len(BODY)).replace(b"host: a", b"connection: close, upgrade\r\nupgrade: h2c")
        assert (await answer_to(server, last + BODY)).startswith(b"HTTP/1.1 200")
        # Many at once, none with a body; the last one is refused.
        get = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n" + upgrade + b"\r\n"
        found = await answer_to(server, get * 2000 + b"CONNECT a:443 HTTP/1.1\r\n\r\n")
        assert b"HTTP/1.1 400" in found

    connected(folder, check, load_at_start=0)


def test_bodies_that_are_too_large(folder: Path) -> None:
    """They are refused by their head; what is not too much is let pass, so that who sends first and
    reads then reads that too."""

    async def check(server: Server) -> None:
        for more in (b"", b"expect: 100-continue\r\n"):
            head = (POST % (99 << 30)).replace(b"host: a\r\n", b"host: a\r\n" + more)
            found = await answer_to(server, head)
            assert found.startswith(b"HTTP/1.1 413")
            assert b"connection: close" in found
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(POST % (4 << 20) + bytes(4 << 20))
        refused = await reader.readuntil(b"}")
        assert refused.startswith(b"HTTP/1.1 413")
        assert b"connection: close" not in refused
        writer.write(b"GET /v2 HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        # Whose rest does not come is not waited for.
        writer.write(POST % (4 << 20) + b"{")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 413")
        assert await reader.read() == b""
        writer.close()

    connected(folder, check, load_at_start=0, max_body=1 << 20, head_timeout=1)


def test_an_address_without_a_path(folder: Path) -> None:
    async def check(server: Server) -> None:
        found = await answer_to(server, b"GET http://a HTTP/1.1\r\nconnection: close\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 200")
        assert b"text/html" in found

    connected(folder, check, load_at_start=0)


def test_a_full_queue_reads_no_bodies(folder: Path) -> None:
    """Who is refused learns it before the body is sent, and may use the connection on."""
    waits = ModelSettings(max_delay_us=10_000_000, max_queue=1)
    long = BODY + b" " * (1 << 20)

    async def check(server: Server) -> None:
        servable = await server.plane.get("dense")
        first = await asyncio.open_connection("127.0.0.1", server.port)
        first[1].write(POST % len(BODY) + BODY)
        while not len(servable.queue):
            await asyncio.sleep(0.005)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(POST % len(long))
        refused = await reader.readuntil(b"}")
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after: " in refused
        assert b"connection: close" not in refused
        assert server.plane.room.held == len(BODY)
        writer.write(long + b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        assert servable.statistics.refused == {"overloaded": 1}
        for _, closed in (first, (reader, writer)):
            closed.close()

    connected(folder, check, load_at_start=0, model=waits, drain_limit=0.5)


def test_what_comes_before_garbage_is_answered(folder: Path) -> None:
    """In one packet: a request that takes the usual way, one behind it, and what is not HTTP."""
    chunks = (
        b"POST /v2/models/dense/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    chunks += b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)

    async def check(server: Server) -> None:
        for before in (chunks, chunks * 3, chunks + POST % len(BODY) + BODY):
            found = await answer_to(server, before + b"GET / HTTP/9.9\r\n\r\n")
            count = before.count(b"POST")
            assert found.count(b"HTTP/1.1 200") == count
            assert found.count(b"HTTP/1.1 ") == count + 1
            assert found.rindex(b"HTTP/1.1 400") > found.rindex(b"HTTP/1.1 200")
        # The body of the last one is broken: that one has no other answer.
        found = await answer_to(server, chunks * 2 + chunks.replace(b"\r\n0\r\n", b"zz"))
        assert [found.count(b"HTTP/1.1 %d" % n) for n in (200, 400)] == [2, 1]
        assert server.application.busy == 0
        assert server.plane.room.held == 0

    connected(folder, check, load_at_start=0)


def test_what_comes_after_the_last_answer_is_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = gzip.compress(bytes(1 << 20))
    head = b"POST /v2/models/dense/infer HTTP/1.1\r\nhost: a\r\ncontent-encoding: gzip\r\n"
    head += b"content-length: %d\r\n\r\n"

    async def check(server: Server) -> None:
        asked: list[str] = []
        answer = server.application.answer

        def count(request: Request) -> Coroutine[Any, Any, Response]:
            asked.append(request.path)
            return answer(request)

        monkeypatch.setattr(server.application, "answer", count)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write((POST % len(BODY) + BODY) * 3)  # after many, answers are written a bit later
        for _ in range(3):
            await reader.readuntil(b"}]}")
        writer.write(head % len(bomb) + bomb + CHUNKED)
        assert (await reader.read()).startswith(b"HTTP/1.1 413")
        writer.close()
        await asyncio.sleep(0)
        assert len(asked) == 4

    connected(folder, check, load_at_start=0, max_body=1 << 16)
