"""Asks an ASGI application without a network."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    names: Sequence[str] = ()  # of the headers, as often as they come

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of what must be the protocol's form of an error."""
        assert self.headers["content-type"] == "application/json"
        assert set(self.json) == {"error"}
        return self.json["error"]


async def ask(
    app: Any,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    headers: Mapping[str, str] | None = None,
    *,
    leave_after: float | None = None,
) -> Answer:
    """One request; where `leave_after` is given the client is gone after so many seconds."""
    path, _, query = path.partition("?")
    parts = [body] if isinstance(body, bytes) else list(body)
    given = {k.lower(): v for k, v in (headers or {}).items()}
    if isinstance(body, bytes):
        given.setdefault("content-length", str(len(body)))
    messages = [
        {"type": "http.request", "body": part, "more_body": k + 1 < len(parts)}
        for k, part in enumerate(parts)
    ]
    found: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(3600 if leave_after is None else leave_after)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        found.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "query_string": query.encode(),
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()],
    }  # fmt: skip
    await app(scope, receive, send)
    start = found[0]
    answer = {k.decode(): v.decode() for k, v in start["headers"]}
    names = [k.decode() for k, _ in start["headers"]]
    return Answer(start["status"], answer, b"".join(m.get("body", b"") for m in found[1:]), names)


def noted(work: Callable[..., Any], by_loop: list[str]) -> Callable[..., Any]:
    """The function; where the loop's thread calls it, its name is added to the list."""
    loop = threading.current_thread()

    def call(*args: Any, **more: Any) -> Any:
        if threading.current_thread() is loop:
            by_loop.append(work.__name__)
        return work(*args, **more)

    return call


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str) -> dict[str, Any]:
    """A tensor in JSON."""
    flat = array.ravel().tolist()
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": flat}
