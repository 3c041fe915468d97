"""What each operation computes, on numpy scalars and arrays: the meaning of expr.py.

Floats of 16 and 32 bits are rounded after every operation. exp, tanh and so on are computed in
double precision and rounded once more, which is as good as correctly rounded: compiled code is
compared with them under an error bound. A scalar of dtype `index` is an int of Python.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from naru.dtypes import DTYPES, TINY, is_float

Value: TypeAlias = Any  # a numpy scalar, a numpy array, or an int (index) or a bool
F64 = np.dtype(np.float64)

NATIVE: dict[str, str] = {
    "add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^",
    "lt": "<", "le": "<=", "eq": "==", "ne": "!=", "gt": ">", "ge": ">=",
}  # fmt: skip  # what Python's operators compute exactly on values of every dtype


def constant(value: float, dtype: str) -> Value:
    """A constant as a value: rounded to its dtype."""
    if dtype == "bool":
        return bool(value)
    if dtype == "index":
        return int(value)
    if is_float(dtype):
        return narrow(np.float64(value), dtype)
    return np.array(int(value)).astype(DTYPES[dtype].numpy)[()]


def unary(op: str, dtype: str) -> Callable[[Value], Value]:
    """The meaning of a Unary whose operand has this dtype."""
    if op == "bits":
        other = {"f32": "i32", "i32": "f32", "f64": "i64", "i64": "f64"}[dtype]
        here, there = DTYPES[dtype].numpy, DTYPES[other].numpy
        return lambda x: np.asarray(x, here).view(there)[()]
    if op == "not":
        return np.logical_not if dtype == "bool" else np.invert
    if op == "isnan":
        return np.isnan if is_float(dtype) else lambda x: np.zeros(np.shape(x), np.bool_)[()]
    if op in ("neg", "abs"):
        return operator.neg if op == "neg" else operator.abs
    fn = IN_DOUBLE[op]
    return lambda x: narrow(fn(np.asarray(x).astype(F64)), dtype)


def binary(op: str, dtype: str) -> Callable[[Value, Value], Value]:
    """The meaning of a Binary whose operands have this dtype. Division of integers by zero raises
    ZeroDivisionError."""
    if op in PYTHON_OPERATORS:
        return PYTHON_OPERATORS[op]
    if is_float(dtype):
        if op == "pow":
            return lambda a, b: narrow(np.power(_double(a), _double(b)), dtype)
        return FLOAT_BINARY[op]
    fn = INTEGER_BINARY[op]
    kind = DTYPES[dtype].numpy
    if dtype == "index":
        return lambda a, b: _index(fn(np.asarray(a, kind), np.asarray(b, kind)))
    return lambda a, b: fn(np.asarray(a, kind), np.asarray(b, kind))[()]


def _double(x: Value) -> np.ndarray:
    return np.asarray(x).astype(F64)


def _index(x: Value) -> Value:
    return int(x) if np.ndim(x) == 0 else x


def _checked(b: np.ndarray) -> None:
    if not np.all(b):
        raise ZeroDivisionError


def _truncated_div(a: np.ndarray, b: np.ndarray) -> Value:
    _checked(b)
    quotient, rest = np.divmod(a, b)
    # divmod rounds down: one more where the signs differ and something is left.
    return quotient + ((rest != 0) & ((a < 0) != (b < 0))).astype(a.dtype)


def _floordiv(a: np.ndarray, b: np.ndarray) -> Value:
    _checked(b)
    return np.floor_divide(a, b)


def _mod(a: np.ndarray, b: np.ndarray) -> Value:
    _checked(b)
    return np.mod(a, b)


def _integer_power(a: np.ndarray, b: np.ndarray) -> Value:
    """Wraps; a negative exponent gives 1 / a**-b, truncated."""
    a, b = np.broadcast_arrays(a, b)
    whole = np.power(a, np.maximum(b, 0))
    _checked(np.where(b < 0, a, 1))
    odd = np.where(b % 2 == 0, 1, a)
    return np.where(b >= 0, whole, np.where(abs(a) == 1, odd, 0)).astype(a.dtype)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _normal(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(0.0, x), x)


IN_DOUBLE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp, "log": np.log, "tanh": np.tanh, "erf": _erf, "sqrt": np.sqrt, "sin": np.sin,
    "cos": np.cos, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc,
    "normal": _normal,
}  # fmt: skip
PYTHON_OPERATORS: dict[str, Callable[[Value, Value], Value]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul,
    "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b,
    "lt": operator.lt, "le": operator.le, "eq": operator.eq,
    "ne": operator.ne, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


def _larger(a: Value, b: Value) -> Value:
    return np.select([a > b], [a], b)[()]


def _dot2(a: np.ndarray, b: np.ndarray) -> Value:
    low = a.astype(np.int16).astype(np.int32) * b.astype(np.int16).astype(np.int32)
    return low + np.right_shift(a, 16) * np.right_shift(b, 16)


def _dot4(a: np.ndarray, b: np.ndarray) -> Value:
    places = [np.int32(8 * k) for k in range(4)]
    products = [
        np.right_shift(a, k).astype(np.int8).astype(np.int32)
        * np.right_shift(b, k).astype(np.int8).astype(np.int32)
        for k in places
    ]
    return products[0] + products[1] + products[2] + products[3]


FLOAT_BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "div": lambda a, b: a / b, "floordiv": np.floor_divide, "mod": np.mod,
    "min": np.minimum, "max": np.maximum, "larger": _larger,
}  # fmt: skip
INTEGER_BINARY: dict[str, Callable[[np.ndarray, np.ndarray], Value]] = {
    "div": _truncated_div, "floordiv": _floordiv, "mod": _mod, "pow": _integer_power,
    "min": np.minimum, "max": np.maximum, "larger": np.maximum,
    "shl": np.left_shift, "shr": np.right_shift, "dot2": _dot2, "dot4": _dot4,
}  # fmt: skip


def narrow(x: Value, dtype: str) -> Value:
    """Doubles rounded once, to nearest even, to a float dtype."""
    x = np.asarray(x, F64)
    if dtype == "bf16":
        return _round_to_odd_f32(x).astype(DTYPES[dtype].numpy)[()]
    if dtype in TINY:
        return _narrow_to_tiny(x, dtype)
    return x.astype(DTYPES[dtype].numpy)[()]


def _narrow_to_tiny(x: np.ndarray, dtype: str) -> Value:
    """By way of f32, as every peer does; NaN becomes 0 where there is none."""
    f, kind = x.astype(np.float32), DTYPES[dtype].numpy
    if dtype == "f8e8m0":  # the nearest power of two, the larger of two that are as near
        fraction, exponent = np.frexp(f)
        code = np.clip(exponent + 126 + (fraction >= 0.75), 0, 255)
        return np.where((f > 0) & np.isfinite(f), code, 255).astype(np.uint8).view(kind)[()]
    if dtype in ("f4e2m1", "f6e2m3", "f6e3m2"):
        f = np.where(np.isnan(f), np.float32(0), f)
    return f.astype(kind)[()]


def _round_to_odd_f32(x: np.ndarray) -> np.ndarray:
    """Doubles as floats, the last bit set where something was cut off: rounding these to fewer
    bits equals rounding the doubles (numpy's conversion to bf16 rounds twice)."""
    f = x.astype(np.float32)
    back = f.astype(F64)
    cut = (back != x) & np.isfinite(f)
    bits = f.view(np.uint32) - (cut & (np.abs(back) > np.abs(x))).astype(np.uint32)
    return (bits | cut.astype(np.uint32)).view(np.float32)


def cast(x: Value, source: str, dtype: str) -> Value:
    """The meaning of a Cast."""
    array = np.asarray(x, DTYPES[source].numpy)
    kind = DTYPES[dtype].kind
    if kind == "b":
        return (array != 0)[()]
    if is_float(source) and kind in "iu":
        result = _saturated(array.astype(F64), dtype)
    elif is_float(dtype) and (source == "f64" or dtype in TINY):
        result = narrow(array, dtype)
    else:
        result = array.astype(DTYPES[dtype].numpy)[()]
    return _index(result) if dtype == "index" else result


def _saturated(x: np.ndarray, dtype: str) -> Value:
    row = DTYPES[dtype]
    limit = 2.0 ** (row.bits - (row.kind == "i"))
    info = ml_dtypes.iinfo(row.numpy)
    whole = np.trunc(x)
    inside = (whole < limit) & (whole >= (-limit if row.kind == "i" else 0.0))
    result = np.where(inside, whole, 0.0).astype(row.numpy)
    result = np.where(whole >= limit, np.array(info.max, row.numpy), result)
    return np.where(~inside & (whole < 0), np.array(info.min, row.numpy), result)[()]


def fma(a: Value, b: Value, c: Value, dtype: str) -> Value:
    """a*b + c, rounded once."""
    if not is_float(dtype):
        return a * b + c
    if dtype == "f64":
        exact = np.frompyfunc(_fma_f64, 3, 1)(a, b, c)
        return np.asarray(exact, F64)[()]
    return narrow(_sum_to_odd(_double(a) * _double(b), _double(c)), dtype)


def _sum_to_odd(p: np.ndarray, c: np.ndarray) -> np.ndarray:
    """p + c in double precision, rounded to odd: rounding this to a narrower float equals rounding
    the exact sum (S. Boldo, G. Melquiond, Emulation of FMA and correctly rounded sums, 2008)."""
    s = p + c
    t = s - p
    error = (p - (s - t)) + (c - t)
    bits = np.asarray(s).view(np.int64)
    fix = (error != 0) & (bits & 1 == 0) & np.isfinite(s)
    away = (error > 0) == (s > 0)
    return np.asarray(bits + np.where(fix, np.where(away, 1, -1), 0)).view(F64)


def fma_f32(a: Value, b: Value, c: Value) -> np.float32:
    """`fma` of scalars, the same in plain Python."""
    p, z = float(a) * float(b), float(c)
    s = p + z
    t = s - p
    error = (p - (s - t)) + (z - t)
    if error and math.isfinite(s) and not struct.unpack("<q", struct.pack("<d", s))[0] & 1:
        s = math.nextafter(s, math.copysign(math.inf, error))
    return np.float32(s)


def _fma_f64(a: float, b: float, c: float) -> np.float64:
    if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
        return np.float64(a) * np.float64(b) + np.float64(c)
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:  # a*b is exact then, and the sum has IEEE's sign of zero
        return np.float64(a) * np.float64(b) + np.float64(c)
    try:
        return np.float64(float(exact))
    except OverflowError:
        return np.float64(math.copysign(math.inf, exact))


def dot(a: np.ndarray, b: np.ndarray, c: np.ndarray, dtype: str) -> np.ndarray:
    """a @ b + c in c's dtype: products are added to c one k after another, each by an fma.

    a [m, k], c [m, n]; b [k, n], or interleaved by groups of g = 2, 4 or 8 as matrix instructions
    want it: [k/g, g*n], b[k, n] being at [k // g, n*g + k % g]."""
    k = a.shape[1]
    group = k // b.shape[0]
    plain = b.reshape(b.shape[0], -1, group).transpose(0, 2, 1).reshape(k, -1)
    wide = DTYPES[dtype].numpy
    for j in range(k):
        c = fma(a[:, j, None].astype(wide), plain[None, j].astype(wide), c, dtype)
    return c


def reduce_tree(op: str, dtype: str, x: np.ndarray) -> Value:
    """The meaning of a Reduce: halves combined until one lane is left."""
    fn = binary(op, dtype)
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = np.asarray(fn(x[:half], x[half:]))
    return _index(x[0]) if dtype == "index" else x[0]
