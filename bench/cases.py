"""What the project measures: the models of `models/catalog.py`, and a few that are smaller.

Everything is made the same way every time: weights and inputs come from seeds. He initialisation
keeps activations in the range of trained networks, without denormals.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # what is measured is this checkout

from models.catalog import MODELS, NamedModel  # noqa: E402
from naru import demo  # noqa: E402
from naru.bench.case import Case  # noqa: E402
from naru.bench.feeds import feed_count  # noqa: E402


@dataclass(frozen=True)
class Small:
    """A model that needs no catalog: its file is written by `model`, its one input is normal.
    `flops` counts a multiply-add as two; None: what naru's formulas give."""

    name: str
    about: str
    model: Callable[[], bytes]
    shape: tuple[int, ...]
    flops: float | None = None

    def case(self, folder: Path) -> Case:
        path = folder / f"{self.name}.onnx"
        path.write_bytes(self.model())
        name = onnx.load_model(path).graph.input[0].name
        rng = np.random.Generator(np.random.PCG64(2026))
        count = feed_count(4 * int(np.prod(self.shape)))
        made = (rng.standard_normal(self.shape).astype(np.float32) for _ in range(count))
        return Case(self.name, self.about, path, [{name: a} for a in made], self.flops)


def dense(size: int) -> bytes:
    """relu(x @ w + b), all of [size, size]."""
    rng = np.random.Generator(np.random.PCG64(7))
    weight = rng.standard_normal((size, size)) * (2 / size) ** 0.5
    bias = rng.standard_normal(size) * 0.1
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"]),
        helper.make_node("Add", ["t", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(array.astype(np.float32), name)
        for name, array in (("w", weight), ("b", bias))
    ]
    return _model(nodes, weights, [size, size])


def identity() -> bytes:
    """One Identity of one number: what a call costs when there is nothing to compute."""
    return _model([helper.make_node("Identity", ["x"], ["y"])], [], [1])


def _model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], shape: list[int]) -> bytes:
    """Input `x` and output `y` have the same shape."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy")
    graph = helper.make_graph(nodes, "bench", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _demo(name: str) -> Callable[[], bytes]:
    return lambda: (demo.FOLDER / f"{name}.onnx").read_bytes()


SMALL = {
    s.name: s
    for s in (
        Small("empty", "an Identity of one number", identity, (1,), 0.0),
        Small("digits_mlp", "the demo's MLP 64-200-10, one image", _demo("digits_mlp"), (1, 64)),
        Small(
            "digits_cnn", "the demo's CNN, one image of 8x8", _demo("digits_cnn"), (1, 1, 8, 8)
        ),
        Small(
            "gemm_1024", "1024x1024 times constant 1024x1024, bias, ReLU; float32",
            lambda: dense(1024), (1024, 1024), 2 * 1024**3,
        ),
    )
}  # fmt: skip
NAMES = (*SMALL, *MODELS)


def make_case(name: str, folder: Path) -> Case:
    """The case of a name; its model is made now (one of the catalog: once). A small one's file is
    written into `folder`."""
    return SMALL[name].case(folder) if name in SMALL else _catalog_case(MODELS[name])


def _catalog_case(model: NamedModel) -> Case:
    (first,) = model.feeds(1)
    feeds = model.feeds(feed_count(sum(array.nbytes for array in first.values())))
    sizes = ", ".join(f"{k} {v}" for k, v in model.dims.items() if v != 1)
    about = f"{model.about}; {sizes}" if sizes else model.about
    factory = f"bench.modules:{model.name}" if model.exporter == "torch" else ""
    return Case(model.name, about, model.path(), feeds, factory=factory)


def chosen(texts: Sequence[str]) -> list[str]:
    """The cases that are named, or else whose names begin so. ValueError for a text without any."""
    found: dict[str, None] = {}
    for text in texts:
        names = [text] if text in NAMES else [n for n in NAMES if n.startswith(text)]
        if not names:
            raise ValueError(f"no case is named '{text}'; there are: {', '.join(NAMES)}")
        found |= dict.fromkeys(names)
    return [name for name in NAMES if name in found]
