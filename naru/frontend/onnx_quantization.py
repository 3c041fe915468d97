"""Quantised operators spelled out: q = saturate(round(x / scale) + zero), x = (q - zero) · scale"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_data import dtype_of
from naru.frontend.onnx_node import OnnxNode, Unsupported, check_axis, emit, scalar
from naru.ir.graph import Node
from naru.ir.simplify import ONE

Handler = Callable[[OnnxNode], "Node | Sequence[Node]"]


def _along_axis(c: OnnxNode, parameter: Node) -> Node:
    """A scale or zero point [C] shaped to meet axis `axis` of operand 0; a scalar as it is."""
    x = c[0]
    if c.get_int("block_size", 0):
        raise Unsupported("quantisation in blocks")
    if parameter.type.rank == 0:
        return parameter
    if parameter.type.rank != 1:
        raise ModelError(f"expected a scale of rank 0 or 1, found rank {parameter.type.rank}")
    if parameter.type.shape[0] is ONE:
        return emit("reshape", parameter, shape=())
    axis = check_axis(c.get_int("axis", 1), x.type.rank)
    behind = x.type.rank - axis - 1
    return emit("reshape", parameter, shape=(*parameter.type.shape, *[ONE] * behind))


def quantize_linear(c: OnnxNode) -> Node:
    x, scale, zero = c[0], _along_axis(c, c[1]), c.find(2)
    code = c.get_int("output_dtype", 0)
    dtype = zero.type.dtype if zero is not None else dtype_of(code, "the result") if code else "u8"
    kind = DTYPES[dtype].numpy
    if kind.kind not in "iu" or kind.itemsize > 2:
        raise Unsupported(f"quantisation to {dtype}")
    scaled = emit("round", emit("div", emit("cast", x, to=scale.type.dtype), scale))
    if zero is not None:
        scaled = emit("add", scaled, emit("cast", _along_axis(c, zero), to=scale.type.dtype))
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    clipped = emit("clip", scaled, scalar(low, scaled), scalar(high, scaled))
    return emit("cast", clipped, to=dtype)


def dequantize_linear(c: OnnxNode) -> Node:
    x, scale, zero = c[0], _along_axis(c, c[1]), c.find(2)
    wide = emit("cast", x, to=scale.type.dtype)
    if zero is not None:
        wide = emit("sub", wide, emit("cast", _along_axis(c, zero), to=scale.type.dtype))
    return emit("mul", wide, scale)


def matmul_integer(c: OnnxNode) -> Node:
    """In i32. The zero point of A is per row, that of B per column, where it is a vector."""
    a, b = emit("cast", c[0], to="i32"), emit("cast", c[1], to="i32")
    zero_a, zero_b = c.find(2), c.find(3)
    if zero_a is not None:
        zero = emit("cast", zero_a, to="i32")
        if zero.type.rank == 1:
            zero = emit("reshape", zero, shape=(*zero.type.shape, ONE))
        a = emit("sub", a, zero)
    if zero_b is not None:
        b = emit("sub", b, emit("cast", zero_b, to="i32"))
    return emit("matmul", a, b)


TABLE: dict[str, Handler] = {
    "DequantizeLinear": dequantize_linear,
    "MatMulInteger": matmul_integer,
    "QuantizeLinear": quantize_linear,
}
