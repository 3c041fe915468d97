"""Recurrent layers beyond the zoo: ONNX's own tests, layouts, half floats, threads, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnx.backend.test.case import node as node_tests
from onnx.backend.test.case.node import gru, lstm, rnn
from onnx.backend.test.case.test_case import TestCase
from zoo.build import weight

import naru
from naru.errors import ModelError, NaruError, UnsupportedError
from naru.frontend.onnx import read_onnx
from naru.ir import simplify
from naru.ir.expr import Expr, Var
from naru.ir.graph import Graph, TensorType, get_output, make_input, toposort
from naru.ir.interp import run as interpret
from naru.ir.loop import meets
from naru.ir.simplify import index
from naru.ir.text_loop import read_func
from naru.ir.verify import verify_func
from naru.ops.evaluate import evaluate
from naru.ops.recurrent_kernel import blocking
from naru.ops.registry import OPS, apply
from naru.options import Options
from naru.runtime import _native
from naru.schedule.kernels import Kernels
from naru.targets import TARGETS, get_target

Array = np.ndarray
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# Importing a module makes its cases; `collect_testcases` makes those of all operators, for 10 s.
MADE = vars(node_tests)["_NodeTestCases"]
NODE_TESTS = [
    pytest.param(case, id=case.name)
    for case in MADE
    if case.model.graph.node[0].op_type in GATES and len(case.model.graph.node) == 1
]


def layer(
    op: str,
    operands: Mapping[str, Array],
    outputs: int = 2,
    inputs: tuple[str, ...] = ("X",),
    shape: tuple[int | str, ...] | None = None,
    **attributes: Any,
) -> bytes:
    """A model of one layer. `operands` by ONNX's names; those in `inputs` are the model's."""
    order = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    names = [k if k in operands else "" for k in order]
    while not names[-1]:
        names.pop()
    results = ["Y", "Y_h", "Y_c"][:outputs]
    node = helper.make_node(op, names, results, name="layer", **attributes)
    dtype = helper.np_dtype_to_tensor_dtype(operands["X"].dtype)
    given = [
        helper.make_tensor_value_info(
            k,
            helper.np_dtype_to_tensor_dtype(operands[k].dtype),
            shape if k == "X" and shape is not None else operands[k].shape,
        )
        for k in inputs
    ]
    made = [helper.make_tensor_value_info(k, dtype, None) for k in results]
    weights = [numpy_helper.from_array(v, k) for k, v in operands.items() if k not in inputs]
    graph = helper.make_graph([node], "layer", given, made, weights)
    opset = helper.make_opsetid("", 22)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def sizes_of(shape: Sequence[Expr]) -> list[int]:
    """A shape without symbols."""
    return [simplify.evaluate(d, {}) for d in shape]


def operands_of(
    op: str, steps: int, batch: int, hidden: int, directions: int = 1
) -> dict[str, Array]:
    gates, rng = GATES[op], np.random.default_rng(steps)
    return {
        "X": rng.standard_normal((steps, batch, 5)).astype(np.float32),
        "W": weight(directions, gates * hidden, 5),
        "R": weight(directions, gates * hidden, hidden),
        "B": weight(directions, 2 * gates * hidden),
    }


def outputs_of(model: naru.Model, feeds: Mapping[str, Array]) -> list[Array]:
    found = model(dict(feeds))
    return [found] if isinstance(found, np.ndarray) else list(found)


@pytest.mark.parametrize("case", NODE_TESTS)
def test_onnx_node_test(case: TestCase) -> None:
    """Those of the onnx package: batches first, lengths, peepholes, biases, defaults."""
    assert case.model is not None
    assert case.data_sets is not None
    model = naru.compile(case.model.SerializeToString(), cache=False)
    names = [i.name for i in case.model.graph.input]
    for inputs, wanted in case.data_sets:
        feeds = dict(zip(names, inputs, strict=True))
        for got, want in zip(outputs_of(model, feeds), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=1e-6)


def test_there_are_node_tests() -> None:
    assert {m.__name__.rpartition(".")[2] for m in (gru, lstm, rnn)} == {"gru", "lstm", "rnn"}
    assert len(NODE_TESTS) >= 12


@pytest.mark.parametrize("op", GATES)
def test_batch_first_is_batch_second_transposed(op: str) -> None:
    given = operands_of(op, 4, 3, 7, directions=2)
    given["initial_h"] = weight(2, 3, 7)
    second = naru.compile(layer(op, given, direction="bidirectional"), cache=False)
    y, h = outputs_of(second, {"X": given["X"]})
    given["X"] = np.ascontiguousarray(given["X"].transpose(1, 0, 2))
    given["initial_h"] = np.ascontiguousarray(given["initial_h"].transpose(1, 0, 2))
    first = naru.compile(layer(op, given, direction="bidirectional", layout=1), cache=False)
    got = outputs_of(first, {"X": given["X"]})
    np.testing.assert_array_equal(got[0], y.transpose(2, 0, 1, 3))
    np.testing.assert_array_equal(got[1], h.transpose(1, 0, 2))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(dtype: type[np.generic]) -> None:
    """Half floats are computed in f32 and rounded once."""
    given = {k: v.astype(dtype) for k, v in operands_of("GRU", 3, 2, 9).items()}
    graph = read_onnx(layer("GRU", given))
    wanted = evaluate(graph, [given["X"]])
    model = naru.compile(layer("GRU", given), cache=False)
    for got, want in zip(outputs_of(model, {"X": given["X"]}), wanted, strict=True):
        assert got.dtype == dtype
        close = {2: 2e-3, 8: 1e-13}[want.dtype.itemsize]
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), atol=close)


@pytest.mark.parametrize("op", GATES)
def test_threads_change_no_bit(op: str, tmp_path: Path) -> None:
    """Directions and tiles of the batch are shared among threads; also where sizes are symbols."""
    given = operands_of(op, 6, 13, 36, directions=2)
    for shape in (None, ("t", "n", 5)):
        data = layer(op, given, shape=shape, direction="bidirectional")
        naru.compile(data, cache=False).save(tmp_path / "layer.naru")
        results: list[list[bytes]] = []
        for threads in (1, 2, 3):
            model = naru.load(tmp_path / "layer.naru", threads=threads)
            results.append([a.tobytes() for a in outputs_of(model, {"X": given["X"]})])
        assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("op", GATES)
def test_kernels_of_all_targets_give_the_same_bits(op: str) -> None:
    """How much is summed at a time differs by target, the order of each sum does not: what rounds
    a product and a sum once gives the same, and what rounds twice does (each target as `portable`
    has it)."""
    given = operands_of(op, 1, 1, 36)
    registers = {(t.vector_bits, t.registers): t for t in TARGETS.values()}
    for batch in (1, 4):
        x = np.repeat(given["X"], batch, axis=1)
        first = np.zeros((1, batch, 36), np.float32)
        graph = read_onnx(layer(op, {**given, "X": x, "initial_h": first}))
        (steps,) = (n for n in toposort(*graph.outputs) if n.op == f"{op.lower()}_steps")
        text = OPS[steps.op].opaque
        assert text is not None
        rng = np.random.default_rng(batch)
        shapes = [sizes_of(i.type.shape) for i in steps.inputs if i is not None]
        arrays = [rng.standard_normal(s).astype(np.float32) / 4 for s in shapes]
        found: dict[bool, set[bytes]] = {True: set(), False: set()}
        portable = [Options(t, "portable").arithmetic for t in registers.values()]
        for target in (*registers.values(), *portable):
            outs = [np.zeros(sizes_of(t.shape), np.float32) for t in steps.types]
            interpret(read_func(text(steps, target)), [*arrays, *outs])
            found[target.has_fma].add(b"".join(o.tobytes() for o in outs))
        assert [len(some) for some in found.values()] == [1, 1]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_sums_fit_the_registers(target: naru.targets.Target) -> None:
    """Accumulators, the weights of one step (but for a single row) and one element of the state."""
    vectors = max(1, 16 // target.lanes("f32"))
    for gates in (1, 2, 3, 4):
        for rows in range(1, 7):
            some, panels = blocking(gates, rows, vectors, target.registers)
            weights = 0 if rows == 1 else some * vectors
            taken = rows * some * panels * vectors + weights + 1
            assert taken <= target.registers or (some, panels) == (1, 1)
            assert panels == 1 or some == gates


def test_one_node_in_two_places() -> None:
    """The first h and c are one array: one parameter of the kernel."""
    given = operands_of("LSTM", 3, 2, 6)
    given["initial_h"] = weight(1, 2, 6)
    names = ("X", "initial_h")
    data = onnx.load_from_string(layer("LSTM", given, 3, names, hidden_size=6))
    data.graph.node[0].input.extend(["initial_h"])
    options = ort.SessionOptions()
    session = ort.InferenceSession(data.SerializeToString(), options)
    feeds = {k: given[k] for k in names}
    model = naru.compile(data.SerializeToString(), cache=False)
    for got, want in zip(outputs_of(model, feeds), session.run(None, feeds), strict=True):
        np.testing.assert_allclose(got, np.asarray(want), rtol=1e-5, atol=1e-6)


def test_sizes_named_as_a_kernels_variables() -> None:
    steps, batch = Var("state"), Var("t")
    x = make_input("x", TensorType("f32", tuple(map(index, (steps, batch, 1, 1, 1, 16)))))
    weights = make_input("weights", TensorType("f32", tuple(map(index, (1, 1, 1, 3, 16)))))
    usual = {"reverse": (1,), "activations": ("Tanh",), "alpha": (0.0,), "beta": (0.0,)}
    n = apply("rnn_steps", x, weights, None, None, **usual)
    body = Graph("g", (x, weights), (get_output(n, 0), get_output(n, 1)), ("y", "h"))
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal(s).astype(np.float32) for s in ((4, 3, 1, 1, 1, 16), (1, 1, 1, 3, 16))
    ]
    wanted = evaluate(body, arrays)
    kernel = Kernels(get_target("avx2")).get(body)
    outs = [np.zeros_like(w) for w in wanted]
    sizes = {steps: 4, batch: 3}
    interpret(kernel.func, [*arrays, *outs, *(sizes[s] for s in kernel.sizes)])
    for got, want in zip(outs, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


WRONG: dict[str, tuple[dict[str, Array], dict[str, Any], str]] = {
    "hidden_size": ({}, {"hidden_size": 7}, "hidden_size.*expected 6.*found 7"),
    "direction": ({}, {"direction": "sideways"}, "direction.*forward.*sideways"),
    "directions": ({}, {"direction": "bidirectional"}, "W.*2 and 1|W.*1 and 2"),
    "activation": ({}, {"activations": ["Sine", "Tanh", "Tanh"]}, "Sigmoid.*found 'Sine'"),
    "count": ({}, {"activations": ["Tanh"]}, "expected 3.*found 1"),
    "bias": ({"B": np.zeros((1, 5), np.float32)}, {}, "B.*5 and 48|B.*48 and 5"),
    "weights": ({"W": np.zeros((1, 24, 4), np.float32)}, {}, "W.*4 and 5|W.*5 and 4"),
    "lengths": ({"sequence_lens": np.ones(5, np.int32)}, {}, "sequence_lens.*5 and 2|2 and 5"),
    "state": ({"initial_h": np.zeros((1, 2, 3), np.float32)}, {}, "initial_h.*3 and 6|6 and 3"),
    "rank": ({"X": np.zeros((3, 2), np.float32)}, {}, "X.*rank 3"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_named(what: str) -> None:
    operands, attributes, words = WRONG[what]
    data = layer("LSTM", {**operands_of("LSTM", 3, 2, 6), **operands}, **attributes)
    with pytest.raises(ModelError, match="node 'layer'") as caught:
        read_onnx(data)
    assert caught.match(f"(?s){words}")


def test_a_hidden_size_that_is_not_known() -> None:
    given = operands_of("RNN", 3, 2, 6)
    model = onnx.load_from_string(layer("RNN", given, inputs=("X", "R")))
    model.graph.input[1].type.tensor_type.shape.dim[2].dim_param = "units"
    with pytest.raises(NaruError, match="node 'layer'") as caught:
        read_onnx(model.SerializeToString())
    assert isinstance(caught.value, UnsupportedError)
    assert "hidden size" in str(caught.value)


# --- threads that share the steps -----------------------------------------------------------------


@pytest.fixture
def five_threads() -> Iterator[None]:
    """Also where there are fewer cores."""
    before = _native.get_threads()
    _native.set_threads(5)
    yield
    _native.set_threads(before)


# Sizes whose steps are long enough; no multiples of 16.
LONG = {"LSTM": 100, "GRU": 110, "RNN": 200}


def on_threads(data: bytes, folder: Path) -> Callable[[int], naru.Model]:
    """A model on so many threads."""
    naru.compile(data, cache=False).save(folder / "layer.naru")
    return lambda threads: naru.load(folder / "layer.naru", threads=threads)


def long_layers() -> Iterator[Any]:
    for op, hidden in LONG.items():
        for batch in (1, 3):
            for directions in (1, 2):
                name = f"{op}-{batch}-{directions}"
                yield pytest.param(op, hidden, batch, directions, {}, id=name)
    last = {"linear_before_reset": 1}
    yield pytest.param("GRU", 110, 1, 1, last, id="GRU linear before reset")
    yield pytest.param("LSTM", 128, 1, 1, {}, id="whole panels")


@pytest.mark.parametrize(("op", "hidden", "batch", "directions", "attributes"), list(long_layers()))
def test_shared_steps_change_no_bit(
    op: str,
    hidden: int,
    batch: int,
    directions: int,
    attributes: dict[str, Any],
    five_threads: None,
    tmp_path: Path,
) -> None:
    """On any number of threads the same, where the batch is known and where it is not; and what
    ONNX Runtime says."""
    attributes = {"hidden_size": hidden, **attributes}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    given = operands_of(op, 5, batch, hidden, directions)
    first = {"initial_h": weight(directions, batch, hidden)}
    for operands, shape in ((given | first, None), (given, ("t", "n", 5))):
        names = tuple(k for k in ("X", "initial_h") if k in operands)
        data = layer(op, operands, 2, names, shape, **attributes)
        feeds = {k: operands[k] for k in names}
        model = on_threads(data, tmp_path)
        one, *others = (outputs_of(model(threads), feeds) for threads in (1, 2, 3, 5))
        for other in others:
            assert [a.tobytes() for a in one] == [a.tobytes() for a in other]
        for got, want in zip(one, ort.InferenceSession(data).run(None, feeds), strict=True):
            np.testing.assert_allclose(got, np.asarray(want), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("op", GATES)
def test_lengths_and_threads(op: str, five_threads: None, tmp_path: Path) -> None:
    """Rows with lengths run by themselves; the bits do not depend on the threads either."""
    given = operands_of(op, 5, 3, LONG[op])
    given["sequence_lens"] = np.array([5, 0, 2], np.int32)
    names = ("X", "sequence_lens")
    data = layer(op, given, 2, names, hidden_size=LONG[op])
    feeds = {k: given[k] for k in names}
    model = on_threads(data, tmp_path)
    one, *others = (outputs_of(model(threads), feeds) for threads in (1, 2, 5))
    for other in others:
        assert [a.tobytes() for a in one] == [a.tobytes() for a in other]
    for got, want in zip(one, evaluate(read_onnx(data), list(feeds.values())), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("op", GATES)
def test_the_interpreter_shares_steps_too(op: str, steps: int) -> None:
    """Thread by thread between barriers: the same bits as alone, and nearly those of numpy."""
    hidden = LONG[op]
    given = operands_of(op, max(steps, 1), 1, hidden)
    given["X"] = given["X"][:steps]
    graph = read_onnx(layer(op, given))
    (node,) = (n for n in toposort(*graph.outputs) if n.op == f"{op.lower()}_steps")
    text = OPS[node.op].opaque
    assert text is not None
    func = read_func(text(node, get_target("avx2")))
    assert verify_func(func) == []
    assert meets(func)
    rng = np.random.default_rng(steps)
    shapes = [sizes_of(i.type.shape) for i in node.inputs if i is not None]
    arrays = [rng.standard_normal(s).astype(np.float32) / 8 for s in shapes]
    found: list[list[Array]] = []
    for threads in (1, 2, 3):
        outs = [np.full(sizes_of(t.shape), 7, np.float32) for t in node.types]
        interpret(func, [*arrays, *outs], threads=threads, shuffle=threads)
        found.append(outs)
    for other in found[1:]:
        assert [a.tobytes() for a in found[0]] == [a.tobytes() for a in other]
    reference = OPS[node.op].ref
    assert reference is not None
    given_arrays = iter(arrays)
    operands = [None if i is None else next(given_arrays) for i in node.inputs]
    for got, want in zip(found[0], reference(operands, dict(node.attrs)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-6)


def test_callers_of_shared_steps_at_once(tmp_path: Path, five_threads: None) -> None:
    """One holds the pool, the others go on alone; more threads than cores meet, and none hangs."""
    given = operands_of("LSTM", 20, 1, 100)
    data = layer("LSTM", given, 1, hidden_size=100)
    load = on_threads(data, tmp_path)
    models = [load(threads) for threads in (5, 2, 3, 5)]
    feeds = {"X": given["X"]}
    want = outputs_of(load(1), feeds)[0].tobytes()
    with ThreadPoolExecutor(4) as callers:
        calls = [callers.submit(outputs_of, models[k % 4], feeds) for k in range(200)]
    assert {call.result()[0].tobytes() for call in calls} == {want}


def test_short_steps_are_not_shared() -> None:
    for hidden, shared in ((40, False), (85, False), (86, True)):
        graph = read_onnx(layer("LSTM", operands_of("LSTM", 3, 1, hidden)))
        (node,) = (n for n in toposort(*graph.outputs) if n.op == "lstm_steps")
        text = OPS[node.op].opaque
        assert text is not None
        assert meets(read_func(text(node, get_target("avx2")))) == shared
