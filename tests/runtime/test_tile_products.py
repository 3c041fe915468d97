"""Products of matrices and convolutions in tiles of AMX, next to float64: shapes, numbers, threads.

Tiles are asked for wherever they can be had, also where shapes are too small to be worth it.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import naru
from naru import pipeline
from naru.building import choose_levels
from naru.errors import TargetError
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate
from naru.ops.tile_product import LARGEST
from naru.options import Options
from naru.runtime.model import Model
from naru.runtime.session import open_model
from naru.targets import get_target
from tests.codegen.native import runnable
from tests.runtime.tile_networks import images, sequences

Array = np.ndarray
Shape = Sequence[int | str]
AMX = "x86-64-amx"
ERRORS = {"fp32": 8e-6, "bf16": 4e-3}  # rms, relative
PRECISIONS = tuple(ERRORS)


@pytest.fixture(autouse=True)
def tiles_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    runnable(AMX)
    monkeypatch.setattr("naru.passes.tile_products.WORTH", math.inf)
    monkeypatch.setattr("naru.passes.tile_products.FEW", 2)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    weights: Mapping[str, Array],
) -> bytes:
    def infos(shapes: Mapping[str, Shape]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in shapes.items()
        ]

    constants = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), constants)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def products(shape: Shape, *matrices: Array) -> bytes:
    """Outputs y0, y1, …: x times each of the matrices."""
    names = range(len(matrices))
    nodes = [helper.make_node("MatMul", ["x", f"w{k}"], [f"y{k}"]) for k in names]
    outputs = {f"y{k}": (*shape[:-1], w.shape[1]) for k, w in enumerate(matrices)}
    weights = {f"w{k}": w for k, w in enumerate(matrices)}
    return model_of(nodes, {"x": shape}, outputs, weights)


def convolution(shape: Shape, w: Array, **attrs: Any) -> bytes:
    rank = len(shape)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attrs)
    out = ["n", w.shape[0], *(f"d{k}" for k in range(rank - 2))]
    return model_of([node], {"x": shape}, {"y": out}, {"w": w})


def convolve(
    x: Array,
    w: Array,
    strides: Sequence[int] = (),
    dilations: Sequence[int] = (),
    pads: Sequence[int] = (),
) -> Array:
    """In float64."""
    rank = w.ndim - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    pads = pads or (0,) * (2 * rank)
    around = [(0, 0), (0, 0), *((pads[k], pads[k + rank]) for k in range(rank))]
    x = np.pad(x.astype(np.float64), around)
    sizes = [
        (n - (t - 1) * d - 1) // s + 1
        for n, t, d, s in zip(x.shape[2:], w.shape[2:], dilations, strides, strict=True)
    ]
    out = np.zeros((x.shape[0], w.shape[0], *sizes))
    for tap in itertools.product(*map(range, w.shape[2:])):
        steps = zip(tap, dilations, strides, sizes, strict=True)
        at = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, s, n in steps)
        seen = x[(slice(None), slice(None), *at)]
        out += np.einsum("nc...,fc->nf...", seen, w[(slice(None), slice(None), *tap)])
    return out


def build(source: bytes, precision: str = "fp32", threads: int | None = None) -> Model:
    """A model that makes its products in tiles."""
    bundle = pipeline.build(source, Options(runnable(AMX), precision), tested=False)
    model = open_model(bundle, threads=threads)
    assert uses_tiles(model)
    return model


def uses_tiles(model: Model) -> bool:
    return any("tile_product" in step["name"] for step in model.manifest["steps"])


def count_packs(model: Model) -> int:
    return sum("pack_tiles" in step["name"] for step in model.manifest["steps"])


def outputs_of(found: Any) -> list[Array]:
    return [np.asarray(a) for a in (found if isinstance(found, tuple) else (found,))]


def check(found: Array, wanted: Array, precision: str) -> None:
    assert found.shape == wanted.shape
    size = np.sqrt(np.mean(np.square(wanted))) if wanted.size else 0.0
    error = np.sqrt(np.mean(np.square(found - wanted))) if wanted.size else 0.0
    assert error <= ERRORS[precision] * size


# --- shapes ---------------------------------------------------------------------------------------

COLUMNS = (16, 20, 33, 100)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("rows", "depth"), [(7, 32), (16, 96), (17, 4096), (33, 768), (100, 96)])
def test_matrices(rows: int, depth: int, precision: str) -> None:
    x = numbers(rows, depth)
    columns = COLUMNS if precision == "fp32" else COLUMNS[2:]
    ws = [numbers(depth, n, seed=n) for n in columns]
    model = build(products(x.shape, *ws), precision)
    for y, w in zip(outputs_of(model(x=x)), ws, strict=True):
        check(y, x.astype(np.float64) @ w, precision)


@pytest.mark.parametrize(
    ("lead", "precision"),
    [
        ((3, 7), "fp32"), ((2, 16), "bf16"), ((2, 3, 5), "fp32"), ((2, 3, 5), "bf16"),
        ((1, 1, 33), "bf16"), ((4, 1, 9), "fp32"), ((17, 1), "fp32"),
    ],
)  # fmt: skip
def test_batches(lead: tuple[int, ...], precision: str) -> None:
    x, w = numbers(*lead, 64), numbers(64, 52, seed=1)
    (y,) = outputs_of(build(products(x.shape, w), precision)(x=x))
    check(y, x.astype(np.float64) @ w, precision)


@pytest.mark.parametrize(
    ("shape", "precision"),
    [
        (("n", "s", 96), "fp32"), (("n", "s", 96), "bf16"), (("n", 1, 32), "bf16"),
        (("n", 2, "s", 64), "fp32"), ((2, "s", 64), "fp32"),
    ],
)  # fmt: skip
def test_unknown_rows(shape: Shape, precision: str) -> None:
    """One model takes batches and sequences of all sizes, also none."""
    w = numbers(int(shape[-1]), 36, seed=1)
    model = build(products(shape, w), precision)
    for n, s in ((1, 1), (1, 3), (2, 16), (3, 17), (0, 4), (5, 33), (1, 128), (1, 1)):
        sizes = [{"n": n, "s": s}.get(d, d) for d in map(str, shape)]
        x = numbers(*map(int, sizes))
        check(outputs_of(model(x=x))[0], x.astype(np.float64) @ w, precision)


def test_tokens_of_several_sequences_are_many_rows_those_of_a_batch_may_be_one() -> None:
    w = numbers(64, 36, seed=1)
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["r"]),
        helper.make_node("Gemm", ["r", "w"], ["y"]),
    ]
    weights = {"w": w, "flat": np.array([-1, 64])}
    model = build(model_of(nodes, {"x": ("n", "s", 64)}, {"y": ("m", 36)}, weights))
    for n, s in ((1, 1), (3, 17), (0, 4)):
        x = numbers(n, s, 64)
        check(outputs_of(model(x=x))[0], x.reshape(-1, 64).astype(np.float64) @ w, "fp32")
    gemm = [helper.make_node("Gemm", ["x", "w"], ["y"])]
    source = model_of(gemm, {"x": ("n", 64)}, {"y": ("n", 36)}, {"w": w})
    bundle = pipeline.build(source, Options(get_target(AMX)), tested=False)
    assert bundle.manifest["target"]["name"] == "x86-64-avx512"


IMAGES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "points": ((1, 32, 5, 7), (20, 32, 1, 1), {}),
    "points, two apart": ((2, 64, 9, 8), (33, 64, 1, 1), {"strides": [2, 2]}),
    "no border": ((1, 32, 9, 6), (16, 32, 3, 3), {}),
    "border": ((3, 32, 7, 7), (100, 32, 3, 3), {"pads": [1, 1, 1, 1]}),
    "two apart": ((1, 64, 14, 14), (33, 64, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "uneven border": ((2, 32, 8, 9), (20, 32, 3, 3), {"pads": [0, 1, 2, 0], "strides": [2, 1]}),
    "wide": ((1, 32, 9, 11), (20, 32, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "wide and apart": ((1, 32, 11, 9), (20, 32, 3, 3), {"dilations": [2, 2], "strides": [2, 3]}),
    "three apart": ((1, 32, 13, 10), (20, 32, 2, 2), {"dilations": [2, 1], "strides": [3, 3]}),
    "many channels": ((1, 768, 6, 6), (36, 768, 3, 3), {"pads": [1, 1, 1, 1]}),
    "signal": ((2, 32, 40), (20, 32, 3), {"pads": [1, 1]}),
    "signal, two apart": ((1, 96, 41), (100, 96, 5), {"strides": [2], "pads": [2, 0]}),
    "signal, wide": ((3, 64, 33), (16, 64, 3), {"dilations": [4]}),
    "one line": ((2, 32, 3, 20), (20, 32, 3, 3), {}),
    "two columns": ((2, 32, 20, 4), (20, 32, 3, 3), {}),
    "first": ((1, 3, 20, 21), (20, 3, 7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    "first of two images": ((2, 3, 9, 11), (33, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    "grey": ((2, 1, 9, 11), (33, 1, 3, 3), {"pads": [1, 0, 2, 1], "strides": [1, 2]}),
    "patches": ((1, 3, 33, 40), (20, 3, 4, 4), {"strides": [4, 4]}),
    "long runs": ((1, 4, 33, 70), (20, 4, 16, 16), {"strides": [16, 16]}),
    "first, wide": ((1, 5, 12, 30), (20, 5, 3, 9), {"dilations": [2, 1], "strides": [3, 1]}),
    "taps down": ((1, 3, 12, 30), (20, 3, 3, 1), {"dilations": [2, 3], "strides": [3, 4]}),
    "sound": ((2, 1, 60), (20, 1, 5), {"strides": [2], "pads": [2, 2]}),
    "twelve channels": ((2, 12, 60), (20, 12, 3), {"pads": [1, 1]}),
}


@pytest.mark.parametrize(
    ("name", "precision"), list(zip(IMAGES, itertools.cycle(PRECISIONS), strict=False))
)
def test_convolutions(name: str, precision: str) -> None:
    shape, filters, attrs = IMAGES[name]
    x, w = numbers(*shape), numbers(*filters, seed=1)
    (y,) = outputs_of(build(convolution(shape, w, **attrs), precision)(x=x))
    check(y, convolve(x, w, **attrs), precision)


BORDERS: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 32, 7, 8), (36, 32, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 32, 9, 8), (36, 32, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((1, 32, 9, 7), (20, 32, 3, 2), {"pads": [0, 2, 1, 0], "strides": [1, 3]}),
    ((1, 32, 8, 9), (33, 32, 3, 3), {"pads": [3, 2, 2, 3], "dilations": [3, 2]}),
    ((2, 64, 19), (20, 64, 4), {"pads": [3, 0], "strides": [3], "dilations": [2]}),
)


@pytest.mark.parametrize("case", range(len(BORDERS)))
def test_borders_are_made_while_pixels_are_packed(case: int) -> None:
    """Behind a convolution, so that pixels lie as they are read."""
    (shape, filters, attrs), precision = BORDERS[case], PRECISIONS[case % 2]
    x, w = numbers(*shape), numbers(*filters, seed=1)
    v = numbers(*filters[1:2] * 2, *(1 for _ in attrs["pads"][::2]), seed=2) / 6
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["y0"]),
        helper.make_node("Conv", ["y0", "w"], ["y1"], **attrs),
    ]
    outputs = {"y0": shape, "y1": ("n", *(f"d{k}" for k in shape[1:]))}
    model = build(model_of(nodes, {"x": shape}, outputs, {"v": v, "w": w}), precision)
    assert not any("_pad" in step["name"] for step in model.manifest["steps"])
    y0, y1 = outputs_of(model(x=x))
    check(y0, convolve(x, v), precision)
    check(y1, convolve(y0, w, **attrs), precision)


def convolve_back(
    x: Array,
    w: Array,
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    output_padding: Sequence[int] = (),
) -> Array:
    """A transposed convolution in float64: each tap adds to the results it reaches."""
    rank = w.ndim - 2
    pads, more = pads or (0,) * (2 * rank), output_padding or (0,) * rank
    spatial = zip(x.shape[2:], strides, w.shape[2:], strict=True)
    out = np.zeros((x.shape[0], w.shape[1], *((n - 1) * s + k for n, s, k in spatial)))
    for tap in itertools.product(*map(range, w.shape[2:])):
        steps = zip(tap, strides, x.shape[2:], strict=True)
        at = tuple(slice(t, t + (n - 1) * s + 1, s) for t, s, n in steps)
        weights = w[(slice(None), slice(None), *tap)].astype(np.float64)
        out[(..., *at)] += np.einsum("nc...,cf->nf...", x, weights)
    out = np.pad(out, [(0, 0), (0, 0), *((0, m) for m in more)])
    return out[(..., *(slice(p, n - q) for p, q, n in zip(pads[:rank], pads[rank:], out.shape[2:],
                                                          strict=True)))]  # fmt: skip


TRANSPOSED: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((1, 64, 9, 8), (64, 33, 2, 2), {"strides": [2, 2]}),
    ((2, 32, 4, 5), (32, 20, 3, 3), {"strides": [2, 2]}),
    ((1, 32, 4, 5), (32, 16, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 32, 4, 5), (32, 20, 3, 3), {"strides": [2, 3], "pads": [1, 1, 1, 1],
                                     "output_padding": [1, 1]}),
    ((3, 64, 9, 8), (64, 7, 2, 3), {"strides": [1, 2], "pads": [0, 1, 1, 0]}),
    ((2, 32, 9), (32, 20, 4), {"strides": [2], "pads": [1, 1]}),
    ((2, 32, 9), (32, 20, 5), {"strides": [3], "pads": [1, 1]}),
    ((1, 256, 40, 3), (256, 256, 2, 2), {"strides": [2, 2]}),
)  # fmt: skip


@pytest.mark.parametrize("case", range(len(TRANSPOSED)))
def test_transposed_convolutions(case: int) -> None:
    (shape, filters, attrs), precision = TRANSPOSED[case], PRECISIONS[case % 2]
    x, w, b = numbers(*shape), numbers(*filters, seed=1), numbers(filters[1], seed=2)
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["c"], **attrs),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    out = ["n", filters[1], *(f"d{k}" for k in range(len(shape) - 2))]
    model = build(model_of(nodes, {"x": shape}, {"y": out}, {"w": w, "b": b}), precision)
    wanted = convolve_back(x, w, **attrs) + b.reshape(-1, *(1 for _ in shape[2:]))
    check(outputs_of(model(x=x))[0], np.maximum(wanted, 0), precision)


def test_a_border_around_a_transposed_convolution_is_made_apart() -> None:
    x, w, v = numbers(2, 32, 5, 6), numbers(32, 20, 2, 2, seed=1), numbers(20, 1, 3, 3, seed=2)
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Conv", ["c", "v"], ["y"], group=20, pads=[1, 1, 1, 1]),
    ]
    model = build(
        model_of(nodes, {"x": x.shape}, {"y": ("n", 20, "a", "b")}, {"w": w, "v": v}), "fp32"
    )
    wanted = depthwise(convolve_back(x, w, strides=[2, 2]), v, pads=[1, 1, 1, 1])
    check(outputs_of(model(x=x))[0], wanted, "fp32")


def test_results_of_one_pixel_a_line_are_no_tiles() -> None:
    for shape, filters in (((1, 32, 20, 3), (20, 32, 3, 3)), ((4, 32, 7, 7), (64, 32, 7, 7))):
        x, w = numbers(*shape), numbers(*filters, seed=1)
        source = convolution(shape, w)
        model = open_model(pipeline.build(source, Options(runnable(AMX)), tested=False))
        assert not uses_tiles(model)
        check(outputs_of(model(x=x))[0], convolve(x, w), "fp32")


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_follows_a_matrix(precision: str) -> None:
    """A bias and a GELU; a residual and a ReLU behind the same rows."""
    x, w, r = numbers(2, 17, 96), numbers(96, 52, seed=1) / 10, numbers(2, 17, 52, seed=2)
    b = numbers(52, seed=3)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "b"], ["biased"]),
        helper.make_node("Gelu", ["biased"], ["y0"]),
        helper.make_node("MatMul", ["x", "v"], ["xv"]),
        helper.make_node("Add", ["xv", "r"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y1"]),
    ]
    shapes = {"x": x.shape, "r": r.shape}
    weights = {"w": w, "v": w * 2, "b": b}
    source = model_of(nodes, shapes, {"y0": r.shape, "y1": r.shape}, weights)
    y0, y1 = outputs_of(build(source, precision)(x=x, r=r))
    product = x.astype(np.float64) @ w
    check(y0, gelu(product + b), precision)
    check(y1, np.maximum(2 * product + r, 0), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_follows_a_convolution(precision: str) -> None:
    """A bias, a residual that is one of the inputs, a ReLU; then the next convolution."""
    x, b = numbers(2, 32, 9, 7), numbers(32, seed=3)
    w, v = numbers(32, 32, 3, 3, seed=1) / 17, numbers(20, 32, 1, 1, seed=2) / 6
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "x"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y0"]),
        helper.make_node("Conv", ["y0", "v"], ["y1"], strides=[2, 2]),
    ]
    weights = {"w": w, "v": v, "b": b}
    source = model_of(nodes, {"x": x.shape}, {"y0": x.shape, "y1": (2, 20, 5, 4)}, weights)
    y0, y1 = outputs_of(build(source, precision)(x=x))
    wanted = np.maximum(convolve(x, w, pads=[1, 1, 1, 1]) + b[:, None, None] + x, 0)
    check(y0, wanted, precision)
    check(y1, convolve(y0, v, strides=[2, 2]), precision)


def depthwise(x: Array, v: Array, **attrs: Any) -> Array:
    """A filter for each channel."""
    made = [convolve(x[:, k : k + 1], v[k : k + 1], **attrs) for k in range(len(v))]
    return np.concatenate(made, axis=1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("taps", "inner", "outer"),
    [
        (1, {}, {"pads": [1, 1, 1, 1]}),
        (3, {"pads": [1, 1, 1, 1]}, {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        (3, {"strides": [2, 2]}, {"pads": [2, 0, 1, 3]}),
    ],
)
def test_borders_are_written_with_a_result(
    taps: int, inner: dict[str, Any], outer: dict[str, Any], precision: str
) -> None:
    """Tiles of a result cross the lines of an image that has a border in memory."""
    w, v = numbers(36, 32, taps, taps, seed=1) / 6, numbers(36, 1, 3, 3, seed=2) / 3
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], **inner),
        helper.make_node("Relu", ["c"], ["y"]),
        helper.make_node("Conv", ["y", "v"], ["z"], group=36, **outer),
    ]
    size = {"x": ("n", 32, 13, 11)}
    out = {"z": ("n", 36, "a", "b")}
    model = build(model_of(nodes, size, out, {"w": w, "v": v}), precision)
    assert not any("_pad" in step["name"] for step in model.manifest["steps"])
    for n in (1, 3):
        x = numbers(n, 32, 13, 11)
        wanted = depthwise(np.maximum(convolve(x, w, **inner), 0), v, **outer)
        check(outputs_of(model(x=x))[0], wanted, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("width", [32, 96])
@pytest.mark.parametrize(
    ("taps", "attrs", "images"),
    [
        (1, {}, 2),
        (3, {"pads": [1, 1, 1, 1]}, 1),
        (3, {"pads": [1, 1, 1, 1]}, 3),
        (3, {"pads": [2, 0, 1, 3], "dilations": [2, 1]}, 1),
    ],
)
def test_products_pack_what_products_read(
    taps: int,
    attrs: dict[str, Any],
    images: int,
    width: int,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the same bits as a kernel of its own does, a border around them or not."""
    x, b = numbers(images, 32, 9, 7), numbers(width, seed=3)
    w = numbers(width, 32, 3, 3, seed=1) / 17
    v = numbers(20, width, taps, taps, seed=2) / 20
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"], **attrs),
    ]
    out = {"y": (images, 20, "h", "l")}
    source = model_of(nodes, {"x": x.shape}, out, {"w": w, "v": v, "b": b})
    model = build(source, precision)
    assert count_packs(model) == 1
    found = outputs_of(model(x=x))[0]
    inner = np.maximum(convolve(x, w, pads=[1, 1, 1, 1]) + b[:, None, None], 0)
    check(found, convolve(inner, v, **attrs), precision)
    monkeypatch.setattr("naru.passes.fuse.packs_tiles", lambda *_: False)
    apart = build(source, precision)
    assert count_packs(apart) == 2
    np.testing.assert_array_equal(outputs_of(apart(x=x))[0], found)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("lead", [(16,), (33,), (1, 21), (2, 17)])
def test_products_pack_rows(
    lead: tuple[int, ...], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = numbers(*lead, 96)
    w, v = numbers(96, 64, seed=1) / 10, numbers(64, 36, seed=2) / 8
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Gelu", ["a"], ["g"]),
        helper.make_node("MatMul", ["g", "v"], ["y"]),
    ]
    source = model_of(nodes, {"x": x.shape}, {"y": (*lead, 36)}, {"w": w, "v": v})
    found = outputs_of(build(source, precision)(x=x))[0]
    check(found, gelu(x.astype(np.float64) @ w) @ v, precision)
    monkeypatch.setattr("naru.passes.fuse.packs_tiles", lambda *_: False)
    np.testing.assert_array_equal(outputs_of(build(source, precision)(x=x))[0], found)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("channels", [(32, 64), (64, 32, 32), (32, 24, 8), (16, 48)])
def test_operands_of_a_concatenation_are_packed_in_place(
    channels: tuple[int, ...], precision: str
) -> None:
    x, w = numbers(2, 32, 9, 7), numbers(20, sum(channels), 3, 3, seed=1) / 20
    filters = {f"v{k}": numbers(c, 32, 1, 1, seed=k) / 6 for k, c in enumerate(channels)}
    nodes = [helper.make_node("Conv", ["x", v], [f"c{v}"]) for v in filters]
    nodes += [
        helper.make_node("Concat", [f"c{v}" for v in filters], ["c"], axis=1),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    source = model_of(nodes, {"x": x.shape}, {"y": (2, 20, 9, 7)}, {**filters, "w": w})
    model = build(source, precision)
    assert not any("concat" in step["name"] for step in model.manifest["steps"])
    inner = np.concatenate([convolve(x, v) for v in filters.values()], axis=1)
    wanted = convolve(np.maximum(inner, 0), w, pads=[1, 1, 1, 1])
    check(outputs_of(model(x=x))[0], wanted, precision)


def test_convolutions_of_any_number_of_images() -> None:
    w = numbers(33, 32, 3, 3, seed=1)
    model = build(convolution(("n", 32, 6, 7), w, pads=[1, 1, 1, 1]))
    for n in (1, 3, 0, 2):
        x = numbers(n, 32, 6, 7)
        check(outputs_of(model(x=x))[0], convolve(x, w, pads=[1, 1, 1, 1]), "fp32")


# --- numbers --------------------------------------------------------------------------------------


def same_places(found: Array, wanted: Array) -> None:
    """Infinities with their signs and NaNs are where float32 has them."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_array_equal(np.isposinf(found), np.isposinf(wanted))
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(wanted))


LARGE = 3.4e38  # in class bf16 it stands for the largest number of bf16
SPECIAL: dict[str, dict[int, float]] = {  # what stands in a row, by column
    "infinite": {3: np.inf},
    "minus infinite": {40: -np.inf},
    "two infinities": {3: np.inf, 70: np.inf},
    "NaN": {0: np.nan},
    "NaN and infinite": {0: np.nan, 95: np.inf},
    "large": {17: LARGE},
    "large and infinite": {17: -LARGE, 18: np.inf},
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_numbers_that_are_not_finite(precision: str) -> None:
    """Each in a row of its own; the rows between them do not change."""
    w, x = numbers(96, 36, seed=1), numbers(4 * len(SPECIAL), 96)
    model = build(products(x.shape, w), precision)
    before = outputs_of(model(x=x))[0]
    for row, values in zip(range(1, len(x), 4), SPECIAL.values(), strict=True):
        for column, value in values.items():
            limit = LARGEST if precision == "bf16" else LARGE
            x[row, column] = value if np.isinf(value) else np.clip(value, -limit, limit)
    after = outputs_of(model(x=x))[0]
    with np.errstate(all="ignore"):
        same_places(after, x @ w)
    assert not np.isfinite(after[1::4]).all(axis=1).any()
    others = np.arange(len(x)) % 4 != 1
    assert after[others].tobytes() == before[others].tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pixels_that_are_not_finite(precision: str) -> None:
    """The last of a line, in a corner: they are in their own windows and in no others."""
    w, x = numbers(20, 32, 3, 3, seed=1), numbers(2, 32, 6, 7)
    model = build(convolution(x.shape, w, pads=[1, 1, 1, 1]), precision)
    before = outputs_of(model(x=x))[0]
    for value in (np.inf, -np.inf, np.nan):
        x[0, 5, 2, 6] = x[1, 0, 0, 0] = value
        after = outputs_of(model(x=x))[0]
        with np.errstate(all="ignore"):
            same_places(after, convolve(x, w, pads=[1, 1, 1, 1]))
        others = np.isfinite(after)
        assert after[others].tobytes() == before[others].tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pixels_of_few_channels_that_are_not_finite(precision: str) -> None:
    """What whole blocks read behind a window is not part of it."""
    w, x = numbers(20, 3, 3, 3, seed=1), numbers(2, 3, 8, 17)
    model = build(convolution(x.shape, w, pads=[1, 1, 1, 1]), precision)
    before = outputs_of(model(x=x))[0]
    for value in (np.inf, -np.inf, np.nan):
        x[0, 2, 2, 6] = x[1, 0, 0, 0] = x[1, 1, 7, 16] = value
        after = outputs_of(model(x=x))[0]
        with np.errstate(all="ignore"):
            same_places(after, convolve(x, w, pads=[1, 1, 1, 1]))
        others = np.isfinite(after)
        assert after[others].tobytes() == before[others].tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zeros_and_tiny_numbers(precision: str) -> None:
    w, x = numbers(64, 36, seed=1), np.zeros((19, 64), np.float32)
    model = build(products(x.shape, w), precision)
    assert not outputs_of(model(x=x))[0].any()
    x[3], x[7], x[9] = 1e-38, -1e-38, 1e-45
    found = outputs_of(model(x=x))[0]
    np.testing.assert_allclose(found, x.astype(np.float64) @ w, rtol=0, atol=5e-37)


# --- how models are run ---------------------------------------------------------------------------


def layers() -> bytes:
    """A convolution, and a matrix behind it."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    weights = {"w": numbers(64, 32, 3, 3, seed=1), "v": numbers(32, 100, seed=2)}
    return model_of(nodes, {"x": (2, 32, 9, 32)}, {"y": (2, 64, 9, 100)}, weights)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_change_nothing(precision: str) -> None:
    bundle = pipeline.build(layers(), Options(runnable(AMX), precision), tested=False)
    x = numbers(2, 32, 9, 32)
    one, two = (outputs_of(open_model(bundle, threads=n)(x=x))[0] for n in (1, 2))
    assert one.tobytes() == two.tobytes()


def test_arrays_that_are_not_aligned() -> None:
    x = numbers(2, 32, 9, 32)
    model = build(layers())
    shifted = np.zeros(x.size + 1, np.float32)[1:].reshape(x.shape)
    shifted[...] = x
    assert shifted.ctypes.data % 64
    (a,), (b,) = outputs_of(model(x=x)), outputs_of(model(x=shifted))
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("precision", "tiles"), [("fp32", True), ("bf16", True), ("strict", False), ("portable", False)]
)
def test_classes_that_make_tiles(precision: str, tiles: bool) -> None:
    model = naru.compile(layers(), target=AMX, precision=precision, cache=False)
    assert uses_tiles(model) == tiles
    assert model.selftest().checks


FORK = """
import hashlib, os, sys
import numpy as np
import naru

model = naru.compile(sys.argv[1], target="x86-64-amx", cache=False)
assert any("tile_product" in s["name"] for s in model.manifest["steps"])
x = np.random.default_rng(0).standard_normal((2, 32, 9, 32), np.float32)

def show():
    for _ in range(5):
        seen = hashlib.sha256(np.asarray(model(x=x)).tobytes()).hexdigest()
        os.write(1, (seen + chr(10)).encode())  # at once: two write

show()
child = os.fork()
if child == 0:
    show()
    os._exit(0)
show()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_forks_and_two_processes_at_once(tmp_path: Path) -> None:
    """Registers are the process's own, and a child has them as well."""
    source = tmp_path / "m.onnx"
    source.write_bytes(layers())
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(source)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found: list[str] = []
    for process in running:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        found += out.split()
    assert len(found) == 2 * 15
    assert len(set(found)) == 1


# --- random shapes --------------------------------------------------------------------------------


def random_matrix(r: Random) -> tuple[bytes, Array, Array]:
    lead = [r.choice((1, 2, 3, 8, 17, 40)) for _ in range(r.randint(1, 3))]
    if math.prod(lead) < 2:
        lead[-1] = 5
    depth, columns = r.choice((32, 64, 160, 256)), r.randint(2, 130)
    x, w = numbers(*lead, depth, seed=r.randrange(99)), numbers(depth, columns, seed=100)
    return products(x.shape, w), x, x.astype(np.float64) @ w


def random_image(r: Random) -> tuple[bytes, Array, Array]:
    rank = r.choice((1, 2, 2))
    taps = [r.randint(1, 4) for _ in range(rank)]
    attrs: dict[str, Any] = {
        "strides": [r.choice((1, 1, 2, 3)) for _ in range(rank)],
        "dilations": [r.choice((1, 1, 2, 3)) for _ in range(rank)],
        "pads": [r.randint(0, 2) for _ in range(2 * rank)],
    }
    channels = r.choice((1, 3, 32, 64, 96))
    if channels < 32:  # what a window sees of a line is one run
        attrs["dilations"][-1] = 1
    size = [
        (t - 1) * d + 1 + r.randint(1, 8) + s
        for t, d, s in zip(taps, attrs["dilations"], attrs["strides"], strict=True)
    ]
    x = numbers(r.randint(1, 3), channels, *size, seed=r.randrange(99))
    w = numbers(r.randint(2, 70), channels, *taps, seed=100)
    return convolution(x.shape, w, **attrs), x, convolve(x, w, **attrs)


@pytest.mark.parametrize("seed", range(24))
def test_random_shapes(seed: int) -> None:
    r = Random(seed)
    precision = PRECISIONS[seed % 2]
    source, x, wanted = (random_matrix if seed % 3 == 0 else random_image)(r)
    check(outputs_of(build(source, precision)(x=x))[0], wanted, precision)


NETWORKS = 12


def check_network(number: int) -> None:
    """A network at random, next to float64 on one thread and two."""
    model, feeds = (images if number % 2 else sequences)(number)
    data = model.SerializeToString()
    graph = read_onnx(data)
    for precision, error in (("fp32", 6e-5), ("bf16", 6e-2)):
        bundle = pipeline.build(data, Options(runnable(AMX), precision), tested=False)
        one, two = (open_model(bundle, threads=n) for n in (1, 2))
        for x in feeds:
            found = outputs_of(one(x=x))
            for a, b, want in zip(
                found, outputs_of(two(x=x)), evaluate(graph, [x], float64=True), strict=True
            ):
                np.testing.assert_array_equal(a, b)
                assert a.shape == want.shape
                size = math.sqrt(np.mean(np.square(want)))
                assert math.sqrt(np.mean(np.square(a - want))) <= error * max(size, 1e-3)


@pytest.mark.parametrize("number", range(NETWORKS))
def test_networks_at_random(number: int) -> None:
    check_network(number)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(NETWORKS, 9 * NETWORKS, NETWORKS))
def test_many_networks_at_random(first: int) -> None:
    for number in range(first, first + NETWORKS):
        check_network(number)


# --- what compiles anywhere -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_single_number_behind_a_product(shape: tuple[int, ...]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["m"]),
        helper.make_node("Mul", ["m", "s"], ["y"]),
    ]
    inputs = {"x": (3, 17, 64), "s": shape}
    source = model_of(nodes, inputs, {"y": (3, 17, 64)}, {"v": numbers(64, 64)})
    bundle = pipeline.build(source, Options(get_target(AMX)), tested=False)
    assert any("tile_product" in step for step in bundle.entries[0].steps)


@pytest.mark.parametrize("shape", [(0, 768), (1, 0, 768)])
def test_no_rows_are_no_tiles(shape: tuple[int, ...]) -> None:
    nodes = [helper.make_node("MatMul", [x, "w"], [y]) for x, y in (("x", "m"), ("m", "y"))]
    source = model_of(nodes, {"x": shape}, {"y": shape}, {"w": numbers(768, 768)})
    bundle = pipeline.build(source, Options(get_target(AMX)), tested=False)
    assert bundle.manifest["target"]["name"] == "x86-64-avx512"


def test_borders_that_only_a_run_tells() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER")
    sizes = {"x": ("n", 64, "h", "w")}
    source = model_of([conv], sizes, {"y": ("n", 64, "a", "b")}, {"w": numbers(64, 64, 3, 3)})
    bundle = pipeline.build(source, Options(get_target(AMX)), tested=False)
    assert bundle.manifest["target"]["name"] == "x86-64-avx512"


def test_levels_of_a_library_share_weights() -> None:
    with pytest.raises(TargetError, match="packs weights in its own way"):
        choose_levels("x86_64-linux", "amx,avx512")
