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
    if callable(c.e.objective_):
        raise Refused(
            "its objective is a function of yours, whose scores LightGBM makes no labels of",
            "compile its booster_, which gives these scores",
        )
    made = _lightgbm(c)
    p = two(made) if made.type.rank == 1 else made
    return Classified(greatest(p), p)


def _xgboost(c: Call) -> tuple[Forest, Node]:
    """The trees that `predict` uses, and f32[rows, features] as they take them."""
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
    return _forest(read_xgboost, booster), x


@converts("regress", "xgboost.XGBRegressor", "xgboost.XGBRFRegressor", "xgboost.XGBRanker")
def xgboost_regressor(c: Call) -> Node:
    return f64(forest_output(*_xgboost(c)))


@converts("classify", "xgboost.XGBClassifier", "xgboost.XGBRFClassifier")
def xgboost_classifier(c: Call) -> Classified:
    """As `predict` and `predict_proba`, whatever the objective: of two classes one value a row,
    which is a probability or taken for one; of more a value for each class, or, of multi:softmax,
    the class itself."""
    forest, x = _xgboost(c)
    made = forest_output(forest, x)
    if forest.count == 1:
        p = f64(made)
        return Classified(positive(sub(p, 0.5)), two(p))
    if made.type.rank == 1:  # multi:softmax
        scores = forest.scores(x)
        return Classified(greatest(scores), f64(op("softmax", scores, axis=1)))
    if c.e.n_classes_ == forest.count > 2:
        return Classified(greatest(made), f64(made))
    if c.e.objective == "multi:softprob":
        raise Refused(
            "multi:softprob of two classes, for which its predict gives no labels",
            "binary:logistic or multi:softmax",
        )
    raise Refused("several labels at once", "MultiOutputClassifier(XGBClassifier())")
