"""All ONNX operators that are mapped by a function of their own; the others go by the function body
that the standard gives for them, or are unsupported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from naru.frontend import (
    onnx_contractions,
    onnx_control,
    onnx_einsum,
    onnx_elementwise,
    onnx_movement,
    onnx_norms,
    onnx_quantization,
    onnx_recurrent,
    onnx_reductions,
    onnx_resize,
    onnx_shapes,
    onnx_signal,
    onnx_vision,
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
    **onnx_einsum.TABLE,
    **onnx_norms.TABLE,
    **onnx_signal.TABLE,
    **onnx_vision.TABLE,
}


def find_handler(op: str, domain: str) -> Handler | None:
    """The function for an operator of the standard's own domain."""
    return TABLE.get(op) if domain == "" else None
