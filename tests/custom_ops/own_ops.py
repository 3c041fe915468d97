"""A package of somebody else's: operators made with naru's public names only."""

from __future__ import annotations

from typing import Any

import numpy as np

import naru
from naru.custom import Composer, Dim, Type, Value

Array = np.ndarray


def snake(x: Array, *, alpha: float = 1.0) -> Array:
    """x + sin(alpha x)^2 / alpha."""
    return (x + np.sin(alpha * x) ** 2 / alpha).astype(x.dtype)


@naru.register_op("own.ops", "Snake", meaning=snake)
def compose_snake(c: Composer, x: Value, *, alpha: float = 1.0) -> Value:
    s = c.op("Sin", c.op("Mul", x, alpha))
    return c.op("Add", x, c.op("Div", c.op("Mul", s, s), alpha))


def moments(x: Array, scale: Array | None = None, *, axis: int = -1) -> tuple[Array, Array]:
    """Mean and largest distance from it along an axis, which stays with the size 1."""
    x = x if scale is None else x * scale
    mean = x.mean(axis, keepdims=True)
    return mean.astype(x.dtype), np.abs(x - mean).max(axis, keepdims=True)


@naru.register_op("own.ops", "Moments", meaning=moments)
def compose_moments(
    c: Composer, x: Value, scale: Value | None = None, *, axis: int = -1
) -> tuple[Value, Value]:
    if scale is not None:
        x = c.op("Mul", x, scale)
    mean = c.op("ReduceMean", x, [axis], keepdims=1)
    return mean, c.op("ReduceMax", c.op("Abs", c.op("Sub", x, mean)), [axis], keepdims=1)


def neighbours(x: Array, *, weight: float = 0.5) -> Array:
    """Each element of a row and its successor, mixed; rows get shorter by one."""
    w = x.dtype.type(weight)
    return x[:, :-1] * w + x[:, 1:] * (1 - w)


NEIGHBOURS = """
def neighbours(x: f32[rows, n], out: f32[rows, m]):
    for r in parallel(rows):
        for i in range(m // 8):
            out[r, i * 8:i * 8 + 8] = x[r, i * 8:i * 8 + 8] * splat(weight, 8) + x[r, i * 8 + 1:i * 8 + 9] * splat(1.0 - weight, 8)
        for j in range(m // 8 * 8, m):
            out[r, j] = x[r, j] * weight + x[r, j + 1] * (1.0 - weight)
"""  # noqa: E501


@naru.register_op("own.ops", "Neighbours", meaning=neighbours, kernel=NEIGHBOURS, until=2)
def neighbours_types(x: Type, *, weight: float = 0.5) -> Type:
    rows, n = x.shape
    assert isinstance(n, Dim)
    return Type(x.dtype, (rows, n - 1))


def _sum_of(a: Array, b: Array) -> Array:
    return a + b


SUM_OF = """
def sum_of(a: f32[n], b: f32[n], out: f32[n]):
    for i in range(n):
        out[i] = a[i] + b[i]
"""


@naru.register_op("own.ops", "SumOf", meaning=_sum_of, kernel=SUM_OF)
def sum_types(a: Type, b: Type) -> Any:
    return a
