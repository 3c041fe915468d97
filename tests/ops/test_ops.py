"""Every op of the registry on every one of its samples: types, meaning, lowering agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import naru.ops
from naru.dtypes import FROM_NUMPY, is_float
from naru.errors import NaruError
from naru.ir.expr import Const, Expr, Var
from naru.ir.graph import Graph, Node, TensorType, get_output, make_input, toposort
from naru.ir.interp_tensor import run_tensor_function
from naru.ir.tensor import Tensor, TensorFunction
from naru.ops.registry import OPS, Emit, Op, Sample, apply
from naru.schedule.group import root_of
from naru.targets import get_target
from tests import tensor_interp
from tests.tensor_interp import tolerance

Array = np.ndarray
SAMPLES = [
    (name, k, s)
    for name, op in OPS.items()
    if op.samples is not None
    for k, s in enumerate(op.samples())
]
IDS = [f"{name}-{k}" for name, k, _ in SAMPLES]


def build(name: str, sample: Sample, sizes: dict[int, Var] | None = None) -> Graph:
    """The op over inputs of the sample's shapes; `sizes` makes symbols of dims."""

    def dim(n: int) -> Expr:
        return sizes[n] if sizes and n in sizes else Const(n)

    def value(v: Any) -> Any:
        return tuple(map(dim, v)) if sizes and isinstance(v, tuple) else v

    inputs = [
        None
        if a is None
        else make_input(
            f"x{k}",
            TensorType(FROM_NUMPY[a.dtype], tuple(map(dim, a.shape)), None, known(name, k, a)),
        )
        for k, a in enumerate(sample.inputs)
    ]
    symbolic = ("shape",) if name in ("reshape", "expand", "constant_of_shape") else ()
    attrs = {k: value(v) if k in symbolic else v for k, v in sample.attrs.items()}
    out = apply(name, *inputs, **attrs)
    results = tuple(get_output(out, k) for k in range(len(out.types)))
    given = tuple(i for i in inputs if i is not None)
    return Graph(name, given, results, tuple(f"y{k}" for k in range(len(results))))


def known(name: str, k: int, a: Array) -> tuple[Expr, ...] | None:
    """`range` needs the values of its operands; everything else runs without."""
    return (
        tuple(Const(int(v)) for v in a.reshape(-1))
        if name == "range" and a.dtype.kind == "i"
        else None
    )


def arrays_of(sample: Sample) -> list[Array]:
    return [a for a in sample.inputs if a is not None]


def check_close(got: Array, want: Array, dtype: str, scale: float = 1.0) -> None:
    """Equal NaNs and infinities; the rest within the dtype's tolerance of the largest value."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    if not is_float(dtype):
        np.testing.assert_array_equal(got, want)
        return
    g, w = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(w)
    np.testing.assert_array_equal(np.where(finite, 0, g), np.where(finite, 0, w))
    assert np.isfinite(g[finite]).all()
    if finite.any():
        bound = tolerance(dtype) * scale
        np.testing.assert_allclose(g[finite], w[finite], rtol=bound, atol=bound)


def by_hand(graph: Graph, text: str) -> TensorFunction:
    """The kernel that an op writes itself."""
    tensors = [Tensor(str(n.attr("name")), n.type.dtype, n.type.shape) for n in graph.inputs]
    outputs = [
        Tensor(name, n.type.dtype, n.type.shape)
        for name, n in zip(graph.output_names, graph.outputs, strict=True)
    ]
    return TensorFunction(graph.name, tuple(tensors), (), tuple(outputs), text)


def lowered(graph: Graph) -> TensorFunction:
    """The graph as one TensorFunction; composed ops are expanded first."""
    inputs = [Tensor(str(n.attr("name")), n.type.dtype, n.type.shape) for n in graph.inputs]
    emit, made = Emit(), dict(zip(graph.inputs, inputs, strict=True))

    def lower(root: Node) -> Tensor:
        for n in toposort(root):
            if n in made:
                continue
            op = OPS[n.op]
            if op.expand is not None:
                made[n] = lower(op.expand(n))
                continue
            assert op.lower is not None, f"{n.op} has no lowering"
            made[n] = op.lower(emit, n, [None if i is None else made[i] for i in n.inputs])[0]
        return made[root]

    out = lower(graph.outputs[0])
    return TensorFunction(graph.name, tuple(inputs), tuple(emit.stages), (out,))


@pytest.mark.parametrize(("name", "k", "sample"), SAMPLES, ids=IDS)
def test_types_and_lowering_agree_with_meaning(name: str, k: int, sample: Sample) -> None:
    graph = build(name, sample)
    want = naru.ops.evaluate(graph, arrays_of(sample))  # checks the inferred type
    node = graph.outputs[0]
    if OPS[name].opaque is not None:
        return
    (got,) = tensor_interp.run(lowered(graph), arrays_of(sample))
    check_close(got, want[0], node.type.dtype)


@pytest.mark.parametrize(("name", "k", "sample"), SAMPLES, ids=IDS)
def test_symbolic_sizes(name: str, k: int, sample: Sample) -> None:
    """Every size above 1 becomes a symbol (equal sizes the same one)."""
    arrays = arrays_of(sample)
    sizes = {n: Var(f"n{n}", lo=1) for a in arrays for n in a.shape if n > 1}
    try:
        graph = build(name, sample, sizes)
    except NaruError:
        pytest.skip("the attributes fit these sizes only")
    want = naru.ops.evaluate(graph, arrays)
    if opaque := OPS[name].opaque:
        tf = by_hand(graph, opaque(root_of(graph), get_target("x86-64-avx2")))
        made = list(zip(run_tensor_function(tf, arrays), want, graph.outputs, strict=True))
        for got, right, node in made[: len(made) - OPS[name].work]:
            check_close(got, right, node.type.dtype)
        return
    env = {v: n for n, v in sizes.items()}
    (got,) = tensor_interp.run(lowered(graph), arrays, env)
    check_close(got, want[0], graph.outputs[0].type.dtype)


@pytest.mark.parametrize(("name", "k", "sample"), SAMPLES, ids=IDS)
def test_double_is_close(name: str, k: int, sample: Sample) -> None:
    graph = build(name, sample)
    dtype = graph.outputs[0].type.dtype
    single = naru.ops.evaluate(graph, arrays_of(sample))
    double = naru.ops.evaluate(graph, arrays_of(sample), float64=True)
    for want, got in zip(single, double, strict=True):
        assert got.dtype == want.dtype
        if is_float(dtype) and np.isfinite(want.astype(np.float64)).all():
            g, w = got.astype(np.float64), want.astype(np.float64)
            np.testing.assert_allclose(g, w, rtol=0.05, atol=tolerance(dtype) * 20)


def test_every_op_has_samples() -> None:
    without = {n for n, op in OPS.items() if op.samples is None}
    filled = {"nonzero_fill", "unique_fill", "non_max_suppression_fill"}
    assert without == {"input", "get", "if", "loop", "bind_dim", "with_sizes"} | filled


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_every_op_can_be_compiled(op: Op) -> None:
    ways = [op.lower is not None, op.opaque is not None, op.expand is not None]
    assert sum(ways) == 1 or op.kind == "control"
