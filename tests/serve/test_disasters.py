"""What goes wrong around a server: it is killed, the disk is full, files are damaged or half
written, clients are slow or gone, it is told to end while everybody asks. Clients see answers and
refusals, and nothing half-loaded answers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import queue
import signal
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from serve import models
from serve.asgi import tensor
from serve.calls import W, array_of, dense, request_of
from serve.calls import X as ROWS
from serve.certificates import certified
from serve.processes import PATIENCE, Process, serving
from serve.test_connections import connected

import naru
from naru import knobs
from naru.serve.grpc_messages import SERVICE, message
from naru.serve.repository import open_file
from naru.serve.server import Server
from naru.serve.settings import ModelSettings

X = np.ones((1, 4), np.float32)
BODY = json.dumps({"inputs": [tensor("x", X, "FP32")]})
INFER = "/v2/models/dense/infer"
Y = [6, 10, 14]  # what `models.dense` gives for X
Z = ROWS @ W  # and for the rows of `dense()`

# naru, which hangs where a bundle is whole but not yet in its place, once there is a file HANG.
HANGS = """
import os, time
real, sign = os.fsync, os.environ["HANG"]
def fsync(file):
    if os.path.exists(sign):
        print("hangs", flush=True)
        time.sleep(1000)
    real(file)
os.fsync = fsync
from naru.cli import main
main()
"""
# naru, with a cache on a disk that is full.
FULL = """
import io, os
real, cache = io.open, os.environ["NARU_CACHE_DIR"]
def opened(file, mode="r", *args, **more):
    if str(file).startswith(cache) and set(mode) & set("wx"):
        return real("/dev/full", "wb")
    return real(file, mode, *args, **more)
io.open = opened
from naru.cli import main
main()
"""
# naru, where no file may be longer than a page, be it in memory.
SHORT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from naru.cli import main
main()
"""
# naru, with a log on a disk that is full.
MUTE = """
import os
os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
from naru.cli import main
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of models with one, `dense`."""
    models.dense(tmp_path / "models" / "dense.onnx")
    return tmp_path / "models"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where the servers of a test keep what they compile."""
    return tmp_path / "cache"


def environment(cache: Path) -> dict[str, str]:
    return {"NARU_CACHE_DIR": str(cache)}


def replace(path: Path, scale: float) -> None:
    """Puts another `models.dense` in the place of a file, as a careful user does."""
    models.dense(path.with_suffix(".part"), scale).replace(path)


def first_row(server: Process, model: str = "dense") -> list[float]:
    """The answer for X."""
    status, found = server.ask("POST", f"/v2/models/{model}/infer", json.loads(BODY))
    assert status == 200, found
    return found["outputs"][0]["data"]


def until_it_answers(server: Process, scale: float) -> None:
    """Until the `models.dense` of this scale answers."""
    until = time.monotonic() + PATIENCE
    while first_row(server) != [scale * y for y in Y]:
        assert time.monotonic() < until, "\n".join(server.lines)
        time.sleep(0.02)


def contents(root: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def left_behind(cache: Path) -> list[Path]:
    """Files of a cache that are no entries."""
    return [p for p in cache.rglob("*") if p.is_file() and "tmp-" in p.name]


# ---- killed ----


@pytest.mark.slow
def test_killed_while_it_writes(folder: Path, cache: Path) -> None:
    """Nobody takes for good what was not yet in its place; it is cleared away, later."""
    sign = folder.parent / "hang"
    hangs = {**environment(cache), "HANG": str(sign)}
    sign.touch()
    server = Process(folder, program=HANGS, environment=hangs)
    try:
        server.line("hangs")
        server.kill()
    finally:
        server.close()
    first = left_behind(cache)
    assert first
    sign.unlink()
    with serving(folder, program=HANGS, environment=hangs) as server:
        assert first_row(server) == Y
        # The same while it reloads; until then the old one answers.
        sign.touch()
        replace(folder / "dense.onnx", 2.0)
        server.process.send_signal(signal.SIGHUP)
        server.line("hangs")
        assert first_row(server) == Y
        server.kill()
    assert list(contents(folder)) == ["dense.onnx"]
    left = left_behind(cache)
    assert {*first} < {*left}  # for an hour: others may still be writing
    for path in left:
        os.utime(path, (0, time.time() - 7200))
    with serving(folder, environment=environment(cache)) as server:
        assert first_row(server) == [2 * y for y in Y]
    assert left_behind(cache) == []


@pytest.mark.slow
def test_killed_at_any_time(folder: Path, cache: Path) -> None:
    """What lies in the folder when it begins again is what answers."""
    random = np.random.default_rng(0)
    for k in range(4):
        with serving(folder, environment=environment(cache)) as server:
            assert first_row(server) == [(k + 1) * y for y in Y]
            replace(folder / "dense.onnx", k + 2)
            server.process.send_signal(signal.SIGHUP)
            time.sleep(random.uniform(0, 0.2))
            server.kill()
    assert list(contents(folder)) == ["dense.onnx"]


# ---- files that are damaged ----

DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda data: b"",
    lambda data: data[:1],
    lambda data: data[: len(data) // 2],
    lambda data: data[:-1],
    lambda data: data + b"more",
    lambda data: bytes(len(data)),
    *(lambda data, k=k: _flipped(data, k * len(data) // 8) for k in (0, 3, 5, 7)),
]


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.slow
def test_a_damaged_cache_is_made_anew(tmp_path: Path, cache: Path) -> None:
    """Bundles and objects of it: each is found out, and is afterwards as it was."""
    count = len(DAMAGES)
    for k in range(count):
        models.dense(tmp_path / "models" / f"m{k}.onnx", k + 1)
    with knobs.scope(cache_dir=cache):
        for k in range(count):
            open_file(tmp_path / "models" / f"m{k}.onnx", f"m{k}")
    before = contents(cache)
    bundles = sorted(n for n in before if n.endswith(".own"))
    assert len(bundles) == count
    for names in (bundles, sorted({*before} - {*bundles})):
        for name, damage in zip(names, itertools.cycle(DAMAGES)):
            (cache / name).write_bytes(damage(before[name]))
    with serving(tmp_path / "models", environment=environment(cache)) as server:
        for k in range(count):
            assert first_row(server, f"m{k}") == [(k + 1) * y for y in Y]
    assert contents(cache) == before


# ---- full disks ----


@pytest.mark.slow
def test_a_cache_on_a_full_disk(folder: Path, cache: Path) -> None:
    """Models are served without it, also those that come later; the log says so, once."""
    with serving(folder, program=FULL, environment=environment(cache)) as server:
        assert first_row(server) == Y
        replace(folder / "dense.onnx", 2.0)
        server.process.send_signal(signal.SIGHUP)
        until_it_answers(server, 2.0)
        told = [line for line in server.lines if "No space left on device" in line]
        assert len(told) == 1
        assert "NARU_CACHE_DIR names another folder" in told[0]
        assert "Traceback" not in "".join(server.lines)
    assert contents(cache) == {}


@pytest.mark.slow
def test_no_room_for_a_model_at_all(folder: Path, cache: Path) -> None:
    """It is refused, and clients are told why; others go on."""
    naru.compile(models.pair(folder.parent / "pair.onnx")).save(folder / "pair.naru")
    with serving(folder, program=SHORT, environment=environment(cache)) as server:
        status, found = server.ask("POST", INFER, json.loads(BODY))
        assert status == 503
        assert found["error"] == (
            "version 1 of the model 'dense' does not load: the bundle cannot be written: "
            "File too large"
        )
        assert server.ask("GET", "/v2/models/pair")[0] == 200
        (told,) = [line for line in server.lines if '"a model does not load"' in line]
        assert "File too large" in told
        assert "Traceback" not in "".join(server.lines)
    assert left_behind(cache) == []
    with serving(folder, environment=environment(cache)) as server:
        assert first_row(server) == Y


@pytest.mark.slow
def test_a_log_on_a_full_disk(folder: Path) -> None:
    with serving(folder, "--log-requests", program=MUTE) as server:
        connection = server.connect()
        for _ in range(100):
            connection.request("POST", INFER, BODY)
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


# ---- replaced under load ----


class Load:
    """Clients that ask all the time, each over a connection that it keeps; what they were answered
    that they should not have been is in `wrong`."""

    def __init__(self, server: Process, clients: int, rows: int) -> None:
        self.wrong: list[Any] = []
        self.answers: Counter[float] = Counter()  # by the scale of the model
        array = np.ones((rows, 4), np.float32)
        self._body = json.dumps({"inputs": [tensor("x", array, "FP32")]})
        self._server, self._rows, self._done = server, rows, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        connection = self._server.connect()
        try:
            while not self._done.is_set():
                connection.request("POST", INFER, self._body)
                answer = connection.getresponse()
                self._look(answer.status, json.loads(answer.read()))
        except Exception as error:
            self.wrong.append(error)

    def _look(self, status: int, found: Any) -> None:
        data = found["outputs"][0]["data"] if status == 200 else []
        scale = data[0] / Y[0] if data else 0.0
        if data != [scale * y for y in Y] * self._rows:
            self.wrong.append((status, found))
        self.answers[scale] += 1


@pytest.mark.slow
def test_models_are_replaced_while_everybody_asks(folder: Path) -> None:
    """By renaming, and by writing over them, which leaves half of one there for a moment; between
    them lies what is no model. Each answer is of one of those that were whole."""
    path = folder / "dense.onnx"
    with serving(folder, "--poll", "0.01") as server, Load(server, 4, 3) as load:
        for k in range(2, 14):
            if k % 3 == 0:
                whole = path.read_bytes()
                path.write_bytes(_flipped(whole, 0) if k % 2 else whole[: len(whole) // 2])
                until = time.monotonic() + PATIENCE
                while (
                    "does not serve"
                    not in server.ask("POST", "/v2/repository/index")[1][0]["reason"]
                ):
                    assert time.monotonic() < until
                    time.sleep(0.01)
            if k % 2:
                replace(path, k)
            else:
                new = models.dense(folder.parent / "new", k).read_bytes()
                with path.open("wb") as file:
                    for part in (new[:50], new[50:100], new[100:]):
                        file.write(part)
                        file.flush()
                        time.sleep(0.03)
            until_it_answers(server, k)
        log = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert load.wrong == []
    assert load.answers.keys() <= {float(k) for k in range(1, 14)}
    assert {e["event"] for e in log if e["level"] == "error"} == {"a model does not load"}


@pytest.mark.slow
def test_two_servers_at_once(tmp_path: Path, cache: Path) -> None:
    """On one folder, with one cache, which they fill at the same moment."""
    count = 6
    for k in range(count):
        models.dense(tmp_path / "models" / f"m{k}.onnx", k + 1)
    servers = [Process(tmp_path / "models", environment=environment(cache)) for _ in range(2)]
    try:
        for server in servers:
            server.wait_until_ready()
            for k in range(count):
                assert first_row(server, f"m{k}") == [(k + 1) * y for y in Y]
            assert not any('"error"' in line or "warning" in line for line in server.lines)
    finally:
        for server in servers:
            server.close()
    assert left_behind(cache) == []
    assert len([n for n in contents(cache) if n.endswith(".own")]) == count


# ---- the end under load ----


class Crowd:
    """Clients of both protocols, over TLS, that ask until the server is gone. Each request has a
    name of its own, which the server's log has too: `told` is the status that its client saw."""

    def __init__(self, server: Process, certificate: Path) -> None:
        self.told: dict[str, str] = {}
        self.wrong: list[Any] = []
        self._server, self._certificate = server, certificate
        self._names = itertools.count()
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        self._channel = grpc.secure_channel(f"127.0.0.1:{server.grpc_port}", trusted)
        kinds = [self._over_http] * 6 + [self._by_calls] * 3 + [self._by_streams] * 3
        self._threads = [threading.Thread(target=self._guard, args=(kind,)) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def until_told(self, counts: Mapping[str, int]) -> None:
        """Until so many have seen these statuses, or something is wrong."""
        until = time.monotonic() + PATIENCE
        while Counter(counts) - Counter(list(self.told.values())) and not self.wrong:
            assert time.monotonic() < until
            time.sleep(0.01)

    def wait(self) -> None:
        """Until the last of them has noticed that the server is gone."""
        for thread in self._threads:
            thread.join(PATIENCE)
        self.wrong += [thread for thread in self._threads if thread.is_alive()]
        self._channel.close()

    def _guard(self, kind: Callable[[], None]) -> None:
        try:
            kind()
        except Exception as error:
            self.wrong.append(error)

    def _name(self) -> str:
        return f"r{next(self._names)}"

    def _over_http(self) -> None:
        context = ssl.create_default_context(cafile=self._certificate)
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._server.port, timeout=PATIENCE, context=context
        )
        with contextlib.closing(connection):
            while True:
                try:
                    if connection.sock is None:
                        connection.connect()
                except OSError:
                    return  # it takes no more connections
                name = self._name()
                try:
                    connection.request("POST", INFER, BODY, {"X-Request-Id": name})
                    answer = connection.getresponse()
                except OSError:  # nothing of an answer has come
                    connection.close()
                    continue
                found = json.loads(answer.read())
                self.told[name] = str(answer.status)
                if answer.status == 200:
                    assert found["outputs"][0]["data"] == Y
                else:
                    assert (answer.status, answer.getheader("retry-after")) == (503, "1")
                    assert found == {"error": "the server is stopping"}

    def _by_calls(self) -> None:
        call = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        asked = dense().SerializeToString()
        while True:
            name = self._name()
            try:
                found = call(asked, metadata=(("x-request-id", name),), timeout=PATIENCE)
            except grpc.RpcError as error:
                self._ended(name, error)
                return
            self.told[name] = "OK"
            assert np.array_equal(array_of(message("ModelInferResponse").FromString(found)), Z)

    def _by_streams(self) -> None:
        call = self._channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
        asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        name, count = self._name(), itertools.count()
        answers = call(iter(asked.get, None), metadata=(("x-request-id", name),), timeout=PATIENCE)
        try:
            for k in range(8):  # so many are on their way at any time
                asked.put(dense(id=str(k)).SerializeToString())
            for data in answers:
                found = message("ModelStreamInferResponse").FromString(data)
                assert found.error_message in ("", "the server is stopping")
                k = next(count)
                assert found.infer_response.id == str(k)
                if not found.error_message:
                    assert np.array_equal(array_of(found.infer_response), Z)
                asked.put(dense(id=str(k + 8)).SerializeToString())
        except grpc.RpcError as error:
            self._ended(name, error)

    def _ended(self, name: str, error: Any) -> None:
        self.told[name] = error.code().name
        # gRPC itself cancels what comes at the very end, which the server has not taken.
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error


@pytest.mark.slow
@pytest.mark.parametrize("delay", ["0", "0.5"])
def test_told_to_end_while_everybody_asks(folder: Path, delay: str) -> None:
    """What the server took is answered: what its log says of a request is what the client saw."""
    certificate, key = certified(folder.parent)
    options = ("--certificate", certificate, "--key", key, "--grpc-port", "0", "--log-requests")
    with serving(folder, *options, "--max-delay", "5000", "--drain-delay", delay) as server:
        crowd = Crowd(server, certificate)
        crowd.until_told({"200": 100, "OK": 30})
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        crowd.wait()
    assert crowd.wrong == []
    log = [json.loads(line) for line in server.lines if line.startswith("{")]
    logged = {e["id"]: str(e["status"]) for e in log if e["event"] == "request"}
    assert set(logged.values()) <= {"200", "503", "OK", "UNAVAILABLE"}
    assert {n: crowd.told.get(n) for n in logged} == logged


# ---- clients that are slow, or gone ----


class Wire:
    """A client of gRPC that does what no library does: HTTP/2 by hand."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    @classmethod
    async def connect(cls, server: Server, method: str, window: int) -> Wire:
        """A connection with a call begun. `window`: bytes of answers that the client takes."""
        assert server.grpc_port is not None
        _, writer = await asyncio.open_connection("127.0.0.1", server.grpc_port)
        wire = cls(writer)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        wire.frame(4, 0, 0, b"\0\4" + window.to_bytes(4, "big"))  # SETTINGS_INITIAL_WINDOW_SIZE
        head = {
            ":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/{method}",
            ":authority": "a", "content-type": "application/grpc", "te": "trailers",
        }  # fmt: skip
        texts = (t.encode() for pair in head.items() for t in pair)
        fields = [bytes([len(t)]) + t for t in texts]
        packed = b"".join(b"\0" + fields[k] + fields[k + 1] for k in range(0, len(fields), 2))
        wire.frame(1, 4, 1, packed)  # HEADERS, all of them
        return wire

    def frame(self, kind: int, flags: int, stream: int, data: bytes) -> None:
        """Writes a frame."""
        head = len(data).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
        self.writer.write(head + data)

    def message(self, data: bytes, part: float = 1.0) -> None:
        """Writes a message of the call, or the first part of it."""
        data = b"\0" + len(data).to_bytes(4, "big") + data
        self.frame(0, 0, 1, data[: int(len(data) * part)])

    def cancel(self) -> None:
        """Ends the call, as a client does that does not want it any more."""
        self.frame(3, 0, 1, (8).to_bytes(4, "big"))


def is_idle(server: Server) -> bool:
    """Does it hold no requests, calls or streams?"""
    grpc_server = server._grpc
    assert grpc_server is not None
    calls, streams = grpc_server._door._running, grpc_server._inference._streams
    return not (calls or streams or server.plane.room.held or server.application.busy)


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


async def is_answered(server: Server) -> None:
    """Asks as others do, while some behave as they should not."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        found = await channel.unary_unary(f"/{SERVICE}/ModelInfer")(dense().SerializeToString())
        assert np.array_equal(array_of(message("ModelInferResponse").FromString(found)), Z)


@pytest.mark.parametrize("end", ["cancels", "is gone"])
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_half_messages(folder: Path, method: str, part: float, end: str) -> None:
    async def check(server: Server) -> None:
        await is_answered(server)
        files = len(os.listdir("/proc/self/fd"))
        wires = [await Wire.connect(server, method, 1 << 16) for _ in range(8)]
        for wire in wires:
            if method == "ModelStreamInfer":
                wire.message(dense().SerializeToString())
            wire.message(dense().SerializeToString(), part)
            await wire.writer.drain()
        servable = server.plane.find("dense", None)
        assert servable is not None
        if method == "ModelStreamInfer":
            await until(lambda: servable.statistics.answers == 9)
        await is_answered(server)
        for wire in wires:
            if end == "cancels":
                wire.cancel()
                await wire.writer.drain()
        if end == "cancels":
            await until(lambda: is_idle(server))
        for wire in wires:
            wire.writer.transport.abort()
        await until(lambda: is_idle(server) and len(os.listdir("/proc/self/fd")) <= files)
        await is_answered(server)

    connected(folder, check, grpc_port=0, drain_limit=1.0)


@pytest.mark.parametrize("end", ["cancels", "is gone"])
def test_streams_whose_answers_nobody_reads(
    folder: Path, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server reads no further than so many requests, and forgets them with the client, which is
    no fault of its own that the log should have."""
    asked = request_of("dense", ("x", np.ones((500, 4), np.float32), "FP32")).SerializeToString()

    async def check(server: Server) -> None:
        wires = [await Wire.connect(server, "ModelStreamInfer", 0) for _ in range(8)]
        for wire in wires:
            for _ in range(7):  # all that a client may send before it is told to go on
                wire.message(asked)
        await until(lambda: server.plane.room.held > len(asked))
        await is_answered(server)
        for wire in wires:
            if end == "cancels":
                wire.cancel()
            else:
                wire.writer.transport.abort()
        await until(lambda: is_idle(server))
        for wire in wires:
            wire.writer.transport.abort()
        await is_answered(server)
        assert "unexpectedly" not in caplog.text
        assert "Traceback" not in caplog.text

    connected(folder, check, grpc_port=0, drain_limit=1.0)


def test_streams_whose_answers_nobody_reads_for_long(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What they hold is given to others, though the client stays."""
    asked = request_of("dense", ("x", np.ones((500, 4), np.float32), "FP32")).SerializeToString()

    async def check(server: Server) -> None:
        server.plane.room.limit = 4 * len(asked)
        wires = [await Wire.connect(server, "ModelStreamInfer", 0) for _ in range(8)]
        for wire in wires:
            for _ in range(7):
                wire.message(asked)
        await until(lambda: server.plane.room.held + len(asked) > server.plane.room.limit)
        await until(lambda: is_idle(server))
        await is_answered(server)
        for wire in wires:
            wire.writer.transport.abort()
        broken = [r for r in caplog.records if r.getMessage() == "a stream is broken off"]
        assert len(broken) == len(wires)
        assert "Traceback" not in caplog.text

    connected(folder, check, grpc_port=0, body_timeout=0.3, drain_limit=1.0)


GET = b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n"
MANY = 1000  # more than the system keeps on the way


def test_answers_that_nobody_reads(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check(server: Server) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        writer.write(GET * MANY)
        await until(lambda: server.application.busy > 0)
        held = server.application.busy
        await asyncio.sleep(0.1)
        assert server.application.busy == held == 1  # the rest is not even read
        await until(lambda: server.application.busy == 0)
        http_server = server._http
        assert http_server is not None
        await until(lambda: not http_server.server_state.connections)
        writer.transport.abort()
        assert "Exception in ASGI" not in caplog.text

    connected(folder, check, head_timeout=0.3, drain_limit=1.0)


def test_clients_that_go_with_several_requests_on_their_way(folder: Path) -> None:
    """Over one connection: none of them is run any more, nor does the log have a trace."""
    post = f"POST {INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}"

    async def check(server: Server) -> None:
        servable = server.plane.find("dense", None)
        assert servable is not None
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(3 * post.encode())
        await until(lambda: len(servable.queue) == 1)
        writer.transport.abort()
        await until(lambda: not len(servable.queue) and is_idle(server))
        assert servable.statistics.refused == {"cancelled": 1}
        assert servable.statistics.runs == 0

    waits = ModelSettings(max_delay_us=10_000_000)
    connected(folder, check, grpc_port=0, model=waits, drain_limit=1.0)


@pytest.mark.slow
def test_answers_that_are_read_slowly(folder: Path) -> None:
    """Whoever takes a little at a time gets all."""

    async def check(server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        count = MANY // 2
        writer.write(GET * count + GET.replace(b"host: a", b"connection: close"))
        found = bytearray()  # a line may come in two pieces
        while data := await reader.read(1 << 18):
            found += data
            await asyncio.sleep(0.02)
        assert found.count(b"HTTP/1.1 200") == count + 1
        writer.close()

    connected(folder, check, head_timeout=0.5, drain_limit=1.0)
