"""Naive Bayes and Gaussian mixtures: log likelihoods of classes, and their softmax."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from naru.frontend.sklearn_base import (
    Call,
    Classified,
    add,
    as_node,
    cast_to,
    converts,
    div,
    f64,
    flat,
    greatest,
    matmul,
    mul,
    numbers,
    op,
    pick,
    sub,
    total,
)
from naru.ir.graph import Node
from naru.ops.registry import apply, constant

BAYES = "sklearn.naive_bayes."


def _classified(likelihood: Node) -> Classified:
    """Classes by joint log likelihoods [rows, classes]."""
    return Classified(greatest(likelihood), op("softmax", likelihood, axis=1))


@converts("classify", BAYES + "GaussianNB")
def gaussian(c: Call) -> Classified:
    e, x = c.e, c.numbers()
    var, theta = numbers(e.var_), numbers(e.theta_)
    found: list[Node] = []
    for i in range(len(e.classes_)):
        away = sub(x, theta[i][None])
        inner = total(div(mul(away, away), var[i][None]), keep=True)
        first = -0.5 * np.sum(np.log(2.0 * np.pi * var[i]))
        found.append(add(float(np.log(e.class_prior_[i])), sub(float(first), mul(0.5, inner))))
    return _classified(apply("concat", *found, axis=1))


@converts("classify", BAYES + "MultinomialNB")
def multinomial(c: Call) -> Classified:
    e = c.e
    products = matmul(c.numbers(), numbers(e.feature_log_prob_).T.copy())
    return _classified(add(products, numbers(e.class_log_prior_)[None]))


@converts("classify", BAYES + "ComplementNB")
def complement(c: Call) -> Classified:
    e = c.e
    products = matmul(c.numbers(), numbers(e.feature_log_prob_).T.copy())
    if len(e.classes_) == 1:
        products = add(products, numbers(e.class_log_prior_)[None])
    return _classified(products)


@converts("classify", BAYES + "BernoulliNB")
def bernoulli(c: Call) -> Classified:
    e, x = c.e, c.numbers()
    if e.binarize is not None:
        x = f64(op("greater", x, float(e.binarize)))
    log = numbers(e.feature_log_prob_)
    negative = np.log(1 - np.exp(log))
    products = matmul(x, (log - negative).T.copy())
    return _classified(add(products, (numbers(e.class_log_prior_) + negative.sum(axis=1))[None]))


@converts("classify", BAYES + "CategoricalNB")
def categorical(c: Call) -> Classified:
    """Categories are whole numbers from 0; ones above those of the fit have no likelihood."""
    e, x = c.e, c.numbers()
    result: Node | None = None
    for i, log in enumerate(e.feature_log_prob_):
        table = numbers(log).T.copy()
        at = cast_to(flat(pick(x, [i])), "i64")
        most = constant(table.shape[0] - 1, np.int64)
        inside = apply("clip", at, constant(0, np.int64), most)
        more = apply("gather", as_node(table), inside, axis=0)
        result = more if result is None else add(result, more)
    assert result is not None
    return _classified(add(result, numbers(e.class_log_prior_)[None]))


# --- mixtures -------------------------------------------------------------------------------------


def _log_determinant(e: Any, features: int) -> Any:
    chol, kind = numbers(e.precisions_cholesky_), e.covariance_type
    if kind == "full":
        return np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)
    if kind == "tied":
        return np.log(np.diag(chol)).sum()
    if kind == "diag":
        return np.log(chol).sum(axis=1)
    return features * np.log(chol)


def _gaussians(e: Any, x: Node) -> Node:
    """The log probability of each component: [rows, components]."""
    means, chol, kind = numbers(e.means_), numbers(e.precisions_cholesky_), e.covariance_type
    features = means.shape[1]
    found: list[Node] = []
    for k, mean in enumerate(means):
        if kind in ("full", "tied"):
            by = chol[k] if kind == "full" else chol
            away = sub(matmul(x, by), (mean @ by)[None])
        else:
            away = mul(sub(x, mean[None]), np.broadcast_to(chol[k], mean.shape)[None])
        found.append(total(mul(away, away), keep=True))
    norm = add(features * math.log(2 * math.pi), apply("concat", *found, axis=1))
    log = np.broadcast_to(_log_determinant(e, features), (len(means),))
    return add(mul(-0.5, norm), np.asarray(log, np.float64)[None])


@converts("cluster", "sklearn.mixture.GaussianMixture")
def gaussian_mixture(c: Call) -> Node:
    weighted = add(_gaussians(c.e, c.numbers()), np.log(numbers(c.e.weights_))[None])
    return greatest(weighted)


@converts("cluster", "sklearn.mixture.BayesianGaussianMixture")
def bayesian_mixture(c: Call) -> Node:
    digamma: Any = importlib.import_module("scipy.special").digamma
    e, x = c.e, c.numbers()
    features = numbers(e.means_).shape[1]
    freedom = numbers(e.degrees_of_freedom_)
    log_gauss = sub(_gaussians(e, x), (0.5 * features * np.log(freedom))[None])
    steps = np.arange(features, dtype=np.float64)[:, None]
    wishart = features * np.log(2.0) + np.sum(digamma(0.5 * (freedom - steps)), 0)
    shift = 0.5 * (wishart - features / numbers(e.mean_precision_))
    if e.weight_concentration_prior_type == "dirichlet_process":
        a, b = (numbers(v) for v in e.weight_concentration_)
        both = digamma(a + b)
        weights = digamma(a) - both + np.hstack((0, np.cumsum(digamma(b) - both)[:-1]))
    else:
        weights = digamma(numbers(e.weight_concentration_)) - digamma(
            np.sum(numbers(e.weight_concentration_))
        )
    return greatest(add(log_gauss, (shift + weights)[None]))
