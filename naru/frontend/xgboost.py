"""Reads an XGBoost model: the JSON that `Booster.save_model("m.json")` writes, of version 1.3 on.

What decides is XGBoost's own prediction in f32 (src/predictor, include/xgboost/tree_model.h):
`x < split` goes left, NaN the default way; of a categorical split what is in its set goes right.
Leaf values are added up in the order of the trees.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from naru.errors import ModelError, UnsupportedError
from naru.frontend.forest import Forest, Output
from naru.ir.graph import Node
from naru.ops.registry import apply, constant
from naru.ops.tree_tables import LEAF, LT, MEMBER, Nodes, Votes, interval_borders

Array = np.ndarray
NEGATIVE = -float(np.finfo(np.float32).smallest_subnormal)  # the next below 0
Json = Mapping[str, Any]
_UBJ = re.compile(rb"\{[iUIlL].{0,8}learner", re.DOTALL)  # the binary form


def is_xgboost(data: bytes) -> bool:
    """Does a file begin as `save_model` writes it, as text or as UBJSON?"""
    return bool(re.match(rb'\s*\{\s*"(learner|version)"', data) or _UBJ.match(data))


def read_xgboost(data: bytes) -> Forest:
    """The forest of a model. Raises ModelError, UnsupportedError."""
    if _UBJ.match(data):
        raise ModelError(
            "expected an XGBoost model as JSON, found one as UBJSON",
            hint='booster.save_model("model.json"), or save_raw("json")',
        )
    try:
        whole: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"expected JSON: {error}", hint="the file may be cut short") from None
    learner = _Record(whole, "the file").part("learner")
    booster = learner.part("gradient_booster")
    name = booster.text("name")
    if name not in ("gbtree", "dart"):
        raise UnsupportedError([f"the booster '{name}'; there are gbtree and dart"])
    model = (booster.part("gbtree") if name == "dart" else booster).part("model")
    params = learner.part("learner_model_param")
    objective = learner.part("objective").text("name")
    if objective not in OBJECTIVES:
        raise UnsupportedError([f"the objective '{objective}'; there are {', '.join(OBJECTIVES)}"])
    if params.number("num_target", 1) > 1:
        raise UnsupportedError(["several targets (multi_strategy)"])
    count = max(params.number("num_class", 0), 1)
    trees = model.records("trees")
    if not trees:
        raise ModelError("expected at least one tree, found none")
    targets = model.numbers("tree_info", len(trees), np.int64)
    if targets.min() < 0 or targets.max() >= count:
        raise ModelError(f"tree_info: expected classes in 0..{count - 1}, found {targets.max()}")
    scales = np.ones(len(trees), np.float32)
    if name == "dart":
        scales = booster.numbers("weight_drop", len(trees), np.float32)
    nodes, votes = _nodes(trees, targets, scales)
    output, margin = OBJECTIVES[objective]
    base = _base(params.value.get("base_score"), count, margin)
    return Forest(nodes, votes, count, params.number("num_feature", 0), output, base)


class _Record:
    """An object of JSON, whose fields are checked when they are asked for."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ModelError(f"expected an object, found {type(value).__name__}", where=where)
        self.value = cast("dict[str, Any]", value)
        self.where = where

    def fail(self, name: str, expected: str) -> ModelError:
        found = json.dumps(self.value.get(name))
        found = f"{found[:60]}…" if len(found) > 60 else found
        return ModelError(f"{name}: expected {expected}, found {found}", where=self.where)

    def part(self, name: str) -> _Record:
        if not isinstance(self.value.get(name), dict):
            raise self.fail(name, "an object")
        return _Record(self.value[name], name)

    def records(self, name: str) -> list[_Record]:
        found = self.value.get(name)
        if not isinstance(found, list):
            raise self.fail(name, "a list")
        return [_Record(v, f"tree {k}") for k, v in enumerate(cast("list[object]", found))]

    def text(self, name: str) -> str:
        if not isinstance(self.value.get(name), str):
            raise self.fail(name, "a text")
        return self.value[name]

    def number(self, name: str, default: int) -> int:
        """A whole number, which XGBoost writes as text."""
        found = self.value.get(name, str(default))
        if not isinstance(found, str) or not re.fullmatch(r"\d{1,9}", found):
            raise self.fail(name, "a whole number")
        return int(found)

    def numbers(self, name: str, size: int | None, dtype: type[np.generic]) -> Array:
        found = self.value.get(name)
        try:
            made = np.array(found, np.float64)
        except (ValueError, TypeError):
            made = np.zeros((0, 0))
        whole = np.issubdtype(dtype, np.integer)
        if made.ndim != 1 or (size is not None and made.size != size):
            raise self.fail(name, f"{'numbers' if size is None else f'{size} numbers'}")
        if whole and not (np.isfinite(made).all() and (np.abs(made) < 2**53).all()):
            raise self.fail(name, "whole numbers")
        with np.errstate(over="ignore"):
            return made.astype(dtype)


# --- trees ----------------------------------------------------------------------------------------


def _nodes(trees: Sequence[_Record], targets: Array, scales: Array) -> tuple[Nodes, Votes]:
    columns: list[tuple[Array, ...]] = []
    members: list[Array] = []
    votes: list[tuple[Array, Array, Array]] = []
    roots: list[int] = []
    size = 0
    for t, target, scale in zip(trees, targets.tolist(), scales, strict=True):
        column, sets, leaves, values = _tree(t, size)
        columns.append(column)
        members += sets
        votes.append((size + leaves, np.full(leaves.size, target), values * scale))
        roots.append(size)
        size += column[0].size
    modes, features, splits, true, false, missing = (
        np.concatenate(c) for c in zip(*columns, strict=True)
    )
    leaves, which, weights = (np.concatenate(c) for c in zip(*votes, strict=True))
    nodes = Nodes(np.array(roots), modes, features, splits, true, false, missing, tuple(members))
    return nodes, Votes(leaves, which, weights)


def _tree(t: _Record, first: int) -> tuple[tuple[Array, ...], list[Array], Array, Array]:
    """Of a tree whose nodes are counted from `first` on: the columns of Nodes, the sets of its
    categorical splits, which of its nodes are leaves, and their values."""
    left = t.numbers("left_children", None, np.int64)
    count = left.size
    if not count:
        raise ModelError("left_children: expected at least one node", where=t.where)
    param = t.value.get("tree_param", {})
    if isinstance(param, dict):
        width: object = cast("Json", param).get("size_leaf_vector", "1")
        if width not in ("0", "1"):
            raise UnsupportedError(["leaves that are vectors (multi_strategy)"])
    right = t.numbers("right_children", count, np.int64)
    feature = t.numbers("split_indices", count, np.int64)
    split = t.numbers("split_conditions", count, np.float32)
    default_left = t.numbers("default_left", count, np.int64) != 0
    leaf = left < 0
    inner = np.stack([left, right])[:, ~leaf]
    if inner.size and not (inner.min() >= 0 and inner.max() < count):
        raise ModelError(f"children: expected nodes in 0..{count - 1}", where=t.where)
    if (feature[~leaf] < 0).any():
        raise ModelError("split_indices: expected numbers from 0", where=t.where)
    sets = _sets(t, count)
    chosen = np.zeros(count, np.bool_)
    chosen[list(sets)] = True
    chosen &= ~leaf
    true, false = np.where(chosen, right, left), np.where(chosen, left, right)  # a set goes right
    missing: Array = np.logical_and(np.logical_xor(default_left, chosen), ~leaf)
    column = (
        np.where(leaf, LEAF, np.where(chosen, MEMBER, LT)),
        np.where(leaf, 0, feature),
        np.where(leaf, np.float32(0), split),
        first + np.where(leaf, 0, true),
        first + np.where(leaf, 0, false),
        missing,
    )
    return (
        column,
        [sets[k] for k in np.flatnonzero(chosen).tolist()],
        np.flatnonzero(leaf),
        split[leaf],
    )


def _sets(t: _Record, nodes: int) -> dict[int, Array]:
    """The borders of the sets of categories, by node."""
    if not t.value.get("categories_nodes"):
        return {}
    which = t.numbers("categories_nodes", None, np.int64)
    starts = t.numbers("categories_segments", which.size, np.int64)
    sizes = t.numbers("categories_sizes", which.size, np.int64)
    categories = t.numbers("categories", None, np.int64)
    ends = starts + sizes
    if not (which.min() >= 0 and which.max() < nodes and starts.min() >= 0 and sizes.min() >= 0):
        raise ModelError("categories: expected places in the tree", where=t.where)
    if ends.max() > categories.size or (categories.size and categories.min() < 0):
        raise ModelError("categories: expected numbers from 0 for each node", where=t.where)
    return {
        node: interval_borders(np.unique(categories[a:b]), np.dtype(np.float32), NEGATIVE)
        for node, a, b in zip(which.tolist(), starts.tolist(), ends.tolist(), strict=True)
    }


# --- objectives -----------------------------------------------------------------------------------


def _base(given: object, count: int, margin: Callable[[float], float]) -> tuple[float, ...]:
    """`base_score`, a text with a number or a list of some, as what trees add to."""
    texts = re.findall(r"[^\[\],\s]+", given) if isinstance(given, str) else ()
    try:
        values = [float(np.float32(margin(float(x)))) for x in texts]
    except (ValueError, ZeroDivisionError, OverflowError):
        values = []
    if len(values) not in (1, count):
        raise ModelError(f"base_score: expected a number, or {count}, found {given!r}")
    return tuple(values)


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


def _same(x: float) -> float:
    return x


def _logit(x: float) -> float:
    return -math.log(1 / x - 1)


# What `predict` makes of scores (PredTransform), and how base_score becomes one (ProbToMargin).
OBJECTIVES: dict[str, tuple[Output, Callable[[float], float]]] = {
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
        (_exp, math.log),
    ),
    "multi:softmax": (_greatest, _same),
    "multi:softprob": (_softmax, _same),
}  # fmt: skip
