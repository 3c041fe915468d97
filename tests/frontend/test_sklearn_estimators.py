"""Every estimator against scikit-learn: the meaning of its graph, in numpy; and native code."""

# What is guessed of scikit-learn, which has no types, is often wrong.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from frontend.sklearn_cases import CASES, Case
from frontend.sklearn_models import Meaning, compiled, data
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import BernoulliNB
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier

Array = np.ndarray


def fitted(case: Case) -> Any:
    """(scikit-learn warns of parameters that are on their way out, and of rounds that run out.)"""
    x, y = data(case.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return case.make().fit(x, y)


def rows(name: str) -> Array:
    """Rows that were fitted, rows beside them, and further out."""
    x, _ = data(name)
    if name == "normal":
        return data("normal")[0][::-2] + 0.01
    rng = np.random.default_rng(1)
    if name in ("counts", "positive"):
        return np.concatenate([x[::3], x[::-3]])
    near = x[::3] + rng.normal(size=x[::3].shape) * x.std(axis=0) * 0.1
    return np.concatenate([x[::4], near, x[:5] * 1.5])


def dense(values: Any) -> Array:
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)


def expected(e: Any, x: Array) -> dict[str, Array]:
    """What scikit-learn gives, by the names of naru's outputs."""
    kind = e.__sklearn_tags__().estimator_type if hasattr(e, "predict") else None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if kind == "classifier":
            found = {"label": e.predict(x)}
            if hasattr(e, "predict_proba"):
                return {**found, "probabilities": e.predict_proba(x)}
            has = hasattr(e, "decision_function")
            return {**found, "scores": e.decision_function(x)} if has else found
        if kind == "regressor":
            return {"prediction": e.predict(x)}
        if kind in ("clusterer", "density_estimator"):
            return {"label": e.predict(x)}
        if kind == "outlier_detector":
            return {"label": e.predict(x), "scores": e.decision_function(x)}
        return {"features": dense(e.transform(x))}


def check(got: dict[str, Array], want: dict[str, Array], near: float) -> None:
    assert list(got) == list(want)
    for name, theirs in want.items():
        ours = np.asarray(got[name])
        assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
        if name == "label":
            assert (ours == theirs).all()
            continue
        assert ours.dtype == np.float64
        scale = max(1.0, float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)))
        np.testing.assert_allclose(ours, theirs, rtol=near, atol=near * scale, err_msg=name)


def by_name(model: Any, x: Array) -> dict[str, Array]:
    found = model(x)
    names = [o.name for o in model.outputs]
    return dict(zip(names, found if len(names) > 1 else [found], strict=True))


@pytest.mark.parametrize("name", CASES)
def test_meaning(name: str) -> None:
    case = CASES[name]
    e, x = fitted(case), rows(case.data)
    model = Meaning(e)
    check(model(x), expected(e, x), case.near)
    check(model(x[:1]), expected(e, x[:1]), case.near)
    assert all(len(v) == 0 for v in model(x[:0]).values())


FAST = ("tree classifier", "forest", "histogram boosting of categories", "gradient boosting",
        "LogisticRegression", "SVC probability", "KNeighborsClassifier euclidean distance",
        "QuantileTransformer normal", "SplineTransformer linear", "PolynomialFeatures",
        "GaussianMixture full", "KMeans", "StackingClassifier")  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_native(name: str) -> None:
    case = CASES[name]
    e, x = fitted(case), rows(case.data)
    model = compiled(e)
    check(by_name(model, x), expected(e, x), case.near)
    check(by_name(model, x[:1]), expected(e, x[:1]), case.near)
    assert all(len(v) == 0 for v in by_name(model, x[:0]).values())


@pytest.mark.parametrize(
    "make",
    [
        AdaBoostClassifier,
        BernoulliNB,
        DummyClassifier,
        HistGradientBoostingClassifier,
        lambda: MLPClassifier((3,), max_iter=1, random_state=0),
        lambda: MLPClassifier((3,), activation="identity", max_iter=2, random_state=1),
        lambda: OneVsRestClassifier(DecisionTreeClassifier()),
        RandomForestClassifier,
    ],
)
@pytest.mark.parametrize("label", [0, 7])
def test_classifiers_of_one_class(make: Any, label: int) -> None:
    x = data("normal")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        e = make().fit(x, np.full(len(x), label))
        got = Meaning(e)(x * 10)
        check(got, expected(e, x * 10), 1e-9)
