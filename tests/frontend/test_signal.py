"""Fourier transforms of many lengths against numpy, in single and double precision, and Einsum
against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from naru.errors import ModelError, NaruError
from naru.frontend.onnx import read_onnx
from naru.frontend.onnx_fourier import largest_prime
from naru.ir.graph import toposort
from naru.ir.simplify import known, prod
from naru.ops.evaluate import evaluate

LENGTHS = (1, 2, 3, 8, 17, 60, 97, 128, 500, 521, 768, 1000, 1031, 1042, 2048, 3000, 4757)


def model_of(op: str, arrays: list[np.ndarray], constants: dict[int, Any], **attrs: Any) -> Any:
    """y = op(x0, x1, …), of which some are constants."""
    opset = attrs.pop("opset", 20)
    count = max([len(arrays) - 1, *constants]) + 1
    names = [f"x{k}" if k in constants or k < len(arrays) else "" for k in range(count)]
    inputs = [
        helper.make_tensor_value_info(
            f"x{k}", helper.np_dtype_to_tensor_dtype(a.dtype), [*map(int, a.shape)]
        )
        for k, a in enumerate(arrays)
        if k not in constants
    ]
    kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="node", **attrs)],
        "g",
        inputs,
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(v), f"x{k}") for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run(model: onnx.ModelProto, *arrays: np.ndarray) -> np.ndarray:
    return evaluate(read_onnx(model), arrays)[0]


def complex_of(x: np.ndarray) -> np.ndarray:
    return x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transform(n: int, dtype: type[np.floating[Any]]) -> None:
    rng = np.random.default_rng(n)
    for planes, batch, behind in ((1, 2, 1), (2, 1, 3), (2, 9, 1)):
        x = rng.normal(size=(batch, n, behind, planes)).astype(dtype)
        signal = complex_of(x).astype(np.complex128)
        whole = np.fft.fft(signal, axis=1)
        cases = {(0, 0): whole, (1, 0): np.fft.ifft(signal, axis=1)}
        if planes == 1:
            cases[0, 1] = whole[:, : n // 2 + 1]
        for (inverse, onesided), want in cases.items():
            model = model_of("DFT", [x], {2: 1}, inverse=inverse, onesided=onesided)
            got = run(model, x)
            assert got.dtype == dtype
            bound = (2e-6 if dtype is np.float32 else 1e-13) * max(1.0, np.abs(want).max())
            np.testing.assert_allclose(complex_of(got), want, rtol=0, atol=bound)


@pytest.mark.parametrize("n", [n for n in LENGTHS if n > 1])
def test_real_inverse(n: int) -> None:
    rng = np.random.default_rng(n)
    for batch in (1, 9):
        x = rng.normal(size=(batch, n // 2 + 1, 2))
        model = model_of("DFT", [x], {1: n, 2: 1}, inverse=1, onesided=1)
        want = np.fft.irfft(complex_of(x), n, axis=1)[..., None]
        np.testing.assert_allclose(run(model, x), want, rtol=0, atol=1e-12)


def test_length_crops_or_fills() -> None:
    x = np.random.default_rng(0).normal(size=(3, 10, 2))
    for length in (7, 10, 16):
        got = run(model_of("DFT", [x], {1: length, 2: -2}), x)
        np.testing.assert_allclose(
            complex_of(got), np.fft.fft(complex_of(x), length, axis=1), atol=1e-12
        )


@pytest.mark.parametrize("n", [67 * 71, 503 * 509])
def test_tables_are_small(n: int) -> None:
    """Of lengths, too, that have neither a small factor nor a large one."""
    x = np.zeros((1, n, 1), np.float32)
    graph = read_onnx(model_of("DFT", [x], {2: np.array(1)}))
    sizes = [prod(c.type.shape) for c in toposort(*graph.outputs) if c.op == "constant"]
    assert max(known(s) or 0 for s in sizes) <= max(2 * n, 4 * 509 * 509)


def test_largest_prime() -> None:
    assert [largest_prime(n) for n in (1, 2, 12, 97, 1024, 2062)] == [1, 2, 3, 97, 2, 1031]


def test_signals_that_are_refused() -> None:
    x = np.zeros((2, 8, 2), np.float32)
    three = np.zeros((2, 8, 3), np.float32)
    for model, words in (
        (model_of("DFT", [x], {2: 2}), "real and imaginary"),
        (model_of("DFT", [x], {2: 5}), "expected an axis"),
        (model_of("DFT", [x], {1: 0}), "expected the length to be at least 1"),
        (model_of("DFT", [three], {}), "expected [..., 1] or [..., 2]"),
        (model_of("STFT", [x], {1: 0, 3: 4}, onesided=0), "expected the step to be at least 1"),
        (model_of("STFT", [x], {1: 1, 2: np.ones(3, np.float32), 3: 4}, onesided=0), "a window"),
    ):
        with pytest.raises(NaruError, match=words.replace("[", r"\[").replace(".", r"\.")):
            read_onnx(model)


EQUATIONS = (
    ("ij,jk", (3, 4), (4, 5)), ("ij->", (3, 4)), ("ii", (4, 4)), ("iij->ji", (3, 3, 2)),
    ("iii->i", (3, 3, 3)), ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)), ("...->...", (2, 3)),
    ("i...,i...", (3, 2), (3, 2)), ("...i,...i->...", (2, 5, 3), (1, 5, 3)), (",i->i", (), (3,)),
    ("ij,kj,lj->ikl", (2, 3), (4, 3), (5, 3)), ("ij,ij->ij", (3, 4), (3, 4)),
    ("ij,j->ij", (3, 4), (1,)), ("aB,Bc->ca", (2, 3), (3, 4)), ("a b , b c -> a c", (2, 3), (3, 4)),
    ("ij,jk->ki", (0, 4), (4, 5)), ("ij,jk->ki", (2, 0), (0, 5)), ("ii->i", (0, 0)),
)  # fmt: skip


@pytest.mark.parametrize("case", EQUATIONS, ids=lambda c: c[0])
def test_einsum(case: tuple[Any, ...]) -> None:
    equation, *shapes = case
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.normal(size=s)) for s in shapes]
    model = model_of("Einsum", arrays, {}, equation=equation)
    np.testing.assert_allclose(run(model, *arrays), np.einsum(equation, *arrays), atol=1e-12)


@pytest.mark.parametrize(
    ("equation", "words"),
    [
        ("ij->k", "no operand has"), ("ij->ii", "label twice"), ("ijk->i", "does not fit rank"),
        ("i,j->i", "expected 1 terms"), ("i1->i", "expected letters"), ("...->", "no ellipsis"),
        ("ii->i", "sizes of label 'i'"),
    ],
)  # fmt: skip
def test_equations_that_are_refused(equation: str, words: str) -> None:
    model = model_of("Einsum", [np.zeros((2, 3))], {}, equation=equation)
    with pytest.raises(ModelError, match=words):
        read_onnx(model)


LINES = [(0, (6, 3, 2)), (1, (2, 15, 1)), (-2, (3, 8, 2)), (-3, (7, 2, 2)), (2, (2, 1, 12, 2))]


@pytest.mark.parametrize(
    "flags", [{}, {"inverse": 1}, {"onesided": 1}, {"inverse": 1, "onesided": 1}]
)
@pytest.mark.parametrize(("axis", "shape"), LINES)
@pytest.mark.parametrize("length", [None, 5, 16])
def test_transform_of_what_only_data_tell(
    axis: int, shape: tuple[int, ...], length: int | None, flags: dict[str, int]
) -> None:
    """The axis, the length and the sizes are known at run time only."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if flags == {"onesided": 1}:
        x = x[..., :1]
    given = {1: np.array(length)} if length else {}
    want = run(model_of("DFT", [x], {**given, 2: axis}, **flags), x)
    operands = [x, np.array(length if length else 0), np.array(axis)]
    model = model_of("DFT", operands, {}, **flags)
    if not length:
        model.graph.node[0].input[1] = ""
    got = run(model, *operands)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    for k, dim in enumerate(model.graph.input[0].type.tensor_type.shape.dim[:-1]):
        dim.dim_param = f"d{k}"
    np.testing.assert_allclose(run(model, *operands), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("windowed", [False, True])
def test_frames_of_what_only_data_tell(onesided: int, windowed: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 50, 2 - onesided)).astype(np.float32)
    window = rng.normal(size=12).astype(np.float32)
    operands = [x, np.array(5), window, np.array(12)]
    known = {1: 5, 2: window, 3: 12} if windowed else {1: 5, 3: 12}
    fixed = model_of("STFT", [x], known, onesided=onesided)
    model = model_of("STFT", operands, {}, onesided=onesided)
    if not windowed:
        fixed.graph.node[0].input[2] = model.graph.node[0].input[2] = ""
    want = run(fixed, x)
    np.testing.assert_allclose(run(model, *operands), want, rtol=1e-4, atol=1e-4)
