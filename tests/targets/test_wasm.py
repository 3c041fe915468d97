"""WebAssembly's own instructions and addresses, in Node, against the interpreter (zeros may differ
in their sign); and what both of its targets have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from naru.artifact.contents import pack_weights
from naru.artifact.wasm import link_wasm
from naru.codegen.llvm import emit_kernel
from naru.codegen.objects import compile_module
from naru.demo import FOLDER as DEMO
from naru.ir import interp
from naru.ir.text import read_func
from naru.pipeline import lower
from naru.targets import TARGETS
from tests.targets.machine import run_node

BOTH = ("wasm32-simd128", "wasm32-relaxed")
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 3e-39]


def agree(text: str, operands: list[np.ndarray], shape: tuple[int, ...], folder: Path) -> None:
    """What Node gives in the last buffer is what the interpreter gives, on both targets."""
    func = read_func(text)
    expected = np.full(shape, 7, operands[0].dtype)
    interp.run(func, [*operands, expected])
    for name in BOTH:
        target = TARGETS[name]
        obj = compile_module(emit_kernel(func, target), target)
        module = link_wasm([(func.name, obj)], [func.name])
        got = run_node(module, func.name, operands, expected, folder)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["min(x[i, 0:{n}], 0.0)", "max(0.0, x[i, 0:{n}])", "larger"])
@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_extremes(dtype: str, lanes: int, op: str, tmp_path: Path) -> None:
    formula = f"larger(x[i, 0:{lanes}], w[i, 0:{lanes}])" if op == "larger" else op.format(n=lanes)
    text = f"""
def f(x: {dtype}[8, {lanes}], w: {dtype}[8, {lanes}], y: {dtype}[8, {lanes}]):
    for i in range(8):
        y[i, 0:{lanes}] = {formula}
"""
    kind = np.float32 if dtype == "f32" else np.float64
    x = np.resize(np.array(SPECIAL, kind), (8, lanes))
    w = np.repeat(np.array(SPECIAL, kind), lanes).reshape(8, lanes)
    agree(text, [x, w], (8, lanes), tmp_path)


@pytest.mark.slow
def test_moving_pointers(tmp_path: Path) -> None:
    """Rows and columns, a start that is not 0, a branch in the loop, both directions."""
    text = """
def f(x: f32[9, 7], y: f32[9, 7]):
    for i in range(9):
        for j in range(7):
            y[i, j] = 0.0
    for i in range(1, 9):
        for j in range(2, 7):
            if x[i, j] > 0.5:
                y[i, 8 - j] = x[i - 1, j] + x[j, i - 2 + 1 * (2 - i) + j - 1]
"""
    x = np.random.default_rng(3).random((9, 7), np.float32)
    agree(text, [x], (9, 7), tmp_path)


@pytest.mark.slow
def test_products_of_pairs(tmp_path: Path) -> None:
    text = """
def f(x: i32[4], w: i32[4], y: i32[4]):
    y[0:4] = dot2(x[0:4], w[0:4])
"""
    least = np.array([-(2**31), 0x7FFF7FFF, -1, 0x00018000 - 2**16], np.int64).astype(np.int32)
    agree(text, [least, least[::-1].copy()], (4,), tmp_path)


def test_weights_are_packed_alike() -> None:
    """A package has one file of weights for both."""
    packed = [pack_weights(lower(DEMO / "digits_cnn.onnx", TARGETS[n]).program) for n in BOTH]
    assert packed[0] == packed[1]
