"""Products of matrices, and convolutions, of 8-bit integers: exact sums in i32."""

from __future__ import annotations

from naru.frontend.onnx_node import OnnxNode, emit
from naru.frontend.onnx_signatures import Handler
from naru.ir.graph import Node
from naru.ir.simplify import ONE


def matmul_integer(c: OnnxNode) -> Node:
    """In i32. The zero point of A is per row, that of B per column, where it is a vector."""
    a, b = emit("cast", c[0], to="i32"), emit("cast", c[1], to="i32")
    zero_a, zero_b = c.find(2), c.find(3)
    if zero_a is not None:
        zero = emit("cast", zero_a, to="i32")
        if zero.type.rank == 1:
            zero = emit("reshape", zero, shape=(*zero.type.shape, ONE))
        a = emit("sub", a, zero)
    if zero_b is not None:
        b = emit("sub", b, emit("cast", zero_b, to="i32"))
    return emit("matmul", a, b)


TABLE: dict[str, Handler] = {
    "MatMulInteger": matmul_integer,
}
