"""Trees to the last bit: at their thresholds, with missing values, over parameters; and boosting
libraries inside pipelines."""

# What is guessed of scikit-learn, which has no types, is often wrong.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from frontend.sklearn_models import Meaning, compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor
from xgboost import XGBClassifier, XGBRegressor

from naru.errors import UnsupportedError
from naru.frontend.sklearn import read_sklearn, register
from naru.ops.registry import apply, constant

Array = np.ndarray
FEATURES = 5


def table(seed: int, rows: int = 200, *, missing: float = 0.1) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES)) * 10.0 ** rng.integers(-3, 4, FEATURES)
    x[:, 1] = rng.integers(0, 4, rows)
    y = np.sign(x[:, 0]) + x[:, 1] * (x[:, 2] > 0) + rng.normal(size=rows) * 0.1
    x[rng.random(x.shape) < missing] = np.nan
    return x, y


def around(splits: Array, x: Array) -> Array:
    """Rows with values at thresholds, and the nearest on both sides, in float64 and float32."""
    single = splits.astype(np.float32)
    near = [
        splits,
        single,
        *(np.nextafter(v, d) for v in (splits, single) for d in (-np.inf, np.inf)),
    ]
    values = np.concatenate([np.asarray(n, np.float64) for n in near])
    rows = np.resize(x, (max(len(values), 1), FEATURES)).copy()
    for k in range(len(values)):
        rows[k, k % FEATURES] = values[k]
    return np.concatenate([rows, *(np.tile(values[:, None], (1, FEATURES)),)])


def test_thresholds() -> None:
    x, y = table(0, missing=0)
    e = ExtraTreesRegressor(4, random_state=0).fit(x, y)
    splits = np.concatenate([t.tree_.threshold for t in e.estimators_])
    rows = around(splits, x)
    assert np.array_equal(compiled(e)(rows), e.predict(rows))
    h = HistGradientBoostingRegressor(max_iter=5).fit(x, y)
    splits = np.concatenate([p[0].nodes["num_threshold"] for p in h._predictors])
    rows = around(splits, x)
    assert np.array_equal(compiled(h)(rows), h.predict(rows))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6), st.sampled_from([0.0, 0.2]),
    st.sampled_from(["squared_error", "poisson", "absolute_error"]),
)  # fmt: skip
def test_forests(seed: int, depth: int, leaf: int, missing: float, criterion: str) -> None:
    x, y = table(seed, 80, missing=missing if criterion != "absolute_error" else 0)
    e = DecisionTreeRegressor(
        max_depth=depth, min_samples_leaf=leaf, criterion=criterion, random_state=seed
    ).fit(x, y - y.min() + 1)
    new, _ = table(seed + 1, 80, missing=missing if criterion != "absolute_error" else 0)
    assert np.array_equal(Meaning(e)(new)["prediction"], e.predict(new))
    f = RandomForestClassifier(
        3, max_depth=depth, min_samples_leaf=leaf, random_state=seed, bootstrap=bool(seed % 2)
    ).fit(x, np.digitize(y, [0, 1, 2]))
    got = Meaning(f)(new)
    assert np.array_equal(got["probabilities"], f.predict_proba(new))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.booleans(), st.floats(0.01, 1), st.booleans())
def test_histograms(seed: int, leaves: int, category: bool, rate: float, drop: bool) -> None:
    x, y = table(seed, 120)
    e = HistGradientBoostingRegressor(
        max_iter=4, max_leaf_nodes=leaves, learning_rate=rate, min_samples_leaf=2,
        categorical_features=[1] if category else None, random_state=seed,
        l2_regularization=1.0 if drop else 0.0,
    ).fit(x, y)  # fmt: skip
    new, _ = table(seed + 1, 100, missing=0.3)
    new[::7, 1] = 9  # unknown
    assert np.array_equal(Meaning(e)(new)["prediction"], e.predict(new))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 2), st.integers(1, 5), st.floats(0.3, 1))
def test_gradient_boosting(seed: int, rate: float, depth: int, subsample: float) -> None:
    x, y = table(seed, 100, missing=0)
    e = GradientBoostingRegressor(
        n_estimators=6, learning_rate=rate, max_depth=depth, subsample=subsample, random_state=seed
    ).fit(x, y)
    assert np.array_equal(Meaning(e)(x)["prediction"], e.predict(x))


# ---- LightGBM, XGBoost ---------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("make", [LGBMClassifier, XGBClassifier])
def test_boosters_classify(make: Any, classes: int) -> None:
    x, y = table(0)
    names = np.array(["a", "b", "c"]) if make is LGBMClassifier else np.arange(3)
    labels = names[np.digitize(y, [0, 2][: classes - 1])]
    more = {"verbosity": -1} if make is LGBMClassifier else {}
    e = make_pipeline(StandardScaler(), make(n_estimators=5, n_jobs=1, **more)).fit(x, labels)
    got = compiled(e)(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (got.label == e.predict(x)).all()
        np.testing.assert_allclose(got.probabilities, e.predict_proba(x), rtol=1e-6)


@pytest.mark.parametrize("make", [LGBMRegressor, XGBRegressor])
def test_boosters_regress(make: Any) -> None:
    x, y = table(0)
    more = {"verbosity": -1} if make is LGBMRegressor else {"missing": 0.0}
    e = make(n_estimators=5, n_jobs=1, **more).fit(np.nan_to_num(x), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(compiled(e)(np.nan_to_num(x)), e.predict(np.nan_to_num(x)))


def with_gradient(y: Array, raw: Array) -> tuple[Array, Array]:
    """An objective of one's own, for XGBoost's classifiers."""
    if raw.ndim == 1:
        return 1 / (1 + np.exp(-raw)) - y, np.full_like(raw, 0.25)
    p = np.exp(raw - raw.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True) - np.eye(p.shape[1])[y.astype(int)], np.full_like(p, 0.25)


@pytest.mark.parametrize(
    ("classes", "objective"),
    [
        (2, "binary:hinge"),
        (2, "binary:logitraw"),
        (2, with_gradient),
        (2, "multi:softmax"),
        (3, "binary:logistic"),
        (3, "multi:softprob"),
        (3, "multi:softmax"),
        (3, with_gradient),
    ],
)
def test_objectives_of_xgboost_classifiers(classes: int, objective: Any) -> None:
    x, y = table(0)
    more = {"num_class": 2} if (classes, objective) == (2, "multi:softmax") else {}
    e = XGBClassifier(n_estimators=3, objective=objective, n_jobs=1, **more)
    e.fit(x, np.digitize(y, [0, 2][: classes - 1]))
    got = Meaning(e)(x)
    assert np.array_equal(got["label"], e.predict(x))
    np.testing.assert_allclose(got["probabilities"], e.predict_proba(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("labels", [2, 3])
def test_several_labels_of_xgboost_are_refused(labels: int) -> None:
    x, y = table(0)
    e = XGBClassifier(n_estimators=2, n_jobs=1).fit(x, (y[:, None] > np.arange(labels)).astype(int))
    with pytest.raises(UnsupportedError, match="several labels at once; try: MultiOutput"):
        read_sklearn(e)


def test_softprob_of_two_classes_is_refused() -> None:
    x, y = table(0)
    e = XGBClassifier(n_estimators=2, objective="multi:softprob", num_class=2, n_jobs=1)
    with pytest.raises(UnsupportedError, match="multi:softprob of two classes"):
        read_sklearn(e.fit(x, (y > 0).astype(int)))


def test_a_lightgbm_objective_of_ones_own() -> None:
    """LightGBM gives raw scores for labels and probabilities: so does the booster."""
    x, y = table(0)
    e = LGBMClassifier(
        n_estimators=3, verbosity=-1, n_jobs=1, objective=lambda y, raw: (raw - y, np.ones_like(y))
    ).fit(x, (y > 0).astype(float))
    with pytest.raises(UnsupportedError, match=r"a function of yours.*try: compile its booster_"):
        read_sklearn(e)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(compiled(e.booster_)(x), e.predict(x))


# ---- classes of users ----------------------------------------------------------------------------


class Halved(TransformerMixin, BaseEstimator):
    def fit(self, x: Array, y: Any = None) -> Halved:
        self.n_features_in_ = x.shape[1]
        return self

    def transform(self, x: Array) -> Array:
        return x / 2


class MyRidge(Ridge):
    """Sets nothing but parameters."""


class Shifted(Ridge):
    def predict(self, X: Array) -> Array:
        return super().predict(X) + 1


def test_registered() -> None:
    x, y = table(0, missing=0)
    e = make_pipeline(Halved(), MyRidge()).fit(x, y)
    with pytest.raises(UnsupportedError, match=r"Halved is not known; try: .*register\(Halved"):
        read_sklearn(e)
    register(Halved, lambda e, x: apply("div", x, constant(2.0, np.float64)))
    np.testing.assert_allclose(compiled(e)(x), e.predict(x), rtol=1e-10)


def test_overridden() -> None:
    x, y = table(0, missing=0)
    e = Shifted().fit(x, y)
    with pytest.raises(UnsupportedError, match="a Ridge that overrides predict"):
        read_sklearn(e)
    register(
        Shifted,
        lambda e, x: apply(
            "add",
            apply("matmul", x, constant(e.coef_, np.float64)),
            constant(e.intercept_ + 1, np.float64),
        ),
        role="regress",
    )
    np.testing.assert_allclose(compiled(e)(x), e.predict(x), rtol=1e-10)


def unfitted(last: Any) -> Any:
    return make_pipeline(StandardScaler().fit(np.eye(3)), last)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TfidfVectorizer().fit(["a few words", "some more"]), "texts are cut into words"),
        (lambda: HistGradientBoostingClassifier, "expected a fitted estimator"),
        (lambda: OneHotEncoder(), "fit it first"),
        (lambda: unfitted(LGBMRegressor()), "it is not fitted"),
        (lambda: unfitted(XGBRegressor()), "it is not fitted"),
        (lambda: unfitted(Ridge()), "it is not fitted: it has no coef_"),
        (lambda: make_pipeline(StandardScaler(), LogisticRegression()), "fit it first"),
    ],
)
def test_refused(make: Any, said: str) -> None:
    with pytest.raises(Exception, match=said):
        read_sklearn(make())
