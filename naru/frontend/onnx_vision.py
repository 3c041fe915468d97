"""ONNX operators that read images between their elements: GridSample, AffineGrid, …"""

from __future__ import annotations

import math

import numpy as np

from naru.dtypes import is_float
from naru.errors import ModelError
from naru.frontend.onnx_contractions import read_window, window_of, with_bias
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import OnnxNode, Unsupported, emit, scalar
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, floordiv, known, mul, prod
from naru.ops.deformed import Windows
from naru.ops.operands import check_equal, shape_text
from naru.ops.registry import constant

SAMPLES = {"bilinear": "linear", "bicubic": "cubic"}  # names of opset 16


def grid_sample(c: OnnxNode) -> Node:
    """The grid [N, *O, rank] as a list of places, and the results [N, C, *O] back in shape."""
    x, grid = c[0], c[1]
    if grid.type.rank != x.type.rank or x.type.rank < 3:
        raise ModelError(
            f"expected x [N, C, *S] and a grid [N, *O, axes of S] of one rank, "
            f"found ranks {x.type.rank} and {grid.type.rank}"
        )
    old, new = ("bilinear", "nearest", "bicubic"), ("linear", "nearest", "cubic")
    # Opset 20 names its modes anew; ONNX Runtime takes either name in either version.
    mode = c.get_str("mode", new[0], (*new, *old))
    padding = c.get_str("padding_mode", "zeros", ("zeros", "border", "reflection"))
    mode = SAMPLES.get(mode, mode)
    if mode != "nearest":
        c.refuse_text_results()
    if mode != "nearest" and not is_float(x.type.dtype):
        raise Unsupported(f"{mode} of {x.type.dtype}", "cast it to float before")
    places = grid.type.shape[1:-1]
    if grid.type.dtype in ("f16", "bf16"):
        grid = emit("cast", grid, to="f32")
    flat = emit("reshape", grid, shape=(grid.type.shape[0], prod(places), grid.type.shape[-1]))
    align = int(c.get_flag("align_corners", False))
    y = emit("grid_sample", x, flat, mode=mode, padding=padding, align=align)
    return emit("reshape", y, shape=(*y.type.shape[:2], *places))


def affine_grid(c: OnnxNode) -> Node:
    """theta [N, r, r + 1] times the places (…, y, x, 1) of an image of `size` -> [N, *S, r]."""
    theta, size = c[0], c.sizes(1, "the size") or ()
    rank = len(size) - 2
    found = tuple(map(known, theta.type.shape[1:]))
    if rank not in (2, 3) or found not in ((rank, rank + 1), (None, None)):
        raise ModelError(
            f"expected theta [N, 2, 3] and a size of 4, or [N, 3, 4] and 5, found "
            f"{shape_text(theta.type.shape)} and {len(size)}"
        )
    align = c.get_flag("align_corners", False)
    work = theta if theta.type.dtype == "f64" else emit("cast", theta, to="f32")
    column = slice_axis(work, 2, Const(rank), ONE)
    total = emit("reshape", column, shape=(theta.type.shape[0], Const(rank), *[ONE] * rank))
    for k, d in enumerate(size[2:]):
        shape = [ONE] * rank
        shape[k] = d
        places = emit("reshape", _places(c, k + 2, d, work, align), shape=tuple(shape))
        column = slice_axis(work, 2, Const(rank - 1 - k), ONE)
        column = emit("reshape", column, shape=(theta.type.shape[0], Const(rank), *[ONE] * rank))
        total = emit("add", total, emit("mul", column, places))
    y = emit("transpose", total, perm=(0, *range(2, rank + 2), 1))
    return y if theta.type.dtype == work.type.dtype else emit("cast", y, to=theta.type.dtype)


def _places(c: OnnxNode, at: int, size: Expr, like: Node, align: bool) -> Node:
    """Places in -1..1 of the elements along an axis whose size is number `at` of operand 1."""
    zero, one = constant(0, np.int64), constant(1, np.int64)
    count = emit("gather", emit("cast", c[1], to="i64"), constant(at, np.int64), axis=0)
    steps = emit("cast", emit("range", zero, count, one, length=size), to=like.type.dtype)
    count = emit("cast", count, to=like.type.dtype)
    if align:
        gaps = emit("max", emit("sub", count, scalar(1, like)), scalar(1, like))
        twice = emit("mul", steps, scalar(2, like))
        return emit("sub", emit("div", twice, gaps), scalar(1, like))
    odd = emit("add", emit("mul", steps, scalar(2, like)), scalar(1, like))
    return emit("sub", emit("div", odd, count), scalar(1, like))


def deform_conv(c: OnnxNode) -> Node:
    """What the offsets point at, as columns, times the weights; like Conv in all else."""
    x, w, offset, bias, mask = c[0], c[1], c[2], c.find(3), c.find(4)
    kernel = window_of(c, x, w, "[M, C / group, window…]")
    window = read_window(c, kernel, x.type.shape[2:])
    pads = tuple(known(p) or 0 for p in window.pads)
    group, groups = c.get_int("group", 1), c.get_int("offset_group", 1)
    if group < 1 or (known(w.type.shape[0]) or 0) % group:
        raise ModelError(f"expected filters that {group} groups share, found {w.type.shape[0]}")
    size, taps = x.type.shape, math.prod(kernel)
    settings = Windows(kernel, window.strides, window.dilations, pads, max(groups, 1))
    counts = settings.counts(size[2:])

    def flat(n: Node, numbers: int) -> Node:
        if n.type.rank != len(size):
            raise ModelError(f"expected offsets and masks of rank {len(size)}, found {n.type.rank}")
        for mine, d in zip(n.type.shape[2:], counts, strict=True):
            check_equal("DeformConv", "numbers of windows and offsets", d, mine)
        return emit("reshape", n, shape=(n.type.shape[0], Const(numbers), prod(counts)))

    moved = flat(offset, groups * taps * len(kernel))
    columns = emit(
        "deform_columns",
        x,
        moved,
        None if mask is None else flat(mask, groups * taps),
        kernel=kernel,
        strides=window.strides,
        dilations=window.dilations,
        pads=pads,
        groups=groups,
    )
    check_equal(
        "DeformConv", "channels of x and of w times group", size[1], mul(w.type.shape[1], group)
    )
    filters, depth = floordiv(w.type.shape[0], group), mul(w.type.shape[1], taps)
    rows = emit("reshape", w, shape=(Const(group), filters, depth))
    apart = emit("reshape", columns, shape=(size[0], Const(group), depth, prod(counts)))
    y = emit("matmul", rows, apart)
    y = emit("reshape", y, shape=(size[0], w.type.shape[0], *counts))
    return y if bias is None else with_bias(y, bias)


def roi_align(c: OnnxNode) -> Node:
    """Before opset 16 without the shift by half an element."""
    places = ("half_pixel", "output_half_pixel")
    default = places[0] if c.version >= 16 else places[1]
    return emit(
        "roi_align",
        c[0],
        c[1],
        c[2],
        mode=c.get_str("mode", "avg", ("avg", "max")),
        height=c.get_int("output_height", 1),
        width=c.get_int("output_width", 1),
        ratio=c.get_int("sampling_ratio", 0),
        scale=c.get_float("spatial_scale", 1.0),
        half=int(c.get_str("coordinate_transformation_mode", default, places) == places[0]),
    )


def max_roi_pool(c: OnnxNode) -> Node:
    shape = c.get_ints("pooled_shape") or ()
    if len(shape) != 2:
        raise ModelError(f"attribute 'pooled_shape': expected 2 sizes, found {list(shape)}")
    scale = c.get_float("spatial_scale", 1.0)
    return emit("max_roi_pool", c[0], c[1], height=shape[0], width=shape[1], scale=scale)


TABLE: dict[str, Handler] = {
    "AffineGrid": affine_grid,
    "DeformConv": deform_conv,
    "GridSample": grid_sample,
    "MaxRoiPool": max_roi_pool,
    "RoiAlign": roi_align,
}
