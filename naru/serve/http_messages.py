"""HTTP without a model: requests as the application sees them, bodies within limits, answers."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import orjson

from naru.serve.access import Token
from naru.serve.aside import ASIDE_FROM, aside
from naru.serve.refusals import (
    CANCELLED,
    INVALID,
    NOT_ALLOWED,
    TOO_LARGE,
    TOO_SLOW,
    UNAUTHENTICATED,
    UNKNOWN_MEDIA,
    Refusal,
)
from naru.serve.room import Room

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

_T = TypeVar("_T")

JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")
COMPRESS_FROM = 1 << 10  # bytes; less is not worth it
_MOST_PASSED = 1 << 30  # bytes of a body that is refused
_STEP = 8 << 20  # bytes to which a body is decompressed before more room is taken


@dataclass(slots=True)
class Request:
    """A request: its head, and the body on demand."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    receive: Receive
    token: Token
    parts: Sequence[bytes] | None = None  # of the body, where all of it is there
    held: int = 0  # bytes of the body in the room, until the request is answered

    def text(self, name: bytes) -> str:
        """A header as text, or ''."""
        return self.headers.get(name, b"").decode("latin-1")

    def media(self) -> str:
        """The media type of the body, in lower case, without parameters."""
        return self.text(b"content-type").partition(";")[0].strip().lower()


@dataclass(slots=True)
class Response:
    """An answer; a body that is not known beforehand comes in `chunks`."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    chunks: AsyncIterator[bytes] | None = field(default=None)


def is_plain(value: bytes) -> bool:
    """May the value of a header of a request stand in an answer?"""
    return value.isascii() and value.decode().isprintable()


def json_response(value: Any, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(status, [JSON], orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def error_response(refusal: Refusal) -> Response:
    """What a client is told: `{"error": …}`, which the protocol's clients read."""
    headers: list[tuple[bytes, bytes]] = [JSON]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    if refusal.kind is UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.kind is TOO_SLOW or refusal.closes:
        headers.append(CLOSE)  # the rest of the body is not read
    text = orjson.dumps({"error": refusal.text.encode("utf-8", "replace").decode()})
    return Response(refusal.kind.http, headers, text)


def not_allowed(allowed: Sequence[str], method: str) -> Response:
    """405 with the methods that there are (RFC 9110, 15.5.6)."""
    response = error_response(
        Refusal(NOT_ALLOWED, f"{method} is not for this path, {' and '.join(allowed)} are")
    )
    response.headers.append((b"allow", ", ".join(allowed).encode()))
    return response


# ---- bodies ----


async def read_body(request: Request, limit: int, seconds: float, room: Room) -> bytes:
    """The body, decompressed. What the request holds of the room is given back by whoever ends it.
    Raises a Refusal: too large, too slow, no room, or the client is gone."""
    declared = request.headers.get(b"content-length")
    if declared == b"0":
        return b""
    if declared is not None and declared.isdigit() and int(declared) > limit:
        # What is not too much is let pass, so that a client which sends first reads this too.
        raise _too_large(limit, closes=int(declared) > _MOST_PASSED)
    if request.parts is None:
        parts = await _receive_body(request, limit, seconds, room)
    else:
        parts = request.parts
        hold(request, room, sum(map(len, parts)), 0, limit)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = request.headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding == b"identity":
        return body
    return await _decompress(request, body, encoding.decode("latin-1"), limit, room)


async def _receive_body(
    request: Request, limit: int, seconds: float, room: Room
) -> Sequence[bytes]:
    """The body as it comes, in parts. Raises a Refusal."""
    parts: list[bytes] = []
    more, until = True, 0.0
    while more:
        try:
            message, until = await _receive(request.receive, seconds, until)
        except TimeoutError:
            raise Refusal(TOO_SLOW, f"the body did not arrive within {seconds:g} s") from None
        if message["type"] == "http.disconnect":
            raise Refusal(CANCELLED, "the client is gone")
        part: bytes = message.get("body", b"")
        hold(request, room, len(part), request.held, limit)
        parts.append(part)
        more = message.get("more_body", False)
    return parts


def hold(request: Request, room: Room, count: int, before: int, limit: int) -> None:
    """Takes room for more of a body, until the request is answered; `before` is what came of it.
    Raises a Refusal."""
    if before + count > limit:
        raise _too_large(limit)
    room.take(count)
    request.held += count


class Rest:
    """The rest of an awaitable that has been begun and waits for something."""

    def __init__(
        self, steps: Generator[Any, Any, Any] | Coroutine[Any, Any, Any], waits_for: Any
    ) -> None:
        self._steps, self._waits_for = steps, waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:
                step = partial(self._steps.throw, error)
            else:
                step = partial(self._steps.send, sent)
            try:
                waits_for = step()
            except StopIteration as done:
                return done.value


async def _receive(
    receive: Receive, seconds: float, until: float
) -> tuple[MutableMapping[str, Any], float]:
    """The next message, and until when (of the loop's time) the rest may come; TimeoutError after
    that. Most bodies are there with their heads, and then no clock is asked: a timeout costs as
    much as decoding a small body."""
    steps = receive().__await__()
    try:
        waits_for = next(steps)
    except StopIteration as done:
        return done.value, until
    until = until or asyncio.get_running_loop().time() + seconds
    async with asyncio.timeout_at(until):
        return await Rest(steps, waits_for), until


def _too_large(limit: int, *, closes: bool = True) -> Refusal:
    refusal = Refusal(TOO_LARGE, f"the body is larger than {limit} bytes, the most here")
    refusal.closes = closes
    return refusal


async def _decompress(
    request: Request, body: bytes, encoding: str, limit: int, room: Room
) -> bytes:
    """A body without its Content-Encoding; there is room for it before it is there. Raises a
    Refusal."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Refusal(
            UNKNOWN_MEDIA, f"Content-Encoding: expected gzip, deflate or identity, got {encoding}"
        )
    # Some send deflate without zlib's head, whose first byte would say 8 in its lower half.
    bare = encoding == "deflate" and body[:1] and body[0] & 15 != 8
    machine = zlib.decompressobj(-15 if bare else 47)
    parts: list[bytes] = []
    size, rest, step = 0, body, ASIDE_FROM
    try:
        while not machine.eof:
            # The first step is small, and so are most bodies: they need no other thread.
            work = len(body) if not parts else step
            part = await aside(work, machine.decompress, rest, min(step, limit + 1 - size))
            if not part:
                break
            hold(request, room, len(part), size, limit)
            size += len(part)
            parts.append(part)
            rest, step = machine.unconsumed_tail, _STEP
    except zlib.error as error:
        raise Refusal(INVALID, f"the body is not {encoding}: {error}") from None
    if not machine.eof or machine.unused_data:
        raise Refusal(INVALID, f"the body is no whole {encoding} stream")
    return parts[0] if len(parts) == 1 else b"".join(parts)


# ---- answers ----


async def compress(response: Response, accepted: bytes) -> None:
    """Compresses an answer, where the client takes that and it is worth it (RFC 9110, 12.5.3)."""
    if len(response.body) < COMPRESS_FROM or response.chunks is not None:
        return
    coding = choose_coding(accepted.decode("latin-1"))
    if coding is None:
        return
    pack = gzip.compress if coding == "gzip" else zlib.compress
    response.body = await aside(len(response.body), lambda: pack(response.body, 1))
    response.headers += [(b"content-encoding", coding.encode()), (b"vary", b"accept-encoding")]


def choose_coding(accepted: str) -> str | None:
    """gzip or deflate, as an Accept-Encoding header prefers; None for neither."""
    best: tuple[float, str] | None = None
    for item in accepted.lower().split(","):
        name, _, parameter = item.strip().partition(";")
        name = name.strip()
        quality = 1.0
        if parameter.strip().startswith("q="):
            try:
                quality = float(parameter.strip()[2:])
            except ValueError:
                quality = 0.0
        if name in ("gzip", "deflate") and quality > 0 and (best is None or quality > best[0]):
            best = (quality, name)
    return best[1] if best else None


async def send_response(send: Send, response: Response) -> None:
    """The whole of an answer. Raises a Refusal where its chunks end before their time."""
    await send(
        {"type": "http.response.start", "status": response.status, "headers": response.headers}
    )
    if response.chunks is not None:
        async for chunk in response.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.body", "body": response.body})


async def unless_gone(request: Request, future: asyncio.Future[_T]) -> _T:
    """What a future gives; it is cancelled, and that is a Refusal, where the client goes before
    that. The request's body has been read."""
    gone = False

    async def watch() -> None:
        nonlocal gone
        if (await request.receive())["type"] == "http.disconnect":
            gone = future.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        return await future
    except asyncio.CancelledError:
        if not gone:
            raise
        refusal = Refusal(CANCELLED, "the client is gone")
        refusal.counted = True  # by the queue
        raise refusal from None
    finally:
        watcher.cancel()
