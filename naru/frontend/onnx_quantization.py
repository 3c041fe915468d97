"""Numbers as small integers with a scale: x = (q - zero) · scale, q = saturate(round(x / scale) +
zero). Scales and zero points are per tensor, per index of an axis, or per block of an axis.

QuantizeLinear and DequantizeLinear, of the standard (10 to 25) and of com.microsoft, and what other
quantised operators are made of.
"""

from __future__ import annotations

from collections.abc import Sequence

from naru.dtypes import DTYPES, is_float
from naru.errors import ModelError
from naru.frontend.onnx_data import dtype_of
from naru.frontend.onnx_node import OnnxNode, as_dtype, check_axis, emit, scalar
from naru.frontend.onnx_signatures import Extension, Handler
from naru.ir.expr import Const
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ceildiv, floordiv, known
from naru.ops.operands import check_equal

BYTES = ("u8", "i8")


def limits(dtype: str) -> tuple[int, int]:
    """The least and the largest value of an integer dtype, also of less than 8 bits."""
    bits = DTYPES[dtype].bits
    if DTYPES[dtype].kind == "u":
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


# --- how parameters meet the tensor ---------------------------------------------------------------


def along(parameter: Node, x: Node, axis: int) -> Node:
    """A scale or zero point, one number or [C] along an axis of x, in a shape that broadcasts."""
    rank = parameter.type.rank
    if rank == 0:
        return parameter
    if rank != 1:
        raise ModelError(f"expected a scale of rank 0 or 1, found rank {rank}")
    size = parameter.type.shape[0]
    if size is ONE:
        return emit("reshape", parameter, shape=())
    axis = check_axis(axis, x.type.rank)
    check_equal("scale", f"its size and that of axis {axis}", size, x.type.shape[axis])
    return emit("reshape", parameter, shape=(size, *[ONE] * (x.type.rank - axis - 1)))


def meet(
    x: Node, parameters: Sequence[Node | None], axis: int, block: int
) -> tuple[Node, list[Node | None]]:
    """x and its parameters such that they broadcast. With blocks, x's axis is split into [blocks,
    block] where it is a whole number of them; where the last is cut, parameters are repeated."""
    if not block:
        return x, [None if p is None else along(p, x, axis) for p in parameters]
    axis = check_axis(axis, x.type.rank)
    shape, size = x.type.shape, x.type.shape[axis]
    whole = (known(size) or block - 1) % block == 0
    met: list[Node | None] = []
    for p in parameters:
        if p is None or p.type.rank == 0:
            met.append(p)
            continue
        if p.type.rank != x.type.rank:
            raise ModelError(
                f"expected scales for blocks of the operand's rank, {x.type.rank}, "
                f"found rank {p.type.rank}"
            )
        before, behind = p.type.shape[:axis], p.type.shape[axis + 1 :]
        count = p.type.shape[axis]
        check_equal("scale", f"blocks of {block} along axis {axis}", ceildiv(size, block), count)
        if whole:
            met.append(emit("reshape", p, shape=(*before, count, ONE, *behind)))
            continue
        wide = emit("repeat", p, axis=axis, times=block)
        met.append(emit("slice", wide, starts=(0,), ends=(size,), axes=(axis,), steps=(1,)))
    if whole:
        inner = (floordiv(size, block), Const(block))
        x = emit("reshape", x, shape=(*shape[:axis], *inner, *shape[axis + 1 :]))
    return x, met


# --- there and back -------------------------------------------------------------------------------


def dequantize(x: Node, scale: Node, zero: Node | None, dtype: str | None = None) -> Node:
    """(x - zero) · scale, in f32 and rounded once; parameters broadcast with x. 16 bits fit f32;
    of 32 bits the difference is taken before."""
    if zero is None:
        wide = as_dtype(x, "f32")
    elif DTYPES[x.type.dtype].bits == 32:
        wide = as_dtype(emit("sub", x, zero), "f32")
    else:
        wide = emit("sub", as_dtype(x, "f32"), as_dtype(zero, "f32"))
    return as_dtype(emit("mul", wide, as_dtype(scale, "f32")), dtype or scale.type.dtype)


def saturate(scaled: Node, zero: Node | None, dtype: str) -> Node:
    """round(scaled) + zero, held in the range of an integer dtype. In f32, as a sum with a zero
    point of 8 bits does not fit f16."""
    rounded = emit("round", as_dtype(scaled, "f32"))
    if zero is not None:
        rounded = emit("add", rounded, as_dtype(zero, "f32"))
    low, high = limits(dtype)
    return as_dtype(emit("clip", rounded, scalar(low, rounded), scalar(high, rounded)), dtype)


def quantize(x: Node, scale: Node, zero: Node | None, dtype: str, precision: str = "") -> Node:
    """saturate(round(x / scale) + zero); the division is done in `precision`, else in the dtype of
    the scale."""
    kind = precision or scale.type.dtype
    scaled = emit("div", as_dtype(x, kind), as_dtype(scale, kind))
    return saturate(scaled, zero, dtype)


# --- operators ------------------------------------------------------------------------------------


def quantize_linear(c: OnnxNode) -> Node:
    """Opset 19 added float8, 21 int4, 16 bits and blocks, 23 float4 and the precision of the
    division, 25 int2. Results that are floats are rounded by the cast; their zero point is 0."""
    x, zero, code = c[0], c.find(2), c.get_int("output_dtype", 0)
    dtype = dtype_of(code, "the result") if code else "u8" if zero is None else zero.type.dtype
    if zero is not None and zero.type.dtype != dtype:
        raise ModelError(
            f"attribute 'output_dtype': expected that of the zero point, {zero.type.dtype}, "
            f"found {dtype}"
        )
    code = c.get_int("precision", 0)
    precision = dtype_of(code, "attribute 'precision'") if code else ""
    axis, block = c.get_int("axis", 1), c.get_int("block_size", 0)
    split, (scale, point) = meet(x, [c[1], zero], axis, block)
    assert scale is not None
    if not is_float(dtype):
        y = quantize(split, scale, point, dtype, precision)
    else:
        kind = precision or scale.type.dtype
        scaled = emit("div", as_dtype(split, kind), as_dtype(scale, kind))
        loose = {} if c.get_flag("saturate", True) else {"saturate": False}
        y = emit("cast", scaled, to=dtype, **loose)
    return y if split is x else emit("reshape", y, shape=x.type.shape)


def dequantize_linear(c: OnnxNode) -> Node:
    """Opset 23 added the dtype of the result."""
    x, zero, code = c[0], c.find(2), c.get_int("output_dtype", 0)
    dtype = dtype_of(code, "the result") if code else c[1].type.dtype
    axis, block = c.get_int("axis", 1), c.get_int("block_size", 0)
    split, (scale, point) = meet(x, [c[1], zero], axis, block)
    assert scale is not None
    y = dequantize(split, scale, point, dtype)
    return y if split is x else emit("reshape", y, shape=x.type.shape)


def dynamic_quantize(x: Node) -> tuple[Node, Node, Node]:
    """(u8 values, scale, zero point) such that the range of x, widened to have 0, takes all of 0 to
    255. A tensor of zeros (or of nothing) has the scale 0, and gives zeros."""
    axes = tuple(range(x.type.rank))
    zero = scalar(0.0, x)
    low = emit("min", emit("reduce_min", x, axes=axes, keepdims=False), zero)
    high = emit("max", emit("reduce_max", x, axes=axes, keepdims=False), zero)
    scale = emit("div", emit("sub", high, low), scalar(255.0, x))
    divisor = emit("where", emit("equal", scale, zero), scalar(1.0, x), scale)
    start = emit("div", emit("sub", zero, low), divisor)
    point = as_dtype(emit("round", emit("clip", start, zero, scalar(255.0, x))), "u8")
    return quantize(x, divisor, point, "u8"), scale, point


def dynamic_quantize_linear(c: OnnxNode) -> list[Node]:
    return list(dynamic_quantize(c[0]))


TABLE: dict[str, Handler] = {
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "QuantizeLinear": quantize_linear,
}

MICROSOFT: Extension = {
    "DequantizeLinear": ("x x_scale x_zero_point? -> y; axis block_size", dequantize_linear),
    "QuantizeLinear": ("x y_scale y_zero_point? -> y; axis block_size saturate", quantize_linear),
}
