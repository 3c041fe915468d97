"""Normalisations of com.microsoft, most of them with what is added before, and the two that ONNX
Runtime writes in the standard's domain: SimplifiedLayerNormalization, and LayerNormalization before
opset 17."""

from __future__ import annotations

from naru.errors import ModelError
from naru.frontend.onnx_elementwise import silu
from naru.frontend.onnx_node import OnnxNode, as_dtype, emit, scalar
from naru.frontend.onnx_reductions import layer_normalization, moments
from naru.frontend.onnx_shapes import iota
from naru.frontend.onnx_signatures import Extension
from naru.ir.expr import Const
from naru.ir.graph import Node
from naru.ir.simplify import ONE, floordiv, known
from naru.ops.operands import compute_dtype, dim_text


def inverse_deviation(x: Node, axes: tuple[int, ...], epsilon: float, mean: bool) -> list[Node]:
    """(mean, where it is taken off,) 1 / root of the mean of squares; in f32 for half floats."""
    wide = as_dtype(x, compute_dtype(x.type.dtype))
    if mean:
        middle, variance = moments(wide, axes)
    else:
        middle = None
        variance = emit("reduce_mean", emit("mul", wide, wide), axes=axes, keepdims=True)
    root = emit("sqrt", emit("add", variance, scalar(epsilon, variance)))
    return [*([] if middle is None else [middle]), emit("reciprocal", root)]


def simplified_layer_normalization(c: OnnxNode) -> list[Node]:
    """(x / root of the mean of squares · scale, 1 / that root)."""
    x, rank = c[0], c[0].type.rank
    axis, epsilon = c.axis(-1, rank), c.get_float("epsilon", 1e-5)
    y = emit("rms_normalization", x, c[1], axis=axis, epsilon=epsilon)
    out = [as_dtype(y, c[1].type.dtype)]
    if c.wants(1):
        out += inverse_deviation(x, tuple(range(axis, rank)), epsilon, mean=False)
    return out


def _skipped(c: OnnxNode, bias: int) -> Node:
    """input + skip (+ bias)."""
    total = emit("add", c[0], c[1])
    if total.type.shape != c[0].type.shape:
        raise ModelError("expected a skip that broadcasts to the input")
    return total if c.find(bias) is None else emit("add", total, c[bias])


def skip_layer_normalization(c: OnnxNode) -> list[Node]:
    """(normalised sum, mean, 1 / deviation, sum)."""
    x, epsilon = _skipped(c, 4), c.get_float("epsilon", 1e-12)
    beta = c.find(3)
    operands = (x, c[2]) if beta is None else (x, c[2], beta)
    y = emit("layer_normalization", *operands, axis=-1, epsilon=epsilon)
    more = inverse_deviation(x, (x.type.rank - 1,), epsilon, mean=True)
    return [y, *more, x]


def skip_simplified_layer_normalization(c: OnnxNode) -> list[Node]:
    """(normalised sum, 0 in the place of a mean, 1 / root of the mean of squares, sum)."""
    x, epsilon = _skipped(c, 3), c.get_float("epsilon", 1e-12)
    y = emit("rms_normalization", x, c[2], axis=-1, epsilon=epsilon)
    (root,) = inverse_deviation(x, (x.type.rank - 1,), epsilon, mean=False)
    return [y, emit("mul", root, scalar(0.0, root)), root, x]


def embed_layer_normalization(c: OnnxNode) -> list[Node]:
    """(normalised sum of embeddings, number of words, the sum)."""
    ids, segments, mask, positions = c[0], c.find(1), c.find(7), c.find(8)
    if ids.type.rank != 2:
        raise ModelError(f"expected input_ids [batch, s], found rank {ids.type.rank}")
    total = emit("gather", c[2], ids, axis=0)
    if positions is None:
        positions = iota(ids.type.shape[1], ids, 1)
    total = emit("add", total, emit("gather", c[3], positions, axis=0))
    if segments is not None:
        total = emit("add", total, emit("gather", c[4], segments, axis=0))
    epsilon = c.get_float("epsilon", 1e-12)
    y = emit("layer_normalization", total, c[5], c[6], axis=-1, epsilon=epsilon)
    if mask is None:
        words = emit("expand", scalar(0, ids), shape=(ids.type.shape[0],))
    else:
        ones = as_dtype(emit("equal", mask, scalar(1, mask)), mask.type.dtype)
        words = emit("reduce_sum", ones, axes=(1,), keepdims=False)
    return [y, words, total]


def group_normalization(c: OnnxNode) -> Node:
    return _groups(c, c[0])


def skip_group_normalization(c: OnnxNode) -> list[Node]:
    """Of X + skip (+ bias), which is the second output. Channels are last."""
    x, skip, bias = c[0], c[3], c.find(4)
    if skip.type.rank == 2:
        batch, channels = skip.type.shape
        skip = emit("reshape", skip, shape=(batch, ONE, ONE, channels))
    if not c.get_flag("channels_last", True):
        skip = (
            skip if skip.type.shape == x.type.shape else emit("transpose", skip, perm=(0, 3, 1, 2))
        )
        if bias is not None:
            bias = emit("reshape", bias, shape=(bias.type.shape[0], ONE, ONE))
    total = emit("add", x, skip)
    total = total if bias is None else emit("add", total, bias)
    return [_groups(c, total), total]


def _groups(c: OnnxNode, x: Node) -> Node:
    """Each group of channels normalised over itself and space; then SiLU, where it is asked for."""
    last, groups = c.get_flag("channels_last", True), c.get_int("groups", 1)
    rank, shape = x.type.rank, x.type.shape
    if rank < 3:
        raise ModelError(f"expected X of rank 3 or more, found {rank}")
    channels = shape[-1] if last else shape[1]
    n = known(channels)
    if groups < 1 or (n is not None and n % groups):
        raise ModelError(f"expected groups that divide {dim_text(channels)}, found {groups}")
    inner = (Const(groups), floordiv(channels, groups))
    if last:
        split, axes = (*shape[:-1], *inner), (*range(1, rank - 1), rank)
    else:
        split, axes = (shape[0], *inner, *shape[2:]), tuple(range(2, rank + 1))
    dtype = compute_dtype(x.type.dtype)
    wide = emit("reshape", as_dtype(x, dtype), shape=split)
    mean, inverse = inverse_deviation(wide, axes, c.get_float("epsilon", 1e-5), mean=True)
    normal = emit("mul", emit("sub", wide, mean), inverse)
    normal = emit("reshape", normal, shape=shape)
    place = (channels,) if last else (channels, *[ONE] * (rank - 2))
    gamma, beta = (emit("reshape", as_dtype(c[k], dtype), shape=place) for k in (1, 2))
    y = emit("add", emit("mul", normal, gamma), beta)
    activation = c.get_int("activation", 0)
    if activation not in (0, 1):
        raise ModelError(f"attribute 'activation': expected 0 or 1, found {activation}")
    return as_dtype(silu(y) if activation else y, x.type.dtype)


_NORM = "axis epsilon stash_type"
_GROUP = "activation channels_last epsilon groups"
MICROSOFT: Extension = {
    "EmbedLayerNormalization": (
        "input_ids segment_ids? word_embedding position_embedding segment_embedding? gamma beta "
        "mask? position_ids? -> output mask_index? embedding_sum?; epsilon mask_index_type",
        embed_layer_normalization,
    ),
    "GroupNorm": (f"X gamma beta -> Y; {_GROUP}", group_normalization),
    "SimplifiedLayerNormalization": (
        f"X scale -> Y inv_std_var?; {_NORM}",
        simplified_layer_normalization,
    ),
    "SkipGroupNorm": (f"X gamma beta skip bias? -> Y S?; {_GROUP}", skip_group_normalization),
    "SkipLayerNormalization": (
        "input skip gamma beta? bias? -> output mean? inv_std_var? sum?; epsilon",
        skip_layer_normalization,
    ),
    "SkipSimplifiedLayerNormalization": (
        "input skip gamma bias? -> output mean? inv_std_var? sum?; epsilon",
        skip_simplified_layer_normalization,
    ),
}
# In the standard's own domain, whatever the opset.
STANDARD: Extension = {
    "LayerNormalization": (
        f"X scale B? -> Y mean? inv_std_dev?; {_NORM}",
        layer_normalization,
    ),
    "SimplifiedLayerNormalization": MICROSOFT["SimplifiedLayerNormalization"],
}
