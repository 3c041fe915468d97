"""Bodies over HTTP: how large, how slow and how many they may be, and whom they hold up."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from serve.asgi import ask, noted, tensor
from serve.conftest import serving
from serve.test_http import X, infer, request_of

from naru.serve import json_tensors, rows
from naru.serve.http import Application


def test_limits(folder: Path) -> None:
    async def check(app: Application) -> None:
        body = json.dumps(request_of()).encode()
        assert (await infer(app, body + b" " * 2000)).status == 413
        chunked = await ask(app, "POST", "/v2/models/dense/infer", [body, b" " * 2000])
        assert chunked.status == 413
        bomb = gzip.compress(b" " * 100_000)
        answer = await infer(app, bomb, **{"content-encoding": "gzip"})
        assert answer.status == 413
        many = {"inputs": [tensor("x", X[:1, :1], "FP32")] * 5}
        assert "expected at most 4, got 5" in (await infer(app, many)).error
        assert (
            await infer(app, gzip.compress(body)[:-4], **{"content-encoding": "gzip"})
        ).status == 400
        assert (await infer(app, body, **{"content-encoding": "br"})).status == 415
        assert app.plane.room.held == 0

    serving(folder, check, max_body=2000, max_inputs=4, load_at_start=0)


def test_what_a_body_holds(folder: Path) -> None:
    """There is room for the largest body, and for one that is decompressed in several steps."""
    body = json.dumps(request_of()).encode() + b" " * (10 << 20)

    async def check(app: Application) -> None:
        assert app.plane.settings.max_held == 2 << 30
        room = app.plane.room
        room.limit = 11 << 20
        for sent, headers in (
            (body, {}),
            (gzip.compress(body), {"content-encoding": "gzip"}),
            (gzip.compress(body, 0), {"content-encoding": "gzip"}),
        ):
            answer = await infer(app, sent, **headers)
            assert answer.status == (503 if len(sent) > 1 << 20 and headers else 200)
            assert room.held == 0
        room.limit = 9 << 20
        answer = await infer(app, gzip.compress(body), **{"content-encoding": "gzip"})
        assert answer.status == 503
        assert room.held == 0

    serving(folder, check, max_body=1 << 30, load_at_start=0)


def test_bodies_of_options_are_small(folder: Path) -> None:
    async def check(app: Application) -> None:
        for path in ("index", "models/dense/load"):
            body = b'{"parameters": {}}' + b" " * (64 << 10)
            answer = await ask(app, "POST", f"/v2/repository/{path}", body)
            assert answer.status == 413

    serving(folder, check, model_control=True, load_at_start=0)


def test_large_bodies_do_not_hold_the_loop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What works on large requests and answers is called by other threads than the loop's."""
    by_loop: list[str] = []
    for module, name in (
        (rows, "decode"), (rows, "encode"), (json_tensors, "decode"), (json_tensors, "encode"),
        (gzip, "compress"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, noted(getattr(module, name), by_loop))
    x = np.zeros((30_000, 4), np.float32)
    listed = json.dumps(x.tolist()).encode()
    asked = json.dumps({"inputs": [tensor("x", x, "FP32")]}).encode()

    async def check(app: Application) -> None:
        for body in (listed, listed.replace(b"[0.0", b"[NaN", 1)[:-1] + b" ]", asked):
            await infer(app, body, **{"accept-encoding": "gzip"})
        assert by_loop == []

    serving(folder, check)


def test_bodies_that_do_not_come(folder: Path) -> None:
    async def check(app: Application) -> None:
        slow = await ask(
            app, "POST", "/v2/models/dense/infer", [], {"content-length": "100"}, leave_after=9
        )
        assert slow.status == 408
        assert slow.headers["connection"] == "close"
        app.plane.draining = True
        slow = await ask(
            app, "POST", "/v2/models/dense/infer", [], {"content-length": "100"}, leave_after=9
        )
        assert slow.names.count("connection") == 1
        large = await infer(app, b" " * 3000)
        assert large.status == 413
        app.plane.room.limit = 7
        assert (await infer(app, request_of())).status == 503
        found = (await ask(app, "GET", "/metrics")).body.decode()
        for reason, count in (("request timeout", 2), ("too large", 1), ("overloaded", 1)):
            assert f'reason="{reason}",version="1"}} {count}.0' in found
        assert app.plane.room.held == 0

    serving(folder, check, body_timeout=0.01, max_body=2000, load_at_start=0)
