"""What a value is, where that can be known while the model is read: attributes of our ops (axes,
shapes, pads) are operands of ONNX's, and exporters compute them by little chains of nodes."""

from __future__ import annotations

import math

import numpy as np

from naru.ir.expr import Const
from naru.ir.graph import Node
from naru.ops.evaluate import constant_result, known_array
from naru.ops.registry import OPS

LIMIT = 4096  # elements of a value on the way; larger ones are weights, not sizes


class Constants:
    """Finds the contents of nodes that depend on no input. Remembers what it found, also None."""

    def __init__(self) -> None:
        self.found: dict[Node, np.ndarray | None] = {}

    def find(self, n: Node) -> np.ndarray | None:
        """The contents of n, computed if need be; None if they depend on an input, or are large.
        Iterative; every node is looked at once an import."""
        if n.data is not None:
            return n.data
        stack = [n]
        while stack:
            m = stack[-1]
            if m in self.found:
                stack.pop()
                continue
            waiting = self._waiting(m)
            if waiting:
                stack.append(waiting)
                continue
            self.found[m] = self._evaluate(m)
            stack.pop()
        return self.found[n]

    def _waiting(self, n: Node) -> Node | None:
        """The next operand to look at; none once the answer is clear."""
        if known_array(n.type) is not None or not _is_small(n):
            return None
        for c in n.inputs:
            if c is None or c.op == "constant":
                continue
            if c not in self.found:
                return c
            if self.found[c] is None:
                return None
        return None

    def _evaluate(self, n: Node) -> np.ndarray | None:
        value = n.data if n.op == "constant" else known_array(n.type)
        if value is not None or not _is_small(n):
            return value
        arrays = [
            None if c is None else c.data if c.op == "constant" else self.found.get(c)
            for c in n.inputs
        ]
        if any(c is not None and a is None for c, a in zip(n.inputs, arrays, strict=True)):
            return None
        return constant_result(n, arrays)


def _is_small(n: Node) -> bool:
    """An op with a meaning in numpy and one output of few elements."""
    op = OPS.get(n.op)
    if op is None or op.kind in ("control", "opaque") or len(n.types) != 1:
        return False
    sizes = [int(d.value) for d in n.type.shape if isinstance(d, Const)]
    return len(sizes) == n.type.rank and math.prod(sizes) <= LIMIT
