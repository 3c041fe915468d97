"""Resize and Upsample: along each axis, a result is a weighted sum of a few elements.

Which ones and with which weights follows from the sizes alone, so it is worked out here, in double
precision, and becomes tables of constants: one `gather` and one product a tap. Whole factors of the
nearest mode need no tables. Sizes, scales and parts of the image that are not known are left to
onnx_resample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_node import (
    OnnxNode,
    Unsupported,
    check_axis,
    emit,
    scalar,
    type_text,
)
from naru.frontend.onnx_resample import Resampling, resample
from naru.frontend.onnx_shapes import size_of
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ceildiv, floordiv, known, maximum, mul, prod, sub
from naru.ops.operands import dim_text
from naru.ops.registry import constant

MODES = ("nearest", "linear", "cubic")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
PLACES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    "tf_crop_and_resize",
)  # fmt: skip
POLICIES = ("stretch", "not_larger", "not_smaller")
LARGEST = 2**22  # elements of a table
SIMPLE = 256  # times a size below 2**16 is exact in f32
FEW_TAPS = 8  # that are written out; more are a reduction


Part: TypeAlias = "tuple[float, float] | tuple[Node, Node]"


@dataclass(frozen=True)
class Axis:
    """What happens along one axis, number `at` of those that are given. `scale`: 0 where it follows
    from sizes that are not known, or is itself computed (`factor`, f64[], and with it `count`,
    i64[], the number of results). `roi`: start and end of the part that is taken, as fractions;
    f64[] where they are computed."""

    at: int
    axis: int
    scale: float
    before: Expr
    after: Expr
    roi: Part
    factor: Node | None = None
    count: Node | None = None


@dataclass(frozen=True)
class Taps:
    """Of each result the elements it is made of, and their weights [results, taps]; `outside`:
    results that lie outside of the image (None: there cannot be any)."""

    index: np.ndarray
    weight: np.ndarray
    outside: np.ndarray | None = None


def resize(c: OnnxNode) -> Node:
    """Resize of opset 10 (asymmetric coordinates; rounded down, where an axis shrinks up: its text
    leaves that open, and ONNX Runtime does so) and of 11 to 19."""
    if c.version < 11:
        return _resize(c, c[0], _axes(c, _scales(c, 1)), place="asymmetric", rounding="")
    places = PLACES if c.version > 11 else (*PLACES, "tf_half_pixel_for_nn")
    place = c.get_str("coordinate_transformation_mode", "half_pixel", places)
    rounding = c.get_str("nearest_mode", "round_prefer_floor", NEAREST)
    if _are_computed(c, 2):
        x, axes = _computed(c, 2)
    elif _keeps_ratio(c):
        x, axes = _computed(c, 3)
    else:
        x, axes = c[0], _axes(c, _scales(c, 2))
    return _resize(c, x, axes, place=place, rounding=rounding)


def upsample(c: OnnxNode) -> Node:
    """Upsample of opsets 7 (scales are an attribute) to 9: what Resize of opset 10 does."""
    if c.version >= 9 and _are_computed(c, 1):
        x, axes = _computed(c, 1)
        return _resize(c, x, axes, place="asymmetric", rounding="floor")
    scales = c.get_floats("scales") if c.version < 9 else _scales(c, 1)
    return _resize(c, c[0], _axes(c, scales), place="asymmetric", rounding="floor")


def _scales(c: OnnxNode, at: int) -> tuple[float, ...]:
    """The scales, as f32; none where they are left out (or empty) and sizes are given instead."""
    if c.find(at) is None:
        return ()
    array = c.array(at)
    if array is None:
        raise Unsupported(
            f"the scales (operand {at}) are computed", "make them constants, or give the sizes"
        )
    return tuple(float(s) for s in array.reshape(-1))


def _are_computed(c: OnnxNode, at: int) -> bool:
    """Are there scales that only data tell, or that only data tell what they make of a size?"""
    n, scales = c.find(at), c.array(at)
    if n is None or scales is None or scales.size != len(_which(c)):
        return n is not None and scales is None and known(prod(n.type.shape)) != 0
    _check_scales(scales.reshape(-1).tolist())
    pairs = zip(_which(c), scales.reshape(-1), strict=True)
    return not all(_is_simple(c[0].type.shape[a], float(s)) for a, s in pairs)


def _check_scales(scales: Sequence[float]) -> None:
    if not all(math.isfinite(s) and s > 0 for s in scales):
        raise ModelError(f"expected scales above 0, found {list(scales)}")


def _keeps_ratio(c: OnnxNode) -> bool:
    """Are there sizes that the aspect ratio changes, not all of them known?"""
    n, scales = c.find(3), c.find(2)
    if n is None or (scales is not None and known(prod(scales.type.shape)) != 0):
        return False
    if c.version < 18 or c.get_str("keep_aspect_ratio_policy", "stretch", POLICIES) == "stretch":
        return False
    return c.array(3) is None or any(known(c[0].type.shape[a]) is None for a in _which(c))


def _computed(c: OnnxNode, at: int) -> tuple[Node, list[Axis]]:
    """x and its axes, for scales (operand 1 or 2) or sizes (3) that only data tell: the sizes that
    they give become symbols."""
    axes, given = _which(c), c[at]
    if known(prod(given.type.shape)) != len(axes):
        what = "sizes" if at == 3 else "scales"
        raise ModelError(f"expected {len(axes)} {what}, one an axis, found {type_text(given)}")
    before = [emit("reshape", size_of(c[0], a), shape=(1,)) for a in axes]
    made, scales = _sizes_made(c, emit("concat", *before, axis=0), given, of_sizes=at == 3)
    stem = f"{next((o for o in c.outputs if o), 'resize')}_size"
    symbols = tuple(c.importer.symbols.fresh(f"{stem}_{a}") for a in axes)
    bound = emit("bind_dim", emit("cast", made, to="i64"), symbols=symbols)
    rois, shape = _rois(c, len(axes)), c[0].type.shape
    factors, x = emit("with_sizes", scales, bound), emit("with_sizes", c[0], bound)
    out = [
        Axis(k, a, 0.0, shape[a], symbols[k], rois[k], _part(factors, k), _part(bound, k))
        for k, a in enumerate(axes)
    ]
    array = c.array(at) if at != 3 else None
    if array is None:
        return x, out
    # Scales that are known stand here for the sake of sizes that are not.
    numbers = [float(s) for s in array.reshape(-1)]
    whole = [
        Axis(m.at, m.axis, s, m.before, _scaled(m.before, s), m.roi)
        if _is_simple(m.before, s)
        else m
        for m, s in zip(out, numbers, strict=True)
    ]
    return x, [m for m in whole if m.scale != 1 or m.roi != (0, 1)]


def _sizes_made(c: OnnxNode, before: Node, given: Node, *, of_sizes: bool) -> tuple[Node, Node]:
    """(numbers of results as floats, scales as f64), one an axis, of given scales or sizes."""
    if not of_sizes:
        scales = emit("cast", given, to="f32")
        made = emit("floor", emit("mul", emit("cast", before, to="f32"), scales))
        return made, emit("cast", scales, to="f64")
    before = emit("cast", before, to="f64")
    ratios = emit("div", emit("cast", given, to="f64"), before)
    smallest = c.get_str("keep_aspect_ratio_policy", "stretch") == "not_larger"
    name = "reduce_min" if smallest else "reduce_max"
    one = emit(name, ratios, axes=(0,), keepdims=True)
    half = constant(0.5, np.float64)  # of an element counts as one
    made = emit("floor", emit("add", emit("mul", one, before), half))
    return made, emit("expand", one, shape=made.type.shape)


def _part(values: Node, k: int) -> Node:
    """Element k of a vector."""
    return emit("gather", values, constant(k, np.int64), axis=0)


# --- which axes -----------------------------------------------------------------------------------


def _axes(c: OnnxNode, scales: tuple[float, ...]) -> list[Axis]:
    """The axes that change, from scales or sizes."""
    shape, axes = c[0].type.shape, _which(c)
    sizes = () if scales or c.version < 11 else c.sizes(3, "the sizes") or ()
    if len(scales or sizes) != len(axes):
        raise ModelError(
            f"expected {len(axes)} scales or sizes, one an axis, found {len(scales or sizes)}"
        )
    _check_scales(scales)
    if any((known(s) or 0) < 0 for s in sizes):
        raise ModelError(f"expected sizes of at least 0, found {[known(s) for s in sizes]}")
    if sizes:
        scales, sizes = _stretch(c, [shape[a] for a in axes], sizes)
    rois = _rois(c, len(axes))
    made = [
        Axis(k, a, s, shape[a], _scaled(shape[a], s) if not sizes else sizes[k], rois[k])
        for k, (a, s) in enumerate(zip(axes, scales, strict=True))
    ]
    return [m for m in made if m.scale != 1 or m.before is not m.after or m.roi != (0, 1)]


def _which(c: OnnxNode) -> tuple[int, ...]:
    """The axes that scales or sizes belong to."""
    rank = c[0].type.rank
    given = c.get_ints("axes") if c.version >= 18 else None
    return tuple(range(rank)) if given is None else tuple(check_axis(a, rank) for a in given)


def _scaled(size: Expr, scale: float) -> Expr:
    """floor(size · scale) in f32, as shape inference of the standard has it."""
    n = known(size)
    if n is not None:
        return Const(int(np.float32(n) * np.float32(scale)))
    above, below = float(np.float32(scale)).as_integer_ratio()
    return floordiv(mul(size, above), below)


def _is_simple(size: Expr, scale: float) -> bool:
    """Is size · scale exact in f32 for every size that there is, so that a formula can say it?"""
    above, _ = float(np.float32(scale)).as_integer_ratio()
    return known(size) is not None or above <= SIMPLE


def _stretch(
    c: OnnxNode, before: list[Expr], sizes: tuple[Expr, ...]
) -> tuple[tuple[float, ...], tuple[Expr, ...]]:
    """Scales of given sizes; and these, made smaller or larger where the aspect ratio is kept."""
    policy = c.get_str("keep_aspect_ratio_policy", "stretch", POLICIES)
    scales: list[float] = []
    for old, new in zip(before, sizes, strict=True):
        n, m = known(old), known(new)
        if old is new:
            scales.append(1.0)
        elif n is None or m is None:
            scales.append(0.0)
        elif not n:
            raise Unsupported(f"from {dim_text(old)} to {dim_text(new)} elements")
        else:
            scales.append(m / n)
    if policy == "stretch":
        return tuple(scales), sizes
    one = min(scales) if policy == "not_larger" else max(scales)
    # Half of an element counts as one.
    return (one,) * len(scales), tuple(Const(int(one * (known(n) or 0) + 0.5)) for n in before)


def _rois(c: OnnxNode, count: int) -> Sequence[tuple[float, float]] | Sequence[tuple[Node, Node]]:
    crop = c.version >= 11 and c.get_str("coordinate_transformation_mode", "") == PLACES[-1]
    if not crop:
        return [(0.0, 1.0)] * count
    roi = c.find(1)
    if roi is None or known(prod(roi.type.shape)) != 2 * count:
        raise ModelError(
            f"{PLACES[-1]}: expected a roi (operand 1) of {2 * count} numbers, "
            f"found {type_text(roi)}"
        )
    array = c.array(1)
    if array is None:
        edges = [_part(emit("cast", roi, to="f64"), k) for k in range(2 * count)]
        return list(zip(edges[:count], edges[count:], strict=True))
    values = [float(v) for v in array.reshape(-1)]
    return list(zip(values[:count], values[count:], strict=True))


# --- one axis after the other ---------------------------------------------------------------------


def _resize(c: OnnxNode, x: Node, axes: list[Axis], *, place: str, rounding: str) -> Node:
    mode = c.get_str("mode", "nearest", MODES)
    if mode != "nearest":
        c.refuse_text_results()
    kind = x.type.dtype
    if mode != "nearest" and kind != _computed_as(kind):
        x = emit("cast", x, to=_computed_as(kind))
    way = rounding
    for a in axes:
        rounding = way or ("ceil" if a.scale < 1 else "floor")
        factor = _repeats(a, mode, place, rounding)
        if factor:
            x = emit("repeat", x, axis=a.axis, times=factor)
            continue
        before, after = known(a.before), known(a.after)
        if before is None or after is None or isinstance(a.roi[0], Node):
            x = resample(x, a.axis, _at_run_time(c, x, a, mode, place, rounding))
            continue
        if after and not before:
            raise ModelError(f"axis {a.axis}: {before} elements cannot become {after}")
        x = apply_taps(x, a.axis, _taps(c, a, before, after, mode, place, rounding),
                   c.get_float("extrapolation_value", 0.0))  # fmt: skip
    return _as_before(x, kind)


def _computed_as(kind: str) -> str:
    """The type in which elements are averaged: small ones are exact in f32."""
    return "f64" if kind in ("f64", "i32", "u32", "i64", "u64") else "f32"


def _as_before(x: Node, kind: str) -> Node:
    """Averages as elements of a type again; integers are rounded, and clamped."""
    if kind[0] in "iu" and x.type.dtype[0] == "f":
        x = emit("round", x)
        if DTYPES[kind].bits < 32:
            lowest, highest = np.iinfo(DTYPES[kind].numpy).min, np.iinfo(DTYPES[kind].numpy).max
            x = emit("clip", x, scalar(float(lowest), x), scalar(float(highest), x))
    return x if x.type.dtype == kind else emit("cast", x, to=kind)


def _at_run_time(c: OnnxNode, x: Node, a: Axis, mode: str, place: str, rounding: str) -> Resampling:
    """What there is to do along an axis of which only running tells something."""
    shrinks = mode != "nearest" and c.version >= 18 and c.get_flag("antialias", default=False)
    before = emit("cast", size_of(x, a.axis), to="f64")
    number, given = known(a.after), c.find(3)
    if a.count is not None and a.factor is not None:
        after, scale = emit("cast", a.count, to="f64"), a.factor
    elif a.scale:
        scale = constant(a.scale, np.float64)
        after = emit("floor", emit("mul", before, scale))
        after = after if number is None else constant(number, np.float64)
    else:
        assert given is not None
        after = emit("cast", _part(given, a.at), to="f64")
        scale = emit("div", after, before)
    start, end = (e if isinstance(e, Node) else constant(e, np.float64) for e in a.roi)
    return Resampling(
        before, after, scale, start, end, a.after, mode, place, rounding,
        cubic=c.get_float("cubic_coeff_a", -0.75),
        exclude=c.version >= 11 and c.get_flag("exclude_outside", default=False),
        reach=_reach(a, mode) if shrinks else None,
        fill=c.get_float("extrapolation_value", 0.0),
    )  # fmt: skip


def _reach(a: Axis, mode: str) -> Expr:
    """How many elements on each side a result of an antialiasing kernel is made of, at most."""
    reach = 2 if mode == "cubic" else 1
    if a.scale:
        return Const(math.ceil(reach / min(a.scale, 1.0)))
    # A scale is no less than (after - 1/2) / before: sizes that keep the ratio are rounded.
    widest = ceildiv(mul(a.before, 2 * reach), maximum(sub(mul(a.after, 2), 1), 1))
    return maximum(widest, reach)


def _repeats(a: Axis, mode: str, place: str, rounding: str) -> int:
    """How often each element is repeated, where that is all; else 0."""
    factor = int(a.scale)
    whole = factor == a.scale and a.after is mul(a.before, factor) and mode == "nearest"
    if place == "asymmetric":
        return factor if whole and rounding == "floor" else 0
    halves = place in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
    return factor if whole and halves and rounding.startswith("round") else 0


def apply_taps(x: Node, axis: int, taps: Taps, fill: float) -> Node:
    """The weighted sum of the elements; `fill` where it lies outside."""
    behind = (1,) * (x.type.rank - axis - 1)
    total = _weighted(x, axis, taps, behind)
    if taps.outside is None or not taps.outside.any():
        return total
    mask = constant(taps.outside.reshape(-1, *behind), np.bool_)
    return emit("where", mask, scalar(fill, x), total)


def _weighted(x: Node, axis: int, taps: Taps, behind: tuple[int, ...]) -> Node:
    plain = taps.index.shape[1] == 1 and bool((taps.weight == 1).all())
    if taps.index.shape[1] > FEW_TAPS:
        parts = emit("gather", x, constant(taps.index, np.int32), axis=axis)
        weights = _like(taps.weight.reshape(*taps.weight.shape, *behind), x)
        return emit("reduce_sum", emit("mul", parts, weights), axes=(axis + 1,), keepdims=False)
    total: Node | None = None
    for index, weight in zip(taps.index.T, taps.weight.T, strict=True):
        part = emit("gather", x, constant(index, np.int32), axis=axis)
        if not plain:
            part = emit("mul", part, _like(weight.reshape(-1, *behind), x))
        total = part if total is None else emit("add", total, part)
    assert total is not None
    return total


def _like(values: np.ndarray, x: Node) -> Node:
    return constant(values, np.float64 if x.type.dtype == "f64" else np.float32)


# --- the tables -----------------------------------------------------------------------------------


def _taps(
    c: OnnxNode, a: Axis, before: int, after: int, mode: str, place: str, rounding: str
) -> Taps:
    shrinks = mode != "nearest" and c.version >= 18 and c.get_flag("antialias", default=False)
    smaller = min(a.scale, 1.0) if shrinks else 1.0
    if 4 * max(after, 1) > LARGEST * smaller:  # at most four taps, or so many times more
        raise Unsupported(f"{mode} from {before} to {after} elements: its tables are too large")
    at = positions(place, before, after, a.scale, a.roi)
    crop = place == PLACES[-1]
    outside = (at < 0) | (at > before - 1) if crop else None
    if mode == "nearest":
        index, weight = round_to(at, rounding)[:, None], np.ones((after, 1))
    else:
        reach, kernel = 1.0, triangle
        if mode == "cubic":
            reach, kernel = 2.0, partial(cubic, a=c.get_float("cubic_coeff_a", -0.75))
        index, weight = neighbours(at, smaller, reach, kernel)
        if c.version >= 11 and c.get_flag("exclude_outside", default=False):
            weight = np.where((index < 0) | (index >= before), 0.0, weight)
            total = weight.sum(1, keepdims=True)
            weight = weight / np.where(total == 0, 1.0, total)
    return Taps(np.clip(index, 0, max(before - 1, 0)), weight, outside)


def positions(place: str, before: int, after: int, scale: float, roi: Part) -> np.ndarray:
    """Where results lie among the elements, f64[after]; the formulas of Resize-19."""
    x = np.arange(after, dtype=np.float64)
    width = scale * before
    if place == "align_corners":
        return x * (before - 1) / (width - 1) if width != 1 else np.zeros(after)
    if place == "asymmetric":
        return x / scale
    if place == "tf_half_pixel_for_nn":  # of opset 11 alone
        return (x + 0.5) / scale
    if place == PLACES[-1]:
        start, end = (e for e in roi if not isinstance(e, Node))
        inside = x * (end - start) * (before - 1) / (width - 1) if width != 1 else np.full(
            after, (end - start) * (before - 1) / 2
        )  # fmt: skip
        return inside + start * (before - 1)
    if place == "pytorch_half_pixel" and after == 1:
        return np.zeros(1)
    moved = before / 2 * (1 - after / width) if place == "half_pixel_symmetric" else 0.0
    return moved + (x + 0.5) / scale - 0.5


def round_to(at: np.ndarray, rounding: str) -> np.ndarray:
    """The element that is nearest, i64."""
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "round_prefer_floor": lambda t: np.ceil(t - 0.5),
        "round_prefer_ceil": lambda t: np.floor(t + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    return ways[rounding](at).astype(np.int64)


def neighbours(
    at: np.ndarray, smaller: float, reach: float, kernel: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(index, weight) [results, taps] of the elements within `reach`, of a kernel made wider by
    1 / `smaller`; then the weights add up to 1."""
    first = math.floor(-reach / smaller) + 1
    base = np.ceil(at) - 1  # at an element itself, that is the last but one
    index = base[:, None] + np.arange(first, 2 - first)
    weight = kernel((index - at[:, None]) * smaller)
    if smaller < 1:
        weight = weight / weight.sum(1, keepdims=True)
    keep = (weight != 0).any(0)
    keep[np.argmax(keep)] = True  # at least one tap, also of no results
    return index[:, keep].astype(np.int64), weight[:, keep]


def triangle(t: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(t), 0, 1)


def cubic(t: np.ndarray, a: float) -> np.ndarray:
    """The kernel of Keys (1981); a is -0.5 there, -0.75 in many libraries."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


TABLE: dict[str, Callable[[OnnxNode], Node]] = {"Resize": resize, "Upsample": upsample}
