"""Computes now what doesn't depend on the inputs."""

from __future__ import annotations

import numpy as np

from naru.dtypes import DTYPES
from naru.ir.expr import Const
from naru.ir.graph import Graph, Node, make_constant
from naru.ir.simplify import known
from naru.ops.evaluate import constant_result, known_array
from naru.ops.registry import OPS
from naru.passes.registry import graph_pass
from naru.passes.rewrite import inline, rewrite

LIMIT = 64 * 2**20


@graph_pass
def fold_constants(g: Graph, *, limit: int = LIMIT) -> Graph:
    """Replaces by constants: nodes of constant operands (through the op's `ref`), nodes whose type
    knows the value (a Shape of fixed dims), and an `if` on a constant by the branch it takes.

    A result of more than `limit` bytes that is also larger than its operands stays a computation:
    Expand of a scalar to a gigabyte belongs into the machine code, not into the file. Nodes with a
    symbolic value stay; where only sizes are asked for, attributes hold the value already.
    """
    return rewrite(g, lambda n: _fold(n, limit), repeat=True)


def _fold(n: Node, limit: int) -> Node:
    if n.op in ("constant", "input", "bind_dim", "with_sizes"):
        return n
    if len(n.types) == 1 and n.type.value is not None:
        told = known_array(n.type)
        if told is not None:
            return make_constant(told)
    if n.op in ("get", "if"):
        return _take_branch(n)
    arrays = [None if c is None else c.data for c in n.inputs]
    if any(c is not None and a is None for c, a in zip(n.inputs, arrays, strict=True)):
        return n
    op = OPS.get(n.op)
    if op is None or op.kind in ("control", "opaque") or not _fits(n, arrays, limit):
        return n
    result = constant_result(n, arrays)
    shape = tuple(known(d) for d in n.type.shape)
    return n if result is None or result.shape != shape else make_constant(result)


def _fits(n: Node, arrays: list[np.ndarray | None], limit: int) -> bool:
    """One output of a known size that is worth keeping as bytes."""
    if len(n.types) != 1:
        return False
    size = DTYPES[n.type.dtype].bytes
    for d in n.type.shape:
        if not isinstance(d, Const):
            return False
        size *= int(d.value)
    return size <= max(limit, sum(a.nbytes for a in arrays if a is not None))


def _take_branch(n: Node) -> Node:
    """An `if` whose condition is constant, or an output of one, as what its branch computes."""
    at = n.attr("index", 0) if n.op == "get" else 0
    branching = n.inputs[0] if n.op == "get" else n
    if branching is None or branching.op != "if" or (n is branching and len(n.types) > 1):
        return n
    cond = branching.inputs[0]
    if cond is None or cond.data is None:
        return n
    body = branching.attr("then" if bool(cond.data.reshape(-1)[0]) else "orelse")
    if not isinstance(body, Graph) or not isinstance(at, int):
        return n
    return inline(body, branching.inputs[1:])[at]
