"""Optional values, where it is known while the model is read whether there is one: a tensor is a
value that is there, an operand that is left out is none."""

from __future__ import annotations

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode
from naru.frontend.onnx_signatures import Handler
from naru.ir.graph import Node
from naru.ops.registry import constant


def has_element(c: OnnxNode) -> Node:
    """Is there a value? (OptionalHasElement of opsets 15 and 18)"""
    return constant(c.find(0) is not None, np.bool_)


def get_element(c: OnnxNode) -> Node:
    """The value (OptionalGetElement of opsets 15 and 18)."""
    if c.find(0) is None:
        raise ModelError("expected a value, found an optional without one")
    return c[0]


TABLE: dict[str, Handler] = {
    "OptionalGetElement": get_element,
    "OptionalHasElement": has_element,
}
