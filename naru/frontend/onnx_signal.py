"""ONNX operators on signals: DFT, STFT, windows, …"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from naru.frontend.onnx_node import OnnxNode
from naru.ir.graph import Node

Handler = Callable[[OnnxNode], "Node | Sequence[Node]"]

TABLE: dict[str, Handler] = {}
