"""One axis of a Resize of which only running tells the sizes, the scale or the part that is taken:
places of the results, taps and their weights are small vectors, computed in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naru.frontend.onnx_node import emit, scalar
from naru.frontend.onnx_shapes import size_of
from naru.ir.expr import Expr
from naru.ir.graph import Node
from naru.ir.simplify import mul
from naru.ops.registry import constant


@dataclass(frozen=True)
class Resampling:
    """What Resize does along an axis. `before`, `after`, `scale`, and `start` and `end` of the part
    that is taken: f64 scalars. `reach`: how many elements on each side an antialiasing kernel
    takes, at most; None without one. `fill`: what results outside of the image are."""

    before: Node
    after: Node
    scale: Node
    start: Node
    end: Node
    length: Expr
    mode: str
    place: str
    rounding: str
    cubic: float
    exclude: bool
    reach: Expr | None
    fill: float


def _f64(value: float) -> Node:
    return constant(value, np.float64)


def _counted(r: Resampling, length: Expr) -> Node:
    """0, 1, … as f64, after the sizes of r are known."""
    limit = emit("cast", emit("add", r.before, r.after), to="i64")
    steps = emit("range", constant(0, np.int64), limit, constant(1, np.int64), length=length)
    return emit("cast", steps, to="f64")


def _positions(r: Resampling) -> Node:
    """Where results lie among the elements: the formulas of Resize-19."""
    x = _counted(r, r.length)
    one, half, width = _f64(1), _f64(0.5), emit("mul", r.scale, r.before)
    if r.place == "asymmetric":
        return emit("div", x, r.scale)
    if r.place == "tf_half_pixel_for_nn":
        return emit("div", emit("add", x, half), r.scale)
    last, gaps = emit("sub", r.before, one), emit("sub", width, one)
    single = emit("equal", gaps, _f64(0))
    gaps = emit("where", single, one, gaps)
    if r.place == "align_corners":
        ratio = emit("div", last, gaps)
        return emit("where", single, _f64(0), emit("mul", x, ratio))
    if r.place == "tf_crop_and_resize":
        size = emit("mul", emit("sub", r.end, r.start), last)
        inside = emit("div", emit("mul", x, size), gaps)
        inside = emit("where", single, emit("mul", size, half), inside)
        return emit("add", inside, emit("mul", r.start, last))
    middle = emit("sub", emit("div", emit("add", x, half), r.scale), half)
    if r.place == "pytorch_half_pixel":
        return emit("where", emit("equal", r.after, one), _f64(0), middle)
    if r.place == "half_pixel_symmetric":
        share = emit("sub", one, emit("div", r.after, width))
        return emit("add", emit("mul", emit("mul", r.before, half), share), middle)
    return middle


def _rounded(at: Node, rounding: str) -> Node:
    match rounding:
        case "round_prefer_floor":
            return emit("ceil", emit("sub", at, _f64(0.5)))
        case "round_prefer_ceil":
            return emit("floor", emit("add", at, _f64(0.5)))
        case _:
            return emit(rounding, at)


def _polynomial(t: Node, *coefficients: float) -> Node:
    total = _f64(coefficients[0])
    for c in coefficients[1:]:
        total = emit("add", emit("mul", total, t), _f64(c))
    return total


def _keys(a: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The kernel of Keys (1981) from 0 to 1 and from 1 to 2, as polynomials."""
    return (a + 2, -(a + 3), 0.0, 1.0), (a, -5 * a, 8 * a, -4 * a)


def _weights(f: Node, r: Resampling) -> list[Node]:
    """Of the taps, f being the distance from the element at or before the place."""
    one, two = _f64(1), _f64(2)
    if r.mode == "linear":
        return [emit("sub", one, f), f]
    near, far = _keys(r.cubic)
    places = (emit("add", f, one), f, emit("sub", one, f), emit("sub", two, f))
    return [_polynomial(t, *c) for t, c in zip(places, (far, near, near, far), strict=True)]


def resample(x: Node, axis: int, r: Resampling) -> Node:
    """The axis, resized."""
    at = _positions(r)
    y = _antialiased(x, axis, r, at, r.reach) if r.reach is not None else _plain(x, axis, r, at)
    if r.place != "tf_crop_and_resize":
        return y
    last = emit("sub", r.before, _f64(1))
    outside = emit("stored", emit("or", emit("less", at, _f64(0)), emit("greater", at, last)))
    mask = emit("reshape", outside, shape=(r.length, *[1] * (x.type.rank - axis - 1)))
    return emit("where", mask, scalar(r.fill, x), y)


def _clamped(index: Node, r: Resampling) -> Node:
    """Positions, i32, brought into the axis."""
    last = emit("cast", emit("sub", r.before, _f64(1)), to="i32")
    return emit("max", emit("min", index, last), constant(0, np.int32))


def _plain(x: Node, axis: int, r: Resampling, at: Node) -> Node:
    nearest = r.mode == "nearest"
    base = _rounded(at, r.rounding) if nearest else emit("floor", at)
    first = emit("stored", emit("cast", base, to="i32"))

    def gathered(tap: int) -> Node:
        index = emit("add", first, constant(tap, np.int32)) if tap else first
        return emit("gather", x, _clamped(index, r), axis=axis)

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


def _antialiased(x: Node, axis: int, r: Resampling, at: Node, reach: Expr) -> Node:
    """As many taps as a kernel that is wider by 1 / scale covers: a sum over them."""
    taps = mul(reach, 2)
    base = emit("sub", emit("ceil", at), _f64(1))
    first = emit("reshape", emit("stored", base), shape=(r.length, 1))
    # Tap `reach - 1` is the element at or before the place.
    offset = emit("sub", _counted(r, taps), _center(r, reach))
    places = emit("add", first, emit("reshape", offset, shape=(1, taps)))
    smaller = emit("min", r.scale, _f64(1))
    gap = emit("mul", emit("sub", places, emit("reshape", at, shape=(r.length, 1))), smaller)
    weight = emit("stored", _kernel(emit("abs", gap), r))
    weight = emit("div", weight, emit("reduce_sum", weight, axes=(1,), keepdims=True))
    if r.exclude:
        low = emit("greater_or_equal", places, _f64(0))
        high = emit("less_or_equal", places, emit("sub", r.before, _f64(1)))
        weight = emit("where", emit("and", low, high), weight, scalar(0, weight))
        total = emit("reduce_sum", weight, axes=(1,), keepdims=True)
        total = emit("where", emit("equal", total, _f64(0)), _f64(1), total)
        weight = emit("div", weight, total)
    index = emit("stored", _clamped(emit("cast", places, to="i32"), r))
    parts = emit("gather", x, index, axis=axis)
    shape = (r.length, taps, *[1] * (x.type.rank - axis - 1))
    w = emit("stored", emit("cast", weight, to=x.type.dtype))
    product = emit("mul", parts, emit("reshape", w, shape=shape))
    return emit("reduce_sum", product, axes=(axis + 1,), keepdims=False)


def _center(r: Resampling, reach: Expr) -> Node:
    """reach - 1 as f64[]."""
    size = size_of(_counted(r, reach), 0)
    return emit("sub", emit("cast", size, to="f64"), _f64(1))


def _kernel(t: Node, r: Resampling) -> Node:
    """The kernel at distances t ≥ 0."""
    zero, one, two = _f64(0), _f64(1), _f64(2)
    if r.mode == "linear":
        return emit("max", emit("sub", one, t), zero)
    near, far = (_polynomial(t, *c) for c in _keys(r.cubic))
    far = emit("where", emit("less", t, two), far, zero)
    return emit("where", emit("less_or_equal", t, one), near, far)


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
