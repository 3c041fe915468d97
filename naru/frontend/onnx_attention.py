"""ONNX Attention (opset 23 to 25) and FlexAttention (preview 1), and the parts that other forms of
attention share.

Inside, queries are [batch, heads, s, size], keys and values [batch, kv heads, t, size], scores
[batch, heads, s, t]. Several heads may share one of keys and values: their queries are then rows of
one product, and nothing is repeated. Half floats are widened once and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_contractions import transpose_last
from naru.frontend.onnx_data import dtype_of
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import OnnxNode, Unsupported, as_dtype, emit, scalar
from naru.frontend.onnx_shapes import iota, size_of
from naru.frontend.onnx_signatures import Extension, Handler
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, floordiv, known, maximum, mul, sub
from naru.ops.operands import compute_dtype, dim_text
from naru.ops.registry import constant

TWO = Const(2)
SOFTMAX_DTYPES = ("f32", "f16", "f64", "bf16")


def all_true(masks: Sequence[Node | None]) -> Node | None:
    """Where every mask that there is holds."""
    given = [m for m in masks if m is not None]
    return reduce(lambda a, b: emit("and", a, b), given) if given else None


# --- heads ----------------------------------------------------------------------------------------


def split_heads(x: Node, heads: int | Expr) -> Node:
    """[batch, s, heads · size] -> [batch, heads, s, size]."""
    return emit("transpose", rows_of_heads(x, heads), perm=(0, 2, 1, 3))


def rows_of_heads(x: Node, heads: int | Expr) -> Node:
    """[batch, s, heads · size] -> [batch, s, heads, size]."""
    batch, s, hidden = x.type.shape
    n, width = known(heads) if isinstance(heads, Expr) else heads, known(hidden)
    if n is not None and (n < 1 or (width is not None and width % n)):
        raise ModelError(f"expected a number of heads that divides {dim_text(hidden)}, found {n}")
    return emit("reshape", x, shape=(batch, s, heads, floordiv(hidden, heads)))


def join_heads(x: Node) -> Node:
    """[batch, heads, s, size] -> [batch, s, heads · size]."""
    batch, heads, s, size = x.type.shape
    rows = emit("transpose", x, perm=(0, 2, 1, 3))
    return emit("reshape", rows, shape=(batch, s, mul(heads, size)))


def _shared(x: Node, kv: Node) -> Node:
    """Rows of the heads that share one of kv under each other: [batch, kv heads, rows, size]."""
    batch, heads, s, size = x.type.shape
    kv_heads = kv.type.shape[1]
    if heads is kv_heads:
        return x
    n, m = known(heads), known(kv_heads)
    if n is None or m is None or m < 1 or n % m:
        raise ModelError(
            "expected a number of heads that those of keys and values divide, found "
            f"{dim_text(heads)} and {dim_text(kv_heads)}"
        )
    return emit("reshape", x, shape=(batch, kv_heads, mul(n // m, s), size))


def product(x: Node, kv: Node, heads: Sequence[Expr]) -> Node:
    """x · kv for each head; `heads` are the first three dims of x."""
    y = emit("matmul", _shared(x, kv), kv)
    shape = (*heads, y.type.shape[-1])
    return y if y.type.shape == shape else emit("reshape", y, shape=shape)


def score(q: Node, k: Node, scale: float) -> Node:
    """scale · q · k'. The standard scales both sides by the root, lest half floats overflow; here
    they have been widened, and one pass over the product is cheaper."""
    y = product(q, transpose_last(k), q.type.shape[:3])
    return y if scale == 1.0 else emit("mul", y, scalar(scale, y))


def soft_cap(x: Node, cap: float) -> Node:
    """cap · tanh(x / cap); 0 is no cap."""
    if not cap:
        return x
    return emit("mul", emit("tanh", emit("div", x, scalar(cap, x))), scalar(cap, x))


# --- masks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mask:
    """Which keys a query sees: `allowed` (bool) and `bias` (added) broadcast to the scores.
    `some_row_empty`: may a query see none at all? Its probabilities are 0 then."""

    allowed: Node | None = None
    bias: Node | None = None
    some_row_empty: bool = True

    def on(self, x: Node) -> Node:
        """Scores with the mask in them."""
        if self.allowed is not None:
            x = emit("where", self.allowed, x, scalar(-math.inf, x))
        return x if self.bias is None else emit("add", x, as_dtype(self.bias, x.type.dtype))

    def zero_empty(self, p: Node) -> Node:
        """Probabilities, 0 in rows of a query that sees nothing, which the mask alone decides."""
        if not self.some_row_empty or (self.allowed is None and self.bias is None):
            return p
        seen = self.allowed
        if self.bias is not None:
            seen = all_true([seen, emit("greater", self.bias, scalar(-math.inf, self.bias))])
        assert seen is not None
        if seen.type.rank == 0:
            return emit("where", seen, p, scalar(0, p))
        axes = (seen.type.rank - 1,)
        return emit("where", emit("reduce_max", seen, axes=axes, keepdims=True), p, scalar(0, p))


def distance(s: Node, t: Node, offset: Node | None) -> Node:
    """Position of the query minus that of the key, as i64 [s, t] or, with an offset a batch (an
    i64 [batch, 1, 1, 1]), [batch, 1, s, t]. Sizes are dims 2 of `s` and `t`."""
    rows = emit("reshape", iota(s.type.shape[2], s, 2), shape=(s.type.shape[2], ONE))
    if offset is not None:
        rows = emit("add", rows, offset)
    return emit("sub", rows, iota(t.type.shape[2], t, 2))


def window_mask(far: Node, left: int, right: int) -> Node | None:
    """Keys at most `left` before and `right` behind a query; -1 is no bound."""
    return all_true([
        None if left < 0 else emit("less_or_equal", far, scalar(left, far)),
        None if right < 0 else emit("greater_or_equal", far, scalar(-right, far)),
    ])  # fmt: skip


def probabilities(x: Node, mask: Mask, dtype: str) -> Node:
    """The softmax of scores over the keys, computed in a dtype."""
    p = emit("softmax", as_dtype(x, dtype), axis=-1)
    return mask.zero_empty(p)


# --- the standard's operators ---------------------------------------------------------------------


def attention(c: OnnxNode) -> Sequence[Node]:
    """(Y, present key, present value, scores as `qk_matmul_output_mode` says)."""
    q, k, v = c[0], c[1], c[2]
    flat = q.type.rank == 3
    if {n.type.rank for n in (q, k, v)} not in ({3}, {4}):
        raise ModelError("expected Q, K and V of rank 3 or of rank 4")
    if flat:
        q_heads, kv_heads = c.get_int("q_num_heads", 0), c.get_int("kv_num_heads", 0)
        q, k, v = split_heads(q, q_heads), split_heads(k, kv_heads), split_heads(v, kv_heads)
    past_k, past_v = c.find(4), c.find(5)
    if (past_k is None) != (past_v is None):
        raise ModelError("expected past_key and past_value together, found one of them")
    new_k = k
    if past_k is not None and past_v is not None:
        k, v = emit("concat", past_k, k, axis=2), emit("concat", past_v, v, axis=2)
    mask = _mask(c, q, new_k, k)
    y, scores = attend(c, q, k, v, mask)
    out = [join_heads(y) if flat else y, k, v]
    return [*out, scores] if c.wants(3) else out


def attend(c: OnnxNode, q: Node, k: Node, v: Node, mask: Mask) -> tuple[Node, Node]:
    """(Y, the scores that the mode asks for) by the attributes of the standard's Attention."""
    dtype = q.type.dtype
    wide = compute_dtype(dtype)
    x = score(as_dtype(q, wide), as_dtype(k, wide), _scale(c, q))
    modes = [x]
    modes.append(x := soft_cap(x, c.get_float("softcap", 0.0)))
    modes.append(x := mask.on(x))
    p = probabilities(x, mask, _precision(c, wide))
    modes.append(p)
    y = product(as_dtype(p, wide), as_dtype(v, wide), q.type.shape[:3])
    mode = c.get_int("qk_matmul_output_mode", 0)
    if mode not in range(4):
        raise ModelError(f"attribute 'qk_matmul_output_mode': expected 0..3, found {mode}")
    return as_dtype(y, dtype), as_dtype(modes[mode], dtype)


def _scale(c: OnnxNode, q: Node) -> float:
    if c.has("scale"):
        return c.get_float("scale", 1.0)
    size = known(q.type.shape[3])
    if size is None:
        raise Unsupported("heads of unknown size", "give the attribute 'scale', or fix the dim")
    return 1 / math.sqrt(size) if size else 1.0


def _precision(c: OnnxNode, default: str) -> str:
    if not c.has("softmax_precision"):
        return default
    dtype = dtype_of(c.get_int("softmax_precision", 0), "the precision of the softmax")
    if dtype not in SOFTMAX_DTYPES:
        raise ModelError(f"attribute 'softmax_precision': expected a float, found {dtype}")
    return dtype


def _mask(c: OnnxNode, q: Node, new_k: Node, k: Node) -> Mask:
    """attn_mask, causality, the window (opset 25) and padding (opset 24) together."""
    given, lengths = c.find(3), c.find(6)
    if lengths is not None and k is not new_k:
        raise ModelError("expected nonpad_kv_seqlen or past_key, found both")
    if lengths is not None and lengths.type.rank != 1:
        raise ModelError(f"expected nonpad_kv_seqlen [batch], found rank {lengths.type.rank}")
    causal = c.get_flag("is_causal", False)
    left, right = c.get_int("left_window_size", -1), c.get_int("right_window_size", -1)
    if min(left, right) < -1:
        raise ModelError(f"expected windows of -1 or more, found {left} and {right}")
    allowed: list[Node | None] = []
    bias: Node | None = None
    if given is not None:
        if given.type.dtype[0] in "iu":
            given = as_dtype(given, compute_dtype(q.type.dtype))
        given = _as_long_as(c, given, k.type.shape[2])
        if given.type.dtype == "bool":
            allowed.append(given)
        else:
            bias = given
    ends = None
    if lengths is not None:
        ends = emit("reshape", lengths, shape=(lengths.type.shape[0], ONE, ONE, ONE))
        allowed.append(emit("less", iota(k.type.shape[2], k, 2), ends))
    if causal or left >= 0 or right >= 0:
        offset = _offset(q, new_k, k, ends)
        far = distance(q, k, offset)
        allowed.append(window_mask(far, -1, 0) if causal else None)
        allowed.append(window_mask(far, left, right))
    # Causality alone leaves every query the first key.
    empty = given is not None or lengths is not None or left >= 0 or right >= 0
    return Mask(all_true(allowed), bias, empty)


def _offset(q: Node, new_k: Node, k: Node, ends: Node | None) -> Node | None:
    """How many keys precede the first query: those of the past, or by the lengths of the cache."""
    if ends is not None:
        return emit("sub", ends, size_of(q, 2))
    return None if k is new_k else emit("sub", size_of(k, 2), size_of(new_k, 2))


def _as_long_as(c: OnnxNode, mask: Node, t: Expr) -> Node:
    """Since opset 24 a mask may end before the keys do: those behind are not seen."""
    if mask.type.rank > 4 or (mask.type.rank == 0 and c.version >= 24):
        raise ModelError(f"expected a mask of rank 1 to 4, found {mask.type.rank}")
    if c.version < 24 or mask.type.shape[-1] is t:
        return mask
    more = sub(t, mask.type.shape[-1])
    if (known(more) or 0) < 0:
        raise ModelError(f"expected a mask over {dim_text(t)} keys, found more")
    pads = (*[ZERO] * (2 * mask.type.rank - 1), maximum(more, 0))
    value = False if mask.type.dtype == "bool" else -math.inf
    return emit("pad", mask, pads=pads, mode="constant", value=value)


def flex_attention(c: OnnxNode) -> Node:
    """Attention whose scores and probabilities go through a body each, where it is given."""
    q, k, v = c[0], c[1], c[2]
    if any(n.type.rank != 4 for n in (q, k, v)):
        raise ModelError("expected Q, K and V of rank 4")
    dtype = q.type.dtype
    wide = compute_dtype(dtype)
    inner = _precision(c, wide)
    x = as_dtype(score(as_dtype(q, wide), as_dtype(k, wide), _scale(c, q)), inner)
    x = _modified(c, "score_mod", x)
    p = _modified(c, "prob_mod", emit("softmax", x, axis=-1))
    return as_dtype(product(as_dtype(p, wide), as_dtype(v, wide), q.type.shape[:3]), dtype)


def _modified(c: OnnxNode, name: str, x: Node) -> Node:
    a = c.attrs.get(name)
    if a is None:
        return x
    what = f"{c.label}, attribute {name!r}"
    inner = c.importer.body(a.g, c.scope, [x], what, inline=True)
    results = c.importer.read_outputs(a.g, inner)
    if len(results) != 1:
        raise ModelError(f"expected one output of the body, found {len(results)}", where=what)
    (y,) = results
    if not isinstance(y, Node):
        raise Unsupported(f"the body {name!r} has a part that is not supported")
    if y.type.dtype != x.type.dtype or y.type.rank != 4:
        raise ModelError("expected a result like its operand", where=what)
    return y


def rotary_embedding(c: OnnxNode) -> Node:
    """Pairs of numbers turned by an angle that the token's position gives (opset 23)."""
    x, cos, sin, positions = c[0], c[1], c[2], c.find(3)
    if x.type.rank not in (3, 4):
        raise ModelError(f"expected X of rank 3 or 4, found {x.type.rank}")
    if positions is not None:
        cos, sin = (emit("gather", t, positions, axis=0) for t in (cos, sin))
    if cos.type.rank != 3 or sin.type.rank != 3:
        raise ModelError("expected cos and sin [batch, s, size / 2], or of rank 2 with positions")
    width = c.get_int("rotary_embedding_dim", 0)
    interleaved = c.get_flag("interleaved", False)
    if x.type.rank == 4:
        return rotate(x, cos, sin, interleaved, width)
    y = rotate(rows_of_heads(x, c.get_int("num_heads", 0)), cos, sin, interleaved, width, axis=2)
    return emit("reshape", y, shape=x.type.shape)


def rotate(x: Node, cos: Node, sin: Node, interleaved: bool, width: int = 0, axis: int = 1) -> Node:
    """x [batch, heads, s, size] (or with the heads as axis 2), cos and sin [batch or 1, s, turned /
    2]: the first `width` (0: all) numbers of a head turn, as pairs (k, k + width / 2) or
    (2k, 2k + 1)."""
    size = x.type.shape[-1]
    turned = Const(width) if width else size
    half = floordiv(turned, 2)
    n, m = known(turned), known(size)
    if n is None or m is None:
        raise Unsupported("heads of unknown size", "give the size of a head in the model")
    if n % 2 or n > m:
        raise ModelError(f"expected an even size of at most that of a head, found {n} and {m}")
    wide = compute_dtype(x.type.dtype)
    last = x.type.rank - 1
    y = as_dtype(x if n == m else slice_axis(x, last, ZERO, turned), wide)
    cos, sin = (
        emit("reshape", as_dtype(t, wide), shape=(*_with_one(t.type.shape[:2], axis), half))
        for t in (cos, sin)
    )
    made = _turn_neighbours(y, cos, sin) if interleaved else _turn_halves(y, cos, sin)
    made = as_dtype(made, x.type.dtype)
    if n == m:
        return made
    return emit("concat", made, slice_axis(x, last, turned, sub(size, turned)), axis=last)


def _turn_halves(x: Node, cos: Node, sin: Node) -> Node:
    """Both halves as an axis of two; turned, each is cos · itself ± sin · the other."""
    *lead, half = (*x.type.shape[:-1], cos.type.shape[-1])
    last = x.type.rank - 1
    pairs = emit("reshape", x, shape=(*lead, TWO, half))
    backwards = {"starts": (Const(-1),), "ends": (Const(-3),), "steps": (-1,)}
    others = emit("slice", pairs, axes=(last,), **backwards)
    signs = constant([[-1.0], [1.0]], DTYPES[x.type.dtype].numpy)
    cos, sin = (emit("reshape", t, shape=(*t.type.shape[:-1], ONE, half)) for t in (cos, sin))
    made = emit("add", emit("mul", pairs, cos), emit("mul", others, emit("mul", sin, signs)))
    return emit("reshape", made, shape=x.type.shape)


def _turn_neighbours(x: Node, cos: Node, sin: Node) -> Node:
    """Elements 2k and 2k + 1 turn together. The first and the second of all pairs are taken apart
    and put together again: pairs in one axis of two would leave the lanes empty."""
    *lead, half = (*x.type.shape[:-1], cos.type.shape[-1])
    last = x.type.rank - 1
    pairs = emit("reshape", x, shape=(*lead, half, TWO))
    a, b = (emit("gather", pairs, constant(k, np.int64), axis=last + 1) for k in range(2))
    real = emit("sub", emit("mul", cos, a), emit("mul", sin, b))
    imaginary = emit("add", emit("mul", sin, a), emit("mul", cos, b))
    parts = [emit("reshape", t, shape=(*lead, half, ONE)) for t in (real, imaginary)]
    return emit("reshape", emit("concat", *parts, axis=last + 1), shape=x.type.shape)


def _with_one(dims: Sequence[Expr], axis: int) -> tuple[Expr, ...]:
    return (*dims[:axis], ONE, *dims[axis:])


TABLE: dict[str, Handler] = {
    "Attention": attention,
    "RotaryEmbedding": rotary_embedding,
}
PREVIEW: Extension = {
    "FlexAttention": (
        "Q K V -> Y; prob_mod scale score_mod softmax_precision",
        flex_attention,
    ),
}
