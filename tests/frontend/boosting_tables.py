"""Tables to train on, and how predictions are compared, for the tests of boosting libraries."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import xgboost

from naru.compiler import choose_target
from naru.ir.graph import Graph
from naru.options import Options
from naru.pipeline import build
from naru.processing import NOTHING
from naru.runtime.model import Model
from naru.runtime.session import open_model

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


def train_lightgbm(params: dict[str, Any], rounds: int = 20, *, category: bool = False) -> Any:
    """`group`: the rows are two groups, for objectives of ranks."""
    x = table(600, 1)
    y = targets(x, params.get("num_class", 2)) + (params["objective"] in ("poisson", "gamma"))
    group = [300, 300] if params.get("group") else None
    data = lightgbm.Dataset(
        x, y, group=group, categorical_feature=[CATEGORY] if category else "auto"
    )
    common = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5, "deterministic": True}
    given = {k: v for k, v in params.items() if k != "group"}
    return lightgbm.train({**common, **given}, data, rounds)


def matrix(x: Array, y: Array | None = None, *, category: bool = False) -> Any:
    kinds = ["c" if category and k == CATEGORY else "q" for k in range(FEATURES)]
    single = x.astype(np.float32)
    return xgboost.DMatrix(single, y, feature_types=kinds, enable_categorical=category)


def train_xgboost(params: dict[str, Any], rounds: int = 15, *, category: bool = False) -> Any:
    """`targets`: how many of them, each a function of the first."""
    x = table(600, 1)
    y = targets(x, params.get("num_class", 2)) + (
        params["objective"] in ("reg:gamma", "survival:cox", "survival:aft")
    )
    if (count := params.get("targets", 1)) > 1:
        y = np.stack([y, *((y == k) for k in range(count - 1))], axis=1)
    data = matrix(x, y, category=category)
    if params["objective"].startswith("rank:"):
        data.set_group([300, 300])
    if params["objective"] == "survival:aft":
        data.set_float_info("label_lower_bound", y)
        data.set_float_info("label_upper_bound", y + 1)
    given = {k: v for k, v in params.items() if k != "targets"}
    return xgboost.train({"nthread": 1, "seed": 3, "verbosity": 0, **given}, data, rounds)


def open_graph(graph: Graph) -> Model:
    return open_model(build(graph, Options(choose_target(None), "fp32", NOTHING)))


def check_close(got: object, want: Array, ulps: float) -> None:
    """Of one shape and dtype, and no further apart than so many units in the last place."""
    made = np.asarray(got)
    assert made.shape == want.shape
    assert made.dtype == want.dtype
    finite = np.isfinite(want)
    assert np.array_equal(made[~finite], want[~finite], equal_nan=True)
    apart = np.abs(made[finite] - want[finite])
    assert (apart <= ulps * np.spacing(np.abs(want[finite]))).all()
