"""Pipelines over tables with texts: encoders, imputers, columns, against scikit-learn."""

# What is guessed of scikit-learn, which has no types, is often wrong.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frontend.sklearn_models import compiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder

from naru.errors import InputError, UnsupportedError
from naru.frontend.sklearn import read_sklearn

Array = np.ndarray
CITIES = np.array(["Oslo", "Bergen", "Tromsø", "Ås", "", "oslo", "長野"], object)


def people(rows: int, seed: int = 0, *, missing: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.uniform(18, 90, rows)
    city = rng.choice(CITIES, rows, p=[0.4, 0.3, 0.2, 0.04, 0.02, 0.02, 0.02])
    plan = rng.choice(np.array(["a", "b"], object), rows)
    if missing:
        age[rng.random(rows) < 0.1] = np.nan
        plan[rng.random(rows) < 0.1] = np.nan
    frame = {
        "id": np.arange(rows), "age": age, "city": city, "visits": rng.integers(0, 5, rows),
        "plan": plan, "member": rng.random(rows) < 0.5,
    }  # fmt: skip
    return pd.DataFrame(frame)


def wanted(frame: pd.DataFrame) -> Array:
    bought = frame.age.fillna(40) / 90 + (frame.city == "Oslo") + frame.visits / 4 > 1.3
    return np.where(bought, "buys", "looks")


def mixed(last: Any, **encoder: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    texts = make_pipeline(
        SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore", **encoder)
    )
    columns = ColumnTransformer(
        [("num", numbers, ["visits", "age"]), ("cat", texts, ["city", "plan"])],
        remainder="drop",
    )
    return make_pipeline(columns, last)


def check(estimator: Any, model: Any, frame: Any) -> None:
    got = model(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (got.label == estimator.predict(frame)).all()
        want = estimator.predict_proba(frame)
    np.testing.assert_allclose(got.probabilities, want, rtol=1e-10, atol=1e-12)


def columns_of(transformer: Any, frame: Any) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = transformer.transform(frame)
    return np.asarray(made.toarray() if hasattr(made, "toarray") else made, np.float64)


@pytest.mark.parametrize("last", [LogisticRegression(), HistGradientBoostingClassifier(max_iter=9)])
def test_table(last: Any) -> None:
    """By a table, by a dict, in another order, with columns that nobody asked for, and empty."""
    train = people(300)
    e = mixed(last).fit(train, wanted(train))
    model = compiled(e)
    assert {i.name: i.dtype for i in model.inputs} == {
        "age": "float64", "city": "string", "visits": "float64", "plan": "string",
    }  # fmt: skip
    frame = people(40, 1)
    frame.loc[3, "city"] = "Paris"
    check(e, model, frame)
    check(e, model, frame[:1])
    got = model(frame[sorted(frame.columns)]).probabilities
    assert (got == model(frame).probabilities).all()
    named = {i.name: frame[i.name].to_numpy() for i in model.inputs}
    named["visits"] = named["visits"].astype(np.float64)
    named["plan"] = [None if isinstance(v, float) else v for v in named["plan"]]
    assert len(model(named).label) == 40
    assert len(model(frame[:0]).label) == 0
    with pytest.raises(InputError, match="column 'city' is missing"):
        model(frame.drop(columns="city"))


def test_other_numbers_become_float64() -> None:
    """As scikit-learn takes them, however they lie in memory; of native code, and of a plan."""
    x = np.arange(40.0).reshape(20, 2) % 2
    e = Ridge().fit(x, x[:, 0])
    encoder = ColumnTransformer([("c", OrdinalEncoder(), [0])], remainder="passthrough")
    for model in (compiled(e), compiled(make_pipeline(encoder, Ridge()).fit(x, x[:, 0]))):
        wanted = model(x)
        np.testing.assert_allclose(wanted, e.predict(x), rtol=1e-9)
        for dtype in (bool, "i1", "u2", "i4", ">i4", "i8", "u8", "f2", "f4", ">f8"):
            for array in (x.astype(dtype), np.asfortranarray(x.astype(dtype))):
                assert np.array_equal(model(array), wanted), dtype


def test_other_numbers_beside_texts() -> None:
    frame = people(50, missing=False)
    e = make_column_transformer((OneHotEncoder(), ["plan"]), ("passthrough", ["visits"])).fit(frame)
    model = compiled(e)
    columns = {"plan": frame.plan.to_numpy(), "visits": frame.visits.to_numpy()}
    assert columns["visits"].dtype == np.int64
    assert np.array_equal(model(columns), e.transform(frame))


def test_what_is_no_real_number_stays_refused() -> None:
    x = np.arange(40.0).reshape(20, 2)
    model = compiled(Ridge().fit(x, x[:, 0]))
    for array in (x.astype(complex), x.astype(object), x.astype(str), x.astype(np.longdouble)):
        with pytest.raises(InputError, match="input 'features': expected dtype float64, got"):
            model(array)
    with pytest.raises(InputError, match=r"expected shape \(rows, 2\), got \(20,\)"):
        model(x[:, 0].astype(np.float32))


def test_selectors() -> None:
    """Names, numbers, masks, slices, selectors; what remains passes."""
    train = people(200, missing=False)
    e = make_column_transformer(
        (OneHotEncoder(), make_column_selector(dtype_exclude=[np.number, bool])),
        (StandardScaler(), [False, True, False, False, False, False]),
        (StandardScaler(), slice("visits", "visits")),
        ("drop", ["id"]),
        remainder="passthrough",
    ).fit(train)
    model = compiled(e)
    frame = people(20, 3, missing=False)
    assert np.array_equal(model(frame), columns_of(e, frame))


def test_matrix_of_objects() -> None:
    """Columns by number have made-up names."""
    x = people(100, missing=False)[["city", "age"]].to_numpy()
    e = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), [0]), remainder="passthrough"
    ).fit(x)
    model = compiled(e)
    got = model({"x0": x[:5, 0], "x1": x[:5, 1].astype(np.float64)})
    assert np.array_equal(got, columns_of(e, x[:5]))


def test_named_matrix() -> None:
    """A model of numbers alone takes a matrix, or the columns of a table by their names."""
    train = people(200, missing=False)[["age", "visits", "member"]]
    e = make_pipeline(StandardScaler(), LinearRegression()).fit(train, train.age * 2 + train.visits)
    model = compiled(e)
    frame = people(10, 4, missing=False)
    want = e.predict(frame[["age", "visits", "member"]])
    np.testing.assert_allclose(model(frame), want, rtol=1e-12)
    assert (model(frame[["age", "visits", "member"]].to_numpy(np.float64)) == model(frame)).all()
    with pytest.raises(InputError, match=r"column 'visits', 'member' are missing"):
        model(frame[["age"]])


def test_unknown_category() -> None:
    """As scikit-learn: an error, which names column, value and row."""
    train = people(100, missing=False)[["city", "visits"]]
    e = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(train, wanted(people(100)))
    model = compiled(e)
    frame = pd.DataFrame({"city": ["Oslo", "Paris"], "visits": [1, 1]})
    check(e, model, frame[:1])
    with pytest.raises(InputError, match=r"column 'city': row 1 has the category 'Paris'"):
        model(frame)
    frame = pd.DataFrame({"city": ["Oslo", "Oslo"], "visits": [2.5, 1]})
    with pytest.raises(InputError, match=r"column 'visits': row 0 has the category 2.5"):
        model(frame)
    frame = pd.DataFrame({"city": ["Oslo", None], "visits": [2, 1]})
    with pytest.raises(InputError, match=r"column 'city': row 1 has the category (NaN|None)"):
        model(frame)


def test_unknown_number() -> None:
    x = np.array([[0.0, 1], [1, 2], [2, 1]])
    model = compiled(OneHotEncoder().fit(x))
    assert np.array_equal(model(x), columns_of(OneHotEncoder().fit(x), x))
    with pytest.raises(InputError, match=r"column 'x1': row 1 has the category 7.0"):
        model(np.array([[0.0, 1], [1, 7]]))


def test_missing_categories() -> None:
    """NaN and None are categories, each its own."""
    x = np.array([["a"], [None], [np.nan], ["b"], ["a"]], object)
    for e in (
        OneHotEncoder(handle_unknown="ignore"),
        OrdinalEncoder(encoded_missing_value=-3),
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
    ):
        if isinstance(e, OrdinalEncoder):
            x = np.array([["a"], [np.nan], ["b"], ["a"]], object)
        e.fit(x)
        np.testing.assert_array_equal(compiled(e)({"x0": x[:, 0]}), columns_of(e, x))


def test_inputs_called_as_outputs() -> None:
    train = pd.DataFrame({"label": ["a", "b", "a", "b"], "unknown 0": [1.0, 2, 3, 4]})
    e = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["label"]), remainder="passthrough"),
        LogisticRegression(),
    ).fit(train, [0, 1, 0, 1])
    model = compiled(e)
    check(e, model, train)
    with pytest.raises(InputError, match="row 2 has the category 'c'"):
        model(train.assign(label=["a", "b", "c", "a"]))


def test_text_labels_of_numbers() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    y = np.array(["no", "maybe", "yes"], object)[(x[:, 0] > 0) + (x[:, 1] > 0).astype(int)]
    e = RandomForestClassifier(5, random_state=0).fit(x, y)
    got = compiled(e)(x)
    assert got.label.tolist() == e.predict(x).tolist()
    assert np.array_equal(got.probabilities, e.predict_proba(x))


def test_labels_of_every_kind() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    at = (x[:, 0] > 0).astype(int)
    for classes in ([3, 7], [True, False], [-1.0, 2.0], ["b", "a"], [np.int8(4), np.int8(9)]):
        y = np.array(classes)[at]
        e = LogisticRegression().fit(x, y)
        got = compiled(e)(x).label
        assert (got == e.predict(x)).all(), classes


def test_categories_of_boosting() -> None:
    """HistGradientBoosting encodes the categories of a table by itself."""
    train = people(300)[["age", "city", "plan"]].astype({"city": "category", "plan": "category"})
    e = HistGradientBoostingClassifier(max_iter=10, categorical_features="from_dtype")
    e.fit(train, wanted(people(300)))
    model = compiled(e)
    check(e, model, train[:50])


def test_texts_as_results() -> None:
    x = np.array([["a"], [np.nan], ["b"], ["a"]], object)
    e = SimpleImputer(strategy="most_frequent").fit(x)
    assert compiled(e)({"x0": x[:, 0]}).tolist() == e.transform(x).tolist()
    e = SimpleImputer(strategy="constant", fill_value="?").fit(x)
    assert compiled(e)({"x0": x[:, 0]}).tolist() == e.transform(x).tolist()


def test_selection_of_texts() -> None:
    train = people(200, missing=False)[["city", "plan"]]
    e = make_pipeline(
        make_union(OneHotEncoder(), OrdinalEncoder()), SelectKBest(k=3), LogisticRegression()
    ).fit(train, wanted(people(200)))
    check(e, compiled(e), train[:30])


@pytest.mark.parametrize("kind", ["continuous", "binary", "multiclass"])
def test_target_encoder(kind: str) -> None:
    train = people(200, missing=False)[["city", "visits"]]
    rng = np.random.default_rng(0)
    y = {"continuous": rng.normal(size=200), "binary": rng.integers(0, 2, 200),
         "multiclass": rng.integers(0, 3, 200)}[kind]  # fmt: skip
    e = TargetEncoder(target_type=kind, random_state=0).fit(train, y)
    frame = people(30, 5, missing=False)[["city", "visits"]]
    frame.loc[0, "city"] = "Paris"
    np.testing.assert_allclose(compiled(e)(frame), columns_of(e, frame), rtol=1e-15)


ENCODERS = st.fixed_dictionaries(
    {
        "drop": st.sampled_from([None, "first", "if_binary"]),
        "handle_unknown": st.sampled_from(["ignore", "infrequent_if_exist", "error"]),
        "min_frequency": st.sampled_from([None, 3, 0.2]),
        "max_categories": st.sampled_from([None, 2, 3]),
        "sparse_output": st.booleans(),
    }
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ENCODERS, st.integers(0, 1000))
def test_one_hot_settings(given_settings: dict[str, Any], seed: int) -> None:
    train = people(40, seed, missing=False)[["city", "visits", "plan"]]
    e = OneHotEncoder(**given_settings).fit(train)
    frame = people(30, seed + 1, missing=False)[["city", "visits", "plan"]]
    model = compiled(e)
    try:
        want = columns_of(e, frame)
    except ValueError:
        with pytest.raises(InputError):
            model(frame)
        return
    assert np.array_equal(model(frame), want)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([None, 3, 0.2]),
    st.sampled_from([None, 2, 3]),
    st.sampled_from([-1, np.nan]),
    st.integers(0, 1000),
)
def test_ordinal_settings(least: Any, most: Any, unknown: float, seed: int) -> None:
    train = people(40, seed)[["city", "visits", "plan"]]
    e = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=unknown, min_frequency=least,
        max_categories=most, encoded_missing_value=-2,
    ).fit(train)  # fmt: skip
    frame = people(30, seed + 1)[["city", "visits", "plan"]]
    np.testing.assert_array_equal(compiled(e)(frame), columns_of(e, frame))


# ---- refused -------------------------------------------------------------------------------------


def test_all_problems_at_once() -> None:
    from sklearn.decomposition import NMF
    from sklearn.preprocessing import FunctionTransformer

    train = people(100, missing=False)[["age", "visits", "city"]]

    def mine(x: Any) -> Any:
        return x

    e = make_pipeline(
        ColumnTransformer(
            [
                ("own", FunctionTransformer(mine), ["age"]),
                ("parts", NMF(1, init="random", random_state=0), ["visits"]),
                ("cat", OneHotEncoder(), ["city"]),
            ]
        ),
        LogisticRegression(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        e.fit(train, wanted(people(100)))
    with pytest.raises(UnsupportedError) as error:
        read_sklearn(e)
    assert len(error.value.problems) == 2
    text = str(error.value)
    assert "columntransformer.own (FunctionTransformer): func=mine" in text
    assert "columntransformer.parts (NMF)" in text
    assert "register" in text


def test_not_fitted() -> None:
    with pytest.raises(UnsupportedError, match="fit it first"):
        read_sklearn(LogisticRegression())
    with pytest.raises(UnsupportedError, match="not fitted"):
        read_sklearn(LogisticRegression(), example=np.zeros((2, 3)))


def test_texts_where_numbers_are_needed() -> None:
    train = people(100, missing=False)[["city"]]
    encoder = OneHotEncoder().fit(train)
    scaler = StandardScaler().fit(np.array([[1.0], [2.0], [3.0]]))
    e = make_union(encoder, scaler)
    with pytest.raises(UnsupportedError, match="'city' holds texts"):
        read_sklearn(e)
