"""Compiling what the front end for scikit-learn makes, and data to do it with."""

# What is guessed of scikit-learn, which has no types, is often wrong.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from sklearn import datasets

import naru
from naru.frontend.onnx_plan import HostPlan
from naru.frontend.sklearn import read_sklearn
from naru.ops.evaluate import evaluate

Array = np.ndarray


def compiled(estimator: Any, **settings: Any) -> Any:
    """A model that can be called."""
    return naru.compile(estimator, cache=False, **settings)


class Meaning:
    """A model of one graph, computed by numpy."""

    def __init__(self, estimator: Any) -> None:
        made = read_sklearn(estimator)
        self.graph = made.parts[0] if isinstance(made, HostPlan) else made

    def __call__(self, x: Array) -> dict[str, Array]:
        with np.errstate(all="ignore"):
            found = evaluate(self.graph, [x])
        return dict(zip(self.graph.output_names, found, strict=True))


def loaded(name: str) -> tuple[Array, Array]:
    """One of the data sets that come with scikit-learn."""
    return getattr(datasets, f"load_{name}")(return_X_y=True)


@cache
def data(name: str) -> tuple[Array, Array]:
    """x [rows, features], y: a part of one of scikit-learn's data sets."""
    rng = np.random.default_rng(0)
    if name == "counts":
        x = rng.integers(0, 5, (120, 6)).astype(np.float64)
        return x, (x[:, 0] + x[:, 1] > 4).astype(int) + (x[:, 2] > 3)
    if name == "normal":  # no two distances are alike
        x = rng.normal(size=(120, 5))
        return x, (x[:, 0] * x[:, 1] > 0).astype(int) + (x[:, 2] > 0.5)
    if name == "two":
        x, y = loaded("breast_cancer")
        return np.ascontiguousarray(x[:150, :8]), y[:150]
    if name == "positive":
        x, y = loaded("diabetes")
        return np.abs(x[:120, :5]) + 0.1, y[:120]
    if name == "targets":
        x, y = loaded("diabetes")
        return x[:120], np.stack([y[:120], x[:120, 0] - x[:120, 3]], axis=1)
    x, y = loaded(name)
    step = max(1, len(x) // 150)
    return np.ascontiguousarray(x[::step], np.float64), y[::step]
