"""ATen normalisations and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_attention import (
    Mask,
    all_true,
    distance,
    probabilities,
    product,
    score,
    window_mask,
)
from naru.frontend.onnx_node import Unsupported, as_dtype, emit, scalar
from naru.frontend.onnx_reductions import moments
from naru.frontend.torch_call import AtenCall, Handler
from naru.frontend.torch_elementwise import wide
from naru.ir.expr import Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, known, prod

# --- batch, layer, group --------------------------------------------------------------------------


def _parameter(n: Node | None, value: float, size: Expr, like: Node) -> Node:
    """A parameter of each channel, or a number for one left out."""
    if n is not None:
        return as_dtype(n, like.type.dtype)
    return emit("expand", scalar(value, like), shape=(size,))


def _affine(y: Node, weight: Node | None, bias: Node | None, shape: Sequence[Expr]) -> Node:
    """y · weight + bias, both brought into a shape that broadcasts."""
    if weight is not None:
        y = emit("mul", y, emit("reshape", as_dtype(weight, y.type.dtype), shape=tuple(shape)))
    if bias is not None:
        y = emit("add", y, emit("reshape", as_dtype(bias, y.type.dtype), shape=tuple(shape)))
    return y


def _normalized(x: Node, axes: tuple[int, ...], eps: float) -> tuple[Node, Node, Node]:
    """((x - mean) / deviation, mean, 1 / deviation) over axes; x is wide."""
    mean, variance = moments(x, axes)
    inverse = emit("reciprocal", emit("sqrt", emit("add", variance, scalar(eps, x))))
    return emit("mul", emit("sub", x, mean), inverse), mean, inverse


def batch_norm(c: AtenCall) -> Node | Sequence[Node | None]:
    """By running statistics; by those of the batch where there are none, as eval() has it then."""
    x = c["input"]
    weight, bias = c.find("weight"), c.find("bias")
    mean, variance = c.find("running_mean"), c.find("running_var")
    eps = c.float("eps", 1e-5)
    if x.type.rank < 2:
        raise ModelError(f"expected [N, C, …], found rank {x.type.rank}")
    channels = x.type.shape[1]
    if c.flag("training") or c.flag("train") or mean is None or variance is None:
        if mean is not None and (c.flag("training") or c.flag("train")):
            raise Unsupported("batch norm in training mode: it moves its statistics",
                              "model.eval()")  # fmt: skip
        axes = (0, *range(2, x.type.rank))
        y, _, _ = _normalized(wide(x), axes, eps)
        y = _affine(y, weight, bias, (channels, *[ONE] * (x.type.rank - 2)))
    else:
        half = wide(x)
        given = ((weight, 1.0), (bias, 0.0), (mean, 0.0), (variance, 1.0))
        parts = [_parameter(n, value, channels, half) for n, value in given]
        y = emit("batch_normalization", half, *parts, epsilon=eps)
    return [c.finish(y), *[None] * (len(c.results) - 1)] if len(c.results) > 1 else c.finish(y)


def layer_norm(c: AtenCall) -> Node | Sequence[Node | None]:
    """Over the last axes, as many as `normalized_shape` has."""
    x = c["input"]
    count = len(c.args["normalized_shape"])
    axis, eps = x.type.rank - count, c.float("eps", 1e-5)
    weight, bias = c.find("weight"), c.find("bias")
    shape = x.type.shape[axis:]
    half = weight is not None and weight.type.dtype != x.type.dtype
    y = wide(x) if half else x
    scale = as_dtype(weight, y.type.dtype) if weight is not None else _ones(y, shape)
    operands = [y, scale] if bias is None else [y, scale, as_dtype(bias, y.type.dtype)]
    out = c.finish(emit("layer_normalization", *operands, axis=axis, epsilon=eps))
    if len(c.results) == 1:
        return out
    mean = inverse = None
    if any(c.wanted[1:]):
        _, mean, inverse = _normalized(wide(x), tuple(range(axis, x.type.rank)), eps)
        mean, inverse = c.finish(mean, 1), c.finish(inverse, 2)
    return [out, mean, inverse]


def _ones(like: Node, shape: Sequence[Expr]) -> Node:
    return emit("expand", scalar(1, like), shape=tuple(shape))


def rms_norm(c: AtenCall) -> Node | Sequence[Node | None]:
    """x / sqrt(mean of squares + eps) · weight."""
    x, weight = c["input"], c.find("weight")
    axis = x.type.rank - len(c.args["normalized_shape"])
    eps = c.value("eps")
    eps = float(np.finfo(DTYPES[wide(x).type.dtype].numpy).eps) if eps is None else float(eps)
    y = wide(x)
    scale = as_dtype(weight, y.type.dtype) if weight is not None else _ones(y, x.type.shape[axis:])
    out = c.finish(emit("rms_normalization", y, scale, axis=axis, epsilon=eps))
    return out if len(c.results) == 1 else [out, *[None] * (len(c.results) - 1)]


def group_norm(c: AtenCall) -> Node | Sequence[Node | None]:
    """Statistics over each of the groups that the channels are divided into."""
    x = c["input"]
    groups = c.int("num_groups" if "num_groups" in c.args else "group")
    n, channels, *spatial = x.type.shape
    size = known(channels)
    if size is None or size % groups:
        raise ModelError(f"expected channels that {groups} divides")
    grouped = emit("reshape", wide(x), shape=(n, groups, prod((size // groups, *spatial))))
    y, _, _ = _normalized(grouped, (2,), c.float("eps", 1e-5))
    y = emit("reshape", y, shape=x.type.shape)
    y = _affine(y, c.find("weight"), c.find("bias"), (channels, *[ONE] * len(spatial)))
    out = c.finish(y)
    return out if len(c.results) == 1 else [out, *[None] * (len(c.results) - 1)]


def instance_norm(c: AtenCall) -> Node:
    """Statistics over the spatial axes of each channel, or running ones."""
    if not c.flag("use_input_stats"):
        out = batch_norm(c)
        assert isinstance(out, Node)
        return out
    if c.find("running_mean") is not None:
        raise Unsupported("instance norm that moves its statistics", "model.eval()")
    x = c["input"]
    y, _, _ = _normalized(wide(x), tuple(range(2, x.type.rank)), c.float("eps", 1e-5))
    shape = (x.type.shape[1], *[ONE] * (x.type.rank - 2))
    return c.finish(_affine(y, c.find("weight"), c.find("bias"), shape))


# --- attention ------------------------------------------------------------------------------------


def attention(c: AtenCall) -> Node | Sequence[Node | None]:
    """softmax(scale · query · key' + mask) · value; [batch…, heads, tokens, size] or without
    heads. Queries that the mask leaves nothing get 0."""
    q, k, v = c["query"], c["key"], c["value"]
    given = c.find("attn_mask") if "attn_mask" in c.args else c.find("attn_bias")
    if c.value("dropout_p", 0.0):
        raise Unsupported("attention with dropout", "model.eval(), or dropout_p=0.0")
    heads = q.type.shape[:-2]
    q4, k4, v4 = (_four(n) for n in (q, k, v))
    if k.type.shape[:-2] != heads and not c.flag("enable_gqa"):
        k4, v4 = (_four(emit("expand", n, shape=(*heads, *n.type.shape[-2:]))) for n in (k, v))
    size = known(q.type.shape[-1])
    scale = c.value("scale")
    if scale is None and size is None:
        raise Unsupported("heads of unknown size", "give scale, or fix the dim")
    scale = float(scale) if scale is not None else 1 / math.sqrt(size or 1)
    mask = _mask(c, q, q4, k4, given)
    x = mask.on(score(wide(q4), wide(k4), scale))
    p = probabilities(x, mask, x.type.dtype)
    y = product(p, wide(v4), q4.type.shape[:3])
    out = c.finish(emit("reshape", y, shape=c.shape))
    return out if len(c.results) == 1 else [out, *[None] * (len(c.results) - 1)]


def _four(x: Node) -> Node:
    """With one batch and one head axis: all before the heads is the batch."""
    if x.type.rank == 4:
        return x
    *outer, s, d = x.type.shape
    heads = outer[-1] if x.type.rank > 4 else ONE
    batch = prod(outer[:-1]) if x.type.rank > 4 else prod(outer)
    return emit("reshape", x, shape=(batch, heads, s, d))


def _mask(c: AtenCall, q: Node, q4: Node, k4: Node, given: Node | None) -> Mask:
    causal = c.flag("is_causal")
    if given is None:
        if not causal:
            return Mask()
        # Causality alone leaves every query the first key.
        return Mask(window_mask(distance(q4, k4, None), -1, 0), None, False)
    mask = given
    if given.type.rank > 2 and q.type.rank != 4:
        shape = (*q.type.shape[:-1], k4.type.shape[2])
        mask = emit("reshape", emit("expand", given, shape=shape),
                    shape=(*q4.type.shape[:3], k4.type.shape[2]))  # fmt: skip
    near = window_mask(distance(q4, k4, None), -1, 0) if causal else None
    if mask.type.dtype == "bool":
        return Mask(all_true([mask, near]))
    return Mask(near, mask)


TABLE: dict[str, Handler] = {
    "_batch_norm_no_update": batch_norm,
    "_fused_rms_norm": rms_norm,
    "_native_batch_norm_legit": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "_scaled_dot_product_flash_attention_for_cpu": attention,
    "batch_norm": batch_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "layer_norm": layer_norm,
    "native_batch_norm": batch_norm,
    "native_group_norm": group_norm,
    "native_layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "scaled_dot_product_attention": attention,
}
