"""XGBoost's models against its own predictions: sums of leaves to the last bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import naru
from naru.errors import ModelError, NaruError, UnsupportedError
from naru.frontend.forest import forest_graph
from naru.frontend.source import read_model
from naru.frontend.xgboost import read_xgboost
from naru.ir.text import print_graph
from tests.frontend.boosting_tables import (
    CATEGORY,
    check_close,
    matrix,
    open_graph,
    table,
    train_xgboost,
    unseen,
)

FILES = Path(__file__).parent / "boosting_files"


def check_xgboost(booster: Any, ulps: float, *, category: bool = False) -> None:
    """As JSON and as UBJSON, which say the same."""
    graphs = [read_model(bytes(booster.save_raw(form))) for form in ("json", "ubj")]
    assert print_graph(graphs[0]) == print_graph(graphs[1])
    model = open_graph(graphs[1])
    assert model.inputs[0].dtype == "float32"
    for rows in (1, 3, 200):
        x = unseen(rows, rows)
        if category:  # xgboost refuses negative ones
            x[:, CATEGORY] = np.abs(x[:, CATEGORY]) % 60
        want = booster.predict(matrix(x, category=category))
        check_close(model(x.astype(np.float32)), want, ulps)


VECTORS = {"multi_strategy": "multi_output_tree", "tree_method": "hist"}
# How many ulps the transform of the scores may be off: sums are exact.
XGBOOST: dict[str, tuple[dict[str, Any], float]] = {
    "regression": ({"objective": "reg:squarederror"}, 0),
    "linear regression": ({"objective": "reg:linear"}, 0),
    "base score": ({"objective": "reg:squarederror", "base_score": 0.25}, 0),
    "logarithms": ({"objective": "reg:squaredlogerror"}, 0),
    "huber": ({"objective": "reg:pseudohubererror"}, 0),
    "l1": ({"objective": "reg:absoluteerror"}, 0),
    "quantile": ({"objective": "reg:quantileerror", "quantile_alpha": 0.3}, 0),
    "quantiles": ({"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9]}, 0),
    "quantiles as vectors": (
        {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9], **VECTORS}, 0,
    ),
    "binary": ({"objective": "binary:logistic"}, 4),
    "binary from 0.123": ({"objective": "binary:logistic", "base_score": 0.123}, 4),
    "logistic regression": ({"objective": "reg:logistic"}, 4),
    "scores": ({"objective": "binary:logitraw"}, 0),
    "hinge": ({"objective": "binary:hinge"}, 0),
    "poisson": ({"objective": "count:poisson"}, 4),
    "gamma": ({"objective": "reg:gamma"}, 4),
    "tweedie": ({"objective": "reg:tweedie"}, 4),
    "classes": ({"objective": "multi:softmax", "num_class": 3}, 0),
    "hazards": ({"objective": "survival:cox"}, 4),
    "times": ({"objective": "survival:aft"}, 4),
    "pairs": ({"objective": "rank:pairwise"}, 0),
    "gains": ({"objective": "rank:ndcg"}, 0),
    "precision": ({"objective": "rank:map"}, 0),
    "multiclass": ({"objective": "multi:softprob", "num_class": 4}, 8),
    "multiclass as vectors": ({"objective": "multi:softprob", "num_class": 4, **VECTORS}, 8),
    "targets": ({"objective": "reg:squarederror", "targets": 3}, 0),
    "targets as vectors": ({"objective": "reg:squarederror", "targets": 3, **VECTORS}, 0),
    "dart": ({"objective": "reg:squarederror", "booster": "dart", "rate_drop": 0.3}, 0),
    "dart of classes": (
        {"objective": "multi:softprob", "num_class": 3, "booster": "dart", "rate_drop": 0.3}, 8,
    ),
    "forest": ({"objective": "reg:squarederror", "num_parallel_tree": 4, "subsample": 0.5}, 0),
    "exact": ({"objective": "reg:squarederror", "tree_method": "exact", "gamma": 1.0}, 0),
    "leaves": ({"objective": "reg:squarederror", "grow_policy": "lossguide", "max_leaves": 20}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", XGBOOST)
def test_xgboost(name: str) -> None:
    params, ulps = XGBOOST[name]
    check_xgboost(train_xgboost(params), ulps)


@pytest.mark.parametrize(
    "params",
    [
        {"objective": "binary:logistic", "base_score": 0.123},
        {"objective": "reg:tweedie"},
        {"objective": "multi:softprob", "num_class": 3, "booster": "dart", "rate_drop": 0.5},
        {"objective": "multi:softprob", "num_class": 3, **VECTORS},
    ],
    ids=lambda p: p["objective"],
)
def test_raw_scores_are_equal_to_the_last_bit(params: dict[str, Any]) -> None:
    booster = train_xgboost(params)
    forest = read_xgboost(bytes(booster.save_raw("ubj")))
    model = open_graph(forest_graph(replace(forest, output=lambda s: s), "raw", "XGBoost"))
    x = unseen(100, 3).astype(np.float32)
    check_close(model(x), booster.predict(matrix(x), output_margin=True), 0)


@pytest.mark.parametrize("most", [1, 100])
def test_xgboost_categories(most: int) -> None:
    """Sets of categories, and single ones; fractions, and codes that training has not seen."""
    params = {"objective": "reg:squarederror", "max_cat_to_onehot": most}
    check_xgboost(train_xgboost(params, category=True), 0, category=True)


def test_codes_that_are_no_categories_go_left() -> None:
    """Negative ones and such from 2**24 on belong to no set; `inplace_predict` takes them."""
    params = {"objective": "reg:squarederror", "max_cat_to_onehot": 1}
    booster = train_xgboost(params, category=True)
    model = naru.compile(bytes(booster.save_raw("ubj")), cache=False)
    x = table(40, 2).astype(np.float32)
    x[:, CATEGORY] = np.resize([-1, -0.5, 2**24, 1e30, np.inf, np.nan, -0.0, 39, 40], 40)
    check_close(model(x), booster.inplace_predict(x, validate_features=False), 0)


LINEAR = [
    {"objective": "reg:squarederror"},
    {"objective": "binary:logistic"},
    {"objective": "multi:softprob", "num_class": 3},
]


@pytest.mark.parametrize("params", LINEAR, ids=lambda p: p["objective"])
def test_linear_booster(params: dict[str, Any]) -> None:
    """A matrix product, whose sums are rounded in an order of its own; NaN counts as 0."""
    booster = train_xgboost({"booster": "gblinear", **params})
    for form in ("json", "ubj"):
        model = naru.compile(bytes(booster.save_raw(form)), cache=False)
        for rows in (0, 1, 200):
            x = table(rows, 2).astype(np.float32)
            made, want = np.asarray(model(x)), booster.predict(matrix(x)) if rows else None
            if want is not None:
                assert made.shape == want.shape
                np.testing.assert_allclose(made, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "ulps"),
    [
        ("1.3.3-logistic.json", 4),
        ("1.7.6-dart.json", 0),
        ("1.7.6-categories.ubj", 0),
        ("2.1.4-vectors.ubj", 0),
        ("3.0.5-classes.ubj", 8),
    ],
)
def test_files_of_other_versions(name: str, ulps: float) -> None:
    """Models, rows and predictions that these versions wrote."""
    path = FILES / f"xgboost-{name}"
    wanted = np.load(path.with_suffix(".npz"))
    model = naru.compile(path.read_bytes(), cache=False)
    check_close(model(wanted["x"]), wanted["prediction"], ulps)


@pytest.mark.parametrize("name", ["1.3.3-binary.model", "2.1.4-binary.deprecated"])
def test_the_binary_format_is_refused(name: str) -> None:
    for data in ((FILES / f"xgboost-{name}").read_bytes(), b"CONFIG-offset:" + bytes(100)):
        with pytest.raises(ModelError, match="found the binary format of old") as e:
            read_model(data)
        assert 'save_model("model.json")' in str(e.value)
    whole = (FILES / f"xgboost-{name}").read_bytes()
    with pytest.raises(ModelError, match="found the binary format of old"):
        read_model(whole.removeprefix(b"binf"))


PARAMETERS = st.fixed_dictionaries(
    {
        "max_depth": st.integers(1, 8),
        "eta": st.floats(0.05, 1.0),
        "tree_method": st.sampled_from(["hist", "approx"]),
        "grow_policy": st.sampled_from(["depthwise", "lossguide"]),
        "booster": st.sampled_from(["gbtree", "dart"]),
        "num_parallel_tree": st.integers(1, 3),
        "subsample": st.floats(0.4, 1.0),
        "rate_drop": st.just(0.3),
        "max_cat_to_onehot": st.sampled_from([1, 100]),
        "seed": st.integers(0, 100),
    }
)
OBJECTIVES = st.sampled_from(
    [
        ({"objective": "reg:squarederror"}, 0),
        ({"objective": "reg:squarederror", "targets": 2}, 0),
        ({"objective": "binary:logistic"}, 4),
        ({"objective": "multi:softprob", "num_class": 3}, 8),
        ({"objective": "reg:tweedie"}, 4),
    ]
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(params=PARAMETERS, objective=OBJECTIVES, category=st.booleans(), rounds=st.integers(1, 8))
def test_xgboost_of_any_parameters(
    params: dict[str, Any], objective: tuple[dict[str, Any], float], category: bool, rounds: int
) -> None:
    booster = train_xgboost({**params, **objective[0]}, rounds, category=category)
    check_xgboost(booster, objective[1], category=category)


def test_infinite_thresholds_and_such_that_are_nan() -> None:
    """They mean what they mean there: nothing is below NaN."""
    booster = train_xgboost({"objective": "reg:squarederror", "max_depth": 3}, 3)
    whole = json.loads(booster.save_raw("json"))
    for tree, value in zip(
        whole["learner"]["gradient_booster"]["model"]["trees"], ["nan", "inf", "-inf"], strict=True
    ):
        tree["split_conditions"][0] = float(value)
    data = json.dumps(whole).encode()
    x = unseen(50, 3).astype(np.float32)
    want = xgboost.Booster(model_file=bytearray(data)).predict(matrix(x))
    check_close(naru.compile(data, cache=False)(x), want, 0)


def test_broken_xgboost() -> None:
    booster = train_xgboost({"objective": "binary:logistic"}, 2)
    text = bytes(booster.save_raw("json")).decode()

    def broken(path: str, value: object) -> bytes:
        whole = json.loads(text)
        at: Any = whole
        *inner, last = path.split(".")
        for key in inner:
            at = at[int(key) if key.isdigit() else key]
        at[int(last) if last.isdigit() else last] = value
        return json.dumps(whole).encode()

    tree = "learner.gradient_booster.model.trees.0"
    for path, value, words in (
        ("learner.objective.name", "reg:cubic", "the objective 'reg:cubic'"),
        ("learner.gradient_booster.name", "gbforest", "the booster 'gbforest'"),
        (
            "learner.learner_model_param.num_feature",
            "1",
            "split_indices, node .: expected features in 0..0",
        ),
        ("learner.learner_model_param.num_feature", 4, "num_feature: expected a whole number"),
        ("learner.learner_model_param.base_score", "x", "base_score: expected a number"),
        ("learner.gradient_booster.model.trees", [], "expected at least one tree"),
        ("learner.gradient_booster.model.tree_info", [7, 7], "expected classes in 0..0"),
        (f"{tree}.left_children", [5000], "expected 1 numbers"),
        (f"{tree}.split_conditions", "x", "split_conditions: expected"),
        ("learner", 5, "learner: expected an object, found 5"),
        ("learner.feature_names", ["a"], "feature_names: expected 8 names, found 1"),
        ("learner.learner_model_param.num_class", "999999999", "num_class: expected at most 65536"),
        ("learner.learner_model_param.num_target", "999999", "num_target: expected at most 65536"),
        ("learner.learner_model_param.num_feature", "999999999", "num_feature: expected at most"),
        ("learner.learner_model_param.base_score", "nan", "base_score: expected a number"),
        ("learner.learner_model_param.base_score", "[0.5,0.5]", "base_score: expected a number"),
        ("learner.learner_model_param.base_score", "2", "base_score: expected a number"),
        (f"{tree}.left_children.0", 0, "tree 0: node 0 is below two nodes, or below itself"),
        (f"{tree}.left_children.0", 2, "tree 0: node 2 is below two nodes, or below itself"),
        (f"{tree}.left_children.0", 5000, "left_children, node 0: expected the number of a node"),
        (f"{tree}.left_children.0", 1.5, "left_children, node 0: expected whole numbers"),
        (f"{tree}.left_children", [], "tree 0: left_children: expected at least one node"),
        (f"{tree}.left_children", None, "tree 0: left_children: expected at least one node"),
        (f"{tree}.right_children.0", -7, "right_children, node 0: expected the number of a node"),
        (f"{tree}.split_indices.0", 8, "split_indices, node 0: expected features in 0..7, found 8"),
        (f"{tree}.split_indices.0", 1e300, "split_indices, node 0: expected whole numbers"),
        (f"{tree}.categories_nodes", [0], "categories_segments: expected 1 numbers"),
        (f"{tree}.tree_param.size_leaf_vector", "2", "size_leaf_vector: expected 1 in all trees"),
    ):
        with pytest.raises((ModelError, UnsupportedError), match=words):
            read_model(broken(path, value))
    for size in range(20, len(text), 997):
        with pytest.raises(NaruError):
            read_model(text[:size].encode())
