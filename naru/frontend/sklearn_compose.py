"""Estimators made of steps: Pipeline, ColumnTransformer, FeatureUnion, searches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from naru.frontend.sklearn_base import (
    Broken,
    Call,
    Part,
    Refused,
    Table,
    converts,
    f64,
    join,
    mul,
)
from naru.frontend.sklearn_inputs import column_numbers
from naru.ir.graph import TensorType, make_input
from naru.ir.simplify import index

SEARCHES = tuple(
    f"sklearn.model_selection.{n}"
    for n in ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")
)


def run(role: str, c: Call, e: Any, x: Table, name: str) -> Any:
    """What a part of an estimator makes of columns."""
    reader, path = c.reader, c.inside(name)
    if role == "transform":
        return reader.transform(e, x, path)
    if role == "classify":
        found = reader.classify_all(e, x, path)
        return found[0] if len(found) == 1 else found
    return reader.run(role, e, x, path)


# --- pipelines ------------------------------------------------------------------------------------


def _is_passthrough(step: Any) -> bool:
    return step is None or (isinstance(step, str) and step == "passthrough")


def _steps(c: Call) -> tuple[Table, list[tuple[str, Any]]]:
    """X before the last step, and that step (with its name), where it is one. After a refused step
    those behind it are read all the same, for their own problems."""
    steps = [(name, s) for name, s in c.e.steps if not _is_passthrough(s)]
    x, broken = c.x, False
    for (name, step), (_, after) in pairwise(steps):
        try:
            x = c.reader.transform(step, x, c.inside(name))
        except Broken:
            broken = True
            width = getattr(after, "n_features_in_", None)
            if width is None:
                raise
            shape = (c.reader.rows, index(int(width)))
            x = Table((Part(make_input("refused", TensorType("f64", shape))),))
    if broken and steps:
        name, last = steps[-1]
        for role in ("classify", "regress", "cluster", "detect", "transform"):
            if c.reader.knows(role, last):
                run(role, c, last, x, name)
                break
        else:
            c.reader.run("transform", last, x, c.inside(name))
        raise Broken
    return x, steps[-1:]


def _pipeline(role: str) -> Any:
    def convert(c: Call) -> Any:
        x, last = _steps(c)
        if not last:
            if role == "transform":
                return x
            raise Refused("it has no step that predicts")
        name, step = last[0]
        return run(role, c, step, x, name)

    return convert


def _search(role: str) -> Any:
    def convert(c: Call) -> Any:
        return run(role, c, c.e.best_estimator_, c.x, "best_estimator_")

    return convert


def _frozen(role: str) -> Any:
    def convert(c: Call) -> Any:
        return run(role, c, c.e.estimator, c.x, "estimator")

    return convert


for _role in ("transform", "classify", "regress", "cluster", "detect"):
    converts(_role, "sklearn.pipeline.Pipeline")(_pipeline(_role))
    converts(_role, *SEARCHES)(_search(_role))
    converts(_role, "sklearn.frozen.FrozenEstimator")(_frozen(_role))


# --- columns --------------------------------------------------------------------------------------


@converts("transform", "sklearn.compose.ColumnTransformer")
def column_transformer(c: Call) -> Table:
    """Each part over its columns, side by side in the order of the parts."""
    weights: dict[str, float] = c.e.transformer_weights or {}
    found: list[Table] = []
    broken = False
    for name, t, columns in column_numbers(c.e):
        if not columns:
            continue
        x = c.x.take(columns)
        if _is_passthrough(t):
            found.append(_weighted(x, weights.get(name)))
            continue
        try:
            found.append(_weighted(c.reader.transform(t, x, c.inside(name)), weights.get(name)))
        except Broken:
            broken = True
    if broken:
        raise Broken
    return join(found)


@converts("transform", "sklearn.pipeline.FeatureUnion")
def feature_union(c: Call) -> Table:
    """All parts over all columns, side by side."""
    weights: dict[str, float] = c.e.transformer_weights or {}
    found: list[Table] = []
    broken = False
    for name, t in c.e.transformer_list:
        if isinstance(t, str) and t == "drop":
            continue
        try:
            x = c.x if _is_passthrough(t) else c.reader.transform(t, c.x, c.inside(name))
            found.append(_weighted(x, weights.get(name)))
        except Broken:
            broken = True
    if broken:
        raise Broken
    return join(found)


def _weighted(x: Table, weight: float | None) -> Table:
    if weight is None:
        return x
    if any(p.texts for p in x.parts):
        raise Refused("transformer_weights: texts cannot be weighted", "encode them first")
    return Table(tuple(Part(mul(f64(p.node), weight)) for p in x.parts))
