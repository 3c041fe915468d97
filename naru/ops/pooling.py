"""Pooling over spatial windows. attrs: kernel_shape, strides, dilations, pads (begins, then ends),
ceil_mode, count_include_pad. x is [N, C, *S].

Padding stays inside: a position outside x is clamped and its value replaced."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from naru.dtypes import is_float
from naru.errors import ModelError
from naru.ir.expr import Expr, Read, Var
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import (
    TRUE,
    add,
    ceildiv,
    compare,
    floordiv,
    index,
    known,
    logical_and,
    maximum,
    minimum,
    mul,
    sub,
)
from naru.ir.tensor import Tensor, identity
from naru.ops import formula as f
from naru.ops.contraction import narrow, wide
from naru.ops.formula import Term
from naru.ops.operands import check_kind, element, ints, operand, shape_text, size_as
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, apply, register
from naru.ops.samples import random

Array = np.ndarray


@dataclass(frozen=True)
class Window:
    """The settings of one spatial axis."""

    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    ceil: bool

    @property
    def leaves(self) -> tuple[bool, bool]:
        """Can a tap lie before the first element, or after the last?"""
        return self.begin > 0, self.end > 0 or self.ceil

    def count(self, size: Expr) -> Expr:
        """How many windows there are. With `ceil` the last one may hang over the end, but starts
        inside the input or the padding before it."""
        last = sub(add(size, self.begin + self.end), self.dilation * (self.kernel - 1) + 1)
        if not self.ceil:
            return add(floordiv(last, self.stride), 1)
        whole = add(ceildiv(last, self.stride), 1)
        inside = add(floordiv(add(size, self.begin - 1), self.stride), 1)
        return minimum(whole, inside)

    def taps(self, o: Expr, size: Expr, include_pad: bool) -> Expr:
        """How many taps of window o count for the mean."""
        first = sub(mul(o, self.stride), self.begin)
        low: Expr = index(0)
        end = add(size, self.end) if include_pad else size
        if not include_pad and self.begin:
            low = maximum(ceildiv(mul(first, -1), self.dilation), 0)
        if not self.leaves[1]:
            return sub(self.kernel, low)
        high = minimum(ceildiv(sub(end, first), self.dilation), self.kernel)
        return sub(high, low)


def windows(op: str, attrs: Attrs, rank: int) -> tuple[Window, ...]:
    """The settings of every spatial axis, defaults filled in. Raises ModelError."""
    kernel = ints(attrs, "kernel_shape")
    strides = ints(attrs, "strides") if attrs.get("strides") else (1,) * rank
    dilations = ints(attrs, "dilations") if attrs.get("dilations") else (1,) * rank
    pads = ints(attrs, "pads") if attrs.get("pads") else (0,) * (2 * rank)
    lengths = (len(kernel), len(strides), len(dilations), len(pads) // 2)
    if rank < 1 or any(n != rank for n in lengths) or min(*kernel, *strides, *dilations) < 1:
        raise ModelError(
            f"{op}: kernel_shape {kernel}, strides {strides}, dilations {dilations}, pads {pads} "
            f"don't fit {rank} spatial axes"
        )
    if min(pads) < 0:
        raise ModelError(f"{op}: pads {pads} are negative")
    ceil = bool(attrs.get("ceil_mode", 0))
    return tuple(
        Window(k, s, d, b, e, ceil)
        for k, s, d, b, e in zip(kernel, strides, dilations, pads[:rank], pads[rank:], strict=True)
    )


def _infer(op: str, types: Types, attrs: Attrs, kinds: str) -> tuple[TensorType, ...]:
    x = operand(op, types, 0)
    check_kind(op, x.dtype, kinds)
    axes = windows(op, attrs, x.rank - 2)
    spatial = [w.count(d) for w, d in zip(axes, x.shape[2:], strict=True)]
    if any((known(d) or 0) < 0 for d in spatial):
        raise ModelError(f"{op}: the window is larger than the padded {shape_text(x.shape)}")
    return (TensorType(x.dtype, (*x.shape[:2], *spatial)),)


def infer_max_pool(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, *S] -> [N, C, *windows]."""
    return _infer("max_pool", types, attrs, "fiu")


def infer_average_pool(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, *S] -> [N, C, *windows]."""
    return _infer("average_pool", types, attrs, "f")


def infer_sum_pool(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, *S] -> [N, C, *windows], the sum of each; outside of x are zeros."""
    return _infer("sum_pool", types, attrs, "f")


def _pool_stage(e: Emit, op: str, n: Node, x: Tensor, combine: str) -> Tensor:
    """combine over the taps of each window; a tap outside x gives the neutral element."""
    axes = windows(op, dict(n.attrs), len(x.shape) - 2)

    def value(at: tuple[Var, ...], over: tuple[Var, ...]) -> Expr:
        inside: Expr = TRUE
        where: list[Expr] = list(at[:2])
        for w, o, k, d in zip(axes, at[2:], over, x.shape[2:], strict=True):
            i = sub(add(mul(o, w.stride), mul(k, w.dilation)), w.begin)
            before, after = w.leaves
            if before:
                inside = logical_and(inside, compare("ge", i, 0))
            if after:
                inside = logical_and(inside, compare("lt", i, d))
                i_last = minimum(i, sub(d, 1))
            else:
                i_last = i
            where.append(maximum(i_last, 0) if before else i_last)
        here = element(x, where)
        if inside is TRUE:
            return here.expr
        neutral = Term(identity(combine, here.dtype))
        return f.where(Term(inside), here, neutral).expr

    over = [index(w.kernel) for w in axes]
    return e.reduce(f"{op}_{len(e.stages)}", n.type.shape, over, combine, value)


def lower_max_pool(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """max over taps of x; outside it is the least value."""
    x = ins[0]
    assert x is not None
    return (narrow(e, _pool_stage(e, "max_pool", n, x, "max"), n.type.dtype),)


def lower_sum_pool(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    x = ins[0]
    assert x is not None
    return (narrow(e, _pool_stage(e, "sum_pool", n, x, "add"), n.type.dtype),)


def lower_average_pool(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """The sum over taps divided by how many count."""
    x = ins[0]
    assert x is not None
    total = _pool_stage(e, "average_pool", n, x, "add")
    axes = windows("average_pool", dict(n.attrs), len(x.shape) - 2)
    include = bool(n.attr("count_include_pad", 0))

    def mean(*at: Expr) -> Expr:
        count: Expr = index(1)
        for w, o, d in zip(axes, at[2:], x.shape[2:], strict=True):
            count = mul(count, w.taps(o, d, include))
        return (Term(Read(total, tuple(at))) / size_as(total.dtype, count)).expr

    out = e.stage(f"average_pool_{len(e.stages)}", n.type.shape, mean)
    return (narrow(e, out, n.type.dtype),)


def _taps(x: Array, attrs: Attrs, op: str) -> tuple[Array, Array, Array]:
    """Of every tap: its values [taps, N, C, *O], is it in x, is it before the end of the padding
    (both [taps, 1, 1, *O])."""
    axes = windows(op, attrs, x.ndim - 2)
    out = [known(w.count(index(d))) or 0 for w, d in zip(axes, x.shape[2:], strict=True)]
    values: list[Array] = []
    inside: list[Array] = []
    padded: list[Array] = []
    for tap in itertools.product(*(range(w.kernel) for w in axes)):
        at = [
            np.arange(o) * w.stride + k * w.dilation - w.begin
            for o, k, w in zip(out, tap, axes, strict=True)
        ]
        grid = np.ix_(*(np.clip(i, 0, d - 1) for i, d in zip(at, x.shape[2:], strict=True)))
        ok = [(i >= 0) & (i < d) for i, d in zip(at, x.shape[2:], strict=True)]
        near = [i < d + w.end for i, d, w in zip(at, x.shape[2:], axes, strict=True)]
        values.append(x[(slice(None), slice(None), *grid)])
        inside.append(_outer(ok))
        padded.append(_outer(near))
    return np.stack(values), np.stack(inside)[:, None, None], np.stack(padded)[:, None, None]


def _outer(parts: Sequence[Array]) -> Array:
    """All of them, over the grid of their axes."""
    rank = len(parts)
    spread = [p.reshape([-1 if k == j else 1 for k in range(rank)]) for j, p in enumerate(parts)]
    return np.logical_and.reduce(np.broadcast_arrays(*spread))


def ref_max_pool(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = arrays[0]
    assert x is not None
    values, inside, _ = _taps(x, attrs, "max_pool")
    least = -np.inf if x.dtype.kind in "fV" else np.iinfo(x.dtype).min
    return (np.max(np.where(inside, values, np.asarray(least, x.dtype)), 0),)


def ref_sum_pool(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = arrays[0]
    assert x is not None
    values, inside, _ = _taps(wide(x), attrs, "sum_pool")
    with np.errstate(all="ignore"):
        return (np.where(inside, values, 0).sum(0, dtype=values.dtype).astype(x.dtype),)


def ref_average_pool(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = arrays[0]
    assert x is not None
    values, inside, padded = _taps(wide(x), attrs, "average_pool")
    count = (padded if attrs.get("count_include_pad") else inside).sum(0)
    total = np.where(inside, values, 0).sum(0, dtype=values.dtype)
    with np.errstate(all="ignore"):
        return ((total / count.astype(values.dtype)).astype(x.dtype),)


def _sum_pool_samples() -> Iterable[Sample]:
    for s in _pool_samples(True):
        if "count_include_pad" not in s.attrs:
            yield s


def _pool_samples(average: bool) -> Iterable[Sample]:
    cases: list[tuple[tuple[int, ...], Attrs]] = [
        ((1, 2, 5, 6), {"kernel_shape": (2, 3)}),
        ((2, 3, 7, 7), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
        ((1, 1, 6, 5), {"kernel_shape": (3, 2), "strides": (2, 2), "ceil_mode": 1}),
        ((1, 1, 7, 6), {"kernel_shape": (2, 2), "strides": (3, 3), "ceil_mode": 1,
                        "pads": (1, 0, 1, 1)}),
        ((1, 2, 9), {"kernel_shape": (3,), "strides": (2,), "dilations": (2,), "pads": (2, 1)}),
        ((1, 1, 3, 4, 5), {"kernel_shape": (2, 2, 2), "pads": (0, 1, 0, 1, 0, 0)}),
        ((1, 1, 1, 1), {"kernel_shape": (1, 1)}),
        ((0, 2, 4, 4), {"kernel_shape": (2, 2)}),
    ]  # fmt: skip
    for shape, attrs in cases:
        yield Sample((random(*shape),), attrs)
        if average:
            yield Sample((random(*shape),), {**attrs, "count_include_pad": 1})
    yield Sample((random(1, 2, 4, 4, dtype="f16"),), {"kernel_shape": (2, 2)})
    if not average:
        x = random(1, 1, 4, 4, dtype="i8")
        yield Sample((x,), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)})
        nan = random(1, 1, 4, 4)
        nan[0, 0, 1, 2] = np.nan
        yield Sample((nan,), {"kernel_shape": (2, 2)})


register(Op("max_pool", "reduction", infer_max_pool, ref_max_pool, lower_max_pool,
            samples=lambda: _pool_samples(False)))  # fmt: skip
register(Op("average_pool", "reduction", infer_average_pool, ref_average_pool, lower_average_pool,
            samples=lambda: _pool_samples(True)))  # fmt: skip
register(Op("sum_pool", "reduction", infer_sum_pool, ref_sum_pool, lower_sum_pool,
            samples=_sum_pool_samples))  # fmt: skip


# --- global pooling -------------------------------------------------------------------------------


def _global(name: str, reduction: str) -> Op:
    """A reduction over all spatial axes, dims kept."""

    def infer(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = operand(name, types, 0)
        if x.rank < 3 or not is_float(x.dtype):
            raise ModelError(f"{name}: expected floats [N, C, …], got {x.dtype} of rank {x.rank}")
        return (TensorType(x.dtype, (*x.shape[:2], *[index(1)] * (x.rank - 2))),)

    def ref(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axes = tuple(range(2, x.ndim))
        fn = np.mean if reduction == "reduce_mean" else np.max
        return (np.asarray(fn(wide(x), axis=axes, keepdims=True)).astype(x.dtype),)

    def expand(n: Node) -> Node:
        x = n.inputs[0]
        assert x is not None
        return apply(reduction, x, axes=tuple(range(2, x.type.rank)), keepdims=True)

    def samples() -> Iterable[Sample]:
        for shape in ((2, 3, 4, 5), (1, 2, 7), (1, 1, 2, 2, 2), (0, 2, 3, 3)):
            yield Sample((random(*shape),))

    return register(Op(name, "reduction", infer, ref, expand=expand, samples=samples))


_global("global_average_pool", "reduce_mean")
_global("global_max_pool", "reduce_max")
