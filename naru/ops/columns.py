"""col2im: windows of an image, as columns, added up where they overlap."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from naru.dtypes import is_float
from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import ZERO, add, floordiv, index, known, mul, prod, sub
from naru.ops.contraction import wide
from naru.ops.kernel_text import TILE, by_hand, indent, tiled
from naru.ops.operands import (
    Dims,
    check_equal,
    check_kind,
    compute_dtype,
    dim_text,
    given,
    ints,
    operand,
    sizes,
)
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray


@dataclass(frozen=True)
class Taps:
    """The settings of one axis of the image: how many taps its windows have, their distance, where
    windows start."""

    kernel: Expr
    stride: int
    dilation: int
    begin: int
    end: int

    def count(self, size: Expr) -> Expr:
        """How many windows there are."""
        width = add(mul(self.dilation, sub(self.kernel, 1)), 1)
        return add(floordiv(sub(add(size, self.begin + self.end), width), self.stride), 1)


def _settings(attrs: Attrs) -> tuple[Dims, tuple[Taps, ...]]:
    """The image's sizes, and the windows along each axis."""
    image, kernel = sizes(attrs, "image"), sizes(attrs, "kernel_shape")
    rank = len(image)
    strides = ints(attrs, "strides") if attrs.get("strides") else (1,) * rank
    dilations = ints(attrs, "dilations") if attrs.get("dilations") else (1,) * rank
    pads = ints(attrs, "pads") if attrs.get("pads") else (0,) * (2 * rank)
    lengths = (len(kernel), len(strides), len(dilations), len(pads) // 2)
    numbers = [k for k in map(known, kernel) if k is not None]
    least = min(*numbers, *strides, *dilations)
    if rank < 1 or any(n != rank for n in lengths) or least < 1 or min(pads) < 0:
        found = ", ".join(map(dim_text, kernel))
        raise ModelError(
            f"col2im: kernel_shape ({found}), strides {strides}, dilations {dilations}, "
            f"pads {pads} don't fit {rank} axes"
        )
    parts = zip(kernel, strides, dilations, pads[:rank], pads[rank:], strict=True)
    return image, tuple(Taps(*part) for part in parts)


def infer_col2im(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C · elements of a window, windows] -> [N, C, *image]. Half floats are rounded after
    each addition. attrs image, kernel_shape (index expressions), strides, dilations, pads."""
    x = operand("col2im", types, 0, 3)
    check_kind("col2im", x.dtype, "fiu")
    image, axes = _settings(attrs)
    taps = prod(w.kernel for w in axes)
    channels = floordiv(x.shape[1], taps)
    if known(x.shape[1]) is not None and known(mul(channels, taps)) not in (
        None,
        known(x.shape[1]),
    ):
        raise ModelError(
            f"col2im: {known(taps)} elements of a window don't divide {known(x.shape[1])}"
        )
    check_equal("col2im", "elements of windows", x.shape[1], mul(channels, taps))
    count = prod(w.count(d) for w, d in zip(axes, image, strict=True))
    check_equal("col2im", "numbers of windows", x.shape[2], count)
    return (TensorType(x.dtype, (x.shape[0], channels, *image)),)


def ref_col2im(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays)
    image, kernel = ints(attrs, "image"), ints(attrs, "kernel_shape")
    _, axes = _settings({**attrs, "kernel_shape": kernel, "image": image})
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


def _add_row(dtype: str, number: int | None, w: Taps) -> list[str]:
    """Adds what one tap of a row of windows says to a row of the image: the windows whose tap lies
    inside it. `number`: how many elements there are at most, where that is known."""
    kind = compute_dtype(dtype)

    def total(out: str, x: str) -> str:
        if kind == dtype:
            return f"{out} = {out} + {x}"
        return f"{out} = {dtype}({kind}({out}) + {kind}({x}))"

    lines = [
        f"shift: index = tap * {w.dilation} - {w.begin}",
        f"low: index = max(({w.stride - 1} - shift) // {w.stride}, 0)",
        f"high: index = min((WIDTH + {w.stride - 1} - shift) // {w.stride}, COUNT)",
    ]
    if w.stride > 1:
        statement = total(f"out[to + shift + l * {w.stride}]", "x[source + l]")
        return [*lines, "for l in range(low, high):", f"    {statement}"]
    return [
        *lines,
        "size: index = max(high - low, 0)",
        *tiled(
            "size",
            number,
            lambda at: total(f"out[{at('to + shift + low')}]", f"x[{at('source + low')}]"),
        ),
    ]


def opaque_col2im(n: Node, target: Target) -> str:
    """Parameters: x, out, sizes. Planes of the image are independent; each starts as zeros, then
    the rows of every tap are added."""
    x = given(n.inputs).type
    image, axes = _settings(dict(n.attrs))
    last = len(axes) - 1
    words: dict[str, Expr] = {f"I{j}": d for j, d in enumerate(image)}
    words |= {f"K{j}": w.kernel for j, w in enumerate(axes)}
    words["TAPS"] = prod(w.kernel for w in axes)
    words |= {f"C{j}": w.count(d) for j, (w, d) in enumerate(zip(axes, image, strict=True))}
    words |= {"WIDTH": image[last], "COUNT": words[f"C{last}"], "COLUMNS": x.shape[2]}
    words |= {"PLANES": mul(*n.type.shape[:2]), "AREA": prod(image)}
    known_sizes = (known(words["COUNT"]), known(prod(x.shape)), known(prod(n.type.shape)))
    most = min((size for size in known_sizes if size is not None), default=None)
    zero = "0.0" if is_float(x.dtype) else "0"
    kind = f"{x.dtype}({zero})"
    clear = tiled(
        "AREA",
        known(words["AREA"]),
        lambda at: f"out[{at('first')}] = " + (f"splat({kind}, {TILE})" if ":" in at("") else kind),
    )
    loops: list[str] = [f"for k{j} in range(K{j}):" for j in range(len(axes))]
    nest = [line for j, head in enumerate(loops) for line in indent([head], j)]
    depth = len(axes)
    number = "0"
    for j in range(depth):
        number = f"({number}) * K{j} + k{j}"
    nest += indent([f"row: index = (plane * TAPS + {number}) * COLUMNS"], depth)
    line, pixel = "0", "0"
    for j, w in enumerate(axes[:-1]):
        nest += indent(
            [
                f"for l{j} in range(C{j}):",
                f"    y{j}: index = l{j} * {w.stride} + k{j} * {w.dilation} - {w.begin}",
                f"    if y{j} >= 0 and y{j} < I{j}:",
            ],
            depth,
        )
        depth += 2
        line, pixel = f"({line}) * C{j} + l{j}", f"({pixel}) * I{j} + y{j}"
    nest += indent(
        [
            f"tap: index = k{last}",
            f"source: index = row + ({line}) * COUNT",
            f"to: index = first + ({pixel}) * WIDTH",
            *_add_row(x.dtype, most, axes[last]),
        ],
        depth,
    )
    body = ["for plane in parallel(PLANES):", "    first: index = plane * AREA"]
    empty = x.shape[2] is ZERO
    return by_hand(n, ("x",), ("out",), [*body, *indent(clear + ([] if empty else nest))], words)


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


register(Op("col2im", "opaque", infer_col2im, ref_col2im, opaque=opaque_col2im,
            samples=_samples))  # fmt: skip
