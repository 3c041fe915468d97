"""ATen's upsampling and grid_sampler.

Sizes that are known give tables of elements and weights, as for ONNX's Resize; else the places are
computed when running. PyTorch works places out in f32: so do the tables of the nearest element, for
a place on the edge between two goes the way it goes there.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from naru.frontend.onnx_node import Unsupported, emit, scalar
from naru.frontend.onnx_resample import Resampling, resample
from naru.frontend.onnx_resize import Taps, apply_taps, cubic, neighbours, triangle
from naru.frontend.onnx_shapes import size_of
from naru.frontend.torch_call import AtenCall, Handler, as_node
from naru.frontend.torch_elementwise import wide
from naru.ir.graph import Node
from naru.ir.simplify import known, prod
from naru.ops.registry import constant

CUBIC = -0.75  # the constant of PyTorch's kernel; with antialias it takes the usual -0.5
MODES = {"linear": 1.0, "cubic": 2.0}  # and how far their kernels reach


def _scales(c: AtenCall, rank: int) -> list[float | None]:
    """The scale factors that PyTorch was given: they, not the sizes, decide the places."""
    factors = c.args.get("scale_factors")
    if factors is not None:
        return [float(f) for f in factors]
    names = ("scales",) if rank == 1 else ("scales_d", "scales_h", "scales_w")[-rank:]
    given = [c.args.get(n) for n in names]
    return [None if g is None else float(g) for g in given]


def _nearest(rank: int, *, exact: bool) -> Handler:
    def handler(c: AtenCall) -> Node:
        x = c["self"] if "self" in c.args else c["input"]
        for axis, scale in enumerate(_scales(c, rank), 2):
            x = _nearest_axis(c, x, axis, scale, exact)
        return c.finish(x)

    return handler


def _nearest_axis(c: AtenCall, x: Node, axis: int, scale: float | None, exact: bool) -> Node:
    before, after = x.type.shape[axis], c.shape[axis]
    n, m = known(before), known(after)
    if n is not None and m is not None:
        if m and n and m % n == 0 and scale in (None, m / n):
            return emit("repeat", x, axis=axis, times=m // n) if m != n else x
        ratio = np.float32(1 / scale) if scale else np.float32(n) / np.float32(max(m, 1))
        k = np.arange(m, dtype=np.float32)
        at = np.floor((k + np.float32(0.5)) * ratio if exact else k * ratio)
        at = np.minimum(at.astype(np.int64), n - 1)
        return emit("gather", x, constant(at, np.int32), axis=axis)
    if scale is not None and scale.is_integer() and scale >= 1:
        return emit("repeat", x, axis=axis, times=int(scale))
    place = "half_pixel" if exact else "asymmetric"
    rounding = "round_prefer_ceil" if exact else "floor"
    return resample(x, axis, _at_run_time(c, x, axis, "nearest", place, rounding, scale))


def _at_run_time(
    c: AtenCall, x: Node, axis: int, mode: str, place: str, rounding: str, scale: float | None
) -> Resampling:
    """What there is to do along an axis of which only running tells the size."""
    after = c.shape[axis]
    before = emit("cast", size_of(x, axis), to="f64")
    count = as_node(after, "f64", c.sizes_of)
    ratio = constant(scale, np.float64) if scale else emit("div", count, before)
    zero, one = constant(0.0, np.float64), constant(1.0, np.float64)
    return Resampling(
        before, count, ratio, zero, one, after, mode, place, rounding,
        cubic=CUBIC, exclude=False, reach=None, fill=0.0,
    )  # fmt: skip


def _smooth(rank: int, mode: str, *, antialias: bool = False) -> Handler:
    def handler(c: AtenCall) -> Node:
        x = wide(c["self"] if "self" in c.args else c["input"])
        whole = x.type.dtype[0] in "iu"
        x = emit("cast", x, to="f32") if whole else x
        for axis, scale in enumerate(_scales(c, rank), 2):
            x = _smooth_axis(c, x, axis, scale, mode, antialias)
        if whole:
            x = emit("clip", emit("round", x), scalar(0, x), scalar(255, x))
        return c.finish(x)

    return handler


def _smooth_axis(
    c: AtenCall, x: Node, axis: int, scale: float | None, mode: str, antialias: bool
) -> Node:
    before, after = x.type.shape[axis], c.shape[axis]
    n, m, align = known(before), known(after), c.flag("align_corners")
    if before is after and scale in (None, 1.0):
        return x
    if n is None or m is None:
        if antialias:
            raise Unsupported("antialiasing of an image of unknown size", "fix the spatial dims")
        place = "align_corners" if align else "half_pixel"
        return resample(x, axis, _at_run_time(c, x, axis, mode, place, "floor", scale))
    k = np.arange(m, dtype=np.float64)
    if align:
        at, ratio = k * ((n - 1) / (m - 1) if m > 1 else 0.0), 1.0
    else:
        ratio = 1 / scale if scale else n / max(m, 1)
        at = (k + 0.5) * ratio - 0.5
    if antialias:
        return apply_taps(x, axis, _filtered(n, m, (n - 1) / (m - 1) if align and m > 1 else ratio,
                                             mode, align), 0.0)  # fmt: skip
    kernel = partial(cubic, a=CUBIC) if mode == "cubic" else triangle
    index, weight = neighbours(at, 1.0, MODES[mode], kernel)
    return apply_taps(x, axis, Taps(np.clip(index, 0, n - 1), weight), 0.0)


def _filtered(n: int, m: int, ratio: float, mode: str, align: bool) -> Taps:
    """Taps of a kernel made wider where the image shrinks; those outside of it do not count."""
    wider = max(ratio, 1.0)
    reach = MODES[mode] * wider
    centers = ratio * (np.arange(m) + 0.5)
    first = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + reach + 0.5).astype(np.int64), n)
    most = int(max((last - first).max(initial=1), 1))
    index = first[:, None] + np.arange(most)
    kernel = partial(cubic, a=-0.5) if mode == "cubic" else triangle
    weight = kernel((index - centers[:, None] + 0.5) / wider)
    weight = np.where(index < last[:, None], weight, 0.0)
    weight = weight / weight.sum(1, keepdims=True)
    return Taps(np.clip(index, 0, n - 1), weight)


GRID_MODES = ("linear", "nearest", "cubic")
GRID_PADDINGS = ("zeros", "border", "reflection")


def grid_sampler(c: AtenCall) -> Node:
    """x [N, C, spatial…] read at places that the grid gives, from -1 to 1 along each axis."""
    x, grid = wide(c["input"]), wide(c["grid"])
    n, *places, rank = grid.type.shape
    flat = emit("reshape", grid, shape=(n, prod(places), rank))
    y = emit(
        "grid_sample", x, flat, mode=GRID_MODES[c.int("interpolation_mode")],
        padding=GRID_PADDINGS[c.int("padding_mode")], align=c.flag("align_corners"),
    )  # fmt: skip
    return c.finish(emit("reshape", y, shape=c.shape))


TABLE: dict[str, Handler] = {
    "_upsample_bicubic2d_aa": _smooth(2, "cubic", antialias=True),
    "_upsample_bilinear2d_aa": _smooth(2, "linear", antialias=True),
    "_upsample_nearest_exact1d": _nearest(1, exact=True),
    "_upsample_nearest_exact2d": _nearest(2, exact=True),
    "_upsample_nearest_exact3d": _nearest(3, exact=True),
    "grid_sampler": grid_sampler,
    "grid_sampler_2d": grid_sampler,
    "grid_sampler_3d": grid_sampler,
    "upsample_bicubic2d": _smooth(2, "cubic"),
    "upsample_bilinear2d": _smooth(2, "linear"),
    "upsample_linear1d": _smooth(1, "linear"),
    "upsample_nearest1d": _nearest(1, exact=False),
    "upsample_nearest2d": _nearest(2, exact=False),
    "upsample_nearest3d": _nearest(3, exact=False),
    "upsample_trilinear3d": _smooth(3, "linear"),
}
