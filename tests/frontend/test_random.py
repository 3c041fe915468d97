"""Random numbers: those of numpy.random.RandomState, streams that differ, seeds of calls, and the
distributions that come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, parser

import naru
from naru.dtypes import DTYPES
from naru.errors import InputError, ModelError, NaruError
from naru.frontend.onnx import read_onnx
from naru.inputs import with_seed
from naru.ops.evaluate import evaluate
from naru.verify.compared import all_passed, verify

Array = np.ndarray
SEED = np.array(7)


def text(body: str, opset: int = 22) -> ModelProto:
    return parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n{body}'
    )


def run(body: str, *arrays: Array, opset: int = 22) -> list[Array]:
    """The outputs by the ops' meaning; the seed, if there is one, goes last."""
    return evaluate(read_onnx(text(body, opset)), list(arrays))


def compiled(body: str) -> naru.Model:
    return naru.compile(text(body), cache=False)


def state(*numbers: int) -> np.random.RandomState:
    """The stream that begins with these: two words of each number but the last."""
    words = np.array(numbers[:-1], np.int64).view(np.uint32).tolist()
    return np.random.RandomState([*words, numbers[-1]])


# --- seeds ----------------------------------------------------------------------------------------


def test_a_seed_in_the_file_gives_the_numbers_of_random_state() -> None:
    """The compiled code to the bit; normal numbers but for the last bit of a logarithm."""
    model = compiled(
        "g () => (float[40,50] y, double[311] z, double[501] n) {\n"
        "y = RandomUniform <shape = [40, 50], seed = 3.0, low = -2.0, high = 5.0> ()\n"
        "z = RandomUniform <shape = [311], seed = 0.0, dtype = 11> ()\n"
        "n = RandomNormal <shape = [501], seed = 4000000000.0, mean = 1.0, scale = 2.0,"
        " dtype = 11> () }"
    )
    assert model.inputs == ()
    y, z, n = model()
    want = np.random.RandomState(3).uniform(-2, 5, (40, 50)).astype(np.float32)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(z, np.random.RandomState(0).uniform(size=311))
    want = np.random.RandomState(4000000000).normal(1, 2, 501)
    np.testing.assert_allclose(n, want, rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(model()[0], y)


@pytest.mark.parametrize(
    ("seed", "first"), [("2.75", 2), ("-0.5", 0), ("-1.0", None), ("1e20", None)]
)
def test_seeds_that_are_no_whole_number(seed: str, first: int | None) -> None:
    """What lies in the range is cut off; the rest begins a stream of its own."""
    (y,) = run(
        f"g () => (double[9] y) {{ y = RandomUniform <shape=[9], seed={seed}, dtype=11>() }}"
    )
    bits = int(np.array(float(np.float32(float(seed)))).view(np.int64))
    wanted = state(bits, 0) if first is None else np.random.RandomState(first)
    np.testing.assert_array_equal(y, wanted.uniform(size=9))


def test_the_seed_of_a_call() -> None:
    model = compiled(
        "g (float[n] x) => (float[n] y, float[n] z) {\n"
        "y = RandomUniformLike (x)\nz = RandomUniformLike (x) }"
    )
    assert [(i.name, i.optional) for i in model.inputs] == [("x", False), ("naru_seed", True)]
    assert model.manifest["entries"][0]["inputs"][1]["optional"] is True
    x = np.zeros(400, np.float32)
    y, z = model(x, naru_seed=-7)
    np.testing.assert_array_equal(y, state(-7, 1).uniform(size=400).astype(np.float32))
    np.testing.assert_array_equal(z, state(-7, 2).uniform(size=400).astype(np.float32))
    for again in (model(x, np.array(-7)), model({"x": x, "naru_seed": np.int64(-7)})):
        np.testing.assert_array_equal(again[0], y)
    first, second = model(x), model(x=x)
    assert (first[0] != second[0]).mean() > 0.9
    with pytest.raises(InputError, match=r"expected 2 inputs .*naru_seed: int64\[\], optional"):
        model(x, 1, 2)
    with pytest.raises(InputError, match="naru_seed"):
        model(x, naru_seed=1.5)
    assert model.selftest().checks
    assert len(model.profile(x, repeat=2)) == len(model.manifest["steps"])


def test_rounds_of_a_loop_and_branches_draw_their_own() -> None:
    loop = (
        "g (int64 n) => (double[r,4] y) {\n go = Constant <value = bool {1}> ()\n"
        "y = Loop (n, go) <body = b (int64 i, bool c) => (bool d, double[4] v) {\n"
        "d = Identity (c)\nv = RandomUniform <shape = [4], dtype = 11> () }> }"
    )
    model = compiled(loop)
    got = model(np.array(3), naru_seed=5)
    stream = next(k for k in range(9) if (got[0] == state(5, 0, k).uniform(size=4)).all())
    for k in range(3):
        np.testing.assert_array_equal(got[k], state(5, k, stream).uniform(size=4))
    branches = (
        "g (bool c) => (double[4] y) {\n"
        "y = If (c) <then_branch = t () => (double[4] a) {"
        " a = RandomUniform <shape = [4], dtype = 11> () },"
        " else_branch = e () => (double[4] b) {"
        " b = RandomUniform <shape = [4], dtype = 11> () }> }"
    )
    model = compiled(branches)
    a, b = (model(np.array(c), naru_seed=5) for c in (True, False))
    assert (a != b).all()
    np.testing.assert_array_equal(a, state(5, 1).uniform(size=4))


def test_sizes_that_data_decide() -> None:
    """Nothing is drawn before it is known how much."""
    model = compiled(
        "g (float[n] x) => (y, z, k) {\np = NonZero (x)\n"
        "y = RandomUniformLike <dtype = 11> (p)\n"
        "z = RandomNormalLike <seed = 1.0, dtype = 11> (p)\n"
        "f = Cast <to = 1> (p)\nt = Constant <value = bool {1}> ()\nw, k = Dropout (f, , t) }"
    )
    for count in (3, 5):
        y, z, k = model(np.ones(count, np.float32), naru_seed=7)
        np.testing.assert_array_equal(y, state(7, 1).uniform(size=(1, count)))
        np.testing.assert_allclose(z, np.random.RandomState(1).normal(size=(1, count)))
        assert k.shape == (1, count)


def test_functions_of_the_file_draw_too() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 22, "f" : 1]>\n'
        "g (double[3] x) => (double[3] y, double[3] z) { y = f.noise (x)\nz = f.noise (x) }\n"
        '<domain: "f", opset_import: ["" : 22]>\n'
        "noise (a) => (b) { u = RandomUniformLike (a)\nb = Add (u, a) }"
    )
    y, z = evaluate(read_onnx(model), [np.zeros(3), SEED])
    np.testing.assert_array_equal(y, state(7, 1).uniform(size=3))
    np.testing.assert_array_equal(z, state(7, 2).uniform(size=3))


def test_the_name_of_the_seed_is_taken() -> None:
    with pytest.raises(ModelError, match="naru_seed"):
        read_onnx(text("g (float naru_seed) => (float y) { y = Abs (naru_seed) }"))


def test_verifying_and_inputs_from_files(tmp_path: Path) -> None:
    """The reference draws the same for a seed; ONNX Runtime draws others. Arrays from files need no
    seed."""
    body = "g (float[n] x) => (float[n] y) { u = RandomUniformLike (x)\ny = Add (u, x) }"
    path = tmp_path / "noise.onnx"
    path.write_bytes(text(body).SerializeToString())
    model = compiled(body)
    arrays = {"x": np.zeros(5, np.float32)}
    sample = with_seed(model.inputs, arrays)
    assert sample["naru_seed"] == 0
    assert with_seed(model.inputs, {**arrays, "naru_seed": SEED})["naru_seed"] == 7
    assert all_passed(verify(model, path, [sample], against="reference"))
    with pytest.raises(NaruError, match="random numbers"):
        verify(model, path, [sample])


# --- distributions --------------------------------------------------------------------------------


def distance(x: Array, cdf: Any) -> float:
    """Kolmogorov-Smirnov: the largest distance of distributions, times the root of the count. Above
    1.63 with probability 0.01."""
    ordered = np.sort(x.astype(np.float64).reshape(-1))
    want, n = cdf(ordered), ordered.size
    above = np.abs(np.arange(1, n + 1) / n - want).max()
    return max(above, np.abs(np.arange(n) / n - want).max()) * np.sqrt(n)


def normal_cdf(x: Array) -> Array:
    from math import erf

    return np.array([(1 + erf(v / np.sqrt(2))) / 2 for v in x])


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
def test_uniform_and_normal(dtype: str) -> None:
    code, wanted = DTYPES[dtype].onnx, DTYPES[dtype].numpy
    y, n = run(
        f"g () => (y, n) {{ y = RandomUniform <shape = [5000], low = -1.0, dtype = {code}> ()\n"
        f"n = RandomNormal <shape = [5000], mean = 2.0, scale = 3.0, dtype = {code}> () }}",
        SEED,
    )
    assert (y.dtype, n.dtype) == (wanted, wanted)
    y, n = y.astype(np.float64), n.astype(np.float64)
    assert -1 <= y.min() < -0.99
    assert 0.99 < y.max() <= 1
    coarse = 0.3 if dtype == "bf16" else 0.0
    assert distance(y, lambda v: (v + 1) / 2) < 1.63 + coarse
    assert distance((n - 2) / 3, normal_cdf) < 1.63 + coarse
    assert abs(n.mean() - 2) < 0.13
    assert abs(n.std() - 3) < 0.1


def test_dtypes_and_shapes_of_like() -> None:
    for array, to in (
        (np.zeros((2, 3), np.int32), TensorProto.FLOAT),
        (np.zeros((0, 3), np.bool_), TensorProto.DOUBLE),
        (np.zeros((), np.float16), None),
        (np.zeros((4,), ml_dtypes.bfloat16), None),
    ):
        for op in ("RandomUniformLike", "RandomNormalLike"):
            attrs: dict[str, Any] = {} if to is None else {"dtype": int(to)}
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph = helper.make_graph(
                [helper.make_node(op, ["x"], ["y"], **attrs)],
                "g",
                [helper.make_tensor_value_info("x", kind, array.shape)],
                [helper.make_tensor_value_info("y", to or kind, None)],
            )
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
            (y,) = evaluate(read_onnx(model), [array, SEED])
            assert y.shape == array.shape
            assert y.dtype == helper.tensor_dtype_to_np_dtype(to or kind)


@pytest.mark.parametrize("dtype", ["float", "double", "float16", "bfloat16"])
def test_multinomial(dtype: str) -> None:
    """Chi-squared of 3 degrees of freedom: above 11.3 with probability 0.01."""
    weights = np.array([[1.0, 2.0, 4.0, 1.0], [8.0, 0.0, 8.0, 16.0]])
    with np.errstate(divide="ignore"):
        logs = np.log(weights).astype({"float": "f4", "double": "f8", "float16": "f2"}.get(dtype))
    if dtype == "bfloat16":
        logs = logs.astype(ml_dtypes.bfloat16)
    body = (
        f"g ({dtype}[b,c] x) => (int64[b,k] y) {{ y = Multinomial <sample_size=4000, dtype=7>(x)}}"
    )
    (y,) = run(body, logs, SEED)
    assert (y.shape, y.dtype) == ((2, 4000), np.int64)
    for row, some in zip(y, weights, strict=True):
        counts, want = np.bincount(row, minlength=4), some / some.sum() * 4000
        assert counts[want == 0].sum() == 0
        fitting = want > 0
        assert ((counts - want)[fitting] ** 2 / want[fitting]).sum() < 11.3


def test_multinomial_stays_in_bounds() -> None:
    model = compiled("g (float[b,c] x) => (int32[b,9] y) { y = Multinomial <sample_size=9> (x) }")
    odd = np.array([[np.nan, 1, 2], [np.inf, 0, np.inf], [-np.inf] * 3, [0, np.nan, 0]], np.float32)
    y = model(odd)
    assert y.dtype == np.int32
    assert ((y >= 0) & (y < 3)).all()
    assert model(np.zeros((3, 1), np.float32)).tolist() == [[0] * 9] * 3
    assert model(np.zeros((0, 5), np.float32)).shape == (0, 9)
    assert model(np.zeros((2, 0), np.float32)).tolist() == [[0] * 9] * 2


@pytest.mark.parametrize("to", ["bool", "u8", "i64", "f16", "bf16", "f64"])
def test_bernoulli(to: str) -> None:
    p = np.repeat(np.array([[0.0], [0.25], [0.9], [1.0]], np.float32), 4000, 1)
    body = f"g (float[m,n] x) => (y) {{ y = Bernoulli <dtype = {DTYPES[to].onnx}> (x) }}"
    (y,) = run(body, p, SEED)
    assert y.dtype == DTYPES[to].numpy
    mean = y.astype(np.float64).mean(1)
    np.testing.assert_allclose(mean, p[:, 0], atol=0.03)
    assert mean[0] == 0
    assert mean[3] == 1


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_in_training_is_that_of_numpy() -> None:
    x = np.random.default_rng(0).standard_normal((7, 90)).astype(np.float32)
    model = compiled(
        "g (float[m,n] x, float r, bool t) => (float[m,n] y, bool[m,n] k) {\n"
        "y, k = Dropout <seed = 11> (x, r, t) }"
    )
    for ratio in (0.0, 0.3, 0.75):
        keep = np.random.RandomState(11).uniform(0, 1, x.shape) >= np.float32(ratio)
        y, mask = model(x, np.float32(ratio), np.True_)
        np.testing.assert_array_equal(mask, keep)
        np.testing.assert_allclose(y, keep * x / (1 - np.float32(ratio)), rtol=1e-6)
    y, mask = model(x, np.float32(0.3), np.False_)
    np.testing.assert_array_equal(y, x)
    assert mask.all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double", "float8e4m3fn"])
def test_dropout_of_other_dtypes(dtype: str) -> None:
    code = getattr(TensorProto, dtype.upper())
    x = np.ones((100, 20)).astype(helper.tensor_dtype_to_np_dtype(code))
    body = (
        f"g ({dtype}[m,n] x) => ({dtype}[m,n] y, bool[m,n] k) {{\n"
        "t = Constant <value = bool {1}> ()\ny, k = Dropout (x, , t) }"
    )
    y, k = run(body, x, SEED)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.astype(np.float32), np.where(k, 2.0, 0.0))
    assert abs(k.mean() - 0.5) < 0.05


def test_dropout_before_opset_7() -> None:
    x = np.ones(1000, np.float32)
    (y,) = run("g (float[n] x) => (float[n] y) { y = Dropout (x) }", x, opset=6)
    np.testing.assert_array_equal(y, x)
    body = (
        "g (float[n] x) => (float[n] y, float[n] m) { y, m = Dropout <is_test=0, ratio=0.2> (x) }"
    )
    y, m = run(body, x, SEED, opset=6)
    np.testing.assert_allclose(y, m * 1.25)
    assert abs(m.mean() - 0.8) < 0.05


def test_dropout_with_bits() -> None:
    x = np.random.default_rng(0).standard_normal((3, 37)).astype(np.float32)
    bias, on = np.ones(37, np.float32), np.array(True)
    body = (
        "g (float[m,n] x, float[n] b, float[m,n] s, float r, bool t) => (y, k, z, w) {\n"
        "y, k = com.microsoft.BitmaskDropout <seed = 5> (x, r, t)\n"
        "z, w = com.microsoft.BitmaskBiasDropout <seed = 5> (x, b, s, r, t) }"
    )
    y, k, z, w = run(body, x, bias, x, np.array(0.25, np.float32), on)
    keep = np.random.RandomState(5).uniform(0, 1, x.shape) >= 0.25
    bits = np.unpackbits(k.view(np.uint8), bitorder="little")
    assert k.dtype == np.uint32
    np.testing.assert_array_equal(bits, np.pad(keep.reshape(-1), (0, -keep.size % 32)))
    np.testing.assert_array_equal(w, k)
    np.testing.assert_allclose(y, np.where(keep, x / 0.75, 0), rtol=1e-6)
    np.testing.assert_allclose(z, np.where(keep, (x + 1) / 0.75, 0) + x, rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match="seed"):
        read_onnx(text("g (float[2] x) => (y) { y = com.microsoft.BitmaskDropout <p=1> (x) }"))


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("RandomUniform <shape = [2], low = 2.0, high = 1.0> ()", "low <= high"),
        ("RandomUniform <shape = [-1]> ()", "at least 0"),
        ("RandomUniform <shape = [2000000000, 2000000000]> ()", "more elements than memory"),
        ("RandomUniform <shape = [2], dtype = 7> ()", "as dtype, found i64"),
        ("RandomNormal <shape = [2], scale = -1.0> ()", "scale of at least 0"),
        ("RandomNormalLike (i)", "as dtype, found i64"),
        ("Multinomial <sample_size = -1> (x)", "at least 0"),
        ("Multinomial <dtype = 1> (x)", "i32 or i64"),
        ("Multinomial (e)", "nothing to choose"),
        ("Multinomial (v)", "rank 1"),
    ],
)
def test_errors(body: str, message: str) -> None:
    head = "g (float[2,3] x, float[2,0] e, float[3] v, int64[3] i) => (y)"
    with pytest.raises(ModelError, match=message):
        read_onnx(text(f"{head} {{ y = {body} }}"))
