"""Multi-layer perceptrons, and projections onto components."""

from __future__ import annotations

from typing import Any

import numpy as np

from naru.frontend.sklearn_base import (
    Call,
    Classified,
    Refused,
    Table,
    add,
    cast_to,
    converts,
    div,
    flat,
    greatest,
    matmul,
    numbers,
    op,
    sub,
    table,
    two,
    width_of,
)
from naru.ir.graph import Node

Array = np.ndarray
ACTIVATIONS = {"identity": None, "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


def _activated(x: Node, name: str) -> Node:
    if name == "softmax":
        return op("softmax", x, axis=1)
    if name == "exp":
        return op("exp", x)
    if name not in ACTIVATIONS:
        raise Refused(f"activation={name!r}", f"one of {', '.join(ACTIVATIONS)}")
    known = ACTIVATIONS[name]
    return x if known is None else op(known, x)


def _layers(c: Call) -> Node:
    e, x = c.e, c.numbers()
    for k, (w, b) in enumerate(zip(e.coefs_, e.intercepts_, strict=True)):
        last = k == len(e.coefs_) - 1
        x = add(matmul(x, numbers(w)), numbers(b)[None])
        x = _activated(x, e.out_activation_ if last else e.activation)
    return x


@converts("regress", "sklearn.neural_network.MLPRegressor")
def perceptron_regressor(c: Call) -> Node:
    made = _layers(c)
    return flat(made) if width_of(made) == 1 else made


@converts("classify", "sklearn.neural_network.MLPClassifier")
def perceptron_classifier(c: Call) -> Classified:
    made = _layers(c)
    if str(c.e._label_binarizer.y_type_).startswith("multilabel"):
        raise Refused("several labels at once", "MultiOutputClassifier")
    if width_of(made) == 1:
        p = flat(made)
        # Of one class there are two probabilities all the same, and it is the label of all rows.
        least = np.inf if len(c.e.classes_) == 1 else 0.5
        return Classified(cast_to(op("greater", p, least), "i64"), two(p))
    return Classified(greatest(made), made)


@converts("transform", "sklearn.neural_network.BernoulliRBM")
def boltzmann(c: Call) -> Table:
    e = c.e
    products = matmul(c.numbers(), numbers(e.components_).T.copy())
    return table(op("sigmoid", add(products, numbers(e.intercept_hidden_)[None])))


# --- components -----------------------------------------------------------------------------------


def _projected(x: Node, components: Array) -> Node:
    return matmul(x, np.ascontiguousarray(components.T))


@converts("transform", "sklearn.decomposition.PCA", "sklearn.decomposition.IncrementalPCA")
def principal_components(c: Call) -> Table:
    """(X - mean) · components, scaled by the roots of the variances where it whitens."""
    e, x = c.e, c.numbers()
    components = numbers(e.components_)
    # As scikit-learn has it: the product first, then the mean's own.
    made = sub(_projected(x, components), (numbers(e.mean_).reshape(1, -1) @ components.T))
    if e.whiten:
        scale = np.sqrt(numbers(e.explained_variance_))
        small = scale < np.finfo(np.float64).eps
        made = div(made, np.where(small, np.finfo(np.float64).eps, scale)[None])
    return table(made)


@converts("transform", "sklearn.decomposition.TruncatedSVD")
def truncated_svd(c: Call) -> Table:
    return table(_projected(c.numbers(), numbers(c.e.components_)))


@converts("transform", "sklearn.decomposition.FastICA")
def independent_components(c: Call) -> Table:
    e, x = c.e, c.numbers()
    if e.whiten:
        x = sub(x, numbers(e.mean_)[None])
    return table(_projected(x, numbers(e.components_)))


@converts("transform", "sklearn.decomposition.FactorAnalysis")
def factors(c: Call) -> Table:
    e = c.e
    w = numbers(e.components_)
    scaled = w / numbers(e.noise_variance_)
    cov = np.linalg.inv(np.eye(len(w)) + scaled @ w.T)
    made = matmul(sub(c.numbers(), numbers(e.mean_)[None]), scaled.T.copy())
    return table(matmul(made, cov))


@converts("transform", "sklearn.discriminant_analysis.LinearDiscriminantAnalysis")
def discriminants(c: Call) -> Table:
    e, x = c.e, c.numbers()
    if e.solver == "lsqr":
        raise Refused("solver='lsqr' has no transform", "solver='svd' or 'eigen'")
    x = sub(x, numbers(e.xbar_)[None]) if e.solver == "svd" else x
    return table(matmul(x, numbers(e.scalings_)[:, : int(e._max_components)].copy()))


@converts("transform", *(f"sklearn.random_projection.{n}RandomProjection" for n in
          ("Gaussian", "Sparse")))  # fmt: skip
def random_projection(c: Call) -> Table:
    return table(_projected(c.numbers(), numbers(c.e.components_)))


@converts("transform", *(f"sklearn.cross_decomposition.{n}" for n in ("PLSRegression",
          "PLSCanonical", "CCA", "PLSSVD")))  # fmt: skip
def partial_least_squares(c: Call) -> Table:
    e = c.e
    by = numbers(e.x_rotations_ if hasattr(e, "x_rotations_") else e.x_weights_)
    return table(
        matmul(div(sub(c.numbers(), numbers(e._x_mean)[None]), numbers(e._x_std)[None]), by)
    )


def _closed_form_only(c: Call) -> Any:
    raise Refused(
        "its transform solves an optimisation for every row",
        "PCA, TruncatedSVD or FastICA",
    )


OPTIMISED = (
    "NMF", "MiniBatchNMF", "DictionaryLearning", "MiniBatchDictionaryLearning", "SparsePCA",
    "MiniBatchSparsePCA", "SparseCoder", "LatentDirichletAllocation",
)  # fmt: skip
for _name in OPTIMISED:
    converts("transform", f"sklearn.decomposition.{_name}")(_closed_form_only)


def _words(c: Call) -> Any:
    raise Refused(
        "texts are cut into words, which naru does not do for scikit-learn's vectorizers",
        "transform the texts before, and compile what comes behind it; or an ONNX file that has "
        "StringSplit and TfIdfVectorizer",
    )


def _dicts(c: Call) -> Any:
    raise Refused(
        "it takes dicts, or hashes", "a table with a column for each key, and OneHotEncoder"
    )


for _name in ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer"):
    converts("transform", f"sklearn.feature_extraction.{_name}")(_words)
for _name in ("DictVectorizer", "FeatureHasher"):
    converts("transform", f"sklearn.feature_extraction.{_name}")(_dicts)
REFUSALS = (_closed_form_only, _words, _dicts)
