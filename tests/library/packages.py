"""Models for packages of WebAssembly; `Package` is what makes one of a model (conftest.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

Kind = tuple[int, Sequence[int | str | None]]  # element type, dims
Package = Callable[..., Path]


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, Kind],
    outputs: Mapping[str, Kind],
    weights: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    values = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    results = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()]
    constants = [numpy_helper.from_array(w, n) for n, w in (weights or {}).items()]
    graph = helper.make_graph(nodes, "m", values, results, constants)
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
