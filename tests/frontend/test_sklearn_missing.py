"""Missing values through everything that takes them, and models of several targets."""

# What is guessed of scikit-learn, which has no types, is often wrong.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from frontend.sklearn_models import Meaning, compiled
from sklearn import impute, preprocessing
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.experimental import enable_iterative_imputer
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

Array = np.ndarray
_ = enable_iterative_imputer


def holes(seed: int, rows: int = 60) -> Array:
    """Normal columns, the third made of few numbers, with a tenth missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)) @ rng.normal(size=(4, 4))
    x[:, 2] = np.round(x[:, 2])
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


p = preprocessing
CASES: dict[str, Any] = {
    **{
        f"SimpleImputer {s}": impute.SimpleImputer(strategy=s, add_indicator=True)
        for s in ("mean", "median", "most_frequent")
    },
    "SimpleImputer constant": impute.SimpleImputer(strategy="constant", fill_value=-7.0),
    "SimpleImputer zeros": impute.SimpleImputer(missing_values=0.0),
    "MissingIndicator": impute.MissingIndicator(error_on_new=False),
    "KNNImputer": impute.KNNImputer(n_neighbors=4),
    "KNNImputer by distance": impute.KNNImputer(n_neighbors=4, weights="distance"),
    "KNNImputer marked": impute.KNNImputer(n_neighbors=2, add_indicator=True),
    "IterativeImputer": impute.IterativeImputer(random_state=0, max_iter=3, add_indicator=True),
    "IterativeImputer bounded": impute.IterativeImputer(
        random_state=0, max_iter=3, min_value=-1, max_value=1, n_nearest_features=2
    ),
    "StandardScaler": p.StandardScaler(),
    "MinMaxScaler": p.MinMaxScaler(),
    "MaxAbsScaler": p.MaxAbsScaler(),
    "RobustScaler": p.RobustScaler(),
    "PowerTransformer": p.PowerTransformer(),
    "QuantileTransformer": p.QuantileTransformer(n_quantiles=20),
    "normal QuantileTransformer": p.QuantileTransformer(
        n_quantiles=20, output_distribution="normal"
    ),
    "SplineTransformer": p.SplineTransformer(handle_missing="zeros"),
    "FunctionTransformer": p.FunctionTransformer(np.log1p),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_missing(name: str) -> None:
    e = CASES[name]
    new = holes(1, 40)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        x = holes(0)
        if name.endswith("zeros"):
            x, new = np.nan_to_num(x), np.nan_to_num(new)
        want = np.asarray(e.fit(x).transform(new), np.float64)
    got = Meaning(e)(new)["features"]
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["KNNImputer", "IterativeImputer", "PowerTransformer"])
def test_missing_native(name: str) -> None:
    e, new = CASES[name], holes(1, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        e.fit(holes(0))
    np.testing.assert_allclose(compiled(e)(new), e.transform(new), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("make", [impute.SimpleImputer, impute.KNNImputer])
def test_columns_without_a_value(make: Any, empty: bool) -> None:
    x = holes(0)
    x[:, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        e = make(keep_empty_features=empty).fit(x)
        want = e.transform(x)
    np.testing.assert_allclose(Meaning(e)(x)["features"], want, rtol=1e-9)


def test_missing_in_forests() -> None:
    x = holes(0, 200)
    y = (np.nan_to_num(x[:, 0], nan=3.0) > 0.5).astype(int)
    for e in (RandomForestClassifier(5, random_state=0), ExtraTreesClassifier(5, random_state=0)):
        e.fit(x, y)
        assert np.array_equal(compiled(e)(x).probabilities, e.predict_proba(x))


# ---- several targets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "e",
    [
        DecisionTreeClassifier(random_state=0, max_depth=3),
        RandomForestClassifier(4, random_state=0, max_depth=3),
        KNeighborsClassifier(3),
        MultiOutputClassifier(LogisticRegression()),
    ],
    ids=lambda e: type(e).__name__,
)
def test_several_targets(e: Any) -> None:
    x = np.nan_to_num(holes(0, 90))
    y = np.stack([x[:, 0] > 0, (x[:, 1] > 0) + 2 * (x[:, 3] > 0)], axis=1).astype(int)
    e.fit(x, y)
    model = compiled(e)
    assert [o.name for o in model.outputs] == ["label", "probabilities_0", "probabilities_1"]
    got = model(x[::2] + 0.01)
    assert np.array_equal(got.label, e.predict(x[::2] + 0.01))
    for ours, theirs in zip(got[1:], e.predict_proba(x[::2] + 0.01), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_targets_of_texts() -> None:
    x = np.nan_to_num(holes(0, 90))
    y = np.stack([np.where(x[:, 0] > 0, "a", "b"), np.where(x[:, 1] > 0, "c", "a")], axis=1)
    e = DecisionTreeClassifier(max_depth=3).fit(x, y)
    assert compiled(e)(x).label.tolist() == e.predict(x).tolist()
