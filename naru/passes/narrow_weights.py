"""Class bf16: weights are rounded to bf16, and widened where a kernel reads them.

Sums, and all that goes into and comes out of them, stay f32. Of the bytes that a model has, and
that a run of one row reads, nearly all are weights; half of them is left.
"""

from __future__ import annotations

import numpy as np

from naru.dtypes import DTYPES
from naru.ir.graph import Graph, Node, make_constant
from naru.ir.simplify import known
from naru.ops.registry import apply
from naru.passes.registry import graph_pass
from naru.passes.rewrite import rewrite
from naru.passes.winograd_tile import winograd_tile

FEW = 1 << 10  # numbers whose bytes do not count
SHORT = 16  # rows of fewer numbers are no vectors that were trained, but coordinates or statistics
SUMS = ("matmul", "conv", "phase_conv")
STEPS = ("lstm_steps", "gru_steps", "rnn_steps")


@graph_pass
def narrow_weights(g: Graph, *, tiles: bool = False) -> Graph:
    """Matrices and filters become casts of bf16 constants, the recurrent weights of layers and rows
    that are looked up become bf16. Not what a front end made and says must be `exact`: tables of
    waves, vectors whose products cancel. `tiles`: filters for them (winograd_tile.py) stay, as
    their arithmetic is worth more than their bytes."""
    return rewrite(g, lambda n: n if tiles and winograd_tile(n) else _narrowed(n))


def is_widened(x: Node) -> bool:
    """Is it narrow weights, widened?"""
    w = x.inputs[0] if x.op == "cast" else None
    return w is not None and w.op == "constant" and (w.type.dtype, x.type.dtype) == ("bf16", "f32")


def weights_reason(n: Node) -> str:
    """What `explain` says of a kernel whose weights are narrow; empty for others."""
    w = n.inputs[1] if n.op in (*SUMS, *STEPS) else None
    if w is None or not (is_widened(w) or (n.op in STEPS and w.type.dtype != n.type.dtype)):
        return ""
    return "weights in bf16, widened as they are read; sums in f32"


def _narrowed(n: Node) -> Node:
    if n.op == "gather":
        table = _narrow(n.inputs[0]) if _looks_up_rows(n) and n.inputs[0] is not None else None
        if table is None:
            return n
        return apply("cast", apply("gather", table, *n.inputs[1:], **dict(n.attrs)), to="f32")
    w = n.inputs[1] if n.op in (*SUMS, *STEPS) and not n.attr("exact") else None
    narrow = None if w is None else _narrow(w)
    if narrow is None:
        return n
    if n.op in SUMS:
        narrow = apply("cast", narrow, to="f32")
    return Node(n.op, (n.inputs[0], narrow, *n.inputs[2:]), n.attrs, n.types)


def _looks_up_rows(n: Node) -> bool:
    """Does a gather take rows of a table, long enough to be vectors that were trained?"""
    table = n.inputs[0]
    long = known(table.type.shape[-1]) if table is not None and table.type.rank > 1 else None
    return n.attr("axis", 0) == 0 and long is not None and long >= SHORT


def _narrow(w: Node) -> Node | None:
    """A large constant matrix as bf16, each number the nearest one, ties to even."""
    if w.op != "constant" or w.type.dtype != "f32" or w.data is None or w.type.rank < 2:
        return None
    if w.data.size < FEW:
        return None
    with np.errstate(over="ignore"):  # what is beyond its range becomes infinite there too
        return make_constant(w.data.astype(DTYPES["bf16"].numpy))
