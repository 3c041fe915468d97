"""det: determinants, from a factorisation by rows with pivots."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import known, mul, prod
from naru.ops.kernel_text import TILE, by_hand, indent, tiled
from naru.ops.operands import check_equal, check_kind, compute_dtype, given, operand
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray


def infer_det(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [B, m, m] -> determinants [B], and what elimination leaves of x [B, m, m]: below the
    diagonal it is as it was before its column's turn. (That is the kernel's memory.)"""
    x = operand("det", types, 0, 3)
    check_kind("det", x.dtype, "f")
    check_equal("det", "sides of the matrix", x.shape[1], x.shape[2])
    return TensorType(x.dtype, x.shape[:1]), TensorType(compute_dtype(x.dtype), x.shape)


def ref_det(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays)
    left = x.astype(np.float32) if x.dtype.itemsize == 2 else x.copy()
    out = np.ones(len(x), left.dtype)
    for b, a in enumerate(left):
        for k in range(len(a)):
            best = k
            for i in range(k + 1, len(a)):
                best = i if abs(a[i, k]) > abs(a[best, k]) else best
            if best != k:
                a[[k, best]] = a[[best, k]]
                out[b] = -out[b]
            out[b] *= a[k, k]
            if a[k, k] == 0:
                break
            a[k + 1 :, k + 1 :] -= (a[k + 1 :, k] / a[k, k])[:, None] * a[k, k + 1 :]
    return out.astype(x.dtype), left


def opaque_det(n: Node, target: Target) -> str:
    """Parameters: x, out, left, sizes. The row with the greatest element of a column is its pivot;
    a column of zeros ends it."""
    x = given(n.inputs).type
    kind, size = compute_dtype(x.dtype), x.shape[1]
    area = mul(size, size)
    copy = tiled("AREA", known(area), lambda at: f"left[{at('base')}] = {kind}(x[{at('base')}])")
    swap = [
        "for j in range(M):",
        f"    held: {kind} = left[base + k * M + j]",
        "    left[base + k * M + j] = left[base + best * M + j]",
        "    left[base + best * M + j] = held",
    ]
    number = known(area)
    rest = tiled(
        "LEFT",
        number if number is not None and number < TILE else None,
        lambda at: f"left[{at('row')}] = left[{at('row')}] - {{}} * left[{at('top')}]",
    )
    factor = [s.replace("{}", "splat(factor, 16)" if ":" in s[8:] else "factor") for s in rest]
    body = [
        "for b in parallel(B):",
        "    base: index = b * AREA",
        *indent(copy),
        f"    det = {kind}(1.0)",
        "    going = True",
        "    k = 0",
        "    while going and k < M:",
        "        best = k",
        "        for i in range(k + 1, M):",
        "            if abs(left[base + i * M + k]) > abs(left[base + best * M + k]):",
        "                best = i",
        "        if best > k:",
        "            det = -det",
        *indent(swap, 3),
        f"        pivot: {kind} = left[base + k * M + k]",
        "        det = det * pivot",
        "        if pivot == 0.0:",
        "            going = False",
        "        else:",
        "            for r in range(k + 1, M):",
        f"                factor: {kind} = left[base + r * M + k] / pivot",
        "                row: index = base + r * M + k + 1",
        "                top: index = base + k * M + k + 1",
        *[s.replace("LEFT", "(M - 1 - k)") for s in indent(factor, 4)],
        "        k = k + 1",
        f"    out[b] = {x.dtype}(det)",
    ]
    sizes: dict[str, Expr] = {"B": x.shape[0], "M": size, "AREA": area}
    return by_hand(n, ("x",), ("out", "left"), body, sizes)


def _flops(n: Node) -> Expr:
    """A multiply-add for each element that a pivot reaches."""
    return mul(prod(given(n.inputs).type.shape), given(n.inputs).type.shape[1])


def _samples() -> Iterable[Sample]:
    for shape in ((3, 2, 2), (1, 1, 1), (2, 5, 5), (2, 19, 19), (0, 3, 3), (2, 0, 0)):
        yield Sample((random(*shape),))
    singular = random(2, 4, 4)
    singular[0, :, 1], singular[1, 2] = 0, singular[1, 1]
    yield Sample((singular[:1].copy(),))
    yield Sample((np.array([[[0, 1], [1, 0]], [[0, 2], [3, np.nan]]], np.float32),))
    yield Sample((random(2, 3, 3, dtype="f64"),))
    yield Sample((random(2, 3, 3, dtype="f16"),))


register(Op("det", "opaque", infer_det, ref_det, opaque=opaque_det, flops=_flops,
            samples=_samples))  # fmt: skip
