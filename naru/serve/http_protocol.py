"""HTTP/1.1 as uvicorn reads it, with what it leaves out: limits of a request's head, errors in the
form that the protocol's clients read, and requests that would rather speak another protocol."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, cast

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MOST_HEAD = 64 << 10  # bytes of the request line and the headers
_TOO_LONG = f"the head of the request is longer than {MOST_HEAD} bytes"

log = logging.getLogger("naru.serve")


class _Stop(Exception):
    """The parser is to stop."""


class Protocol(HttpToolsProtocol):
    """One connection. `seconds`: from its begin, or that of a head, to the end of the head; the
    connection is closed where it takes longer. It is broken off where the client takes nothing of
    what it is sent for so long."""

    def __init__(self, seconds: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._heads = 0  # that were read to their end
        self._in_head = True
        self._length = 0  # bytes that came since the head began that is being read
        self._taking: asyncio.TimerHandle | None = None
        self._begun: deque[Any] = deque()  # requests, the first of which is being answered
        self._refusal: tuple[int, str] | None = None  # that is told once all before is answered

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_waiting()
        self._stop_looking()
        self._give_up()  # of several, uvicorn tells only the last
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._refusal is not None or self._has_ended():
            return
        heads = self._heads
        if self._in_head:
            self._length += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._in_head and self._heads == heads:
            if self._length > MOST_HEAD:
                self.refuse(431, _TOO_LONG)
            elif self._timer is None:
                self._wait()
        elif self._discards() and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _discards(self) -> bool:
        """Is what comes the rest of a request that has its answer already?"""
        cycle: Any = self.cycle
        answered = cycle is not None and cycle.response_complete
        return answered and not self._in_head and not self.transport.is_closing()

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                parser: Any = self.parser
                try:
                    parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    rest = rest[upgrade.args[0] :]
                if parser.get_method() == b"CONNECT":
                    self.refuse(400, "this server is no proxy")
                    return
                # Another parser: this one may have seen `connection: close`.
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(self._head_without_upgrade(parser))
        except httptools.HttpParserError as error:
            self._cannot_read(error)

    def _cannot_read(self, error: Exception) -> None:
        """Tells of what is not HTTP; and of a mistake of ours, which the parser hands on like that
        from what it calls."""
        cause = error.__context__
        told = (httptools.HttpParserError, UnicodeDecodeError, _Stop)
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(cause, told):
            log.error("a request failed unexpectedly", exc_info=cause or error)
            self.refuse(500, "the server failed to answer; its log says why")
        else:
            self.send_400_response("Invalid HTTP request received.")

    def _should_upgrade(self) -> bool:
        """The parser drops the body of a request that asks for another protocol (Java's client
        does, for HTTP/2). So nothing is begun for it until its head is parsed once more."""
        return True

    def _head_without_upgrade(self, parser: Any) -> bytes:
        """The head that was read, asking for no other protocol, as a server may take it (RFC 9110,
        7.8)."""
        version = parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._has_ended():
            raise _Stop  # what comes after the last answer is not run (RFC 9112, 9.6)
        length = self._length
        self._heads += 1
        self._length, self._in_head = 0, False
        self._stop_waiting()
        if self.url[:1] != b"/" and not cast("bytes | None", httptools.parse_url(self.url).path):
            self.url = b"/"  # http://host (RFC 9112, 3.2.2)
        # What came may be more than the head, but not less.
        if length > MOST_HEAD and self._head_length() > MOST_HEAD:
            self.refuse(431, _TOO_LONG)
            raise _Stop
        self.begin()

    def _has_ended(self) -> bool:
        """Was the last answer of the connection given?"""
        return self.transport.is_closing()

    def begin(self) -> None:
        """Begins to answer the request whose head was read."""
        before: Any = self.cycle
        super().on_headers_complete()
        if self.cycle is before:  # the head is to be parsed once more
            return
        while self._begun and self._begun[0].response_complete:
            self._begun.popleft()
        self._begun.append(self.cycle)

    def _unanswered(self) -> list[Any]:
        return [c for c in self._begun if not c.response_complete]

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.next_head()
        super().on_message_complete()

    def next_head(self) -> None:
        """What comes next is another request."""
        self._in_head = True

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP."""
        self.refuse(400, msg)

    @property
    def is_between_requests(self) -> bool:
        """Has nothing come of a request since the end of the one before?"""
        return self._in_head and not self._length

    def _head_length(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self._seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refuse(self, status: int, message: str) -> None:
        """Answers by itself, after what came before, and closes the connection."""
        self._stop_waiting()
        if self.transport.is_closing() or self._refusal is not None:
            return
        if not all(c.more_body for c in self._unanswered()):
            self._refusal = status, message
            return
        body = orjson.dumps({"error": message})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()
        self._give_up()

    def on_response_complete(self) -> None:
        """A request that took the usual way is answered."""
        super().on_response_complete()
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            self.refuse(*refusal)

    def eof_received(self) -> None:
        """The client sends no more, and is taken to be gone."""
        self._give_up()

    def _give_up(self) -> None:
        """Nobody waits for answers any more: what is closed must not be written to."""
        for cycle in self._unanswered():
            cycle.disconnected = True
            cycle.message_event.set()

    # ---- clients that do not read ----

    def pause_writing(self) -> None:
        """More waits to be sent than is good: whoever answers waits too."""
        super().pause_writing()
        self._stop_looking()
        self._taking = self.loop.call_later(self._seconds, self._look, None)

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        self._stop_looking()
        super().resume_writing()

    def _look(self, before: int | None) -> None:
        """Breaks the connection off where as much waits as did `before`: an answer that nobody
        reads would hold its request for good."""
        left = self.transport.get_write_buffer_size()
        if left == before:
            self.transport.abort()
        else:
            self._taking = self.loop.call_later(self._seconds, self._look, left)

    def _stop_looking(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None
