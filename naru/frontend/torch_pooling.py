"""ATen pools: windows that slide, and those that divide an axis into a number of parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from naru.dtypes import DTYPES, is_float
from naru.errors import ModelError
from naru.frontend.onnx_node import Unsupported, as_dtype, emit, scalar
from naru.frontend.torch_call import AtenCall, Handler
from naru.frontend.torch_contractions import batched, spread, unbatched
from naru.frontend.torch_elementwise import wide
from naru.ir.graph import Node
from naru.ir.simplify import floordiv, known, mul
from naru.ops.registry import constant


def _window(c: AtenCall, rank: int) -> dict[str, tuple[int, ...] | bool]:
    kernel = spread(c.ints("kernel_size"), rank)
    stride = spread(c.ints("stride"), rank) if c.args.get("stride") else kernel
    padding = spread(c.ints("padding"), rank)
    dilation = spread(c.ints("dilation"), rank) if "dilation" in c.args else (1,) * rank
    return {
        "kernel_shape": kernel, "strides": stride, "dilations": dilation,
        "pads": (*padding, *padding), "ceil_mode": c.flag("ceil_mode"),
    }  # fmt: skip


def _max_pool(rank: int) -> Handler:
    """Maxima, and their places in the spatial axes where asked for."""

    def handler(c: AtenCall) -> Node | Sequence[Node | None]:
        x, single = batched(c["self"], rank)
        window = _window(c, rank)
        y = emit("max_pool", x, **window)
        if len(c.results) == 1:
            return unbatched(y, single)
        places: Node | None = None
        if c.wanted[1]:
            found = emit("max_pool_places", x, y, **window, column_major=False)
            plane = 1
            for d in x.type.shape[2:]:
                plane = mul(plane, d)
            size = known(plane) if not isinstance(plane, int) else plane
            if size is None:
                raise Unsupported("places of maxima in an image of unknown size")
            # Ours count through the whole tensor, PyTorch's within each plane.
            places = unbatched(emit("mod", found, scalar(size, found)), single)
        return [unbatched(y, single), places]

    return handler


def _average_pool(rank: int) -> Handler:
    def handler(c: AtenCall) -> Node:
        x, single = batched(c["self"], rank)
        window = _window(c, rank)
        if not is_float(x.type.dtype):
            raise Unsupported(f"an average pool of {x.type.dtype}", "floats")
        if c.has("divisor_override"):
            half = wide(x)
            total = emit("sum_pool", half, **window)
            y = emit("div", total, scalar(c.int("divisor_override"), half))
            return unbatched(c.finish(y), single)
        include = bool(c.value("count_include_pad", True))
        return unbatched(emit("average_pool", x, **window, count_include_pad=include), single)

    return handler


# --- adaptive -------------------------------------------------------------------------------------


def _parts(size: int, count: int) -> list[tuple[int, int]]:
    """Start and end of each of `count` parts of an axis; neighbours may overlap."""
    return [((k * size) // count, -((-(k + 1) * size) // count)) for k in range(count)]


def _one_axis(x: Node, axis: int, count: int, how: str) -> Node:
    """An axis divided into parts: their means, or maxima, by a table of places."""
    size = known(x.type.shape[axis])
    if size is None:
        raise Unsupported(f"{count} parts of an axis of unknown size", "fix the spatial dims")
    if not size:
        raise ModelError("expected spatial axes with elements")
    parts = _parts(size, count)
    most = max(end - start for start, end in parts)
    at = np.array([[min(start + j, end - 1) for j in range(most)] for start, end in parts])
    taken = emit("gather", x, constant(at, np.int64), axis=axis)
    if how == "max":
        return emit("reduce_max", taken, axes=(axis + 1,), keepdims=False)
    share = np.array([[(j < e - s) / (e - s) for j in range(most)] for s, e in parts])
    shape = (count, most, *[1] * (x.type.rank - axis - 1))
    weights = constant(share.reshape(shape), DTYPES[x.type.dtype].numpy)
    return emit("reduce_sum", emit("mul", taken, weights), axes=(axis + 1,), keepdims=False)


def _adaptive(rank: int, how: str) -> Handler:
    def handler(c: AtenCall) -> Node | Sequence[Node | None]:
        x, single = batched(c["self"], rank)
        if len(c.results) > 1 and c.wanted[1]:
            raise Unsupported("places of adaptive maxima", "return_indices=False")
        counts = [known(d) for d in c.shape[-rank:]]
        y = _adapted(x, counts, rank, how)
        y = unbatched(as_dtype(y, c.type.dtype), single)
        return y if len(c.results) == 1 else [y, None]

    return handler


def _adapted(x: Node, counts: Sequence[int | None], rank: int, how: str) -> Node:
    axes = tuple(range(2, 2 + rank))
    if all(n == 1 for n in counts):
        return emit("reduce_mean" if how == "mean" else "reduce_max", x, axes=axes, keepdims=True)
    sizes = [known(d) for d in x.type.shape[2:]]
    whole = [n and m and n % m == 0 and n // m for n, m in zip(sizes, counts, strict=True)]
    if all(whole):
        kernel = tuple(int(k or 1) for k in whole)
        name = "average_pool" if how == "mean" else "max_pool"
        return emit(name, x, kernel_shape=kernel, strides=kernel)
    y = wide(x)
    for axis, count, before in zip(axes, counts, x.type.shape[2:], strict=True):
        if count is None:
            if floordiv(before, 1) is not before:
                raise Unsupported("parts of unknown number")
            continue  # an axis that is left out keeps its size
        if count != known(before):
            y = _one_axis(y, axis, count, how)
    return y


def max_unpool(c: AtenCall) -> Node:
    """Zeros with the elements of self at places within each plane."""
    x, at = c["self"], c["indices"]
    rank = len(c.args["output_size"])
    x, single = batched(x, rank)
    at, _ = batched(at, rank)
    size = c.shape[-rank:]
    numbers = [known(d) for d in size]
    batch = x.type.shape[:2]
    plane = math.prod(n for n in numbers if n is not None)
    if None in numbers:
        raise Unsupported("max_unpool to an unknown size")
    inner = mul(1, *x.type.shape[2:])
    values, places = (emit("reshape", n, shape=(*batch, inner)) for n in (x, at))
    zeros = emit("expand", scalar(0, x), shape=(*batch, plane))
    y = emit("scatter_elements", zeros, places, values, axis=2, reduction="none")
    return unbatched(emit("reshape", y, shape=(*batch, *size)), single)


TABLE: dict[str, Handler] = {
    "_adaptive_avg_pool2d": _adaptive(2, "mean"),
    "_adaptive_avg_pool3d": _adaptive(3, "mean"),
    "adaptive_avg_pool1d": _adaptive(1, "mean"),
    "adaptive_avg_pool2d": _adaptive(2, "mean"),
    "adaptive_avg_pool3d": _adaptive(3, "mean"),
    "adaptive_max_pool1d": _adaptive(1, "max"),
    "adaptive_max_pool2d": _adaptive(2, "max"),
    "adaptive_max_pool3d": _adaptive(3, "max"),
    "avg_pool1d": _average_pool(1),
    "avg_pool2d": _average_pool(2),
    "avg_pool3d": _average_pool(3),
    "max_pool1d": _max_pool(1),
    "max_pool1d_with_indices": _max_pool(1),
    "max_pool2d": _max_pool(2),
    "max_pool2d_with_indices": _max_pool(2),
    "max_pool3d": _max_pool(3),
    "max_pool3d_with_indices": _max_pool(3),
    "max_unpool2d": max_unpool,
    "max_unpool3d": max_unpool,
}
