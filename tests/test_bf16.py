"""Class `bf16`: the code computes what the graph with rounded weights means, in half the bytes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from zoo import CASES

import naru
from naru import pipeline
from naru.building import build
from naru.cli import main
from naru.dtypes import is_float_array
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate
from naru.options import Options
from naru.pipeline import reference_graph
from naru.runtime.session import open_model
from naru.verify import verify
from tests.codegen.native import runnable
from tests.library.javascript import run_node, to_arrays

Array = np.ndarray
NETWORKS = ("tiny_resnet", "transformer_pre_norm", "conv_bn_relu_residual", "lstm_initial_state")


def matrices(rows: int | str, *sizes: int, scale: float = 0.1) -> bytes:
    """A chain of matrix products, each with a bias."""
    rng = np.random.default_rng(len(sizes))
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    x = "x"
    for k, (m, n) in enumerate(pairwise(sizes)):
        w = (rng.standard_normal((m, n)) * scale).astype(np.float32)
        weights += [numpy_helper.from_array(w, f"w{k}")]
        weights += [numpy_helper.from_array(rng.standard_normal(n).astype(np.float32), f"b{k}")]
        nodes += [helper.make_node("Gemm", [x, f"w{k}", f"b{k}"], [f"y{k}"])]
        x = f"y{k}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, sizes[0]])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [rows, sizes[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def outputs_of(found: Any) -> list[Array]:
    return [np.asarray(a) for a in (found if isinstance(found, tuple) else (found,))]


def check(source: bytes | onnx.ModelProto, feeds: list[dict[str, Array]], target: str) -> None:
    """Outputs are those of the graph with rounded weights, and not those of the model's own."""
    options = Options(runnable(target), "bf16")
    graph = read_onnx(source)
    rounded = reference_graph(graph, options.target, "bf16")
    model = open_model(pipeline.build(graph, options, tested=False))
    for feed in feeds:
        arrays = [feed[str(n.attr("name"))] for n in rounded.inputs]
        wanted = evaluate(rounded, arrays, float64=True)
        for a, b in zip(outputs_of(model(feed)), wanted, strict=True):
            if is_float_array(b.dtype):
                size = np.sqrt(np.mean(np.square(b.astype(np.float64)))) if b.size else 0.0
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * size)
            else:
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("target", ["x86-64-baseline", "x86-64-avx2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_code_computes_what_rounded_weights_mean(name: str, target: str) -> None:
    case = CASES[name]
    check(case.model(), list(case.feeds()), target)


@pytest.mark.parametrize("sizes", [(32, 32), (70, 33, 50), (256, 48), (1000, 17), (33, 1, 64)])
def test_matrices_of_any_shape(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((n, sizes[0]), np.float32)} for n in (1, 2, 5, 19)]
    check(matrices("rows", *sizes), feeds, "x86-64-avx2")


def test_half_of_the_bytes_are_left() -> None:
    source = matrices(1, 256, 256, 256)
    sizes = {
        p: len(pipeline.build(source, Options(runnable("x86-64-avx2"), p)).section("weights"))
        for p in ("fp32", "bf16")
    }
    assert sizes["bf16"] < 0.52 * sizes["fp32"]


def test_tables_that_naru_makes_are_not_rounded() -> None:
    """Those of a Fourier transform: rounded, a loud wave would leak into all other bins."""
    graph = helper.make_graph(
        [helper.make_node("DFT", ["x"], ["y"], axis=1, onesided=1)],
        "waves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 100, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 51, 2])],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.random.default_rng(0).standard_normal((1, 100, 1), np.float32)
    found = np.asarray(naru.compile(source.SerializeToString(), precision="bf16")(x))
    wanted = np.fft.rfft(x[0, :, 0])
    np.testing.assert_allclose(found[0, :, 0] + 1j * found[0, :, 1], wanted, atol=1e-4)


def test_threads_change_nothing() -> None:
    source = matrices("rows", 256, 512, 256)
    x = np.random.default_rng(0).standard_normal((37, 256), np.float32)
    bundle = pipeline.build(source, Options(runnable("x86-64-avx2"), "bf16"))
    one, two = (open_model(bundle, threads=n)(x) for n in (1, 2))
    assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


@pytest.mark.filterwarnings("ignore::naru.errors.NaruWarning")  # a NaN
def test_weights_beyond_the_range_are_infinite() -> None:
    source = matrices(1, 32, 32, scale=1e38)
    x = np.eye(1, 32, dtype=np.float32)
    model = onnx.load_from_string(source)
    w = numpy_helper.to_array(model.graph.initializer[0]).copy()
    w[0, :2] = 3.4e38, np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w0"))
    found = np.asarray(naru.compile(model.SerializeToString(), precision="bf16")(x))
    assert found[0, 0] == np.inf
    assert np.isnan(found[0, 1])


def test_verify_knows_the_class(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(matrices("rows", 256, 256, 256))
    model = naru.compile(source, precision="bf16")
    assert model.selftest().checks
    samples = [{"x": np.random.default_rng(1).standard_normal((8, 256), np.float32)}]
    (found,) = verify(model, source, samples, against="reference")
    assert found.passed
    error = found.naru[0].rms_rel
    assert error is not None
    assert 1e-4 < error < 5e-3
    (exact,) = verify(model, source, samples, against="reference", tolerance=1e-4)
    assert not exact.passed


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "m.onnx", tmp_path / "m.naru"
    file.write_bytes(matrices("rows", 64, 64))
    assert main(["compile", str(file), "-o", str(out), "--precision", "bf16", "--no-cache"]) == 0
    assert main(["verify", str(file), "--precision", "bf16", "--no-cache"]) == 0
    capsys.readouterr()
    assert main(["explain", str(out), "--kernel", "k0_matmul"]) == 0
    assert "weights in bf16, widened as they are read" in capsys.readouterr().out


@pytest.mark.slow
def test_in_webassembly(tmp_path: Path) -> None:
    source = matrices("rows", 70, 40)
    build(source, tmp_path, platform="wasm", name="m", precision="bf16", cache=False)
    feed = {"x": np.random.default_rng(0).standard_normal((3, 70), np.float32)}
    found = run_node(tmp_path, "const m = await load(); say(plain(m.run(arrays)));", feed)
    here = np.asarray(naru.compile(source, precision="bf16")(feed))
    (there,) = to_arrays(found).values()
    np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-5)
