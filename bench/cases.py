"""What is measured: models with their inputs, made the same way every time.

A case is an ONNX file and some feeds. Weights are seeded; He initialisation keeps activations in
the range of trained networks, without denormals. The networks come from the tests' zoo.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "naru" / "demo"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # what is measured is this checkout
FEEDS = 16  # different inputs, taken in turn

Feed = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Case:
    """One model at one size. `flops` counts a multiply-add as two; 0 where a share of the roof
    would say nothing. `feeds` inputs are used in turn, so that no branch or line is learnt."""

    name: str
    about: str
    model: Callable[[], bytes]
    shape: tuple[int, ...]
    flops: float = 0.0
    feeds: int = FEEDS

    def inputs(self, model: bytes) -> list[Feed]:
        """The feeds of its ONNX file: standard normal values, from a seed."""
        rng = np.random.Generator(np.random.PCG64(2026))
        name = onnx.load_model_from_string(model).graph.input[0].name
        made = (rng.standard_normal(self.shape).astype(np.float32) for _ in range(self.feeds))
        return [{name: array} for array in made]


def dense(sizes: tuple[int, ...], *, batch: int | str, last_relu: bool) -> bytes:
    """MatMul + Add (+ Relu) layers with He weights; input `x` [batch, sizes[0]], output `y`."""
    rng = np.random.Generator(np.random.PCG64(7))
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    at = "x"
    for k, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weight = rng.standard_normal((rows, columns)) * (2 / rows) ** 0.5
        bias = rng.standard_normal(columns) * 0.1
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{k}"))
        weights.append(numpy_helper.from_array(bias.astype(np.float32), f"b{k}"))
        nodes.append(helper.make_node("MatMul", [at, f"w{k}"], [f"t{k}"]))
        nodes.append(helper.make_node("Add", [f"t{k}", f"b{k}"], [f"s{k}"]))
        at = f"s{k}"
        if k < len(sizes) - 2 or last_relu:
            nodes.append(helper.make_node("Relu", [at], [f"r{k}"]))
            at = f"r{k}"
    nodes[-1].output[0] = "y"
    return _model(nodes, weights, [batch, sizes[0]], [batch, sizes[-1]])


def identity() -> bytes:
    """One Identity of one number: what a call costs when there is nothing to compute."""
    return _model([helper.make_node("Identity", ["x"], ["y"])], [], [1], [1])


def _model(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    input_shape: list[int | str],
    output_shape: list[int | str],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _zoo(name: str) -> bytes:
    """A network of the tests' zoo (exported by torch, and kept in a cache of its own)."""
    import zoo

    return getattr(zoo, name)().SerializeToString()


def _demo(name: str) -> bytes:
    return (DEMO / f"{name}.onnx").read_bytes()


CASES: dict[str, Case] = {
    c.name: c
    for c in (
        Case(
            "gemm_1024",
            "1024x1024 times constant 1024x1024, bias, ReLU; float32",
            lambda: dense((1024, 1024), batch=1024, last_relu=True),
            (1024, 1024),
            2 * 1024**3,
            feeds=2,
        ),
        Case(
            "resnet50", "ResNet-50, one image of 224x224", lambda: _zoo("resnet50"),
            (1, 3, 224, 224), 8.18e9, feeds=2,
        ),
        Case(
            "digits_cnn", "the demo's CNN, one image of 8x8", lambda: _demo("digits_cnn"),
            (1, 1, 8, 8),
        ),
        Case(
            "digits_mlp", "the demo's MLP 64-200-10, one image", lambda: _demo("digits_mlp"),
            (1, 64),
        ),
        Case(
            "mlp", "MLP 784-200-10, one row",
            lambda: dense((784, 200, 10), batch="batch", last_relu=False), (1, 784),
        ),
        Case(
            "transformer_64", "2 encoder layers of 128, 64 tokens", lambda: _zoo("transformer"),
            (1, 64, 128),
        ),
        Case(
            "transformer_128", "the same, 128 tokens", lambda: _zoo("transformer"), (1, 128, 128),
        ),
        Case("empty", "an Identity of one number", identity, (1,)),
    )
}  # fmt: skip
