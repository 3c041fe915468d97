"""A short way for small requests, from the parser to the application and back.

Once such a request is whole, the application's coroutine is begun in place. Mostly it never waits,
and its answer is written at once: without a task and without ASGI's messages, which take longer
than it takes to decode, run and encode a small model. Where it does wait, its rest goes on as a
task, and its answer takes the usual way.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from collections.abc import Awaitable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from naru.serve.access import EVERYBODY
from naru.serve.aside import ASIDE_FROM
from naru.serve.http import Application
from naru.serve.http_messages import CLOSE, Receive, Request, Response, Rest, Scope, Send
from naru.serve.http_protocol import Protocol

log = logging.getLogger("naru.serve")

_MOST_AT_ONCE = 8  # requests that one connection may send ahead and have answered in a row
_PATIENCE = 0.2  # seconds that the body of a request may be behind its head


class Writer:
    """Writes answers. Where many come in one turn of the event loop they are written at its end,
    one after the other: the first wakes the clients' process, or the proxy's, and the rest find it
    awake, where else each answer had to wake it anew."""

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes, bool]] = []
        self._count = self._before = 0  # answers in this turn, and in the one before

    def write(self, transport: asyncio.Transport, data: bytes, closes: bool) -> None:
        """Writes an answer, now or soon, and then closes the connection where it is to be."""
        if not self._count:
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._count += 1
        if self._before > 1:
            self._waiting.append((transport, data, closes))
        else:
            _write(transport, data, closes)

    def _end_turn(self) -> None:
        self._before, self._count = self._count, 0
        self.flush()

    def flush(self) -> None:
        """Writes what waits for that."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            try:
                _write(*one)
            except Exception:  # the others have nothing to do with it
                log.exception("an answer could not be written")


def _write(transport: asyncio.Transport, data: bytes, closes: bool) -> None:
    if transport.is_closing():
        return
    transport.write(data)
    if closes:
        transport.close()


class ShortWay(Protocol):
    """One connection, whose small requests are answered by `application` itself, through `writer`,
    which the connections of a server share."""

    def __init__(self, application: Application, writer: Writer, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._application, self._writer = application, writer
        self._is_short = False  # the request that is being read
        self._answered = 0  # in a row
        self._is_last = False  # the answer that was given to the writer
        self._head: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []  # of its body
        self._late: asyncio.TimerHandle | None = None
        self._heard = 0.0  # loop time when bytes came last
        self._idle: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        self._answered = 0
        self._heard = self.loop.time()
        super().data_received(data)
        if self._is_short and self._late is None:
            self._late = self.loop.call_later(_PATIENCE, self.leave)

    def begin(self) -> None:
        """Decides which way the request goes."""
        self._head = dict(self.headers)
        self._is_short = self._fits()
        if self._is_short:
            self._parts = []
        else:
            super().begin()

    def _fits(self) -> bool:
        """Is the request a small one, and nothing before it still to be answered?"""
        if not self._is_answered():
            return False
        if self.flow.write_paused or self._answered >= _MOST_AT_ONCE:
            return False
        if self.expect_100_continue or self.parser.should_upgrade():
            return False
        length = int(self._head.get(b"content-length", 0))
        return length <= ASIDE_FROM and b"transfer-encoding" not in self._head

    def _discards(self) -> bool:
        return not self._is_short and super()._discards()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._is_short:
            self._parts.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self._is_short:
            super().on_message_complete()
            return
        self.next_head()
        self._is_short = False
        self._stop_being_patient()
        if not self._has_ended():
            self._answer()

    # ---- the answer ----

    def _answer(self) -> None:
        self._answered += 1
        parts, self._parts = self._parts, []
        path = httptools.parse_url(self.url).path.decode("ascii")
        if "%" in path:
            path = urllib.parse.unquote(path)
        method = self.parser.get_method().decode("ascii")
        request = Request(method, path, self._head, _nothing, EVERYBODY, parts)
        steps = self._application.answer(request)
        try:
            waits_for = steps.send(None)
        except StopIteration as done:
            response: Response = done.value
            if response.chunks is None:
                self._application.end(request)
                self._write(response)
            else:
                self._go_on(request, _at_hand(response))
        except Exception:
            self._application.end(request)
            log.exception("a request failed unexpectedly", extra={"path": path})
            self.refuse(500, "the server failed to answer; its log says why")
        else:
            self._go_on(request, Rest(steps, waits_for))

    def _write(self, response: Response) -> None:
        """Sends the whole of an answer."""
        parser: Any = self.parser
        keeps = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        content = [STATUS_LINE[response.status]]
        for name, value in (*self.server_state.default_headers, *response.headers):
            content += (name, b": ", value, b"\r\n")
        if CLOSE in response.headers:
            keeps = False
        elif not keeps:
            content.append(b"connection: close\r\n")
        content += (b"\r\n", response.body)
        self._is_last = not keeps
        self._writer.write(self.transport, b"".join(content), not keeps)
        self.server_state.total_requests += 1
        if self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._end_if_idle)

    def _has_ended(self) -> bool:
        """Was the last answer of the connection given, also if it is not written yet?"""
        return self._is_last or super()._has_ended()

    def _end_if_idle(self) -> None:
        """Closes the connection where nothing came for long. (A timer for each answer, as uvicorn
        has it, would take longer than to write the answer.)"""
        self._idle = None
        if self.transport.is_closing():
            return
        left = self._heard + self.timeout_keep_alive - self.loop.time()
        if left > 0 or not self._rests():
            wait = left if left > 0 else self.timeout_keep_alive
            self._idle = self.loop.call_later(wait, self._end_if_idle)
        else:
            self.transport.close()

    def _rests(self) -> bool:
        """Is nothing read or answered, nor its end foreseen?"""
        foreseen = self.timeout_keep_alive_task is not None
        return self._is_answered() and self.is_between_requests and not foreseen

    def _is_answered(self) -> bool:
        """Has all that took the usual way been answered?"""
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete

    def _go_on(self, request: Request, answer: Awaitable[Response]) -> None:
        """Sends an answer that is not there yet, or comes in chunks."""

        async def finish(scope: Scope, receive: Receive, send: Send) -> None:
            await self._application.finish(request, answer, send)

        usual: Any = self.app
        self.app = finish  # in place of the application, which has been asked
        super().begin()
        self.app = usual
        self.cycle.more_body = False
        request.receive = cast(Receive, self.cycle.receive)

    def leave(self) -> None:
        """The usual way after all: the rest of the body is late, or the server is to end."""
        self._stop_being_patient()
        if not self._is_short or self.transport.is_closing():
            return
        self._is_short = False
        super().begin()
        parts, self._parts = self._parts, []
        for part in parts:
            super().on_body(part)

    def _stop_being_patient(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def shutdown(self) -> None:
        """The server ends: what has begun to come is still answered."""
        self.leave()
        self._writer.flush()
        super().shutdown()

    def refuse(self, status: int, message: str) -> None:
        """Answers by itself, after what came before, and closes the connection."""
        self._writer.flush()
        super().refuse(status, message)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_being_patient()
        if self._idle is not None:
            self._idle.cancel()
        self._is_short = False
        super().connection_lost(exc)


async def _nothing() -> Any:
    """What is received while a request is begun: its body is there, and it waits for nothing."""
    raise RuntimeError("a request was to wait for its client before it was known to wait")


async def _at_hand(response: Response) -> Response:
    return response
