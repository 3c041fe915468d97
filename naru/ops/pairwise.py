"""Probabilities of classes from those of pairs of classes: `couple`, for support vector machines.

By the second method of T.-F. Wu, C.-J. Lin and R. C. Weng (2004), as libsvm has it: rounds that
make p · Q · p smaller, until its gradient is even to 0.005 / classes, at most a hundred.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from naru.errors import ModelError
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import index, known
from naru.ops.kernel_text import by_hand
from naru.ops.operands import given, operand, shape_text
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.targets import Target

Array = np.ndarray
ROUNDS = 100
CLOSE = 0.005  # over the number of classes
MOST = 256  # classes, whose matrix lies on the stack


def infer_couple(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """f32 or f64 [rows, pairs]: of each pair i < j of classes, in order, the probability of i
    -> [rows, classes]. attr classes."""
    x, classes = operand("couple", types, 0, 2), int(attrs["classes"])
    if x.dtype not in ("f32", "f64"):
        raise ModelError(f"couple: expected f32 or f64, got {x.dtype}")
    if not 2 <= classes <= MOST:
        raise ModelError(f"couple: expected 2..{MOST} classes, got {classes}")
    if known(x.shape[1]) != classes * (classes - 1) // 2:
        raise ModelError(f"couple: {shape_text(x.shape)} has not the pairs of {classes} classes")
    return (TensorType(x.dtype, (x.shape[0], index(classes))),)


def _matrix(row: Array, classes: int) -> Array:
    """Q of one row."""
    r = np.zeros((classes, classes), row.dtype)
    above = np.triu_indices(classes, 1)
    r[above] = row
    r.T[above] = 1 - row
    q = -r.T * r
    q[np.diag_indices(classes)] = 0
    for i in range(classes):
        for j in range(classes):
            q[i, i] += 0 if i == j else r[j, i] * r[j, i]
    return q


def ref_couple(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, classes = given(arrays), int(attrs["classes"])
    out = np.full((len(x), classes), 1 / classes, x.dtype)
    with np.errstate(all="ignore"):
        for row, p in zip(x, out, strict=True):
            q = _matrix(row, classes)
            for _ in range(ROUNDS):
                qp = q @ p
                total = (p * qp).sum()
                if not np.abs(qp - total).max() >= CLOSE / classes:
                    break
                for i in range(classes):
                    diff = (total - qp[i]) / q[i, i]
                    p[i] += diff
                    total = (total + diff * (diff * q[i, i] + 2 * qp[i])) / (1 + diff) / (1 + diff)
                    qp = (qp + diff * q[i]) / (1 + diff)
                    p /= 1 + diff
    return (out,)


def opaque_couple(n: Node, target: Target) -> str:
    """Parameters: x, out, sizes."""
    x = given(n.inputs).type
    t = x.dtype
    body = f"""\
for row in parallel(ROWS):
    q: {t}[{classes_of(n)}, {classes_of(n)}] @ stack
    qp: {t}[{classes_of(n)}] @ stack
    base: index = row * C
    pair = row * PAIRS
    for i in range(C):
        q[i, i] = 0.0
        out[base + i] = {1 / classes_of(n)!r}
    for i in range(C):
        for j in range(i + 1, C):
            a: {t} = x[pair]
            b: {t} = 1.0 - a
            q[i, j] = -(a * b)
            q[j, i] = -(a * b)
            q[i, i] = q[i, i] + b * b
            q[j, j] = q[j, j] + a * a
            pair = pair + 1
    left = {ROUNDS}
    while left > 0:
        total = {t}(0.0)
        for i in range(C):
            sum = {t}(0.0)
            for j in range(C):
                sum = sum + q[i, j] * out[base + j]
            qp[i] = sum
            total = total + out[base + i] * sum
        worst = {t}(0.0)
        for i in range(C):
            worst = max(worst, abs(qp[i] - total))
        left = select(worst >= {CLOSE / classes_of(n)!r}, left - 1, 0)
        if left > 0 or worst >= {CLOSE / classes_of(n)!r}:
            for i in range(C):
                own: {t} = q[i, i]
                diff: {t} = (total - qp[i]) / own
                more: {t} = 1.0 + diff
                out[base + i] = out[base + i] + diff
                total = (total + diff * (diff * own + 2.0 * qp[i])) / more / more
                for j in range(C):
                    qp[j] = (qp[j] + diff * q[i, j]) / more
                    out[base + j] = out[base + j] / more
"""
    sizes = {"ROWS": x.shape[0], "PAIRS": x.shape[1], "C": n.type.shape[1]}
    return by_hand(n, ("x",), ("out",), body.splitlines(), sizes)


def classes_of(n: Node) -> int:
    """How many classes there are."""
    return known(n.type.shape[1]) or 0


def _samples() -> Iterable[Sample]:
    for rows, classes in ((5, 2), (4, 3), (3, 5), (0, 3), (2, 9)):
        rng = np.random.default_rng(classes)
        x = rng.uniform(0.02, 0.98, (rows, classes * (classes - 1) // 2)).astype(np.float32)
        yield Sample((x,), {"classes": classes})
        yield Sample((x.astype(np.float64),), {"classes": classes})
    yield Sample((np.array([[1e-7, 1 - 1e-7, 0.5], [0.5, 0.5, 0.5]], np.float32),), {"classes": 3})


register(Op("couple", "opaque", infer_couple, ref_couple, opaque=opaque_couple,
            samples=_samples))  # fmt: skip
