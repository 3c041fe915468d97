"""Transposed convolution: `conv_transpose`, and `phase_conv`, by which it is computed.

Of stride s, outputs at one position modulo s (a *phase*) need the same taps of the window, every
s-th one, so each phase is a dense convolution that never meets the zeros between the inputs. All
phases are one contraction whose results lie interleaved; with a window as large as the stride it is
a plain matrix product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from naru.errors import ModelError, UnsupportedError
from naru.ir.expr import Expr, Read, Var
from naru.ir.graph import Attr, Node, TensorType
from naru.ir.simplify import add, ceildiv, floordiv, index, known, mod, mul, sub
from naru.ir.tensor import Tensor
from naru.ops.contraction import narrow, ref_conv, wide
from naru.ops.operands import (
    Dims,
    check_equal,
    check_kind,
    check_same_dtype,
    dim_text,
    element,
    given,
    ints,
    operand,
    shape_text,
    sizes,
)
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, apply, register
from naru.ops.samples import random

Array = np.ndarray


def _operands(op: str, types: Types) -> tuple[TensorType, TensorType]:
    """x and w: floats of one dtype, both of one rank of at least 3."""
    x, w = operand(op, types, 0), operand(op, types, 1)
    check_kind(op, check_same_dtype(op, (x, w)), "f")
    if x.rank < 3 or w.rank != x.rank:
        raise ModelError(
            f"{op}: expected x of rank 3 or more and w of the same rank, "
            f"got {shape_text(x.shape)} and {shape_text(w.shape)}"
        )
    return x, w


# --- conv_transpose -------------------------------------------------------------------------------


def infer_conv_transpose(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, *S], w [C, M/group, *K] -> [N, M, *size].

    attrs: strides, dilations, begin (what is cut off before the first output), size (of the result;
    index expressions), group. Tap k of input i adds to output i·stride + k·dilation - begin."""
    x, w = _operands("conv_transpose", types)
    rank, group = x.rank - 2, int(attrs.get("group", 1))
    lengths = [len(attrs[name]) for name in ("strides", "dilations", "begin", "size")]
    if lengths != [rank] * 4 or min(*ints(attrs, "strides"), *ints(attrs, "dilations"), group) < 1:
        raise ModelError(f"conv_transpose: its attributes don't fit {rank} spatial axes")
    check_equal("conv_transpose", "channels of x and of w", x.shape[1], w.shape[0])
    channels = known(x.shape[1])
    if group > 1 and channels is None:
        raise UnsupportedError([f"conv_transpose: {group} groups of an unknown size"])
    if channels is not None and channels % group:
        raise ModelError(f"conv_transpose: {group} groups cannot share {channels} channels")
    for d in sizes(attrs, "size"):
        if (known(d) or 0) < 0:
            raise ModelError(f"conv_transpose: a size is negative: {dim_text(d)}")
    return (TensorType(x.dtype, (x.shape[0], mul(w.shape[1], group), *sizes(attrs, "size"))),)


def ref_conv_transpose(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    """Every tap adds its product to the outputs it reaches, as the definition says."""
    x, w = given(arrays), given(arrays, 1)
    strides, dilations, begin = (ints(attrs, k) for k in ("strides", "dilations", "begin"))
    size, group, spatial = ints(attrs, "size"), int(attrs.get("group", 1)), x.shape[2:]
    images = wide(x).reshape(x.shape[0], group, x.shape[1] // group, *spatial)
    weights = wide(w).reshape(group, x.shape[1] // group, *w.shape[1:])
    reach = [
        max((n - 1) * s + (k - 1) * d + 1, b + o)
        for n, s, k, d, b, o in zip(
            spatial, strides, w.shape[2:], dilations, begin, size, strict=True
        )
    ]
    whole = np.zeros((x.shape[0], group, w.shape[1], *reach), images.dtype)
    for tap in itertools.product(*map(range, w.shape[2:])):
        part = np.einsum("ngc...,gcm->ngm...", images, weights[(..., *tap)])
        places = tuple(
            slice(k * d, k * d + n * s, s)
            for k, d, n, s in zip(tap, dilations, spatial, strides, strict=True)
        )
        if part.size:
            whole[(..., *places)] += part
    cut = tuple(slice(b, b + o) for b, o in zip(begin, size, strict=True))
    out = whole[(..., *cut)].reshape(x.shape[0], group * w.shape[1], *size)
    return (out.astype(x.dtype),)


def expand_conv_transpose(n: Node) -> Node:
    """`conv` with the window turned round (stride 1), else `phase_conv`; x padded for either.

    With begin = skip·stride + first, output j·stride + a is made of the inputs
    j + skip + (a + first) // stride - t and the taps t·stride + (a + first) % stride, t = 0 … T-1;
    the window is filled up with zeros to T·stride taps."""
    x, w = given(n.inputs), given(n.inputs, 1)
    attrs: Attrs = dict(n.attrs)
    strides, group = ints(attrs, "strides"), int(attrs.get("group", 1))
    begin, size = ints(attrs, "begin"), sizes(attrs, "size")
    filters = _as_filters(w, group)
    if max(strides) > 1:
        return _by_phases(x, filters, attrs, group)
    dilations = ints(attrs, "dilations")
    turned = _turn(filters)
    before = [sub(mul(sub(k, 1), d), b) for k, d, b in zip(w.type.shape[2:], dilations, begin,
                                                          strict=True)]  # fmt: skip
    after = [
        sub(add(o, mul(sub(k, 1), d)), add(s, p))
        for o, k, d, s, p in zip(
            size, w.type.shape[2:], dilations, x.type.shape[2:], before, strict=True
        )
    ]
    return apply("conv", _pad(x, before, after), turned, dilations=dilations, group=group)


def _by_phases(x: Node, filters: Node, attrs: Attrs, group: int) -> Node:
    strides, begin = ints(attrs, "strides"), ints(attrs, "begin")
    size = sizes(attrs, "size")
    filters = _spread(filters, ints(attrs, "dilations"))
    taps = [ceildiv(k, s) for k, s in zip(filters.type.shape[2:], strides, strict=True)]
    first = [b % s for b, s in zip(begin, strides, strict=True)]
    windows = [ceildiv(o, s) for o, s in zip(size, strides, strict=True)]
    before = [sub(sub(t, 1), b // s) for t, b, s in zip(taps, begin, strides, strict=True)]
    after = [
        sub(add(j, t, int(r > 0) - 1), add(d, p))
        for j, t, r, d, p in zip(windows, taps, first, x.type.shape[2:], before, strict=True)
    ]
    for axis, (t, s, r) in enumerate(zip(taps, strides, first, strict=True), 2):
        filters = _order_phases(filters, axis, t, s, r)
    out = apply("phase_conv", _pad(x, before, after), filters, strides=strides, first=tuple(first),
                group=group)  # fmt: skip
    if all(d is o for d, o in zip(out.type.shape[2:], size, strict=True)):
        return out
    axes = tuple(range(2, out.type.rank))
    return apply("slice", out, starts=(0,) * len(axes), ends=size, axes=axes)


def _as_filters(w: Node, group: int) -> Node:
    """[C, M/group, *K] -> [M, C/group, *K]: how `conv` has its weights."""
    channels, filters, *kernel = w.type.shape
    inner, spatial = floordiv(channels, group), range(3, 3 + len(kernel))
    parts = apply("reshape", w, shape=(index(group), inner, filters, *kernel))
    moved = apply("transpose", parts, perm=(0, 2, 1, *spatial))
    return apply("reshape", moved, shape=(mul(filters, group), inner, *kernel))


def _turn(w: Node) -> Node:
    axes = tuple(range(2, w.type.rank))
    last, none = (-1,) * len(axes), (-(2**62),) * len(axes)
    return apply("slice", w, starts=last, ends=none, axes=axes, steps=last)


def _spread(w: Node, dilations: Sequence[int]) -> Node:
    """The window with its dilation written out as zeros between the taps."""
    for axis, d in enumerate(dilations, 2):
        if d == 1:
            continue
        shape = w.type.shape
        apart = apply("reshape", w, shape=(*shape[: axis + 1], index(1), *shape[axis + 1 :]))
        apart = _pad_axis(apart, axis + 1, d - 1)
        joined = (*shape[:axis], mul(shape[axis], d), *shape[axis + 1 :])
        w = apply("reshape", apart, shape=joined)
        w = apply("slice", w, starts=(0,), ends=(sub(joined[axis], d - 1),), axes=(axis,))
    return w


def _order_phases(w: Node, axis: int, taps: Expr, stride: int, first: int) -> Node:
    """Along the axis: filled up to taps·stride; the order of the taps turned round; and the phases
    turned so that the one of output 0 comes first."""
    w = _pad_axis(w, axis, sub(mul(taps, stride), w.type.shape[axis]))
    shape = w.type.shape
    w = apply("reshape", w, shape=(*shape[:axis], taps, index(stride), *shape[axis + 1 :]))
    w = apply("slice", w, starts=(-1,), ends=(-(2**62),), axes=(axis,), steps=(-1,))
    if first:
        parts = [
            apply("slice", w, starts=(a,), ends=(z,), axes=(axis + 1,))
            for a, z in ((first, stride), (0, first))
        ]
        w = apply("concat", *parts, axis=axis + 1)
    return apply("reshape", w, shape=shape)


def _pad_axis(x: Node, axis: int, count: int | Expr) -> Node:
    """Zeros after the last element of one axis."""
    after = [index(0)] * (x.type.rank - 2)
    none = [*after]
    after[axis - 2] = index(count)
    return _pad(x, none, after)


def _pad(x: Node, before: Sequence[Expr], after: Sequence[Expr]) -> Node:
    """x with zeros around its spatial axes (negative: cut off); x itself if there are none."""
    if all(known(p) == 0 for p in (*before, *after)):
        return x
    none = (index(0), index(0))
    return apply("pad", x, pads=(*none, *before, *none, *after), mode="constant", value=0.0)


def _transpose_attrs(
    x: Sequence[int], w: Sequence[int], begin: Sequence[int], more: Sequence[int], **attrs: Attr
) -> Attrs:
    """Attributes of a sample; `more` outputs than the last tap of the last input reaches."""
    rank = len(x) - 2
    full = {"strides": (1,) * rank, "dilations": (1,) * rank, "group": 1, **attrs}
    strides, dilations = ints(full, "strides"), ints(full, "dilations")
    size = tuple(
        (n - 1) * s + (k - 1) * d + 1 - b + p
        for n, s, k, d, b, p in zip(x[2:], strides, w[2:], dilations, begin, more, strict=True)
    )
    return {**full, "begin": tuple(begin), "size": size}


def _conv_transpose_samples() -> Iterable[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], Attrs]]
    cases = [
        ((1, 3, 4, 5), (3, 2, 3, 3), (0, 0), (0, 0), {}),
        ((2, 3, 3, 4), (3, 4, 2, 2), (0, 0), (0, 0), {"strides": (2, 2)}),
        ((1, 2, 3, 3), (2, 3, 4, 4), (1, 1), (-1, -1), {"strides": (2, 2)}),
        ((1, 2, 3, 4), (2, 2, 3, 3), (1, 1), (0, 0), {"strides": (2, 2)}),
        ((1, 2, 3, 4), (2, 2, 3, 3), (1, 1), (-1, -1), {"strides": (2, 2)}),
        ((1, 2, 3, 4), (2, 2, 3, 2), (2, 0), (3, 5), {"strides": (3, 4), "dilations": (2, 1)}),
        ((1, 2, 4, 4), (2, 3, 3, 3), (2, 2), (-1, -2), {"dilations": (2, 2)}),
        ((1, 4, 3, 3), (4, 3, 3, 3), (1, 0), (0, 0), {"group": 2, "strides": (2, 1)}),
        ((1, 3, 3, 3), (3, 1, 4, 4), (1, 1), (-1, -1), {"group": 3, "strides": (2, 2)}),
        ((2, 2, 5), (2, 3, 5), (7, ), (-2,), {"strides": (3,)}),
        ((1, 2, 2, 3, 2), (2, 2, 2, 3, 1), (0, 1, 0), (0, 0, 2), {"strides": (2, 1, 3)}),
        ((1, 1, 1, 1), (1, 1, 1, 1), (0, 0), (0, 0), {"strides": (2, 2)}),
        ((0, 2, 3, 3), (2, 2, 2, 2), (0, 0), (0, 0), {"strides": (2, 2)}),
    ]  # fmt: skip
    for x, w, begin, more, attrs in cases:
        full = _transpose_attrs(x, w, begin, more, **attrs)
        yield Sample((random(*x), random(*w, seed=1)), full)
    half = _transpose_attrs((1, 2, 3), (2, 2, 2), (0,), (0,), strides=(2,))
    yield Sample((random(1, 2, 3, dtype="f16"), random(2, 2, 2, dtype="f16", seed=1)), half)


register(Op("conv_transpose", "contraction", infer_conv_transpose, ref_conv_transpose,
            expand=expand_conv_transpose, samples=_conv_transpose_samples))  # fmt: skip


# --- phase_conv -----------------------------------------------------------------------------------


def _taps(w: Dims, strides: Sequence[int]) -> tuple[Expr, ...]:
    """How many taps a phase has along each spatial axis."""
    return tuple(floordiv(k, s) for k, s in zip(w[2:], strides, strict=True))


def infer_phase_conv(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, *P], w [M, C/group, *(T·stride)] -> [N, M, *(J·stride)].

    attrs: strides, group, first (0 ≤ first < stride). Phase a of window j is the sum over t < T of
    x[j + (a + first) // stride + t] · w[t·stride + a]; J is how many windows fit."""
    x, w = _operands("phase_conv", types)
    strides, first, group = ints(attrs, "strides"), ints(attrs, "first"), int(attrs.get("group", 1))
    rank = x.rank - 2
    if len(strides) != rank or len(first) != rank or min(*strides, group) < 1:
        raise ModelError(f"phase_conv: strides {strides}, first {first} don't fit rank {rank}")
    check_equal(
        "phase_conv", "channels of x and of w times group", x.shape[1], mul(w.shape[1], group)
    )
    out = [
        mul(sub(add(p, int(r == 0)), t), s)
        for p, t, s, r in zip(x.shape[2:], _taps(w.shape, strides), strides, first, strict=True)
    ]
    if any((known(d) or 0) < 0 for d in out):
        raise ModelError(f"phase_conv: the window is larger than {shape_text(x.shape)}")
    return (TensorType(x.dtype, (x.shape[0], w.shape[0], *out)),)


def ref_phase_conv(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    """One convolution a phase, its results put in between the others'."""
    x, w = given(arrays), given(arrays, 1)
    strides, first = ints(attrs, "strides"), ints(attrs, "first")
    taps = [k // s for k, s in zip(w.shape[2:], strides, strict=True)]
    windows = [p + (r == 0) - t for p, t, r in zip(x.shape[2:], taps, first, strict=True)]
    size = [j * s for j, s in zip(windows, strides, strict=True)]
    out = np.empty((x.shape[0], w.shape[0], *size), x.dtype)
    for phase in itertools.product(*map(range, strides)):
        starts = [(a + r) // s for a, r, s in zip(phase, first, strides, strict=True)]
        seen = [slice(b, b + j + t - 1) for b, j, t in zip(starts, windows, taps, strict=True)]
        every = tuple(slice(a, None, s) for a, s in zip(phase, strides, strict=True))
        (part,) = ref_conv([x[(..., *seen)], w[(..., *every)]], {"group": attrs.get("group", 1)})
        out[(..., *every)] = part
    return (out,)


def lower_phase_conv(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Stages: every phase of every window, [N, M, J, stride, …]; the result, which reads window
    o // stride in phase o % stride."""
    x, w = given(ins), given(ins, 1)
    attrs: Attrs = dict(n.attrs)
    strides, first, group = ints(attrs, "strides"), ints(attrs, "first"), int(attrs.get("group", 1))
    channels, filters = w.shape[1], floordiv(w.shape[0], group)
    split = [
        part
        for d, s in zip(n.type.shape[2:], strides, strict=True)
        for part in (floordiv(d, s), index(s))
    ]

    def product(at: tuple[Var, ...], over: tuple[Var, ...]) -> Expr:
        image, m, *places = at
        *taps, c = over
        windows, phases = places[::2], places[1::2]
        source: Expr = c if group == 1 else add(mul(floordiv(m, filters), channels), c)
        seen = [
            add(j, floordiv(add(a, r), s), t)
            for j, a, r, s, t in zip(windows, phases, first, strides, taps, strict=True)
        ]
        tap = [add(mul(t, s), a) for t, s, a in zip(taps, strides, phases, strict=True)]
        return (element(x, (image, source, *seen)) * element(w, (m, c, *tap))).expr

    name = f"phase_conv_{len(e.stages)}"
    over = (*_taps(w.shape, strides), channels)
    phases = e.reduce(name, (*n.type.shape[:2], *split), over, "add", product)

    def result(image: Expr, m: Expr, *o: Expr) -> Expr:
        at = [p for i, s in zip(o, strides, strict=True) for p in (floordiv(i, s), mod(i, s))]
        return Read(phases, (image, m, *at))

    out = e.stage(f"interleave_{len(e.stages)}", n.type.shape, result)
    return (narrow(e, out, n.type.dtype),)


def _phase_conv_samples() -> Iterable[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, ...], Attrs]] = [
        ((1, 3, 4, 5), (4, 3, 2, 2), {"strides": (2, 2), "first": (0, 0)}),
        ((2, 3, 4, 5), (4, 3, 4, 6), {"strides": (2, 3), "first": (1, 2)}),
        ((1, 4, 4), (6, 2, 4), {"strides": (2,), "first": (1,), "group": 2}),
        ((1, 2, 3, 3, 3), (2, 2, 2, 1, 3), {"strides": (2, 1, 3), "first": (0, 0, 1)}),
        ((1, 1, 1), (1, 1, 2), {"strides": (2,), "first": (0,)}),
        ((0, 2, 3), (3, 2, 2), {"strides": (2,), "first": (0,)}),
    ]
    for x, w, attrs in cases:
        yield Sample((random(*x), random(*w, seed=1)), attrs)


register(Op("phase_conv", "contraction", infer_phase_conv, ref_phase_conv, lower_phase_conv,
            samples=_phase_conv_samples))  # fmt: skip
