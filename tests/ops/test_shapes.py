"""Symbolic sizes: what is known at compile time, what is refused, and what control flow does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from naru.errors import InputError, ModelError, UnsupportedError
from naru.ir.expr import Binary, Const, Expr, Var, walk
from naru.ir.graph import Graph, Node, TensorType, get_output, make_input
from naru.ir.interp_tensor import run_tensor_function
from naru.ir.simplify import evaluate as value_of
from naru.ir.simplify import floordiv, mul
from naru.ir.tensor import Tensor, TensorFunction
from naru.ops.evaluate import evaluate
from naru.ops.operands import assumed_equalities, dim_text, shape_text
from naru.ops.registry import OPS, Emit, apply, constant, dims
from naru.ops.shape import aligned_groups, reshape_index, resolve_shape
from naru.targets import get_target

B, S = Var("b"), Var("s")
TARGET = get_target("x86-64-avx2")


def tensor(name: str, *shape: int | Expr, dtype: str = "f32") -> Node:
    return make_input(name, TensorType(dtype, dims(*shape)))


def i64(*values: int) -> Node:
    return constant(list(values), np.int64)


def scalar(value: int) -> Node:
    return constant(value, np.int64)


def transposed(x: Node, w: Node, group: int = 1) -> Node:
    """A transposed convolution of two spatial axes, stride 2."""
    pairs = {"strides": (2, 2), "dilations": (1, 1), "begin": (0, 0), "size": (9, 9)}
    return apply("conv_transpose", x, w, group=group, **pairs)


def test_a_chain_of_shape_arithmetic_is_known() -> None:
    x = tensor("x", B, S, 768)
    batch = apply("gather", apply("shape", x), scalar(0), axis=0)
    length = apply("gather", apply("shape", x), scalar(-2), axis=0)
    heads = apply("div", scalar(768), scalar(64))
    parts = [apply("reshape", n, shape=dims(1)) for n in (batch, length, heads)]
    target = apply("concat", *parts, i64(64), axis=0)
    assert target.type.value == (B, S, Const(12), Const(64))
    y = apply("reshape", x, shape=target.type.value or ())
    assert shape_text(y.type.shape) == "[b, s, 12, 64]"


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda d: apply("slice", d, starts=(1,), ends=(3,)), "[s, 768]"),
        (lambda d: apply("reduce_prod", d, axes=(0,), keepdims=False), "[b * s * 768]"),
        (lambda d: apply("mul", d, scalar(2)), "[b * 2, s * 2, 1536]"),
        (lambda d: apply("div", d, scalar(2)), "[b // 2, s // 2, 384]"),
        (lambda d: apply("mod", d, scalar(2)), "[b % 2, s % 2, 0]"),
        (lambda d: apply("max", d, scalar(1)), "[max(1, b), max(1, s), 768]"),
        (lambda d: apply("cast", apply("cast", d, to="i32"), to="i64"), "[b, s, 768]"),
        (lambda d: apply("expand", apply("size", d), shape=dims(2)), "[3, 3]"),
        (lambda d: apply("where", apply("equal", d, i64(0, 0, 768)), d, d), None),
        (lambda d: apply("gather", d, i64(2, 0), axis=0), "[768, b]"),
        (lambda d: apply("reshape", d, shape=dims(3, 1)), "[b, s, 768]"),
        (lambda d: apply("range", scalar(1), scalar(8), scalar(3)), "[1, 4, 7]"),
        (lambda d: apply("constant_of_shape", shape=dims(2), value=5, dtype="i64"), "[5, 5]"),
        (lambda d: apply("tile", d, repeats=dims(1)), "[b, s, 768]"),
    ],
)  # fmt: skip
def test_values_of_integer_tensors(make: Callable[[Node], Node], value: str | None) -> None:
    out = make(apply("shape", tensor("x", B, S, 768)))
    known = out.type.value
    assert (None if known is None else shape_text(known)) == value


@pytest.mark.parametrize(
    ("old", "new", "groups"),
    [
        ((B, S, 768), (B, S, 12, 64), [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 4)]),
        ((B, S, 12, 64), (B, S, 768), [(0, 1, 0, 1), (1, 2, 1, 2), (2, 4, 2, 3)]),
        ((B, S, 4), (mul(B, S), 4), [(0, 2, 0, 1), (2, 3, 1, 2)]),
        ((mul(B, S), 4), (B, S, 4), [(0, 1, 0, 2), (1, 2, 2, 3)]),
        ((4, 6), (6, 4), [(0, 2, 0, 2)]),
        ((B, 1, S), (B, S), [(0, 1, 0, 1), (1, 2, 1, 1), (2, 3, 1, 2)]),
    ],
)
def test_reshape_matches_dims_in_groups(
    old: tuple[int | Expr, ...], new: tuple[int | Expr, ...], groups: list[tuple[int, ...]]
) -> None:
    assert aligned_groups(dims(*old), dims(*new)) == groups


def test_aligned_reshapes_need_no_division_by_symbols() -> None:
    at = tuple(Var(f"i{k}", hi=hi) for k, hi in enumerate((2**31 - 2, 2**31 - 2, 11, 63)))
    where = reshape_index(dims(B, S, 768), dims(B, S, 12, 64), at)
    assert shape_text(where) == "[i0, i1, i2 * 64 + i3]"
    back = reshape_index(dims(B, S, 12, 64), dims(B, S, 768), (at[0], at[1], Var("j", hi=767)))
    assert shape_text(back) == "[i0, i1, j // 64, j % 64]"
    whole = reshape_index(dims(mul(B, S), 768), dims(B, S, 768), at[:3])
    assert not any(isinstance(e, Binary) and e.op in ("floordiv", "mod") for e in walk(*whole))


@pytest.mark.parametrize(
    ("shape", "target", "want"),
    [
        ((B, S, 768), (0, 0, 12, 64), "[b, s, 12, 64]"),
        ((B, S, 768), (0, -1, 12, 64), "[b, s, 12, 64]"),
        ((B, S, 768), (-1, 768), "[b * s, 768]"),
        ((B, S, 768), (-1, S, 768), "[b, s, 768]"),
        ((2, 3, 4), (-1, 2), "[12, 2]"),
    ],
)
def test_resolve_shape(shape: tuple[int, ...], target: tuple[int, ...], want: str) -> None:
    assert shape_text(resolve_shape(dims(*shape), target)) == want


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: apply("add", tensor("a", 2), tensor("b", 3)), "2 and 3"),
        (lambda: apply("add", tensor("a", 2), tensor("b", 2, dtype="i64")), "f32 and i64"),
        (lambda: apply("exp", tensor("a", 2, dtype="i64")), "expected float, got i64"),
        (lambda: apply("matmul", tensor("a", 2, 3), tensor("b", 4, 5)), "inner sizes"),
        (lambda: apply("conv", tensor("x", 1, 3, 4, 4), tensor("w", 2, 2, 3, 3)), "channels"),
        (lambda: apply("conv", tensor("x", 1, 3, 4, 4), tensor("w", 2, 3, 9, 9)), "larger"),
        (lambda: transposed(tensor("x", 1, 3, 4, 4), tensor("w", 2, 2, 3, 3)), "channels"),
        (lambda: transposed(tensor("x", 1, 3, 4, 4), tensor("w", 3, 2, 3)), "the same rank"),
        (lambda: transposed(tensor("x", 1, 3, 4, 4), tensor("w", 3, 2, 3, 3), 2), "cannot share"),
        (lambda: transposed(tensor("x", 1, 3, 4), tensor("w", 3, 2, 3)), "1 spatial axes"),
        (lambda: apply("reshape", tensor("x", 4), shape=dims(3)), "4 elements, [3] 3"),
        (lambda: resolve_shape(dims(4), (-1, 3)), "do not fill"),
        (lambda: apply("gather", i64(1, 2), scalar(2), axis=0), "out of range"),
        (lambda: apply("transpose", tensor("x", 2, 3), perm=(0, 0)), "no permutation"),
        (lambda: apply("concat", tensor("a", 2, 3), tensor("b", 2, 4), axis=0), "axis 1"),
        (lambda: apply("reduce_sum", tensor("x", 2), axes=(1,)), "out of range"),
        (lambda: apply("cast", tensor("x", 2), to="f33"), "f33"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        make()
    assert message in str(caught.value)


def test_dims_that_must_be_equal_are_called_by_the_plainest() -> None:
    half = floordiv(B, 2)
    for a, b, want in ((B, S, "b"), (S, half, "s"), (half, S, "s"), (B, Const(3), "3")):
        with assumed_equalities() as assumed:
            out = apply("add", tensor("a", a), tensor("b", b))
        assert shape_text(out.type.shape) == f"[{want}]"
        assert [(e.a, e.b) for e in assumed] == [(a, b)]
    with assumed_equalities() as assumed:
        apply("add", tensor("a", B), tensor("b", 1))
    assert assumed == []


def test_broadcasting_of_symbols() -> None:
    out = apply("add", tensor("a", B, 1, 4), tensor("b", S, 1))
    assert shape_text(out.type.shape) == "[b, s, 4]"


@pytest.mark.parametrize("n", range(7))
@pytest.mark.parametrize(
    ("start", "end", "step"), [(1, -1, 1), (-1, -100, -2), (-4, 9, 3), (3, 0, -1)]
)
def test_slices_of_unknown_sizes(n: int, start: int, end: int, step: int) -> None:
    x = tensor("x", B)
    out = apply("slice", x, starts=(start,), ends=(end,), axes=(0,), steps=(step,))
    graph = Graph("g", (x,), (out,), ("y",))
    data = np.arange(n, dtype=np.float32)
    (got,) = evaluate(graph, [data])
    assert value_of(out.type.shape[0], {B: n}) == len(got)
    np.testing.assert_array_equal(run_lowered(graph, [data]), got)


def run_lowered(graph: Graph, arrays: list[np.ndarray]) -> np.ndarray:
    """One op, lowered and run by the interpreter of TensorFunctions."""
    emit, node = Emit(), graph.outputs[0]
    inputs = tuple(Tensor(f"x{k}", n.type.dtype, n.type.shape) for k, n in enumerate(graph.inputs))
    lower = OPS[node.op].lower
    assert lower is not None
    outputs = tuple(lower(emit, node, inputs))
    return run_tensor_function(TensorFunction("f", inputs, tuple(emit.stages), outputs), arrays)[0]


def test_nonzero_makes_a_size() -> None:
    x, k = tensor("x", B, 3), Var("k")
    size = apply("bind_dim", apply("nonzero_count", x), symbols=(k,), bounds=(mul(B, 3),))
    places = apply("nonzero_fill", x, size)
    total = apply("size", places)
    assert shape_text(places.type.shape) == "[2, k]"
    data = np.array([[0, 1, 0], [2, 0, np.nan]], np.float32)
    got = evaluate(Graph("g", (x,), (places, total), ("y", "n")), [data])
    np.testing.assert_array_equal(got[0], np.stack(np.nonzero(data)))
    assert got[1] == 6
    text = OPS["nonzero_fill"].opaque
    assert text is not None
    tensors = [Tensor("x", "f32", x.type.shape), Tensor("bound", "i64", ())]
    tf = TensorFunction(
        "f", tuple(tensors), (), (Tensor("y", "i64", places.type.shape),), text(places, TARGET)
    )
    (kernel,) = run_tensor_function(tf, [data, np.array(3)], sizes={"k": 3})
    np.testing.assert_array_equal(kernel, got[0])


def test_dims_named_as_a_kernels_variables() -> None:
    x = tensor("x", Var("k"), Var("i0"), Var("out"))
    text = OPS["nonzero_count"].opaque
    assert text is not None
    n = apply("nonzero_count", x)
    tf = TensorFunction(
        "f",
        (Tensor("x", "f32", x.type.shape),),
        (),
        (Tensor("y", "i64", dims(1)),),
        text(n, TARGET),
    )
    data = np.eye(3, dtype=np.float32)[:, :, None]
    (count,) = run_tensor_function(tf, [data])
    assert count.tolist() == [3]


def branch(name: str, op: str) -> Graph:
    x = tensor("v", B)
    return Graph(name, (x,), (apply(op, x),), ("y",))


def test_if_takes_one_branch() -> None:
    cond, x = tensor("c", dtype="bool"), tensor("x", B)
    y = apply("if", cond, x, then=branch("t", "neg"), orelse=branch("e", "exp"))
    graph = Graph("g", (cond, x), (y,), ("y",))
    data = np.array([0, 1], np.float32)
    np.testing.assert_array_equal(evaluate(graph, [np.array(True), data])[0], -data)
    np.testing.assert_allclose(evaluate(graph, [np.array(False), data])[0], np.exp(data))


def test_branches_of_different_shapes_are_not_compiled_yet() -> None:
    x = tensor("v", B)
    short = Graph("s", (x,), (apply("slice", x, starts=(0,), ends=(1,)),), ("y",))
    with pytest.raises(UnsupportedError, match="different shapes"):
        apply(
            "if", tensor("c", dtype="bool"), tensor("x", B), then=branch("t", "neg"), orelse=short
        )


def doubling(scan: bool) -> Graph:
    """carried x -> x + x, while x[0] < 100; scans the step number."""
    i, cond, x = tensor("i", dtype="i64"), tensor("c", dtype="bool"), tensor("v", B)
    twice = apply("add", x, x)
    if scan:
        return Graph("body", (i, cond, x), (cond, twice, i), ("c", "x", "i"))
    first = apply("gather", twice, scalar(0), axis=0)
    again = apply("less", first, constant(100.0))
    return Graph("body", (i, cond, x), (again, twice), ("c", "x"))


def test_loop_with_a_condition() -> None:
    x = tensor("x", B)
    y = apply("loop", None, constant(True, np.bool_), x, body=doubling(False), carried=1)
    (got,) = evaluate(Graph("g", (x,), (y,), ("y",)), [np.array([3, 1], np.float32)])
    np.testing.assert_array_equal(got, [192, 64])


@pytest.mark.parametrize("trips", [0, 3])
def test_loop_with_scan_outputs(trips: int) -> None:
    x = tensor("x", B)
    both = apply("loop", scalar(trips), None, x, body=doubling(True), carried=1)
    outs = (get_output(both, 0), get_output(both, 1))
    assert both.types[1].shape == (Const(trips),)
    got = evaluate(Graph("g", (x,), outs, ("y", "i")), [np.array([3, 1], np.float32)])
    np.testing.assert_array_equal(got[0], np.array([3, 1]) * 2**trips)
    np.testing.assert_array_equal(got[1], np.arange(trips))


def test_evaluate_checks_its_inputs() -> None:
    x, y = tensor("x", B), tensor("y", B)
    graph = Graph("g", (x, y), (apply("add", x, y),), ("z",))
    one, two = np.zeros(1, np.float32), np.zeros(2, np.float32)
    with pytest.raises(InputError, match="elsewhere"):
        evaluate(graph, [one, two])
    with pytest.raises(InputError, match="float32"):
        evaluate(graph, [one, one.astype(np.float64)])


def test_sums_in_double_differ_from_sums_in_single() -> None:
    x = tensor("x", B)
    y = apply("reduce_sum", x, axes=(0,), keepdims=False)
    graph = Graph("g", (x,), (y,), ("y",))
    data = np.array([1e8, 1, -1e8], np.float32)
    assert evaluate(graph, [data], float64=True)[0] == 1
    assert evaluate(graph, [data], float64=True)[0].dtype == np.float32


def test_dim_text() -> None:
    assert dim_text(floordiv(B, 3)) == "b // 3"
    assert shape_text(()) == "[()]"
