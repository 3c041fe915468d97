"""Whole models: each case of the zoo, compiled for this CPU, against ONNX Runtime at all sizes."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import onnxruntime as ort
import pytest
import zoo

import naru
from naru.errors import NaruWarning


@functools.cache
def reference(name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Unoptimised: its optimiser quantises activations that the model keeps in float.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        zoo.CASES[name].model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float, where: str) -> None:
    """Equal dtype, shape and non-finite elements; finite floats within tolerance of the largest."""
    assert got.dtype == want.dtype, f"{where}: {got.dtype}, expected {want.dtype}"
    if want.size == 0:  # of a loop without rounds ONNX Runtime does not know the other sizes
        assert (got.size, got.ndim) == (0, want.ndim), f"{where}: {got.shape}"
        return
    assert got.shape == want.shape, f"{where}: {got.shape}, expected {want.shape}"
    if want.dtype.kind not in "fV":
        np.testing.assert_array_equal(got, want, err_msg=where)
        return
    g, w = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(g), np.isnan(w), err_msg=where)
    infinite = np.isinf(w)
    np.testing.assert_array_equal(g[infinite], w[infinite], err_msg=where)
    finite = np.isfinite(w)
    largest = np.abs(w[finite]).max(initial=0.0)
    error = np.abs(g[finite] - w[finite]).max(initial=0.0)
    assert error <= tolerance * max(largest, 1e-30), f"{where}: off by {error}, largest {largest}"


def check(name: str) -> None:
    case = zoo.CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaruWarning)
        model = naru.compile(case.model().SerializeToString(), cache=False)
    session = reference(name)
    names = [o.name for o in session.get_outputs()]
    for feeds in case.feeds():
        want = session.run(None, feeds)
        got = model(feeds)
        results = [got] if len(names) == 1 else list(got)
        sizes = {k: v.shape for k, v in feeds.items()}
        for output, g, w in zip(names, results, want, strict=True):
            assert_close(g, np.asarray(w), case.tolerance, f"{output} at {sizes}")
    model.selftest()


SLOW = ("chain_10000",)  # other tests look at it too
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in zoo.CASES]


@pytest.mark.parametrize("name", NAMES)
def test_model_matches_onnxruntime(name: str) -> None:
    check(name)
