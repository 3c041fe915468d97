"""Every op's meaning in numpy, in double precision: what all engines' outputs are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from naru.bench.engines import Files, Way
from naru.bench.feeds import Array, Feed
from naru.frontend.onnx import read_onnx
from naru.ir.graph import Graph
from naru.ops.evaluate import evaluate
from naru.version import VERSION


class Reference:
    """Slow, and never timed: it has no way to be called."""

    version = VERSION

    def __init__(self, threads: int) -> None:
        self.settings: dict[str, Any] = {"threads": threads}

    def load(self, files: Files, feed: Feed) -> None:
        self._graph: Graph = read_onnx(files.model)

    def ways(self, feeds: Sequence[Feed]) -> dict[str, Way]:
        return {}

    def outputs(self, feed: Feed) -> list[Array]:
        inputs = [feed[str(node.attr("name"))] for node in self._graph.inputs]
        return evaluate(self._graph, inputs, float64=True)
