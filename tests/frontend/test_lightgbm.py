"""LightGBM's models against its own predictions: sums of leaves to the last bit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import naru
from naru.errors import ModelError, NaruError, UnsupportedError
from naru.frontend.forest import forest_graph
from naru.frontend.lightgbm import read_lightgbm
from naru.frontend.source import read_model
from tests.frontend.boosting_tables import Array, check_close, open_graph, train_lightgbm, unseen

FILES = Path(__file__).parent / "boosting_files"


def check_lightgbm(booster: Any, ulps: float) -> None:
    model = naru.compile(booster.model_to_string().encode(), cache=False)
    assert model.inputs[0].dtype == "float64"
    for rows in (1, 3, 200):
        x = unseen(rows, rows)
        check_close(model(x), booster.predict(x), ulps)


# How many ulps the transform of the scores may be off: sums are exact.
LIGHTGBM: dict[str, tuple[dict[str, Any], float]] = {
    "regression": ({"objective": "regression"}, 0),
    "sqrt": ({"objective": "regression", "reg_sqrt": True}, 0),
    "l1": ({"objective": "regression_l1"}, 0),
    "quantile": ({"objective": "quantile", "alpha": 0.3}, 0),
    "binary": ({"objective": "binary", "sigmoid": 1.5}, 4),
    "zero is missing": ({"objective": "regression", "zero_as_missing": True}, 0),
    "nothing is missing": ({"objective": "regression", "use_missing": False}, 0),
    "poisson": ({"objective": "poisson"}, 4),
    "gamma": ({"objective": "gamma"}, 4),
    "cross entropy": ({"objective": "cross_entropy"}, 4),
    "cross entropy lambda": ({"objective": "cross_entropy_lambda"}, 8),
    "tweedie": ({"objective": "tweedie"}, 4),
    "huber": ({"objective": "huber"}, 0),
    "fair": ({"objective": "fair"}, 0),
    "mape": ({"objective": "mape"}, 0),
    "ranks": ({"objective": "lambdarank", "group": True}, 0),
    "other ranks": ({"objective": "rank_xendcg", "group": True}, 0),
    "multiclass": ({"objective": "multiclass", "num_class": 4}, 8),
    "one versus all": ({"objective": "multiclassova", "num_class": 3, "sigmoid": 2.0}, 4),
    "dart": ({"objective": "regression", "boosting": "dart"}, 0),
    "forest": (
        {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7},
        0,
    ),
    "forest of classes": (
        {
            "objective": "multiclass",
            "num_class": 3,
            "boosting": "rf",
            "bagging_freq": 1,
            "bagging_fraction": 0.7,
        },
        8,
    ),
    "linear leaves": ({"objective": "regression", "linear_tree": True}, 0),
    "linear leaves of classes": (
        {"objective": "multiclass", "num_class": 3, "linear_tree": True},
        8,
    ),
    "linear leaves of a forest": (
        {
            "objective": "regression",
            "linear_tree": True,
            "boosting": "rf",
            "bagging_freq": 1,
            "bagging_fraction": 0.7,
        },
        0,
    ),
    "one linear leaf": (
        {"objective": "regression", "linear_tree": True, "min_data_in_leaf": 10_000},
        0,
    ),
    "stumps of one leaf": ({"objective": "regression", "min_data_in_leaf": 10_000}, 0),
}


@pytest.mark.parametrize("name", LIGHTGBM)
def test_lightgbm(name: str) -> None:
    params, ulps = LIGHTGBM[name]
    check_lightgbm(train_lightgbm(params), ulps)


def test_linear_leaves_and_categories() -> None:
    """A row whose leaf asks for a feature that is NaN gets the leaf's constant value."""
    params = {"objective": "regression", "linear_tree": True, "linear_lambda": 0.1}
    booster = train_lightgbm(params, category=True)
    text = booster.model_to_string()
    assert "is_linear=1" in text
    assert re.search("num_features=.*[1-9]", text)
    check_lightgbm(booster, 0)


def test_raw_scores_of_an_objective_of_ones_own() -> None:
    def squared(scores: Array, data: Any) -> tuple[Array, Array]:
        return scores - data.get_label(), np.ones_like(scores)

    check_lightgbm(train_lightgbm({"objective": squared}), 0)


def test_lightgbm_with_windows_ends_of_lines() -> None:
    text = train_lightgbm({"objective": "binary"}, 2).model_to_string()
    a, b = (naru.compile(t.encode(), cache=False) for t in (text, text.replace("\n", "\r\n")))
    x = unseen(20, 20)
    assert np.array_equal(np.asarray(a(x)), np.asarray(b(x)))


@pytest.mark.parametrize(
    ("name", "ulps"), [("2.2.3-zeros", 0), ("2.3.1-classes", 8), ("3.3.5-linear", 0)]
)
def test_files_of_other_versions(name: str, ulps: float) -> None:
    """Models, rows and predictions that these versions wrote."""
    path = FILES / f"lightgbm-{name}.txt"
    wanted = np.load(path.with_suffix(".npz"))
    check_close(naru.compile(path, cache=False)(wanted["x"]), wanted["prediction"], ulps)


@pytest.mark.parametrize(
    "params",
    [
        {"objective": "binary", "sigmoid": 1.5},
        {"objective": "poisson"},
        {"objective": "multiclass", "num_class": 3, "linear_tree": True},
    ],
    ids=lambda p: p["objective"],
)
def test_raw_scores_are_equal_to_the_last_bit(params: dict[str, Any]) -> None:
    booster = train_lightgbm(params)
    forest = read_lightgbm(booster.model_to_string().encode())
    model = open_graph(forest_graph(replace(forest, output=lambda s: s), "raw", "LightGBM"))
    x = unseen(100, 3)
    check_close(model(x), booster.predict(x, raw_score=True), 0)


@pytest.mark.parametrize("most", [1, 4])
def test_lightgbm_categories(most: int) -> None:
    """Splits by one category, and by sets of them."""
    params = {"objective": "regression", "max_cat_to_onehot": most, "min_data_per_group": 1}
    check_lightgbm(train_lightgbm({**params, "cat_smooth": 0}, category=True), 0)


PARAMETERS = st.fixed_dictionaries(
    {
        "num_leaves": st.integers(2, 40),
        "max_depth": st.integers(1, 12),
        "zero_as_missing": st.booleans(),
        "use_missing": st.booleans(),
        "extra_trees": st.booleans(),
        "linear_tree": st.booleans(),
        "boosting": st.sampled_from(["gbdt", "dart", "rf"]),
        "bagging_freq": st.just(1),
        "bagging_fraction": st.just(0.8),
        "seed": st.integers(0, 100),
    }
)


OBJECTIVES = st.sampled_from(
    [
        ({"objective": "regression"}, 0),
        ({"objective": "regression", "reg_sqrt": True}, 0),
        ({"objective": "binary", "sigmoid": 0.7}, 4),
        ({"objective": "multiclass", "num_class": 3}, 8),
        ({"objective": "poisson"}, 4),
    ]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(params=PARAMETERS, objective=OBJECTIVES, category=st.booleans(), rounds=st.integers(1, 15))
def test_lightgbm_of_any_parameters(
    params: dict[str, Any], objective: tuple[dict[str, Any], float], category: bool, rounds: int
) -> None:
    if params["linear_tree"]:  # LightGBM refuses the two together
        params = {**params, "zero_as_missing": False}
    booster = train_lightgbm({**params, **objective[0]}, rounds, category=category)
    check_lightgbm(booster, objective[1])


def test_averages_of_large_scores() -> None:
    """A random forest divides its scores by the number of trees: once rounded, not twice, since the
    softmax of scores around 100 makes a hundred units of one."""
    params = {
        "boosting": "rf",
        "bagging_freq": 1,
        "bagging_fraction": 0.8,
        "linear_tree": True,
        "seed": 28,
    }
    booster = train_lightgbm(
        {**params, "num_leaves": 7, "max_depth": 4, "objective": "multiclass", "num_class": 3}, 3
    )
    x = unseen(100, 3)
    check_close(naru.compile(booster, cache=False)(x), booster.predict(x), 8)


def test_broken_lightgbm() -> None:
    text = train_lightgbm({"objective": "binary"}, 2).model_to_string()
    for old, new, words in (
        ("version=v4", "version=v9", "of version v2, v3, v4, found v9"),
        ("end of trees", "", "ends before 'end of trees'"),
        (
            "max_feature_idx=7",
            "max_feature_idx=1",
            "feature_names: expected 2 names, found 8",
        ),
        ("max_feature_idx=7", "max_feature_idx=x", "max_feature_idx: expected a whole number"),
        ("num_leaves=", "num_leaves=9", "expected 9.* numbers, found"),
        ("left_child=", "left_child=99 ", "left_child: expected"),
        ("threshold=", "threshold=x", "tree 0: threshold: expected numbers, found x"),
        ("objective=binary", "objective=cubic", "the objective 'cubic'"),
        ("is_linear=0", "is_linear=1", "tree 0: num_features: expected .* numbers, found 0"),
        ("decision_type=", "decision_type=16 ", "tree 0: decision_type: expected"),
        ("Tree=1", "Tree", "expected 2 trees, found 1"),
        ("feature_names=", "feature_names=a ", "feature_names: expected 8 names, found 9"),
        ("tree_per_iteration=1", "tree_per_iteration=999999999", "expected at most 65536, found"),
        ("max_feature_idx=7", "max_feature_idx=999999999", "expected at most 4194304, found"),
        ("num_leaves=30", "num_leaves=999999999", "tree 0: split_feature: expected 999999998"),
        ("num_leaves=30", "num_leaves=" + "9" * 10_000, "tree 0: num_leaves: expected a whole"),
        ("num_leaves=30", "num_leaves=30\nnum_leaves=30", "tree 0: 'num_leaves' is there twice"),
        ("sigmoid:1", "sigmoid:-1", "objective: expected a sigmoid above 0"),
        ("sigmoid:1", "num_class:7", "objective: expected num_class:1"),
        ("version=v4", "version=v4\nversion=v4", "the header: 'version' is there twice"),
        ("end of trees", "end of trees \udcff", "expected UTF-8, found byte 0xff"),
    ):
        with pytest.raises((ModelError, UnsupportedError), match=words):
            read_model(text.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    for size in range(5, text.index("end of trees"), 97):
        with pytest.raises(NaruError):
            read_model(text[:size].encode())


STUMPS = """tree
version=v4
num_class=1
num_tree_per_iteration=1
max_feature_idx=1
objective=regression

Tree=0
num_leaves=3
num_cat=0
split_feature=0 1
threshold=0.5 -1
decision_type=2 2
left_child=1 -1
right_child=-3 -2
leaf_value=1 2 4
is_linear=0

Tree=1
num_leaves=1
num_cat=0
leaf_value=8

end of trees
"""


def test_a_file_written_by_hand() -> None:
    """A tree of three leaves and one of a single leaf; what predictions ask for is there."""
    model = naru.compile(STUMPS.encode(), cache=False)
    x = np.array([[0.5, -1.0], [0.5, 0.0], [0.6, -1.0], [np.nan, np.nan]])
    assert np.asarray(model(x)).tolist() == [9.0, 10.0, 12.0, 10.0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("left_child=1 -1", "left_child=0 -1", "tree 0: a child of node 0 is below two nodes"),
        ("left_child=1 -1", "left_child=1 0", "tree 0: a child of node 1 is below two nodes"),
        ("left_child=1 -1", "left_child=1 1", "tree 0: a child of node 0 is below two nodes"),
        ("left_child=1 -1", "left_child=1 -2", "tree 0: a child of node 1 is below two nodes"),
        ("left_child=1 -1", "left_child=2 -1", "left_child, node 0: expected a node or leaf of"),
        ("left_child=1 -1", "left_child=1 -4", "left_child, node 1: expected a node or leaf of"),
        ("left_child=1 -1", "left_child=1", "tree 0: left_child: expected 2 numbers, found 1"),
        ("threshold=0.5", "threshold=nan", "tree 0: threshold, node 0: expected numbers"),
        ("split_feature=0", "split_feature=-1", "split_feature, node 0: expected features in 0..1"),
        ("split_feature=0", "split_feature=" + "9" * 10_000, "split_feature, node 0: expected"),
        ("split_feature=0", "split_feature=0.5", "tree 0: split_feature: expected numbers, found"),
        ("decision_type=2", "decision_type=1", "tree 0: num_cat: expected a whole number"),
        ("decision_type=2", "decision_type=12", "decision_type, node 0: expected numbers in 0..11"),
        ("leaf_value=8", "leaf_value=", "tree 1: leaf_value: expected 1 numbers, found 0"),
        ("leaf_value=8", "leaf_value=8_0", "tree 1: leaf_value: expected numbers, found 8_0"),
        ("num_leaves=1\n", "num_leaves=0\n", "tree 1: num_leaves: expected a whole number"),
    ],
)
def test_trees_that_are_none(old: str, new: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_model(STUMPS.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    ("kind", "threshold", "want"),
    [(6, -5, [9, 9, 12, 9, 9]), (4, 5, [12, 12, 10, 12, 9])],
    ids=["default left", "default right"],
)
def test_missing_values_far_from_the_threshold(kind: int, threshold: int, want: list[int]) -> None:
    """What is around zero, and NaN, goes the default way, though the threshold sends it the other;
    for one row and for many."""
    text = STUMPS.replace("decision_type=2 2", f"decision_type={kind} 2")
    text = text.replace("threshold=0.5", f"threshold={threshold}")
    x = np.array([[np.nan, -3.0], [1e-36, -3.0], [-1.0, 5.0], [0.0, -3.0], [-6.0, -3.0]])
    model = naru.compile(text.encode(), cache=False)
    assert np.asarray(model(x)).tolist() == want
    assert np.asarray(model(np.tile(x, (40, 1)))).tolist() == want * 40
    assert [np.asarray(model(x[k : k + 1])).item() for k in range(5)] == want


def test_infinite_thresholds_and_leaves() -> None:
    """They mean something: all, or nothing, is at most an infinite number."""
    text = STUMPS.replace("threshold=0.5 -1", "threshold=inf -inf").replace("1 2 4", "inf 2 4")
    x = np.array([[np.inf, -np.inf], [1.0, 1.0], [-np.inf, -np.inf]])
    assert np.asarray(naru.compile(text.encode(), cache=False)(x)).tolist() == [np.inf, 10, np.inf]


def test_the_json_of_dump_model_is_refused() -> None:
    booster = train_lightgbm({"objective": "binary"}, 1)
    with pytest.raises(ModelError, match="found the JSON of dump_model") as e:
        read_model(json.dumps(booster.dump_model()).encode())
    assert "save_model" in str(e.value)
