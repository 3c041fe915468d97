"""The short way of small requests: what it answers is what ASGI's way answers, in order."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from serve.asgi import ask, tensor
from serve.test_connections import BODY, answer_to, connected

from naru.serve import http_short
from naru.serve.server import Server
from naru.serve.settings import ModelSettings

GET = b"GET %s HTTP/1.1\r\nhost: a\r\n\r\n"
INFER = "/v2/models/dense/infer"
WIDE = json.dumps({"inputs": [tensor("x", np.ones((400, 4), np.float32), "FP32")]}).encode()
RAW = json.dumps(
    {
        "inputs": [
            {"name": "x", "shape": [1, 4], "datatype": "FP32",
             "parameters": {"binary_data_size": 16}}
        ],
        "parameters": {"binary_data_output": True},
    }
).encode()  # fmt: skip


def post(body: bytes, path: str = INFER, more: bytes = b"") -> bytes:
    head = b"POST %s HTTP/1.1\r\nhost: a\r\n%scontent-length: %d\r\n\r\n"
    return head % (path.encode(), more, len(body)) + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The next answer of a connection: status, headers, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return (
        int(head[0].split()[1]),
        headers,
        await reader.readexactly(int(headers["content-length"])),
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("POST", INFER, BODY, {}),
        ("POST", INFER, BODY, {"x-request-id": "one", "content-type": "application/json"}),
        ("POST", INFER, BODY, {"x-request-id": "o\tne"}),
        ("POST", INFER, WIDE, {"accept-encoding": "gzip"}),
        ("POST", INFER, RAW + bytes(16), {"inference-header-content-length": str(len(RAW))}),
        ("POST", INFER, RAW + bytes(15), {"inference-header-content-length": str(len(RAW))}),
        ("POST", "/v2/models/versions/versions/9/infer", BODY, {}),
        ("POST", "/v2/models/versions/versions/stable/infer?a=b", BODY, {}),
        ("POST", "/v2/models/den%73e/infer", BODY, {}),
        ("POST", INFER, b"[[1, 2, 3, 4]]", {}),
        ("POST", INFER, b"not JSON", {}),
        ("POST", INFER, b"", {}),
        ("POST", "/v2/models/none/infer", BODY, {}),
        ("POST", "/v2/models/broken/infer", BODY, {}),
        ("GET", INFER, b"", {}),
        ("GET", "/v2/health/ready", b"", {}),
        ("HEAD", "/v2/models/dense", b"", {}),
        ("GET", "/v2/models/dense", b"", {"content-encoding": "br"}),
        ("GET", "/openapi.json", b"", {"accept-encoding": "deflate"}),
        ("GET", "/", b"", {}),
        ("POST", "/v2/repository/index", b"", {}),
        ("DELETE", "/nowhere", b"", {}),
    ],
)
def test_both_ways_answer_alike(
    folder: Path, method: str, path: str, body: bytes, headers: dict[str, str]
) -> None:
    async def check(server: Server) -> None:
        usual = await ask(server.application, method, unquote(path), body, headers)
        head = f"{method} {path} HTTP/1.1\r\nhost: a\r\n"
        head += "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        given = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        for parts in ((given,), (given[: len(given) - len(body)], body)):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.01)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            found = dict(line.split(": ", 1) for line in answer[1:] if line)
            assert found.pop("date")
            assert (int(answer[0].split()[1]), found) == (usual.status, usual.headers)
            if method != "HEAD":
                text = await reader.readexactly(int(found["content-length"]))
                if "content-encoding" not in found:
                    assert text == usual.body
            writer.close()
        assert server.application.busy == server.plane.room.held == 0

    connected(folder, check, load_at_start=0)


def test_in_order_however_many_come_at_once(folder: Path) -> None:
    """Small ones and such that wait in a queue, in one packet."""
    waiting = ModelSettings(max_delay_us=20_000)
    (row,) = ({"inputs": [tensor("x", np.full((1, 4), k, np.float32), "FP32")]} for k in (1,))

    async def check(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        sent: list[bytes] = []
        for k in range(40):
            given = json.dumps({**row, "id": str(k)}).encode()
            sent.append(post(given) if k % 7 else GET % b"/v2")
        writer.write(b"".join(sent))
        for k in range(40):
            status, _, body = await read_answer(reader)
            assert status == 200
            assert json.loads(body).get("id") == (str(k) if k % 7 else None)
        writer.close()

    connected(folder, check, load_at_start=0, model=waiting)
    connected(folder, check, load_at_start=0)


def test_what_is_no_request_after_what_is_one(folder: Path) -> None:
    async def check(server: Server) -> None:
        await server.plane.get("dense")
        # Others at the same time: their answers are written together.
        others = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(4)]
        for _ in range(3):
            for _, writer in others:
                writer.write(post(BODY))
            found = await answer_to(server, post(BODY) + b"rubbish\r\n\r\n")
            assert found.index(b"HTTP/1.1 200") < found.index(b"HTTP/1.1 400")
            for reader, _ in others:
                assert (await read_answer(reader))[0] == 200
        for _, writer in others:
            writer.close()

    connected(folder, check, load_at_start=0)


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"POST %s HTTP/1.1\r\nconnection: close\r\n", True),
        (b"POST %s HTTP/1.0\r\n", True),
        (b"POST %s HTTP/1.0\r\nconnection: keep-alive\r\n", True),
    ],
)
def test_connections_that_end(folder: Path, head: bytes, closes: bool) -> None:
    async def check(server: Server) -> None:
        given = head % INFER.encode() + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
        found = await answer_to(server, given + post(BODY))
        assert found.count(b"HTTP/1.1 200") == 1
        assert (b"connection: close" in found) == closes

    connected(folder, check, load_at_start=0)


def test_a_body_that_is_late_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_short, "_PATIENCE", 0.02)

    async def check(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        given = post(BODY)
        for pause in (0.0, 0.1, 0.0):
            writer.write(given[:-40])
            await asyncio.sleep(pause)
            writer.write(given[-40:-20])
            await asyncio.sleep(pause)
            writer.write(given[-20:])
            assert (await read_answer(reader))[0] == 200
        writer.write(given[:-40])
        assert (await read_answer(reader))[0] == 408
        assert await reader.read() == b""
        writer.close()
        # Who goes in the middle leaves nothing behind.
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(given[:-40])
        await asyncio.sleep(0.005)
        writer.close()
        await asyncio.sleep(0.1)
        assert server.application.busy == server.plane.room.held == 0

    connected(folder, check, load_at_start=0, body_timeout=0.3)


def test_bodies_do_not_stay_with_their_connections(folder: Path) -> None:
    async def check(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for part in (post(BODY), post(BODY, "/v2/models/none/infer")):
            writer.write(part[:-9])
            await asyncio.sleep(0.01)
            writer.write(part[-9:])
            await read_answer(reader)
            http: Any = server._http
            (connection,) = http.server_state.connections
            assert connection._parts == []
        writer.close()

    connected(folder, check, load_at_start=0)


def test_idle_connections_are_closed(folder: Path) -> None:
    async def check(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(3):  # not while it is used
            writer.write(post(BODY))
            assert (await read_answer(reader))[0] == 200
            await asyncio.sleep(0.6)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        # Nor while somebody waits for an answer that takes longer.
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for path in ("/v2/models/dense/infer", "/v2/models/pair/infer"):
            many = [tensor(n, np.ones(2, np.float32), "FP32") for n in "ab"]
            many.append(tensor("c", np.ones(2, np.int64), "INT64"))
            body = BODY if "dense" in path else json.dumps({"inputs": many}).encode()
            writer.write(post(body, path))
            assert (await read_answer(reader))[0] == 200
        writer.close()

    connected(folder, check, load_at_start=0, head_timeout=1)


def test_a_client_that_goes_while_it_waits(folder: Path) -> None:
    waits = ModelSettings(max_delay_us=10_000_000)

    async def check(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET % b"/v2/models/dense")  # it is loaded
        assert (await read_answer(reader))[0] == 200
        servable = server.plane.find("dense", None)
        assert servable is not None
        writer.write(post(BODY))
        while not len(servable.queue):
            await asyncio.sleep(0.005)
        writer.transport.abort()
        while len(servable.queue) or server.application.busy:
            await asyncio.sleep(0.005)
        assert servable.statistics.refused == {"cancelled": 1}
        assert server.plane.room.held == 0

    connected(folder, check, load_at_start=0, model=waits, drain_limit=1.0)


def test_the_end_of_the_server(folder: Path) -> None:
    """What has begun to come is answered; who is idle is let go."""

    async def check(server: Server) -> None:
        idle = await asyncio.open_connection("127.0.0.1", server.port)
        begun = await asyncio.open_connection("127.0.0.1", server.port)
        for reader, writer in (idle, begun):
            writer.write(post(BODY))
            assert (await read_answer(reader))[0] == 200
        given = post(BODY)
        begun[1].write(given[:-10])
        await asyncio.sleep(0.02)
        server.stop()
        assert await idle[0].read() == b""
        begun[1].write(given[-10:])
        status, headers, _ = await read_answer(begun[0])
        assert (status, headers["connection"]) == (200, "close")
        assert await begun[0].read() == b""
        for _, writer in (idle, begun):
            writer.close()

    connected(folder, check, load_at_start=0, drain_delay=0.1, drain_limit=5.0)


def test_an_error_that_nobody_foresaw(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(server: Server) -> None:
        def fail(*_: Any) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(server.application, "_finish_headers", fail)
        found = await answer_to(server, post(BODY))
        assert found.startswith(b"HTTP/1.1 500")
        assert b"a bug" not in found
        assert "a bug" in caplog.text
        assert server.application.busy == server.plane.room.held == 0

    connected(folder, check, load_at_start=0)
