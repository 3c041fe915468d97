"""LightGBM's and XGBoost's estimators inside of pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from naru.errors import ModelError, UnsupportedError
from naru.frontend.boosting import forest_bytes
from naru.frontend.forest import Forest, forest_output
from naru.frontend.lightgbm import read_lightgbm
from naru.frontend.sklearn_base import (
    Call,
    Classified,
    Refused,
    converts,
    f64,
    greatest,
    op,
    positive,
    sub,
    two,
    where,
)
from naru.frontend.xgboost import read_xgboost
from naru.ir.graph import Node
from naru.ops.registry import apply


def _forest(read: Callable[[bytes], Forest], e: Any) -> Forest:
    """What a booster, or an estimator, would save."""
    try:
        return read(forest_bytes(e))
    except UnsupportedError as error:
        raise Refused("; ".join(error.problems)) from None
    except ModelError as error:
        raise Refused(str(error)) from None


def _lightgbm(c: Call) -> Node:
    if c.e.booster_.pandas_categorical:
        raise Refused(
            "it was trained on categories of a pandas table",
            "encode them with OrdinalEncoder, and name them in categorical_feature",
        )
    return forest_output(_forest(read_lightgbm, c.e), c.numbers())


@converts("regress", "lightgbm.LGBMRegressor", "lightgbm.LGBMRanker")
def lightgbm_regressor(c: Call) -> Node:
    return _lightgbm(c)


@converts("classify", "lightgbm.LGBMClassifier")
def lightgbm_classifier(c: Call) -> Classified:
    made = _lightgbm(c)
    p = two(made) if made.type.rank == 1 else made
    return Classified(greatest(p), p)


def _xgboost(c: Call) -> Node:
    e, x = c.e, c.numbers()
    booster = e.get_booster()
    if any(t == "c" for t in booster.feature_types or ()):
        raise Refused(
            "it was trained on categories of a pandas table", "encode them with OneHotEncoder"
        )
    best = booster.attr("best_iteration")
    if best is not None and e.booster != "gblinear":  # as the estimator predicts
        booster = booster[: int(best) + 1]
    x = apply("cast", x, to="f32")
    if e.missing is not None and not np.isnan(e.missing):
        gone = apply("equal", x, apply("cast", op("add", 0.0, float(e.missing)), to="f32"))
        x = apply("cast", where(gone, np.nan, f64(x)), to="f32")
    return f64(forest_output(_forest(read_xgboost, booster), x))


@converts("regress", "xgboost.XGBRegressor", "xgboost.XGBRFRegressor", "xgboost.XGBRanker")
def xgboost_regressor(c: Call) -> Node:
    return _xgboost(c)


@converts("classify", "xgboost.XGBClassifier", "xgboost.XGBRFClassifier")
def xgboost_classifier(c: Call) -> Classified:
    made = _xgboost(c)
    if made.type.rank == 1:
        return Classified(positive(sub(made, 0.5)), two(made))
    return Classified(greatest(made), made)
