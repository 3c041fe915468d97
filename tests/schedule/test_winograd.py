"""Convolutions made tile by tile: the matrices, the rewrite, kernels, and which ones are."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from schedule.meaning import check_kernel

import naru
from naru.compiler import compile_bundle
from naru.errors import ScheduleError
from naru.ir.expr import Const, Read, Var
from naru.ir.graph import Layout, make_constant
from naru.ir.interp_tensor import run_tensor_function
from naru.ir.loop import Alloc, Func, statements
from naru.ir.simplify import known
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction
from naru.ir.text import print_tensor_function, read_tensor_function
from naru.ops.registry import apply
from naru.passes.winograd_tile import winograd_tile
from naru.schedule.algorithms import apply_algorithm
from naru.schedule.cook_toom import POINTS, Matrix, matrices, transform_filters
from naru.schedule.kernels import Kernels
from naru.schedule.prepare import prepare
from naru.schedule.weights import pack, packed_bytes
from naru.schedule.winograd import input_sums, output_sums
from naru.schedule.winograd_schedule import choose_products
from naru.targets import TARGETS, get_target
from tests.codegen.native import without_tiles

CONV = """
def conv(x: f32[{batch}, 16, {h} + 2, {w} + 2] @ (0, 2, 3, 1), f: f32[{n}, 16, 3, 3] @ (0, 2, 3, 1) @ block(0, 16) @ winograd({m}), b: f32[{n}], r: f32[{batch}, {n}, {h}, {w}] @ (0, 2, 3, 1)):
    C[k: {batch}, n: {n}, i: {h}, j: {w}] = add[p: 3, q: 3, c: 16](x[k, c, i + p, j + q] * f[n, c, p, q])
    D[k: {batch}, n: {n}, i: {h}, j: {w}]: f32 @ (0, 2, 3, 1) = max(C[k, n, i, j] + b[n] + r[k, n, i, j], 0.0)
    return D
"""  # noqa: E501
BORDER = """
def conv(x: f32[1, 16, 9, 12] @ (0, 2, 3, 1), f: f32[16, 16, 3, 3] @ (0, 2, 3, 1) @ block(0, 16) @ winograd(4)):
    C[k: 1, n: 16, i: 7, j: 10] = add[p: 3, q: 3, c: 16](x[k, c, i + p, j + q] * f[n, c, p, q])
    D[k: 1, n: 16, i: 9, j: 12]: f32 @ (0, 2, 3, 1) = select(i > 0 and i < 8 and j > 0 and j < 11, C[k, n, min(max(i - 1, 0), 6), min(max(j - 1, 0), 9)], 0.0)
    return D
"""  # noqa: E501


def matrix(rows: Matrix) -> np.ndarray:
    return np.array([[float(x) for x in row] for row in rows])


def kernel(text: str, target: str) -> tuple[TensorFunction, Func]:
    tf = read_tensor_function(text)
    level = get_target(target)
    return tf, Kernels(level, fma=level.has_multiply_add).lower(prepare(tf), "k")[1]


@pytest.mark.parametrize("m", POINTS)
def test_matrices_filter(m: int) -> None:
    rng = np.random.default_rng(m)
    output, filters, inputs = map(matrix, matrices(m))
    d, g = rng.standard_normal(m + 2), rng.standard_normal(3)
    want = [d[i : i + 3] @ g for i in range(m)]
    np.testing.assert_allclose(output @ ((filters @ g) * (inputs @ d)), want, rtol=1e-12)


@pytest.mark.parametrize("m", POINTS)
def test_written_out_sums_are_those_of_the_matrices(m: int) -> None:
    rng = np.random.default_rng(m)
    output, _, inputs = map(matrix, matrices(m))
    values = rng.standard_normal(m + 2).astype(np.float32)
    x = Tensor("x", "f32", (Const(m + 2),))
    parts = [Read(x, (Const(i),)) for i in range(m + 2)]
    for sums, rows in ((input_sums(m, parts), inputs), (output_sums(m, parts), output)):
        assert len(sums) == len(rows)
        for e, row in zip(sums, rows, strict=True):
            y = Tensor("y", "f32", (Const(1),))
            tf = TensorFunction("f", (x,), (Stage(y, (Axis(Var("i", hi=0), Const(1)),), e),), (y,))
            (got,) = run_tensor_function(tf, [values])
            np.testing.assert_allclose(got[0], row @ values, rtol=1e-5, atol=1e-5)


def test_there_are_tiles_of_some_sizes_only() -> None:
    with pytest.raises(ValueError, match=r"winograd\(3\): expected one of 2, 4"):
        matrices(3)


def test_packed_filters() -> None:
    w = np.random.default_rng(0).standard_normal((20, 5, 3, 3)).astype(np.float32)
    plain = Layout((0, 2, 3, 1), (0, 16))
    form = Layout((0, 2, 3, 1), (0, 16), 4)
    packed = pack(w, form)
    assert packed.shape == (2, 6, 6, 5, 16)
    assert packed.nbytes == packed_bytes(w, form)
    np.testing.assert_array_equal(packed, pack(transform_filters(w, 4), plain))


@pytest.mark.parametrize("target", ["avx512", "avx2", "baseline", "neon"])
@pytest.mark.parametrize(("m", "h", "w"), [(4, 8, 4), (4, 7, 10), (2, 5, 6), (4, 3, 2)])
def test_kernels(target: str, m: int, h: int, w: int) -> None:
    check_kernel(*kernel(CONV.format(batch=1, n=16, m=m, h=h, w=w), target), {})


@pytest.mark.parametrize("batch", ["2", "size"])
def test_batches(batch: str) -> None:
    tf, func = kernel(CONV.format(batch=batch, n=48, m=4, h=6, w=5), "avx2")
    check_kernel(tf, func, dict.fromkeys(tf.symbols(), 2))


@pytest.mark.parametrize("target", ["avx2", "baseline"])
def test_border(target: str) -> None:
    check_kernel(*kernel(BORDER, target), {})


def test_many_tiles_pass_in_blocks() -> None:
    tf, func = kernel(CONV.format(batch=1, n=16, m=2, h=34, w=34), "avx2")
    made = [a.buffer for a in statements(func.body) if isinstance(a, Alloc)]
    blocks = [known(b.shape[2]) or 0 for b in made if b.name == "V"]
    assert len(blocks) == 2
    assert sum(blocks) == 17 * 17
    check_kernel(tf, func, {})


def test_what_is_not_read_pixel_by_pixel_is_refused() -> None:
    text = CONV.format(batch=1, n=16, m=4, h=8, w=8).replace("C[k, n, i, j] +", "C[k, n, j, i] +")
    with pytest.raises(ScheduleError, match="has filters in a form for tiles, and cannot be made"):
        kernel(text, "avx2")


def test_the_rewritten_function_is_text() -> None:
    tf = prepare(read_tensor_function(CONV.format(batch=1, n=16, m=2, h=4, w=4)))
    made = apply_algorithm(tf, ["winograd R0"])
    text = print_tensor_function(made)
    assert print_tensor_function(read_tensor_function(text)) == text


# --- which ones ---------------------------------------------------------------------------------


def conv_tile(channels: int, filters: int, size: int, **attrs: object) -> int:
    w = np.ones((filters, channels, 3, 3), np.float32)
    x = np.ones((1, channels, size + 2, size + 2), np.float32)
    settings = {"strides": (1, 1), "dilations": (1, 1), "group": 1, **attrs}
    return winograd_tile(apply("conv", make_constant(x), make_constant(w), **settings))


@pytest.mark.parametrize(
    ("channels", "filters", "size", "tile"),
    [(64, 64, 56, 4), (128, 128, 28, 4), (256, 256, 14, 4), (512, 512, 7, 2), (16, 16, 1, 0),
     (12, 64, 56, 0), (64, 24, 56, 0)],
)  # fmt: skip
def test_which_tiles(channels: int, filters: int, size: int, tile: int) -> None:
    assert conv_tile(channels, filters, size) == tile


def test_strides_and_groups_are_left_alone() -> None:
    assert conv_tile(32, 32, 28, strides=(2, 2)) == 0
    assert conv_tile(32, 32, 28, dilations=(2, 2)) == 0


def model(channels: int, size: int) -> bytes:
    """y = transpose(conv(relu(conv(x))) + x); the transpose may not be put behind tiles."""
    rng = np.random.default_rng(3)
    scale = np.sqrt(2 / (9 * channels))
    weights = [
        numpy_helper.from_array((rng.standard_normal((channels, channels, 3, 3)) * scale)
                                .astype(np.float32), f"w{k}")
        for k in range(2)
    ]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1] * 4),
        helper.make_node("Add", ["c", "x"], ["d"]),
        helper.make_node("Transpose", ["d"], ["y"], perm=[0, 2, 1, 3]),
    ]
    shape = ["batch", channels, size, size]
    x = helper.make_tensor_value_info("x", 1, shape)
    y = helper.make_tensor_value_info("y", 1, ["batch", size, channels, size])
    graph = helper.make_graph(nodes, "tiles", [x], [y], weights)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


def test_models() -> None:
    """Class fp32 has them, within its bound; strict does not."""
    data = model(32, 13)
    x = np.random.default_rng(4).standard_normal((3, 32, 13, 13)).astype(np.float32)
    (want,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    found = {}
    for precision in ("fp32", "strict"):
        bundle = compile_bundle(data, target=without_tiles(), precision=precision)
        kernels = bundle.manifest["kernels"]
        found[precision] = sum("winograd" in k["schedule"] for k in kernels)
        got = naru.compile(data, target=without_tiles(), precision=precision)(x)
        error = np.sqrt(np.mean((got - want) ** 2) / np.mean(np.asarray(want) ** 2))
        assert error < 2e-6
    assert found == {"fp32": 2, "strict": 0}


def test_what_is_not_a_number_stays_in_its_tile() -> None:
    """Beyond the tiles that an infinity touches, nothing changes."""
    data = model(32, 16)
    x = np.ones((1, 32, 16, 16), np.float32)
    plain = naru.compile(data, target=without_tiles())(x)
    x[0, 0, 0, 0] = np.inf
    got = naru.compile(data, target=without_tiles())(x)
    assert not np.isfinite(got[0, 0, :, 0]).all()
    np.testing.assert_array_equal(got[0, 10:, :, 10:], plain[0, 10:, :, 10:])


# --- what is around them ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [t for t in TARGETS if not t.startswith("wasm")])
def test_stack(name: str) -> None:
    """V and M of both sizes of blocks fit the stack that docs/languages.md promises."""
    target = TARGETS[name]
    lanes = target.lanes("f32")
    for m, count in itertools.product(POINTS, (1, 4, 9, 16, 25, 49, 100, 196, 784, 3136)):
        for channels, filters in itertools.product((16, 64, 256, 512, 960), (16, 48, 256, 512)):
            products = choose_products(m, count, channels, filters, target, lanes)
            width = products.tile.vectors * lanes
            tiles = products.block + count % products.block
            assert tiles * (m + 2) ** 2 * (channels + 16 + width) * 4 < 2**20
            assert 1 <= products.block <= count


@pytest.mark.parametrize("name", ["x86-64-amx", "x86-64-avx512", "aarch64-i8mm"])
def test_many_channels_on_large_caches(name: str) -> None:
    tf = read_tensor_function(
        CONV.format(batch=1, n=512, m=4, h=20, w=20).replace("16, 22", "512, 22")
        .replace("16, 20", "512, 20").replace("16, 3, 3", "512, 3, 3").replace("c: 16", "c: 512")
        .replace(", 16, 20 + 2", ", 512, 20 + 2")
    )  # fmt: skip
    Kernels(get_target(name)).lower(prepare(tf), "k")


def graph(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list[int], out: list[int]
) -> bytes:
    x = helper.make_tensor_value_info("x", 1, shape)
    y = helper.make_tensor_value_info("y", 1, out)
    made = [numpy_helper.from_array(a, name) for name, a in weights.items()]
    opset = helper.make_opsetid("", 17)
    whole = helper.make_graph(nodes, "g", [x], [y], made)
    return helper.make_model(whole, opset_imports=[opset], ir_version=9).SerializeToString()


def filters(count: int, channels: int, taps: int = 3) -> np.ndarray:
    rng = np.random.default_rng(count + channels)
    made = rng.standard_normal((count, channels, taps, taps)) / (taps * channels**0.5)
    return made.astype(np.float32)


def viewed() -> bytes:
    """An image that lies in another order than channels last."""
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["y"]),
    ]
    weights = {"v": filters(256, 32, 1), "w": filters(32, 16), "shape": np.array([1, 16, 16, 256])}
    return graph(nodes, weights, [1, 32, 16, 16], [1, 32, 14, 254])


def padded_batch() -> bytes:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Pad", ["a", "pads"], ["y"]),
    ]
    weights = {"w": filters(64, 16), "pads": np.array([1, 0, 0, 0, 0, 0, 0, 0])}
    return graph(nodes, weights, [1, 16, 18, 18], [2, 64, 16, 16])


def border_and_concat() -> bytes:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Pad", ["a", "pads"], ["b"]),
        helper.make_node("Concat", ["u", "v"], ["c"], axis=1),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Slice", ["x", "start", "end", "axes"], ["e"]),
        helper.make_node("Concat", ["e", "d"], ["f"], axis=1),
        helper.make_node("Add", ["b", "f"], ["y"]),
    ]
    rng = np.random.default_rng(2)
    weights = {
        "w": filters(64, 16), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "u": rng.standard_normal((1, 16, 18, 18)).astype(np.float32),
        "v": rng.standard_normal((1, 40, 18, 18)).astype(np.float32),
        "start": np.array([0]), "end": np.array([8]), "axes": np.array([1]),
    }  # fmt: skip
    return graph(nodes, weights, [1, 16, 18, 18], [1, 64, 18, 18])


def without_filters() -> bytes:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    return graph(nodes, {"w": np.zeros((0, 16, 3, 3), np.float32)}, [1, 16, 18, 18], [1, 0, 16, 16])


@pytest.mark.parametrize("make", [viewed, padded_batch, border_and_concat])
def test_neighbours(make: Callable[[], bytes]) -> None:
    data = make()
    session = onnxruntime.InferenceSession(data)
    x = np.random.default_rng(5).standard_normal(session.get_inputs()[0].shape).astype(np.float32)
    (want,) = session.run(None, {"x": x})
    np.testing.assert_allclose(
        naru.compile(data, target=without_tiles())(x), np.asarray(want), rtol=1e-4, atol=1e-5
    )


def test_no_filters() -> None:
    x = np.ones((1, 16, 18, 18), np.float32)
    assert naru.compile(without_filters(), target=without_tiles())(x).shape == (1, 0, 16, 16)
