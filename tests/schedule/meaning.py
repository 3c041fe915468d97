"""Runs a kernel by the loop-IR interpreter next to the meaning of its TensorFunction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from naru.dtypes import DTYPES
from naru.ir.expr import Expr, Var
from naru.ir.interp import run as interpret
from naru.ir.interp_tensor import run_tensor_function
from naru.ir.loop import Func
from naru.ir.simplify import evaluate
from naru.ir.tensor import Tensor, TensorFunction
from naru.ir.verify import check
from naru.schedule.weights import pack

CLOSE = {"f64": 1e-12, "f32": 2e-5, "f16": 2e-2, "bf16": 6e-2}


def shape_of(dims: tuple[Expr, ...], sizes: Mapping[Var, int]) -> tuple[int, ...]:
    """A shape at given sizes of the symbols."""
    return tuple(evaluate(d, sizes) for d in dims)


def random_inputs(tf: TensorFunction, sizes: Mapping[Var, int], seed: int = 0) -> list[np.ndarray]:
    """Floats of a normal distribution, integers -5..5, coin flips for bool."""
    rng = np.random.default_rng(seed)
    return [random_array(t, shape_of(t.shape, sizes), rng) for t in tf.inputs]


def random_array(t: Tensor, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    kind = DTYPES[t.dtype].kind
    if kind == "f":
        return np.asarray(rng.standard_normal(shape)).astype(DTYPES[t.dtype].numpy)
    low, high = {"i": (-5, 6), "u": (0, 6), "b": (0, 2)}[kind]
    return np.asarray(rng.integers(low, high, shape)).astype(DTYPES[t.dtype].numpy)


def check_kernel(tf: TensorFunction, func: Func, sizes: Mapping[Var, int], seed: int = 0) -> None:
    """The kernel is valid, and computes from operands in their layouts what the function means."""
    check(func)
    arrays = random_inputs(tf, sizes, seed)
    want = run_tensor_function(tf, arrays, sizes={v.name: n for v, n in sizes.items()})
    shapes = [shape_of(b.shape, sizes) for b in func.buffers]
    given = [pack(a, t.layout) for a, t in zip(arrays, tf.inputs, strict=True)]
    memory = [np.array(a).reshape(s) for a, s in zip(given, shapes, strict=False)]
    results = [
        np.full(s, 7).astype(DTYPES[t.dtype].numpy)
        for t, s in zip(tf.outputs, shapes[len(given) :], strict=True)
    ]
    interpret(func, [*memory, *results, *(sizes[v] for v in func.sizes)])
    for t, got, expected in zip(tf.outputs, results, want, strict=True):
        assert_close(got, pack(expected, t.layout).reshape(got.shape))


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    """Integers are equal; floats are close, relative to the largest."""
    if want.dtype.kind not in "fV":
        np.testing.assert_array_equal(got, want)
        return
    finite = np.asarray(want, np.float64)
    largest = np.abs(finite[np.isfinite(finite)]).max(initial=1.0)
    name = next(d.name for d in DTYPES.values() if d.numpy == want.dtype)
    close = CLOSE[name]
    np.testing.assert_allclose(
        np.asarray(got, np.float64), finite, rtol=close, atol=close * largest
    )
