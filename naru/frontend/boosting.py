"""Boosters of LightGBM and XGBoost in memory, read as the files that they would save.

Neither library is imported: objects are known by the names of their classes, and asked for their
bytes by methods of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from naru.errors import InputError, ModelError, UnsupportedError
from naru.frontend.forest import Forest, forest_graph
from naru.frontend.lightgbm import read_lightgbm
from naru.frontend.xgboost import read_xgboost
from naru.ir.graph import Graph


def is_booster(value: object) -> bool:
    """Is it a `lightgbm.Booster` or an `xgboost.Booster`, or of a class of yours below these?"""
    return _kind(value) in _READ


def forest_bytes(value: object) -> bytes:
    """The file that has just the trees which `predict` uses: of a Booster of LightGBM, and of the
    estimators of both libraries, those up to the best iteration where training was stopped early;
    of an `xgboost.Booster` all, as its `predict` does. Raises InputError, UnsupportedError."""
    kind = _kind(value)
    if kind is None:
        raise InputError(
            f"expected a booster of LightGBM or XGBoost, got {type(value).__name__}",
            hint='naru.compile("model.txt")',
        )
    return _BYTES[kind](value)


def read_booster(value: object, *, name: str | None = None) -> Graph:
    """features [N, F] -> prediction, as the booster's own `predict` gives it: see forest_graph.
    Raises InputError, ModelError, UnsupportedError."""
    kind = _kind(value)
    if kind is None or kind not in _READ:
        raise InputError(f"expected a Booster, got {type(value).__name__}")
    package, read = _READ[kind]
    where = f"{kind[0]}.{kind[1]}"
    try:
        return forest_graph(read(forest_bytes(value)), name or "model", package)
    except ModelError as error:
        place = f"{where}: {error.where}" if error.where else where
        raise ModelError(error.message, where=place, hint=error.hint) from None
    except UnsupportedError as error:
        raise UnsupportedError(error.problems, where=where) from None


def _kind(value: object) -> tuple[str, str] | None:
    """(package, class) of the first class of an object's that is one of those known."""
    found = ((c.__module__.partition(".")[0], c.__name__) for c in type(value).__mro__)
    return next((k for k in found if k in _BYTES), None)


def _of_lightgbm(booster: Any) -> bytes:
    return booster.model_to_string().encode()


def _of_lightgbm_model(model: Any) -> bytes:
    return _of_lightgbm(_fitted(model, lambda: model.booster_))


def _of_xgboost(booster: Any) -> bytes:
    return bytes(booster.save_raw("ubj"))


def _of_xgboost_model(model: Any) -> bytes:
    booster: Any = _fitted(model, model.get_booster)
    missing = model.missing
    if missing is not None and not math.isnan(missing):
        raise UnsupportedError(
            [f"missing={missing} of {type(model).__name__}: its file does not say so; use NaN"]
        )
    best = booster.attr("best_iteration")
    if best is None or model.booster == "gblinear":
        return _of_xgboost(booster)
    return _of_xgboost(booster[: int(best) + 1])


def _fitted(model: Any, get: Callable[[], Any]) -> Any:
    """The booster of an estimator, whose own error is the library's."""
    try:
        return get()
    except (AttributeError, ValueError) as error:  # NotFittedError is both
        raise InputError(
            f"{type(model).__name__} has no booster: {error}", hint="fit it before it is compiled"
        ) from None


_BYTES: dict[tuple[str, str], Callable[[Any], bytes]] = {
    ("lightgbm", "Booster"): _of_lightgbm,
    ("lightgbm", "LGBMModel"): _of_lightgbm_model,
    ("xgboost", "Booster"): _of_xgboost,
    ("xgboost", "XGBModel"): _of_xgboost_model,
}
_READ: dict[tuple[str, str], tuple[str, Callable[[bytes], Forest]]] = {
    ("lightgbm", "Booster"): ("LightGBM", read_lightgbm),
    ("xgboost", "Booster"): ("XGBoost", read_xgboost),
}
