"""ONNX normalisations whose statistics are taken over the batch, or given."""

from __future__ import annotations

from collections.abc import Sequence

from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode, check_axis, emit, scalar
from naru.frontend.onnx_reductions import moments
from naru.frontend.onnx_signatures import Handler
from naru.ir.graph import Node
from naru.ir.simplify import ONE


def batch_normalization(c: OnnxNode) -> Node | Sequence[Node]:
    """Statistics are those given, or in training those of the batch, which then also move the given
    ones. Training is an attribute since opset 14 and before 7; between, it shows by its outputs."""
    x = c[0]
    if c.version >= 14:
        training = c.get_flag("training_mode", False)
    elif c.version >= 7:
        training = any(c.wants(k) for k in range(1, 5))
    else:
        training = not c.get_flag("is_test", False)
    spatial = c.version >= 9 or c.get_flag("spatial", True)
    epsilon = c.get_float("epsilon", 1e-5)
    if not x.type.rank:
        raise ModelError("operand 0: expected a batch, found a scalar")
    flat = x.type.rank == 1  # [N] is [N, 1]
    if flat:
        x = emit("reshape", x, shape=(*x.type.shape, ONE))
    if spatial and not training:
        y = emit("batch_normalization", x, c[1], c[2], c[3], c[4], epsilon=epsilon)
        return emit("reshape", y, shape=c[0].type.shape) if flat else y
    work = "f64" if x.type.dtype == "f64" else "f32"
    shape = (x.type.shape[1], *[ONE] * (x.type.rank - 2)) if spatial else x.type.shape[1:]
    for k in range(1, 5):
        if c[k].type.rank not in (1, len(shape)):
            raise ModelError(f"operand {k}: expected rank 1, found {c[k].type.rank}")
    scale, bias, mean, variance = (
        emit("reshape", emit("cast", c[k], to=work), shape=shape) for k in range(1, 5)
    )
    wide = emit("cast", x, to=work)
    out: list[Node] = []
    if training:
        axes = (0, *range(2, x.type.rank)) if spatial else (0,)
        batch_mean, batch_variance = (emit("reshape", m, shape=shape) for m in moments(wide, axes))
        share = c.get_float("momentum", 0.9)
        for k, old, new in ((3, mean, batch_mean), (4, variance, batch_variance)):
            moved = emit("mul", old, scalar(share, old))
            moved = emit("add", moved, emit("mul", new, scalar(1 - share, new)))
            out.append(_like(moved, c[k]))
        out += [_like(batch_mean, c[3]), _like(batch_variance, c[4])] if c.version < 14 else []
        mean, variance = batch_mean, batch_variance
    deviation = emit("sqrt", emit("add", variance, scalar(epsilon, variance)))
    factor = emit("div", scale, deviation)
    y = emit("add", emit("mul", emit("sub", wide, mean), factor), bias)
    return [_like(y, c[0]), *out]


def _like(n: Node, of: Node) -> Node:
    """In the dtype and shape of an operand."""
    return emit("cast", emit("reshape", n, shape=of.type.shape), to=of.type.dtype)


def mean_variance_normalization(c: OnnxNode) -> Node:
    """(x - mean) / (standard deviation + 1e-9) over the axes."""
    x, rank = c[0], c[0].type.rank
    given = c.get_ints("axes") if c.has("axes") else (0, 2, 3)
    axes = tuple(sorted({check_axis(a, rank) for a in given or ()}))
    wide = emit("cast", x, to="f32") if x.type.dtype in ("f16", "bf16") else x
    mean, variance = moments(wide, axes)
    deviation = emit("add", emit("sqrt", variance), scalar(1e-9, variance))
    y = emit("div", emit("sub", wide, mean), deviation)
    return y if wide is x else emit("cast", y, to=x.type.dtype)


TABLE: dict[str, Handler] = {
    "BatchNormalization": batch_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
}
