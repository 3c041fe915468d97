"""Every op's kernel under its default schedule, run by the loop-IR interpreter, against its numpy
meaning; for two register files, so that tiles, tails and masks differ."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import naru.ops  # noqa: F401
from naru.dtypes import FROM_NUMPY, TINY
from naru.errors import UnsupportedError
from naru.ir.graph import Graph, Node, TensorType, get_output, make_constant, make_input
from naru.ir.interp import run as interpret
from naru.ir.simplify import index, known
from naru.ops.registry import OPS, Sample, apply
from naru.passes.choose_layout import choose_layout
from naru.schedule.kernels import Kernels
from naru.schedule.weights import pack
from naru.targets import get_target

SAMPLES = [
    (f"{op.name}-{k}", op.name, sample)
    for op in OPS.values()
    if op.samples and (op.lower or op.opaque)
    if op.kind not in ("control", "view") and op.name != "constant"
    for k, sample in enumerate(op.samples())
]
CASES = [pytest.param(name, sample, id=label) for label, name, sample in SAMPLES]
FLOATS = [
    pytest.param(name, sample, id=label)
    for label, name, sample in SAMPLES
    if any(a is not None and a.dtype.kind in "fV" for a in sample.inputs)
]


def group_of(name: str, sample: Sample) -> tuple[Graph, list[Node | None]]:
    """The op as a graph over inputs of the sample's shapes."""
    inputs: list[Node | None] = [
        None
        if a is None
        else make_input(f"p{k}", TensorType(FROM_NUMPY[a.dtype], tuple(map(index, a.shape))))
        for k, a in enumerate(sample.inputs)
    ]
    try:
        root = apply(name, *inputs, **sample.attrs)
    except UnsupportedError:  # it wants to know some integers at compile time
        small = [a is not None and a.dtype.kind == "i" and a.size <= 8 for a in sample.inputs]
        inputs = [
            make_constant(a) if known and a is not None else n
            for n, a, known in zip(inputs, sample.inputs, small, strict=True)
        ]
        root = apply(name, *inputs, **sample.attrs)
    given = tuple(n for n in inputs if n is not None and n.op == "input")
    results = tuple(get_output(root, k) for k in range(len(root.types)))
    return Graph("case", given, results, tuple(f"out{k}" for k in range(len(results)))), inputs


def run_kernel(name: str, sample: Sample, target: str) -> list[np.ndarray]:
    """What the op's kernel for a target computes, in the shapes of its meaning."""
    graph, inputs = group_of(name, sample)
    pairs = zip(inputs, sample.inputs, strict=True)
    arrays = [a for n, a in pairs if a is not None and n is not None and n.op == "input"]
    wanted = OPS[name].ref(sample.inputs, dict(sample.attrs))
    plain = choose_layout(graph)
    kernel = Kernels(get_target(target)).get(plain)
    if plain.outputs[0].op == "identity":  # a copy back to row-major order: see its kernel alone
        kernel = Kernels(get_target(target)).get(graph)
    given = [
        pack(a, n.type.layout).reshape([known(d) or 0 for d in b.shape])
        for a, n, b in zip(arrays, graph.inputs, kernel.func.buffers, strict=False)
    ]
    outs = [
        np.full([known(d) or 0 for d in b.shape], 7).astype(want.dtype)
        for b, want in zip(kernel.func.buffers[len(given) :], wanted, strict=True)
    ]
    assert not kernel.sizes
    interpret(kernel.func, [*(np.ascontiguousarray(g).copy() for g in given), *outs])
    return [out.reshape(want.shape) for out, want in zip(outs, wanted, strict=True)]


@pytest.mark.parametrize("target", ["x86-64-avx512", "aarch64-neon"])
@pytest.mark.parametrize(("name", "sample"), CASES)
def test_kernel_matches_numpy(name: str, sample: Sample, target: str) -> None:
    wanted = OPS[name].ref(sample.inputs, dict(sample.attrs))
    made = run_kernel(name, sample, target)
    assert len(made) == len(wanted)
    for got, want in list(zip(made, wanted, strict=True))[: len(made) - OPS[name].work]:
        assert got.dtype == want.dtype
        if FROM_NUMPY[want.dtype] in TINY:
            np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))
        elif want.dtype.kind in "fV":
            close = {2: 2e-2, 4: 2e-5, 8: 1e-12}[want.dtype.itemsize]
            np.testing.assert_allclose(
                got.astype(np.float64), want.astype(np.float64), rtol=close, atol=close
            )
        else:
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("name", "sample"), FLOATS)
def test_targets_with_fma_agree_bit_by_bit(name: str, sample: Sample) -> None:
    """Class `strict`: tiles, lanes and blocks differ by target, the order of each sum does not."""
    first = run_kernel(name, sample, "x86-64-avx512")
    for target in ("x86-64-avx2", "aarch64-neon"):
        for a, b in zip(first, run_kernel(name, sample, target), strict=True):
            if a.dtype.kind in "fV":
                nan = np.isnan(a.astype(np.float64))
                np.testing.assert_array_equal(nan, np.isnan(b.astype(np.float64)))
                a, b = (x[~nan].view(f"u{x.dtype.itemsize}") for x in (a, b))
            np.testing.assert_array_equal(a, b)


def test_one_number_of_bf16() -> None:
    x = np.array([[1.5, -3.0], [2.0, 7.0]], ml_dtypes.bfloat16)
    sample = Sample((x,), {"axes": (0, 1), "keepdims": False})
    (made,) = run_kernel("reduce_max", sample, "x86-64-avx512")
    assert made.shape == ()
    assert made.astype(np.float32) == 7.0
