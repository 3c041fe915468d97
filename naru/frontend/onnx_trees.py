"""Tree ensembles of ai.onnx.ml: TreeEnsemble, and its forerunners for regression and classes.

Scores are added up in the threshold's dtype: f64 where the operand or a table is, else f32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import OnnxNode, emit, scalar
from naru.frontend.onnx_scores import (
    TRANSFORMS,
    as_f32,
    choose,
    class_labels,
    first_greatest,
    label_at,
    negative,
    opposite,
    rows_of,
    transform,
)
from naru.frontend.onnx_shapes import needing
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, compare, known
from naru.ops.registry import constant
from naru.ops.tree_tables import (
    LEAF,
    MEMBER,
    MODES,
    Nodes,
    Tables,
    Votes,
    equal_borders,
    make_tables,
)
from naru.ops.trees import NOTHING, apply_trees, vote

Array = np.ndarray
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
MOST_TARGETS = 1 << 20
MODE_NAMES = {"LEAF": LEAF, **{f"BRANCH_{m}": k for k, m in enumerate(MODES[:MEMBER])}}


@dataclass(frozen=True)
class Ensemble:
    """`aggregate` as ONNX calls it; `base`: what is added to the scores."""

    nodes: Nodes
    votes: Votes
    count: int
    aggregate: str
    base: Array

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_TARGETS:
            raise ModelError(f"expected 1 to {MOST_TARGETS} targets, found {self.count}")


# --- attributes -----------------------------------------------------------------------------------


def ints(c: OnnxNode, name: str, size: int | None = None) -> Array:
    """A list of integers, of a size if one is given."""
    return sized(name, np.array(c.get_ints(name) or (), np.int64), size)


def sized(name: str, array: Array, size: int | None) -> Array:
    if array.ndim != 1 or (size is not None and array.size != size):
        raise ModelError(f"attribute {name!r}: expected {size} elements, found {array.size}")
    return array


def tensor(c: OnnxNode, name: str) -> Array | None:
    """A tensor attribute, flattened."""
    if not c.has(name):
        return None
    return c.importer.tensors.read(c.attrs[name].t, f"{c.label}, attribute {name!r}").reshape(-1)


def floats(c: OnnxNode, name: str, size: int | None = None) -> Array:
    """Numbers in a list or in `…_as_tensor`; none where both are left out."""
    found = tensor(c, f"{name}_as_tensor")
    if found is None or (not found.size and c.has(name)):
        found = np.array(c.get_floats(name), np.float32)
    return sized(name, found, size)


def features_of(ids: Array, modes: Array) -> Array:
    """Features that nodes ask for; leaves ask for none."""
    found = np.where(modes == LEAF, 0, ids)
    if found.size and not (found.min() >= 0 and found.max() < 2**31 - 1):
        raise ModelError(f"expected features of at least 0, found {found.min()}..{found.max()}")
    return found


def targets_of(ids: Array, count: int) -> Array:
    """Targets that votes are for, of `count`."""
    if ids.size and not (ids.min() >= 0 and ids.max() < count):
        raise ModelError(f"expected targets in 0..{count - 1}, found {ids.min()}..{ids.max()}")
    return ids


# --- versions 1 and 3 -----------------------------------------------------------------------------


def read_by_ids(c: OnnxNode, votes: str, count: int) -> Ensemble:
    """An ensemble whose nodes have ids within trees; `votes`: how its lists of votes begin."""
    trees = ints(c, "nodes_treeids")
    size = trees.size
    if not size:
        raise ModelError("expected at least one tree, found none")
    own = ints(c, "nodes_nodeids", size)
    place = {key: k for k, key in enumerate(zip(trees.tolist(), own.tolist(), strict=True))}
    if len(place) != size:
        raise ModelError("expected node ids that differ within a tree")
    names = c.get_strs("nodes_modes") or ()
    if len(names) != size or not set(names) <= set(MODE_NAMES):
        raise ModelError(
            f"attribute 'nodes_modes': expected {size} of {', '.join(MODE_NAMES)}, "
            f"found {len(names)}: {', '.join(sorted(set(names)))}"
        )
    modes = np.array([MODE_NAMES[m] for m in names])

    def child(name: str) -> Array:
        ids = ints(c, name, size)
        found = [place.get(key, -1) for key in zip(trees.tolist(), ids.tolist(), strict=True)]
        lost = np.flatnonzero((np.array(found) < 0) & (modes != LEAF))
        if lost.size:
            k = lost[0]
            raise ModelError(f"tree {trees[k]}, node {own[k]}: {name} has no node {ids[k]}")
        return np.array(found)

    missing = ints(c, "nodes_missing_value_tracks_true")
    missing = sized("nodes_missing_value_tracks_true", missing, size) if missing.size else trees * 0
    nodes = Nodes(
        np.sort(np.unique(trees, return_index=True)[1]),  # the first of each tree is its root
        modes,
        features_of(ints(c, "nodes_featureids", size), modes),
        floats(c, "nodes_values", size),
        child("nodes_truenodeids"),
        child("nodes_falsenodeids"),
        missing == 1,
    )
    owners = ints(c, f"{votes}_treeids")
    keys = zip(owners.tolist(), ints(c, f"{votes}_nodeids", owners.size).tolist(), strict=True)
    leaves = np.array([place.get(key, -1) for key in keys], np.int64)
    if (leaves < 0).any():
        raise ModelError(f"attribute '{votes}_nodeids': a vote of a node that is not there")
    targets = targets_of(ints(c, f"{votes}_ids", leaves.size), count)
    made = Votes(leaves, targets, floats(c, f"{votes}_weights", leaves.size))
    aggregate = c.get_str("aggregate_function", "SUM", AGGREGATES)
    return Ensemble(nodes, made, count, aggregate, floats(c, "base_values"))


# --- scores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """`raw` [N, count], without base values. `seen`: for each target whether a row has a vote for
    it: always, never, or a bool[N, 1]."""

    raw: Node
    seen: tuple[bool | Node, ...]


def score(x: Node, e: Ensemble) -> Scores:
    """Walks all trees: x [N, F], f32 or f64 as the thresholds are."""
    kind = {"MIN": "min", "MAX": "max"}.get(e.aggregate, "sum")
    dtype = np.float64 if x.type.dtype == "f64" else np.float32
    nodes = replace(e.nodes, splits=e.nodes.splits.astype(dtype))
    votes = replace(e.votes, weights=e.votes.weights.astype(dtype))
    tables = make_tables(nodes, votes, NOTHING[kind])
    x = enough_features(x, tables)
    raw = vote(x, nodes, votes, kind, e.count)
    seen = presence(x, tables, e.count)
    out = emit("transpose", raw, perm=(1, 0))
    if e.aggregate == "AVERAGE":
        out = emit("div", out, constant(e.nodes.roots.size, dtype))
    elif kind != "sum" and any(s is not True for s in seen):
        out = emit("where", _as_columns(out, seen), out, constant(0, dtype))
    return Scores(out, seen)


def enough_features(x: Node, tables: Tables) -> Node:
    """x, with at least as many features as the trees ask for."""
    found, wanted = x.type.shape[1], tables.features
    size = known(found)
    if size is not None and size < wanted:
        raise ModelError(f"expected at least {wanted} features, found {size}")
    enough = compare("ge", found, wanted)
    return needing(x, (enough,), f"its trees ask for feature {wanted - 1}")


def presence(x: Node, tables: Tables, count: int) -> tuple[bool | Node, ...]:
    """For each target whether a row has a vote for it; see Scores."""
    known_ = tables.seen(count)
    if all(k is not None for k in known_):
        return tuple(bool(k) for k in known_)
    weights = tables.present.astype(tables.weights.dtype)
    number = apply_trees(x, replace(tables, weights=weights), "sum", count)
    found = emit("transpose", emit("greater", number, scalar(0, number)), perm=(1, 0))
    return tuple(
        slice_axis(found, 1, Const(k), ONE) if s is None else s for k, s in enumerate(known_)
    )


def with_base(scores: Node, base: Array) -> Node:
    """Scores with base values added, where there is one a target."""
    if base.size != known(scores.type.shape[1]):
        return scores
    return emit("add", scores, constant(base, DTYPES[scores.type.dtype].numpy))


def operand(c: OnnxNode, *tables: Array) -> Node:
    """x as a matrix of f32, or of f64 where it or a table is."""
    x = rows_of(c[0])
    wide = x.type.dtype == "f64" or any(t.dtype == np.float64 for t in tables)
    dtype = "f64" if wide else "f32"
    return x if x.type.dtype == dtype else emit("cast", x, to=dtype)


def tree_regressor(c: OnnxNode) -> Node:
    e = read_by_ids(c, "target", c.get_int("n_targets", 1))
    x = operand(c, e.nodes.splits, e.votes.weights, e.base)
    post = c.get_str("post_transform", "NONE", TRANSFORMS)
    return as_f32(transform(with_base(score(x, e).raw, e.base), post))


def tree_classifier(c: OnnxNode) -> Sequence[Node]:
    labels = class_labels(c, "classlabels_int64s", "classlabels_strings")
    index, scores = classify(c, len(labels), labels)
    return index, scores


def classify(c: OnnxNode, count: int, labels: Sequence[int]) -> tuple[Node, Node]:
    """(label of each row, scores), for `count` classes. Labels that are no integers may be found by
    giving 0, 1, … here."""
    e = read_by_ids(c, "class", count)
    x = operand(c, e.nodes.splits, e.votes.weights, e.base)
    post = c.get_str("post_transform", "NONE", TRANSFORMS)
    found = score(x, e)
    if count > 2:
        return _many_classes(found, e.base, post, labels)
    positive = bool((e.votes.weights >= 0).all())
    binary = count == 2 and np.unique(e.votes.targets).size == 1
    return _two_classes(found, e.base, post, labels, binary, positive)


def _many_classes(
    found: Scores, base: Array, post: str, labels: Sequence[int]
) -> tuple[Node, Node]:
    """The first of the greatest scores, among classes that a row has votes for."""
    raw, seen = found.raw, found.seen
    if base.size == len(labels):
        raw, seen = with_base(raw, base), (True,) * len(labels)
    compared = raw
    if not all(s is True for s in seen):
        parts = _as_columns(raw, seen)
        compared = emit("where", parts, raw, scalar(-np.inf, raw))
    return label_at(first_greatest(compared), labels), as_f32(transform(raw, post))


def _as_columns(raw: Node, seen: Sequence[bool | Node]) -> Node:
    """bool[N, targets]."""
    columns = [s if isinstance(s, Node) else constant([[s]], np.bool_) for s in seen]
    shape = (raw.type.shape[0], ONE)
    return emit("concat", *(emit("expand", s, shape=shape) for s in columns), axis=1)


def _two_classes(
    found: Scores, base: Array, post: str, labels: Sequence[int], binary: bool, positive: bool
) -> tuple[Node, Node]:
    """Models of two classes, or one. `binary`: all votes are for one class; `positive`: none is
    negative. What decides is the score of class 1, or of class 0 where there is no other."""
    rows = found.raw.type.shape[0]
    first = slice_axis(found.raw, 1, ZERO, ONE)
    if len(labels) == 1:
        pair = emit("add", first, scalar(float(base[0]), first)) if base.size == 1 else first
        return _decide(pair, rows, (0, 1), 0.0), as_f32(transform(pair, post))
    threshold = 0.5 if binary and positive else 0.0
    names = labels if binary else (0, 1)
    both = _with_second(found, base)
    two = _decide(slice_axis(both, 1, ONE, ONE), rows, names, threshold), transform(both, post)
    decisive, scores = _without_second(found, base, post, binary and positive)
    single = _decide(decisive, rows, names, threshold), scores
    last = found.seen[1]
    if isinstance(last, Node):
        label = emit("where", emit("reshape", last, shape=(rows,)), two[0], single[0])
        return label, as_f32(emit("where", last, as_f32(two[1]), as_f32(single[1])))
    label, scores = two if last else single
    return label, as_f32(scores)


def _decide(score: Node, rows: Expr, names: Sequence[int], threshold: float) -> Node:
    above = emit("greater", score, scalar(threshold, score))
    return choose(emit("reshape", above, shape=(rows,)), names)


def _if_seen(found: Scores, k: int, score: Node) -> Node:
    """The score of class k; 0 in rows that have no vote for it, whatever its base value."""
    seen = found.seen[k]
    if seen is True:
        return score
    zero = scalar(0, score)
    return emit("where", constant(False, np.bool_) if seen is False else seen, score, zero)


def _with_second(found: Scores, base: Array) -> Node:
    """Scores where class 1 has votes. Two base values: that of class 1 is added to class 0."""
    first = slice_axis(found.raw, 1, ZERO, ONE)
    second = slice_axis(found.raw, 1, ONE, ONE)
    if base.size == 2:
        second = emit("add", first, scalar(float(base[1]), first))
        first = emit("neg", second)
    elif base.size == 1:
        first = emit("add", first, scalar(float(base[0]), first))
    return emit("concat", _if_seen(found, 0, first), second, axis=1)


def _without_second(found: Scores, base: Array, post: str, opposites: bool) -> tuple[Node, Node]:
    """(what decides, scores) where class 0 alone has votes."""
    first = slice_axis(found.raw, 1, ZERO, ONE)
    if base.size in (1, 2):
        first = emit("add", first, scalar(float(base[0]), first))
    first = _if_seen(found, 0, first)
    if base.size == 2:
        both = emit("concat", first, zeros_like(first), axis=1)
        return first, transform(both, post)
    if post == "PROBIT":  # (of one score only: the other is left open, here it is 0)
        only = transform(first, post)
        return first, emit("concat", only, zeros_like(only), axis=1)
    if opposites and post != "LOGISTIC":
        return first, opposite(first)
    return first, negative(first, post)


def zeros_like(x: Node) -> Node:
    return emit("expand", scalar(0, x), shape=x.type.shape)


# --- version 5 ------------------------------------------------------------------------------------


def tree_ensemble(c: OnnxNode) -> Node:
    """TreeEnsemble (5): nodes and leaves have lists of their own."""
    e = read_by_position(c)
    x = rows_of(c[0])
    given = x.type.dtype
    x = emit("cast", x, to="f32") if given == "f16" else x
    post = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    which = c.get_int("post_transform", 0)
    if not 0 <= which < len(post):
        raise ModelError(f"attribute 'post_transform': expected 0..4, found {which}")
    out = transform(score(x, e).raw, post[which])
    return out if out.type.dtype == given else emit("cast", out, to=given)


def read_by_position(c: OnnxNode) -> Ensemble:
    """Nodes first, then leaves: a child that is a leaf is behind all nodes."""
    features = ints(c, "nodes_featureids")
    size = features.size
    weights, splits = tensor(c, "leaf_weights"), tensor(c, "nodes_splits")
    kinds = tensor(c, "nodes_modes")
    assert weights is not None
    assert splits is not None
    assert kinds is not None  # (they are required)
    sized("nodes_splits", splits, size)
    kinds = sized("nodes_modes", kinds, size).astype(np.int64)
    if kinds.size and kinds.max() > MEMBER:
        raise ModelError(f"attribute 'nodes_modes': expected 0..{MEMBER}, found {kinds.max()}")

    def child(which: str) -> Array:
        leaf = ints(c, f"nodes_{which}leafs", size) != 0
        at = ints(c, f"nodes_{which}nodeids", size)
        if ((at < 0) | (at >= np.where(leaf, weights.size, size))).any():
            raise ModelError(f"attribute 'nodes_{which}nodeids': a child that is not there")
        return np.where(leaf, size + at, at)

    roots = ints(c, "tree_roots")
    if not roots.size or roots.min() < 0 or roots.max() >= size:
        raise ModelError(f"attribute 'tree_roots': expected positions in 0..{size - 1}")
    missing = ints(c, "nodes_missing_value_tracks_true")
    missing = sized("nodes_missing_value_tracks_true", missing, size) if missing.size else 0 * kinds
    none = np.zeros(weights.size, np.int64)
    modes = np.concatenate([kinds, none + LEAF])
    wide = np.float64 if splits.dtype == np.float64 else np.float32
    nodes = Nodes(
        roots,
        modes,
        features_of(np.concatenate([features, none]), modes),
        np.concatenate([splits.astype(wide), none.astype(wide)]),
        np.concatenate([child("true"), none]),
        np.concatenate([child("false"), none]),
        np.concatenate([missing == 1, none == 1]),
        tuple(
            equal_borders(m, np.dtype(wide)) for m in member_sets(tensor(c, "membership_values"))
        ),
    )
    count = c.get_int("n_targets", 1)
    targets = targets_of(ints(c, "leaf_targetids", weights.size), count)
    votes = Votes(size + np.arange(weights.size), targets, weights.astype(wide))
    which = c.get_int("aggregate_function", 1)
    if not 0 <= which < len(AGGREGATES):
        raise ModelError(f"attribute 'aggregate_function': expected 0..3, found {which}")
    return Ensemble(nodes, votes, count, AGGREGATES[which], np.zeros(0))


def member_sets(values: Array | None) -> tuple[Array, ...]:
    """Sets of members, with a NaN behind each; that of the last may be left out."""
    if values is None:
        return ()
    ends = np.flatnonzero(np.isnan(values.astype(np.float64)))
    parts = np.split(values, ends)
    return tuple(
        p[1:] if k else p
        for k, p in enumerate(parts)
        if k < len(parts) - 1 or p.size > (1 if k else 0)
    )


TABLE: dict[str, Handler] = {
    "TreeEnsemble": tree_ensemble,
    "TreeEnsembleClassifier": tree_classifier,
    "TreeEnsembleRegressor": tree_regressor,
}
