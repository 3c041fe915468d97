"""col2im: windows of an image, as columns, added up where they overlap."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr, Var
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import (
    TRUE,
    ZERO,
    add,
    compare,
    floordiv,
    index,
    known,
    logical_and,
    maximum,
    minimum,
    mod,
    mul,
    prod,
    sub,
)
from naru.ir.tensor import Tensor
from naru.ops import formula as f
from naru.ops.contraction import narrow, wide
from naru.ops.formula import Term
from naru.ops.operands import Dims, check_equal, check_kind, element, given, ints, operand, sizes
from naru.ops.pooling import Window, windows
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, register
from naru.ops.samples import random

Array = np.ndarray


def _settings(attrs: Attrs) -> tuple[Dims, tuple[Window, ...]]:
    """The image's sizes, and the window of each axis."""
    image = sizes(attrs, "image")
    return image, windows("col2im", attrs, len(image))


def infer_col2im(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C · elements of a window, windows] -> [N, C, *image]. attrs image (index expressions),
    kernel_shape, strides, dilations, pads."""
    x = operand("col2im", types, 0, 3)
    check_kind("col2im", x.dtype, "fiu")
    image, axes = _settings(attrs)
    taps = int(np.prod([w.kernel for w in axes]))
    if (known(x.shape[1]) or 0) % taps:
        raise ModelError(f"col2im: {taps} elements of a window don't divide {known(x.shape[1])}")
    count = prod(w.count(d) for w, d in zip(axes, image, strict=True))
    check_equal("col2im", "numbers of windows", x.shape[2], count)
    return (TensorType(x.dtype, (x.shape[0], floordiv(x.shape[1], taps), *image)),)


def ref_col2im(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays)
    image = ints(attrs, "image")
    _, axes = _settings(attrs)
    kernel = [w.kernel for w in axes]
    counts = [known(w.count(index(d))) or 0 for w, d in zip(axes, image, strict=True)]
    channels = x.shape[1] // int(np.prod(kernel))
    parts = wide(x).reshape(x.shape[0], channels, *kernel, *counts)
    padded = [d + w.begin + w.end for d, w in zip(image, axes, strict=True)]
    out = np.zeros((*parts.shape[:2], *padded), parts.dtype)
    for tap in itertools.product(*map(range, kernel)):
        where = tuple(
            slice(k * w.dilation, k * w.dilation + w.stride * (n - 1) + 1, w.stride)
            for k, w, n in zip(tap, axes, counts, strict=True)
        )
        if all(counts):
            out[(slice(None), slice(None), *where)] += parts[(slice(None), slice(None), *tap)]
    inside = tuple(slice(w.begin, w.begin + d) for d, w in zip(image, axes, strict=True))
    return (out[(slice(None), slice(None), *inside)].astype(x.dtype),)


def lower_col2im(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Each element of the image sums what the taps of windows say of it."""
    x = given(ins)
    image, axes = _settings(dict(n.attrs))
    counts = [w.count(d) for w, d in zip(axes, image, strict=True)]

    def value(at: tuple[Var, ...], over: tuple[Var, ...]) -> Expr:
        inside: Expr = TRUE
        channel: Expr = at[1]
        column: Expr = ZERO
        for w, o, k, count in zip(axes, at[2:], over, counts, strict=True):
            first = sub(add(o, w.begin), mul(k, w.dilation))
            here = floordiv(first, w.stride)
            inside = logical_and(inside, compare("ge", first, 0))
            inside = logical_and(inside, compare("lt", here, count))
            if w.stride > 1:
                inside = logical_and(inside, compare("eq", mod(first, w.stride), 0))
            channel = add(mul(channel, w.kernel), k)
            place = maximum(minimum(here, sub(count, 1)), 0)
            column = add(mul(column, count), place)
        part = element(x, (at[0], channel, column))
        return part.expr if inside is TRUE else f.where(Term(inside), part, 0).expr

    if x.shape[2] is ZERO:
        return (e.stage(f"col2im_{len(e.stages)}", n.type.shape, lambda *at: f.number(0, x.dtype)),)
    over = [index(w.kernel) for w in axes]
    total = e.reduce(f"col2im_{len(e.stages)}", n.type.shape, over, "add", value)
    return (narrow(e, total, n.type.dtype),)


def _samples() -> Iterable[Sample]:
    cases: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((1, 5, 5), {"image": (5, 5), "kernel_shape": (1, 5)}),
        ((2, 9, 4), {"image": (5, 5), "kernel_shape": (3, 3), "strides": (2, 2)}),
        ((1, 10, 15), {"image": (5, 5), "kernel_shape": (1, 5), "pads": (0, 1, 0, 1)}),
        ((1, 8, 5), {"image": (6, 6), "kernel_shape": (2, 2), "dilations": (1, 5)}),
        ((1, 20, 12), {"image": (3, 4, 5), "kernel_shape": (1, 1, 5)}),
        ((2, 6, 4), {"image": (9,), "kernel_shape": (3,), "strides": (2,)}),
        ((0, 4, 4), {"image": (3, 3), "kernel_shape": (2, 2)}),
    ]
    for shape, attrs in cases:
        count = int(np.prod([
            known(w.count(index(d))) or 0
            for w, d in zip(_settings(attrs)[1], attrs["image"], strict=True)
        ]))  # fmt: skip
        yield Sample((random(*shape[:2], count),), attrs)
    yield Sample((random(1, 4, 4, dtype="f16"),), {"image": (3, 3), "kernel_shape": (2, 2)})
    yield Sample((random(1, 4, 4, dtype="i32"),), {"image": (3, 3), "kernel_shape": (2, 2)})


register(Op("col2im", "reduction", infer_col2im, ref_col2im, lower_col2im,
            samples=_samples))  # fmt: skip
