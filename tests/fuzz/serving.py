"""A real server that is asked by connections that misbehave: whatever they send, it goes on,
answers others right, says what it refuses in the protocol's words, and holds nothing afterwards.

A worker process is server and client in one, on one event loop that stands still between two cases.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import json
import logging
import math
import os
import re
import sys
import tempfile
import warnings
import zlib
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np
from onnx import TensorProto, helper
from PIL import Image

import naru
from naru.serve import http_short
from naru.serve.grpc_messages import METHODS, SERVICE, message
from naru.serve.server import Server, _uvloop
from naru.serve.settings import ServerSettings
from tests.serve import models

from . import byte_mutations, serving_messages, serving_requests
from .serving_requests import LENGTH, good, right_answer

T = TypeVar("T")

PATIENCE = 12.0  # seconds for an answer; the driver's watchdog waits longer
WARM = 200  # cases after which memory is no longer to grow
GROWTH = 192 << 20  # bytes that it may grow by all the same: caches, and pieces of freed memory
MOST_REQUESTS = 64  # at once: were one of them never ended, there would soon be no room for others
ALLOWED = (501, 503, 504)  # of what is no client's fault, as docs/serving.md lists them
FAILED = "the server failed to answer"  # what a 500 says
GOOD = range(100)  # the requests whose answers are known
REFUSED = {
    "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "UNAVAILABLE", "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED", "PERMISSION_DENIED",
}  # fmt: skip

# What the log may say of errors: the model `broken`, and a stream of which a later part is refused.
EXPECTED = ("a model does not load", "ASGI callable returned without completing response.")


# ---- the server ----


def write_models(folder: Path) -> None:
    """The models of `serving_requests.MODELS`."""
    for name in ("dense", "pair", "texts", "parsed", "gather", "normalised", "total", "kinds"):
        getattr(models, name)(folder / f"{name}.onnx")
    models.noisy(folder / "noisy.onnx")
    models.dense(folder / "spare.onnx")
    (folder / "broken").mkdir()
    (folder / "broken" / "model.naru").write_bytes(b"no bundle")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 1, 1])
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    opset = helper.make_opsetid("", 21)
    graph = helper.make_graph([node], "mean", [x], [y])
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    naru.compile(model, preprocess="image(resize=8, crop=8)").save(folder / "mean.naru")


class _Trouble(logging.Handler):
    """Keeps what the server and its libraries say went wrong."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() not in EXPECTED:
            self.found.append(self.format(record))

    def unraisable(self, error: sys.UnraisableHookArgs) -> None:
        self.found.append(f"{error.err_msg}: {error.exc_value!r} in {error.object!r}")


class Serving:
    """The server, and how it is asked."""

    def __init__(self, folder: Path) -> None:
        self.trouble = _Trouble()
        for name in ("naru.serve", "uvicorn", "asyncio", "grpc"):
            logging.getLogger(name).addHandler(self.trouble)
        # What only warns would go unseen: infinities made of numbers, coroutines not awaited.
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is room for it
        sys.unraisablehook = self.trouble.unraisable
        self.runner = asyncio.Runner(loop_factory=_uvloop())  # as the command has it
        settings = ServerSettings(
            root=folder, port=0, grpc_port=0, workers=2, max_body=1 << 20, model_control=True,
            max_requests=MOST_REQUESTS, cache=False,
        )  # fmt: skip
        self.server = Server(settings)
        self._cases = 0
        self._bytes = 0
        self._running: asyncio.Task[bool] | None = None
        self.runner.run(self._start())
        atexit.register(self._end)

    async def _start(self) -> None:
        ready = asyncio.Event()
        self._running = asyncio.create_task(self.server.run(ready.set))
        await ready.wait()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.grpc_port}")

    def _end(self) -> None:
        async def end() -> None:
            await self.channel.close()
            self.server.stop()
            if self._running is not None:
                await self._running

        self.runner.run(end())
        self.runner.close()

    def run(self, case: Coroutine[Any, Any, T]) -> T:
        """Runs a case; what went wrong in the one before stands in that one's report."""
        self.trouble.found.clear()
        return self.runner.run(case)

    async def rest(self) -> None:
        """Waits until nothing is answered any more, and what was held is given back. AssertionError
        where that does not come, where something went wrong meanwhile, or memory grows."""
        plane = self.server.plane
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._held():
                    await asyncio.sleep(0.001)
        assert not self._held(), self._held()
        assert plane.ready
        assert self._running is not None
        assert not self._running.done()
        found, self.trouble.found = self.trouble.found, []
        assert not found, "\n".join(found)
        logging.getLogger("naru.serve").setLevel(logging.INFO)  # requests may change it
        self._look_at_memory()

    def _held(self) -> dict[str, int]:
        plane, http = self.server.plane, self.server._http
        assert http is not None
        slots = [s for k in plane.repository.models() for s in k.slots.values()]
        held = {
            "requests": self.server.application.busy,
            "bytes": plane.room.held,
            "tasks": len(http.server_state.tasks),
            "connections": len(http.server_state.connections),
            "waiting": sum(len(s.servable.queue) for s in slots if s.servable is not None),
        }
        return {k: n for k, n in held.items() if n}

    def _look_at_memory(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        size = pages * os.sysconf("SC_PAGE_SIZE")
        self._cases += 1
        if self._cases == WARM:
            self._bytes = size
        if self._cases > WARM:
            assert size <= self._bytes + GROWTH, f"memory grew from {self._bytes} to {size} bytes"


@cache
def server() -> Serving:
    """The one of this process."""
    folder = tempfile.TemporaryDirectory(prefix="naru-fuzz-")
    atexit.register(folder.cleanup)
    write_models(Path(folder.name))
    return Serving(Path(folder.name))


# ---- HTTP ----


@dataclass
class Answers:
    """What came back on one connection."""

    found: list[HTTPAnswer] = field(default_factory=list)
    broken_off: bool = False  # within an answer, or where the server no longer took what came


@dataclass
class HTTPAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def identity(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def closes(self) -> bool:
        return "close" in self.headers.get("connection", "").lower()


class _Stream(io.BytesIO):
    """Bytes that several answers are read from, each of which would close them."""

    def close(self) -> None: ...

    def makefile(self, *_: Any) -> _Stream:
        return self


def read_answers(data: bytes, broken_off: bool) -> Answers:
    """The answers in what came. AssertionError where they are no HTTP."""
    stream, answers = _Stream(data), Answers(broken_off=broken_off)
    while stream.tell() < len(data):
        start = stream.tell()
        identity = re.match(rb"[^\r]*\r\n(?:[^\r]+\r\n)*?x-request-id: \d+-(\w+)\r\n", data[start:])
        method = identity[1].decode() if identity else "GET"
        response = HTTPResponse(stream, method=method)  # pyright: ignore[reportArgumentType]
        try:
            response.begin()
            body = response.read()
        except IncompleteRead:
            answers.broken_off = True
            return answers
        except HTTPException as error:
            # Who said that it has no more may have got no more than leave to go on.
            if broken_off or re.fullmatch(rb"HTTP/1.1 100 Continue\r\n\r\n", data[start:]):
                return answers
            raise AssertionError(f"no HTTP: {error!r}: {data[start : start + 300]!r}") from error
        headers = {k.lower(): v for k, v in response.getheaders()}
        if body and "content-encoding" in headers:
            body = zlib.decompress(body, 47)  # with the head of gzip, or zlib's
        answers.found.append(HTTPAnswer(response.status, headers, body))
    return answers


async def send(parts: Sequence[bytes], *, half: bool = False) -> Answers:
    """What a new connection has for these bytes, each part a packet of its own. `half`: the server
    is told that there are no more."""
    port = server().server.port
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        received, broken_off = bytearray(), False

        async def receive() -> None:
            while data := await reader.read(1 << 16):
                received.extend(data)

        receiving = asyncio.create_task(receive())
        try:
            try:
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                if half:
                    writer.write_eof()
                await receiving
            except OSError:
                # Who closes a connection on which more comes resets it, and answers may be lost.
                broken_off = True
        except TimeoutError:
            raise AssertionError(f"no end of the answers; so far: {bytes(received)!r}") from None
        finally:
            receiving.cancel()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    return read_answers(bytes(received), broken_off)


def check_answer(answer: HTTPAnswer) -> None:
    """Right, if it is that to a good request, and else one that a client can read."""
    assert answer.status < 500 or answer.status in ALLOWED, answer
    if answer.identity.startswith("good-"):
        _check_good(answer)
    elif answer.status >= 400:
        if not answer.identity.endswith("-HEAD"):
            value = _json(answer.body)
            assert isinstance(value, dict), answer
            if answer.status == 503 and value.get("ready") is False:
                return  # the answer to a question, and no error
            assert set(value) == {"error"}, answer
            assert isinstance(value["error"], str), answer
            assert value["error"], answer
    elif answer.body.startswith(b'{"model_name"'):
        _check_tensors(answer)


def _check_good(answer: HTTPAnswer) -> None:
    v = int(answer.identity.removeprefix("good-"))
    assert answer.status == 200, answer
    outputs = _json(answer.body)["outputs"]
    data = outputs["y"][0] if isinstance(outputs, dict) else outputs[0]["data"]
    assert data == right_answer(v), answer


def _check_tensors(answer: HTTPAnswer) -> None:
    """Each tensor has as many elements, or bytes, as it says."""
    length = int(answer.headers.get(LENGTH.lower(), len(answer.body)))
    outputs, size = _json(answer.body[:length])["outputs"], length
    for item in outputs if isinstance(outputs, list) else ():
        if "data" in item:
            assert len(item["data"]) == math.prod(item["shape"]), answer
        else:
            size += item["parameters"]["binary_data_size"]
    assert size == len(answer.body), answer


def _json(data: bytes) -> Any:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(data, parse_constant=refuse)


def make_conversation(n: int) -> bytes:
    """Requests on one connection, each of the length that it says, and good ones between them."""
    rng = Random(f"serve_http/{n}")
    server()
    parts: list[bytes] = []
    for number in range(rng.choice((1, 1, 2, 3, 5, 12))):
        if rng.random() < 0.3:
            parts.append(good(rng.choice(GOOD)))
        parts.append(serving_requests.draw_request(rng, number))
    parts.append(good(rng.choice(GOOD), last=True))
    return b"".join(parts)


def make_bytes(n: int) -> bytes:
    """The same, damaged anywhere."""
    rng = Random(f"serve_bytes/{n}")
    data = make_conversation(n)
    # Which requests are right, and have an answer without a body, is not known afterwards.
    for old, new in ((b"HEAD", b"GET"), (b"-Id: good", b"-Id: 9")):
        data = data.replace(old, new)
    return byte_mutations.damage(data, (data, b"\r\n\r\n"), rng)


def split(data: bytes, rng: Random) -> list[bytes]:
    """The data as packets."""
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((1, 2, 4, 9))))
    return [data[a:b] for a, b in zip((0, *places), (*places, len(data)), strict=True) if b > a]


def check_conversation(data: bytes, n: int) -> str:
    """Sent at once and in pieces: the answers are the same, and there are as many as requests,
    where none of them closes the connection."""
    asked = len(re.findall(rb"^X-Request-Id: [\w-]+\r$", data, re.MULTILINE))
    rng = Random(f"split/{n}")

    async def check() -> list[HTTPAnswer]:
        whole = await send([data])
        http_short._PATIENCE = rng.choice((0.0, 1.0))  # until a body in pieces goes the usual way
        pieces = await send(split(data, rng))
        for answers in (whole, pieces):
            for answer in answers.found:
                check_answer(answer)
            closed = answers.broken_off or (answers.found and answers.found[-1].closes)
            assert len(answers.found) == asked or closed, (asked, answers)
        _compare(data, whole, pieces)
        await server().rest()
        return whole.found

    found = server().run(check())
    return str(found[0].status) if found else "no answer"


def _compare(data: bytes, whole: Answers, pieces: Answers) -> None:
    """Only what is the same however often it is asked."""
    if re.search(rb"spare|broken|noisy|/setting|/logging", data):
        return
    for one, other in zip(whole.found, pieces.found, strict=False):
        if 504 not in (one.status, other.status) and one.identity == other.identity:
            assert one.status == other.status, (one, other)
            if one.body.startswith((b'{"model_name"', b'{"error"')):
                assert one.body == other.body, (one, other)


def check_bytes(data: bytes, n: int) -> str:
    """Whatever it is: it is answered, or the connection closed, and others are still answered."""
    rng = Random(f"split/{n}")

    async def check() -> list[HTTPAnswer]:
        answers = await send(split(data, rng) if n % 2 else [data], half=True)
        for answer in answers.found:
            check_answer(answer)
        after = await send([good(n % len(GOOD), last=True)])
        assert [a.identity for a in after.found] == [f"good-{n % len(GOOD)}"], after
        check_answer(after.found[0])
        await server().rest()
        return answers.found

    found = server().run(check())
    return str(found[0].status) if found else "no answer"


# ---- gRPC ----


def make_call(n: int) -> bytes:
    """A call, and what it is called with."""
    server()
    return serving_messages.draw_call(Random(f"serve_grpc/{n}"))


def check_call(data: bytes, n: int) -> str:
    """The call has an answer that can be parsed, or a status that says why not; one after it is
    answered right."""

    async def check() -> str:
        method, messages = serving_messages.read(data)
        async with asyncio.timeout(PATIENCE):
            outcome = await _call(method, messages)
            v = n % len(GOOD)
            _check_response(await _unary("ModelInfer", serving_messages.good(v)), v)
        await server().rest()
        return outcome

    return server().run(check())


async def _unary(method: str, data: bytes) -> bytes:
    return await server().channel.unary_unary(f"/{SERVICE}/{method}")(data)


async def _call(method: str, messages: list[bytes]) -> str:
    try:
        if method != "ModelStreamInfer":
            told = message(METHODS[method].output_type.name)
            told.FromString(await _unary(method, messages[0]))
            return "OK"
        call = server().channel.stream_stream(f"/{SERVICE}/{method}")
        answers = [a async for a in call(iter(messages))]
    except grpc.aio.AioRpcError as error:
        status, details = error.code().name, error.details()
    else:
        _check_stream(messages, answers)
        return "a stream"
    assert status in REFUSED, f"{status}: {details}"
    assert details, status
    return status


def _check_stream(messages: Sequence[bytes], answers: Sequence[bytes]) -> None:
    assert len(answers) == len(messages)
    for asked, data in zip(messages, answers, strict=True):
        told = message("ModelStreamInferResponse").FromString(data)
        assert FAILED not in told.error_message, told
        if (v := _good_messages().get(asked)) is not None:
            assert not told.error_message, told
            _check_response(told.infer_response.SerializeToString(), v)


@cache
def _good_messages() -> dict[bytes, int]:
    return {serving_messages.good(v): v for v in GOOD}


def _check_response(data: bytes, v: int) -> None:
    response = message("ModelInferResponse").FromString(data)
    assert response.id == f"good-{v}"
    found = np.frombuffer(response.raw_output_contents[0], "<f4")
    assert found.tolist() == right_answer(v)


# target -> how its cases are made, and checked
CASES = {
    "serve_http": (make_conversation, check_conversation),
    "serve_bytes": (make_bytes, check_bytes),
    "serve_grpc": (make_call, check_call),
}
