"""The ONNX reader: every zoo model means what ONNX Runtime says, every bad one gets its error."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from zoo import CASES, Case, bad_models, external_data_model, text

from naru.errors import ModelError, NaruError, NaruWarning, UnsupportedError
from naru.frontend.onnx import read_onnx
from naru.ir.expr import Var
from naru.ir.graph import Graph, toposort
from naru.ir.verify import check
from naru.ops.evaluate import evaluate
from naru.passes.hooks import infer


# What is not compiled yet, with a word of the reason. A case leaves this list when it works.
def array_maker(dtype: type[np.generic]) -> Callable[[Any], np.ndarray]:
    return lambda values: np.array(values, dtype)


f16, f32 = array_maker(np.float16), array_maker(np.float32)
i32, i64 = array_maker(np.int32), array_maker(np.int64)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime as the standard has it: without rewrites that trade accuracy for speed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run_graph(g: Graph, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return evaluate(g, [feed[str(n.attr("name"))] for n in g.inputs])


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float = 1e-5) -> None:
    assert (got.dtype, got.ndim) == (want.dtype, want.ndim)
    if not got.size and not want.size:
        return  # of what a loop of no rounds stacks, ONNX Runtime makes all sizes 0
    assert got.shape == want.shape
    if want.dtype.kind not in "fV":
        np.testing.assert_array_equal(got, want)
        return
    wide = want.astype(np.float64)
    largest = np.abs(wide[np.isfinite(wide)]).max(initial=1e-30)
    np.testing.assert_allclose(
        got.astype(np.float64), wide, rtol=tolerance, atol=tolerance * largest
    )


def read_quietly(model: Any) -> Graph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaruWarning)
        return read_onnx(model)


def parameters() -> list[Any]:
    return [pytest.param(c, id=name) for name, c in CASES.items()]


@pytest.mark.parametrize("case", parameters())
def test_means_what_onnxruntime_says(case: Case) -> None:
    g = read_quietly(case.model())
    check(g, infer=infer)
    session = session_of(case.model())
    assert list(g.output_names) == [o.name for o in session.get_outputs()]
    assert {n.attr("name") for n in g.inputs} == {i.name for i in case.model().graph.input}
    for feed in case.feeds():
        for got, want in zip(run_graph(g, feed), session.run(None, feed), strict=True):
            assert_close(got, np.asarray(want), case.tolerance)


def test_bad_models(tmp_path: Path) -> None:
    """Every one gets its kind of error, in its words, and nothing else is raised."""
    kinds = {"model": ModelError, "unsupported": (UnsupportedError, ModelError)}
    problems: list[str] = []
    for name, bad in bad_models(tmp_path).items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NaruWarning)
            try:
                read_onnx(bad.path)
                message = " ".join(str(w.message) for w in caught)
                right = bad.verdict == "warning"
            except NaruError as error:
                message, right = str(error), isinstance(error, kinds.get(bad.verdict, ()))
        if not right or not any(w.lower() in message.lower() for w in bad.words):
            problems.append(f"{name}: expected {bad.verdict} with {bad.words}, found {message!r}")
    assert not problems, "\n".join(problems)


def test_damaged_files_give_our_errors_only() -> None:
    """A thousand models with some bytes changed: refused in words, or read."""
    rng = random.Random(20)
    small = [c for c in CASES.values() if not c.tags & {"large", "network"}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaruWarning)
        for _ in range(1000):
            data = bytearray(rng.choice(small).model().SerializeToString())
            for _ in range(rng.choice([1, 1, 2, 4])):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            with contextlib.suppress(NaruError):
                read_onnx(bytes(data))


# --- what a model is read as -------------------------------------------------------------------


def test_dims_of_one_name_share_a_symbol() -> None:
    g = read_onnx(
        text("(float[batch,2] x, float[batch,2] y) => (float[batch,2] z) { z = Add(x, y) }")
    )
    (symbol,) = g.symbols
    assert (symbol.name, symbol.lo) == ("batch", 0)
    assert all(n.type.shape[0] is symbol for n in g.inputs)


def test_nameless_and_odd_dims_get_symbols() -> None:
    model = text("(float[n,2] x) => (float[n,2] y) { y = Neg(x) }")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param = "2*seq len"
    dims[1].Clear()
    shape = read_onnx(model).inputs[0].type.shape
    assert [d.name for d in shape if isinstance(d, Var)] == ["_2_seq_len", "x_1"]


def test_initializers_among_the_inputs_are_constants() -> None:
    model = text(
        "(float[n,2] x, float[2] w) => (float[n,2] y) { y = Add(x, w) }", {"w": f32([1, 2])}
    )
    g = read_onnx(model)
    assert [n.attr("name") for n in g.inputs] == ["x"]


def test_notes_name_nodes_and_weights() -> None:
    model = text("(float[n,2] x) => (float[n,2] y) { y = Add(x, w) }", {"w": f32([1, 2])})
    model.graph.node[0].name = "the_add"
    g = read_onnx(model, name="given name")
    notes = {n.op: note for n, note in g.notes.items()}
    assert notes == {"add": "the_add", "constant": "w"}
    assert g.name == "given_name"


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value": numpy_helper.from_array(np.array([[1.5]], np.float16))}, f16([[1.5]])),
        ({"value_float": 2.5}, np.float32(2.5)),
        ({"value_floats": [1.0, 2.0]}, f32([1, 2])),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [7, 8]}, i64([7, 8])),
    ],
)
def test_constant_forms(attribute: dict[str, Any], expected: np.ndarray) -> None:
    node = helper.make_node("Constant", [], ["y"], **attribute)
    (got,) = run_graph(read_onnx(model_of([node], [], ["y"])), {})
    assert_close(got, np.asarray(expected))


@pytest.mark.parametrize(
    "kind", ["f32", "f16", "bf16", "f64", "i8", "u16", "i32", "i64", "u64", "bool"]
)
def test_typed_fields_and_raw_data_agree(kind: str) -> None:
    code = {"f32": 1, "f16": 10, "bf16": 16, "f64": 11, "i8": 3, "u16": 4, "i32": 6, "i64": 7,
            "u64": 13, "bool": 9}[kind]  # fmt: skip
    values = [0, 1, 1, 0] if kind == "bool" else [0, 1, 2, 100]
    typed = helper.make_tensor("w", code, [2, 2], values)
    array = np.array(values).astype(helper.tensor_dtype_to_np_dtype(code))
    raw = helper.make_tensor("w", code, [2, 2], array.tobytes(), raw=True)
    node = helper.make_node("Identity", ["w"], ["y"])
    results = []
    for t in (typed, raw):
        model = model_of([node], [], ["y"])
        model.graph.initializer.append(t)
        results.append(run_graph(read_onnx(model), {})[0])
    assert results[0].dtype == results[1].dtype
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0].astype(np.float64).reshape(-1), values)


def test_external_data_is_memory_mapped(tmp_path: Path) -> None:
    path = external_data_model(tmp_path)
    g = read_onnx(path)
    weights = [n.data for n in toposort(*g.outputs) if n.data is not None]
    assert len(weights) == 2
    for w in weights:
        assert not w.flags.writeable
        base = w
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)
    x = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    want = onnx.load(path)
    assert_close(run_graph(g, {"x": x})[0], np.asarray(session_of(want).run(None, {"x": x})[0]))
    with pytest.raises(ModelError, match="give the path"):
        read_onnx(path.read_bytes())


def test_nodes_may_come_in_any_order() -> None:
    model = text("(float[n] x) => (float[n] y) { a = Neg(x) b = Exp(a) y = Add(a, b) }")
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    x = f32([1, -2])
    assert_close(run_graph(read_onnx(model), {"x": x})[0], -x + np.exp(-x))


def test_nodes_that_no_output_needs_may_be_unknown_to_numpy_but_not_to_us() -> None:
    """An unsupported node is reported although it is dead: the list is of the file, not of luck."""
    model = text("(uint8[n] x) => (uint8[n] y) { y = BitwiseNot(x) v = ImageDecoder(x) }", opset=20)
    with pytest.raises(UnsupportedError, match="ImageDecoder"):
        read_onnx(model)


def test_all_unsupported_nodes_are_listed_with_types_and_file(tmp_path: Path) -> None:
    model = text(
        "(uint8[n] x) => (uint8[n] y) "
        "{ a = ImageDecoder(x) b = BitwiseNot(x) c = ImageDecoder(b) y = Foo(c) }",
        opset=20,
    )
    path = tmp_path / "several.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(path)
    assert len(caught.value.problems) == 3
    message = str(caught.value)
    for part in ("several.onnx", "'a'", "'c'", "ImageDecoder", "Foo", "u8[n]", "opset 20"):
        assert part in message
    assert "try:" in message


def test_outputs_that_are_not_made_are_reported_when_used() -> None:
    pool = 'MaxPool <kernel_shape = [3], strides = [2], auto_pad = "SAME_UPPER"> (x)'
    unused = f"(float[n,2,s] x) => (float[n,2,t] y) {{ y, i = {pool} }}"
    assert len(read_onnx(text(unused, opset=13)).outputs) == 1
    used = f"(float[n,2,s] x) => (int64[n,2,t] z) {{ y, i = {pool} z = Neg(i) }}"
    with pytest.raises(UnsupportedError, match="output 1"):
        read_onnx(text(used, opset=13))


def nested_if(depth: int) -> onnx.ModelProto:
    body = helper.make_graph([helper.make_node("Neg", ["x"], ["b0"])], "g", [], [info("b0")])
    for k in range(1, depth + 1):
        leaf = [helper.make_node("Exp", ["x"], [f"e{k}"])]
        other = helper.make_graph(leaf, "g", [], [info(f"e{k}")])
        branch = helper.make_node("If", ["c"], [f"b{k}"], then_branch=body, else_branch=other)
        body = helper.make_graph([branch], "g", [], [info(f"b{k}")])
    flag = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    return model_of(list(body.node), [info("x"), flag], [f"b{depth}"])


def test_branches_may_be_nested() -> None:
    g = read_onnx(nested_if(20))
    x = f32([1, 2, 3])
    for flag, want in ((True, -x), (False, np.exp(x))):
        assert_close(run_graph(g, {"x": x, "c": np.array(flag)})[0], want)


def test_deep_nesting_is_refused() -> None:
    """An error and not an overflow of the stack. (Bodies in bodies protobuf bounds by itself.)"""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("zoo", 1)]
    model = model_of([helper.make_node("f0", ["x"], ["y"], domain="zoo")], [info("x")], ["y"])
    model.opset_import.append(opsets[1])
    for k in range(1000):
        call = [helper.make_node(f"f{k + 1}", ["a"], ["b"], domain="zoo")]
        model.functions.append(helper.make_function("zoo", f"f{k}", ["a"], ["b"], call, opsets))
    with pytest.raises(ModelError, match="nested more than"):
        read_onnx(model.SerializeToString())


def test_functions_that_multiply_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """f0 calls f1 twice, which calls f2 twice, …: 2^30 nodes from a small file."""
    monkeypatch.setattr("naru.frontend.onnx_import.MAX_NODES", 10_000)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("zoo", 1)]
    model = model_of([helper.make_node("f0", ["x"], ["y"], domain="zoo")], [info("x")], ["y"])
    model.opset_import.append(opsets[1])
    for k in range(30):
        calls = [
            helper.make_node(f"f{k + 1}", [a], [b], domain="zoo")
            for a, b in (("a", "t"), ("t", "b"))
        ]
        model.functions.append(helper.make_function("zoo", f"f{k}", ["a"], ["b"], calls, opsets))
    last = [helper.make_node("Neg", ["a"], ["b"])]
    model.functions.append(helper.make_function("zoo", "f30", ["a"], ["b"], last, opsets))
    with pytest.raises(ModelError, match="more than 10000 nodes"):
        read_onnx(model)


def test_mixed_case_warning_names_the_tensor() -> None:
    model = text("(float[n,2] x) => (float[n,2] y) { y = Add(x, w) }", {"w": f32([1, np.nan])})
    with pytest.warns(NaruWarning, match=r"'w'.*element 1 is nan"):
        read_onnx(model)


@pytest.mark.parametrize(
    ("values", "warned"), [([-np.inf], False), ([np.nan], True), ([-np.inf, 1], True)]
)
def test_one_infinity_is_a_mask(values: list[float], warned: bool) -> None:
    model = text("(float[n,2] x) => (float[n,2] y) { y = Add(x, w) }", {"w": f32(values)})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", NaruWarning)
        read_onnx(model)
    assert bool(told) == warned


def info(name: str, shape: tuple[int | str, ...] = (3,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[str],
    opset: int = 17,
) -> onnx.ModelProto:
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "main", inputs, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


# --- versions ----------------------------------------------------------------------------------

# name, opset, node(s) on float[2,3] x (weights: axes etc.), as ONNX text
VERSIONS: list[tuple[str, int, str, dict[str, Any]]] = [
    ("squeeze_attribute", 11, "t = Unsqueeze <axes = [0, 3]> (x) y = Squeeze <axes = [0]> (t)", {}),
    ("squeeze_operand", 13, "t = Unsqueeze(x, a) y = Squeeze(t, a)", {"a": i64([0])}),
    ("squeeze_all", 13, "t = Unsqueeze(x, a) y = Squeeze(t)", {"a": i64([0, 3])}),
    ("reduce_sum_11", 11, "y = ReduceSum <axes = [1], keepdims = 0> (x)", {}),
    ("reduce_sum_13", 13, "y = ReduceSum <keepdims = 0> (x, a)", {"a": i64([-1])}),
    ("reduce_mean_18", 18, "y = ReduceMean(x, a)", {"a": i64([0])}),
    ("reduce_max_20_bool", 20, "c = Cast <to = 9> (x) y = ReduceMax <keepdims = 0> (c, a)",
     {"a": i64([0])}),
    ("pad_2", 10, "y = Pad <pads = [1, 0, 0, 2], value = 0.5> (x)", {}),
    ("pad_18_axes", 18, 'y = Pad(x, p, "", a)', {"p": i64([1, 2]), "a": i64([-1])}),
    ("slice_1", 9, "y = Slice <axes = [1], starts = [1], ends = [100]> (x)", {}),
    ("split_2", 11, "a, b = Split <axis = 1, split = [1, 2]> (x) y = Concat <axis = 1> (b, a)", {}),
    ("clip_6", 10, "y = Clip <min = -0.5> (x)", {}),
    ("clip_11", 11, "y = Clip(x, low)", {"low": np.float32(-0.5)}),
    ("dropout_10", 10, "y, m = Dropout <ratio = 0.5> (x)", {}),
    ("dropout_13", 13, "y = Dropout(x, r, t)", {"r": np.float32(0.5), "t": np.bool_(False)}),
    ("softmax_11", 11, "y = Softmax <axis = 0> (x)", {}),
    ("softmax_13", 13, "y = Softmax <axis = 0> (x)", {}),
    ("log_softmax_11", 11, "y = LogSoftmax(x)", {}),
    ("hardmax_11", 11, "y = Hardmax <axis = 0> (x)", {}),
    ("gemm_7", 7, "y = Gemm <transB = 1> (x, w, b)",
     {"w": f32([[1, 2, 3]]), "b": f32([4])}),
    ("batch_norm_9", 9, "y = BatchNormalization(x, s, s, s, s)", {"s": f32([1, 2, 3])}),
    ("cast_9", 9, "y = Cast <to = 7> (x)", {}),
    ("celu_by_table", 12, "y = Celu(x)", {}),
    ("shrink_by_function", 17, "y = Shrink <lambd = 0.5, bias = 0.1> (x)", {}),
    ("mean_variance_by_function", 17, "y = MeanVarianceNormalization <axes = [0, 1]> (x)", {}),
    ("group_norm_18", 18, "t = Reshape(x, r) y = GroupNormalization <num_groups = 1> (t, s, s)",
     {"r": i64([1, 2, 3]), "s": f32([1])}),
    ("rms_norm_by_function", 23, "y = RMSNormalization(x, s)", {"s": f32([1, 2, 3])}),
    ("cast_like", 15, "y = CastLike(x, i)", {"i": i32([1])}),
    ("layer_norm_statistics", 17, "y, m, d = LayerNormalization(x, s) z = Add(m, d)",
     {"s": f32([1, 2, 3])}),
    ("trilu", 14, "y = Trilu <upper = 0> (x, k)", {"k": np.int64(1)}),
    ("eye_like", 9, "y = EyeLike <k = 1> (x)", {}),
    ("range_float", 11, "y = Range(a, b, c)",
     {"a": np.float32(0.5), "b": np.float32(3), "c": np.float32(0.75)}),
    ("is_inf", 10, "e = Exp(x) f = Exp(e) g = Exp(f) h = Exp(g) y = IsInf(h)", {}),
    ("einsum_three", 12, 'y = Einsum <equation = "ab,bc,c->a"> (x, w, v)',
     {"w": f32([[1, 2], [3, 4], [5, 6]]), "v": f32([1, -1])}),
    ("gather_nd_batch", 13, "y = GatherND <batch_dims = 1> (x, i)", {"i": i64([[1], [-1]])}),
    ("one_hot_negative", 11, "y = OneHot <axis = 0> (i, d, v)",
     {"i": i64([0, -1, 7]), "d": np.int64(4), "v": f32([2, 5])}),
    ("dynamic_quantize_by_function", 11, "y, s, z = DynamicQuantizeLinear(x)", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("opset", "nodes", "weights"), [v[1:] for v in VERSIONS], ids=[v[0] for v in VERSIONS]
)
def test_versions(opset: int, nodes: str, weights: dict[str, Any]) -> None:
    model = text(f"(float[2,3] x) => (float[2,3] y) {{ {nodes} }}", weights, opset=opset)
    for output in model.graph.output:
        output.type.Clear()
    inferred = onnx.shape_inference.infer_shapes(model)
    kind = inferred.graph.output[0].type
    model.graph.output[0].type.CopyFrom(kind)
    if not kind.HasField("tensor_type"):
        model.graph.output[0].type.tensor_type.elem_type = 1
    x = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    want = session_of(model).run(None, {"x": x})
    for got, expected in zip(run_graph(read_onnx(model), {"x": x}), want, strict=True):
        assert_close(got, np.asarray(expected))


def test_unknown_versions_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="opset 5"):
        read_onnx(text("(float[n] x) => (float[n] y) { y = Neg(x) }", opset=5))
    same = read_onnx(text("(bool[n] x) => (bool[n] y) { y = Not(x) }", opset=1))
    assert same.outputs[0].op == "not"
