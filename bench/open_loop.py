"""Sends HTTP requests at times of its own, however long the answers take: an open loop.

    echo '{"port": 8080, "request": "file", "rate": 500, "seconds": 10}' | python bench/open_loop.py

`request` is a file with the bytes of one whole request; it is sent `rate` times a second on
average, at random distances (a Poisson process, `seed`), over `connections` kept connections. What
comes back is written as JSON: how many answers of each status, their latencies from the time at
which a request was to be sent (so that a server which stalls cannot hide it), and how busy this
process was. `spin`: it waits busily, on the core `core`, to be in time by microseconds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import re
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_AFTER = 10.0  # seconds in which the last answers may come


class Connection(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._due = 0.0  # when the request under way was to be sent
        self._under_way = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, due: float) -> None:
        self._due, self._under_way = due, True
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end + 2)
        if len(self._buffer) < end + 4 + int(length[1] if length else 0):
            return
        head, body, self._buffer = self._buffer[:end], self._buffer[end + 4 :], b""
        self._under_way = False
        self._load.answered(self, head, body, self._due)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(self, self._under_way)


class Load:
    """What is sent, and what came back."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.latencies: dict[int, list[float]] = {}
        self.end = 0.0
        self.in_time = 0  # answers of 200 before the end
        self.unclean: Counter[str] = Counter()  # refusals that are not as they should be
        self.broken = 0  # connections that ended while an answer was due
        self.sent = self.open = 0
        self._free: list[Connection] = []
        self._due: deque[float] = deque()

    def answered(self, by: Connection, head: bytes, body: bytes, due: float) -> None:
        status, now = int(head[9:12]), time.perf_counter()
        self.latencies.setdefault(status, []).append(now - due)
        self.in_time += status == 200 and now <= self.end
        if status != 200:
            self._look_at(status, head, body)
        if self._due:
            self._send(by, self._due.popleft())
        else:
            self._free.append(by)

    def _look_at(self, status: int, head: bytes, body: bytes) -> None:
        if status != 503:
            self.unclean[f"status {status}"] += 1
        elif b"retry-after: " not in head.lower():
            self.unclean["no Retry-After"] += 1
        else:
            try:
                fits = list(json.loads(body)) == ["error"]
            except ValueError:
                fits = False
            self.unclean["no error in it"] += not fits

    def lost(self, connection: Connection, under_way: bool) -> None:
        self.open -= 1
        self.broken += under_way
        if connection in self._free:
            self._free.remove(connection)

    def send(self, due: float) -> None:
        """Sends a request, or as soon as a connection is free."""
        if self._free:
            self._send(self._free.pop(), due)
        else:
            self._due.append(due)

    def _send(self, connection: Connection, due: float) -> None:
        self.sent += 1
        connection.ask(due)

    async def connect(self, port: int, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, made = await loop.create_connection(lambda: Connection(self), "127.0.0.1", port)
            self._free.append(made)
            self.open += 1

    def close(self) -> None:
        for connection in list(self._free):
            connection.transport.close()

    @property
    def outstanding(self) -> int:
        return self.sent - sum(map(len, self.latencies.values())) - self.broken + len(self._due)


async def run(given: dict[str, Any]) -> dict[str, Any]:
    """The load that is described; see above."""
    if "core" in given:
        os.sched_setaffinity(0, {given["core"]})
    load = Load(Path(given["request"]).read_bytes())
    await load.connect(given["port"], given.get("connections", 64))
    chance = random.Random(given.get("seed", 0))
    gc.collect()
    gc.disable()
    start, used = time.perf_counter(), time.process_time()
    due, end = start, start + given["seconds"]
    load.end = end
    while due < end:
        now = time.perf_counter()
        if due > now:
            # Timers are a millisecond coarse.
            await asyncio.sleep(0 if given.get("spin") else due - now)
        else:
            # What is due by now goes out together; then the answers have their turn.
            while due <= now and due < end:
                load.send(due)
                due += chance.expovariate(given["rate"])
            await asyncio.sleep(0)
    until = time.perf_counter() + _AFTER
    while load.outstanding and time.perf_counter() < until:
        await asyncio.sleep(0.01)
    took = time.perf_counter() - start
    busy = (time.process_time() - used) / took
    statuses = {str(k): spread(v) for k, v in load.latencies.items()}
    left = load.outstanding
    load.close()
    return {
        "seconds": given["seconds"], "took": took, "sent": load.sent, "in_time": load.in_time,
        "unanswered": left, "broken": load.broken, "busy": busy, "status": statuses,
        "unclean": {k: v for k, v in load.unclean.items() if v},
    }  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    """How many, and the middle and the tail in microseconds."""
    values.sort()
    at = {p: values[min(len(values) - 1, int(len(values) * p / 100))] for p in (50, 99)}
    return {"count": len(values), **{f"p{p}": 1e6 * v for p, v in at.items()}}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.load(sys.stdin)))))
