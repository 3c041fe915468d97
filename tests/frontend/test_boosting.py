"""LightGBM's and XGBoost's models against their own predictions: sums of leaves to the last bit."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import naru
from naru.cli import main
from naru.errors import ModelError, NaruError, UnsupportedError
from naru.frontend.source import kind_of, read_model

Array = np.ndarray
FEATURES = 8
CATEGORY = 3  # which of them


def table(rows: int, seed: int) -> Array:
    """Rows with missing values, zeros, values that are nearly zero, and a category."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES))
    x[rng.random(x.shape) < 0.15] = 0.0
    x[rng.random(x.shape) < 0.02] = 1e-36
    x[:, CATEGORY] = rng.integers(0, 40, rows)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


def targets(x: Array, classes: int) -> Array:
    y = np.nan_to_num(x[:, 0]) * 2 + np.nan_to_num(x[:, 1]) * (np.nan_to_num(x[:, CATEGORY]) % 3)
    return np.digitize(y, np.quantile(y, np.arange(1, classes) / classes)).astype(float)


def unseen(rows: int, seed: int) -> Array:
    """Rows with categories that training has not seen, negative ones, and such with fractions."""
    rng = np.random.default_rng(seed)
    x = table(rows, seed) * 1.5
    x[:, CATEGORY] = rng.integers(-3, 60, rows) + rng.choice([0, 0.5], rows)
    x[::7, CATEGORY] = np.nan
    x[1::9] = 0.0
    return x


# ---- LightGBM ----


def train_lightgbm(params: dict[str, Any], rounds: int = 20, *, category: bool = False) -> Any:
    x = table(600, 1)
    y = targets(x, params.get("num_class", 2)) + (params["objective"] in ("poisson", "gamma"))
    data = lightgbm.Dataset(x, y, categorical_feature=[CATEGORY] if category else "auto")
    common = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5, "deterministic": True}
    return lightgbm.train({**common, **params}, data, rounds)


def check_lightgbm(booster: Any, ulps: float) -> None:
    model = naru.compile(booster.model_to_string().encode(), cache=False)
    assert model.inputs[0].dtype == "float64"
    for rows in (1, 3, 200):
        x = unseen(rows, rows)
        got, want = np.asarray(model(x)), booster.predict(x)
        assert got.shape == want.shape
        assert (np.abs(got - want) <= ulps * np.spacing(np.abs(want))).all()


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
    "multiclass": ({"objective": "multiclass", "num_class": 4}, 8),
    "one versus all": ({"objective": "multiclassova", "num_class": 3}, 4),
    "dart": ({"objective": "regression", "boosting": "dart"}, 0),
    "forest": (
        {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7},
        0,
    ),
    "stumps of one leaf": ({"objective": "regression", "min_data_in_leaf": 10_000}, 0),
}


@pytest.mark.parametrize("name", LIGHTGBM)
def test_lightgbm(name: str) -> None:
    params, ulps = LIGHTGBM[name]
    check_lightgbm(train_lightgbm(params), ulps)


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
        "seed": st.integers(0, 100),
    }
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(params=PARAMETERS, category=st.booleans(), rounds=st.integers(1, 15))
def test_lightgbm_of_any_parameters(params: dict[str, Any], category: bool, rounds: int) -> None:
    booster = train_lightgbm({"objective": "regression", **params}, rounds, category=category)
    check_lightgbm(booster, 0)


# ---- XGBoost ----


def matrix(x: Array, y: Array | None = None, *, category: bool = False) -> Any:
    kinds = ["c" if category and k == CATEGORY else "q" for k in range(FEATURES)]
    single = x.astype(np.float32)
    return xgboost.DMatrix(single, y, feature_types=kinds, enable_categorical=category)


def train_xgboost(params: dict[str, Any], rounds: int = 15, *, category: bool = False) -> Any:
    x = table(600, 1)
    y = targets(x, params.get("num_class", 2)) + (
        params["objective"] in ("reg:gamma", "survival:cox")
    )
    common = {"nthread": 1, "seed": 3}
    return xgboost.train({**common, **params}, matrix(x, y, category=category), rounds)


def check_xgboost(booster: Any, ulps: float, *, category: bool = False) -> None:
    model = naru.compile(bytes(booster.save_raw("json")), cache=False)
    assert model.inputs[0].dtype == "float32"
    for rows in (1, 3, 200):
        x = unseen(rows, rows)
        if category:  # xgboost refuses negative ones
            x[:, CATEGORY] = np.abs(x[:, CATEGORY]) % 40
        got, want = (
            np.asarray(model(x.astype(np.float32))),
            booster.predict(matrix(x, category=category)),
        )
        assert got.shape == want.shape
        assert (np.abs(got - want) <= ulps * np.spacing(np.abs(want))).all()


XGBOOST: dict[str, tuple[dict[str, Any], float]] = {
    "regression": ({"objective": "reg:squarederror"}, 0),
    "base score": ({"objective": "reg:squarederror", "base_score": 0.25}, 0),
    "l1": ({"objective": "reg:absoluteerror"}, 0),
    "quantile": ({"objective": "reg:quantileerror", "quantile_alpha": 0.3}, 0),
    "binary": ({"objective": "binary:logistic"}, 4),
    "scores": ({"objective": "binary:logitraw"}, 0),
    "hinge": ({"objective": "binary:hinge"}, 0),
    "poisson": ({"objective": "count:poisson"}, 4),
    "gamma": ({"objective": "reg:gamma"}, 4),
    "tweedie": ({"objective": "reg:tweedie"}, 4),
    "classes": ({"objective": "multi:softmax", "num_class": 3}, 0),
    "hazards": ({"objective": "survival:cox"}, 4),
    "multiclass": ({"objective": "multi:softprob", "num_class": 4}, 8),
    "dart": ({"objective": "reg:squarederror", "booster": "dart", "rate_drop": 0.3}, 0),
    "forest": ({"objective": "reg:squarederror", "num_parallel_tree": 4, "subsample": 0.5}, 0),
    "exact": ({"objective": "reg:squarederror", "tree_method": "exact"}, 0),
    "leaves": ({"objective": "reg:squarederror", "grow_policy": "lossguide", "max_leaves": 20}, 0),
}


@pytest.mark.parametrize("name", XGBOOST)
def test_xgboost(name: str) -> None:
    params, ulps = XGBOOST[name]
    check_xgboost(train_xgboost(params), ulps)


@pytest.mark.parametrize("most", [1, 100])
def test_xgboost_categories(most: int) -> None:
    params = {"objective": "reg:squarederror", "max_cat_to_onehot": most}
    check_xgboost(train_xgboost(params, category=True), 0, category=True)


# ---- files ----


def test_files_are_told_by_how_they_begin(tmp_path: Path) -> None:
    """Whatever they are called; the cache and `naru.build` know them as well."""
    light, extreme = (
        train_lightgbm({"objective": "binary"}),
        train_xgboost({"objective": "reg:squarederror"}),
    )
    light.save_model(tmp_path / "model.any")
    extreme.save_model(tmp_path / "model.json")
    assert kind_of(tmp_path / "model.any") == "LightGBM"
    assert kind_of(tmp_path / "model.json") == "XGBoost"
    x = unseen(5, 5)
    first, again = (naru.compile(tmp_path / "model.any") for _ in range(2))
    assert np.array_equal(np.asarray(first(x)), np.asarray(again(x)))
    assert first.outputs[0].shape == ("rows",)
    made = naru.build(tmp_path / "model.json", tmp_path / "dist")
    assert made.provenance["inputs"][0]["shape"] == ["rows", FEATURES]
    top = naru.compile(
        train_lightgbm({"objective": "multiclass", "num_class": 3}).model_to_string().encode(),
        top=1, labels=["a", "b", "c"],
    )  # fmt: skip
    assert [o.name for o in top.outputs] == [
        "prediction",
        "prediction_top_scores",
        "prediction_top_classes",
    ]


@pytest.mark.parametrize("verb", ["check", "verify", "bench"])
def test_verbs_for_onnx_say_so(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_lightgbm({"objective": "binary"}, 1).save_model(tmp_path / "m.txt")
    assert main([verb, str(tmp_path / "m.txt")]) == 1
    assert "m.txt: expected an ONNX model, found one of LightGBM" in capsys.readouterr().err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_xgboost({"objective": "binary:logistic"}, 1).save_model(tmp_path / "m.json")
    np.save(tmp_path / "x.npy", table(3, 3).astype(np.float32))
    assert main(["run", str(tmp_path / "m.json"), "--input", str(tmp_path / "x.npy")]) == 0
    assert "prediction: float32[3]" in capsys.readouterr().out


def test_broken_lightgbm() -> None:
    text = train_lightgbm({"objective": "binary"}, 2).model_to_string()
    for old, new, words in (
        ("version=v4", "version=v9", "of version v3 or v4, found v9"),
        ("end of trees", "", "ends before 'end of trees'"),
        ("max_feature_idx=7", "max_feature_idx=1", "asks for feature"),
        ("max_feature_idx=7", "max_feature_idx=x", "max_feature_idx: expected a whole number"),
        ("num_leaves=", "num_leaves=9", "expected .* numbers, found"),
        ("left_child=", "left_child=99 ", "left_child: expected"),
        ("threshold=", "threshold=x ", "threshold: expected"),
        ("objective=binary", "objective=cubic", "the objective 'cubic'"),
        ("is_linear=0", "is_linear=1", "linear trees"),
        ("Tree=1", "Tree", "expected 2 trees, found 1"),
    ):
        with pytest.raises((ModelError, UnsupportedError), match=words):
            read_model(text.replace(old, new, 1).encode())
    for size in range(5, text.index("end of trees"), 97):
        with pytest.raises(NaruError):
            read_model(text[:size].encode())


@pytest.mark.parametrize("kind", ["LightGBM", "XGBoost"])
def test_damaged_files_are_read_or_refused(kind: str) -> None:
    """Digits, bytes and pieces changed at random: a graph, or a NaruError."""
    if kind == "LightGBM":
        params = {"objective": "multiclass", "num_class": 2, "num_leaves": 5}
        data = train_lightgbm(params, 2, category=True).model_to_string().encode()
    else:
        params = {"objective": "multi:softprob", "num_class": 2, "max_depth": 2}
        data = bytes(train_xgboost(params, 2, category=True).save_raw("json"))
    rng = np.random.default_rng(7)
    read = 0
    for case in range(400):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data) - 60))
            if case % 3 == 0:
                changed[at] = rng.integers(256)
            elif case % 3 == 1:
                digits = [k for k in range(at, at + 60) if chr(changed[k]).isdigit()]
                changed[digits[0] if digits else at] = rng.choice(list(b"0123456789-"))
            else:
                changed[at : at + int(rng.integers(1, 30))] = changed[: int(rng.integers(0, 3))]
                changed += bytes(60)
        with suppress(NaruError):
            read_model(bytes(changed))
            read += 1
    assert 0 < read < 400


def test_broken_xgboost() -> None:
    booster = train_xgboost({"objective": "binary:logistic"}, 2)
    with pytest.raises(ModelError, match="as UBJSON") as e:
        read_model(bytes(booster.save_raw("ubj")))
    assert "model.json" in str(e.value)
    text = bytes(booster.save_raw("json")).decode()

    def broken(path: str, value: object) -> bytes:
        whole = json.loads(text)
        at: Any = whole
        *inner, last = path.split(".")
        for key in inner:
            at = at[int(key) if key.isdigit() else key]
        at[last] = value
        return json.dumps(whole).encode()

    tree = "learner.gradient_booster.model.trees.0"
    for path, value, words in (
        ("learner.objective.name", "reg:cubic", "the objective 'reg:cubic'"),
        ("learner.gradient_booster.name", "gblinear", "the booster 'gblinear'"),
        ("learner.learner_model_param.num_feature", "1", "asks for feature"),
        ("learner.learner_model_param.num_feature", 4, "num_feature: expected a whole number"),
        ("learner.learner_model_param.base_score", "x", "base_score: expected a number"),
        ("learner.gradient_booster.model.trees", [], "expected at least one tree"),
        ("learner.gradient_booster.model.tree_info", [7, 7], "expected classes in 0..0"),
        (f"{tree}.left_children", [5000], "expected"),
        (f"{tree}.split_conditions", "x", "split_conditions: expected"),
        ("learner", 5, "learner: expected an object, found 5"),
    ):
        with pytest.raises((ModelError, UnsupportedError), match=words):
            read_model(broken(path, value))
    for size in range(20, len(text), 997):
        with pytest.raises(NaruError):
            read_model(text[:size].encode())
