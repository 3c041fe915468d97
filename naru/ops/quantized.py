"""Small integers two by two in i32, as the sums of products of contraction.py take them: `pairs`
along any axis, and `pair_view` for i16 that are neighbours in memory; and four by four, `quads` and
`quad_view` for i8.

x86 multiplies 16 pairs of i16 and adds each two products in one instruction; that is twice the
products that floats have. Operands of 8 bits, less their zero points, fit i16.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import add, ceildiv, compare, floordiv, known, minimum, mul, sub
from naru.ir.tensor import Tensor
from naru.ops import formula as f
from naru.ops.formula import Term
from naru.ops.operands import (
    axis_of,
    broadcast_dims,
    broadcast_read,
    given,
    operand,
    optional,
    shape_text,
)
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, read, register

Array = np.ndarray
TAKEN = ("u8", "i8", "i16")


def infer_pairs(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x (u8, i8, i16) and a zero point that broadcasts to it -> i32, the axis half as long: element
    k holds x[2k] - zero in its low half and x[2k + 1] - zero in the high one, 0 where x ends."""
    x, zero = operand("pairs", types, 0), optional(types, 1)
    if x.dtype not in TAKEN:
        raise ModelError(f"pairs: expected one of {', '.join(TAKEN)}, got {x.dtype}")
    if zero is not None and (zero.dtype not in TAKEN or zero.rank > x.rank):
        raise ModelError(
            f"pairs: expected a zero point of {', '.join(TAKEN)} and at most rank {x.rank}, "
            f"got {zero.dtype}{shape_text(zero.shape)}"
        )
    if zero is not None:
        broadcast_dims("pairs", x.shape, zero.shape)
    axis = axis_of("pairs", attrs["axis"], x.rank)
    half = ceildiv(x.shape[axis], 2)
    return (TensorType("i32", (*x.shape[:axis], half, *x.shape[axis + 1 :])),)


def ref_pairs(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays).astype(np.int32)
    zero, axis = arrays[1] if len(arrays) > 1 else None, attrs["axis"] % x.ndim
    x = x if zero is None else x - zero.astype(np.int32)
    if x.shape[axis] % 2:
        x = np.pad(x, [(0, int(k == axis)) for k in range(x.ndim)])
    even, odd = (x[(slice(None),) * axis + (slice(start, None, 2),)] for start in (0, 1))
    return ((even & 0xFFFF) | odd << 16,)


def lower_pairs(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    x, zero = given(ins), ins[1] if len(ins) > 1 else None
    axis = axis_of("pairs", n.attr("axis"), len(x.shape))
    size, count = x.shape[axis], known(x.shape[axis])

    def half(at: Sequence[Expr], k: Expr) -> Term:
        place = (*at[:axis], k, *at[axis + 1 :])
        value = f.cast(Term(read(x, *place)), "i32")
        return value if zero is None else value - f.cast(Term(broadcast_read(zero, place)), "i32")

    def value(*at: Expr) -> Expr:
        first = mul(at[axis], 2)
        second = add(first, 1)
        low = half(at, first) & 0xFFFF
        if count is not None and count % 2 == 0:
            return (low | half(at, second) << 16).expr
        high = half(at, minimum(second, sub(size, 1)))
        high = f.where(Term(compare("lt", second, size)), high, 0)
        return (low | high << 16).expr

    return (e.stage(f"pairs_{len(e.stages)}", n.type.shape, value, "i32"),)


def _pairs_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(0)
    for shape, axis in (((3, 4), 1), ((3, 5), -1), ((5, 3), 0), ((2, 3, 4, 5), 1), ((1,), 0),
                        ((0, 4), 1), ((4, 0), 1), ((7, 40), 1)):  # fmt: skip
        for dtype in ("u8", "i8"):
            kind = np.dtype("uint8" if dtype == "u8" else "int8")
            info = np.iinfo(kind)
            x = rng.integers(info.min, info.max + 1, shape).astype(kind)
            yield Sample((x,), {"axis": axis})
            yield Sample((x, np.array(info.max - 3, kind)), {"axis": axis})
    x = rng.integers(0, 256, (3, 6)).astype(np.uint8)
    yield Sample((x, rng.integers(0, 256, (3, 1)).astype(np.uint8)), {"axis": 1})
    yield Sample((x, rng.integers(0, 256, 6).astype(np.uint8)), {"axis": 0})
    yield Sample((x, rng.integers(0, 256, 6).astype(np.uint8)), {"axis": 1})
    yield Sample((np.array([-32768, 32767, 5], np.int16),), {"axis": 0})


register(Op("pairs", "index", infer_pairs, ref_pairs, lower_pairs, samples=_pairs_samples))


# --- pair_view ------------------------------------------------------------------------------------


def infer_pair_view(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """i16 [..., 2n] -> i32 [..., n] of the same bytes: the first of two is the low half, as every
    target is little-endian."""
    x = operand("pair_view", types, 0)
    if x.dtype != "i16" or not x.rank or (known(x.shape[-1]) or 0) % 2:
        raise ModelError(
            f"pair_view: expected i16 with an even last dim, got {x.dtype}{shape_text(x.shape)}"
        )
    return (TensorType("i32", (*x.shape[:-1], floordiv(x.shape[-1], 2))),)


def ref_pair_view(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return ref_pairs((given(arrays),), {"axis": -1})


def lower_pair_view(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    x = given(ins)

    def value(*at: Expr) -> Expr:
        low, high = (f.cast(Term(read(x, *at[:-1], add(mul(at[-1], 2), k))), "i32") for k in (0, 1))
        return (low & 0xFFFF | high << 16).expr

    return (e.stage(f"pair_view_{len(e.stages)}", n.type.shape, value, "i32"),)


def _pair_view_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(1)
    for shape in ((2,), (3, 4), (2, 3, 6), (0, 2), (3, 0)):
        yield Sample((rng.integers(-32768, 32768, shape).astype(np.int16),))


register(
    Op("pair_view", "view", infer_pair_view, ref_pair_view, lower_pair_view,
       samples=_pair_view_samples)
)  # fmt: skip


# --- quads, quad_view -----------------------------------------------------------------------------


def infer_quads(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x (i8) -> i32, the axis a quarter as long: element k holds x[4k] to x[4k + 3], the first in
    its lowest byte, and 0 where x ends."""
    x = operand("quads", types, 0)
    if x.dtype != "i8":
        raise ModelError(f"quads: expected i8, got {x.dtype}")
    axis = axis_of("quads", attrs["axis"], x.rank)
    quarter = ceildiv(x.shape[axis], 4)
    return (TensorType("i32", (*x.shape[:axis], quarter, *x.shape[axis + 1 :])),)


def ref_quads(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays)
    axis = attrs["axis"] % x.ndim
    x = np.pad(x, [(0, -n % 4 if k == axis else 0) for k, n in enumerate(x.shape)])
    groups = np.ascontiguousarray(np.moveaxis(x, axis, -1)).view("<i4")
    return (np.ascontiguousarray(np.moveaxis(groups, -1, axis)),)


def lower_quads(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    x = given(ins)
    axis = axis_of("quads", n.attr("axis"), len(x.shape))
    size, count = x.shape[axis], known(x.shape[axis])

    def byte(at: Sequence[Expr], place: int) -> Term:
        k = add(mul(at[axis], 4), place)
        inside = k if count is not None and count % 4 == 0 else minimum(k, sub(size, 1))
        v = f.cast(Term(read(x, *at[:axis], inside, *at[axis + 1 :])), "i32") & 0xFF
        return (v if inside is k else f.where(Term(compare("lt", k, size)), v, 0)) << 8 * place

    def value(*at: Expr) -> Expr:
        return (byte(at, 0) | byte(at, 1) | byte(at, 2) | byte(at, 3)).expr

    return (e.stage(f"quads_{len(e.stages)}", n.type.shape, value, "i32"),)


def _quads_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(0)
    for shape, axis in (((3, 4), 1), ((3, 5), -1), ((6, 3), 0), ((2, 3, 8, 5), 2), ((1,), 0),
                        ((0, 4), 1), ((4, 0), 1), ((7, 40), 1)):  # fmt: skip
        yield Sample((rng.integers(-128, 128, shape).astype(np.int8),), {"axis": axis})


register(Op("quads", "index", infer_quads, ref_quads, lower_quads, samples=_quads_samples))


def infer_quad_view(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """i8 [..., 4n] -> i32 [..., n] of the same bytes."""
    x = operand("quad_view", types, 0)
    if x.dtype != "i8" or not x.rank or (known(x.shape[-1]) or 0) % 4:
        raise ModelError(
            f"quad_view: expected i8 and a last dim of fours, got {x.dtype}{shape_text(x.shape)}"
        )
    return (TensorType("i32", (*x.shape[:-1], floordiv(x.shape[-1], 4))),)


def ref_quad_view(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return ref_quads(arrays, {"axis": -1})


def lower_quad_view(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    x = given(ins)

    def value(*at: Expr) -> Expr:
        a, b, c, d = (
            (f.cast(Term(read(x, *at[:-1], add(mul(at[-1], 4), k))), "i32") & 0xFF) << 8 * k
            for k in range(4)
        )
        return (a | b | c | d).expr

    return (e.stage(f"quad_view_{len(e.stages)}", n.type.shape, value, "i32"),)


def _quad_view_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(1)
    for shape in ((4,), (3, 8), (2, 3, 12), (0, 4), (3, 0)):
        yield Sample((rng.integers(-128, 128, shape).astype(np.int8),))


register(
    Op("quad_view", "view", infer_quad_view, ref_quad_view, lower_quad_view,
       samples=_quad_view_samples)
)  # fmt: skip
