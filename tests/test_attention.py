"""Attention in one kernel: graphs as exporters write it, against ONNX Runtime and exact results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from naru import pipeline
from naru.artifact.bundle import Bundle
from naru.errors import ModelError
from naru.frontend.onnx import read_onnx
from naru.ir.graph import Graph, TensorType, make_input, toposort
from naru.ir.simplify import ONE, index
from naru.ops.attention_kernel import KEYS, QUERIES
from naru.ops.evaluate import evaluate
from naru.ops.registry import OPS, apply, constant
from naru.ops.samples import random
from naru.options import Options
from naru.passes.registry import run
from naru.runtime.session import open_model
from naru.targets import get_target
from tests.codegen.native import runnable, without_tiles

Array = np.ndarray
LEAST = float(np.finfo(np.float32).min)
PLAIN: dict[str, Any] = {
    "heads": (2, 2), "first": (0, 0, 0), "axes": (2, 2, 2, 2), "scale": 0.125, "cap": 0.0,
    "fill": -np.inf, "causal": (), "guard": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A graph in ONNX's text: operands, and what is done to scores and to probabilities."""

    inputs: str
    heads: str
    scores: str = "x = Identity(s)"
    chances: str = "w = Identity(p)"
    end: str = "t = Transpose<perm = [0, 2, 1, 3]>(o) y = Reshape(t, flat)"
    result: str = "float[B, S, 32] y"

    def model(self) -> onnx.ModelProto:
        return onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["" : 17]> g ({self.inputs}) => ({self.result}) {{'
            " split = Constant<value_ints = [0, 0, 2, 16]>()"
            " flat = Constant<value_ints = [0, 0, 32]>()"
            " half = Constant<value_float = 0.5>() zero = Constant<value_float = 0.0>()"
            f" inf = Constant<value_float = -inf>() least = Constant<value_float = {LEAST}>()"
            f" {self.heads} s = MatMul(q4, k4) {self.scores}"
            f" p = Softmax<axis = -1>(x) {self.chances} o = MatMul(w, v4) {self.end} }}"
        )


APART = (
    "float[B, S, 32] q, float[B, T, 32] k, float[B, T, 32] v",
    "q1 = Reshape(q, split) q2 = Transpose<perm = [0, 2, 1, 3]>(q1) q4 = Mul(q2, half)"
    " k1 = Reshape(k, split) k2 = Transpose<perm = [0, 2, 3, 1]>(k1) k4 = Mul(k2, half)"
    " v1 = Reshape(v, split) v4 = Transpose<perm = [0, 2, 1, 3]>(v1)",
)
JOINED = (
    "float[B, S, 96] q",
    "a, b, c = Split<axis = 2>(q) a1 = Reshape(a, split) b1 = Reshape(b, split)"
    " c1 = Reshape(c, split) q4 = Transpose<perm = [0, 2, 1, 3]>(a1)"
    " k4 = Transpose<perm = [0, 2, 3, 1]>(b1) v4 = Transpose<perm = [0, 2, 1, 3]>(c1)",
)
GUARD = "bad = IsNaN(p) w = Where(bad, zero, p)"
GRAPHS = {
    "plain": Written(*APART),
    "divided": Written(*APART, "two = Constant<value_float = 2.0>() x = Div(s, two)"),
    "added": Written(APART[0] + ", float[B, 1, 1, T] m", APART[1], "x = Add(s, m)"),
    "added for each query": Written(
        APART[0] + ", float[B, 1, S, T] m", APART[1], "x = Add(m, s)", GUARD
    ),
    "chosen": Written(APART[0] + ", bool[B, 1, S, T] m", APART[1], "x = Where(m, s, inf)", GUARD),
    "chosen, the least": Written(
        APART[0] + ", bool[B, 1, S, T] m", APART[1], "x = Where(m, s, least)"
    ),
    "joined": Written(*JOINED),
    "causal": Written(
        JOINED[0] + ", bool[B, 1, 1, S] m",
        JOINED[1],
        "i = Constant<value_int = 0>() u = Constant<value_int = 1>()"
        " n = Shape<start = 1, end = 2>(q) n0 = Squeeze(n) r = Range(i, n0, u)"
        " a3 = Constant<value_ints = [0, 1, 2]>() a2 = Constant<value_ints = [1]>()"
        " keys = Unsqueeze(r, a3) rows = Unsqueeze(r, a2)"
        " near = LessOrEqual(keys, rows) seen = And(near, m) bias = Where(seen, zero, inf)"
        " x = Add(s, bias)",
        GUARD,
    ),
    "as heads": Written(
        "float[B, 2, S, 16] q, float[B, 2, T, 16] k, float[B, 2, T, 16] v",
        "q4 = Identity(q) k4 = Transpose<perm = [0, 1, 3, 2]>(k) v4 = Identity(v)",
        end="y = Identity(o)", result="float[B, 2, S, 16] y",
    ),
}  # fmt: skip
SIZES = ((2, 3, 300), (1, 7, 19), (2, 40, 40), (1, QUERIES + 9, KEYS + 21))


def feeds(model: onnx.ModelProto, batch: int, queries: int, keys: int) -> dict[str, Array]:
    """Random operands; masks hide half of the keys, and from the first query all."""
    sizes, rng = {"B": batch, "S": queries, "T": keys}, np.random.default_rng(0)
    made: dict[str, Array] = {}
    for i in model.graph.input:
        dims = i.type.tensor_type.shape.dim
        shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in dims]
        made[i.name] = rng.normal(size=shape).astype(np.float32)
        if i.name == "m":
            seen = rng.integers(0, 2, shape).astype(np.bool_)
            seen[0, 0, 0] = False
            is_bool = i.type.tensor_type.elem_type == onnx.TensorProto.BOOL
            hidden = -np.inf if shape[2] > 1 else LEAST
            made["m"] = seen if is_bool else np.where(seen, 0, hidden).astype(np.float32)
    return made


def fused(graph: Graph) -> Graph:
    """What the passes up to the one of attention make of a graph."""
    return run(pipeline.PASSES[: pipeline.PASSES.index(pipeline.fuse_attention) + 1], graph)


def built(graph: Graph) -> Bundle:
    return pipeline.build(graph, Options(without_tiles()), tested=False)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_as_exporters_write_them(name: str) -> None:
    model = GRAPHS[name].model()
    graph = read_onnx(model.SerializeToString())
    nodes = toposort(*fused(graph).outputs)
    (attention,) = (n for n in nodes if n.op == "attention")
    assert bool(attention.attr("causal")) == (name == "causal")
    assert not {"softmax", "matmul", "transpose", "slice"} & {n.op for n in nodes}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    bundle = built(graph)
    one, two = (open_model(bundle, threads=n) for n in (1, 2))
    for sizes in SIZES:
        feed = feeds(model, *sizes)
        want = np.asarray(session.run(None, feed)[0])
        got = np.asarray(one(feed))
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6, err_msg=str(sizes))
        np.testing.assert_array_equal(np.asarray(two(feed)), got)


@pytest.mark.parametrize(("precision", "error"), [("fp32", 2e-5), ("bf16", 1.2e-2)])
@pytest.mark.parametrize("name", GRAPHS)
def test_in_matrix_registers(name: str, precision: str, error: float) -> None:
    model = GRAPHS[name].model()
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    options = Options(runnable("x86-64-amx"), precision)
    bundle = pipeline.build(read_onnx(model.SerializeToString()), options, tested=False)
    assert bundle.manifest["target"]["name"] == "x86-64-amx"
    one, two = (open_model(bundle, threads=n) for n in (1, 2))
    for sizes in (*SIZES, (3, 33, 64), (1, 3 * QUERIES, 2 * KEYS)):
        feed = feeds(model, *sizes)
        want, got = np.asarray(session.run(None, feed)[0]), np.asarray(one(feed))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=str(sizes))
        far = np.nan_to_num(got - want)
        assert np.sqrt(np.mean(far**2)) <= error * np.sqrt(np.mean(np.nan_to_num(want) ** 2))
        np.testing.assert_array_equal(np.asarray(two(feed)), got)


def plain(queries: int, keys: int, size: int) -> tuple[Graph, Bundle]:
    """Attention alone, for matrix registers where it may have them."""
    inputs = [
        make_input(name, TensorType("f32", tuple(map(index, (1, n, 2, size)))))
        for name, n in zip("qkv", (queries, keys, keys), strict=True)
    ]
    graph = Graph("g", tuple(inputs), (apply("attention", *inputs, None, **PLAIN),), ("y",))
    return graph, pipeline.build(graph, Options(get_target("x86-64-amx")), tested=False)


@pytest.mark.parametrize(
    ("queries", "keys", "size"),
    [(4, 64, 16), (16, 1, 16), (40, 8, 16), (32, 32, 1040), (0, 32, 16), (32, 0, 16)],
)
def test_few_queries_or_keys_and_wide_heads_stay_in_f32(queries: int, keys: int, size: int) -> None:
    _, bundle = plain(queries, keys, size)
    assert bundle.manifest["target"]["name"] == "x86-64-avx512"


@pytest.mark.parametrize("keys", [13, 15])
def test_fewer_keys_than_a_panel_has(keys: int) -> None:
    graph, bundle = plain(32, keys, 64)
    assert bundle.manifest["target"]["name"] == "x86-64-amx"
    runnable("x86-64-amx")
    feed = [random(1, n, 2, 64, seed=k) for k, n in enumerate((32, keys, keys))]
    (want,) = evaluate(graph, feed, float64=True)
    np.testing.assert_allclose(np.asarray(open_model(bundle)(*feed)), want, atol=1e-4)


SAME = "float[B, 2, S, 16] q, float[B, 2, T, 16] k, float[B, 2, T, 16] v"
KNOWN_SAME = "float[1, 2, 20, 16] q, float[1, 2, 20, 16] k, float[1, 2, 20, 16] v"
TURNED = "k4 = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, k4)"
ENDED = "p = Softmax<axis = -1>(x) y = MatMul(p, v)"
COUNTED = (
    "i = Constant<value_int = 0>() u = Constant<value_int = 1>() a1 = Constant<value_ints = [1]>()"
    " a12 = Constant<value_ints = [1, 2]>() n = Shape<start = 2, end = 3>(q) n0 = Squeeze(n)"
    " m = Shape<start = 2, end = 3>(k) m0 = Squeeze(m) b = Shape<start = 0, end = 1>(q)"
    " b0 = Squeeze(b) cols = Range(i, m0, u)"
)
CUT = (
    "q = Transpose<perm = [0, 2, 1, 3]>(a1) k = Transpose<perm = [0, 2, 1, 3]>(b1)"
    " v = Transpose<perm = [0, 2, 1, 3]>(c1)"
)
FIRST = np.arange(20).reshape(1, 1, 1, 20) < 13
GUARDED = (
    " wide = Constant<value_ints = [0, 2, 24, 16]>() rows = Constant<value_ints = [0, 2, 24, 20]>()"
    " all = Constant<value_ints = [0, 6, 8, 20]>() q1 = Reshape(q, wide)"
    " k4 = Transpose<perm = [0, 1, 3, 2]>(k) s1 = MatMul(q1, k4) s = Reshape(s1, all)"
    " p = Softmax<axis = -1>(s) bad = IsNaN(p) w = Where(bad, low, p) w1 = Reshape(w, rows)"
    " z = MatMul(w1, v)"
)
# What looks like a pattern, and is not: (inputs, body, constants, sizes of batch, queries, keys)
NOT_QUITE: dict[str, tuple[str, str, dict[str, Any], tuple[int, int, int]]] = {
    "the first keys are seen, added": (
        KNOWN_SAME, f"{TURNED} x = Add(s, c) {ENDED}",
        {"c": np.where(FIRST, 0, LEAST)}, (1, 20, 20),
    ),
    "the first keys are seen, chosen": (
        KNOWN_SAME, f"{TURNED} x = Where(c, s, low) {ENDED}",
        {"c": FIRST, "low": -np.inf}, (1, 20, 20),
    ),
    "the first keys are seen by the only query": (
        KNOWN_SAME.replace("20", "1", 1), f"{TURNED} x = Where(c, s, low) {ENDED}",
        {"c": FIRST, "low": -np.inf}, (1, 1, 20),
    ),
    "a limit without end": (
        f"{KNOWN_SAME}, float[1, 1, 20, 20] m",
        f"{TURNED} c = Greater(m, low) x = Where(c, s, low) {ENDED}", {"low": -np.inf}, (1, 20, 20),
    ),
    "a limit that is no number": (
        f"{KNOWN_SAME}, float[1, 1, 20, 20] m",
        f"{TURNED} c = LessOrEqual(nan, m) x = Where(c, s, low) {ENDED}",
        {"nan": np.nan, "low": LEAST}, (1, 20, 20),
    ),
    "queries before the first key": (
        SAME, f"{COUNTED} r = Range(i, n0, u) d = Unsqueeze(r, a1) e = Sub(m0, n0) f = Add(d, e)"
        f" c = LessOrEqual(cols, f) {TURNED} x = Where(c, s, low) {ENDED}",
        {"low": LEAST}, (1, 20, 17),
    ),
    "places in the batch": (
        SAME, f"{COUNTED} r = Range(i, b0, u) d = Unsqueeze(r, a1) e = LessOrEqual(cols, d)"
        f" c = Unsqueeze(e, a12) {TURNED} x = Where(c, s, low) {ENDED}",
        {"low": -np.inf}, (6, 6, 6),
    ),
    "places that the batch moves": (
        SAME, f"{COUNTED} r = Range(i, n0, u) d = Unsqueeze(r, a1) e = Add(d, b0)"
        f" c = LessOrEqual(cols, e) {TURNED} x = Where(c, s, low) {ENDED}",
        {"low": -np.inf}, (3, 20, 20),
    ),
    "copies of a matrix": (
        "float[1, 2, 20, 16] q, float[20, 16] k0, float[1, 2, 20, 16] v",
        f"k1 = Expand(k0, five) k = Reshape(k1, four) {TURNED} x = Identity(s) {ENDED}",
        {"five": np.array([1, 1, 2, 20, 16]), "four": np.array([1, 2, 20, 16])}, (1, 20, 20),
    ),
    "rows that are cut": (
        "float[2, 10, 192] x0", "a, b, c = Split<axis = 2, num_outputs = 3>(x0) a1 = Reshape(a, by)"
        f" b1 = Reshape(b, by) c1 = Reshape(c, by) {CUT} {TURNED} x = Identity(s) {ENDED}",
        {"by": np.array([2, 20, 2, 16])}, (2, 10, 10),
    ),
    "columns from the end": (
        "float[2, 20, 96] x0", "c = Slice(x0, from, to, axis)"
        " a, b, d = Split<axis = 2, num_outputs = 3>(x0)"
        f" a1 = Reshape(a, by) b1 = Reshape(b, by) c1 = Reshape(c, by) {CUT} {TURNED}"
        f" x = Identity(s) {ENDED}",
        {"by": np.array([0, 0, 2, 16]), "from": np.array([-32]), "to": np.array([96]),
         "axis": np.array([2])}, (2, 20, 20),
    ),
    "heads on two axes": (
        "float[2, 16, 16, 16] k", "q = Transpose<perm = [0, 2, 1, 3]>(k) v = Identity(k)"
        f" {TURNED} x = Identity(s) {ENDED}", {}, (2, 0, 0),
    ),
    "queries as a mask": (
        "float[2, 4, 16, 16] q", "k = Identity(q) v = Identity(q)"
        f" {TURNED} x = Add(s, q) {ENDED}", {}, (2, 0, 0),
    ),
    "values as a mask": (
        "float[2, 1, 16, 16] q, float[2, 1, 16, 16] k, float[2, 1, 16, 16] v",
        f"{TURNED} x = Add(s, v) {ENDED}", {}, (2, 0, 0),
    ),
    "chances that are a result too": (
        "float[1, 6, 8, 16] q, float[1, 2, 20, 16] k, float[1, 2, 20, 16] v",
        f"{GUARDED} t = ReduceSum(w) y = Add(z, t)", {"low": 0.0}, (1, 0, 0),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::naru.errors.NaruWarning")
@pytest.mark.parametrize("name", NOT_QUITE)
def test_what_only_looks_like_it(name: str) -> None:
    inputs, body, constants, sizes = NOT_QUITE[name]
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> g ({inputs}) => (float y) {{ {body} }}'
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for key, value in constants.items():
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
    graph = read_onnx(model.SerializeToString())
    nodes = [n for n in toposort(*fused(graph).outputs) if n.op == "attention"]
    assert all(n.attr("causal") == () for n in nodes) or name.endswith("the only query")
    assert not nodes or "result too" not in name
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = feeds(model, *sizes)
    want = np.asarray(session.run(None, feed)[0])
    got = np.asarray(open_model(built(graph))(feed))
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_where_a_query_sees_a_key_has_an_axis_of_keys() -> None:
    q, k, v = (make_input(n, TensorType("f32", (ONE, ONE, *[index(16)] * 2))) for n in "qkv")
    m = make_input("m", TensorType("bool", (ONE, ONE, *[index(16)] * 2)))
    scores = apply("matmul", q, apply("transpose", k, perm=(0, 1, 3, 2)))
    p = apply("softmax", apply("where", m, scores, constant(-np.inf)), axis=3)
    for keepdims in (True, False):
        seen = apply("reduce_max", m, axes=(3,), keepdims=keepdims)
        y = apply("matmul", apply("where", seen, p, constant(0.0)), v)
        ops = {n.op for n in toposort(*fused(Graph("g", (q, k, v, m), (y,), ("y",))).outputs)}
        assert ("attention" in ops) == keepdims


def test_one_tensor_is_seen_in_one_way() -> None:
    x, k = (make_input(n, TensorType("f32", tuple(map(index, (1, 4, 4, 4))))) for n in "xk")
    heads = {**PLAIN, "heads": (4, 4)}
    for inputs, mask, axes in (((x,), None, (2, 1, 2, 2)), ((x, k), x, (2, 2, 2, 2))):
        y = apply("attention", x, inputs[-1], inputs[-1], mask, **{**heads, "axes": axes})
        with pytest.raises(ModelError, match="one tensor"):
            built(Graph("g", inputs, (y,), ("y",)))


QUERY, KEY, VALUE = "float[B, S, 64] q", "float[B, T, 64] k", "float[B, T, 64] v"
OPERATORS = {
    "standard": (
        f"{QUERY}, float[B, T, 32] k, float[B, T, 32] v",
        "y = Attention<q_num_heads = 4, kv_num_heads = 2, is_causal = 1, softcap = 3.0>(q, k, v)",
    ),
    "standard, with a mask": (
        f"{QUERY}, {KEY}, {VALUE}, bool[S, T] m",
        "y = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v, m)",
    ),
    "standard, with a past": (
        "float[B, 4, S, 16] q, float[B, 2, S, 16] k, float[B, 2, S, 16] v,"
        " float[B, 2, P, 16] a, float[B, 2, P, 16] b",
        "y, c, d = Attention<is_causal = 1>(q, k, v, , a, b)",
    ),
    "several heads": (
        f"{QUERY}, {KEY}, {VALUE}, float[192] b, int32[B, T] m",
        "y = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v, b, m)",
    ),
    "with its projection": (
        f"{QUERY}, float[64, 192] w, float[192] b",
        "y = com.microsoft.Attention<num_heads = 4, unidirectional = 1>(q, w, b)",
    ),
    "grouped queries": (
        f"{QUERY}, float[B, S, 32] k, float[B, S, 32] v, float[B, 2, P, 16] a,"
        " float[B, 2, P, 16] b, int32[B] n, int32[1] t",
        "y, c, d = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>"
        "(q, k, v, a, b, n, t)",
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_become_one_too(name: str) -> None:
    inputs, node = OPERATORS[name]
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>'
        f" g ({inputs}) => (float y) {{ {node} }}"
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    ops = [n.op for n in toposort(*fused(read_onnx(model.SerializeToString())).outputs)]
    assert (ops.count("attention"), ops.count("softmax")) == (1, 0)


KNOWN = ((32, 32, (1, 1), 0), (64, 64, (2, 2), 0), (20, 32, (2, 1), 12))


@pytest.mark.parametrize(("queries", "keys", "heads", "offset"), KNOWN)
def test_causal_with_whole_panels_of_keys(
    queries: int, keys: int, heads: tuple[int, int], offset: int
) -> None:
    shapes = [(1, queries, heads[0], 16), *[(1, keys, heads[1], 16)] * 2]
    inputs = [
        make_input(name, TensorType("f32", tuple(map(index, shape))))
        for name, shape in zip("qkv", shapes, strict=True)
    ]
    attrs = {**PLAIN, "heads": heads, "causal": (offset,)}
    y = apply("attention", *inputs, None, **attrs)
    arrays = [random(*shape, seed=k, scale=1) for k, shape in enumerate(shapes)]
    got = open_model(built(Graph("g", tuple(inputs), (y,), ("y",))))(*arrays)
    (want,) = OPS["attention"].ref([*arrays, None], attrs)
    np.testing.assert_allclose(np.asarray(got), want, rtol=2e-5, atol=2e-6)


def exact(q: Array, k: Array, v: Array, dtype: type) -> Array:
    """Attention by heads in a dtype, the sums of products as numpy does them."""
    q, k, v = (x.astype(dtype).transpose(0, 2, 1, 3) for x in (q, k, v))
    x = q @ k.swapaxes(2, 3) * dtype(0.125)
    p = np.exp(x - x.max(-1, keepdims=True))
    return (p / p.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("keys", [48, 3 * KEYS])
def test_error_is_that_of_single_floats(keys: int) -> None:
    shapes = [(1, n, 2, 64) for n in (48, keys, keys)]
    inputs = [
        make_input(name, TensorType("f32", tuple(map(index, shape))))
        for name, shape in zip("qkv", shapes, strict=True)
    ]
    y = apply("attention", *inputs, None, **PLAIN)
    model = open_model(built(Graph("g", tuple(inputs), (y,), ("y",))))
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=s).astype(np.float32) * 2 for s in shapes)
    want = exact(q, k, v, np.float64)
    plain, made = (np.abs(y - want) for y in (exact(q, k, v, np.float32), model(q, k, v)))
    assert np.sqrt((made**2).mean()) <= 2 * np.sqrt((plain**2).mean())
    assert made.max() <= 2 * plain.max()
