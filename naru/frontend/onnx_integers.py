"""Products of matrices, and convolutions, of 8-bit integers: exact sums in i32, then a scale.

Zero points are subtracted before: what is left fits i16, of which `pairs` puts two in an i32, and
the sum takes both at once (see naru/ops/quantized.py). Where that cannot be (nothing is known of
the sizes, or there is one channel a group), operands are widened to i32.
"""

from __future__ import annotations

from collections.abc import Sequence

from naru.dtypes import is_float
from naru.errors import ModelError
from naru.frontend.onnx_contractions import read_window, transpose_last, window_of
from naru.frontend.onnx_node import OnnxNode, as_dtype, emit, scalar
from naru.frontend.onnx_quantization import dequantize, dynamic_quantize, saturate
from naru.frontend.onnx_quantized import channels_first, channels_last, one, one_or_none
from naru.frontend.onnx_signatures import Extension, Handler
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, known

FEW = 4  # products in a sum, for which pairs don't pay


# --- matrices -------------------------------------------------------------------------------------


def per_row(parameter: Node) -> Node:
    """A parameter of the left operand: one number, one a row, or of the operand's rank."""
    if parameter.type.rank != 1:
        return parameter
    size = parameter.type.shape[0]
    return emit("reshape", parameter, shape=() if size is ONE else (size, ONE))


def per_column(parameter: Node) -> Node:
    """The same of the right operand, with one a column."""
    return one(parameter) if parameter.type.shape == (ONE,) else parameter


def less(x: Node, zero: Node | None, dtype: str = "i32") -> Node:
    """x - zero; of 8 bits, i16 holds it."""
    wide = as_dtype(x, dtype)
    return wide if zero is None else emit("sub", wide, as_dtype(zero, dtype))


def product(a: Node, zero_a: Node | None, b: Node, zero_b: Node | None) -> Node:
    """(a - zero_a) · (b - zero_b) in i32, by numpy's rule."""
    zero_a = None if zero_a is None else per_row(zero_a)
    zero_b = None if zero_b is None else per_column(zero_b)
    if not a.type.rank or not b.type.rank:
        raise ModelError("an operand is a scalar")
    down = max(b.type.rank - 2, 0)
    size = known(a.type.shape[-1])
    if a.type.shape[-1] is not b.type.shape[down] or (size is not None and size < FEW):
        return emit("matmul", less(a, zero_a), less(b, zero_b))
    if size is None:
        left = emit("pairs", a, zero_a, axis=a.type.rank - 1)
    else:
        left = emit("pair_view", padded(less(a, zero_a, "i16"), size % 2))
    return emit("matmul", left, emit("pairs", b, zero_b, axis=down), paired=True)


def padded(x: Node, more: int, begin: Sequence[Expr] = (), end: Sequence[Expr] = ()) -> Node:
    """x [N, spatial…, C] with zeros around it and `more` channels of zeros."""
    if not more and all(p is ZERO for p in (*begin, *end)):
        return x
    before = [ZERO] * (x.type.rank - len(begin) - 1)
    pads = (*before, *begin, ZERO, *before, *end, Const(more))
    return emit("pad", x, pads=pads, mode="constant", value=0)


def scaled(total: Node, *scales: Node) -> Node:
    """A sum in i32 times scales, which are multiplied first, in f32."""
    factor = as_dtype(scales[0], "f32")
    for s in scales[1:]:
        factor = emit("mul", factor, as_dtype(s, "f32"))
    return emit("mul", as_dtype(total, "f32"), factor)


def requantized(total: Node, a: Node, b: Node, y: Node, zero: Node | None, dtype: str) -> Node:
    """A sum in i32 with the scales of two operands as small integers with the scale y."""
    factor = emit("mul", as_dtype(a, "f32"), as_dtype(b, "f32"))
    factor = emit("div", factor, as_dtype(y, "f32"))
    return saturate(emit("mul", as_dtype(total, "f32"), factor), zero, dtype)


def matmul_integer(c: OnnxNode) -> Node:
    """The zero point of A is per row, that of B per column, where it is no single number."""
    return product(c[0], c.find(2), c[1], c.find(3))


def qlinear_matmul(c: OnnxNode) -> Node:
    """Opset 21 added scales in half floats, and operands in float8, which are multiplied as f32."""
    a, b, zero = c[0], c[3], per_row(c[7])
    scale_a, scale_b, scale_y = per_row(c[1]), per_column(c[4]), per_row(c[6])
    if is_float(a.type.dtype) or is_float(b.type.dtype):
        left, right = dequantize(a, scale_a, None, "f32"), dequantize(b, scale_b, None, "f32")
        y = emit("div", emit("matmul", left, right), as_dtype(scale_y, "f32"))
        return (
            as_dtype(y, zero.type.dtype)
            if is_float(zero.type.dtype)
            else saturate(y, zero, zero.type.dtype)
        )
    total = product(a, c[2], b, c[5])
    return requantized(total, scale_a, scale_b, scale_y, zero, zero.type.dtype)


def matmul_integer_to_float(c: OnnxNode) -> Node:
    total = product(c[0], c.find(4), c[1], c.find(5))
    y = scaled(total, per_row(c[2]), per_column(c[3]))
    bias = c.find(6)
    y = y if bias is None else emit("add", y, as_dtype(bias, "f32"))
    return as_dtype(y, c[2].type.dtype)


def dynamic_quantize_matmul(c: OnnxNode) -> Node:
    """A is made u8 with the scale that its own range asks for."""
    a, scale, zero = dynamic_quantize(c[0])
    y = scaled(product(a, zero, c[1], c.find(3)), scale, per_column(c[2]))
    bias = c.find(4)
    return y if bias is None else emit("add", y, bias)


def qgemm(c: OnnxNode) -> Node:
    """alpha · A' · B' + C, where C has the scale of the product; in f32 where no scale of the
    result is given."""
    a, b = c[0], c[3]
    if a.type.rank != 2 or b.type.rank != 2:
        raise ModelError(f"expected two matrices, found ranks {a.type.rank} and {b.type.rank}")
    a = transpose_last(a) if c.get_flag("transA", False) else a
    b = transpose_last(b) if c.get_flag("transB", False) else b
    total = product(a, one(c[2]), b, c[5])
    bias, scale, zero = c.find(6), c.find(7), one_or_none(c.find(8))
    total = total if bias is None else emit("add", total, bias)
    left = one(c[1])
    alpha = c.get_float("alpha", 1.0)
    if alpha != 1.0:
        left = emit("mul", left, scalar(alpha, left))
    if scale is None:
        return scaled(total, left, per_column(c[4]))
    dtype = c[0].type.dtype if zero is None else zero.type.dtype
    return requantized(total, left, per_column(c[4]), one(scale), zero, dtype)


# --- convolutions ---------------------------------------------------------------------------------


def per_filter(parameter: Node, rank: int) -> Node:
    """A parameter of the weights, one number or one a filter, as [M, 1, …] of a rank."""
    if parameter.type.rank == 0 or parameter.type.shape == (ONE,):
        return one(parameter)
    if parameter.type.rank != 1:
        raise ModelError(f"expected one scale a filter, found rank {parameter.type.rank}")
    return emit("reshape", parameter, shape=(*parameter.type.shape, *[ONE] * (rank - 1)))


def convolution(c: OnnxNode, x: Node, zero_x: Node | None, w: Node, zero_w: Node | None) -> Node:
    """The convolution of x - zero_x [N, C, spatial…] and w - zero_w in i32. What pads x is 0 after
    the zero point is subtracted."""
    kernel = window_of(c, x, w, "[M, C / group, window…]")
    window = read_window(c, kernel, x.type.shape[2:])
    group, rank = c.get_int("group", 1), x.type.rank
    zero_x = one_or_none(zero_x)
    zero_w = None if zero_w is None else per_filter(zero_w, rank)
    channels, own = known(x.type.shape[1]), known(w.type.shape[1])
    more = 0 if own is None else own % 2
    paired = own is not None and own > 1 and channels == own * group and (group == 1 or not more)
    if paired:
        # Channels last: then neighbours are in pairs as they lie.
        x = padded(less(channels_last(x), zero_x, "i16"), more, window.begin, window.end)
        x = channels_first(emit("pair_view", x))
        w = emit("pairs", w, zero_w, axis=1)
    else:
        x, w = less(x, zero_x), less(w, zero_w)
        if window.is_padded:
            pads = (ZERO, ZERO, *window.begin, ZERO, ZERO, *window.end)
            x = emit("pad", x, pads=pads, mode="constant", value=0)
    return emit(
        "conv",
        x,
        w,
        strides=window.strides,
        dilations=window.dilations,
        group=group,
        paired=paired,
    )


def conv_integer(c: OnnxNode) -> Node:
    return convolution(c, c[0], c.find(2), c[1], c.find(3))


def qlinear_conv(c: OnnxNode) -> Node:
    """The bias has the scale x_scale · w_scale. `channels_last` (com.microsoft): x and the result
    are [N, spatial…, C]; weights are as ever."""
    last = c.get_flag("channels_last", False)
    x, w, bias = channels_first(c[0]) if last else c[0], c[3], c.find(8)
    total = convolution(c, x, c[2], w, c[5])
    rank = x.type.rank
    if bias is not None:
        total = emit("add", total, per_filter(bias, rank - 1))
    scale, zero = per_filter(c[4], rank - 1), one(c[7])
    y = requantized(total, one(c[1]), scale, one(c[6]), zero, zero.type.dtype)
    return channels_last(y) if last else y


TABLE: dict[str, Handler] = {
    "ConvInteger": conv_integer,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
}

MICROSOFT: Extension = {
    "DynamicQuantizeMatMul": ("a b b_scale b_zero_point? bias? -> y", dynamic_quantize_matmul),
    "MatMulIntegerToFloat": (
        "a b a_scale b_scale a_zero_point? b_zero_point? bias? -> y",
        matmul_integer_to_float,
    ),
    "QGemm": (
        "a a_scale a_zero_point b b_scale b_zero_point c? y_scale? y_zero_point? -> y"
        "; alpha transA transB",
        qgemm,
    ),
    "QLinearConv": (
        "x x_scale x_zero_point w w_scale w_zero_point y_scale y_zero_point b? -> y"
        "; auto_pad channels_last dilations group kernel_shape pads strides",
        qlinear_conv,
    ),
}
