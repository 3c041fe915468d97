"""Pooling of regions of interest: roi_align and max_roi_pool, kernels by hand.

A region may be any numbers: places are clamped into the image, and an image that is not in the
batch is the nearest one that is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import index, known, mul, prod
from naru.ops.contraction import wide
from naru.ops.kernel_text import KernelText
from naru.ops.operands import (
    check_equal,
    check_kind,
    check_same_dtype,
    compute_dtype,
    given,
    operand,
    shape_text,
)
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray
LANES = 8  # results of a row that are computed together
CHANNELS = 64  # that use what was worked out for one sample
# Samples along an axis of a bin; a bin that would take more lies outside of any image almost
# everywhere, and must not keep a thread busy for hours.
MOST_SAMPLES = 1024


# --- roi_align ------------------------------------------------------------------------------------


def _infer(op: str, types: Types, attrs: Attrs, columns: int) -> tuple[TensorType, ...]:
    x, rois = operand(op, types, 0, rank=4), operand(op, types, 1, rank=2)
    check_kind(op, x.dtype, "f")
    check_same_dtype(op, (x, rois))
    check_equal(op, "numbers of a region", rois.shape[1], index(columns))
    height, width = attrs["height"], attrs["width"]
    if min(height, width) < 1:
        raise ModelError(f"{op}: expected sizes of at least 1, found {height} and {width}")
    if any(known(d) == 0 for d in (x.shape[0], *x.shape[2:])) and known(rois.shape[0]) != 0:
        raise ModelError(f"{op}: {shape_text(x.shape)} has no elements to read")
    return (TensorType(x.dtype, (rois.shape[0], x.shape[1], index(height), index(width))),)


def infer_roi_align(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, H, W], rois [R, 4] (x1, y1, x2, y2), images [R] -> [R, C, height, width]. attrs
    mode (avg, max), height, width, ratio (samples of a bin an axis; 0: one an element), scale (from
    a region's numbers to elements), half (is the middle of an element its place?). RoiAlign-22."""
    images = operand("roi_align", types, 2, rank=1)
    check_kind("roi_align", images.dtype, "i")
    (out,) = _infer("roi_align", types, attrs, 4)
    count = check_equal("roi_align", "regions and images", out.shape[0], images.shape[0])
    if attrs["mode"] not in ("avg", "max") or attrs["ratio"] < 0:
        raise ModelError(f"roi_align: mode {attrs['mode']!r} or ratio {attrs['ratio']} is unknown")
    return (TensorType(out.dtype, (count, *out.shape[1:])),)


def _np_samples(start: float, size: float, bins: int, ratio: int) -> tuple[Array, int]:
    """Places [bins, samples] along an axis, and how many samples a bin has."""
    kind = type(size)
    step = kind(size / kind(bins))
    wanted = math.ceil(step) if math.isfinite(step) else 0
    count = ratio or max(min(wanted, MOST_SAMPLES), 0)
    at = np.arange(count).astype(kind) + kind(0.5)
    first = kind(start) + np.arange(bins).astype(kind)[:, None] * step
    return first + at * step / kind(max(count, 1)), count


def _np_corners(v: Array, size: int) -> tuple[Array, Array, Array, Array]:
    """(low index, high index, weight of high, is it in the image) of places along an axis."""
    inside = ~((v < -1) | (v > size))
    v = np.nan_to_num(np.clip(v, 0, max(size - 1, 0)))
    low = v.astype(np.int64)
    return low, np.minimum(low + 1, size - 1), (v - low).astype(v.dtype), inside


def ref_roi_align(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, rois, images = wide(given(arrays)), wide(given(arrays, 1)), given(arrays, 2)
    height, width, ratio = attrs["height"], attrs["width"], attrs["ratio"]
    out = np.zeros((len(rois), x.shape[1], height, width), x.dtype)
    kind = x.dtype.type
    with np.errstate(all="ignore"):
        for r, (roi, image) in enumerate(zip(rois, images, strict=True)):
            x1, y1, x2, y2 = roi.astype(x.dtype) * kind(attrs["scale"]) - kind(
                0.5 if attrs["half"] else 0
            )
            w, h = (kind(b - a) for a, b in ((x1, x2), (y1, y2)))
            if not attrs["half"]:
                w, h = max(w, kind(1)), max(h, kind(1))
            at_y, rows = _np_samples(y1, h, height, ratio)
            at_x, columns = _np_samples(x1, w, width, ratio)
            if not rows or not columns:
                continue
            here = x[min(max(int(image), 0), len(x) - 1)]
            out[r] = _np_pooled(here, at_y, at_x, attrs["mode"])
    return (out.astype(given(arrays).dtype),)


def _np_pooled(image: Array, at_y: Array, at_x: Array, mode: str) -> Array:
    yl, yh, fy, in_y = (a[:, None, :, None] for a in _np_corners(at_y, image.shape[1]))
    xl, xh, fx, in_x = (a[None, :, None, :] for a in _np_corners(at_x, image.shape[2]))
    corners = [
        np.where(in_y & in_x, wy * wx * image[:, y, x], image.dtype.type(0))
        for y, wy in ((yl, 1 - fy), (yh, fy))
        for x, wx in ((xl, 1 - fx), (xh, fx))
    ]
    if mode == "max":
        return np.max(np.max(corners, 0), (3, 4))
    return np.mean(sum(corners[1:], corners[0]), (3, 4), dtype=image.dtype)


def _axis_lines(n: str, dtype: str, value: str, size: str, lanes: bool) -> list[str]:
    """Along axis n from place `value`: `low{n}`, `high{n}`, `near{n}`, `far{n}` (weights of low and
    high), `in{n}`."""

    def let(name: str, kind: str, e: str) -> str:
        return f"{name}{n}: {kind}{f'[{LANES}]' if lanes else ''} = {e}"

    last = f"{dtype}({size} - 1)"
    return [
        let("place", dtype, value),
        let("in", "bool", f"(place{n} >= -1.0) & (place{n} <= {dtype}({size}))"),
        let("v", dtype, f"larger(select(place{n} > {last}, {last}, place{n}), {dtype}(0.0))"),
        let("whole", "i32", f"i32(v{n})"),
        let("low", "index", f"index(whole{n})"),
        let(
            "high",
            "index",
            f"min(low{n} + 1, {f'splat({size} - 1, {LANES})' if lanes else f'{size} - 1'})",
        ),
        let("far", dtype, f"v{n} - {dtype}(whole{n})"),
        let("near", dtype, f"1.0 - far{n}"),
    ]


def _count(dtype: str, size: str, ratio: int) -> str:
    """How many samples a bin of a size has along an axis."""
    if ratio:
        return str(ratio)
    limited = f"larger({dtype}({float(MOST_SAMPLES)}) - ceil({size}), {dtype}(0.0))"
    return f"max(min({MOST_SAMPLES} - index({limited}), {MOST_SAMPLES}), 0)"


def _roi_lines(n: Node, dtype: str) -> list[str]:
    """The numbers of region r: where it starts, the size of a bin, its samples."""
    scale, half = float(n.attr("scale")), bool(n.attr("half"))  # pyright: ignore[reportArgumentType]
    ratio = int(n.attr("ratio"))  # pyright: ignore[reportArgumentType]
    lines: list[str] = []
    for axis, k, bins in (("x", 0, "PW"), ("y", 1, "PH")):
        for name, at in (("start", k), ("end", k + 2)):
            place = f"{dtype}(rois[r, {at}]) * {dtype}({scale!r})"
            lines.append(f"{name}_{axis}: {dtype} = {place}{' - 0.5' if half else ''}")
        size = f"end_{axis} - start_{axis}"
        lines += [
            f"size_{axis}: {dtype} = {size if half else f'larger({size}, {dtype}(1.0))'}",
            f"bin_{axis}: {dtype} = size_{axis} / {dtype}({bins})",
            f"count_{axis}: index = {_count(dtype, f'bin_{axis}', ratio)}",
            f"step_{axis}: {dtype} = bin_{axis} / {dtype}(max(count_{axis}, 1))",
        ]
    return lines


def opaque_roi_align(n: Node, target: Target) -> str:
    """Parameters: x, rois, images, out, sizes. Threads share rows of results."""
    x, rois, images = (i.type for i in n.inputs if i is not None)
    dtype, mode = compute_dtype(x.dtype), str(n.attr("mode"))
    at_x = (
        f"start_x + {dtype}(i32(lanes({LANES}) + splat(first, {LANES}))) * bin_x"
        f" + ({dtype}(ix) + 0.5) * step_x"
    )
    at_y = f"start_y + {dtype}(ph) * bin_y + ({dtype}(iy) + 0.5) * step_y"
    corners = [
        f"select(inside, {a}y * {b}x * {dtype}(x[image, part + c, {p}y, {p2}x]), 0.0)"
        for a, p in (("near", "low"), ("far", "high"))
        for b, p2 in (("near", "low"), ("far", "high"))
    ]
    total = f"acc[c, 0:{LANES}]"
    if mode == "avg":
        added = f"{total} + ({' + '.join(corners)})"
        result = f"{total} / {dtype}(max(count_y * count_x, 1))"
    else:
        added = total
        for corner in corners:
            added = f"larger({corner}, {added})"
        result = f"select(splat(count_y * count_x, {LANES}) > splat(0, {LANES}), {total}, 0.0)"
    result = result if dtype == x.dtype else f"{x.dtype}({result})"
    zero = "0.0" if mode == "avg" else "-inf"
    body = [
        "for t in parallel(R * PH):",
        "    r: index = t // PH",
        "    ph: index = t % PH",
        "    image: index = max(min(index(images[r]), N - 1), 0)",
        *("    " + line for line in _roi_lines(n, dtype)),
        f"    acc: {dtype}[{CHANNELS}, {LANES}] @ stack @ 64",
        f"    for block in range((PW + {LANES - 1}) // {LANES}):",
        f"        first: index = block * {LANES}",
        f"        for group in range((C + {CHANNELS - 1}) // {CHANNELS}):",
        f"            part: index = group * {CHANNELS}",
        f"            some: index = min(C - part, {CHANNELS})",
        "            for c in range(some):",
        f"                {total} = splat({zero}, {LANES})",
        "            for iy in range(count_y):",
        *(" " * 16 + line for line in _axis_lines("y", dtype, at_y, "H", False)),
        "                for ix in range(count_x):",
        *(" " * 20 + line for line in _axis_lines("x", dtype, at_x, "W", True)),
        f"                    inside: bool[{LANES}] = iny & inx",
        "                    for c in range(some):",
        f"                        {total} = {added}",
        "            for c in range(some):",
        f"                store(out[r, part + c, ph, first:first + {LANES}], {result}, "
        f"lanes({LANES}) < splat(PW - first, {LANES}))",
    ]
    return _kernel(n, "roi_align", {"x": x, "rois": rois, "images": images}, body)


def _kernel(n: Node, name: str, types: dict[str, TensorType], body: list[str]) -> str:
    """The text of a kernel; nothing is done where there is no image to read."""
    x, out = types["x"], n.type
    sizes = {"N": x.shape[0], "C": x.shape[1], "H": x.shape[2], "W": x.shape[3]}
    sizes |= {"R": out.shape[0], "PH": out.shape[2], "PW": out.shape[3]}
    text = KernelText(*types.values(), out)
    buffers = [text.buffer(k, t) for k, t in (types | {"out": out}).items()]
    if any((known(d) or 0) < 1 for d in (x.shape[0], *x.shape[2:])):
        body = _guarded(body, out.dtype)
    filled = text.fill("\n".join("    " + line for line in body), sizes)
    return f"{text.head(name, *buffers)}\n{filled}\n"


def _guarded(body: list[str], dtype: str) -> list[str]:
    """The body where the image has elements, else zeros."""
    at = "r, c, i, j"
    return [
        "if N * H * W > 0:",
        *("    " + line for line in body),
        "else:",
        "    for r in range(R):",
        "        for c in range(C):",
        "            for i in range(PH):",
        "                for j in range(PW):",
        f"                    out[{at}] = {dtype}(0.0)",
    ]


def _roi_align_flops(n: Node) -> Expr:
    """Four products and sums a sample; of adaptive ones, four samples."""
    ratio = int(n.attr("ratio")) or 2  # pyright: ignore[reportArgumentType]
    return mul(8 * ratio * ratio, prod(n.type.shape))


def _rois(*shape: int, dtype: str = "f32", columns: int = 4, seed: int = 1) -> Array:
    """Regions, some of which lie partly outside, are empty or turned round."""
    a = random(shape[0], 4, seed=seed, scale=6.0)
    a[1::2, 2:] = a[1::2, :2] + np.abs(a[1::2, 2:])
    return a.astype(random(1, dtype=dtype).dtype)


def _roi_align_samples() -> Iterable[Sample]:
    base = {"mode": "avg", "height": 2, "width": 3, "ratio": 0, "scale": 1.0, "half": 1}
    images = np.array([0, 1, 0, 7, -3])
    for mode, half, ratio in itertools.product(("avg", "max"), (0, 1), (0, 2)):
        attrs = {**base, "mode": mode, "half": half, "ratio": ratio}
        yield Sample((random(2, 3, 7, 6), _rois(5), images), attrs)
    wide_bins = {**base, "width": 11, "scale": 0.5}
    yield Sample((random(2, 70, 5, 4), _rois(5), images.astype(np.int32)), wide_bins)
    yield Sample((random(2, 3, 1, 1), _rois(5), images), base)
    for dtype in ("f16", "f64"):
        yield Sample((random(2, 3, 5, 4, dtype=dtype), _rois(5, dtype=dtype), images), base)
    yield Sample((random(1, 2, 3, 3), random(0, 4), np.zeros(0, np.int64)), base)
    edges = np.array([[np.nan, 0, 1, 1], [0, 0, 1e9, 1], [1, 1, -5, -5]], np.float32)
    yield Sample((random(1, 2, 3, 4), edges, np.zeros(3, np.int64)), {**base, "mode": "max"})


register(Op("roi_align", "opaque", infer_roi_align, ref_roi_align, opaque=opaque_roi_align,
            flops=_roi_align_flops, samples=_roi_align_samples))  # fmt: skip


# --- max_roi_pool ---------------------------------------------------------------------------------


def infer_max_roi_pool(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, H, W], rois [R, 5] (image, x1, y1, x2, y2) -> [R, C, height, width]: the largest
    element of each bin. attrs height, width, scale. MaxRoiPool-22."""
    return _infer("max_roi_pool", types, attrs, 5)


def _np_round(v: Array) -> Array:
    """Halves away from zero; a NaN counts as far below."""
    far = 2.0**30
    whole = np.trunc(v + np.copysign(v.dtype.type(0.5), v))
    return np.nan_to_num(np.clip(whole, -far, far), nan=-far)


def ref_max_roi_pool(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, rois = given(arrays), wide(given(arrays, 1))
    height, width = attrs["height"], attrs["width"]
    out = np.zeros((len(rois), x.shape[1], height, width), x.dtype)
    with np.errstate(all="ignore"):
        for result, roi in zip(out, rois, strict=True):
            image = x[int(np.clip(np.nan_to_num(roi[0]), 0, len(x) - 1))]
            x1, y1, x2, y2 = (int(v) for v in _np_round(roi[1:] * roi.dtype.type(attrs["scale"])))
            bin_h = rois.dtype.type(max(y2 - y1 + 1, 1)) / rois.dtype.type(height)
            bin_w = rois.dtype.type(max(x2 - x1 + 1, 1)) / rois.dtype.type(width)
            for i, j in itertools.product(range(height), range(width)):
                top, bottom = (
                    min(max(int(v) + y1, 0), x.shape[2])
                    for v in (np.floor(i * bin_h), np.ceil((i + 1) * bin_h))
                )
                left, right = (
                    min(max(int(v) + x1, 0), x.shape[3])
                    for v in (np.floor(j * bin_w), np.ceil((j + 1) * bin_w))
                )
                part = image[:, top:bottom, left:right].reshape(x.shape[1], -1)
                if part.shape[1]:
                    result[:, i, j] = np.fmax.reduce(part, 1, initial=-np.inf)
    return (out,)


def opaque_max_roi_pool(n: Node, target: Target) -> str:
    """Parameters: x, rois, out, sizes. Threads share regions and channels."""
    x, rois = (i.type for i in n.inputs if i is not None)
    dtype = compute_dtype(x.dtype)
    scale = float(n.attr("scale"))  # pyright: ignore[reportArgumentType]
    lines: list[str] = []
    for name, k in (("x1", 1), ("y1", 2), ("x2", 3), ("y2", 4)):
        v = f"at_{name}"
        lines += [
            f"{v}: {dtype} = {dtype}(rois[r, {k}]) * {dtype}({scale!r})",
            f"{name}: index = index(i32(larger(select({v} > 1073741824.0, {dtype}(1073741824.0), "
            f"trunc({v} + select({v} < 0.0, {dtype}(-0.5), 0.5))), {dtype}(-1073741824.0))))",
        ]
    for axis, bins in (("y", "PH"), ("x", "PW")):
        size = f"{dtype}(max({axis}2 - {axis}1 + 1, 1))"
        lines.append(f"bin_{axis}: {dtype} = {size} / {dtype}({bins})")

    def edge(axis: str, e: str, size: str) -> str:
        return f"max(min(index({e}) + {axis}1, {size}), 0)"

    body = [
        "for t in parallel(R * C):",
        "    r: index = t // C",
        "    c: index = t % C",
        f"    image: index = index(larger(min({dtype}(rois[r, 0]), {dtype}(N - 1)), {dtype}(0.0)))",
        *("    " + line for line in lines),
        "    for i in range(PH):",
        f"        top: index = {edge('y', f'floor({dtype}(i) * bin_y)', 'H')}",
        f"        bottom: index = {edge('y', f'ceil({dtype}(i + 1) * bin_y)', 'H')}",
        "        for j in range(PW):",
        f"            left: index = {edge('x', f'floor({dtype}(j) * bin_x)', 'W')}",
        f"            right: index = {edge('x', f'ceil({dtype}(j + 1) * bin_x)', 'W')}",
        f"            best = {dtype}(-inf)",
        "            for h in range(top, bottom):",
        "                for w in range(left, right):",
        f"                    best = larger({dtype}(x[image, c, h, w]), best)",
        "            none: bool = (bottom <= top) | (right <= left)",
        f"            result: {dtype} = select(none, {dtype}(0.0), best)",
        f"            out[r, c, i, j] = {'result' if dtype == x.dtype else f'{x.dtype}(result)'}",
    ]
    return _kernel(n, "max_roi_pool", {"x": x, "rois": rois}, body)


def _max_roi_pool_samples() -> Iterable[Sample]:
    base = {"height": 2, "width": 3, "scale": 1.0}
    rois = np.concatenate([np.array([[0], [1], [0], [7], [-3]]), _rois(5)], 1).astype(np.float32)
    yield Sample((random(2, 3, 7, 6), rois), base)
    yield Sample((random(2, 3, 4, 5), rois), {**base, "height": 7, "width": 1, "scale": 0.5})
    yield Sample((random(2, 3, 4, 5, dtype="f16"), rois.astype(np.float16)), base)
    yield Sample((random(2, 3, 4, 5, dtype="f64"), rois.astype(np.float64)), base)
    yield Sample((random(1, 2, 3, 3), random(0, 5)), base)
    edges = np.array([[np.nan, 0, 0, 1, 1], [0, 0, 0, 99, 1], [0, 2.5, 1, -5, -5]])
    yield Sample((random(1, 2, 3, 4), edges.astype(np.float32)), base)


register(Op("max_roi_pool", "opaque", infer_max_roi_pool, ref_max_roi_pool,
            opaque=opaque_max_roi_pool, samples=_max_roi_pool_samples))  # fmt: skip
