"""Layers of com.microsoft with quantised weights: QAttention, QEmbedLayerNormalization,
DynamicQuantizeLSTM. Products with weights are of integers; everything else is done in f32."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_integers import per_column, product, scaled
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import OnnxNode, Unsupported, as_dtype, emit, scalar
from naru.frontend.onnx_quantization import dequantize
from naru.frontend.onnx_quantized import one, one_or_none
from naru.frontend.onnx_recurrent import lstm
from naru.frontend.onnx_shapes import iota, size_of
from naru.frontend.onnx_signatures import Extension
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, known
from naru.ops.registry import constant

# --- attention ------------------------------------------------------------------------------------


def _mask(c: OnnxNode, mask: Node, queries: Expr, k: Node, low: float) -> Node:
    """What is added to scores [B, heads, queries, keys]: 0, or `low` where a key is masked. A mask
    is one of [B] (keys before it), [2 · B] (and from the second half on), [B, keys],
    [B, queries, keys]; of the latter two, 0 masks."""
    rank, batch, keys = mask.type.rank, c[0].type.shape[0], k.type.shape[2]
    if rank == 1:
        at, two = iota(keys, k, 2), mask.type.shape[0] is not batch
        mask = end = as_dtype(mask, "i64")
        if two:
            end = slice_axis(mask, 0, ZERO, batch)
        keep = emit("less", at, emit("reshape", end, shape=(batch, ONE)))
        if two:
            begin = emit("reshape", slice_axis(mask, 0, batch, batch), shape=(batch, ONE))
            keep = emit("and", keep, emit("greater_or_equal", at, begin))
        keep = emit("reshape", keep, shape=(batch, ONE, ONE, keys))
    elif rank in (2, 3):
        keep = emit("greater", mask, scalar(0, mask))
        rows = ONE if rank == 2 else queries
        keep = emit("reshape", keep, shape=(batch, ONE, rows, keys))
    else:
        raise Unsupported(f"an attention mask of rank {rank}", "use rank 1, 2 or 3")
    return emit("where", keep, constant(0.0, np.float32), constant(low, np.float32))


def attention(c: OnnxNode, qkv: list[Node]) -> Node:
    """softmax(Q · K' · scale + mask) · V over heads: three of [B, heads, positions, size]."""
    (q, k, v), mask, past = qkv, c.find(5), c.find(8)
    size = known(q.type.shape[-1])
    if size is None:
        raise Unsupported("a head size that is known only at run time")
    scale = c.get_float("scale", 0.0) or 1 / math.sqrt(size)
    scores = emit("matmul", q, emit("transpose", k, perm=(0, 1, 3, 2)))
    scores = emit("mul", scores, scalar(scale, scores))
    queries, keys = q.type.shape[2], k.type.shape[2]
    low = c.get_float("mask_filter_value", -10000.0)
    if mask is not None:
        scores = emit("add", scores, _mask(c, mask, queries, k, low))
    if c.get_flag("unidirectional", False):
        own = iota(queries, q, 2)
        own = own if past is None else emit("add", own, size_of(past, 3))
        own = emit("reshape", own, shape=(queries, ONE))
        seen = emit("less_or_equal", iota(keys, k, 2), own)
        scores = emit("where", seen, scores, scalar(float("-inf"), scores))
    return emit("matmul", emit("softmax", scores, axis=-1), v)


def qattention(c: OnnxNode) -> list[Node]:
    """Operands: input [B, S, D] and weight [D, 3 · H] of bytes, bias [3 · H], their scales, mask,
    zero points, past [2, B, heads, P, size]. Results: [B, S, H], and past with the new keys and
    values behind it."""
    x, weight, bias, past = c[0], c[1], c[2], c.find(8)
    if x.type.rank != 3 or weight.type.rank != 2:
        raise ModelError(
            f"expected input of rank 3 and weight of rank 2, found {x.type.rank} and "
            f"{weight.type.rank}"
        )
    if c.get_flag("do_rotary", False) or c.get_flag("past_present_share_buffer", False):
        raise Unsupported("do_rotary or past_present_share_buffer")
    heads, width = c.get_int("num_heads", 0), known(weight.type.shape[1])
    if width is None or heads < 1 or width % (3 * heads):
        raise ModelError(f"attribute 'num_heads': {heads} does not divide a third of {width}")
    total = product(x, one_or_none(c.find(6)), weight, c.find(7))
    both = emit("add", scaled(total, one(c[3]), per_column(c[4])), as_dtype(bias, "f32"))
    batch, length, hidden = x.type.shape[0], x.type.shape[1], width // 3
    size = Const(hidden // heads)
    qkv: list[Node] = []
    for k in range(3):
        part = slice_axis(both, 2, Const(k * hidden), Const(hidden))
        part = emit("reshape", part, shape=(batch, length, Const(heads), size))
        qkv.append(emit("transpose", part, perm=(0, 2, 1, 3)))
    if past is not None:
        for k in (1, 2):
            before = slice_axis(past, 0, Const(k - 1), ONE)
            before = emit("reshape", before, shape=past.type.shape[1:])
            qkv[k] = emit("concat", as_dtype(before, "f32"), qkv[k], axis=2)
    y = emit("transpose", attention(c, qkv), perm=(0, 2, 1, 3))
    results = [emit("reshape", y, shape=(batch, length, Const(hidden)))]
    if c.wants(1):
        shape = (ONE, *qkv[1].type.shape)
        results.append(emit("concat", *(emit("reshape", p, shape=shape) for p in qkv[1:]), axis=0))
    return [as_dtype(n, bias.type.dtype) for n in results]


# --- embedding ------------------------------------------------------------------------------------


def qembed_layer_normalization(c: OnnxNode) -> list[Node]:
    """Rows of a table of words, of positions and (where given) of segments are added, and
    normalised; tables, gamma and beta are bytes. Second result: how many of `mask` are 1."""
    words, segments, mask = c[0], c.find(1), c.find(7)
    if words.type.rank != 2:
        raise ModelError(f"expected input_ids [batch, positions], found rank {words.type.rank}")
    batch, length = words.type.shape

    def wide(i: int, scale: int, at: Node | None) -> Node:
        table = c[i] if at is None else emit("gather", c[i], at, axis=0)
        zero = one_or_none(c.find(scale + 5))
        return dequantize(table, one(c[scale]), zero, "f32")

    total = emit("add", wide(2, 8, words), wide(3, 9, iota(length, words, 1)))
    if segments is not None:
        total = emit("add", total, wide(4, 10, segments))
    epsilon = c.get_float("epsilon", 1e-12)
    y = emit("layer_normalization", total, wide(5, 11, None), wide(6, 12, None), axis=-1,
             epsilon=epsilon)  # fmt: skip
    if mask is None:
        return [y, emit("expand", constant(0, np.int32), shape=(batch,))]
    ones = as_dtype(emit("equal", mask, scalar(1, mask)), "i32")
    return [y, emit("reduce_sum", ones, axes=(1,), keepdims=False)]


# --- recurrent ------------------------------------------------------------------------------------


def dynamic_quantize_lstm(c: OnnxNode) -> list[Node]:
    """LSTM with W [D, inputs, 4 · hidden] and R in bytes, scales and zero points one a direction or
    one a column. Weights are widened, so that activations stay f32: what others quantise on the way
    only loses precision."""
    weights: list[Node] = []
    for i, at in ((1, 8), (2, 10)):
        w, scale, zero = c[i], c[at], c.find(at + 1)
        if w.type.rank != 3 or scale.type.rank not in (1, 2):
            raise ModelError(
                f"expected weights of rank 3 and a scale of rank 1 or 2, found ranks "
                f"{w.type.rank} and {scale.type.rank}"
            )
        directions = w.type.shape[0]
        parameters = [
            None if p is None else emit("reshape", p, shape=_per_direction(p, directions))
            for p in (scale, zero)
        ]
        assert parameters[0] is not None
        wide = dequantize(w, parameters[0], parameters[1], "f32")
        weights.append(emit("transpose", wide, perm=(0, 2, 1)))
    inputs = [c[0], *weights, *(c.find(k) for k in range(3, 8))]
    return lstm(replace(c, inputs=inputs, version=14))


def _per_direction(p: Node, directions: Expr) -> tuple[Expr, ...]:
    columns = p.type.shape[1] if p.type.rank == 2 else ONE
    return (directions, ONE, columns)


MICROSOFT: Extension = {
    "DynamicQuantizeLSTM": (
        "x w r b? sequence_lens? initial_h? initial_c? p? w_scale w_zero_point r_scale "
        "r_zero_point -> y? y_h? y_c?"
        "; activation_alpha activation_beta activations clip direction hidden_size input_forget",
        dynamic_quantize_lstm,
    ),
    "QAttention": (
        "input weight bias input_scale weight_scale mask_index? input_zero_point? "
        "weight_zero_point? past? -> output present?"
        "; do_rotary mask_filter_value num_heads past_present_share_buffer scale unidirectional",
        qattention,
    ),
    "QEmbedLayerNormalization": (
        "input_ids segment_ids? word_embedding position_embedding segment_embedding? gamma beta "
        "mask? word_scale position_scale segment_scale? gamma_scale beta_scale word_zero_point "
        "position_zero_point segment_zero_point? gamma_zero_point beta_zero_point "
        "-> layernorm_out mask_index_out?; epsilon",
        qembed_layer_normalization,
    ),
}
