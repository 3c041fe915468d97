"""Symbolic contents of small integer tensors (`TensorType.value`), so that what a model computes
from shapes is known at compile time: Shape → Gather → Mul → Concat → Reshape leaves no code.

Values are index expressions, one an element in row-major order; a bool is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from naru.ir import simplify
from naru.ir.expr import Const, Expr
from naru.ir.graph import TensorType
from naru.ir.simplify import bounds, compare, known
from naru.ops.registry import Attrs, Ref

LIMIT = 64  # elements
MAX_RANK = 32  # what numpy broadcasts
DTYPES_WITH_VALUES = ("i64", "i32", "bool")
ValueRule = Callable[..., Expr | None]


def as_objects(t: TensorType) -> np.ndarray | None:
    """The value as an array of expressions in the tensor's shape; None where it is not known."""
    shape = [known(d) for d in t.shape]
    if t.value is None or None in shape:
        return None
    out = np.empty(len(t.value), object)
    out[:] = t.value
    return out.reshape([n for n in shape if n is not None])


def as_ints(t: TensorType) -> np.ndarray | None:
    """The value as an i64 array; None unless every element is a constant."""
    objects = as_objects(t)
    if objects is None or not all(isinstance(e, Const) for e in objects.flat):
        return None
    return np.array([int(e.value) for e in objects.flat], np.int64).reshape(objects.shape)


def is_small(t: TensorType) -> bool:
    """May its elements be kept in the type?"""
    count = known(simplify.prod(t.shape))
    return count is not None and count <= LIMIT and t.rank <= MAX_RANK


def with_value(t: TensorType, value: Sequence[Expr | None] | None) -> TensorType:
    """t with its elements known, unless one of them is not or there are too many."""
    if value is None or len(value) > LIMIT or t.dtype not in DTYPES_WITH_VALUES:
        return t
    parts = [v for v in value if v is not None]
    return TensorType(t.dtype, t.shape, t.layout, tuple(parts)) if len(parts) == len(value) else t


def combine(rule: ValueRule, operands: Sequence[TensorType]) -> list[Expr | None] | None:
    """An elementwise rule over broadcast values; None where an operand is not known."""
    arrays = [a for a in map(as_objects, operands) if a is not None]
    if len(arrays) != len(operands):
        return None
    aligned = np.broadcast_arrays(*arrays)
    if aligned[0].size > LIMIT:
        return None
    return [rule(*elements) for elements in zip(*(a.flat for a in aligned), strict=True)]


def moved(
    ref: Ref, data: Sequence[TensorType], attrs: Attrs, rest: Sequence[np.ndarray] = ()
) -> list[Expr | None] | None:
    """The value of an op that only moves elements: its own meaning, run on arrays of expressions.
    `rest` are further operands (indices), known as numbers."""
    arrays = [as_objects(t) for t in data]
    if any(a is None for a in arrays) or not all(map(_is_known, attrs.values())):
        return None
    # (np.take at a scalar position gives the element itself, not an array)
    return list(np.asarray(ref([*arrays, *rest], attrs)[0], object).flat)


def _is_known(attr: Any) -> bool:
    """Is there no size in an attribute that is known at run time only?"""
    if isinstance(attr, tuple):
        return all(map(_is_known, cast("tuple[Any, ...]", attr)))
    return not isinstance(attr, Expr) or known(attr) is not None


def _same(a: Expr) -> Expr:
    return a


def _neg(a: Expr) -> Expr:
    return simplify.mul(a, -1)


def _abs(a: Expr) -> Expr:
    return simplify.maximum(a, _neg(a))


def _truncating_div(a: Expr, b: Expr) -> Expr | None:
    x, y = known(a), known(b)
    if x is not None and y:
        return Const(abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1))
    if bounds(a)[0] >= 0 and bounds(b)[0] > 0:
        return simplify.floordiv(a, b)
    return None


def _floor_mod(a: Expr, b: Expr) -> Expr | None:
    constant = known(a) is not None and known(b)
    return simplify.mod(a, b) if constant or bounds(b)[0] > 0 else None


def _compare(op: str) -> ValueRule:
    def rule(a: Expr, b: Expr) -> Expr | None:
        verdict = compare(op, a, b)
        return Const(int(verdict.value)) if isinstance(verdict, Const) else None

    return rule


def _both(a: Expr, b: Expr) -> Expr | None:
    x, y = known(a), known(b)
    return None if x is None or y is None else Const(int(bool(x and y)))


def _either(a: Expr, b: Expr) -> Expr | None:
    x, y = known(a), known(b)
    return None if x is None or y is None else Const(int(bool(x or y)))


def _not(a: Expr) -> Expr | None:
    x = known(a)
    return None if x is None else Const(int(not x))


def _where(cond: Expr, a: Expr, b: Expr) -> Expr | None:
    x = known(cond)
    return None if x is None else a if x else b


RULES: dict[str, ValueRule] = {
    "add": simplify.add,
    "sub": simplify.sub,
    "mul": simplify.mul,
    "div": _truncating_div,
    "min": simplify.minimum,
    "max": simplify.maximum,
    "neg": _neg,
    "abs": _abs,
    "identity": _same,
    "equal": _compare("eq"),
    "less": _compare("lt"),
    "less_or_equal": _compare("le"),
    "greater": _compare("gt"),
    "greater_or_equal": _compare("ge"),
    "and": _both,
    "or": _either,
    "not": _not,
    "where": _where,
    "floor_mod": _floor_mod,
}
REDUCE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "reduce_sum": simplify.add,
    "reduce_prod": simplify.mul,
    "reduce_min": simplify.minimum,
    "reduce_max": simplify.maximum,
}
