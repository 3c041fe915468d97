"""Formulas that are composed: their distance from the exact value, in units of the last place."""

from __future__ import annotations

import numpy as np
import pytest

from naru.ir.graph import Graph, TensorType, make_input
from naru.ir.interp_tensor import run_tensor_function
from naru.ir.tensor import Tensor, TensorFunction
from naru.ops.evaluate import evaluate
from naru.ops.registry import OPS, Emit, apply, dims

BOUNDS = {
    "tan": 3, "atan": 3, "asin": 4, "acos": 4, "sinh": 4, "cosh": 4, "asinh": 5, "acosh": 6,
    "atanh": 5, "sigmoid": 4, "softplus": 4, "softsign": 2, "mish": 8,
}  # fmt: skip


def grid(name: str) -> np.ndarray:
    """f32 values all over the domain: evenly spaced, and spread over the exponents."""
    limit = {"asin": 1, "acos": 1, "atanh": 1, "tan": 100, "sinh": 89, "cosh": 89, "sigmoid": 80,
             "mish": 80, "softplus": 80}.get(name, 1e30)  # fmt: skip
    even = np.linspace(-min(limit, 20), min(limit, 20), 20001)
    spread = np.geomspace(1e-30, limit, 20001)
    values = np.concatenate([even, spread, -spread]).astype(np.float32)
    return np.abs(values) + 1 if name == "acosh" else values


@pytest.mark.parametrize("name", BOUNDS)
def test_units_in_the_last_place(name: str) -> None:
    data = grid(name)
    x = make_input("x", TensorType("f32", dims(len(data))))
    graph = Graph("g", (x,), (apply(name, x),), ("y",))
    emit, t = Emit(), Tensor("x", "f32", x.type.shape)
    lower = OPS[name].lower
    assert lower is not None
    outputs = tuple(lower(emit, graph.outputs[0], [t]))
    (got,) = run_tensor_function(TensorFunction("f", (t,), tuple(emit.stages), outputs), [data])
    exact = OPS[name].ref([data.astype(np.float64)], {})[0]
    (single,) = evaluate(graph, [data], float64=True)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(single))
    finite = np.isfinite(single) & (np.abs(exact) > np.finfo(np.float32).tiny)
    unit = np.spacing(np.abs(single[finite])).astype(np.float64)
    error = np.abs(got[finite].astype(np.float64) - exact[finite]) / unit
    worst = int(np.argmax(error))
    assert error[worst] <= BOUNDS[name], f"{error[worst]:.1f} units at {data[finite][worst]!r}"
