"""Gradient: every rule against differences of the function's own values, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, parser

import naru
from naru.errors import ModelError, NaruError
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate

Array = np.ndarray
STEP = 1e-6


def model_of(inputs: str, body: str, xs: str, opset: int = 24, more: str = "") -> ModelProto:
    names = [x.strip() for x in xs.split(",")]
    listed = ", ".join(f'"{x}"' for x in names)
    outputs = ", ".join(f"d{x}" for x in names)
    return parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}, "ai.onnx.preview.training" : 1]>\n'
        f"g ({inputs}) => (y, {outputs}) {more} {{ {body}\n{outputs} = "
        f'ai.onnx.preview.training.Gradient <xs = [{listed}], y = "y"> ({xs}) }}'
    )


def by_differences(graph: naru.ir.graph.Graph, arrays: list[Array], at: int) -> Array:
    """The derivative of the sum of the first output by input `at`."""
    found = np.zeros(arrays[at].shape)
    for where in np.ndindex(found.shape):
        sums: list[float] = []
        for step in (STEP, -STEP):
            moved = [a.copy() for a in arrays]
            moved[at][where] += step
            sums.append(float(evaluate(graph, moved)[0].sum()))
        found[where] = (sums[0] - sums[1]) / (2 * STEP)
    return found


def check(inputs: str, body: str, arrays: list[Array], xs: str = "") -> None:
    names = [part.split()[-1] for part in _split(inputs)]
    floats = [n for n, a in zip(names, arrays, strict=True) if a.dtype == np.float64]
    chosen = xs or ", ".join(floats)
    graph = read_onnx(model_of(inputs, body, chosen))
    found = evaluate(graph, arrays)[1:]
    for name, got in zip(chosen.split(", "), found, strict=True):
        want = by_differences(graph, arrays, names.index(name))
        bound = 1e-8 * float(np.abs(want).max(initial=10))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=bound, err_msg=name)


def _split(inputs: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for ch in inputs:
        depth += (ch == "[") - (ch == "]")
        if ch == "," and not depth:
            parts.append("")
        else:
            parts[-1] += ch
    return parts


def values(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape)


UNARY = (
    "Abs", "Asinh", "Atan", "Cos", "Cosh", "Elu <alpha = 0.5>",
    "Erf", "Exp", "Floor", "Gelu", 'Gelu <approximate = "tanh">', "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu <alpha = 0.3>", "LogSoftmax <axis = 0>", "LpNormalization", "Mish",
    "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sin", "Sinh", "Softmax", "Softplus",
    "Softsign", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Transpose", "Flatten",
)  # fmt: skip
BOUNDED = {"Acos": (-0.9, 0.9), "Asin": (-0.9, 0.9), "Atanh": (-0.9, 0.9), "Acosh": (1.1, 3.0),
           "Log": (0.2, 3.0), "Sqrt": (0.2, 3.0)}  # fmt: skip


@pytest.mark.parametrize("op", [*UNARY, *BOUNDED])
def test_one_operand(op: str) -> None:
    """Squared and weighted afterwards, so that gradients differ from element to element."""
    low, high = BOUNDED.get(op, (-2.0, 2.0))
    x = values(3, 4, low=low, high=high)
    name, _, attrs = op.partition(" ")
    check("double[n,4] x", f"h = {name} {attrs} (x)\ny = Mul (h, h)", [x])


def test_celu() -> None:
    """Of f32 alone, so against its derivative: exp(x / alpha) below 0."""
    x = values(50).astype(np.float32)
    graph = read_onnx(model_of("float[n] x", "y = Celu <alpha = 2.0> (x)", "x"))
    want = np.where(x < 0, np.exp(x / 2), 1)
    np.testing.assert_allclose(evaluate(graph, [x])[1], want, rtol=1e-6)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu"])
@pytest.mark.parametrize("shapes", [("3,4", "3,4"), ("3,4", "4"), ("2,3,4", "3,1")])
def test_two_operands(op: str, shapes: tuple[str, str]) -> None:
    low = 0.3 if op in ("Div", "Pow") else -2.0
    a, b = (values(*map(int, s.split(",")), seed=k, low=low) for k, s in enumerate(shapes))
    inputs = f"double[{shapes[0]}] a, double[{shapes[1]}] b"
    check(inputs, f"h = {op} (a, b)\ny = Mul (h, h)", [a, b])
    if op not in ("PRelu",):
        inputs = f"double[{shapes[1]}] b, double[{shapes[0]}] a"
        check(inputs, f"h = {op} (b, a)\ny = Mul (h, h)", [b, a])


@pytest.mark.parametrize(
    "op", ["Sum", "Mean", "Max", "Min", "SumSquare", "L1", "L2", "LogSum", "LogSumExp"]
)
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions(op: str, keep: int) -> None:
    x = values(2, 3, 4, low=0.3)
    for axes in ("{1}", "{0, 2}", "{0, 1, 2}"):
        count = axes.count(",") + 1
        body = (
            f"a = Constant <value = int64[{count}] {axes}> ()\n"
            f"h = Reduce{op} <keepdims = {keep}> (x, a)\ny = Mul (h, h)"
        )
        check("double[2,n,4] x", body, [x])


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4, 5)),
     ((2, 3, 4), (2, 4, 5)), ((3, 4), (2, 4, 5)), ((2, 1, 3, 4), (6, 4, 5))],
)  # fmt: skip
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    inputs = (
        f"double{[*a]} a, double{[*b]} b".replace(" ", "").replace("]", "] ").replace(",d", ", d")
    )
    check(inputs, "h = MatMul (a, b)\ny = Mul (h, h)", [values(*a), values(*b, seed=1)])


@pytest.mark.parametrize(
    ("x", "w", "attrs"),
    [
        ((2, 3, 6, 7), (4, 3, 3, 2), ""),
        ((2, 4, 7, 6), (6, 2, 3, 2), "<strides = [2, 3], group = 2, pads = [1, 0, 1, 1]>"),
        ((1, 3, 9), (3, 1, 2), "<dilations = [2], strides = [2], group = 3>"),
    ],
)
def test_conv(x: tuple[int, ...], w: tuple[int, ...], attrs: str) -> None:
    sizes = [",".join(map(str, s)) for s in (x, w)]
    inputs = f"double[{sizes[0]}] x, double[{sizes[1]}] w, double[{w[0]}] b"
    arrays = [values(*x), values(*w, seed=1), values(w[0], seed=2)]
    check(inputs, f"h = Conv {attrs} (x, w, b)\ny = Mul (h, h)", arrays)


MOVED = (
    "c = Constant <value = int64[2] {-1, 6}> ()\nh = Reshape (x, c)",
    "h = Transpose <perm = [2, 0, 1]> (x)",
    "c = Constant <value = int64[4] {2, 2, 3, 4}> ()\nh = Expand (x, c)",
    "c = Constant <value = int64[3] {2, 1, 3}> ()\nh = Tile (x, c)",
    "h = Concat <axis = 1> (x, z, x)",
    "s = Constant <value = int64[2] {1, -3}> ()\ne = Constant <value = int64[2] {9, -1}> ()\n"
    "a = Constant <value = int64[2] {1, 2}> ()\nh = Slice (x, s, e, a)",
    "c = Constant <value = int64[6] {0, 1, 2, 1, 0, 3}> ()\nh = Pad (x, c)",
    "i = Constant <value = int64[2, 3] {0, -1, 2, 2, 1, 0}> ()\nh = Gather <axis = 1> (x, i)",
    "i = Constant <value = int64 {1}> ()\nh = Gather <axis = 2> (x, i)",
    "i = Constant <value = int64[2, 1, 4] {0, 1, 2, 2, -1, 0, 1, 1}> ()\n"
    "h = GatherElements <axis = 1> (x, i)",
    "a = Constant <value = int64 {2}> ()\nh = CumSum (x, a)",
    "a = Constant <value = int64 {1}> ()\nh = CumSum <reverse = 1, exclusive = 1> (x, a)",
    "h, r = Split <axis = 1, num_outputs = 2> (x)",
    "c = Less (x, z)\nh = Where (c, x, z)",
    "l = Constant <value = double {-0.5}> ()\nu = Constant <value = double {1.0}> ()\n"
    "h = Clip (x, l, u)",
    "h = Sum (x, z, x)",
    "b = ReduceMean <keepdims = 1> (x)\nc = Sub (x, b)\nd = Softmax <axis = 1> (c)\n"
    "e = Detach (d)".replace("Detach", "Identity")
    + "\nh = Mul (e, z)",
    "w = Constant <value = double[3] {1.0, 2.0, 3.0}> ()\nh = BatchNormalization (x, w, w, w, w)",
    "w = Constant <value = double[4] {1.0, 2.0, 3.0, -1.0}> ()\nh = LayerNormalization (x, w, w)",
    "w = Constant <value = double[4] {1.0, 2.0, 3.0, -1.0}> ()\nh = RMSNormalization (x, w)",
    "h = GlobalAveragePool (x)",
    "s = ReduceSumSquare (x)\nh = Div (x, s)",
)


@pytest.mark.parametrize("body", MOVED)
def test_what_moves_elements(body: str) -> None:
    arrays = [values(2, 3, 4), values(2, 3, 4, seed=1)]
    check("double[2,3,4] x, double[2,3,4] z", f"{body}\ny = Mul (h, h)", arrays)


def test_gemm_and_loss_of_a_classifier() -> None:
    """As training graphs have it, with weights as initializers of equal contents."""
    body = (
        "h = Gemm <transB = 1> (x, w, b)\nr = Relu (h)\ns = Gemm <transB = 1> (r, v, c)\n"
        "y = SoftmaxCrossEntropyLoss (s, t)"
    )
    w = np.linspace(-1, 1, 12).reshape(3, 4)
    arrays = {
        "x": values(5, 4), "w": w, "b": np.zeros(3), "v": w[:, :3].copy(), "c": np.zeros(3),
    }  # fmt: skip
    t = np.array([0, 2, 1, 1, 0])
    inputs = ", ".join(f"double{[*a.shape]} {k}".replace(", ", ",") for k, a in arrays.items())
    given = [*arrays.values(), t]
    check(f"{inputs}, int64[5] t", body, given, xs="x, w, b, v, c")
    full = evaluate(read_onnx(model_of(f"{inputs}, int64[5] t", body, "b, c")), given)
    zero = "double[3] b = {0.0, 0.0, 0.0}, double[3] c = {0.0, 0.0, 0.0}"
    rest = ", ".join(p for p in _split(inputs) if p.split()[-1] not in "bc")
    model = naru.compile(
        model_of(f"{rest}, int64[5] t", body, "b, c", more=f"<{zero}>"), cache=False
    )
    got = model(*(arrays[k] for k in "xwv"), t)
    for a, b in zip(got, full, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_values_other_than_the_named_ones() -> None:
    """The operands take the place of xs and zs; an intermediate tensor may be one of xs."""
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 22, "ai.onnx.preview.training" : 1]>\n'
        "g (double[2] x, double[2] z, double[2] q) => (y, dh, dx) {\n"
        "h = Mul (x, x)\ny = Mul (h, z)\n"
        'dh = ai.onnx.preview.training.Gradient <xs = ["h"], zs = ["z"], y = "y"> (h, q)\n'
        'dx = ai.onnx.preview.training.Gradient <xs = ["x"], y = "y"> (q) }'
    )
    x, z, q = np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.0])
    _, dh, dx = evaluate(read_onnx(model), [x, z, q])
    np.testing.assert_array_equal(dh, q)
    np.testing.assert_array_equal(dx, 2 * q * z)


def test_sizes_that_data_decide() -> None:
    """Nothing of such a size is made before the size is known."""
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 22, "ai.onnx.preview.training" : 1]>\n'
        "g (float[n] x) => (y, d) {\np = NonZero (x)\nq = Gather (x, p)\n"
        "s = Constant <value = int64[1] {0}> ()\ne = Constant <value = int64[1] {2}> ()\n"
        "a = Constant <value = int64[1] {1}> ()\nr = Slice (q, s, e, a)\n"
        "b = ReduceMean (q)\nt = ReduceSum (r)\ny = Add (b, t)\n"
        'd = ai.onnx.preview.training.Gradient <xs = ["x"], y = "y"> (x) }'
    )
    compiled = naru.compile(model, cache=False)
    for x in ([1.0, 0.0, 2.0, 0.0, 3.0], [0.0, 4.0, 5.0]):
        array = np.array(x, np.float32)
        nonzero = np.flatnonzero(array)
        want = np.where(array != 0, 1 / len(nonzero), 0)
        want[nonzero[:2]] += 1
        np.testing.assert_allclose(compiled(array)[1], want, rtol=1e-6)


def test_gradients_of_gradients() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 22, "ai.onnx.preview.training" : 1]>\n'
        "g (double[2] x, double[2] u) => (y, d, e, none) {\n"
        "s = Sin (x)\ny = Mul (s, x)\n"
        'd = ai.onnx.preview.training.Gradient <xs = ["x"], y = "y"> (x)\n'
        'e, none = ai.onnx.preview.training.Gradient <xs = ["x", "u"], y = "d"> (x, u) }'
    )
    x = np.array([0.5, 2.0])
    _, d, e, none = naru.compile(model, cache=False)(x, x)
    np.testing.assert_allclose(d, np.sin(x) + x * np.cos(x), rtol=1e-12)
    np.testing.assert_allclose(e, 2 * np.cos(x) - x * np.sin(x), rtol=1e-12)
    np.testing.assert_array_equal(none, 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = ReduceProd (x)", "no derivative of reduce_prod"),
        ("y = Round (x)\nq = Loop (x)", "Loop"),
        ("y = Cast <to = 7> (x)", "expected a float as y"),
    ],
)
def test_what_has_no_derivative(body: str, message: str) -> None:
    with pytest.raises(NaruError, match=message):
        read_onnx(model_of("double[3] x", body, "x"))


def test_names_that_are_none() -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 22, "ai.onnx.preview.training" : 1]>\n'
        "g (double[2] x) => (d) {\n"
        'd = ai.onnx.preview.training.Gradient <xs = ["x"], y = "nothing"> (x) }'
    )
    with pytest.raises(ModelError, match="nothing"):
        read_onnx(parser.parse_model(text))
    with pytest.raises(ModelError, match="an operand for each"):
        read_onnx(parser.parse_model(text.replace("(x) }", "(x, x) }").replace("nothing", "x")))
