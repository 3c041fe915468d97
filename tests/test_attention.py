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
from naru.frontend.onnx import read_onnx
from naru.ir.graph import Graph, TensorType, make_input, toposort
from naru.ir.simplify import index
from naru.ops.attention_kernel import KEYS, QUERIES
from naru.ops.registry import OPS, apply
from naru.ops.samples import random
from naru.options import Options
from naru.passes.registry import run
from naru.runtime.session import open_model
from naru.targets import get_target

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
    return pipeline.build(graph, Options(get_target("host")), tested=False)


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
