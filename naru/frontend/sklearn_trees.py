"""Trees of scikit-learn and their ensembles, to the last bit.

Trees round their inputs to float32 and compare them with float64 thresholds; histogram gradient
boosting compares in float64. Both are walks in f64 here, the first over rounded inputs. Votes are
added in the order of the trees, from what the ensemble begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naru.frontend.sklearn_base import (
    Call,
    Classified,
    Detected,
    Refused,
    Table,
    add,
    as_node,
    column,
    converts,
    div,
    filled,
    flat,
    greatest,
    ints,
    matrix,
    mul,
    op,
    pick,
    positive,
    side_by_side,
    sub,
    table,
    total,
    two,
    where,
    zeros_like,
)
from naru.ir.graph import Node
from naru.ops.registry import apply
from naru.ops.tree_tables import (
    LEAF,
    LEQ,
    MEMBER,
    Nodes,
    Votes,
    equal_borders,
)
from naru.ops.trees import vote

Array = np.ndarray
MEMBERS = tuple[Array, ...]


@dataclass(frozen=True)
class Grown:
    """One tree: its nodes by number, and the votes [nodes, targets] of those that are leaves.
    `members`: the sets of its categorical nodes, in their order."""

    left: Array
    right: Array
    leaf: Array
    feature: Array
    threshold: Array
    missing: Array
    votes: Array
    categorical: Array | None = None
    members: MEMBERS = ()


def walk(x: Node, trees: Sequence[Grown], targets: Sequence[Array], base: Array) -> Node:
    """f64[rows, targets]: what trees add to `base` (one number a target). `targets[k]`: what the
    columns of tree k's votes belong to."""
    count = base.size
    grown = [_leaf(base)] * bool(base.any()) + list(trees)
    owners = [np.arange(count)] * bool(base.any()) + list(targets)
    if not grown:
        return zeros_like(x, count)
    first = np.concatenate([[0], np.cumsum([g.leaf.size for g in grown])])
    shifted = list(zip(grown, first[:-1], strict=True))
    none = [np.zeros(g.leaf.size, np.bool_) for g in grown]
    sets = [n if g.categorical is None else g.categorical for g, n in zip(grown, none, strict=True)]
    modes = [
        np.where(g.leaf, LEAF, np.where(s, MEMBER, LEQ)) for g, s in zip(grown, sets, strict=True)
    ]
    nodes = Nodes(
        first[:-1],
        np.concatenate(modes),
        np.concatenate([np.where(g.leaf, 0, g.feature) for g in grown]),
        np.concatenate([np.where(g.leaf, 0.0, g.threshold) for g in grown]).astype(np.float64),
        np.concatenate([np.where(g.leaf, 0, g.left + at) for g, at in shifted]),
        np.concatenate([np.where(g.leaf, 0, g.right + at) for g, at in shifted]),
        np.concatenate([g.missing & ~g.leaf for g in grown]),
        tuple(m for g in grown for m in g.members),
    )
    leaves = [np.flatnonzero(g.leaf) for g in grown]
    parts = list(zip(grown, first[:-1], leaves, owners, strict=True))
    votes = Votes(
        np.concatenate([np.repeat(at + own, len(who)) for _, at, own, who in parts]),
        np.concatenate([np.tile(who, own.size) for _, _, own, who in parts]),
        np.concatenate([g.votes[own].reshape(-1) for g, _, own, _ in parts]).astype(np.float64),
    )
    return apply("transpose", vote(x, nodes, votes, "sum", count), perm=(1, 0))


def _leaf(votes: Array) -> Grown:
    one, no = np.zeros(1, np.int64), np.zeros(1, np.bool_)
    return Grown(one, one, ~no, one, one.astype(np.float64), no, votes.reshape(1, -1))


def rounded(x: Node) -> Node:
    """x as trees see it: rounded to float32."""
    return apply("cast", apply("cast", x, to="f32"), to="f64")


def grown_of(tree: Any, votes: Array, features: Array | None = None) -> Grown:
    """A tree of sklearn.tree. `votes`: [nodes, targets]; `features`: which columns its own are."""
    left = np.asarray(tree.children_left).astype(np.int64)
    feature = np.maximum(np.asarray(tree.feature).astype(np.int64), 0)
    missing = getattr(tree, "missing_go_to_left", None)
    return Grown(
        left,
        np.asarray(tree.children_right).astype(np.int64),
        left < 0,
        feature if features is None else np.asarray(features)[feature],
        np.asarray(tree.threshold).astype(np.float64),
        np.zeros(left.size, np.bool_) if missing is None else np.asarray(missing).astype(np.bool_),
        votes,
    )


# --- single trees and forests ---------------------------------------------------------------------

TREES = ("sklearn.tree.DecisionTreeClassifier", "sklearn.tree.ExtraTreeClassifier")
TREE_REGRESSORS = ("sklearn.tree.DecisionTreeRegressor", "sklearn.tree.ExtraTreeRegressor")
FORESTS = ("sklearn.ensemble.RandomForestClassifier", "sklearn.ensemble.ExtraTreesClassifier")
FOREST_REGRESSORS = (
    "sklearn.ensemble.RandomForestRegressor", "sklearn.ensemble.ExtraTreesRegressor",
)  # fmt: skip


def _values(tree: Any, output: int, classes: int) -> Array:
    """What leaves say of one output: [nodes, classes]."""
    return np.asarray(tree.value)[:, output, :classes]


def _class_counts(e: Any) -> list[int]:
    count = e.n_classes_
    return [int(count)] if np.ndim(count) == 0 else [int(n) for n in count]


@converts("classify", *TREES)
def tree_classifier(c: Call) -> Any:
    return _classified(c, [c.e])


@converts("classify", *FORESTS)
def forest_classifier(c: Call) -> Any:
    return _classified(c, c.e.estimators_)


def _classified(c: Call, trees: Sequence[Any]) -> Any:
    """The mean of the probabilities of trees, for each output."""
    x = rounded(c.numbers())
    found: list[Classified] = []
    for output, classes in enumerate(_class_counts(c.e)):
        grown = [grown_of(t.tree_, _values(t.tree_, output, classes)) for t in trees]
        sums = walk(x, grown, [np.arange(classes)] * len(grown), np.zeros(classes))
        mean = sums if len(trees) == 1 and trees[0] is c.e else div(sums, float(len(trees)))
        found.append(Classified(greatest(mean), mean))
    return found[0] if len(found) == 1 else tuple(found)


@converts("regress", *TREE_REGRESSORS)
def tree_regressor(c: Call) -> Node:
    return _regressed(c, [c.e])


@converts("regress", *FOREST_REGRESSORS)
def forest_regressor(c: Call) -> Node:
    return _regressed(c, c.e.estimators_)


def _regressed(c: Call, trees: Sequence[Any]) -> Node:
    x, outputs = rounded(c.numbers()), int(c.e.n_outputs_)
    grown = [grown_of(t.tree_, np.asarray(t.tree_.value)[:, :, 0]) for t in trees]
    sums = walk(x, grown, [np.arange(outputs)] * len(grown), np.zeros(outputs))
    mean = sums if len(trees) == 1 and trees[0] is c.e else div(sums, float(len(trees)))
    return flat(mean) if outputs == 1 else mean


@converts("transform", "sklearn.ensemble.RandomTreesEmbedding")
def trees_embedding(c: Call) -> Table:
    """A column for each leaf of each tree: 1 where a row ends there."""
    x = rounded(c.numbers())
    grown: list[Grown] = []
    targets: list[Array] = []
    start = 0
    for t, categories in zip(c.e.estimators_, c.e.one_hot_encoder_.categories_, strict=True):
        leaves = np.asarray(categories).astype(np.int64)
        votes = np.zeros((t.tree_.node_count, leaves.size))
        votes[leaves, np.arange(leaves.size)] = 1
        grown.append(grown_of(t.tree_, votes))
        targets.append(start + np.arange(leaves.size))
        start += leaves.size
    return table(walk(x, grown, targets, np.zeros(start)))


# --- gradient boosting ----------------------------------------------------------------------------


def _boosted(c: Call) -> Node:
    """f64[rows, scores] of GradientBoosting."""
    e, x = c.e, c.numbers()
    rate, count = float(e.learning_rate), e.estimators_.shape[1]
    grown: list[Grown] = []
    targets: list[Array] = []
    for stage in e.estimators_:
        for k, t in enumerate(stage):
            grown.append(grown_of(t.tree_, rate * np.asarray(t.tree_.value)[:, :1, 0]))
            targets.append(np.array([k]))
    return walk(rounded(x), grown, targets, _first_scores(e, count))


def _first_scores(e: Any, count: int) -> Array:
    """What boosting begins with, which is the same for all rows."""
    if isinstance(e.init_, str):  # "zero"
        return np.zeros(count)
    classifier = hasattr(e, "classes_")
    if type(e.init_).__name__ not in ("DummyClassifier", "DummyRegressor"):
        raise Refused(
            f"init={type(e.init_).__name__}: boosting that begins with another model",
            "init=None or 'zero', or StackingRegressor",
        )
    row = np.zeros((1, int(e.n_features_in_)), np.float32)
    if classifier:
        found = np.asarray(e.init_.predict_proba(row))
        found = found if e._loss.is_multiclass else found[:, 1]
        eps = np.finfo(np.float64).eps
        found = np.clip(found, eps, 1 - eps, dtype=np.float64)
    else:
        found = np.asarray(e.init_.predict(row)).astype(np.float64)
    return np.asarray(e._loss.link.link(found), np.float64).reshape(-1)


@converts("classify", "sklearn.ensemble.GradientBoostingClassifier")
def gradient_boosting_classifier(c: Call) -> Classified:
    raw = _boosted(c)
    if c.e.estimators_.shape[1] == 1:
        scores = flat(raw)
        return Classified(positive(scores, equal=True), _logistic(c, scores), scores)
    return Classified(greatest(raw), op("softmax", raw, axis=1), raw)


def _logistic(c: Call, scores: Node) -> Node:
    """Probabilities of two classes from one score; exponential loss has twice the score."""
    link = type(c.e._loss.link).__name__
    if link == "HalfLogitLink":
        scores = mul(2.0, scores)
    return two(op("sigmoid", scores))


@converts("regress", "sklearn.ensemble.GradientBoostingRegressor")
def gradient_boosting_regressor(c: Call) -> Node:
    return flat(_boosted(c))


# --- histogram gradient boosting ------------------------------------------------------------------


def _histogram(c: Call) -> Node:
    """f64[rows, scores] of HistGradientBoosting."""
    e = c.e
    before = getattr(e, "_preprocessor", None)
    x = c.numbers() if before is None else matrix(_prepared(c, before))
    grown: list[Grown] = []
    targets: list[Array] = []
    for stage in e._predictors:
        for k, predictor in enumerate(stage):
            grown.append(_histogram_tree(predictor))
            targets.append(np.array([k]))
    base = np.asarray(e._baseline_prediction, np.float64).reshape(-1)
    return walk(x, grown, targets, base)


def _prepared(c: Call, before: Any) -> Table:
    """Its own ColumnTransformer in front: categories become numbers, unknown ones are missing."""
    return c.reader.transform(before, c.x, c.inside("categories"))


def _histogram_tree(predictor: Any) -> Grown:
    n = predictor.nodes
    leaf = n["is_leaf"].astype(np.bool_)
    categorical = n["is_categorical"].astype(np.bool_) & ~leaf
    sets = np.asarray(predictor.raw_left_cat_bitsets, np.uint32)
    members: list[Array] = []
    for at in n["bitset_idx"][categorical].astype(np.int64):
        bits = np.unpackbits(sets[at].view(np.uint8), bitorder="little")
        members.append(equal_borders(np.flatnonzero(bits), np.dtype(np.float64)))
    return Grown(
        n["left"].astype(np.int64),
        n["right"].astype(np.int64),
        leaf,
        n["feature_idx"].astype(np.int64),
        n["num_threshold"].astype(np.float64),
        n["missing_go_to_left"].astype(np.bool_),
        n["value"].astype(np.float64)[:, None],
        categorical,
        tuple(members),
    )


@converts("classify", "sklearn.ensemble.HistGradientBoostingClassifier")
def histogram_classifier(c: Call) -> Classified:
    raw = _histogram(c)
    if int(c.e.n_trees_per_iteration_) == 1:
        scores = flat(raw)
        probabilities = two(op("sigmoid", scores))
        return Classified(greatest(probabilities), probabilities, scores)
    probabilities = op("softmax", raw, axis=1)
    return Classified(greatest(probabilities), probabilities, raw)


@converts("regress", "sklearn.ensemble.HistGradientBoostingRegressor")
def histogram_regressor(c: Call) -> Node:
    raw = flat(_histogram(c))
    link = type(c.e._loss.link).__name__
    return op("exp", raw) if link == "LogLink" else raw


# --- AdaBoost -------------------------------------------------------------------------------------


@converts("classify", "sklearn.ensemble.AdaBoostClassifier")
def ada_boost_classifier(c: Call) -> Classified:
    """Each estimator adds its weight to its class, and takes a share from the others."""
    e, classes = c.e, int(c.e.n_classes_)
    x = c.numbers()
    if classes == 1:  # whoever votes
        none = filled(x, [0.0])
        return Classified(greatest(none), filled(x, [1.0]), none)
    votes: Node | None = None
    for k, (t, weight) in enumerate(zip(e.estimators_, e.estimator_weights_, strict=False)):
        inner = np.asarray(t.classes_).tolist()
        said = c.reader.classify(t, c.x, c.inside(f"estimators_[{k}]")).index
        place = [np.asarray(e.classes_).tolist().index(v) for v in inner]
        rows = np.full((len(inner), classes), -1 / (classes - 1) * float(weight))
        rows[np.arange(len(inner)), place] = float(weight)
        more = apply("gather", as_node(rows), said, axis=0)
        votes = more if votes is None else add(votes, more)
    assert votes is not None
    scores = div(votes, float(np.sum(e.estimator_weights_)))
    if classes > 2:
        probabilities = op("softmax", div(scores, float(classes - 1)), axis=1)
        return Classified(greatest(scores), probabilities, scores)
    one = sub(pick(scores, [1]), pick(scores, [0]))
    both = div(side_by_side([op("neg", one), one]), 2.0)
    # decision_function negates the first column and adds.
    return Classified(positive(flat(one)), op("softmax", both, axis=1), flat(one))


@converts("regress", "sklearn.ensemble.AdaBoostRegressor")
def ada_boost_regressor(c: Call) -> Node:
    """The weighted median of what the estimators say."""
    e = c.e
    c.numbers()
    said = [
        column(c.reader.regress(t, c.x, c.inside(f"estimators_[{k}]")))
        for k, t in enumerate(e.estimators_)
    ]
    count = len(said)
    weights = np.asarray(e.estimator_weights_, np.float64)[:count]
    values = side_by_side(said)
    # For each estimator the weight of all that say no more than it does; the least value for
    # which that is half of the weight is the median. (Equal values share a result.)
    best: Node | None = None
    half = 0.5 * float(weights.sum())
    for k in range(count):
        here = pick(values, [k])
        below = op("less_or_equal", values, here)
        weight = total(where(below, weights[None], 0.0), keep=True)
        enough = op("greater_or_equal", weight, half)
        candidate = where(enough, here, np.inf)
        best = candidate if best is None else op("min", best, candidate)
    assert best is not None
    return flat(best)


# --- isolation forests ----------------------------------------------------------------------------


def _path_lengths(samples: Array) -> Array:
    """How deep an unsuccessful search in a binary tree of so many goes on the average."""
    n = np.asarray(samples, np.float64)
    with np.errstate(all="ignore"):
        long = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, long))


@converts("detect", "sklearn.ensemble.IsolationForest")
def isolation_forest(c: Call) -> Detected:
    e, x = c.e, rounded(c.numbers())
    grown: list[Grown] = []
    for k, (t, features) in enumerate(zip(e.estimators_, e.estimators_features_, strict=True)):
        # (The depth of a leaf counts nodes on the way; the forest adds and takes away one.)
        depth = np.asarray(e._decision_path_lengths[k]) + np.asarray(
            e._average_path_length_per_tree[k]
        )
        grown.append(grown_of(t.tree_, (depth - 1.0)[:, None], np.asarray(features)))
    depths = flat(walk(x, grown, [np.array([0])] * len(grown), np.zeros(1)))
    most = float(_path_lengths(np.array([e._max_samples]))[0]) * len(e.estimators_)
    share = op("neg", div(depths, most)) if most else sub(mul(depths, 0.0), 1.0)
    samples = op("neg", op("pow", 2.0, share))
    scores = sub(samples, float(e.offset_))
    inlier = apply("where", op("less", scores, 0.0), ints(-1), ints(1))
    return Detected(inlier, scores)
