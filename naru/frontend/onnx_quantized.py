"""Operators of com.microsoft whose operands and results are small integers with scales, done in
f32: elementwise ones, pools, softmax, concat. (Products of matrices: onnx_integers.py.)"""

from __future__ import annotations

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_contractions import averages, maxima
from naru.frontend.onnx_node import OnnxNode, as_dtype, check_axis, emit
from naru.frontend.onnx_quantization import dequantize, quantize, saturate
from naru.frontend.onnx_signatures import Extension
from naru.ir.expr import Const
from naru.ir.graph import Node
from naru.ir.simplify import ONE, known, mul, prod
from naru.ops.registry import constant

BYTES = 256  # values of a byte
MOST_SUMMED = 2**23  # bytes, whose sum i32 holds


def one(parameter: Node) -> Node:
    """A scale or zero point that is one number, as a scalar."""
    if parameter.type.rank == 0:
        return parameter
    if parameter.type.shape != (ONE,):
        raise ModelError("expected one scale and one zero point for the whole tensor")
    return emit("reshape", parameter, shape=())


def one_or_none(parameter: Node | None) -> Node | None:
    return None if parameter is None else one(parameter)


def wide(c: OnnxNode, i: int) -> Node:
    """Operand i in f32; its scale and zero point follow it."""
    return dequantize(c[i], one(c[i + 1]), one_or_none(c.find(i + 2)), "f32")


def narrow(c: OnnxNode, y: Node, i: int, dtype: str) -> Node:
    """y in the dtype, with the scale and zero point that are operands i and i + 1."""
    return quantize(y, one(c[i]), one_or_none(c.find(i + 1)), dtype)


def integer(c: OnnxNode, i: int) -> Node:
    """Operand i less its zero point, as whole numbers in f32."""
    zero = one_or_none(c.find(i + 2))
    x = as_dtype(c[i], "f32")
    return x if zero is None else emit("sub", x, as_dtype(zero, "f32"))


# --- elementwise ----------------------------------------------------------------------------------


def qlinear_add(c: OnnxNode) -> Node:
    """a · (a_scale / c_scale) + b · (b_scale / c_scale): one factor an operand, no division."""
    result = one(c[6])
    a = emit("mul", integer(c, 0), emit("div", one(c[1]), result))
    b = emit("mul", integer(c, 3), emit("div", one(c[4]), result))
    return saturate(emit("add", a, b), one_or_none(c.find(7)), c[0].type.dtype)


def qlinear_mul(c: OnnxNode) -> Node:
    factor = emit("div", emit("mul", one(c[1]), one(c[4])), one(c[6]))
    product = emit("mul", integer(c, 0), integer(c, 3))
    scaled = emit("mul", product, factor)
    return saturate(scaled, one_or_none(c.find(7)), c[0].type.dtype)


def qlinear_sigmoid(c: OnnxNode) -> Node:
    """Looked up in a table of the results for all bytes, which costs less than one exponential."""
    x = c[0]
    size = known(prod(x.type.shape))
    if size is not None and size <= BYTES:
        return narrow(c, emit("sigmoid", wide(c, 0)), 3, x.type.dtype)
    kind = DTYPES[x.type.dtype].numpy
    every = constant(np.arange(BYTES, dtype=np.uint8).view(kind), kind)
    values = dequantize(every, one(c[1]), one_or_none(c.find(2)), "f32")
    table = narrow(c, emit("sigmoid", values), 3, x.type.dtype)
    bits = x if x.type.dtype == "u8" else emit("bit_cast", x, source=x.type.dtype, to="u8")
    return emit("gather", table, bits, axis=0)


def qlinear_leaky_relu(c: OnnxNode) -> Node:
    y = emit("leaky_relu", wide(c, 0), alpha=c.get_float("alpha", 0.01))
    return narrow(c, y, 3, c[0].type.dtype)


def qlinear_where(c: OnnxNode) -> Node:
    chosen = emit("where", c[0], wide(c, 1), wide(c, 4))
    return narrow(c, chosen, 7, c[1].type.dtype)


def qlinear_concat(c: OnnxNode) -> Node:
    """Operands: scale and zero point of the result, then (values, scale, zero point) of each."""
    if len(c.inputs) < 5 or (len(c.inputs) - 2) % 3:
        raise ModelError(
            "expected the result's scale and zero point, and three operands for each part, "
            f"found {len(c.inputs)} operands"
        )
    dtype = c[1].type.dtype
    parts = [narrow(c, wide(c, i), 0, dtype) for i in range(2, len(c.inputs), 3)]
    return emit("concat", *parts, axis=c.axis(0, parts[0].type.rank))


# --- rows and windows -----------------------------------------------------------------------------


def qlinear_softmax(c: OnnxNode) -> Node:
    """`opset`: before 13, the axes from `axis` on are one row; since then, `axis` alone is."""
    x, version = c[0], c.get_int("opset", 13)
    axis = check_axis(c.get_int("axis", -1 if version >= 13 else 1), x.type.rank)
    y = wide(c, 0)
    if version >= 13:
        y = emit("softmax", y, axis=axis)
    else:
        rows = (mul(1, *x.type.shape[:axis]), mul(1, *x.type.shape[axis:]))
        y = emit("softmax", emit("reshape", y, shape=rows), axis=1)
        y = emit("reshape", y, shape=x.type.shape)
    return narrow(c, y, 3, x.type.dtype)


def channels_first(x: Node) -> Node:
    """[N, spatial…, C] as [N, C, spatial…]."""
    rank = x.type.rank
    if rank < 3:
        raise ModelError(f"expected an operand [N, spatial…, C], found rank {rank}")
    return emit("transpose", x, perm=(0, rank - 1, *range(1, rank - 1)))


def channels_last(x: Node) -> Node:
    """[N, C, spatial…] as [N, spatial…, C]."""
    return emit("transpose", x, perm=(0, *range(2, x.type.rank), 1))


def requantized(c: OnnxNode, mean: Node) -> Node:
    """The mean of operand 0 less its zero point, with the scale and zero point of the result."""
    factor = emit("div", one(c[1]), one(c[3]))
    return saturate(emit("mul", mean, factor), one_or_none(c.find(4)), c[0].type.dtype)


def means(c: OnnxNode, axes: tuple[int, ...], keepdims: bool) -> Node:
    """Means over axes: of whole numbers, which are summed in i32 where it holds the sum. Axes that
    lie together are one, which has longer runs."""
    x, zero = c[0], one_or_none(c.find(2))
    kept = tuple(ONE if k in axes else d for k, d in enumerate(x.type.shape))
    count = known(mul(1, *(x.type.shape[a] for a in axes)))
    joined = axes == tuple(range(axes[0], axes[0] + len(axes)))
    if count is None or not 0 < count <= MOST_SUMMED or not joined:
        y = emit("reduce_mean", integer(c, 0), axes=axes, keepdims=True)
    else:
        shape = (*x.type.shape[: axes[0]], Const(count), *x.type.shape[axes[-1] + 1 :])
        rows = emit("reshape", x, shape=shape)
        total = emit("reduce_sum", as_dtype(rows, "i32"), axes=axes[:1], keepdims=True)
        if zero is not None:
            zeros = emit("mul", as_dtype(zero, "i32"), constant(count, np.int32))
            total = emit("sub", total, zeros)
        y = emit("mul", as_dtype(total, "f32"), constant(1 / count, np.float32))
    left = tuple(d for k, d in enumerate(kept) if k not in axes)
    return emit("reshape", requantized(c, y), shape=kept if keepdims else left)


def qlinear_average_pool(c: OnnxNode) -> Node:
    x, last = integer(c, 0), c.get_flag("channels_last", False)
    y = averages(c, channels_first(x) if last else x, c.get_flag("count_include_pad", False))
    return requantized(c, channels_last(y) if last else y)


def qlinear_global_average_pool(c: OnnxNode) -> Node:
    rank = c[0].type.rank
    if rank < 3:
        raise ModelError(f"expected an operand of rank 3 or more, found rank {rank}")
    first = 1 if c.get_flag("channels_last", False) else 2
    return means(c, tuple(range(first, first + rank - 2)), True)


def qlinear_reduce_mean(c: OnnxNode) -> Node:
    rank, axes = c[0].type.rank, c.get_ints("axes")
    axes = tuple(check_axis(a, rank) for a in axes) if axes else tuple(range(rank))
    return means(c, axes, c.get_flag("keepdims", True))


def nhwc_max_pool(c: OnnxNode) -> Node:
    return channels_last(maxima(c, channels_first(c[0])))


_UNARY = "x x_scale x_zero_point? y_scale y_zero_point? -> y"
_BINARY = "a a_scale a_zero_point? b b_scale b_zero_point? c_scale c_zero_point? -> c"
_WINDOW = "auto_pad ceil_mode channels_last count_include_pad kernel_shape pads strides"

MICROSOFT: Extension = {
    "NhwcMaxPool": (
        "x -> y; auto_pad ceil_mode dilations kernel_shape pads strides",
        nhwc_max_pool,
    ),
    "QLinearAdd": (_BINARY, qlinear_add),
    "QLinearAveragePool": (f"{_UNARY}; {_WINDOW}", qlinear_average_pool),
    "QLinearConcat": ("y_scale y_zero_point parts* -> y; axis", qlinear_concat),
    "QLinearGlobalAveragePool": (f"{_UNARY}; channels_last", qlinear_global_average_pool),
    "QLinearLeakyRelu": (f"{_UNARY}; alpha", qlinear_leaky_relu),
    "QLinearMul": (_BINARY, qlinear_mul),
    "QLinearReduceMean": (f"{_UNARY}; axes keepdims", qlinear_reduce_mean),
    "QLinearSigmoid": (_UNARY, qlinear_sigmoid),
    "QLinearSoftmax": (f"{_UNARY}; axis opset", qlinear_softmax),
    "QLinearWhere": (
        "condition x x_scale x_zero_point y y_scale y_zero_point z_scale z_zero_point -> z",
        qlinear_where,
    ),
}
