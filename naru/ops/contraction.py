"""Sums of products: `matmul` (numpy's rule) and `conv` (channels first, no padding, no bias).

Half floats are accumulated in f32 and rounded once. With `paired`, operands are i32 that hold two
i16 each, neighbours along the axis that is summed over (see `pairs` in quantized.py), and both
products of each two are added, in i32; with `quads`, four i8.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Binary, Expr, Var
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import ONE, ZERO, add, floordiv, known, mul, sub
from naru.ir.tensor import Tensor
from naru.ops import formula as f
from naru.ops.formula import Term
from naru.ops.operands import (
    Dims,
    broadcast_dims,
    check_equal,
    check_kind,
    check_same_dtype,
    element,
    given,
    ints,
    operand,
    plainest,
    shape_text,
)
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, register
from naru.ops.samples import random

Array = np.ndarray
WIDENED_AT_ONCE = 1 << 22  # elements of a matrix, see _product


def narrow(e: Emit, t: Tensor, dtype: str) -> Tensor:
    """t in a dtype: itself, or one more stage that rounds."""
    if t.dtype == dtype:
        return t
    return e.stage(f"{t.name}_{dtype}", t.shape, lambda *at: f.cast(element(t, at), dtype).expr)


def wide(a: Array) -> Array:
    """An array in the dtype that its sums are kept in."""
    return a.astype(np.float32) if a.dtype.kind in "fV" and a.dtype.itemsize == 2 else a


PACKED = {"paired": 2, "quads": 4}  # numbers in an i32


def packed(attrs: Attrs) -> int:
    """How many numbers each element holds, side by side along the axis that is summed over."""
    return next((n for name, n in PACKED.items() if attrs.get(name)), 1)


def check_packed(op: str, dtype: str, attrs: Attrs) -> None:
    """Pairs and fours are kept in i32."""
    if packed(attrs) > 1 and dtype != "i32":
        raise ModelError(f"{op}: expected {packed(attrs)} numbers in each i32, got {dtype}")


def unpacked(a: Array, axis: int, count: int) -> Array:
    """The numbers in an array of i32, side by side along the axis. As doubles, in which sums of
    their products are exact."""
    kind, bits = (np.int16, 16) if count == 2 else (np.int8, 8)
    parts = [np.right_shift(a, bits * k).astype(kind) for k in range(count)]
    shape = [n * count if k == axis % a.ndim else n for k, n in enumerate(a.shape)]
    return np.stack(parts, axis % a.ndim + 1).reshape(shape).astype(np.float64)


def product(x: Term, y: Term, attrs: Attrs) -> Term:
    """x · y, or the products of what they hold added."""
    count = packed(attrs)
    return x * y if count == 1 else Term(Binary(f"dot{count}", x.expr, y.expr))


def random_pairs(*shape: int, seed: int = 0) -> Array:
    """Two i16 of at most nine bits in each element."""
    halves = np.random.default_rng(seed).integers(-256, 256, (2, *shape), np.int32)
    return (halves[0] & 0xFFFF) | halves[1] << 16


# --- matmul ---------------------------------------------------------------------------------------


def _matrices(a: Dims, b: Dims) -> tuple[Dims, Dims, Dims]:
    """Operands of rank ≥ 2 and the batch dims: a 1-D operand becomes a row, or a column."""
    a2 = (ONE, *a) if len(a) == 1 else a
    b2 = (*b, ONE) if len(b) == 1 else b
    return a2, b2, broadcast_dims("matmul", a2[:-2], b2[:-2])


def infer_matmul(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """[…, m, k] · […, k, n] -> […, m, n]; batch dims broadcast."""
    a, b = operand("matmul", types, 0), operand("matmul", types, 1)
    dtype = check_same_dtype("matmul", (a, b))
    check_kind("matmul", dtype, "fiu")
    check_packed("matmul", dtype, attrs)
    if not a.rank or not b.rank:
        raise ModelError("matmul: an operand is a scalar", hint="use Mul")
    left, right, batch = _matrices(a.shape, b.shape)
    what = f"inner sizes of {shape_text(a.shape)} and {shape_text(b.shape)}"
    check_equal("matmul", what, left[-1], right[-2])
    rows = (left[-2],) if a.rank > 1 else ()
    columns = (right[-1],) if b.rank > 1 else ()
    return (TensorType(dtype, (*batch, *rows, *columns)),)


def ref_matmul(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    a, b = given(arrays), given(arrays, 1)
    if (count := packed(attrs)) > 1:
        exact = np.matmul(unpacked(a, -1, count), unpacked(b, max(b.ndim - 2, 0), count))
        return (np.asarray(exact).astype(np.int64).astype(np.int32),)
    with np.errstate(all="ignore"):
        return (np.asarray(_product(wide(a), wide(b))).astype(a.dtype),)


def _product(a: Array, b: Array) -> Array:
    """a · b. A matrix of narrower floats (see ops/evaluate.py) is widened in parts: whole, weights
    of half a gigabyte would take another one."""
    if a.dtype == b.dtype or b.ndim != 2:
        return np.matmul(a, b)
    parts = np.array_split(b, max(1, b.size // WIDENED_AT_ONCE), axis=1)
    return np.concatenate([np.matmul(a, part.astype(a.dtype)) for part in parts], axis=-1)


def lower_matmul(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """out[batch, m, n] = sum over k of a[batch, m, k] * b[batch, k, n]."""
    a, b = given(ins), given(ins, 1)
    left, right, batch = _matrices(a.shape, b.shape)

    def value(at: tuple[Var, ...], over: tuple[Var, ...]) -> Expr:
        (k,) = over
        rest = list(at[len(batch) :])
        i = (rest.pop(0),) if len(a.shape) > 1 else ()
        j = (rest.pop(0),) if len(b.shape) > 1 else ()
        x = element(a, (*_batch_index(a.shape[:-2], at[: len(batch)]), *i, k))
        y = element(b, (*_batch_index(b.shape[:-2], at[: len(batch)]), k, *j))
        return product(x, y, dict(n.attrs)).expr

    name = f"matmul_{len(e.stages)}"
    out = e.reduce(name, n.type.shape, (plainest(left[-1], right[-2]),), "add", value)
    return (narrow(e, out, n.type.dtype),)


def _batch_index(dims: Dims, at: Sequence[Var]) -> Dims:
    used = at[len(at) - len(dims) :] if dims else ()
    return tuple(ZERO if d is ONE else i for d, i in zip(dims, used, strict=True))


def _matmul_samples() -> Iterable[Sample]:
    for a, b in [
        ((3, 4), (4, 5)), ((1, 1), (1, 1)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (3, 4, 2)),
        ((4,), (4,)), ((4,), (4, 3)), ((3, 4), (4,)), ((2, 3, 4), (4,)), ((4,), (2, 4, 3)),
        ((2, 0), (0, 3)), ((0, 3), (3, 2)), ((1, 3, 4), (2, 4, 2)), ((17, 33), (33, 3)),
    ]:  # fmt: skip
        yield Sample((random(*a), random(*b, seed=1)))
    for dtype in ("i32", "i64", "f16", "bf16", "f64"):
        yield Sample((random(3, 4, dtype=dtype), random(4, 2, dtype=dtype, seed=1)))
    for a, b in [((3, 4), (4, 5)), ((17, 33), (33, 20)), ((2, 3, 4), (2, 4, 5)), ((4,), (4, 3))]:
        yield Sample((random_pairs(*a), random_pairs(*b, seed=1)), {"paired": True})
        yield Sample((random_pairs(*a), random_pairs(*b, seed=1)), {"quads": True})


register(
    Op("matmul", "contraction", infer_matmul, ref_matmul, lower_matmul, samples=_matmul_samples)
)


# --- conv -----------------------------------------------------------------------------------------


def _settings(attrs: Attrs, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """(strides, dilations, group), with their defaults."""
    ones = (1,) * rank
    strides = ints({"strides": attrs.get("strides") or ones}, "strides")
    dilations = ints({"dilations": attrs.get("dilations") or ones}, "dilations")
    return strides, dilations, int(attrs.get("group", 1))


def infer_conv(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, *S], w [M, C/group, *K] -> [N, M, *((S - dilation·(K - 1) - 1) // stride + 1)]."""
    x, w = operand("conv", types, 0), operand("conv", types, 1)
    dtype = check_same_dtype("conv", (x, w))
    check_kind("conv", dtype, "fiu")
    check_packed("conv", dtype, attrs)
    if x.rank < 3 or w.rank != x.rank:
        raise ModelError(
            f"conv: expected x of rank 3 to 5 and w of the same rank, "
            f"got {shape_text(x.shape)} and {shape_text(w.shape)}"
        )
    rank = x.rank - 2
    strides, dilations, group = _settings(attrs, rank)
    if len(strides) != rank or len(dilations) != rank or min(*strides, *dilations, group) < 1:
        raise ModelError(
            f"conv: strides {strides}, dilations {dilations}, group {group} don't fit rank {rank}"
        )
    check_equal("conv", "channels of x and of w times group", x.shape[1], mul(w.shape[1], group))
    filters = known(w.shape[0])
    if filters is not None and filters % group:
        raise ModelError(f"conv: {filters} filters cannot be divided into {group} groups")
    spatial = [
        window_count("conv", s, k, stride, dilation)
        for s, k, stride, dilation in zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True)
    ]
    return (TensorType(dtype, (x.shape[0], w.shape[0], *spatial)),)


def window_count(op: str, size: Expr, kernel: Expr, stride: int, dilation: int) -> Expr:
    """How many windows of `kernel` taps fit into `size`."""
    last = sub(sub(size, mul(sub(kernel, 1), dilation)), 1)
    count = add(floordiv(last, stride), 1)
    n = known(count)
    if n is not None and n < 0:
        raise ModelError(
            f"{op}: the window is larger than the input: {shape_text([kernel])} taps "
            f"with dilation {dilation} over {shape_text([size])}"
        )
    return count


def ref_conv(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    """One matrix product an image and group, over the windows laid out as columns."""
    x, w = given(arrays), given(arrays, 1)
    if (numbers := packed(attrs)) > 1:
        plain = {k: v for k, v in attrs.items() if k not in PACKED}
        (exact,) = ref_conv((unpacked(x, 1, numbers), unpacked(w, 1, numbers)), plain)
        return (exact.astype(np.int64).astype(np.int32),)
    strides, dilations, group = _settings(attrs, x.ndim - 2)
    kernel = w.shape[2:]
    out_size = [
        (s - d * (k - 1) - 1) // t + 1
        for s, k, t, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    channels, filters, taps = x.shape[1] // group, w.shape[0] // group, math.prod(kernel)
    images = wide(x).reshape(x.shape[0], group, channels, *x.shape[2:])
    rows = wide(w).reshape(group, filters, channels * taps)
    columns = np.empty((group, channels, taps, *out_size), images.dtype)
    out = np.empty((x.shape[0], group, filters, math.prod(out_size)), images.dtype)
    for image, result in zip(images, out, strict=True):
        for tap, at in enumerate(itertools.product(*map(range, kernel))):
            window = tuple(
                slice(k * d, k * d + (o - 1) * t + 1 if o else k * d, t)
                for k, d, o, t in zip(at, dilations, out_size, strides, strict=True)
            )
            columns[:, :, tap] = image[(slice(None), slice(None), *window)]
        np.matmul(rows, columns.reshape(group, channels * taps, result.shape[-1]), out=result)
    return (out.reshape(x.shape[0], w.shape[0], *out_size).astype(x.dtype),)


def lower_conv(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """out[n, m, *o] = sum over (*k, c) of x[n, g·C/group + c, *(o·stride + k·dilation)] · w[m,c,*k]
    with g the group of filter m. Channels are innermost."""
    x, w = given(ins), given(ins, 1)
    strides, dilations, group = _settings(dict(n.attrs), len(x.shape) - 2)
    channels, filters = w.shape[1], floordiv(w.shape[0], group)

    def value(at: tuple[Var, ...], over: tuple[Var, ...]) -> Expr:
        image, m, *o = at
        *k, c = over
        source: Expr = c if group == 1 else add(mul(floordiv(m, filters), channels), c)
        place = [
            add(mul(oi, s), mul(ki, d))
            for oi, ki, s, d in zip(o, k, strides, dilations, strict=True)
        ]
        a, b = element(x, (image, source, *place)), element(w, (m, c, *k))
        return product(a, b, dict(n.attrs)).expr

    name = f"conv_{len(e.stages)}"
    out = e.reduce(name, n.type.shape, (*w.shape[2:], channels), "add", value)
    return (narrow(e, out, n.type.dtype),)


def _conv_samples() -> Iterable[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, ...], Attrs]] = [
        ((1, 3, 5, 6), (4, 3, 3, 3), {}),
        ((2, 3, 7, 7), (2, 3, 3, 3), {"strides": (2, 2)}),
        ((1, 2, 8, 7), (3, 2, 3, 2), {"strides": (1, 2), "dilations": (2, 3)}),
        ((1, 4, 5, 5), (6, 2, 3, 3), {"group": 2}),
        ((1, 4, 5, 5), (4, 1, 3, 3), {"group": 4}),  # depthwise
        ((1, 2, 4, 4), (4, 1, 2, 2), {"group": 2}),  # depthwise with a multiplier
        ((1, 5, 4, 3), (7, 5, 1, 1), {}),
        ((2, 3, 9), (4, 3, 4), {"strides": (3,)}),
        ((1, 2, 3, 4, 5), (2, 2, 2, 2, 2), {"strides": (1, 2, 2)}),
        ((1, 1, 1, 1), (1, 1, 1, 1), {}),
        ((0, 3, 5, 6), (4, 3, 3, 3), {}),
        ((1, 3, 2, 2), (4, 3, 3, 2), {}),  # no window fits: an empty result
    ]
    for x, w, attrs in cases:
        yield Sample((random(*x), random(*w, seed=1)), attrs)
    yield Sample((random(1, 3, 5, 5, dtype="f16"), random(2, 3, 3, 3, dtype="f16", seed=1)))
    pairs = {"paired": True}
    yield Sample((random_pairs(1, 3, 5, 6), random_pairs(4, 3, 3, 3, seed=1)), pairs)
    yield Sample((random_pairs(1, 4, 5, 5), random_pairs(6, 2, 3, 3, seed=1)), {"group": 2} | pairs)
    yield Sample((random_pairs(1, 3, 5, 6), random_pairs(4, 3, 3, 3, seed=1)), {"quads": True})


register(Op("conv", "contraction", infer_conv, ref_conv, lower_conv, samples=_conv_samples))
