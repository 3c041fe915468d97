"""Attention as com.microsoft has it: Attention (with the projection), MultiHeadAttention,
DecoderMaskedMultiHeadAttention, GroupQueryAttention, RotaryEmbedding.

Source: ContribOperators.md of ONNX Runtime, and its CPU kernels where that is silent. Shapes inside
are those of onnx_attention.py. Where ONNX Runtime has past and present share their bytes, here the
present is an array of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naru.dtypes import is_float
from naru.errors import ModelError
from naru.frontend.onnx_attention import (
    Mask,
    all_true,
    distance,
    join_heads,
    probabilities,
    product,
    rotate,
    rows_of_heads,
    score,
    soft_cap,
    split_heads,
    window_mask,
)
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import OnnxNode, Unsupported, as_dtype, emit, scalar
from naru.frontend.onnx_shapes import iota, size_of
from naru.frontend.onnx_signatures import Extension
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, add, floordiv, known, maximum, minimum, mul, sub
from naru.ops.operands import compute_dtype, dim_text
from naru.ops.registry import constant


def _scale(c: OnnxNode, q: Node) -> float:
    """The attribute, where it is not 0, else 1 / root of a head's size."""
    given, size = c.get_float("scale", 0.0), known(q.type.shape[3])
    if given:
        return given
    if size is None:
        raise Unsupported("heads of unknown size", "give the attribute 'scale', or fix the dim")
    return 1 / math.sqrt(size) if size else 1.0


def _refuse(c: OnnxNode, operands: dict[int, str], flags: Sequence[str]) -> None:
    """Unsupported for operands and flags of caches that are searched by beams, quantised, …"""
    for i, name in operands.items():
        if c.find(i) is not None:
            raise Unsupported(f"the operand {name}", "export without it")
    for name in flags:
        if c.get_flag(name, False):
            raise Unsupported(f"the attribute {name!r}", "export without it")


@dataclass(frozen=True)
class Scores:
    """How the scores of one call are masked: nodes that are added, and whether later keys are not
    seen by earlier queries."""

    biases: tuple[Node | None, ...]
    causal: bool
    past: Node | None = None  # keys before the first query, an i64 scalar

    def attend(self, c: OnnxNode, q: Node, k: Node, v: Node) -> tuple[Node, Node]:
        """(result [batch, heads, s, size], probabilities)."""
        dtype = q.type.dtype
        wide = compute_dtype(dtype)
        x = score(as_dtype(q, wide), as_dtype(k, wide), _scale(c, q))
        for b in self.biases:
            x = x if b is None else emit("add", x, as_dtype(b, wide))
        mask = Mask()
        if self.causal:
            mask = Mask(window_mask(distance(q, k, self.past), -1, 0), None, False)
        p = probabilities(mask.on(x), mask, wide)
        y = product(p, as_dtype(v, wide), q.type.shape[:3])
        return as_dtype(y, dtype), p


def _padding(c: OnnxNode, mask: Node | None, batch: Expr, k: Node) -> Node | None:
    """What a mask of keys adds: `mask_filter_value` where it hides one. Forms: [batch, t] and
    [batch, s, t] (not 0: seen), [batch] (ends) and [2 · batch] (ends, then starts)."""
    if mask is None:
        return None
    shape, keys = mask.type.shape, iota(k.type.shape[2], k, 2)
    if mask.type.rank == 1:
        if shape[0] is batch or known(shape[0]) == known(batch):
            seen = emit("less", keys, _bound(mask, ZERO, batch))
        elif shape[0] is mul(2, batch):
            seen = all_true([
                emit("less", keys, _bound(mask, ZERO, batch)),
                emit("greater_or_equal", keys, _bound(mask, batch, batch)),
            ])  # fmt: skip
        else:
            raise Unsupported(f"a mask of {dim_text(shape[0])} lengths", "use one of [batch, t]")
    elif mask.type.rank in (2, 3):
        rows = (ONE, ONE) if mask.type.rank == 2 else (ONE, shape[1])
        flat = emit("reshape", mask, shape=(shape[0], *rows, shape[-1]))
        seen = emit("greater", flat, scalar(0, flat))
    else:
        raise Unsupported(f"a mask of rank {mask.type.rank}", "use one of [batch, t]")
    hidden = constant(c.get_float("mask_filter_value", -10000.0), np.float32)
    assert seen is not None
    return emit("where", seen, scalar(0, hidden), hidden)


def _bound(mask: Node, start: Expr, batch: Expr) -> Node:
    part = emit("cast", slice_axis(mask, 0, start, batch), to="i64")
    return emit("reshape", part, shape=(batch, ONE, ONE, ONE))


def _grown(past: Node | None, new: Node, length: Node | None = None) -> Node:
    """The present: new keys behind those of the past; or, where only the first `length` rows of a
    past of fixed size are in use, in the rows after these."""
    if past is None:
        return new
    if length is None:
        return emit("concat", past, new, axis=2)
    return _appended(past, new, length, past.type.shape[2])


def _appended(past: Node, new: Node, before: Node, size: Expr) -> Node:
    """The present of `size` rows: new ones from row `before` on, a number or [batch, 1]."""
    batch, heads, s, width = new.type.shape
    rows = emit("expand", before, shape=(batch, heads))
    count = mul(batch, heads)
    y = emit(
        "append_rows",
        emit("reshape", past, shape=(count, past.type.shape[2], width)),
        emit("reshape", new, shape=(count, s, width)),
        emit("reshape", rows, shape=(count,)),
        size=size,
    )
    return emit("reshape", y, shape=(batch, heads, size, width))


def _length(c: OnnxNode, i: int) -> Node | None:
    """The number of rows in use of a past of fixed size, where operand i gives it."""
    n = c.find(i)
    return None if n is None else emit("reshape", emit("cast", n, to="i64"), shape=())


def _unused(q: Node, k: Node, length: Node | None) -> Node | None:
    """What hides the rows of a past of fixed size that are not in use yet."""
    if length is None:
        return None
    end = emit("add", length, size_of(q, 2))
    seen = emit("less", iota(k.type.shape[2], k, 2), end)
    zero = constant(0.0, np.float32)
    return emit("where", seen, zero, constant(-math.inf, np.float32))


def _wide(x: Node | None, k: Node, length: Node | None) -> Node | None:
    """A mask or bias over the keys in use, with a past of fixed size over all its rows."""
    if x is None or length is None or x.type.rank < 2 or x.type.shape[-1] is k.type.shape[2]:
        return x
    more = maximum(sub(k.type.shape[2], x.type.shape[-1]), 0)
    pads = (*[ZERO] * (2 * x.type.rank - 1), more)
    return emit("pad", x, pads=pads, mode="constant", value=0.0 if is_float(x.type.dtype) else 0)


def _past_size(past: Node | None) -> Node | None:
    return None if past is None else size_of(past, 2)


def _thirds(bias: Node | None, sizes: Sequence[Expr]) -> list[Node | None]:
    """The parts of a bias for queries, keys and values."""
    if bias is None:
        return [None] * len(sizes)
    parts: list[Node | None] = []
    start: Expr = ZERO
    for n in sizes:
        parts.append(slice_axis(bias, bias.type.rank - 1, start, n))
        start = add(start, n)
    return parts


# --- Attention ------------------------------------------------------------------------------------


def attention(c: OnnxNode) -> list[Node]:
    """(Y, present [2, batch, heads, t, size]): one product gives queries, keys and values."""
    x, heads = c[0], c.get_int("num_heads", 0)
    if x.type.rank != 3 or c[1].type.rank != 2:
        raise ModelError("expected an input [batch, s, hidden] and weights of rank 2")
    _refuse(c, {6: "past_sequence_length"}, ("past_present_share_buffer", "do_rotary"))
    y = emit("matmul", x, c[1])
    bias = c.find(2)
    y = y if bias is None else emit("add", y, bias)
    hidden, given = c[1].type.shape[1], c.get_ints("qkv_hidden_sizes")
    sizes = [floordiv(hidden, 3)] * 3 if not given else [Const(n) for n in given]
    if len(sizes) != 3 or (known(hidden) is not None and add(*sizes) is not hidden):
        raise ModelError(f"expected three sizes that make {dim_text(hidden)}, found {given}")
    q, k, v = (split_heads(n, heads) for n in _thirds(y, sizes) if n is not None)
    past, batch = c.find(4), x.type.shape[0]
    before: list[Node | None] = [None, None]
    if past is not None:
        before = [emit("reshape", slice_axis(past, 0, Const(i), ONE), shape=past.type.shape[1:])
                  for i in range(2)]  # fmt: skip
    k, v = _grown(before[0], k), _grown(before[1], v)
    masks = (_padding(c, c.find(3), batch, k), c.find(5))
    how = Scores(masks, c.get_flag("unidirectional", False), _past_size(before[0]))
    out = [join_heads(how.attend(c, q, k, v)[0])]
    if c.wants(1):
        both = [emit("reshape", n, shape=(ONE, *n.type.shape)) for n in (k, v)]
        out.append(emit("concat", *both, axis=0))
    return out


def multi_head_attention(c: OnnxNode) -> list[Node]:
    """(Y, present key, present value, probabilities)."""
    _refuse(c, {9: "cache_indirection"}, ())
    q, k, v = _projected(c, c.find(1), c.find(2), c.find(3))
    past_k, past_v, length = c.find(6), c.find(7), _length(c, 8)
    k, v = _grown(past_k, k, length), _grown(past_v, v, length)
    mask, bias = (_wide(c.find(i), k, length) for i in (4, 5))
    masks = (_padding(c, mask, q.type.shape[0], k), bias, _unused(q, k, length))
    first = length if length is not None else _past_size(past_k)
    how = Scores(masks, c.get_flag("unidirectional", False), first)
    y, p = how.attend(c, q, k, v)
    return [join_heads(y), k, v, p]


def decoder_masked_attention(c: OnnxNode) -> list[Node]:
    """The same for one new token."""
    _refuse(c, {9: "cache_indirection"}, ())
    q, k, v = _projected(c, c.find(1), c.find(2), c.find(10))
    past_k, past_v = c.find(5), c.find(6)
    length = _length(c, 7) if c.get_flag("past_present_share_buffer", False) else None
    length = None if past_k is None else length
    k, v = _grown(past_k, k, length), _grown(past_v, v, length)
    mask, bias = (_wide(c.find(i), k, length) for i in (3, 4))
    masks = (_padding(c, mask, q.type.shape[0], k), bias, _unused(q, k, length))
    y, p = Scores(masks, False).attend(c, q, k, v)
    return [join_heads(y), k, v, p]


def _projected(
    c: OnnxNode, key: Node | None, value: Node | None, bias: Node | None
) -> tuple[Node, Node, Node]:
    """Queries, keys and values by heads, the bias added. Packed forms have an axis of 3 (queries,
    keys, values) or 2; keys and values of rank 4 are by heads already, and get no bias."""
    query, heads = c[0], c.get_int("num_heads", 0)
    packed = next((n for n in (query, key) if n is not None and n.type.rank == 5), None)
    if packed is not None:
        batch, s, n, count, size = packed.type.shape
        wanted = 3 if packed is query else 2
        if known(count) != wanted:
            raise ModelError(f"expected an axis of {wanted}, found {dim_text(count)}")
        parts = [
            emit("reshape", slice_axis(packed, 3, Const(i), ONE), shape=(batch, s, mul(n, size)))
            for i in range(wanted)
        ]
        query, key, value = parts if packed is query else (query, *parts)
    elif key is None and value is None and query.type.rank == 3:
        hidden = floordiv(query.type.shape[2], 3)
        query, key, value = (slice_axis(query, 2, mul(hidden, i), hidden) for i in range(3))
    if key is None or value is None or query.type.rank != 3:
        raise ModelError("expected query, key and value, or one of the packed forms")
    hidden = query.type.shape[2]
    more = [] if key.type.rank == 4 else [key.type.shape[-1], value.type.shape[-1]]
    biases = [*_thirds(bias, [hidden, *more]), None, None][:3]
    made: list[Node] = []
    for x, b in zip((query, key, value), biases, strict=True):
        x = x if b is None else emit("add", x, b)
        made.append(x if x.type.rank == 4 else split_heads(x, heads))
    return made[0], made[1], made[2]


# --- GroupQueryAttention --------------------------------------------------------------------------


def group_query_attention(c: OnnxNode) -> list[Node]:
    """(Y, present key, present value). Each batch has `seqlens_k + 1` keys with the new ones; these
    go behind what is cached, or, in the first call, to the start."""
    refused = {12: "k_scale", 13: "v_scale", 16: "query_seqlens"}
    _refuse(c, refused, ("sliding_window_cache", "qk_output"))
    heads, kv_heads = c.get_int("num_heads", 0), c.get_int("kv_num_heads", 0)
    query, key, value = c[0], c.find(1), c.find(2)
    if query.type.rank != 3 or heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ModelError(f"expected a query of rank 3, and {kv_heads} to divide {heads} heads")
    if key is None or value is None:
        size = floordiv(query.type.shape[2], heads + 2 * kv_heads)
        widths = [mul(size, n) for n in (heads, kv_heads, kv_heads)]
        query, key, value = (n for n in _thirds(query, widths) if n is not None)
    q, k, v = rows_of_heads(query, heads), rows_of_heads(key, kv_heads), value
    q, k = _normalised(c, q, 14, "q"), _normalised(c, k, 15, "k")
    total = c.sizes(6, "the total sequence length")
    if total is None or len(total) != 1:
        raise ModelError("expected one number as the total sequence length")
    cache = Cache.of(c, q, total[0])
    if c.get_flag("do_rotary", False):
        q, k = (cache.rotated(c, n) for n in (q, k))
    q, k = (emit("transpose", n, perm=(0, 2, 1, 3)) for n in (q, k))
    k, v = cache.grown(c.find(3), k), cache.grown(c.find(4), split_heads(v, kv_heads))
    used = [cache.used(n) for n in (k, v)]
    return [join_heads(_grouped(c, q, used[0], used[1], cache)), k, v]


def _normalised(c: OnnxNode, x: Node, i: int, which: str) -> Node:
    """x normalised by heads where a weight for that is given."""
    if c.find(i) is None:
        return x
    epsilon = c.get_float(f"{which}_norm_epsilon", c.get_float("qk_norm_epsilon", 1e-6))
    return emit("rms_normalization", x, c[i], axis=-1, epsilon=epsilon)


@dataclass(frozen=True)
class Cache:
    """`before`: keys of each batch ahead of the new ones, `ends`: with them; i64 [batch, 1, 1, 1].
    `total`: of the longest."""

    before: Node
    ends: Node
    total: Expr

    @staticmethod
    def of(c: OnnxNode, q: Node, total: Expr) -> Cache:
        """By seqlens_k. In the first call there are as many new keys as keys, and shorter batches
        are padded at the end."""
        batch, s = q.type.shape[:2]
        lengths = emit("reshape", emit("cast", c[5], to="i64"), shape=(batch, ONE, ONE, ONE))
        ends = emit("add", lengths, scalar(1, lengths))
        if total is s or c.find(3) is None:
            return Cache(emit("sub", ends, ends), ends, total)
        before = emit("sub", ends, size_of(q, 1))
        if known(total) is None or known(s) is None:
            long = emit("reshape", emit("cast", c[6], to="i64"), shape=())
            first = emit("equal", long, size_of(q, 1))
            before = emit("where", first, scalar(0, ends), before)
        return Cache(before, ends, total)

    def rotated(self, c: OnnxNode, x: Node) -> Node:
        """x [batch, s, heads, size], turned by the positions of the new keys."""
        s = x.type.shape[1]
        place = c.find(9)
        if place is None:
            before = emit("reshape", self.before, shape=(x.type.shape[0], ONE))
            steps = emit("reshape", iota(s, x, 1), shape=(ONE, s))
            place = emit("add", before, steps)
        cos, sin = (emit("gather", c[i], place, axis=0) for i in (7, 8))
        interleaved = c.get_flag("rotary_interleaved", False)
        width = 2 * (known(cos.type.shape[-1]) or 0)
        return rotate(x, cos, sin, interleaved, width, axis=2)

    def grown(self, past: Node | None, new: Node) -> Node:
        """The present: rows of the past, the new ones behind those in use."""
        if past is None:
            return new
        before = emit("reshape", self.before, shape=(self.before.type.shape[0], ONE))
        return _appended(past, new, before, maximum(past.type.shape[2], self.total))

    def used(self, x: Node) -> Node:
        """The rows of the present that keys of any batch are in."""
        if x.type.shape[2] is self.total:
            return x
        return slice_axis(x, 2, ZERO, minimum(self.total, x.type.shape[2]))


def _grouped(c: OnnxNode, q: Node, k: Node, v: Node, cache: Cache) -> Node:
    dtype = q.type.dtype
    wide = compute_dtype(dtype)
    x = score(as_dtype(q, wide), as_dtype(k, wide), _scale(c, q))
    x = soft_cap(x, c.get_float("softcap", 0.0))
    bias, left = c.find(10), c.get_int("local_window_size", -1)
    causal = c.get_flag("causal", True)
    allowed: list[Node | None] = [emit("less", iota(k.type.shape[2], k, 2), cache.ends)]
    if causal:
        far = distance(q, k, cache.before)
        allowed.append(window_mask(far, left - 1 if left > 0 else -1, 0))
    mask = Mask(all_true(allowed), bias, True)
    return as_dtype(_sunk(c, x, mask, as_dtype(v, wide), q), dtype)


def _sunk(c: OnnxNode, x: Node, mask: Mask, v: Node, q: Node) -> Node:
    """Probabilities times values; with a sink, one more score whose share nobody gets."""
    sink = c.find(11)
    if sink is None and not c.get_flag("smooth_softmax", False):
        return product(probabilities(mask.on(x), mask, x.type.dtype), v, q.type.shape[:3])
    batch, heads, s, t = x.type.shape
    if sink is None:
        column = emit("expand", scalar(0, x), shape=(batch, heads, s, ONE))
    else:
        row = emit("reshape", as_dtype(sink, x.type.dtype), shape=(ONE, heads, ONE, ONE))
        column = emit("expand", row, shape=(batch, heads, s, ONE))
    p = emit("softmax", emit("concat", mask.on(x), column, axis=3), axis=-1)
    return product(slice_axis(p, 3, ZERO, t), v, q.type.shape[:3])


def rotary_embedding(c: OnnxNode) -> Node:
    """The standard's, with positions always given: of each token, or [1], that of the first."""
    x, place = c[0], c[1]
    if c.get_flag("is_packed_batching", False) or c.get_float("scale", 1.0) != 1.0:
        raise Unsupported("packed batches, or a scale other than 1")
    if x.type.rank not in (3, 4):
        raise ModelError(f"expected an input of rank 3 or 4, found {x.type.rank}")
    axis = 1 if x.type.rank == 4 else 2
    if axis == 2:
        # Without a number of heads, the cache tells the size of one.
        heads: int | Expr = c.get_int("num_heads", 0)
        heads = heads or floordiv(x.type.shape[2], mul(2, c[2].type.shape[-1]))
        y = rows_of_heads(x, heads)
    else:
        y = x
    if place.type.rank == 1:
        steps = iota(y.type.shape[3 - axis], y, 3 - axis)
        place = emit("add", emit("reshape", place, shape=(ONE, ONE)), steps)
    cos, sin = (emit("gather", c[i], place, axis=0) for i in (2, 3))
    width = c.get_int("rotary_embedding_dim", 0)
    y = rotate(y, cos, sin, c.get_flag("interleaved", False), width, axis)
    return y if axis == 1 else emit("reshape", y, shape=x.type.shape)


_HEADS = "mask_filter_value num_heads scale"
MICROSOFT: Extension = {
    "Attention": (
        "input weights bias? mask_index? past? attention_bias? past_sequence_length? -> output "
        f"present?; {_HEADS} do_rotary past_present_share_buffer qkv_hidden_sizes "
        "rotary_embedding_dim unidirectional",
        attention,
    ),
    "DecoderMaskedMultiHeadAttention": (
        "query key? value? mask_index? attention_bias? past_key? past_value? "
        "past_sequence_length? beam_width? cache_indirection? bias? -> output present_key? "
        f"present_value? qk?; {_HEADS} output_qk past_present_share_buffer",
        decoder_masked_attention,
    ),
    "GroupQueryAttention": (
        "query key? value? past_key? past_value? seqlens_k total_sequence_length cos_cache? "
        "sin_cache? position_ids? attention_bias? head_sink? k_scale? v_scale? q_norm_weight? "
        "k_norm_weight? query_seqlens? -> output present_key? present_value?; num_heads scale "
        "causal do_rotary k_norm_epsilon k_quant_type kv_cache_bit_width kv_num_heads "
        "local_window_size q_norm_epsilon qk_norm_epsilon qk_output rotary_interleaved "
        "sliding_window_cache smooth_softmax softcap v_quant_type",
        group_query_attention,
    ),
    "MultiHeadAttention": (
        "query key? value? bias? key_padding_mask? attention_bias? past_key? past_value? "
        "past_sequence_length? cache_indirection? -> output present_key? present_value? qk?; "
        f"{_HEADS} unidirectional",
        multi_head_attention,
    ),
    "RotaryEmbedding": (
        "input position_ids cos_cache sin_cache -> output; interleaved is_packed_batching "
        "num_heads rotary_embedding_dim scale",
        rotary_embedding,
    ),
}
