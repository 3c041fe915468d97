"""HTTP/1.1 as uvicorn reads it, with what it leaves out: limits of a request's head, errors in the
form that the protocol's clients read, and requests that would rather speak another protocol."""

from __future__ import annotations

import asyncio
import re
from typing import NoReturn

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MOST_HEAD = 64 << 10  # bytes of the request line and the headers
SLOWEST_HEAD = 60.0  # seconds from a connection, or a head's first part, to the end of the head
_TOO_LONG = f"the head of the request is longer than {MOST_HEAD} bytes"
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class Protocol(HttpToolsProtocol):
    """One connection."""

    _heads = 0  # that were read to their end
    _in_head = True
    _length = 0  # bytes that came since the head began that is being read
    _slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        heads = self._heads
        if self._in_head:
            self._length += len(data)
            if b"pgrade:" in data:
                data = _without_upgrade(data)
        super().data_received(data)
        if self._in_head and self._heads == heads:
            if self._length > MOST_HEAD:
                self._refuse(431, _TOO_LONG)
            elif self._slow is None:
                self._limit_time()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        length, limit = self._length, self.limit_concurrency
        self._heads += 1
        self._length, self._in_head = 0, False
        self._stop_timer()
        # What came may be more than the head, but not less.
        if length > MOST_HEAD and self._head_length() > MOST_HEAD:
            self._stop(431, _TOO_LONG)
        if limit is not None and len(self.connections) >= limit:
            self._stop(503, f"the server has {len(self.connections)} connections already")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What comes next is another request."""
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP."""
        self._refuse(400, msg)

    def _limit_time(self) -> None:
        self._slow = self.loop.call_later(SLOWEST_HEAD, self._too_slow)

    def _stop_timer(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        self._refuse(408, f"no request arrived within {SLOWEST_HEAD:g} s")

    def _head_length(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _stop(self, status: int, message: str) -> NoReturn:
        """Refuses what the parser is reading, and stops it: it passes errors on as bad requests,
        and those of a closed connection are nobody's."""
        self._refuse(status, message)
        raise ValueError(message)

    def _refuse(self, status: int, message: str) -> None:
        """Answers by itself, and closes the connection."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        body = orjson.dumps({"error": message})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n"
        later = b"retry-after: 1\r\n" if status == 503 else b""
        self.transport.write(STATUS_LINE[status] + head % len(body) + later + b"\r\n" + body)
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """A head that asks for no other protocol (Java's client does, for HTTP/2), as a server may take
    it (RFC 9110, 7.8): the parser drops the body of one that does."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest
