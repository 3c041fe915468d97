"""Requests as raw bytes, valid and broken, for one server or another, and what comes back."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

import numpy as np

Json = dict[str, Any]
LENGTH = "Inference-Header-Content-Length"
X = np.arange(8, dtype=np.float32).reshape(2, 4)
RAW = X.tobytes()
_DTYPES = {"FP32": "<f4", "INT64": "<i8"}


# ---- writing ----


def http(
    method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """A request whose connection closes after it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def infer(value: object, model: str = "dense", **headers: str) -> bytes:
    """An inference request: bytes as they are, anything else as JSON."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return http("POST", f"/v2/models/{model}/infer", body, named)


def x(**changes: Any) -> Json:
    """The input of `dense`, changed; a change to None takes the key out."""
    item = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": X.ravel().tolist(), **changes}
    return {k: v for k, v in item.items() if v is not None}


def one(**changes: Any) -> Json:
    """A request with that input."""
    return {"inputs": [x(**changes)]}


def raw_x(size: object = 32, **changes: Any) -> Json:
    """The input as raw bytes behind the JSON."""
    return x(data=None, parameters={"binary_data_size": size}, **changes)


def framed(
    value: Json, tail: bytes, length: object = None, model: str = "dense", **headers: str
) -> bytes:
    """JSON with raw tensors behind it."""
    head = json.dumps(value).encode()
    written = str(len(head) if length is None else length)
    return infer(head + tail, model, **{LENGTH: written, **headers})


def texts(*words: bytes) -> bytes:
    """Texts as raw bytes."""
    return b"".join(struct.pack("<I", len(w)) + w for w in words)


def chunked(path: str, *chunks: bytes) -> bytes:
    """A request that does not say how long its body is."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks)
    return head.encode() + b"Connection: close\r\n\r\n" + body + b"0\r\n\r\n"


# ---- what comes back ----


@dataclass(frozen=True)
class Answer:
    """An answer, decompressed; status 0 where the server closed the connection without one."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The JSON of the body, without raw tensors; None where it is none."""
        length = self.headers.get(LENGTH.lower())
        try:
            return json.loads(self.body[: int(length)] if length else self.body, parse_constant=_no)
        except ValueError:
            return None

    def __str__(self) -> str:
        """What two servers must have alike: the class of the status, the form, the tensors."""
        if self.status == 0:
            return "no answer"
        value = self.json
        status = "200" if self.status == 200 else f"{self.status // 100}xx"
        if isinstance(value, dict) and isinstance(value.get("outputs"), list):
            return f"{status} {self._tensors(value)}"
        if isinstance(value, dict):
            return f"{status} {{{', '.join(sorted(value))}}}"
        if isinstance(value, list):
            return f"{status} list"
        return f"{status} {'no JSON' if self.body else 'no body'}"

    def _tensors(self, value: Json) -> str:
        at = int(self.headers.get(LENGTH.lower(), 0))
        shown = [f"{k}={value[k]}" for k in ("model_name", "model_version", "id") if k in value]
        for item in value["outputs"]:
            size = item.get("parameters", {}).get("binary_data_size")
            data = item.get("data")
            if size is not None:
                data, at = _elements(self.body[at : at + size], item["datatype"]), at + size
            form = "JSON" if size is None else "raw"
            shown.append(f"{item['name']} {item['datatype']}{item['shape']} {form} {data}")
        return "; ".join(shown)


def _no(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _elements(data: bytes, datatype: str) -> list[Any]:
    if datatype in _DTYPES:
        return np.frombuffer(data, _DTYPES[datatype]).tolist()
    found: list[str] = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + length].decode())
        data = data[4 + length :]
    return found


def send(address: str, request: bytes, *, half: bool = False) -> Answer:
    """What a server answers to these bytes. `half`: it is told that there are no more."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            connection.sendall(request)
            if half:
                connection.shutdown(socket.SHUT_WR)
            response = HTTPResponse(connection, method=request.split(b" ")[0].decode("latin-1"))
            response.begin()
            body = response.read()
        except (HTTPException, ConnectionError, TimeoutError):
            return Answer(0, {}, b"")
    headers = {k.lower(): v for k, v in response.getheaders()}
    coding = headers.get("content-encoding")
    if coding == "gzip":
        body = gzip.decompress(body)
    elif coding == "deflate":
        body = zlib.decompress(body)
    return Answer(response.status, headers, body)
