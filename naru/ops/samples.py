"""Operands for the ops' samples: small, from a fixed seed, with the values that go wrong."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from naru.dtypes import DTYPES
from naru.ops.registry import Attrs, Sample

Array = np.ndarray
# Sizes: rank 0, one element, not a multiple of any vector, empty.
SHAPES = ((), (1,), (3, 5), (0, 4))


def random(*shape: int, dtype: str = "f32", seed: int = 0, scale: float = 2.0) -> Array:
    """Normal floats, integers in -9..9 (0..9 unsigned), or bools."""
    rng = np.random.default_rng(seed)
    d = DTYPES[dtype]
    if d.kind == "f":
        return np.asarray(rng.normal(0, scale, shape)).astype(d.numpy)
    if d.kind == "b":
        return rng.integers(0, 2, shape).astype(np.bool_)
    return rng.integers(0 if d.kind == "u" else -9, 10, shape).astype(d.numpy)


def edges(dtype: str) -> Array:
    """The values where implementations differ, of a dtype."""
    d = DTYPES[dtype]
    if d.kind == "f":
        values = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-6, 88.0, -100.0]
        return np.array([*values, np.inf, -np.inf, np.nan], d.numpy)
    if d.kind == "b":
        return np.array([False, True])
    info = np.iinfo(d.numpy)
    return np.array([0, 1, 2, 7, info.max, info.min, info.max - 1], d.numpy)


def positive(array: Array) -> Array:
    """|array| + 1/4: for what divides or takes logarithms."""
    return (np.abs(array) + np.asarray(0.25, array.dtype)).astype(array.dtype)


def one_operand(kinds: str, attrs: Attrs | None = None) -> Iterator[Sample]:
    """Samples of a unary op: every shape, the edge values of every kind, half floats."""
    first = "f32" if "f" in kinds else "i64" if "i" in kinds else "bool"
    for shape in SHAPES:
        yield Sample((random(*shape, dtype=first, seed=len(shape)),), attrs or {})
    for dtype in dtypes_of(kinds):
        yield Sample((edges(dtype),), attrs or {})
    if "f" in kinds:
        yield Sample((random(2, 3, dtype="f16"),), attrs or {})
        yield Sample((random(2, 3).astype(ml_dtypes.bfloat16),), attrs or {})


def two_operands(kinds: str, attrs: Attrs | None = None) -> Iterator[Sample]:
    """Samples of a binary op: broadcasting in both directions, edge values against each other."""
    for dtype in dtypes_of(kinds):
        a, b = random(3, 5, dtype=dtype, seed=1), random(3, 5, dtype=dtype, seed=2)
        yield Sample((a, b), attrs or {})
        e = edges(dtype)
        yield Sample((e[:, None], e[None, :]), attrs or {})
    first = dtypes_of(kinds)[0]
    for left, right in [((), (4,)), ((2, 1, 3), (5, 1)), ((1,), (0, 4)), ((1, 1), (1,))]:
        a = random(*left, dtype=first, seed=3)
        yield Sample((a, random(*right, dtype=first, seed=4)), attrs or {})
    if "f" in kinds:
        yield Sample((random(3, dtype="f16"), random(3, dtype="f16", seed=5)), attrs or {})


def dtypes_of(kinds: str) -> list[str]:
    """The dtypes that stand for kinds in samples."""
    table = {"f": ["f32"], "i": ["i64", "i32", "i8"], "u": ["u8"], "b": ["bool"]}
    return [d for kind in kinds for d in table[kind]]
