"""A rewrite for transposed convolutions: an axis of the result becomes one of windows and one of
phases.

The lowering reads its sums at `i // stride` and `i % stride`. Lanes and rows of a tile need windows
side by side, and one phase of them at a time.
"""

from __future__ import annotations

from dataclasses import replace

from naru.ir.expr import Binary, Const, Expr, Var
from naru.ir.simplify import add, floordiv, known, mul, substitute
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction, reads


def split_phases(tf: TensorFunction) -> TensorFunction:
    """Splits axes of the result along which a reduction is read at i // s and i % s. The result
    takes the shape that its axes have: the same memory."""
    for s in tf.stages:
        if s.tensor not in tf.outputs:
            continue
        for k, axis in enumerate(s.axes):
            stride = _phase_stride(tf, s, axis)
            if stride is not None:
                return split_phases(_split_axis(tf, s, k, stride))
    return tf


def _phase_stride(tf: TensorFunction, stage: Stage, axis: Axis) -> Const | None:
    """The s of i % s in reads of a reduction, where it divides the axis."""
    for r in reads(stage.value):
        for i in r.index if r.tensor not in tf.inputs else ():
            if isinstance(i, Binary) and i.op == "mod" and i.a is axis.var:
                divides = isinstance(i.b, Const) and mul(floordiv(axis.extent, i.b), i.b)
                return i.b if isinstance(i.b, Const) and divides is axis.extent else None
    return None


def _split_axis(tf: TensorFunction, stage: Stage, k: int, size: Const) -> TensorFunction:
    """Axis k of an output's stage as two, the inner one of the given extent."""
    axis = stage.axes[k]
    count = floordiv(axis.extent, size)
    outer = Axis(Var(axis.var.name, hi=_last(count)), count)
    inner = Axis(Var(axis.var.name, hi=_last(size)), size)
    whole = add(mul(outer.var, size), inner.var)
    axes = (*stage.axes[:k], outer, inner, *stage.axes[k + 1 :])
    tensor = Tensor(stage.tensor.name, stage.tensor.dtype, tuple(a.extent for a in axes))
    value = substitute(stage.value, {axis.var: whole})
    made = replace(stage, tensor=tensor, axes=axes, value=value)
    return replace(
        tf,
        stages=tuple(made if s is stage else s for s in tf.stages),
        outputs=tuple(tensor if t is stage.tensor else t for t in tf.outputs),
    )


def _last(extent: Expr) -> int:
    return max((known(extent) or 2**31 - 1) - 1, 0)
