"""Servers for the tests, each a process of its own on free ports: naru, and a real Triton with the
same models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from serve import models, processes
from serve.triton import PythonModel, tritonserver


class Server(NamedTuple):
    """Where a server listens, `host:port` each."""

    http: str
    grpc: str


@contextlib.contextmanager
def naru_server(folder: Path, *options: str) -> Iterator[Server]:
    """`naru serve` with models to try."""
    for name, write in (("dense", models.dense), ("pair", models.pair), ("texts", models.texts)):
        write(folder / f"{name}.onnx")
    with processes.serving(folder, "--grpc-port", "0", *options) as server:
        yield Server(f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}")


_PROGRAM = """
import numpy as np
import triton_python_backend_utils as backend

class TritonPythonModel:
    def initialize(self, arguments):
        self.w = (np.arange(4)[:, None] + np.arange(3)).astype(np.float32)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {t.name(): t.as_numpy() for t in request.inputs()}
        wanted = set(request.requested_output_names())
        found = self.run(**given)
        tensors = [backend.Tensor(n, a) for n, a in found.items() if n in wanted]
        return backend.InferenceResponse(tensors)

    def run(self, %s
"""
# The models of tests/serve/models.py, as Triton's Python backend runs them.
_MODELS = {
    "dense": PythonModel(
        _PROGRAM % "x):\n        return {'y': x @ self.w}",
        {"x": "FP32 4"},
        {"y": "FP32 3"},
        most_rows=64,
    ),
    "pair": PythonModel(
        _PROGRAM % "a, b, c):\n        return {'total': a + b, 'count': c + 1}",
        {"a": "FP32 -1", "b": "FP32 -1", "c": "INT64 -1"},
        {"total": "FP32 -1", "count": "INT64 -1"},
    ),
    "texts": PythonModel(
        _PROGRAM % "word):\n        texts = [w.decode().upper().encode() for w in word.ravel()]\n"
        "        return {'shout': np.array(texts, object).reshape(word.shape)}",
        {"word": "STRING -1"},
        {"shout": "STRING -1"},
    ),
}


@contextlib.contextmanager
def triton_server(folder: Path) -> Iterator[Server]:
    """The real Triton with the same models."""
    with tritonserver(folder, _MODELS) as addresses:
        yield Server(*addresses)
