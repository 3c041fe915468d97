"""Which masks say that a query sees no key behind its own place?

Then the keys behind need not be looked at. A mask is made of conditions that all must hold; one of
them may compare places: of queries, numbers along the axis before the last, with those of keys,
along the last. Or it is a constant, and its values tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naru.ir.expr import Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, add, index, sub
from naru.passes.simplify_algebra import operand

KEYS, QUERIES = 1, 2  # axes, from the end
HIDDEN = -1e30  # what is added to hide a key, or less


@dataclass(frozen=True)
class Causality:
    """Query i sees keys up to i + offset. `alone`: is that all that the mask says?"""

    offset: Expr
    alone: bool


@dataclass(frozen=True)
class Places:
    """Numbers that count along an axis, from `start` on."""

    axis: int
    start: Expr


def causality(mask: Node) -> Causality | None:
    """What a mask says of places: a bool one, of keys that are seen, or one that is added."""
    if mask.op == "reshape" and _leads_with_ones(mask.type.shape, operand(mask).type.shape):
        mask = operand(mask)
    if mask.data is not None:
        return _of_constant(mask.data)
    if mask.type.dtype != "bool":
        if mask.op != "where" or number(operand(mask, 2)) != -math.inf:
            return None
        alone = number(operand(mask, 1)) == 0.0
        mask = operand(mask)
    else:
        alone = True
    parts, todo = list[Node](), [mask]
    while todo:
        n = todo.pop()
        if n.op == "and":
            todo += [operand(n, 0), operand(n, 1)]
        elif n.data is None or not n.data.all():
            parts.append(n)
    for n in parts:
        offset = _compared(n)
        if offset is not None:
            return Causality(offset, alone and len(parts) == 1)
    return None


def _leads_with_ones(shape: Sequence[Expr], inner: Sequence[Expr]) -> bool:
    """Is a shape another one behind dims of size 1?"""
    more = len(shape) - len(inner)
    return more > 0 and shape[more:] == inner and all(d is ONE for d in shape[:more])


def number(n: Node) -> float | None:
    """The value of a constant of one element."""
    return float(n.data.reshape(-1)[0]) if n.data is not None and n.data.size == 1 else None


def _of_constant(data: np.ndarray) -> Causality | None:
    """A triangle of keys that are seen, or to which nothing is added."""
    if data.ndim < 2 or not data.size or math.prod(data.shape[:-2]) != 1:
        return None
    queries, keys = data.shape[-2:]
    table = data.reshape(queries, keys)
    seen: np.ndarray = table if table.dtype == np.bool_ else table == 0
    offset = int(seen[0].sum()) - 1
    # A query that saw nothing would have got something of keys that are hidden by a number.
    if offset < 0 or not np.array_equal(seen, np.tri(queries, keys, offset, np.bool_)):
        return None
    if table.dtype != np.bool_ and not (table[~seen] <= HIDDEN).all():
        return None
    return Causality(index(offset), alone=True)


def _compared(n: Node) -> Expr | None:
    """The offset by which a condition compares places."""
    if n.op not in ("less", "less_or_equal", "greater", "greater_or_equal"):
        return None
    a, b = operand(n, 0), operand(n, 1)
    if n.op.startswith("greater"):
        a, b = b, a
    strict = 0 if n.op.endswith("equal") else 1
    left, right = _places(a), _places(b)
    if left and right and (left.axis, right.axis) == (KEYS, QUERIES):
        return sub(sub(right.start, left.start), strict)
    # 0 <= query - key
    low = number(a) if b.op == "sub" else None
    if low is None or not low.is_integer():
        return None
    queries, keys = _places(operand(b, 0)), _places(operand(b, 1))
    if not queries or not keys or (keys.axis, queries.axis) != (KEYS, QUERIES):
        return None
    return sub(sub(queries.start, keys.start), int(low) + strict)


def _places(n: Node) -> Places | None:
    """Numbers that count along one axis, and along no other."""
    if n.data is not None:
        return _counted(n.data)
    if n.op == "range" and n.type.shape[0] is not ONE:
        start, step = n.inputs[0], n.inputs[2]
        first = start.type.value if start is not None else None
        one = step is not None and number(step) == 1.0
        begins = first[0] if first else _whole(start)
        return Places(KEYS, begins) if one and begins is not None else None
    if n.op == "reshape":
        inner = _places(operand(n))
        dims = [k for k, d in enumerate(n.type.shape) if d is not ONE]
        if inner is None or len(dims) != 1:
            return None
        return Places(len(n.type.shape) - dims[0], inner.start)
    if n.op in ("add", "sub"):
        inner, more = _places(operand(n)), _whole(operand(n, 1))
        if inner is None or more is None:
            return None
        return Places(inner.axis, (add if n.op == "add" else sub)(inner.start, more))
    return _places(operand(n)) if n.op in ("cast", "identity") else None


def _whole(n: Node | None) -> Expr | None:
    """An integer that is known, or known as an expression over sizes."""
    if n is None or n.type.dtype not in ("i32", "i64"):
        return None
    if n.type.value is not None:
        return n.type.value[0] if len(n.type.value) == 1 else None
    value = number(n)
    return None if value is None else index(int(value))


def _counted(data: np.ndarray) -> Places | None:
    long = [k for k, size in enumerate(data.shape) if size != 1]
    if data.dtype.kind != "i" or len(long) != 1 or not data.size:
        return None
    flat = data.reshape(-1)
    if not np.array_equal(flat, np.arange(len(flat)) + flat[0]):
        return None
    return Places(data.ndim - long[0], index(int(flat[0])))
