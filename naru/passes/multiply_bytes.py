"""Sums of products of 8-bit integers in fours, for targets that multiply bytes.

Front ends subtract zero points and put two numbers of 16 bits in an i32 (`pairs`). Where a target
has instructions for sums of four products of i8, the bytes are multiplied as they are, and the zero
points come in afterwards:

    sum (a - za)·(b - zb) = sum a·b - za·(sum b - K·zb) - zb·sum a

Unsigned numbers, and their zero points, become signed by subtracting 128. All is exact in i32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from naru.ir.expr import Const, Expr
from naru.ir.graph import Graph, Node, make_constant
from naru.ir.simplify import ZERO, known
from naru.ops.registry import apply
from naru.passes.registry import graph_pass
from naru.passes.rewrite import rewrite

BYTES = ("u8", "i8")
FOUR = 4


@graph_pass
def multiply_bytes(g: Graph) -> Graph:
    """matmul and conv of pairs that come from bytes become those of fours. Others stay: sizes that
    are not known, convolutions whose zero points are computed, or not 0 for the weights."""
    return rewrite(g, _in_fours)


def _in_fours(n: Node) -> Node:
    made = None
    if n.op in ("matmul", "conv") and n.attr("paired"):
        made = _matmul(n) if n.op == "matmul" else _conv(n)
    return made or n


@dataclass(frozen=True)
class Bytes:
    """8-bit numbers as i8, their zero point as i32 (None: 0), and what a pad node put around."""

    x: Node
    zero: Node | None
    pads: tuple[Expr, ...] | None = None


def _signed(x: Node, zero: Node | None) -> Bytes:
    """Bytes and their zero point, both less 128 if they are unsigned."""
    offset = 128 if x.type.dtype == "u8" else 0
    if zero is not None and zero.data is not None:
        zero = make_constant(zero.data.astype(np.int32) - np.int32(offset))
        zero = zero if zero.data is not None and zero.data.any() else None
    elif zero is not None:
        zero = apply("sub", apply("cast", zero, to="i32"), _number(offset))
    elif offset:
        zero = _number(-offset)
    if offset:
        x = apply("cast", apply("sub", apply("cast", x, to="i16"), _number(offset, "i16")), to="i8")
    return Bytes(x, zero)


def _number(value: int, dtype: str = "i32") -> Node:
    return make_constant(np.array(value, np.int32 if dtype == "i32" else np.int16))


def _left(view: Node | None) -> Bytes | None:
    """The bytes below pair_view(pad(cast(x) - cast(zero))); without the pad or the zero, too."""
    if view is None or view.op != "pair_view":
        return None
    pads: tuple[Expr, ...] | None = None
    x = view.inputs[0]
    if x is not None and x.op == "pad":
        pads, x = x.attr("pads"), x.inputs[0]  # pyright: ignore[reportAssignmentType]
    zero: Node | None = None
    if x is not None and x.op == "sub":
        x, zero = x.inputs[0], _widened(x.inputs[1])
        if zero is None:
            return None
    x = _widened(x)
    if x is None:
        return None
    made = _signed(x, zero)
    return Bytes(made.x, made.zero, pads)


def _widened(n: Node | None) -> Node | None:
    """The 8-bit operand of a cast to i16."""
    source = n.inputs[0] if n is not None and n.op == "cast" else None
    return source if source is not None and source.type.dtype in BYTES else None


def _right(pairs: Node | None) -> Bytes | None:
    if pairs is None or pairs.op != "pairs" or pairs.inputs[0] is None:
        return None
    x, zero = pairs.inputs[0], pairs.inputs[1] if len(pairs.inputs) > 1 else None
    if x.type.dtype not in BYTES or (zero is not None and zero.type.dtype not in BYTES):
        return None
    return _signed(x, zero)


# --- matrices -------------------------------------------------------------------------------------


def _matmul(n: Node) -> Node | None:
    a, b = _left(n.inputs[0]), _right(n.inputs[1])
    if a is None or b is None or a.x.type.rank < 2 or b.x.type.rank < 2:
        return None
    down = b.x.type.rank - 2
    size = known(a.x.type.shape[-1])
    assert size is not None, "pairs are made of known sizes"
    rows = _around(a.x, None, -size % FOUR, 0)
    total = apply(
        "matmul",
        apply("quad_view", rows),
        apply("quads", b.x, axis=down),
        quads=True,
    )
    if a.zero is not None:
        sums = _sum(b.x, (down,))
        if b.zero is not None:
            sums = apply("sub", sums, apply("mul", b.zero, _number(size)))
        total = apply("sub", total, apply("mul", a.zero, sums))
    if b.zero is not None:
        sums = _sum(a.x, (a.x.type.rank - 1,))
        total = apply("sub", total, apply("mul", b.zero, sums))
    return total


def _sum(x: Node, axes: tuple[int, ...]) -> Node:
    return apply("reduce_sum", apply("cast", x, to="i32"), axes=axes, keepdims=True)


def _around(x: Node, pads: tuple[Expr, ...] | None, more: int, value: int) -> Node:
    """x with what a pad node puts around it, `more` elements at the end of its last axis."""
    rank = x.type.rank
    around = list(pads or [ZERO] * (2 * rank))
    around[-1] = Const(more)
    if all(p is ZERO for p in around):
        return x
    return apply("pad", x, pads=tuple(around), mode="constant", value=value)


# --- convolutions ---------------------------------------------------------------------------------


def _conv(n: Node) -> Node | None:
    """x [N, spatial…, C] is what is in pairs, and a transpose puts its channels first."""
    first = n.inputs[0]
    if first is None or first.op != "transpose":
        return None
    x, w = _left(first.inputs[0]), _right(n.inputs[1])
    if x is None or w is None or w.zero is not None:
        return None
    zero = None if x.zero is None else x.zero.data
    if (x.zero is not None and zero is None) or (zero is not None and zero.size != 1):
        return None
    group, channels = n.attr("group"), known(x.x.type.shape[-1])
    assert isinstance(group, int)
    assert channels is not None, "pairs are made of known sizes"
    more = -channels % FOUR
    if group > 1 and channels // group % FOUR:
        return None
    value = 0 if zero is None else int(zero.reshape(-1)[0])
    view = apply("quad_view", _around(x.x, x.pads, more, value))
    attrs = {k: v for k, v in n.attrs if k != "paired"}
    total = apply(
        "conv",
        apply("transpose", view, **dict(first.attrs)),
        apply("quads", w.x, axis=1),
        **attrs,
        quads=True,
    )
    if not value:
        return total
    rank = w.x.type.rank
    sums = apply("mul", _sum(w.x, tuple(range(1, rank))), _number(value))
    shape = (w.x.type.shape[0], *[1] * (rank - 2))
    return apply("sub", total, apply("reshape", sums, shape=tuple(map(_size, shape))))


def _size(n: Expr | int) -> Expr:
    return Const(n) if isinstance(n, int) else n
