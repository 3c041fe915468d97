"""`stored`: a value that is computed once and kept in memory. Small vectors that many elements read
(places, weights) would otherwise be fused into their reader, and computed anew for each of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from naru.ir.graph import Node, TensorType
from naru.ops.kernel_text import KernelText
from naru.ops.operands import given, operand
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target


def infer_stored(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x -> x."""
    x = operand("stored", types, 0)
    return (TensorType(x.dtype, x.shape),)


def ref_stored(arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...]:
    return (given(arrays),)


def opaque_stored(n: Node, target: Target) -> str:
    """Parameters: x, out, sizes."""
    x = given(n.inputs).type
    text = KernelText(x)
    lines = [text.head("stored", text.buffer("x", x), text.buffer("out", x))]
    for k, d in enumerate(x.shape):
        lines.append("    " * (k + 1) + f"for {text(f'i{k}')} in range({text.size(d)}):")
    at = ", ".join(text(f"i{k}") for k in range(x.rank)) or "()"
    lines.append("    " * (x.rank + 1) + f"{text('out')}[{at}] = {text('x')}[{at}]")
    return "\n".join([*lines, ""])


def _stored_samples() -> Iterable[Sample]:
    for shape in ((5,), (2, 3), (0,), (1,), ()):
        yield Sample((random(*shape),))
    yield Sample((random(4, dtype="i64"),))
    yield Sample((random(4, dtype="f64"),))


register(Op("stored", "opaque", infer_stored, ref_stored, opaque=opaque_stored,
            samples=_stored_samples))  # fmt: skip
