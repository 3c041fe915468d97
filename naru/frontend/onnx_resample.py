"""One axis of a Resize whose sizes are known at run time only: the places of the results, the taps
and their weights are small vectors, computed in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naru.frontend.onnx_node import Unsupported, emit, scalar
from naru.ir.expr import Expr
from naru.ir.graph import Node
from naru.ops.registry import constant


@dataclass(frozen=True)
class Resampling:
    """What Resize does along an axis. `before`, `after`, `scale`: f64 scalars."""

    before: Node
    after: Node
    scale: Node
    length: Expr
    mode: str
    place: str
    rounding: str
    cubic: float
    exclude: bool


def _f64(value: float) -> Node:
    return constant(value, np.float64)


def _positions(r: Resampling) -> Node:
    """Where results lie among the elements: the formulas of Resize-19."""
    limit = emit("cast", r.after, to="i64")
    steps = emit("range", constant(0, np.int64), limit, constant(1, np.int64), length=r.length)
    x = emit("cast", steps, to="f64")
    one, half, width = _f64(1), _f64(0.5), emit("mul", r.scale, r.before)
    if r.place == "asymmetric":
        return emit("div", x, r.scale)
    if r.place == "align_corners":
        gaps = emit("sub", width, one)
        none = emit("equal", gaps, _f64(0))
        ratio = emit("div", emit("sub", r.before, one), emit("where", none, one, gaps))
        return emit("where", none, _f64(0), emit("mul", x, ratio))
    middle = emit("sub", emit("div", emit("add", x, half), r.scale), half)
    if r.place == "half_pixel":
        return middle
    if r.place == "pytorch_half_pixel":
        return emit("where", emit("equal", width, one), _f64(-0.5), middle)
    if r.place == "half_pixel_symmetric":
        share = emit("sub", one, emit("div", r.after, width))
        return emit("add", emit("mul", emit("mul", r.before, half), share), middle)
    raise Unsupported(f"{r.place} of sizes that are not known", "fix the input's size")


def _rounded(at: Node, rounding: str) -> Node:
    match rounding:
        case "round_prefer_floor":
            return emit("ceil", emit("sub", at, _f64(0.5)))
        case "round_prefer_ceil":
            return emit("floor", emit("add", at, _f64(0.5)))
        case _:
            return emit(rounding, at)


def _weights(f: Node, r: Resampling) -> list[Node]:
    """Of the taps, f being the distance from the element at or before the place."""
    if r.mode == "linear":
        return [emit("sub", _f64(1), f), f]

    def polynomial(t: Node, *coefficients: float) -> Node:
        total = _f64(coefficients[0])
        for c in coefficients[1:]:
            total = emit("add", emit("mul", total, t), _f64(c))
        return total

    a = r.cubic
    near, far = (a + 2, -(a + 3), 0.0, 1.0), (a, -5 * a, 8 * a, -4 * a)
    one, two = _f64(1), _f64(2)
    places = (emit("add", f, one), f, emit("sub", one, f), emit("sub", two, f))
    return [polynomial(t, *c) for t, c in zip(places, (far, near, near, far), strict=True)]


def resample(x: Node, axis: int, r: Resampling) -> Node:
    """The axis, resized."""
    at = _positions(r)
    nearest = r.mode == "nearest"
    base = _rounded(at, r.rounding) if nearest else emit("floor", at)
    first = emit("stored", emit("cast", base, to="i32"))
    last = emit("cast", emit("sub", r.before, _f64(1)), to="i32")

    def gathered(tap: int) -> Node:
        index = emit("add", first, constant(tap, np.int32)) if tap else first
        inside = emit("max", emit("min", index, last), constant(0, np.int32))
        return emit("gather", x, inside, axis=axis)

    if nearest:
        return gathered(0)
    weights = _weights(emit("sub", at, base), r)
    taps = [k - (r.mode == "cubic") for k in range(len(weights))]
    if r.exclude:
        places = [emit("add", base, _f64(k)) for k in taps]
        weights = _without_outside(weights, places, emit("sub", r.before, _f64(1)))
    total: Node | None = None
    for tap, weight in zip(taps, weights, strict=True):
        shape = (r.length, *[1] * (x.type.rank - axis - 1))
        w = emit("stored", emit("cast", weight, to=x.type.dtype))
        part = emit("mul", gathered(tap), emit("reshape", w, shape=shape))
        total = part if total is None else emit("add", total, part)
    assert total is not None
    return total


def _without_outside(weights: Sequence[Node], taps: Sequence[Node], last: Node) -> list[Node]:
    """Weights of taps inside the axis only, which add up to 1 again."""
    kept: list[Node] = []
    for weight, tap in zip(weights, taps, strict=True):
        low = emit("greater_or_equal", tap, _f64(0))
        inside = emit("and", low, emit("less_or_equal", tap, last))
        kept.append(emit("where", inside, weight, scalar(0, weight)))
    total = kept[0]
    for weight in kept[1:]:
        total = emit("add", total, weight)
    total = emit("where", emit("equal", total, _f64(0)), _f64(1), total)
    return [emit("div", weight, total) for weight in kept]
