"""Drivers run natively: branches, loops of unknown length, dims found while running; plans."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest
import zoo
from zoo.build import text

from naru.artifact.formulas import arena_bytes
from naru.compiler import compile_bundle
from naru.ir.loop import If, Invoke, While, statements
from naru.pipeline import lower
from naru.runtime.native_model import NativeModel
from naru.targets import get_target


def compiled(source: Any, threads: int | None = None) -> NativeModel:
    """A model of the zoo (by name) or of ONNX text."""
    model = zoo.CASES[source].model() if isinstance(source, str) else source
    bundle = compile_bundle(model.SerializeToString(), cache=False)
    return NativeModel(bundle, threads=threads)


# --- branches ------------------------------------------------------------------------------------


def test_both_branches_of_one_bundle() -> None:
    model = compiled("if_nested")
    for n in (0, 1, 16, 100):
        x = np.linspace(-1, 1, n, dtype=np.float32)
        for p, q in ((False, False), (False, True), (True, False), (True, True)):
            want = (np.exp(x) if q else -x) if p else x
            got = model(x, np.array(p), np.array(q))
            np.testing.assert_allclose(got, want, rtol=1e-6)


# --- loops ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counting() -> NativeModel:
    """Trips from an input; the scan output's length is not known before."""
    return compiled("loop_model_1")


@pytest.mark.parametrize("trips", [0, 1, 15, 16, 17, 33, 100])
def test_scan_output_grows(counting: NativeModel, trips: int) -> None:
    """Room is for 16 rounds at first and is doubled: 16, 32, 64, 128."""
    for n in (1, 7, 40):
        x = np.linspace(-2, 2, n, dtype=np.float32)
        state, seen = x, np.zeros((0, n), np.float32)
        for i in range(trips):
            state = state * np.float32(0.5) + np.float32(i) + x
            seen = np.concatenate([seen, -state[None]])
        final, history = counting(x, np.array(trips, np.int64))
        assert history.shape == (trips, n)
        np.testing.assert_allclose(final, state, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(history, seen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rounds", [0, 1, 16, 17, 70])
def test_loop_that_the_data_ends(rounds: int) -> None:
    model = compiled("while_model")
    first = 1.5 * 2.0 ** (rounds - 1)  # halved so often until it is not above 1
    x = np.array([0.25, first, 0.5], np.float32)
    final, sizes, found = model(x, np.array(1.0, np.float32))
    assert found == rounds
    np.testing.assert_array_equal(final, x / np.float32(2.0**rounds))
    np.testing.assert_array_equal(sizes, first / 2.0 ** np.arange(1, rounds + 1))


def test_state_that_is_swapped_is_not_overwritten_too_early() -> None:
    model = compiled("loop_swaps_state")
    a, b = np.array([0, 1], np.int64), np.array([1, 5], np.int64)
    for trips in (0, 1, 2, 30):
        u, v = a, b
        for _ in range(trips):
            u, v = v, u + v
        got = model(np.array(trips, np.int64), a, b)
        np.testing.assert_array_equal(got, (u, v))


def test_loop_inside_a_loop() -> None:
    model = compiled("loop_nested")
    for n, trips in ((1, 0), (3, 1), (20, 5)):
        x = np.linspace(-1, 1, n, dtype=np.float32)
        state = x
        for i in range(trips):
            for _ in range(i):
                state = np.tanh(state) + x
        got = model(x, np.array(trips, np.int64))
        np.testing.assert_allclose(got, state, rtol=1e-5, atol=1e-6)


def test_large_loop_on_two_threads() -> None:
    """Rows enough that the kernels are shared; all threads go through the same rounds."""
    model = compiled("loop_model_1", threads=2)
    x = np.linspace(-1, 1, 200_000, dtype=np.float32)
    want = compiled("loop_model_1", threads=1)(x, np.array(20, np.int64))
    for got, expected in zip(model(x, np.array(20, np.int64)), want, strict=True):
        np.testing.assert_array_equal(got, expected)


# --- dims that a kernel finds --------------------------------------------------------------------


def test_nonzero_of_none_some_and_all() -> None:
    model = compiled("nonzero_model")
    for n in (1, 3, 50):
        for x in (-np.ones((n, 5)), np.ones((n, 5)), np.sin(np.arange(n * 5.0)).reshape(n, 5)):
            x = x.astype(np.float32)
            coordinates, values, total = model(x)
            np.testing.assert_array_equal(coordinates, np.argwhere(x > 0))
            np.testing.assert_array_equal(values, x[x > 0])
            np.testing.assert_allclose(total, x[x > 0].sum(dtype=np.float64), rtol=1e-5, atol=1e-6)


# --- what drivers are made of --------------------------------------------------------------------


def test_a_driver_is_barriers_between_kernels() -> None:
    stages = lower(zoo.CASES["loop_model_1"].model().SerializeToString(), get_target("baseline"))
    body = statements(stages.program.run.body)
    services = [s.callee for s in body if isinstance(s, Invoke) and isinstance(s.callee, str)]
    assert sum(isinstance(s, While) for s in body) == 1
    assert sum(isinstance(s, If) for s in body) == 1  # the scan output is full
    assert services.count("mark") == 0
    assert {"barrier", "alloc", "set_io"} <= set(services)
    profile = [s for s in statements(stages.program.profile.body) if isinstance(s, Invoke)]
    assert sum(s.callee == "mark" for s in profile) == len(stages.program.steps) + 1


# --- plan and manifest ---------------------------------------------------------------------------

CHAIN = text(
    """(float[n,m] x, float[m] z) => (float[n,m] y, float[m,n] t) {
      a = Softmax <axis = 1> (x)
      t = Transpose <perm = [1, 0]> (a)
      b = MatMul(x, t)
      c = MatMul(b, x)
      d = Softmax <axis = 1> (c)
      y = Add(d, z)
    }"""
)
MODELS = {
    "chain": CHAIN,
    "nonzero_model": zoo.CASES["nonzero_model"].model(),
    "if_nested": zoo.CASES["if_nested"].model(),
    "loop_model": zoo.CASES["loop_model_1"].model(),
    "conv_bn_relu_residual": zoo.CASES["conv_bn_relu_residual"].model(),
}


class NativePlan:
    """The plan of a bundle, called as the runtime calls it."""

    def __init__(self, model: NativeModel) -> None:
        bundle = model._bundle
        code = bytes(bundle.section("code"))
        size = -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.pages = mmap.mmap(-1, size, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self.pages.write(code)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))
        entry = bundle.manifest["entries"][0]
        self.length = 3 + sum(len(o["shape"]) for o in entry["outputs"])
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
        self.function = kind(start + entry["plan"])

    def __call__(self, *dims: int) -> list[int]:
        given = np.array(dims, np.int64)
        out = np.full(self.length, -1, np.int64)
        self.function(given.ctypes.data, out.ctypes.data)
        return out.tolist()


@pytest.mark.parametrize("name", MODELS)
def test_memory_formula_is_what_plan_says(name: str) -> None:
    model = compiled(MODELS[name])
    plan = NativePlan(model)
    symbols = [s["name"] for s in model.manifest["symbols"]]
    found = set()
    for n in (1, 2, 63, 1000):
        dims = {s: n + 3 * k for k, s in enumerate(symbols)}
        arena, work, threads, *_ = plan(*dims.values())
        assert arena_bytes(model.manifest["memory"], dims) == arena
        assert arena % 64 == 0
        assert work >= 0
        assert threads >= 1
        found.add(arena)
    assert len(found) > 1 or not symbols or name in ("nonzero_model",)


def test_plan_gives_the_shapes_of_outputs() -> None:
    plan = NativePlan(compiled(CHAIN))
    assert plan(5, 7)[3:] == [5, 7, 7, 5]
    assert plan(0, 1)[3:] == [0, 1, 1, 0]
