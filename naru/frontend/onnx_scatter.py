"""ONNX operators that write at positions which data give: scatters, MaxUnpool, TensorScatter."""

from __future__ import annotations

from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode, Unsupported, emit, scalar
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ZERO, add, known, mul, prod, sub

REDUCTIONS = ("none", "add", "mul", "max", "min")


def _index(n: Node) -> Node:
    """Indices as the kernels take them."""
    return n if n.type.dtype in ("i32", "i64") else emit("cast", n, to="i64")


def scatter_elements(c: OnnxNode) -> Node:
    """Scatter (opset 9) is the same without a reduction."""
    axis = c.axis(0, c[0].type.rank)
    how = c.get_str("reduction", "none", REDUCTIONS)
    return emit("scatter_elements", c[0], _index(c[1]), c[2], axis=axis, reduction=how)


def scatter_nd(c: OnnxNode) -> Node:
    """The dims behind those that a position names are one row."""
    data, at, updates = c[0], c[1], c[2]
    how = c.get_str("reduction", "none", REDUCTIONS)
    if not at.type.rank or not data.type.rank:
        raise ModelError("expected data and indices of rank 1 or more, found a scalar")
    k = known(at.type.shape[-1])
    if k is None:
        raise Unsupported("index vectors of unknown length", "give the last dim a fixed size")
    if k > data.type.rank:
        raise ModelError(f"index vectors of {k} numbers don't fit rank {data.type.rank}")
    shape = data.type.shape
    outer, width = shape[:k], prod(shape[k:])
    count = prod(at.type.shape[:-1])
    if updates.type.rank != at.type.rank - 1 + data.type.rank - k:
        raise ModelError(
            f"expected updates of rank {at.type.rank - 1 + data.type.rank - k}, "
            f"found {updates.type.rank}"
        )
    rows = emit("reshape", data, shape=(*outer, width))
    positions = emit("reshape", _index(at), shape=(count, Const(k)))
    parts = emit("reshape", updates, shape=(count, width))
    return emit("reshape", emit("scatter_nd", rows, positions, parts, reduction=how), shape=shape)


def tensor_scatter(c: OnnxNode) -> Node:
    """A cache with an update written along the sequence axis, from each sample's start on."""
    mode = c.get_str("mode", "linear", ("linear", "circular"))
    axis = c.axis(-2, c[0].type.rank)
    operands = [n for n in (c[0], c[1], c.find(2)) if n is not None]
    return emit("tensor_scatter", *operands, axis=axis, circular=mode == "circular")


def max_unpool(c: OnnxNode) -> Node:
    """Zeros with x at the positions that MaxPool gave. They count in the shape that follows from
    the window; a larger `output_shape` adds zeros behind it along each axis."""
    x, at = c[0], c[1]
    rank = x.type.rank - 2
    kernel = c.get_ints("kernel_shape") or ()
    strides = c.get_ints("strides") or (1,) * rank
    pads = c.get_ints("pads") or (0,) * (2 * rank)
    if rank < 1 or not len(kernel) == len(strides) == len(pads) // 2 == rank:
        raise ModelError(
            f"expected kernel_shape, strides and pads of {rank} spatial axes, found "
            f"{list(kernel)}, {list(strides)} and {list(pads)}"
        )
    spatial: list[Expr] = [
        sub(add(mul(sub(d, 1), s), k), b + e)
        for d, s, k, b, e in zip(
            x.type.shape[2:], strides, kernel, pads[:rank], pads[rank:], strict=True
        )
    ]
    wanted = c.sizes(2, "the output shape")
    shape = (*x.type.shape[:2], *spatial)
    total = prod(shape)
    zeros = emit("expand", scalar(0, x), shape=(total,))
    flat = [emit("reshape", n, shape=(prod(x.type.shape),)) for n in (_index(at), x)]
    out = emit("scatter_elements", zeros, *flat, axis=0, reduction="none")
    out = emit("reshape", out, shape=shape)
    if wanted is None:
        return out
    if len(wanted) != len(shape):
        raise ModelError(f"expected an output shape of {len(shape)} sizes, found {len(wanted)}")
    more = [sub(w, d) for w, d in zip(wanted[2:], shape[2:], strict=True)]
    ends = (ZERO,) * (2 + rank)
    return emit("pad", out, pads=(*ends, ZERO, ZERO, *more), mode="constant", value=0.0)


TABLE: dict[str, Handler] = {
    "MaxUnpool": max_unpool,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TensorScatter": tensor_scatter,
}
