"""Runs a TensorFunction element by element, in plain Python: slow, and the truth.

Values are numpy scalars (index arithmetic: Python ints), so every dtype rounds and wraps as it
should. An access out of bounds raises, also where a select would have thrown the value away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from naru.dtypes import DTYPES, TINY, is_float, is_float_array
from naru.ir import arithmetic, simplify
from naru.ir.expr import Binary, Cast, Const, Expr, Read, Select, Unary, Var, children, walk
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction

Array = np.ndarray
Env = Mapping[Var, int]


def run(tf: TensorFunction, arrays: Sequence[Array], env: Env | None = None) -> list[Array]:
    """The outputs of tf for arrays of its inputs; `env` gives the sizes of dim symbols."""
    sizes = dict(env or {})
    memory: dict[Tensor, Array] = dict(zip(tf.inputs, arrays, strict=True))
    with np.errstate(all="ignore"):
        for stage in tf.stages:
            memory[stage.tensor] = _run_stage(stage, memory, sizes)
    return [memory[t] for t in tf.outputs]


def _extents(axes: Sequence[Axis], env: Env) -> list[int]:
    return [max(simplify.evaluate(a.extent, env), 0) for a in axes]


def _run_stage(stage: Stage, memory: Mapping[Tensor, Array], env: Env) -> Array:
    dtype = DTYPES[stage.tensor.dtype].numpy
    shape = [simplify.evaluate(d, env) for d in stage.tensor.shape]
    assert shape == _extents(stage.axes, env), "axes and shape disagree"
    out = np.zeros(shape, dtype)
    inner = list(itertools.product(*map(range, _extents(stage.reduction, env))))
    value = _compiled(stage.value, memory)
    variables: dict[Var, Any] = dict(env)
    for at in itertools.product(*map(range, shape)):
        variables.update(zip((a.var for a in stage.axes), at, strict=True))
        if stage.combine is None:
            out[at] = value(variables)
            continue
        total = _constant(stage.start)
        for over in inner:
            variables.update(zip((a.var for a in stage.reduction), over, strict=True))
            total = BINARY[stage.combine](total, value(variables))
        out[at] = total
    return out


def _constant(e: Expr) -> Any:
    assert isinstance(e, Const)
    return e.value if e.dtype == "index" else DTYPES[e.dtype].numpy.type(e.value)


def _compiled(root: Expr, memory: Mapping[Tensor, Array]) -> Callable[[Mapping[Var, Any]], Any]:
    """A function of the variables; each distinct node is computed once a call."""
    order = walk(root)
    number = {e: k for k, e in enumerate(order)}
    steps = [(e, _step(e, memory), [number[c] for c in children(e)]) for e in order]

    def call(variables: Mapping[Var, Any]) -> Any:
        values: list[Any] = []
        for e, fn, operands in steps:
            if isinstance(e, Var):
                values.append(variables[e])
            else:
                values.append(fn(*(values[k] for k in operands)))
        return values[-1]

    return call


def _step(e: Expr, memory: Mapping[Tensor, Array]) -> Callable[..., Any]:
    match e:
        case Const():
            value = _constant(e)
            return lambda: value
        case Var():
            return lambda: None
        case Unary():
            scalar = DTYPES[e.dtype].numpy.type
            if e.op == "bits":
                return lambda x: x.view(scalar)
            fn = UNARY[e.op]
            return lambda x: scalar(fn(x))
        case Binary():
            return _index_binary(e.op) if e.a.dtype == "index" else BINARY[e.op]
        case Select():
            return lambda c, a, b: a if c else b
        case Cast():
            return lambda x: convert(x, e.dtype)
        case Read():
            return lambda *at: _read(e, memory[e.tensor], at)
        case _:
            raise TypeError(f"{type(e).__name__} does not belong into a TensorFunction")


def _read(e: Read, array: Array, at: tuple[Any, ...]) -> Any:
    for i, size in zip(at, array.shape, strict=True):
        if not 0 <= i < size:
            raise IndexError(f"{e.tensor.name}: index {at} of shape {array.shape}")
    return array[tuple(int(i) for i in at)]


def convert(x: Any, dtype: str) -> Any:
    """`Cast`: float to integer truncates and saturates, NaN gives 0; integers wrap."""
    if dtype == "index":
        return int(x)
    to = DTYPES[dtype]
    if to.kind == "b":
        return np.bool_(x != 0)
    if dtype == "f8e8m0":
        return arithmetic.narrow(x, dtype)  # ml_dtypes rounds floats below 2^-126 up
    if to.kind == "f":
        return to.numpy.type(x)
    if isinstance(x, float) or is_float_array(np.asarray(x).dtype):
        x = float(x)
        info = np.iinfo(to.numpy)
        if math.isnan(x):
            return to.numpy.type(0)
        return to.numpy.type(info.max if x >= info.max else info.min if x <= info.min else int(x))
    return np.array(int(x) & (2**to.bits - 1), f"u{to.bytes}").view(to.numpy)[()]


def _div(a: Any, b: Any) -> Any:
    if not isinstance(a, np.integer):
        return a / b
    if b == 0 or (b == -1 and a == np.iinfo(a.dtype).min):
        raise ZeroDivisionError("an integer division that traps")
    quotient = abs(int(a)) // abs(int(b))
    return a.dtype.type(quotient if (a < 0) == (b < 0) else -quotient)


def _mod(a: Any, b: Any) -> Any:
    if b == 0 or (b == -1 and isinstance(a, np.signedinteger)):
        raise ZeroDivisionError("an integer remainder that traps")
    return np.mod(a, b)


def _shift(a: Any, b: Any, left: bool) -> Any:
    assert 0 <= b < a.dtype.itemsize * 8, "shift by the width or more"
    return a << b if left else a >> b


def _dot2(a: Any, b: Any) -> Any:
    (p, q), (r, s) = (np.array([v], np.int32).view(np.int16).astype(int) for v in (a, b))
    return np.int32((p * r + q * s + 2**31) % 2**32 - 2**31)


def _dot4(a: Any, b: Any) -> Any:
    x, y = (np.array([v], np.int32).view(np.int8).astype(int) for v in (a, b))
    return np.int32(x @ y)


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _div,
    "floordiv": lambda a, b: a // b,
    "mod": _mod,
    "min": np.minimum,
    "max": np.maximum,
    "larger": np.fmax,
    # On arrays: numpy takes a square root of scalars instead, which is wrong for -inf.
    "pow": lambda a, b: np.power(np.atleast_1d(a), np.atleast_1d(b))[0],
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: _shift(a, b, True),
    "shr": lambda a, b: _shift(a, b, False),
    "dot2": _dot2,
    "dot4": _dot4,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
UNARY: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "erf": lambda x: math.erf(x),
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "normal": lambda x: x if np.isnan(x) or abs(x) >= 2.0**-126 else x * 0,
    "neg": lambda x: -x,
    "abs": np.abs,
    "not": np.logical_not,
    "isnan": np.isnan,
    "bits": lambda x: x.view({"f4": "i4", "i4": "f4", "f8": "i8", "i8": "f8"}[x.dtype.str[1:]]),
}


def _index_binary(op: str) -> Callable[[Any, Any], Any]:
    if op in ("min", "max"):
        return min if op == "min" else max
    if op in ("floordiv", "mod"):
        return (lambda a, b: a // b) if op == "floordiv" else (lambda a, b: a % b)
    return BINARY[op]


def tolerance(dtype: str) -> float:
    """What two orders of the same arithmetic may differ by, relative to the largest value."""
    if not is_float(dtype):
        return 0.0
    if dtype in TINY:
        return 0.0  # only casts make them, and these are exact
    return {"f64": 1e-13, "f32": 4e-6, "f16": 2e-3, "bf16": 2e-2}[dtype]
