"""One step of an optimizer, of ai.onnx.preview.training: Adagrad, Adam, Momentum.

Operands: the learning rate R, the count of updates T, then the tensors, their gradients and what is
kept of the steps before, each as many as there are tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode, as_dtype, as_scalar, emit, scalar
from naru.frontend.onnx_signatures import Handler
from naru.ir.graph import Node
from naru.ops.registry import constant


def _columns(c: OnnxNode, kinds: int) -> list[tuple[Node, ...]]:
    """(tensor, gradient, …) of each tensor."""
    given = c.operands()[2:]
    count, rest = divmod(len(given), kinds)
    if rest or not count:
        raise ModelError(f"expected {kinds} operands a tensor behind R and T, found {len(given)}")
    return [tuple(given[k::count]) for k in range(count)]


def _row_by_row(results: Sequence[tuple[Node, ...]]) -> list[Node]:
    """All new tensors, then all of the next kind."""
    return [r[k] for k in range(len(results[0])) for r in results]


def _scaled(factor: float, x: Node) -> Node:
    return emit("mul", scalar(factor, x), x)


def _regular(c: OnnxNode, x: Node, gradient: Node) -> Node:
    """The gradient of what is minimised, the square of x included."""
    factor = c.get_float("norm_coefficient", 0.0)
    return emit("add", _scaled(factor, x), gradient) if factor else gradient


def _as(x: Node, like: Node) -> Node:
    """A scalar operand in the dtype of a tensor."""
    return as_dtype(as_scalar(x), like.type.dtype)


def adagrad(c: OnnxNode) -> Sequence[Node]:
    """-> new tensors, new sums of squared gradients."""
    results: list[tuple[Node, ...]] = []
    for x, gradient, squares in _columns(c, 3):
        decay = _scaled(c.get_float("decay_factor", 0.0), _as(c[1], x))
        rate = emit("div", _as(c[0], x), emit("add", scalar(1, x), decay))
        g = _regular(c, x, gradient)
        total = emit("add", squares, emit("mul", g, g))
        root = emit("add", emit("sqrt", total), scalar(c.get_float("epsilon", 1e-6), x))
        results.append((emit("sub", x, emit("div", emit("mul", rate, g), root)), total))
    return _row_by_row(results)


def adam(c: OnnxNode) -> Sequence[Node]:
    """-> new tensors, new averages of gradients and of their squares."""
    alpha, beta = c.get_float("alpha", 0.9), c.get_float("beta", 0.999)
    results: list[tuple[Node, ...]] = []
    for x, gradient, average, squares in _columns(c, 4):
        g, rate, t = _regular(c, x, gradient), _as(c[0], x), _as(c[1], x)
        v = emit("add", _scaled(alpha, average), _scaled(1 - alpha, g))
        h = emit("add", _scaled(beta, squares), _scaled(1 - beta, emit("mul", g, g)))
        root = emit("add", emit("sqrt", h), scalar(c.get_float("epsilon", 1e-6), x))
        one = scalar(1, x)
        up = emit("sqrt", emit("sub", one, emit("pow", scalar(beta, x), t)))
        down = emit("sub", one, emit("pow", scalar(alpha, x), t))
        adjusted = emit("div", emit("mul", rate, up), down)
        rate = emit("where", emit("greater", c[1], constant(0, np.int64)), adjusted, rate)
        rate = emit("reshape", rate, shape=()) if rate.type.rank else rate
        new = emit("sub", x, emit("div", emit("mul", rate, v), root))
        after = c.get_float("norm_coefficient_post", 0.0)
        results.append((_scaled(1 - after, new) if after else new, v, h))
    return _row_by_row(results)


def momentum(c: OnnxNode) -> Sequence[Node]:
    """-> new tensors, new momenta."""
    mode = c.get_str("mode", "", ("standard", "nesterov"))
    alpha, beta = c.get_float("alpha", 0.0), c.get_float("beta", 0.0)
    results: list[tuple[Node, ...]] = []
    for x, gradient, before in _columns(c, 3):
        g, rate = _regular(c, x, gradient), _as(c[0], x)
        later = emit("greater", _as(c[1], x), scalar(0, x))
        factor = emit("where", later, scalar(beta, x), scalar(1, x))
        v = emit("add", _scaled(alpha, before), emit("mul", factor, g))
        way = emit("add", g, _scaled(alpha, v)) if mode == "nesterov" else v
        results.append((emit("sub", x, emit("mul", rate, way)), v))
    return _row_by_row(results)


TABLE: dict[str, Handler] = {"Adagrad": adagrad, "Adam": adam, "Momentum": momentum}
