"""The server as users run it: what it prints, how it ends, what it refuses to start with."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from serve import models
from serve.asgi import tensor
from serve.processes import ROOT, Process, serving

from naru.cli.serve import serve_command
from naru.serve.server import Server
from naru.serve.settings import ServerSettings

REQUEST = {"inputs": [tensor("x", np.ones((1, 4), np.float32), "FP32")]}
INFER = "/v2/models/dense/infer"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    models.dense(folder / "dense.onnx")
    return folder


def test_what_it_prints_can_be_tried(one: Path) -> None:
    with serving(one) as server:
        curl = server.line("curl")
        body, url = curl.split("-d '")[1].split("' ")
        status, found = server.ask("POST", "/" + url.split("/", 3)[3], json.loads(body))
        assert (status, found["outputs"][0]["data"]) == (200, [0, 0, 0])
        connection = server.connect()  # which is kept
        for _ in range(3):
            connection.request("POST", INFER, json.dumps(REQUEST))
            answer = connection.getresponse()
            assert json.loads(answer.read())["outputs"][0]["data"] == [6, 10, 14]
            assert answer.getheader("connection") is None
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0  # also with a connection open
        log = [json.loads(line) for line in server.lines if line.startswith("{")]
        assert [e["event"] for e in log] == ["loaded", "draining", "ended"]


def test_loops_have_an_end(tmp_path: Path) -> None:
    models.rounds(tmp_path / "rounds.onnx")
    x, n = tensor("x", np.ones(1, np.float32), "FP32"), tensor("n", np.array(10**9), "INT64")
    with serving(tmp_path) as server:
        status, found = server.ask("POST", "/v2/models/rounds/infer", {"inputs": [x, n]})
        assert status == 400
        assert "NARU_LOOP_LIMIT" in found["error"]


def test_a_port_of_grpc_that_is_taken(one: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "naru", "serve", str(one), "--port", "0"]
        done = subprocess.run(
            [*command, "--grpc-port", str(port)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options", [("--drain-limit", "nan"), ("--poll", "inf"), ("--max-body", "0")]
)
def test_options_that_mean_nothing(one: Path, options: tuple[str, str]) -> None:
    found = CliRunner().invoke(serve_command, [str(one), *options])
    assert found.exit_code == 2
    assert options[0] in found.output


def test_it_ends_when_all_is_answered(one: Path) -> None:
    """What is in flight is answered, others learn at once, and nobody waits longer than needed."""
    with serving(one, "--max-delay", "700000", "--drain-delay", "0.3") as server:
        first: list[Any] = []

        def client() -> None:
            connection = server.connect()
            connection.request("POST", INFER, json.dumps(REQUEST))
            answer = connection.getresponse()
            first.extend([answer.status, answer.getheader("connection"), answer.read()])

        kept = server.connect()
        kept.request("GET", "/v2/health/ready")
        kept.getresponse().read()
        waiting = threading.Thread(target=client)
        waiting.start()
        _until_it_waits(server)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        kept.request("GET", "/v2/health/ready")
        answer = kept.getresponse()
        assert (answer.status, answer.getheader("connection")) == (503, "close")
        assert json.loads(answer.read()) == {"ready": False}
        waiting.join(10)
        assert first[:2] == [200, "close"]
        assert server.wait() == 0
        assert time.monotonic() - start < 10
        with pytest.raises(ConnectionRefusedError):
            server.connect().connect()


def _until_it_waits(server: Process) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        text = server.connect()
        text.request("GET", "/metrics")
        lines = text.getresponse().read().decode().splitlines()
        pending = [line for line in lines if line.startswith("nv_inference_pending")]
        if any(line.endswith(" 1.0") for line in pending):
            return
        time.sleep(0.01)
    raise AssertionError("the request does not wait")


def test_new_requests_are_refused_at_the_end(one: Path) -> None:
    with serving(one, "--max-delay", "1500000") as server:
        kept = server.connect()
        kept.connect()
        waiting = threading.Thread(target=server.ask, args=("POST", INFER, REQUEST))
        waiting.start()
        _until_it_waits(server)
        server.process.send_signal(signal.SIGTERM)
        while not any('"draining"' in line for line in server.lines):
            time.sleep(0.01)
        time.sleep(0.05)
        try:
            kept.request("POST", INFER, json.dumps(REQUEST))
            answer = kept.getresponse()
        except ConnectionError:
            pass  # it was idle, and is closed
        else:
            assert (answer.status, answer.getheader("retry-after")) == (503, "1")
            assert json.loads(answer.read())["error"] == "the server is stopping"
        waiting.join(10)
        assert server.wait() == 0


@pytest.mark.parametrize("limit", ["0.1", "1000"])
def test_what_takes_too_long_is_cut_off(one: Path, limit: str) -> None:
    """After the limit, or at a second signal: clients learn it, and so does who started it."""
    with serving(one, "--max-delay", "10000000", "--drain-limit", limit) as server:
        found: list[Any] = []
        waiting = threading.Thread(
            target=lambda: found.extend(server.ask("POST", INFER, REQUEST)), daemon=True
        )
        waiting.start()
        _until_it_waits(server)
        server.process.send_signal(signal.SIGTERM)
        if limit == "1000":
            while not any('"draining"' in line for line in server.lines):
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 1
        waiting.join(10)
        assert found == [503, {"error": "the server stops"}]
        log = [json.loads(line)["event"] for line in server.lines if line.startswith("{")]
        assert log == ["loaded", "draining", "requests are cut off", "ended"]


# A file that takes longer to compile than anyone waits.
SLOW = """
import sys, time
from naru.serve import repository
repository.open_file = lambda *_, **__: print("compiles", flush=True) or time.sleep(1000)
from naru.cli import main
main()
"""


def test_it_ends_while_models_are_loading(one: Path) -> None:
    command = [sys.executable, "-c", SLOW, "serve", one, "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "compiles\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_an_end_of_http_by_itself(
    one: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: object) -> None:
        raise OSError("no more files")

    monkeypatch.setattr("uvicorn.Server.main_loop", fail)
    assert not asyncio.run(Server(ServerSettings(root=one, port=0)).run())
    assert "the server of HTTP ended by itself" in caplog.text
    assert "no more files" in caplog.text


def test_one_look_for_changes_at_a_time(one: Path) -> None:
    """A look that was asked for during another comes after it; the end waits for none."""
    looks: list[str] = []

    async def run() -> None:
        server = Server(ServerSettings(root=one, port=0, load_at_start=0))
        go_on = asyncio.Event()

        async def refresh() -> None:
            looks.append("begun")
            try:
                await go_on.wait()
                looks.append("done")
            except asyncio.CancelledError:
                looks.append("cancelled")
                raise
            go_on.clear()

        server.plane.repository.refresh = refresh
        ready = asyncio.Event()
        running = asyncio.create_task(server.run(ready.set))
        await ready.wait()
        server._reload()
        await _until(lambda: looks == ["begun"])
        server._reload()
        server._reload()
        go_on.set()
        await _until(lambda: looks == ["begun", "done", "begun"])
        server.stop()
        assert await running

    asyncio.run(run())
    assert looks == ["begun", "done", "begun", "cancelled"]


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


def test_signals_reload(one: Path, tmp_path: Path) -> None:
    models.dense(tmp_path / "dense.onnx")
    with serving(tmp_path) as server:
        models.dense(tmp_path / "new", 2.0).replace(tmp_path / "dense.onnx")
        models.pair(tmp_path / "pair.onnx")
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 20
        while server.ask("POST", INFER, REQUEST)[1]["outputs"][0]["data"] != [12, 20, 28]:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert server.ask("GET", "/v2/models/pair/ready")[0] == 200


def run(*arguments: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "naru", "serve", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr + done.stdout


def test_what_it_does_not_start_with(one: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, text = run(one, "--port", taken.getsockname()[1])
        assert (code, "Traceback" in text) == (1, False)
        assert "cannot listen on 127.0.0.1" in text
    code, text = run(tmp_path / "none")
    assert (code, "Traceback" in text) == (2, False)
    (tmp_path / "tokens.toml").write_text("[[token]]\nsha256 = 'x'\n")
    code, text = run(one, "--tokens", tmp_path / "tokens.toml")
    assert (code, "Traceback" in text) == (1, False)
    assert "expected 64 hex digits" in text
    code, text = run(one, "--max-body", "many")
    assert (code, "expected a size" in text) == (2, True)
    code, text = run(one, "--key", tmp_path / "tokens.toml")
    assert (code, "go together" in text) == (2, True)
