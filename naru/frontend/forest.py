"""What the boosting libraries' files say, trees or a linear function, and the graph of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

import naru.ops  # fills the registry
from naru.dtypes import FROM_NUMPY
from naru.errors import ModelError
from naru.frontend.onnx_scope import identifier
from naru.ir.expr import INT_MAX, Var
from naru.ir.graph import Graph, Node, TensorType, make_input, toposort
from naru.ir.simplify import index
from naru.ops.linear_leaves import Leaves, apply_leaves
from naru.ops.registry import apply, constant
from naru.ops.tree_tables import LEAF, Nodes, Votes
from naru.ops.trees import vote

Array = np.ndarray
_ = naru.ops

MOST_SCORES = 1 << 16  # of a row
MOST_FEATURES = 1 << 22  # which are a dense row of 16 MB or more
Output = Callable[[Node], Node]  # of raw scores [N, C] what the library's `predict` makes


@dataclass(frozen=True)
class Trees:
    """Trees that add to `count` scores a row, from `base` (one, or one a score) on; then divided by
    `average`, where that is not 1. `features`: how many a row has. With one score, what `output`
    makes is [N]. `leaves`: what those of linear trees are; each tree is a target of its own then,
    and what a leaf votes is its number among them."""

    nodes: Nodes
    votes: Votes
    count: int
    features: int
    output: Output
    base: Sequence[float] = (0.0,)
    average: int = 1
    leaves: Leaves | None = None
    names: tuple[str, ...] = ()  # of the features, where they have some

    @property
    def dtype(self) -> np.dtype:
        """That of features and scores."""
        return self.nodes.splits.dtype

    def scores(self, x: Node) -> Node:
        """x [N, F] -> raw scores [N, C]."""
        if self.leaves is None:
            made = vote(x, *_with_base(self), "sum", self.count)
        else:
            reached = vote(x, self.nodes, self.votes, "sum", self.nodes.roots.size)
            made = apply_leaves(x, reached, self.leaves, self.count)
        scores = apply("transpose", made, perm=(1, 0))
        if self.average != 1:
            scores = apply("div", scores, constant(self.average, self.dtype))
        return scores


@dataclass(frozen=True)
class Linear:
    """Scores that are linear in the features: x · weights [F, C] + bias [C]; NaN counts as 0."""

    weights: Array
    bias: Array
    output: Output
    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return self.weights.shape[1]

    @property
    def features(self) -> int:
        return self.weights.shape[0]

    @property
    def dtype(self) -> np.dtype:
        return self.weights.dtype

    def scores(self, x: Node) -> Node:
        there = apply("where", apply("isnan", x), constant(0, self.dtype), x)
        product = apply("matmul", there, constant(self.weights, self.dtype), exact=True)
        return apply("add", product, constant(self.bias, self.dtype))


def check_sizes(scores: tuple[str, int], features: tuple[str, int]) -> None:
    """ModelError where a field, of a name and a value, says more than naru takes."""
    for (name, found), most in ((scores, MOST_SCORES), (features, MOST_FEATURES)):
        if found > most:
            raise ModelError(f"{name}: expected at most {most}, found {found}")


def check_names(names: int, features: int) -> None:
    """ModelError unless there are as many names as features, or none."""
    if names not in (0, features):
        raise ModelError(f"feature_names: expected {features} names, found {names}")


DEFAULT_NAME = re.compile(r"Column_\d+|f\d+")  # what the libraries call a feature without a name


def known_names(names: Sequence[str]) -> tuple[str, ...]:
    """What the features are called, where the file says it; else nothing."""
    own = len(set(names)) == len(names) and not all(map(DEFAULT_NAME.fullmatch, names))
    return tuple(names) if own else ()


Forest: TypeAlias = Trees | Linear  # what a model's file says, whatever is in it


def forest_graph(f: Forest, name: str, source: str) -> Graph:
    """features [N, F], in the dtype of the splits -> prediction [N], or [N, classes]. `source`:
    what the nodes are called that all of it comes from."""
    rows = Var("rows", lo=0, hi=INT_MAX)
    x = make_input("features", TensorType(FROM_NUMPY[f.dtype], (rows, index(f.features))))
    made = forest_output(f, x)
    nodes = [n for n in toposort(made) if n is not x and n.op != "constant"]
    notes = dict.fromkeys(nodes, source)
    graph_name = identifier(name, "model")
    columns = {"features": f.names} if f.names else {}
    return Graph(
        graph_name, (x,), (made,), ("prediction",), notes, {source: source}, columns=columns
    )


def forest_output(f: Forest, x: Node) -> Node:
    """What `predict` gives for rows x [N, F] in the dtype of the splits: [N], or [N, classes]."""
    made = f.output(f.scores(x))
    return apply("reshape", made, shape=(x.type.shape[0],)) if f.count == 1 else made


def _with_base(f: Trees) -> tuple[Nodes, Votes]:
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
