"""Small models of LightGBM and XGBoost, and what may happen when a damaged one is read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from naru.frontend.forest import Forest, Trees, forest_graph
from naru.frontend.lightgbm import read_lightgbm
from naru.frontend.ubjson import read_ubjson
from naru.frontend.xgboost import read_xgboost
from naru.ops.evaluate import evaluate

from .boosting_walks import lightgbm_scores, xgboost_scores

Array = np.ndarray
FEATURES, CATEGORY = 5, 2
WIDEST = 64  # features of a model that is run
LIGHTGBM: tuple[dict[str, Any], ...] = (
    {"objective": "regression"},
    {"objective": "binary", "zero_as_missing": True},
    {"objective": "multiclass", "num_class": 3, "use_missing": False},
    {"objective": "regression", "linear_tree": True},
    {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7},
)
VECTORS = {"multi_strategy": "multi_output_tree", "tree_method": "hist"}
XGBOOST: tuple[dict[str, Any], ...] = (
    {"objective": "reg:squarederror", "max_cat_to_onehot": 1},
    {"objective": "binary:logistic", "max_cat_to_onehot": 100},
    {"objective": "multi:softprob", "num_class": 3, **VECTORS},
    {"objective": "multi:softmax", "num_class": 3, "booster": "dart", "rate_drop": 0.5},
    {"objective": "count:poisson", "booster": "gblinear"},
)


def rows(count: int, features: int) -> Array:
    rng = np.random.default_rng(count + features)
    x = rng.normal(size=(count, features))
    x[rng.random(x.shape) < 0.15] = 0.0
    if features > CATEGORY:
        x[:, CATEGORY] = rng.integers(0, 40, count)
    x[rng.random(x.shape) < 0.15] = np.nan
    return x


def _targets(x: Array) -> Array:
    found = np.nan_to_num(x[:, 0]) * 2 + np.nan_to_num(x[:, 1]) + np.nan_to_num(x[:, CATEGORY]) % 3
    return np.digitize(found, np.quantile(found, [0.3, 0.7])).astype(float)


@cache
def lightgbm_files() -> tuple[bytes, ...]:
    import lightgbm

    x = rows(200, FEATURES)
    made: list[bytes] = []
    for params in LIGHTGBM:
        y = np.minimum(_targets(x), params.get("num_class", 2) - 1)
        data = lightgbm.Dataset(x, y, categorical_feature=[CATEGORY])
        common = {"verbosity": -1, "num_threads": 1, "num_leaves": 5, "min_data_per_group": 1,
                  "cat_smooth": 0, "max_cat_to_onehot": 1}  # fmt: skip
        text = lightgbm.train({**common, **params}, data, 2).model_to_string()
        made.append((text.split("feature_importances")[0] + "\n").encode())
    return tuple(made)


@cache
def xgboost_files() -> tuple[bytes, ...]:
    """As JSON."""
    import xgboost

    x = rows(200, FEATURES)
    made: list[bytes] = []
    for params in XGBOOST:
        categories = "max_cat_to_onehot" in params
        y = np.minimum(_targets(x), params.get("num_class", 2) - 1)
        kinds = ["c" if categories and k == CATEGORY else "q" for k in range(FEATURES)]
        data = xgboost.DMatrix(x, y, feature_types=kinds, enable_categorical=True)
        common = {"nthread": 1, "max_depth": 2, "verbosity": 0}
        made.append(bytes(xgboost.train({**common, **params}, data, 2).save_raw("json")))
    return tuple(made)


def check_lightgbm(data: bytes) -> str:
    return _check(data, read_lightgbm, lambda x: lightgbm_scores(data, x))


def check_xgboost(data: bytes) -> str:
    """(Lists that predictions do not ask for are not read, so the json module may refuse more.)"""

    def walk(x: Array) -> Array | None:
        if data[1:2] in b"iIlLU":
            return xgboost_scores(_as_lists(read_ubjson(data)), x)
        try:
            return xgboost_scores(json.loads(data, parse_int=float), x)
        except json.JSONDecodeError:
            return None

    return _check(data, read_xgboost, walk)


def _as_lists(value: object) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [_as_lists(v) for v in value]
    return {k: _as_lists(v) for k, v in value.items()} if isinstance(value, dict) else value


def _check(
    data: bytes, read: Callable[[bytes], Forest], walk: Callable[[Array], Array | None]
) -> str:
    """Reads a model and compares its raw scores with those of a plain walk. A NaruError passes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forest = read(data)
        if not isinstance(forest, Trees) or forest.features > WIDEST:
            forest_graph(forest, "model", "x")
            return "read"
        raw = replace(forest, output=lambda scores: scores, base=(0.0,), average=1)
        graph = forest_graph(raw, "model", "x")
    x = rows(12, forest.features).astype(forest.dtype)
    with np.errstate(all="ignore"):
        (got,) = evaluate(graph, [x])
        want = walk(x)
    if want is None:
        return "read"
    assert np.array_equal(got.reshape(want.shape), want, equal_nan=True), (got, want)
    return "right"
