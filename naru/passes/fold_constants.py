"""Computes now what doesn't depend on the inputs."""

from __future__ import annotations

import numpy as np

from naru.dtypes import DTYPES
from naru.ir.expr import Const
from naru.ir.graph import Graph, Node, TensorType, make_constant
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
        known = value_array(n.type)
        if known is not None:
            return make_constant(known)
    if n.op in ("get", "if"):
        return _take_branch(n)
    arrays = [None if c is None else c.data for c in n.inputs]
    if any(c is not None and a is None for c, a in zip(n.inputs, arrays, strict=True)):
        return n
    op = OPS.get(n.op)
    if op is None or op.kind in ("control", "opaque") or not _fits(n, arrays, limit):
        return n
    result = evaluate_node(n, arrays)
    return n if result is None else make_constant(result)


def value_array(type: TensorType) -> np.ndarray | None:
    """The array of a type whose elements are all known constants."""
    values = [e.value for e in type.value or () if isinstance(e, Const)]
    shape = [d.value for d in type.shape if isinstance(d, Const)]
    if type.value is None or len(values) != len(type.value) or len(shape) != type.rank:
        return None
    return (
        np.array(values, np.int64).astype(DTYPES[type.dtype].numpy).reshape([int(d) for d in shape])
    )


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


def evaluate_node(n: Node, arrays: list[np.ndarray | None]) -> np.ndarray | None:
    """The value of a node over constants; None where it is an error, which then is one of the run
    (an index out of range in a branch that is never taken)."""
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(OPS[n.op].ref(arrays, dict(n.attrs))[0])
    except (IndexError, ZeroDivisionError, FloatingPointError):
        return None
    dtype = DTYPES[n.type.dtype].numpy
    shape = tuple(int(d.value) for d in n.type.shape if isinstance(d, Const))
    return result.astype(dtype, copy=False) if result.shape == shape else None


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
