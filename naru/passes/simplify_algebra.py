"""Removes nodes that change nothing, or together change nothing.

One function a rule, in a table by op; a rule returns the simpler node, or None where it doesn't
apply. What a rule returns is looked at again, so chains collapse.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from naru.dtypes import DTYPES, TINY
from naru.ir.expr import Expr
from naru.ir.graph import Graph, Node
from naru.ir.simplify import ONE, ZERO, known
from naru.ops.registry import apply, constant
from naru.passes.registry import graph_pass
from naru.passes.rewrite import rewrite

Rule = Callable[[Node], "Node | None"]


@graph_pass
def simplify_algebra(g: Graph) -> Graph:
    """x + 0, x · 1, casts to the same dtype, double transposes, reshapes of reshapes, empty pads,
    selections that are decided, and the like. Exact, but that x + 0 keeps the sign of a zero, and
    that a smooth function of x / c is one of x · (1/c), which is off by an ulp."""
    return rewrite(g, _simplify, repeat=True)


def _simplify(n: Node) -> Node:
    for rule in RULES.get(n.op, ()):
        found = rule(n)
        if found is not None and found is not n:
            return found
    return n


def operand(n: Node, i: int = 0) -> Node:
    """Operand i, which the op requires."""
    found = n.inputs[i]
    assert found is not None
    return found


def _same_type(a: Node, b: Node) -> bool:
    """May b stand where a stood? (What is known of the contents may differ.)"""
    x, y = a.type, b.type
    return x.dtype == y.dtype and x.shape == y.shape and x.layout is y.layout


def _is_all(n: Node, value: float) -> bool:
    """Is it a constant with this value in every element?"""
    data = n.data
    if data is None or not data.size or data.dtype == np.bool_:
        return False
    flat = data.reshape(-1)
    return bool(flat[0] == value) and bool((flat == value).all())


def neutral(value: float, *, left: bool) -> Rule:
    """The rule for an op with a neutral element at the right, or on both sides (`left`)."""

    def rule(n: Node) -> Node | None:
        a, b = operand(n, 0), operand(n, 1)
        if _same_type(n, a) and _is_all(b, value):
            return a
        return b if left and _same_type(n, b) and _is_all(a, value) else None

    return rule


def first_if_same(n: Node) -> Node | None:
    """For ops that do nothing when the type stays as it is."""
    return operand(n) if _same_type(n, operand(n)) else None


def always_first(n: Node) -> Node | None:
    return operand(n)


def undo_twice(n: Node) -> Node | None:
    """f(f(x)) is x."""
    x = operand(n)
    return operand(x) if x.op == n.op else None


def twice_is_once(n: Node) -> Node | None:
    """f(f(x)) is f(x)."""
    return operand(n) if operand(n).op == n.op else None


def cast_there_and_back(n: Node) -> Node | None:
    """Through a wider dtype and back to the same one."""
    x = operand(n)
    if x.op != "cast":
        return None
    source = operand(x)
    if source.type.dtype != n.type.dtype or not holds(x.type.dtype, source.type.dtype):
        return None
    return source


def holds(wide: str, narrow: str) -> bool:
    """Has `wide` every value of `narrow`?"""
    a, b = DTYPES[wide], DTYPES[narrow]
    if b.kind == "b":
        return True
    if b.name in TINY and b.kind == "f" and a is not b:
        return wide in ("f32", "f64")
    if a.kind == b.kind:
        halves = {wide, narrow} == {"f16", "bf16"}
        return a.bits >= b.bits and not halves
    digits = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
    if a.kind == "f":
        return digits.get(wide, 0) >= b.bits
    return a.kind == "i" and b.kind == "u" and a.bits > b.bits


def transpose_of_transpose(n: Node) -> Node | None:
    x = operand(n)
    if x.op != "transpose":
        return None
    first, second = _axes(x, "perm"), _axes(n, "perm")
    return apply("transpose", operand(x), perm=tuple(first[k] for k in second))


def _axes(n: Node, name: str) -> tuple[int, ...]:
    value = n.attr(name)
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)  # type: ignore[arg-type]


def transpose_as_reshape(n: Node) -> Node | None:
    """Axes of size 1 may go anywhere without a move of elements."""
    x = operand(n)
    perm = _axes(n, "perm")
    if perm == tuple(range(len(perm))):
        return x
    moved = [k for k in perm if x.type.shape[k] is not ONE]
    return apply("reshape", x, shape=n.type.shape) if moved == sorted(moved) else None


def reshape_of_reshape(n: Node) -> Node | None:
    x = operand(n)
    return apply("reshape", operand(x), shape=n.type.shape) if x.op == "reshape" else None


def expand_as_reshape(n: Node) -> Node | None:
    """New axes of size 1 only."""
    x = operand(n)
    more = n.type.rank - x.type.rank
    fits = n.type.shape[more:] == x.type.shape and all(d is ONE for d in n.type.shape[:more])
    return apply("reshape", x, shape=n.type.shape) if fits else None


def expand_of_expand(n: Node) -> Node | None:
    x = operand(n)
    return apply("expand", operand(x), shape=n.type.shape) if x.op == "expand" else None


def whole_slice(n: Node) -> Node | None:
    """Step 1 and as many elements as there are."""
    steps = n.attr("steps")
    ones = not isinstance(steps, tuple) or all(s == 1 for s in steps)
    return operand(n) if ones and _same_type(n, operand(n)) else None


def pad_of_nothing(n: Node) -> Node | None:
    pads = n.attr("pads")
    assert isinstance(pads, tuple)
    return operand(n) if all(p in (0, ZERO) for p in pads) else None


def concat_of_parts(n: Node) -> Node | None:
    """One part is itself; parts without elements are left out."""
    if len(n.inputs) == 1:
        return operand(n)
    axis = n.attr("axis", 0)
    assert isinstance(axis, int)
    parts = [p for p in n.inputs if p is not None and _size(p, axis) != 0]
    if not parts or len(parts) == len(n.inputs):
        return None
    return apply("concat", *parts, **dict(n.attrs))


def _size(n: Node, axis: int) -> int | None:
    size: Expr = n.type.shape[axis]
    return known(size)


def decided_where(n: Node) -> Node | None:
    """The condition is one constant, or both sides are one node."""
    cond, a, b = operand(n, 0), operand(n, 1), operand(n, 2)
    data = cond.data
    if a is b:
        chosen = a
    elif data is not None and data.size and (data == data.reshape(-1)[0]).all():
        chosen = a if data.reshape(-1)[0] else b
    else:
        return None
    return chosen if _same_type(n, chosen) else apply("expand", chosen, shape=n.type.shape)


def clip_without_bounds(n: Node) -> Node | None:
    return operand(n) if all(b is None for b in n.inputs[1:]) else None


def reduce_nothing(n: Node) -> Node | None:
    return operand(n) if n.attr("axes") == () else None


def smooth_of_quotient(n: Node) -> Node | None:
    """f(x / c) is f(x · (1/c)) for a smooth f: a division takes as long as ten multiplications. Not
    where f has steps: 49 · (1/49) is less than 1; nor of f64, which models ask for to be exact (a
    softmax of large scores multiplies their last bit)."""
    x = operand(n)
    if x.op != "div" or x.type.dtype != "f32":
        return None
    c = operand(x, 1).data
    if c is None or not c.size or not np.isfinite(c).all() or (np.abs(c) < 1e-30).any():
        return None
    factor = (1 / c.astype(np.float64)).astype(c.dtype)
    if (np.abs(factor) < 1e-30).any():
        return None
    product = apply("mul", operand(x), constant(factor, factor.dtype))
    return apply(n.op, product, *n.inputs[1:], **dict(n.attrs))


RULES: dict[str, tuple[Rule, ...]] = {
    "identity": (always_first,),
    "add": (neutral(0, left=True),),
    "sub": (neutral(0, left=False),),
    "mul": (neutral(1, left=True),),
    "div": (neutral(1, left=False),),
    "pow": (neutral(1, left=False),),
    "neg": (undo_twice,),
    "not": (undo_twice,),
    "bitwise_not": (undo_twice,),
    "abs": (twice_is_once,),
    "relu": (twice_is_once,),
    "cast": (first_if_same, cast_there_and_back),
    "transpose": (transpose_as_reshape, transpose_of_transpose),
    "reshape": (first_if_same, reshape_of_reshape),
    "expand": (first_if_same, expand_as_reshape, expand_of_expand),
    "tile": (first_if_same,),
    "slice": (whole_slice,),
    "pad": (pad_of_nothing,),
    "concat": (concat_of_parts,),
    "where": (decided_where,),
    "clip": (clip_without_bounds,),
    **dict.fromkeys(("erf", "exp", "sigmoid", "softmax", "tanh"), (smooth_of_quotient,)),
    **{f"reduce_{k}": (reduce_nothing,) for k in ("sum", "mean", "max", "min", "prod")},
}
