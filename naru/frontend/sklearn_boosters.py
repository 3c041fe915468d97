"""LightGBM's and XGBoost's estimators inside of pipelines, by the files that they would save."""

from __future__ import annotations

from typing import Any

import numpy as np

from naru.errors import ModelError, UnsupportedError
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


def _forest(read: Any, data: bytes) -> Forest:
    try:
        return read(data)
    except UnsupportedError as error:
        raise Refused("; ".join(error.problems)) from None
    except ModelError as error:
        raise Refused(str(error)) from None


def _lightgbm(c: Call) -> Node:
    booster = c.e.booster_
    if booster.pandas_categorical:
        raise Refused(
            "it was trained on categories of a pandas table",
            "encode them with OrdinalEncoder, and name them in categorical_feature",
        )
    return forest_output(_forest(read_lightgbm, booster.model_to_string().encode()), c.numbers())


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
    best = getattr(e, "best_iteration", None) if e.early_stopping_rounds else None
    if best is not None:
        booster = booster[: int(best) + 1]
    x = apply("cast", x, to="f32")
    if e.missing is not None and not np.isnan(e.missing):
        gone = apply("equal", x, apply("cast", op("add", 0.0, float(e.missing)), to="f32"))
        x = apply("cast", where(gone, np.nan, f64(x)), to="f32")
    data = bytes(booster.save_raw("json"))
    return f64(forest_output(_forest(read_xgboost, data), x))


@converts("regress", "xgboost.XGBRegressor", "xgboost.XGBRFRegressor", "xgboost.XGBRanker")
def xgboost_regressor(c: Call) -> Node:
    return _xgboost(c)


@converts("classify", "xgboost.XGBClassifier", "xgboost.XGBRFClassifier")
def xgboost_classifier(c: Call) -> Classified:
    made = _xgboost(c)
    if made.type.rank == 1:
        return Classified(positive(sub(made, 0.5)), two(made))
    return Classified(greatest(made), made)
