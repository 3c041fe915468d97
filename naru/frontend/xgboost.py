"""Reads an XGBoost model: the JSON or UBJSON that `Booster.save_model` writes, from 1.3 on.

Leaf values are added up in f32 in the order of the trees, after base_score. The trees themselves
are read in xgboost_trees.py.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from typing import cast

import numpy as np

from naru.errors import ModelError, NaruWarning, UnsupportedError
from naru.frontend.forest import (
    Forest,
    Linear,
    Output,
    Trees,
    check_names,
    check_sizes,
    known_names,
)
from naru.frontend.json_numbers import read_json
from naru.frontend.records import Record, is_object, reading_numbers
from naru.frontend.ubjson import read_ubjson
from naru.frontend.xgboost_trees import read_trees
from naru.ir.graph import Node
from naru.ops.registry import apply, constant

Array = np.ndarray
CLOSEST = np.float32(1e-6)  # kRtEps: no probability is nearer to 0 or 1
_JSON = re.compile(rb'\s*\{\s*"(learner|version)"')
_UBJSON = re.compile(rb"\{[iUIlL].{0,8}(learner|version)", re.DOTALL)
# The old binary format: a mark, or 136 bytes of parameters before the objective's name.
_BINARY = re.compile(
    rb"binf|CONFIG-offset:|.{136}.{8}(reg|binary|multi|count|rank|survival):", re.DOTALL
)


def is_xgboost(data: bytes) -> bool:
    """Does a file begin as `save_model` writes it, today or before 1.3?"""
    return any(form.match(data) for form in (_JSON, _UBJSON, _BINARY))


def read_xgboost(data: bytes) -> Forest:
    """What a model's file says. Raises ModelError, UnsupportedError."""
    if _UBJSON.match(data):
        whole = read_ubjson(data)
    elif _BINARY.match(data):
        raise ModelError(
            "expected an XGBoost model as JSON or UBJSON, found the binary format of old",
            hint='load it with XGBoost 1.3 to 3.0, then booster.save_model("model.json")',
        )
    else:
        whole = read_json(data)
    learner = Record(whole, "the file").part("learner")
    booster = learner.part("gradient_booster")
    name = booster.text("name")
    objective = learner.part("objective").text("name")
    problems: list[str] = []
    if name not in BOOSTERS:
        problems.append(f"the booster '{name}'; there are {', '.join(BOOSTERS)}")
    if objective not in OBJECTIVES:
        problems.append(f"the objective '{objective}'; there are {', '.join(OBJECTIVES)}")
    if problems:
        raise UnsupportedError(problems)
    with reading_numbers():
        return BOOSTERS[name](learner, booster, *OBJECTIVES[objective])


# --- boosters -------------------------------------------------------------------------------------

Margin = Callable[[np.float32], float]  # base_score as what scores begin with


def _forest(learner: Record, booster: Record, output: Output, margin: Margin) -> Trees:
    if booster.text("name") == "dart" and "gbtree" in booster.value:
        model, weights = booster.part("gbtree").part("model"), booster
    else:
        model = weights = booster.part("model")
    count, features = _sizes(learner)
    trees = model.records("trees", "tree")
    if not trees:
        raise ModelError("expected at least one tree, found none")
    info = model.numbers("tree_info", len(trees))
    if not ((info >= 0) & (info < count) & (info == np.floor(info))).all():
        raise model.fail("tree_info", f"classes in 0..{count - 1}")
    scales = np.ones(len(trees))
    if "weight_drop" in weights.value:
        scales = weights.numbers("weight_drop", len(trees))
    nodes, votes = read_trees(
        trees, info.astype(np.int64), scales.astype(np.float32), count, features
    )
    base = _base(learner, count, margin)
    _tell_of_best(learner, model, count)
    return Trees(nodes, votes, count, features, output, base, names=_names(learner))


def _tell_of_best(learner: Record, model: Record, count: int) -> None:
    """A warning where training was stopped early: what estimators leave out then counts here."""
    attributes = learner.value.get("attributes")
    found = attributes.get("best_iteration") if is_object(attributes) else None
    if not isinstance(found, str) or not re.fullmatch("[0-9]{1,9}", found):
        return
    used = int(found) + 1
    rounds = model.length("iteration_indptr")
    if rounds is None:  # of 1.x
        together = model.part("gbtree_model_param").number("num_parallel_tree", 1)
        rounds = (model.length("trees") or 0) // (count * max(together, 1)) + 1
    if used < rounds - 1:
        warnings.warn(
            f"training was stopped early, and all {rounds - 1} rounds of the model count, as in "
            f"Booster.predict; an estimator's predict uses the first {used}: compile the estimator "
            f"itself for these, or save booster[:{used}], with booster = estimator.get_booster()",
            NaruWarning,
            stacklevel=2,
        )


def _linear(learner: Record, booster: Record, output: Output, margin: Margin) -> Linear:
    """(XGBoost begins the scores of all classes with the first base_score.)"""
    count, features = _sizes(learner)
    rows = features + 1
    weights = booster.part("model").numbers("weights", rows * count).astype(np.float32)
    matrix = weights.reshape(rows, count)
    base = np.float32(_base(learner, count, margin)[0])
    return Linear(matrix[:-1], matrix[-1] + base, output, _names(learner))


BOOSTERS: dict[str, Callable[[Record, Record, Output, Margin], Forest]] = {
    "gbtree": _forest,
    "dart": _forest,
    "gblinear": _linear,
}


def _names(learner: Record) -> tuple[str, ...]:
    found = learner.value.get("feature_names")
    if not isinstance(found, list):
        return ()
    return known_names(list(map(str, cast("list[object]", found))))


def _sizes(learner: Record) -> tuple[int, int]:
    """Scores of a row, and its features."""
    params = learner.part("learner_model_param")
    classes, targets = params.number("num_class", 0), params.number("num_target", 1)
    count, features = max(classes, targets, 1), params.number("num_feature", 0)
    name = "num_class" if classes == count else "num_target"
    check_sizes((name, count), ("num_feature", features))
    check_names(learner.length("feature_names") or 0, features)
    if classes > 1 and targets > 1:
        raise UnsupportedError([f"{targets} targets of {classes} classes each"])
    return count, features


def _base(learner: Record, count: int, margin: Margin) -> tuple[float, ...]:
    """`base_score`, a text with a number or a list of some, as what trees add to."""
    given = learner.part("learner_model_param").value.get("base_score")
    texts = re.findall(r"[^\[\],\s]+", given) if isinstance(given, str) else ()
    try:
        values = [float(np.float32(margin(np.float32(x)))) for x in texts]
    except (ValueError, OverflowError):
        values = []
    if len(values) not in (1, count) or not np.isfinite(values).all():
        wanted = "a number" if count == 1 else f"a number, or {count}"
        raise ModelError(f"base_score: expected {wanted}, found {given!r:.60}")
    return tuple(values)


# --- objectives -----------------------------------------------------------------------------------


def _plain(scores: Node) -> Node:
    return scores


def _logistic(scores: Node) -> Node:
    return apply("sigmoid", scores)


def _exp(scores: Node) -> Node:
    return apply("exp", scores)


def _softmax(scores: Node) -> Node:
    return apply("softmax", scores, axis=1)


def _greatest(scores: Node) -> Node:
    """The number of the class, as a float; [N]."""
    found = apply("arg_max", scores, axis=1, keepdims=False, select_last_index=False)
    return apply("cast", found, to="f32")


def _above_zero(scores: Node) -> Node:
    return apply("cast", apply("greater", scores, constant(0.0)), to="f32")


def _same(x: np.float32) -> float:
    return float(x)


def _log(x: np.float32) -> float:
    return math.log(x)


def _logit(x: np.float32) -> float:
    """In f32 up to the logarithm, as there; 0 and 1 are what is next to them."""
    if not 0 <= x <= 1:
        raise ValueError
    inside = np.clip(x, CLOSEST, np.float32(1) - CLOSEST)
    return -math.log(np.float32(1) / inside - np.float32(1))


# What `predict` makes of scores (PredTransform), and how base_score becomes one (ProbToMargin).
OBJECTIVES: dict[str, tuple[Output, Margin]] = {
    **dict.fromkeys(
        (
            "reg:squarederror", "reg:linear", "reg:squaredlogerror", "reg:pseudohubererror",
            "reg:absoluteerror", "reg:quantileerror", "binary:logitraw",
            "rank:pairwise", "rank:ndcg", "rank:map",
        ),
        (_plain, _same),
    ),
    **dict.fromkeys(("reg:logistic", "binary:logistic"), (_logistic, _logit)),
    "binary:hinge": (_above_zero, _same),
    **dict.fromkeys(
        ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft"),
        (_exp, _log),
    ),
    "multi:softmax": (_greatest, _same),
    "multi:softprob": (_softmax, _same),
}  # fmt: skip
