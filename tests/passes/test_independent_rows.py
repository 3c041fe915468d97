"""Rows of models: those that are proven to stay apart do so when tried, those that mix are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

from models.catalog import MODELS
from naru.artifact.bundle import Bundle
from naru.compiler import compile_bundle
from naru.frontend.source import read_model
from naru.passes.independent_rows import independent_rows
from naru.passes.registry import run
from naru.pipeline import passes_for
from naru.runtime.session import open_model
from naru.targets import host_target

# f[N, S]: where each element of x[N, S] lies in l[N * S], as exporters of transformers write it.
POSITIONS = """
    o = Constant<value_int = 0>() u = Constant<value_int = 1>() v = Constant<value_ints = [-1]>()
    h = Shape<start = 0, end = 1>(x) n = Squeeze(h) w = Shape<start = 1, end = 2>(x) q = Squeeze(w)
    i = Range(o, n, u) j = Range(o, q, u) a = Constant<value_ints = [1]>()
    b = Unsqueeze(i, a) c = Mul(b, q) f = Add(c, j) l = Reshape(x, v)
"""
APART = {
    "elementwise": ("float[N, 4] x", "float[N, 4] y", "y = Tanh(x)"),
    "broadcast": (
        "float[N, 4] x, float[N, 1] s", "float[N, 4] y",
        "c = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() t = Mul(x, s) y = Add(t, c)",
    ),
    "product": ("float[N, 4] x, float[N, 4, 3] w", "float[N, 1, 3] y",
                "a = Constant<value_ints = [1]>() u = Unsqueeze(x, a) y = MatMul(u, w)"),
    "softmax": ("float[N, 3, 4] x", "float[N, 3, 4] y", "y = Softmax<axis = -1>(x)"),
    "sum of each": (
        "float[N, 3, 4] x", "float[N, 3] y",
        "a = Constant<value_ints = [2]>() y = ReduceSum<keepdims = 0>(x, a)",
    ),
    "greatest of each": ("float[N, 4] x", "int64[N, 1] y", "y = ArgMax<axis = 1>(x)"),
    "the best of each": (
        "float[N, 6] x", "float[N, 2] y, int64[N, 2] p",
        "k = Constant<value_ints = [2]>() y, p = TopK<axis = 1>(x, k)",
    ),
    "pooled": ("float[N, 2, 8, 8] x", "float[N, 2, 4, 4] y",
               "y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)"),
    "turned and back": (
        "float[N, 3, 4] x", "float[N, 3, 4] y",
        "t = Transpose<perm = [1, 0, 2]>(x) e = Exp(t) y = Transpose<perm = [1, 0, 2]>(e)",
    ),
    "laid together and back": (
        "float[N, 3, 4] x", "float[N, 3, 4] y",
        "s = Constant<value_ints = [-1, 4]>() t = Reshape(x, s) e = Softmax<axis = 1>(t)"
        " b = Constant<value_ints = [-1, 3, 4]>() y = Reshape(e, b)",
    ),
    "laid together, of any length": (
        "float[N, S, 4] x", "float[N, S, 4] y",
        "s = Constant<value_ints = [-1, 4]>() t = Reshape(x, s) e = Softmax<axis = 1>(t)"
        " h = Shape(x) y = Reshape(e, h)",
    ),
    "looked up": (
        "int64[N, 5] x", "float[N, 5, 2] y",
        "t = Constant<value = float[3, 2] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}>() y = Gather(t, x)",
    ),
    "one of each": (
        "float[N, 4] x, int64[N, 1] p", "float[N, 1] y", "y = GatherElements<axis = 1>(x, p)",
    ),
    "first of each": (
        "float[N, 5, 2] x", "float[N, 2] y",
        "k = Constant<value_int = 0>() y = Gather<axis = 1>(x, k)",
    ),
    "joined": ("float[N, 2] x, float[N, 3] z", "float[N, 5] y", "y = Concat<axis = 1>(x, z)"),
    "turned around": (
        "float[N, 4] x", "float[N, 4] y",
        "a = Constant<value_ints = [-1]>() b = Constant<value_ints = [-9]>()"
        " c = Constant<value_ints = [1]>() y = Slice(x, a, b, c, a)",
    ),
    "in groups": (
        "float[N, 4, 3] x", "float[N, 4, 3] y",
        "s = Constant<value_ints = [-1, 2, 6]>() t = Reshape(x, s) e = Softmax<axis = 2>(t)"
        " b = Constant<value_ints = [-1, 4, 3]>() y = Reshape(e, b)",
    ),
    "by place in a row": (
        "float[N, S, 2] x", "float[N, S, 2] y",
        "h = Shape<start = 1, end = 2>(x) o = Constant<value_int = 0>()"
        " u = Constant<value_int = 1>() q = Squeeze(h) r = Range(o, q, u) f = Cast<to = 1>(r)"
        " a = Constant<value_ints = [1]>() p = Unsqueeze(f, a) y = Add(x, p)",
    ),
    "by its flat place": (
        "float[N, S] x", "float[N, S] y",
        f"{POSITIONS} y = Gather(l, f)",
    ),
    "the same for all": (
        "float[N, 4] x", "float[N, 4] y",
        "h = Shape(x) z = ConstantOfShape<value = float[1] {2.0}>(h) y = Mul(x, z)",
    ),
}  # fmt: skip

MIXED = {
    "mean of all": (
        "float[N, 4] x", "float[N, 4] y",
        "a = Constant<value_ints = [0]>() m = ReduceMean(x, a) y = Sub(x, m)",
    ),
    "softmax over all": ("float[N, 4] x", "float[N, 4] y", "y = Softmax<axis = 0>(x)"),
    "sums so far": (
        "float[N, 4] x", "float[N, 4] y", "a = Constant<value_int = 0>() y = CumSum(x, a)",
    ),
    "in another order": (
        "float[N, 4] x", "float[N, 4] y",
        "s = Constant<value_ints = [-1]>() e = Constant<value_ints = [-9223372036854775807]>()"
        " a = Constant<value_ints = [0]>() y = Slice(x, s, e, a, s)",
    ),
    "the first of all": (
        "float[N, 4] x", "float[N, 4] y",
        "k = Constant<value_ints = [0]>() f = Gather<axis = 0>(x, k) y = Add(x, f)",
    ),
    "one that the values choose": (
        "float[N, 4] x, int64[N] k", "float[N, 4] y", "y = Gather<axis = 0>(x, k)",
    ),
    "laid out otherwise": (
        "float[N, 4] x", "float[N, 4] y",
        "s = Constant<value_ints = [4, -1]>() t = Reshape(x, s) y = Transpose<perm = [1, 0]>(t)",
    ),
    "turned, not back": (
        "float[N, 4] x", "float[N, 4] y",
        "t = Transpose<perm = [1, 0]>(x) s = Constant<value_ints = [-1, 4]>() y = Reshape(t, s)",
    ),
    "its number": (
        "float[N, 1] x", "float[N, 1] y",
        "h = Shape<start = 0, end = 1>(x) o = Constant<value_int = 0>()"
        " u = Constant<value_int = 1>() q = Squeeze(h) r = Range(o, q, u) f = Cast<to = 1>(r)"
        " a = Constant<value_ints = [1]>() p = Unsqueeze(f, a) y = Add(x, p)",
    ),
    "by the flat place of the next": (
        "float[N, S] x", "float[N, S] y",
        f"{POSITIONS} m = Add(f, q) y = Gather(l, m)",
    ),
    "by the flat place from behind": (
        "float[N, S] x", "float[N, S] y",
        f"{POSITIONS} g = Neg(f) m = Sub(g, u) y = Gather(l, m)",
    ),
    "by the number of its place": (
        "float[N, S] x", "float[N, S] y",
        f"{POSITIONS} e = Cast<to = 1>(f) y = Add(x, e)",
    ),
    "how many are not zero": (
        "float[N, 4] x", "float[N, 4] y",
        "z = NonZero(x) s = Shape<start = 1, end = 2>(z) f = Cast<to = 1>(s) y = Add(x, f)",
    ),
    "a range as long as the least": (
        "float[N, 4] x", "float[N, 4] y",
        "c = Constant<value_float = 900.0>() v = Mul(x, c)"
        " m = ReduceMin<keepdims = 0>(v) i = Cast<to = 7>(m) o = Constant<value_int = 0>()"
        " u = Constant<value_int = 1>() j = Add(i, u) r = Range(o, j, u) s = Shape(r)"
        " f = Cast<to = 1>(s) y = Add(x, f)",
    ),
    "numbers that wrap": (
        "float[N, 4] x", "float[N, 4] y",
        "h = Shape<start = 0, end = 1>(x) o = Constant<value_int = 0>()"
        " u = Constant<value_int = 1>() q = Squeeze(h) r = Range(o, q, u) i = Cast<to = 6>(r)"
        " k = Constant<value = int32[1] {65536}>() a = Mul(i, k) b = Mul(a, k) m = Min(i, b)"
        " y = Gather<axis = 0>(x, m)",
    ),
    "a cast that wraps": (
        "float[N, 4] x", "float[N, 4] y",
        "h = Shape<start = 0, end = 1>(x) o = Constant<value_int = 0>()"
        " u = Constant<value_int = 1>() q = Squeeze(h) r = Range(o, q, u)"
        " k = Constant<value_int = 4294967296>() a = Mul(r, k) b = Cast<to = 6>(a)"
        " c = Cast<to = 7>(b) d = Sub(c, a) m = Add(d, r) y = Gather<axis = 0>(x, m)",
    ),
    "how many there are": (
        "float[N, 4] x", "float[N, 4] y",
        "h = Shape<start = 0, end = 1>(x) f = Cast<to = 1>(h) y = Div(x, f)",
    ),
    "the greatest of all": (
        "float[N, 4] x", "float[N, 4] y",
        "a = Constant<value_ints = [0]>() m = ReduceMax(x, a) y = Sub(x, m)",
    ),
    "each with each": (
        "float[N, 4] x", "float[N, 4] y",
        "t = Transpose<perm = [1, 0]>(x) g = MatMul(x, t) y = MatMul(g, x)",
    ),
    "groups across rows": (
        "float[N, 3, 2] x", "float[N, 3, 2] y",
        "s = Constant<value_ints = [2, -1, 3]>() t = Reshape(x, s) e = Softmax<axis = 0>(t)"
        " h = Shape(x) y = Reshape(e, h)",
    ),
}  # fmt: skip


def make(case: tuple[str, str, str]) -> onnx.ModelProto:
    inputs, outputs, body = case
    text = f'<ir_version: 10, opset_import: ["": 21]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return onnx.parser.parse_model(text)


def arrays(model: onnx.ModelProto, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Values for the inputs; other dims than the first that have a name are 5."""
    rng = np.random.default_rng(rows)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value or (rows if d.dim_param == "N" else 5) for d in kind.shape.dim]
        floats = kind.elem_type == onnx.TensorProto.FLOAT
        found[value.name] = (
            rng.random(shape, np.float32) if floats else rng.integers(0, 3, shape, np.int64)
        )
    return found


def depends(model: onnx.ModelProto, bundle: Bundle) -> bool:
    """Does what a row gives change with the rows beside it, their number, or its place?"""
    run = open_model(bundle)
    given = arrays(model, 6)

    def outputs(rows: list[int]) -> list[np.ndarray[Any, Any]]:
        result = run({n: a[rows] for n, a in given.items()})
        return list(result) if isinstance(result, tuple) else [result]

    whole = outputs([0, 1, 2, 3, 4, 5])
    for rows in ([2], [5, 2], [2, 2, 4, 0, 1, 3]):
        found = outputs(rows)
        for k, row in enumerate(rows):
            same = zip(whole, found, strict=True)
            if not all(np.allclose(w[row], f[k], rtol=1e-5, atol=1e-6) for w, f in same):
                return True
    return False


@pytest.mark.parametrize("name", APART)
def test_rows_that_stay_apart(name: str) -> None:
    model = make(APART[name])
    bundle = compile_bundle(model)
    assert not depends(model, bundle)
    assert bundle.manifest["rows"] == "N"


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_do_not(name: str) -> None:
    model = make(MIXED[name])
    bundle = compile_bundle(model)
    assert depends(model, bundle)
    assert "rows" not in bundle.manifest


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ("float[4, 2] x", "float[4, 2] y"),
        ("float[N, 2] x, float[2] z", "float[N, 2] y"),
        ("float[N, N] x", "float[N, N] y"),
        ("float x", "float y"),
    ],
)
def test_where_there_are_no_rows(inputs: str, outputs: str) -> None:
    model = make((inputs, outputs, "y = Abs(x)"))
    assert independent_rows(read_model(model.SerializeToString())) is None


@pytest.mark.parametrize(
    "name",
    [
        "tiny_resnet", "mlp_64_128_128_10", "gru",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("vit_base", "minilm_l6", "gpt2")),
    ],
)  # fmt: skip
def test_networks(name: str) -> None:
    graph = run(passes_for(host_target(mask=("amx-tile",))), read_model(MODELS[name].path()))
    symbol = independent_rows(graph)
    assert symbol is not None
    assert symbol.name == "batch"
