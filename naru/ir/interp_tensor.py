"""The meaning of a TensorFunction by brute force, for tests: numpy arrays over all axes at once.

Reductions go one element after another, in the order of the axes, each step rounded to the dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import IRError
from naru.ir.arithmetic import binary, cast, constant, fma, unary
from naru.ir.expr import Binary, Call, Cast, Const, Expr, Read, Select, Unary, Var, walk
from naru.ir.interp import fresh, run
from naru.ir.simplify import evaluate
from naru.ir.tensor import Stage, Tensor, TensorFunction
from naru.ir.text_expr import print_expr
from naru.ir.text_loop import read_func
from naru.ir.text_tensor import TensorPrinter

CHUNK = 2**20  # elements that are computed at once, unless the result alone has more
COMBINE: Mapping[str, np.ufunc] = {
    "add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum, "larger": np.fmax,
    "and": np.bitwise_and, "or": np.bitwise_or,
}  # fmt: skip


def run_tensor_function(
    tf: TensorFunction,
    arrays: Sequence[np.ndarray],
    *,
    sizes: Mapping[str, int] | None = None,
) -> list[np.ndarray]:
    """The outputs for input arrays, all of them in logical order (layouts play no part).

    `sizes`: values of symbols by name, where the shapes of the inputs don't tell. Raises IRError
    for shapes that do not fit and for reads that are out of bounds, naming the stage."""
    if len(arrays) != len(tf.inputs):
        raise IRError([f"{tf.name}: expected {len(tf.inputs)} arrays, got {len(arrays)}"])
    values = symbol_values(tf, arrays, sizes or {})
    tensors: dict[Tensor, np.ndarray] = {}
    for t, a in zip(tf.inputs, arrays, strict=True):
        if a.shape != _shape(t.shape, values) or a.dtype != DTYPES[t.dtype].numpy:
            expected = f"{t.dtype}{list(_shape(t.shape, values))}"
            raise IRError([f"{t.name}: expected {expected}, got {a.dtype}{list(a.shape)}"])
        tensors[t] = np.ascontiguousarray(a).reshape(a.shape)
    if tf.opaque is not None:
        return _run_opaque(tf, tensors, values)
    with np.errstate(all="ignore"):
        for s in tf.stages:
            try:
                tensors[s.tensor] = _run_stage(s, tensors, values)
            except ZeroDivisionError:
                raise _stage_error(tf, s, "division of an integer by zero") from None
            except IRError as e:
                raise _stage_error(tf, s, "; ".join(e.problems)) from None
    return [tensors[t] for t in tf.outputs]


def _stage_error(tf: TensorFunction, s: Stage, message: str) -> IRError:
    printer = TensorPrinter()
    lines = printer.function(tf)
    line = printer.line_of[s]
    return IRError([f"{message}\n    {lines[line - 1].strip()}"], where=f"{tf.name}, line {line}")


def symbol_values(
    tf: TensorFunction, arrays: Sequence[np.ndarray], sizes: Mapping[str, int]
) -> dict[Var, int]:
    """What the shapes of the arrays (and `sizes`, by name) say about each symbol."""
    values: dict[Var, int] = {}
    for t, a in zip(tf.inputs, arrays, strict=True):
        if a.ndim != len(t.shape):
            raise IRError([f"{t.name}: expected {len(t.shape)} dims, got {a.ndim}"])
        for d, n in zip(t.shape, a.shape, strict=True):
            if isinstance(d, Var):
                values.setdefault(d, n)
    for v in tf.symbols():
        if v.name in sizes:
            values[v] = sizes[v.name]
        elif v not in values:
            raise IRError([f"{tf.name}: the inputs don't tell the value of {v.name}; give `sizes`"])
    return values


def _shape(dims: Sequence[Expr], values: Mapping[Var, int]) -> tuple[int, ...]:
    return tuple(evaluate(d, values) for d in dims)


def _run_opaque(
    tf: TensorFunction, tensors: Mapping[Tensor, np.ndarray], values: Mapping[Var, int]
) -> list[np.ndarray]:
    func = read_func(tf.opaque or "")
    outputs = [fresh(_shape(t.shape, values), DTYPES[t.dtype].numpy) for t in tf.outputs]
    named = {v.name: n for v, n in values.items()}
    missing = [p.name for p in func.sizes if p.name not in named]
    if missing:
        raise IRError([f"{tf.name}: the kernel wants {', '.join(missing)}, which is no dim"])
    sizes = [named[p.name] for p in func.sizes]
    run(func, [*(tensors[t] for t in tf.inputs), *outputs, *sizes])
    return outputs


def _run_stage(
    s: Stage, tensors: Mapping[Tensor, np.ndarray], symbols: Mapping[Var, int]
) -> np.ndarray:
    shape = _shape([a.extent for a in s.axes], symbols)
    values: dict[Expr, Any] = {**symbols}
    rank = len(shape)
    for d, a in enumerate(s.axes):
        values[a.var] = np.arange(shape[d]).reshape(
            [1, *(-1 if k == d else 1 for k in range(rank))]
        )
    kind = DTYPES[s.tensor.dtype].numpy
    if s.combine is None:
        result = np.asarray(_evaluate(s.value, values, tensors), kind)
        result = np.broadcast_to(result, (1, *shape))[0]
        return _placed(s, result, values, symbols) if s.place else result.copy()
    over = _shape([a.extent for a in s.reduction], symbols)
    total = int(np.prod(over, dtype=np.int64))
    step = max(1, CHUNK // max(1, int(np.prod(shape, dtype=np.int64))))
    start = _evaluate(s.start, symbols, tensors)
    acc = np.full(shape, start, kind)
    for first in range(0, total, step):
        flat = np.arange(first, min(total, first + step))
        at = np.unravel_index(flat, over)
        for a, i in zip(s.reduction, at, strict=True):
            values[a.var] = i.reshape([-1] + [1] * rank)
        part = np.asarray(_evaluate(s.value, values, tensors), kind)
        part = np.broadcast_to(part, (len(flat), *shape)).copy()
        part[0] = COMBINE[s.combine](acc, part[0])
        acc = COMBINE[s.combine].accumulate(part, axis=0, dtype=kind)[-1]
    return np.asarray(acc, kind)


def _placed(
    s: Stage, result: np.ndarray, values: Mapping[Expr, Any], symbols: Mapping[Var, int]
) -> np.ndarray:
    """The elements of a stage where they lie in its tensor; an IRError if there are gaps."""
    shape = _shape(s.tensor.shape, symbols)
    index = [np.broadcast_to(_evaluate(i, values, {}), (1, *result.shape))[0] for i in s.place]
    inside = np.ones(result.shape, bool)
    for i, n in zip(index, shape, strict=True):
        inside &= (i >= 0) & (i < n)
    at = tuple(i[inside] for i in index)
    out, filled = np.zeros(shape, result.dtype), np.zeros(shape, np.int64)
    np.add.at(filled, at, 1)
    if not (filled == 1).all():
        raise IRError([f"{s.tensor.name}: an element is not computed exactly once"])
    out[at] = result[inside]
    return out


def _evaluate(root: Expr, given: Mapping[Any, Any], tensors: Mapping[Tensor, np.ndarray]) -> Any:
    values: dict[Expr, Any] = {}
    for e in walk(root):
        match e:
            case Const():
                values[e] = constant(e.value, e.dtype)
            case Var():
                if e not in given:
                    raise IRError([f"{e.name} has no value here"])
                values[e] = given[e]
            case Unary():
                values[e] = unary(e.op, e.x.dtype)(values[e.x])
            case Binary():
                values[e] = binary(e.op, e.a.dtype)(values[e.a], values[e.b])
            case Select():
                values[e] = np.where(values[e.cond], values[e.a], values[e.b])[()]
            case Cast():
                values[e] = cast(values[e.x], e.x.dtype, e.dtype)
            case Read():
                values[e] = _read(e, values, tensors)
            case Call(fn="fma"):
                values[e] = fma(values[e.args[0]], values[e.args[1]], values[e.args[2]], e.dtype)
            case _:
                raise IRError([f"{print_expr(e)} does not belong in a TensorFunction"])
    return values[root]


def _read(e: Read, values: Mapping[Expr, Any], tensors: Mapping[Tensor, np.ndarray]) -> Any:
    array = tensors.get(e.tensor)
    if array is None:
        raise IRError([f"{e.tensor.name} is read before it is computed"])
    index = [np.asarray(values[i], np.int64) for i in e.index]
    empty = any(i.size == 0 for i in index)
    for d, i in enumerate(index):
        if i.size and not empty and not (i.min() >= 0 and i.max() < array.shape[d]):
            bad = i.min() if i.min() < 0 else i.max()
            raise IRError(
                [f"{e.tensor.name}: index {bad} of dim {d} is out of bounds, shape {array.shape}"]
            )
    return array[tuple(index)]
