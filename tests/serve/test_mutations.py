"""Requests that were right, or wrong in one way, made wrong in others at random: none of them ends
the server, gets a 5xx, or an answer that a client cannot read."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from serve.asgi import Answer, ask
from serve.conftest import serving
from serve.differential import BROKEN, FRAMES, VALID
from serve.servers import naru_server
from serve.wire import LENGTH, http, send

from naru.serve.http import Application

# What JSON, numbers, lengths and frames are sensitive to.
PIECES = (
    b"", b"\0", b"\xff", b'"', b"{", b"}", b"[", b"]", b":", b",", b"-", b"e", b"1e999", b"NaN",
    b"null", b"true", b"-1", b"18446744073709551616", b'"x"', b"\\u0000", b"\\ud800", b"\r\n",
    b'"parameters":{"binary_data_size":9},', b'"shape":[0],', b'"datatype":"BYTES",',
)  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The bytes with some of them cut out, changed, doubled, or with others between."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.choice((0, 0, 1, 1, 2, 8, 40)))
        new = rng.choice((data[start:end] * 2, rng.randbytes(end - start), *PIECES))
        data = data[:start] + new + data[end:]
    return data


def expect_readable(answer: Answer, asked: bytes) -> None:
    if answer.status != 200:
        assert answer.error, asked
        assert 400 <= answer.status < 500 or answer.status == 501, asked


def test_mutated_bodies(folder: Path) -> None:
    rng = random.Random(1)
    requests = [r.partition(b"\r\n\r\n") for r in {**VALID, **BROKEN, **FRAMES}.values()]
    usable = [(h, b) for h, _, b in requests if h.startswith(b"POST /v2/models/") and b]

    async def check(app: Application) -> None:
        for _ in range(1500):
            head, body = rng.choice(usable)
            body = mutate(body, rng)
            model = rng.choice(("dense", "pair", "texts", "gather"))
            length = rng.choice((None, None, 0, len(body), rng.randint(0, len(body) + 1)))
            headers = {} if length is None else {LENGTH: str(length)}
            if b"Content-Encoding: gzip" in head:
                headers["content-encoding"] = "gzip"
            answer = await ask(app, "POST", f"/v2/models/{model}/infer", body, headers)
            expect_readable(answer, body)
        assert app.room.held == 0
        assert (await ask(app, "GET", "/v2/health/ready")).status == 200

    serving(folder, check)


@pytest.mark.slow
def test_mutated_requests(tmp_path: Path) -> None:
    """Heads too, over a connection: where a head is no longer one, there may be no answer."""
    rng = random.Random(2)
    requests = list({**VALID, **BROKEN, **FRAMES}.values())
    answered = 0
    with naru_server(tmp_path / "models") as (address, _):
        for _ in range(2000):
            asked = mutate(rng.choice(requests)[:2000], rng)
            answer = send(address, asked, half=True)
            if answer.status:
                answered += 1
                expect_readable(Answer(answer.status, dict(answer.headers), answer.body), asked)
        assert send(address, http("GET", "/v2/health/ready")).status == 200
    assert answered > 1000
