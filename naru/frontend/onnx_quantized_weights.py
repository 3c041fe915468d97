"""Operators of com.microsoft whose weights are a few bits each, in blocks with scales: MatMulNBits,
MatMulBnb4, GatherBlockQuantized.

Weights are widened to f32. Constant ones are while compiling, so that a product runs as any other.
"""

from __future__ import annotations

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_contractions import transpose_last
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import OnnxNode, Unsupported, as_dtype, check_axis, emit, scalar
from naru.frontend.onnx_quantization import dequantize, meet
from naru.frontend.onnx_signatures import Extension
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, ceildiv, known, mul, prod
from naru.ops.operands import check_equal, shape_text
from naru.ops.registry import constant

# Values of 4 bits, by bitsandbytes: floats of 4 bits (sign, 2 bits of exponent, 1 of mantissa), and
# quantiles of a normal distribution (T. Dettmers et al., QLoRA, 2023, appendix E).
FP4 = (0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
TABLES = ((*FP4, *(-v for v in FP4)), NF4)


def unpacked(x: Node, bits: int, *, low_first: bool = True) -> Node:
    """u8 [..., n] as the 8 / bits numbers in each, [..., n · 8 / bits]."""
    if bits == 8:
        return x
    shape, count = x.type.shape, 8 // bits
    moves = [k * bits for k in range(count)]
    by = constant(moves if low_first else moves[::-1], np.uint8)
    each = emit("reshape", x, shape=(*shape, ONE))
    each = emit("bit_shift", each, by, direction="RIGHT")
    each = emit("bitwise_and", each, scalar(2**bits - 1, each))
    return emit("reshape", each, shape=(*shape[:-1], mul(shape[-1], count)))


def read_bits(c: OnnxNode) -> int:
    bits = c.get_int("bits", 4)
    if bits not in (2, 4, 8):
        raise Unsupported(f"weights of {bits} bits", "use 2, 4 or 8")
    return bits


def read_size(c: OnnxNode, name: str, least: int = 1) -> int:
    size = c.get_int(name, 0)
    if size < least:
        raise ModelError(f"attribute {name!r}: expected at least {least}, found {size}")
    return size


def flat(n: Node, *shape: int) -> Node:
    """An operand that may also be given with its dims in one."""
    expected = tuple(map(Const, shape))
    check_equal("weights", f"elements for {shape_text(expected)}", prod(n.type.shape), prod(shape))
    return emit("reshape", n, shape=expected)


# --- products -------------------------------------------------------------------------------------


def matmul_nbits(c: OnnxNode) -> Node:
    """A · B' + bias with B [N, blocks, bytes of a block], scales [N, blocks], zero points the same
    in bits or as floats (the middle of the range where they are left out). `g_idx` says for each
    row of K which block it is of. `accuracy_level` allows less than f32, and is not made use of."""
    a, b, scales = c[0], c[1], c[2]
    if c.get_int("weight_prepacked", 0):
        raise Unsupported("weights packed for another engine", "export with weight_prepacked = 0")
    rows, size, bits = read_size(c, "N"), read_size(c, "K"), read_bits(c)
    block, bias = read_size(c, "block_size", 16), c.find(5)
    if any(d is ZERO for d in b.type.shape):  # a product that was left out
        total = emit("expand", scalar(0.0, a), shape=(*a.type.shape[:-1], Const(rows)))
        return total if bias is None else emit("add", total, bias)
    blocks = -(-size // block)
    values = unpacked(flat(b, rows, blocks, block * bits // 8), bits)
    shape = (Const(rows), Const(blocks * block))
    zero, group = _zero_points(c, rows, blocks, bits), c.find(4)
    each = flat(scales, rows, blocks)
    if group is None:
        each, zero = (emit("reshape", p, shape=(rows, blocks, 1)) for p in (each, zero))
        values = dequantize(values, each, zero, "f32")
        w = slice_axis(emit("reshape", values, shape=shape), 1, ZERO, Const(size))
    else:
        values = slice_axis(emit("reshape", values, shape=shape), 1, ZERO, Const(size))
        group = slice_axis(group, 0, ZERO, Const(size))
        each, zero = (emit("gather", p, group, axis=1) for p in (each, zero))
        w = dequantize(values, each, zero, "f32")
    y = emit("matmul", as_dtype(a, "f32"), transpose_last(w))
    y = y if bias is None else emit("add", y, as_dtype(bias, "f32"))
    return as_dtype(y, a.type.dtype)


def _zero_points(c: OnnxNode, rows: int, blocks: int, bits: int) -> Node:
    """Of each block, [N, blocks] in f32."""
    zero = c.find(3)
    if zero is None:
        return constant(np.full((rows, blocks), 2 ** (bits - 1)), np.float32)
    if DTYPES[zero.type.dtype].kind == "f":
        return as_dtype(flat(zero, rows, blocks), "f32")
    packed = flat(zero, rows, -(-blocks * bits // 8))
    return as_dtype(slice_axis(unpacked(packed, bits), 1, ZERO, Const(blocks)), "f32")


def matmul_bnb4(c: OnnxNode) -> Node:
    """A · B', or A · B without transB, with B [N, K] two values a byte, the first in the high half;
    `absmax` has the scale of each block of them."""
    a, rows, size = c[0], read_size(c, "N"), read_size(c, "K")
    block, kind = read_size(c, "block_size", 16), c.get_int("quant_type", 1)
    if kind not in (0, 1):
        raise ModelError(f"attribute 'quant_type': expected 0 (FP4) or 1 (NF4), found {kind}")
    count = rows * size
    blocks = -(-count // block)
    at = slice_axis(unpacked(flat(c[1], -(-count // 2)), 4, low_first=False), 0, ZERO, Const(count))
    values = emit("gather", constant(TABLES[kind], np.float32), as_dtype(at, "i32"), axis=0)
    scales = as_dtype(flat(c[2], blocks), "f32")
    values, (scale,) = meet(values, [scales], 0, block)
    assert scale is not None
    w = emit("reshape", emit("mul", values, scale), shape=(rows, size))
    w = transpose_last(w) if c.get_flag("transB", True) else w
    return as_dtype(emit("matmul", as_dtype(a, "f32"), w), a.type.dtype)


# --- rows -----------------------------------------------------------------------------------------


def gather_block_quantized(c: OnnxNode) -> Node:
    """Rows of quantised data by their numbers, then widened. Bytes hold 8 / bits values along the
    last axis, their zero points too."""
    data, at, scales, zero = c[0], c[1], c[2], c.find(3)
    rank, block = data.type.rank, c.get_int("block_size", 128)
    along, axis = c.axis(0, rank, "gather_axis"), c.axis(1, rank, "quantize_axis")
    packed = data.type.dtype == "u8"
    bits = read_bits(c) if packed else 8
    if packed and along != 0:
        raise ModelError(f"attribute 'gather_axis': expected 0 for bytes, found {along}")
    if packed and zero is None:
        zero = emit("expand", constant(2 ** (bits - 1), np.uint8), shape=scales.type.shape)
    elif packed and zero is not None:
        count = scales.type.shape[-1]
        zero = slice_axis(unpacked(zero, bits), zero.type.rank - 1, ZERO, count)
    size: Expr = data.type.shape[axis]
    if packed and axis == rank - 1:
        size = mul(size, 8 // bits)
    block = block or (known(size) or 1)
    check_equal("scales", "blocks", ceildiv(size, block), scales.type.shape[axis])
    values = emit("gather", data, at, axis=along)
    if packed:
        values = unpacked(values, bits)
    if along == axis:
        length = data.type.shape[axis]
        known_length = known(length)
        if known_length is None:
            raise Unsupported("data of unknown size, taken along the axis of its blocks")
        behind = emit("add", at, scalar(known_length, at))
        first = emit("where", emit("less", at, scalar(0, at)), behind, at)
        blocks = emit("div", first, scalar(block, at))
        parts = [
            None if p is None else emit("gather", p, blocks, axis=axis) for p in (scales, zero)
        ]
        assert parts[0] is not None
        return dequantize(values, parts[0], parts[1])
    parts = [
        p if p is None or p.type.shape[along] is ONE else emit("gather", p, at, axis=along)
        for p in (scales, zero)
    ]
    moved = axis + at.type.rank - 1 if axis > along else axis
    split, (scale, point) = meet(values, parts, check_axis(moved, values.type.rank), block)
    assert scale is not None
    y = dequantize(split, scale, point)
    return y if split is values else emit("reshape", y, shape=values.type.shape)


MICROSOFT: Extension = {
    "GatherBlockQuantized": (
        "data indices scales zero_points? -> y; bits block_size gather_axis quantize_axis",
        gather_block_quantized,
    ),
    "MatMulBnb4": (
        "a b absmax -> y; K N block_size quant_type training_mode transB",
        matmul_bnb4,
    ),
    "MatMulNBits": (
        "a b scales zero_points? g_idx? bias? -> y"
        "; K N accuracy_level bits block_size weight_prepacked",
        matmul_nbits,
    ),
}
