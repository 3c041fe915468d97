"""A forest as the boosting libraries know it, and the graph of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

import naru.ops  # fills the registry
from naru.dtypes import FROM_NUMPY
from naru.errors import ModelError
from naru.frontend.onnx_scope import identifier
from naru.ir.expr import INT_MAX, Var
from naru.ir.graph import Graph, Node, TensorType, make_input, toposort
from naru.ir.simplify import index
from naru.ops.registry import apply, constant
from naru.ops.tree_tables import LEAF, Nodes, Votes, make_tables
from naru.ops.trees import apply_trees

Array = np.ndarray
_ = naru.ops

MOST_SCORES = 1 << 16  # of a row
Output = Callable[[Node], Node]  # of raw scores [N, C] what the library's `predict` makes


@dataclass(frozen=True)
class Forest:
    """Trees that add to `count` scores a row, from `base` (one, or one a score) on; then divided by
    `average`, where that is not 1. `features`: how many a row has. With one score, what `output`
    makes is [N]."""

    nodes: Nodes
    votes: Votes
    count: int
    features: int
    output: Output
    base: Sequence[float] = (0.0,)
    average: int = 1


def forest_graph(f: Forest, name: str, source: str) -> Graph:
    """features [N, F], in the dtype of the splits -> prediction [N], or [N, classes]. `source`:
    what the nodes are called that all of it comes from."""
    rows = Var("rows", lo=0, hi=INT_MAX)
    dtype = FROM_NUMPY[f.nodes.splits.dtype]
    x = make_input("features", TensorType(dtype, (rows, index(f.features))))
    made = forest_output(f, x)
    nodes = [n for n in toposort(made) if n is not x and n.op != "constant"]
    notes = dict.fromkeys(nodes, source)
    graph_name = identifier(name, "model")
    return Graph(graph_name, (x,), (made,), ("prediction",), notes, {source: source})


def forest_output(f: Forest, x: Node) -> Node:
    """What `predict` gives for rows x [N, F] in the dtype of the splits: [N], or [N, classes]."""
    if f.count > MOST_SCORES:
        raise ModelError(f"expected at most {MOST_SCORES} classes, found {f.count}")
    most = int(f.nodes.features.max(initial=-1))
    if most >= f.features:
        raise ModelError(f"a split asks for feature {most}, and there are {f.features}")
    tables = make_tables(*_with_base(f))
    scores = apply("transpose", apply_trees(x, tables, "sum", f.count), perm=(1, 0))
    if f.average != 1:
        scores = apply("div", scores, constant(f.average, f.nodes.splits.dtype))
    made = f.output(scores)
    return apply("reshape", made, shape=(x.type.shape[0],)) if f.count == 1 else made


def _with_base(f: Forest) -> tuple[Nodes, Votes]:
    """What scores begin with as a tree for each: a leaf before all trees, so that the order of the
    sums is the library's."""
    base = np.broadcast_to(np.array(f.base, f.nodes.splits.dtype), (f.count,))
    if not base.any():
        return f.nodes, f.votes
    n, leaves = f.nodes, f.nodes.modes.size + np.arange(f.count)
    more = {
        k: np.concatenate([v := getattr(n, k), np.zeros(f.count, v.dtype)])
        for k in ("features", "splits", "true", "false", "missing")
    }
    modes = np.concatenate([n.modes, np.full(f.count, LEAF)])
    nodes = replace(n, roots=np.concatenate([leaves, n.roots]), modes=modes, **more)
    votes = Votes(
        np.concatenate([leaves, f.votes.leaves]),
        np.concatenate([np.arange(f.count), f.votes.targets]),
        np.concatenate([base, f.votes.weights]),
    )
    return nodes, votes
