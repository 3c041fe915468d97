"""Neighbours by brute force, nearest centroids, and clusters with centres."""

from __future__ import annotations

from typing import Any

import numpy as np

from naru.frontend.sklearn_base import (
    Call,
    Classified,
    Refused,
    Table,
    add,
    converts,
    div,
    f64,
    flat,
    greatest,
    ints,
    least,
    matmul,
    mul,
    numbers,
    op,
    pick,
    side_by_side,
    sub,
    table,
    total,
    width_of,
)
from naru.frontend.sklearn_svm import apart, square_distances
from naru.ir.graph import Node, get_output
from naru.ir.simplify import index
from naru.ops.registry import apply, constant

Array = np.ndarray
METRICS = ("euclidean", "manhattan", "minkowski", "cosine", "chebyshev", "sqeuclidean")
SQUARE = ("euclidean", "l2", "sqeuclidean")


def distances(x: Node, points: Array, metric: str, p: float) -> Node:
    """[rows, points]. Refused for a metric that is not known."""
    if metric == "minkowski":
        metric = {1.0: "manhattan", 2.0: "euclidean", np.inf: "chebyshev"}.get(float(p), metric)
    if metric in SQUARE:
        square = square_distances(x, points)
        return square if metric == "sqeuclidean" else op("sqrt", square)
    if metric in ("manhattan", "l1", "cityblock"):
        return total(op("abs", apart(x, points)))
    if metric == "chebyshev":
        return total(op("abs", apart(x, points)), "reduce_max")
    if metric == "minkowski":
        powers = op("pow", op("abs", apart(x, points)), float(p))
        return op("pow", total(powers), 1.0 / float(p))
    if metric == "cosine":
        return sub(1.0, matmul(_unit(x), _unit_rows(points).T.copy()))
    raise Refused(f"metric={metric!r}", f"one of {', '.join(METRICS)}")


def _unit(x: Node) -> Node:
    norm = op("sqrt", total(mul(x, x), keep=True))
    return div(x, op("where", op("equal", norm, 0.0), 1.0, norm))


def _unit_rows(points: Array) -> Array:
    norm = np.sqrt((points**2).sum(axis=1, keepdims=True))
    return points / np.where(norm == 0, 1, norm)


def _nearest(c: Call) -> tuple[Node, Node]:
    """(distances, places among the fitted rows) of the nearest: [rows, k] both."""
    e = c.e
    if not isinstance(e.effective_metric_, str):
        raise Refused("metric: a function of your own", f"one of {', '.join(METRICS)}")
    points = numbers(e._fit_X)
    settings: dict[str, Any] = e.effective_metric_params_ or {}
    p = float(settings.get("p", e.p))
    away = distances(c.numbers(), points, str(e.effective_metric_), p)
    k = min(int(e.n_neighbors), len(points))
    found = apply("top_k", away, k=index(k), largest=False)
    return get_output(found, 0), get_output(found, 1)


def _weights(c: Call, away: Node) -> Node | None:
    """Weights of neighbours, [rows, k]; None where all have the same."""
    kind = c.e.weights
    if kind is None or kind == "uniform":
        return None
    if kind != "distance":
        raise Refused("weights: a function of your own", "weights='distance'")
    zero = op("equal", away, 0.0)
    some = op("greater", total(f64(zero), keep=True), 0.0)
    return op("where", some, f64(zero), div(1.0, away))


@converts("classify", "sklearn.neighbors.KNeighborsClassifier")
def neighbours_classifier(c: Call) -> Any:
    e = c.e
    away, at = _nearest(c)
    weights = _weights(c, away)
    targets = np.asarray(e._y)
    several = isinstance(e.classes_, list)
    columns = targets.reshape(len(targets), -1)
    found = [
        _shares(at, columns[:, k], weights, len(classes))
        for k, classes in enumerate(e.classes_ if several else [e.classes_])
    ]
    return tuple(found) if several else found[0]


def _shares(at: Node, targets: Array, weights: Node | None, count: int) -> Classified:
    """How much of the neighbours each class has."""
    theirs = apply("gather", ints(targets), at, axis=0)
    k = width_of(at)
    columns: list[Node] = []
    for c in range(count):
        mine = f64(apply("equal", theirs, ints(c)))
        columns.append(total(mine if weights is None else mul(mine, weights), keep=True))
    counted = side_by_side(columns)
    shares = div(counted, float(k) if weights is None else total(counted, keep=True))
    return Classified(greatest(counted), shares)


@converts("regress", "sklearn.neighbors.KNeighborsRegressor")
def neighbours_regressor(c: Call) -> Node:
    e = c.e
    away, at = _nearest(c)
    weights = _weights(c, away)
    y = numbers(e._y)
    columns: list[Node] = []
    for k in range(1 if y.ndim == 1 else y.shape[1]):
        values = apply("gather", constant(y if y.ndim == 1 else y[:, k], np.float64), at, axis=0)
        if weights is None:
            columns.append(total(values, "reduce_mean", keep=True))
        else:
            columns.append(div(total(mul(values, weights), keep=True), total(weights, keep=True)))
    made = side_by_side(columns)
    return flat(made) if y.ndim == 1 else made


@converts("classify", "sklearn.neighbors.NearestCentroid")
def nearest_centroid(c: Call) -> Classified:
    """The nearest centroid. For probabilities, and where classes are not alike frequent, scores as
    of a discriminant analysis, by how much each feature spreads within classes."""
    e, x = c.e, c.numbers()
    centroids = numbers(e.centroids_)
    label = least(distances(x, centroids, e.metric, 2))
    prior = numbers(e.class_prior_)
    even = bool(np.isclose(prior, 1 / len(prior)).all())
    if e.metric != "euclidean":
        if not even:
            raise Refused("priors with another metric", "metric='euclidean'")
        return Classified(label)
    spread = numbers(e.within_class_std_dev_)
    spread = np.where(spread == 0, 1.0, spread)
    square = square_distances(div(x, spread[None]), centroids / spread)
    scores = add(op("neg", square), (2.0 * np.log(prior))[None])
    probabilities = op("softmax", scores, axis=1)
    label = label if even else greatest(scores)
    if len(prior) == 2:
        return Classified(label, probabilities, flat(sub(pick(scores, [1]), pick(scores, [0]))))
    return Classified(label, probabilities, scores)


@converts("transform", "sklearn.neighbors.NeighborhoodComponentsAnalysis")
def neighbourhood_components(c: Call) -> Table:
    return table(matmul(c.numbers(), numbers(c.e.components_).T.copy()))


# --- clusters -------------------------------------------------------------------------------------

CENTRES = tuple(f"sklearn.cluster.{n}" for n in ("KMeans", "MiniBatchKMeans"))


@converts("cluster", *CENTRES, "sklearn.cluster.MeanShift")
def nearest_centre(c: Call) -> Node:
    return least(square_distances(c.numbers(), numbers(c.e.cluster_centers_)))


@converts("cluster", "sklearn.cluster.AffinityPropagation")
def affinity(c: Call) -> Node:
    if not len(c.e.cluster_centers_):
        raise Refused("it found no clusters")
    return nearest_centre(c)


@converts("cluster", "sklearn.cluster.Birch")
def birch(c: Call) -> Node:
    e = c.e
    at = least(square_distances(c.numbers(), numbers(e.subcluster_centers_)))
    return apply("gather", ints(np.asarray(e.subcluster_labels_)), at, axis=0)


@converts("cluster", "sklearn.cluster.BisectingKMeans")
def bisecting(c: Call) -> Node:
    """Down the tree of halves: at each the nearer centre."""
    e, x = c.e, c.numbers()
    if e._X_mean is not None:
        x = sub(x, numbers(e._X_mean)[None])
    return _halved(e._bisecting_tree, x)


def _halved(t: Any, x: Node) -> Node:
    if t.left is None:
        return add_int(apply("cast", flat(mul(pick(x, [0]), 0.0)), to="i64"), int(t.label))
    both = np.stack([numbers(t.left.center), numbers(t.right.center)])
    right = apply("equal", least(square_distances(x, both)), ints(1))
    return apply("where", right, _halved(t.right, x), _halved(t.left, x))


def add_int(x: Node, by: int) -> Node:
    return apply("add", x, ints(by))


@converts("transform", *CENTRES, "sklearn.cluster.Birch", "sklearn.cluster.BisectingKMeans")
def centre_distances(c: Call) -> Table:
    e = c.e
    name = "subcluster_centers_" if hasattr(e, "subcluster_centers_") else "cluster_centers_"
    return table(op("sqrt", square_distances(c.numbers(), numbers(getattr(e, name)))))


@converts("transform", "sklearn.cluster.FeatureAgglomeration")
def feature_agglomeration(c: Call) -> Table:
    """The mean (or another pooling) of the features of each cluster."""
    e, x = c.e, c.numbers()
    name = {np.mean: "reduce_mean", np.max: "reduce_max", np.min: "reduce_min"}.get(e.pooling_func)
    if name is None:
        raise Refused("pooling_func: a function of your own", "pooling_func=np.mean")
    parts = [pick(x, np.flatnonzero(e.labels_ == k).tolist()) for k in np.unique(e.labels_)]
    return table(side_by_side([total(p, name, keep=True) for p in parts]))
