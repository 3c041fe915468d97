"""Precision `portable`: the same bits on every target.

Kernels and whole models for x86-64-baseline and x86-64-avx2 are run here, those for WebAssembly in
Node, and compared bit by bit: with each other, and where no polynomial stands for a function also
with the loop-IR interpreter. (AVX2's registers are twice as long, and it has fused multiply-add.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zoo import CASES

import naru
from naru import pipeline
from naru.artifact.wasm import link_wasm
from naru.building import build
from naru.cli import main
from naru.codegen.llvm import emit_kernel
from naru.codegen.objects import compile_module
from naru.demo import FOLDER
from naru.dtypes import is_float_array
from naru.errors import TargetError
from naru.frontend.onnx import read_onnx
from naru.ir.interp import run as interpret
from naru.ir.loop import Func
from naru.ir.simplify import known
from naru.ir.text_loop import print_func
from naru.ops.registry import OPS, Sample
from naru.options import Options
from naru.passes.choose_layout import choose_layout
from naru.runtime.session import open_model
from naru.schedule.kernels import Kernels
from naru.schedule.weights import pack
from naru.targets import TARGETS, Target, get_target
from tests.codegen.native import Native, runnable
from tests.library.javascript import run_node, to_arrays
from tests.schedule.test_kernels import group_of
from tests.targets import machine

Array = np.ndarray

# One for each way to compute: polynomials, sums in lanes, tiles, hand-written kernels.
SOME_OPS = (
    "exp", "log", "tanh", "erf", "sin", "pow", "div", "softmax", "layer_normalization",
    "reduce_sum", "matmul", "conv", "average_pool", "cast", "resize_image", "filter_taps",
)  # fmt: skip
SOME_CASES = ("conv_bn_relu_residual", "attention", "lstm_initial_state")
# What polynomials stand for.
POLYNOMIALS = re.compile(r"\b(exp|log|tanh|erf|sin|cos|pow)\(|\*\*|%")


def portable(name: str) -> Target:
    return Options(get_target(name), "portable").arithmetic


# --- kernels --------------------------------------------------------------------------------------


@dataclass
class Case:
    """An op's kernel for a target, with operands as it takes them and room for results."""

    func: Func
    operands: list[Array]
    results: list[Array]
    compared: int  # the first results; the others are memory to work in


def make_case(name: str, sample: Sample, target: Target) -> Case:
    graph, inputs = group_of(name, sample)
    pairs = zip(inputs, sample.inputs, strict=True)
    arrays = [a for n, a in pairs if a is not None and n is not None and n.op == "input"]
    wanted = OPS[name].ref(sample.inputs, dict(sample.attrs))
    plain = choose_layout(graph)
    body = graph if plain.outputs[0].op == "identity" else plain
    kernel = Kernels(target, fma=False).get(body)
    shapes = [[known(d) or 0 for d in b.shape] for b in kernel.func.buffers]
    operands = [
        np.ascontiguousarray(pack(a, n.type.layout).reshape(s))
        for a, n, s in zip(arrays, graph.inputs, shapes, strict=False)
    ]
    results = [
        np.zeros(s, want.dtype) for s, want in zip(shapes[len(operands) :], wanted, strict=True)
    ]
    return Case(kernel.func, operands, results, len(results) - OPS[name].work)


def bits(arrays: Sequence[Array]) -> list[bytes]:
    """The bytes; of NaNs, which processors make with bits of their own, those of one NaN."""
    return [
        np.where(a != a, np.full((), np.nan, a.dtype), a).tobytes()
        if is_float_array(a.dtype)
        else a.tobytes()
        for a in arrays
    ]


def run_native(case: Case, target: Target) -> list[bytes]:
    Native(case.func, target)(*case.operands, *case.results)
    return bits(case.results[: case.compared])


def run_interpreted(case: Case) -> list[bytes]:
    results = [r.copy() for r in case.results]
    interpret(case.func, [*(a.copy() for a in case.operands), *results])
    return bits(results[: case.compared])


def run_wasm(case: Case, folder: Path) -> list[bytes]:
    """Each result is the last buffer once: that is the one that comes back."""
    target = portable("wasm32-simd128")
    found: list[bytes] = []
    count = len(case.operands)
    for k in range(case.compared):
        others = [r for j, r in enumerate(case.results) if j != k]
        buffers = list(case.func.buffers)
        last = buffers.pop(count + k)
        func = Func(case.func.name, (*buffers, last), case.func.body)
        module = link_wasm(
            [(func.name, compile_module(emit_kernel(func, target), target))], [func.name]
        )
        operands = [*case.operands, *others]
        out = machine.run_node(module, func.name, operands, case.results[k], folder)
        found += bits([out])
    return found


def sample_of(name: str) -> Sample:
    """The first sample of float32 of an op (or of anything), that has elements."""
    samples = list(OPS[name].samples() if OPS[name].samples else ())  # pyright: ignore
    full = [s for s in samples if all(a is None or a.size for a in s.inputs)]
    floats = [s for s in full if any(a is not None and a.dtype == np.float32 for a in s.inputs)]
    return (floats or full or samples)[0]


@pytest.mark.parametrize("name", SOME_OPS)
def test_kernels_give_the_same_bits(name: str) -> None:
    sample = sample_of(name)
    found: list[list[bytes]] = []
    for target in ("x86-64-baseline", "x86-64-avx2"):
        runnable(target)
        case = make_case(name, sample, portable(target))
        assert "fma(" not in print_func(case.func)
        found.append(run_native(case, portable(target)))
        if not POLYNOMIALS.search(print_func(case.func)):
            found.append(run_interpreted(make_case(name, sample, portable(target))))
    assert all(f == found[0] for f in found)


FLOAT_OPS = [
    name
    for name, op in OPS.items()
    if op.samples and (op.lower or op.opaque) and op.kind not in ("control", "view")
    if name != "constant"
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT_OPS)
def test_kernels_give_the_same_bits_in_webassembly(name: str, tmp_path: Path) -> None:
    sample = sample_of(name)
    runnable("x86-64-avx2")
    case = make_case(name, sample, portable("x86-64-avx2"))
    here = run_native(case, portable("x86-64-avx2"))
    assert run_wasm(make_case(name, sample, portable("wasm32-simd128")), tmp_path) == here


def test_fused_multiply_add_would_be_seen() -> None:
    """The comparison can fail: with it, other bits come out."""
    sample = sample_of("matmul")
    target = runnable("x86-64-avx2")
    plain = run_native(make_case("matmul", sample, portable("x86-64-avx2")), portable(target.name))
    graph = choose_layout(group_of("matmul", sample)[0])
    case = make_case("matmul", sample, target)
    case.func = Kernels(target, fma=True).get(graph).func
    assert run_native(case, target) != plain


# --- models ---------------------------------------------------------------------------------------


def check_model(name: str) -> None:
    case = CASES[name]
    graph = read_onnx(case.model())
    models = [
        open_model(pipeline.build(graph, Options(runnable(t), "portable"), tested=False))
        for t in ("x86-64-baseline", "x86-64-avx2")
    ]
    for feed in case.feeds():
        first, second = (m(feed) for m in models)
        pairs = (first, second) if isinstance(first, tuple) else ((first,), (second,))
        assert bits([np.asarray(a) for a in pairs[0]]) == bits([np.asarray(a) for a in pairs[1]])


@pytest.mark.parametrize("name", SOME_CASES)
def test_models_give_the_same_bits(name: str) -> None:
    check_model(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::naru.errors.NaruWarning")  # masks of -inf
@pytest.mark.parametrize("name", [n for n, c in CASES.items() if "large" not in c.tags])
def test_all_models_give_the_same_bits(name: str) -> None:
    check_model(name)


def run_package(folder: Path, feed: Mapping[str, Array]) -> list[bytes]:
    """The outputs of the package `m` in Node."""
    script = "const model = await load(); say([model.relaxed, plain(model.run(arrays))]);"
    relaxed, found = run_node(folder, script, feed)
    assert not relaxed
    return bits(list(to_arrays(found).values()))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SOME_CASES, "tiny_resnet", "transformer_pre_norm"])
def test_packages_give_the_same_bits(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = naru.compile(case.model(), precision="portable", cache=False)
    build(case.model(), tmp_path, platform="wasm", name="m", precision="portable", cache=False)
    for feed in case.feeds():
        found = model(feed)
        here = found if isinstance(found, tuple) else (found,)
        assert run_package(tmp_path, feed) == bits([np.asarray(a) for a in here])


@pytest.mark.slow
def test_pixels_to_classes_give_the_same_bits(tmp_path: Path) -> None:
    processing: dict[str, Any] = {
        "preprocess": "image(pixels=rgba, background=white, invert, filter=bicubic, std=0.5)",
        "postprocess": "softmax",
        "labels": list("0123456789"),
        "top": 3,
    }
    source = FOLDER / "digits_cnn.onnx"
    model = naru.compile(source, precision="portable", cache=False, **processing)
    build(source, tmp_path, platform="wasm", name="m", precision="portable", **processing)
    canvas = np.random.default_rng(1).integers(0, 256, (97, 61, 4), np.uint8)
    here = bits([np.asarray(a) for a in model(canvas)])
    assert run_package(tmp_path, {"image": canvas}) == here
    assert not (tmp_path / "m.relaxed.wasm").exists()  # it would be the same code


def test_which_targets_keep_which_class() -> None:
    for target in TARGETS.values():
        made = Options(target, "portable").arithmetic
        assert not made.has_fma
        assert made.name == target.name
        assert Options(target).arithmetic is target
        if target.has_fma:
            assert Options(target, "strict").arithmetic is target
        else:
            with pytest.raises(TargetError, match="precision portable"):
                Options(target, "strict")
    plain = get_target("wasm")
    assert Options(plain, "portable").arithmetic == Options(plain).arithmetic


def test_the_command_line_says_what_strict_cannot(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = str(tmp_path / "m.naru")
    arguments = ["compile", str(FOLDER / "digits_mlp.onnx"), "-o", out, "--isa", "baseline"]
    assert main([*arguments, "--precision", "strict"]) == 1
    assert "precision strict is for targets with fused multiply-add" in capsys.readouterr().err
    assert main([*arguments, "--precision", "portable", "--no-cache"]) == 0
