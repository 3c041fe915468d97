"""All ONNX operators that are mapped by a function of their own; the others go by the function body
that the standard gives for them, or are unsupported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from naru.frontend import (
    onnx_contractions,
    onnx_control,
    onnx_elementwise,
    onnx_ml,
    onnx_movement,
    onnx_quantization,
    onnx_recurrent,
    onnx_reductions,
    onnx_resize,
    onnx_shapes,
    onnx_training,
    onnx_trees,
)
from naru.frontend.onnx_node import OnnxNode
from naru.ir.graph import Node

Handler: TypeAlias = Callable[[OnnxNode], Node | Sequence[Node]]

TABLE: Mapping[str, Handler] = {
    **onnx_elementwise.TABLE,
    **onnx_contractions.TABLE,
    **onnx_reductions.TABLE,
    **onnx_movement.TABLE,
    **onnx_resize.TABLE,
    **onnx_shapes.TABLE,
    **onnx_quantization.TABLE,
    **onnx_recurrent.TABLE,
    **onnx_control.TABLE,
}


TABLES: Mapping[str, Mapping[str, Handler]] = {
    "": TABLE,
    "ai.onnx.ml": {**onnx_ml.TABLE, **onnx_trees.TABLE},
    "ai.onnx.preview.training": onnx_training.TABLE,
}


def find_handler(op: str, domain: str) -> Handler | None:
    """The function for an operator of a domain."""
    return TABLES.get(domain, {}).get(op)
