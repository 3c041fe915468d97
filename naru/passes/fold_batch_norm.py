"""Batch normalisation of inference is an affine map per channel: it goes into the convolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from naru.dtypes import DTYPES
from naru.ir.graph import Graph, Node, make_constant, toposort
from naru.ops.registry import apply
from naru.passes.registry import graph_pass
from naru.passes.rewrite import rewrite


@graph_pass
def fold_batch_norm(g: Graph) -> Graph:
    """batch_normalization(x, scale, bias, mean, variance) with constant parameters becomes

        conv(v, w·s) + b'     after conv(v, w) [+ constant bias per channel] with no other reader
        x·s + b'              after anything else

    with s = scale / sqrt(variance + epsilon) and b' = bias + (old bias - mean)·s, computed in
    float64. Normalisations whose parameters are computed stay for `decompose`.
    """
    origin: dict[Node, Node] = {}
    replaced: dict[Node, Node] = {}  # convolutions with new weights -> those of g
    readers = count_readers(g)

    def alone(n: Node) -> bool:
        return readers[origin.get(n, n)] <= 1

    def fold(n: Node) -> Node:
        affine = find_affine(n)
        x = n.inputs[0] if affine else None
        if affine is None or x is None:
            return n
        merged = _into_conv(x, *affine, alone)
        if merged is None:
            return scale_and_shift(x, *affine)
        conv, old = merged.inputs[0], split_bias(x)[0]
        if conv is not None:
            replaced[conv] = origin.get(old, old)
        return merged

    new = rewrite(g, fold, origin=origin)
    if new is g:
        return g
    # What is left of the normalisation bears its name; the convolution keeps its own.
    names = {conv: g.notes[old] for conv, old in replaced.items() if old in g.notes}
    return new.with_outputs(new.outputs, {**names, **new.notes})


def count_readers(g: Graph) -> Counter[Node]:
    """How often each node is an operand or an output, bodies of control flow included."""
    counts: Counter[Node] = Counter()
    graphs = [g]
    while graphs:
        h = graphs.pop()
        counts.update(h.outputs)
        for n in toposort(*h.outputs):
            counts.update(c for c in n.inputs if c is not None)
            graphs.extend(value for _, value in n.attrs if isinstance(value, Graph))
    return counts


def find_affine(n: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """(s, t) in float64 with batch_normalization(x) = x·s + t per channel; None if not constant."""
    if n.op != "batch_normalization":
        return None
    parameters = [None if c is None else c.data for c in n.inputs[1:]]
    epsilon = n.attr("epsilon", 1e-5)
    if any(p is None for p in parameters) or not isinstance(epsilon, float):
        return None
    scale, bias, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    with np.errstate(all="ignore"):  # a variance below -epsilon gives NaN, here as in the model
        s = scale / np.sqrt(variance + epsilon)
        return s, bias - mean * s


def _into_conv(x: Node, s: np.ndarray, t: np.ndarray, alone: Callable[[Node], bool]) -> Node | None:
    """conv (with or without its bias) scaled by s and shifted by t; None where x is none."""
    conv, bias = split_bias(x)
    w = conv.inputs[1].data if conv.op == "conv" and conv.inputs[1] is not None else None
    if w is None or bias is None or not alone(x) or not alone(conv):
        return None
    dtype = DTYPES[x.type.dtype].numpy
    scaled = (w.astype(np.float64) * s.reshape(-1, *[1] * (w.ndim - 1))).astype(dtype)
    shift = bias * s + t if bias.any() else t
    made = apply("conv", conv.inputs[0], make_constant(scaled), **dict(conv.attrs))
    return apply("add", made, per_channel(shift, x))


def split_bias(x: Node) -> tuple[Node, np.ndarray | None]:
    """x as (convolution, bias per channel in float64); the bias is None if it is something else."""
    if x.op != "add" or x.inputs[0] is None or x.inputs[1] is None:
        return x, np.zeros(1)
    conv, added = x.inputs[0], x.inputs[1]
    if conv.op == "constant":
        conv, added = added, conv
    if added.data is None or conv.type.rank != added.type.rank:
        return conv, None
    sizes = added.data.shape
    fits = all(n == 1 for k, n in enumerate(sizes) if k != 1)
    return conv, added.data.reshape(-1).astype(np.float64) if fits else None


def per_channel(values: np.ndarray, like: Node) -> Node:
    """A constant [C] as [1, C, 1, …] in the dtype and rank of `like`."""
    shape = (1, -1, *[1] * (like.type.rank - 2))
    return make_constant(values.astype(DTYPES[like.type.dtype].numpy).reshape(shape))


def scale_and_shift(x: Node, s: np.ndarray, t: np.ndarray) -> Node:
    """x·s + t per channel."""
    return apply("add", apply("mul", x, per_channel(s, x)), per_channel(t, x))
