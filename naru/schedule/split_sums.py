"""A long sum of products in parts: the sum over all k becomes a sum of sums over some of it.

    C[m, n] = sum over k of A[m, k] * B[k, n]
    ->  P[q, m, n] = sum over r of A[m, 384 q + r] * B[384 q + r, n]
        C[m, n]    = sum over q of P[q, m, n]

Rounding errors then grow with the length of a part and the number of parts instead of with their
product (blocked summation: Higham, Accuracy and Stability of Numerical Algorithms, section 4.2).
Where the parts end depends on the shape only: every target adds in the same order.
"""

from __future__ import annotations

import math
from dataclasses import replace

from naru.dtypes import is_float
from naru.ir.expr import Const, Expr, Read, Var
from naru.ir.simplify import add, known, mul, substitute
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction

LONG = 1000  # products: more than so many are divided; for 768, parts would take 2% of the time
PART, MOST = (
    384,
    640,
)  # about so many a part, and at most: adding one up costs a percent of making it


def split_sum(tf: TensorFunction, stage: Stage) -> tuple[TensorFunction, Stage, Stage] | None:
    """(the function, the sum of parts, the parts); None where the sum is short, or has a length
    that is not known or has no divisors that would do."""
    cut = _cut(stage)
    if cut is None:
        return None
    number, size = cut
    outer, inner = list(stage.reduction[:number]), list(stage.reduction[number:])
    at: dict[Var, Expr] = {}
    if size:
        axis = inner.pop(0)
        count = (known(axis.extent) or 0) // size
        high, low = _axis(f"{axis.var.name}q", count), _axis(f"{axis.var.name}r", size)
        at[axis.var] = add(mul(high.var, size), low.var)
        outer, inner = [*outer, high], [low, *inner]
    part = Tensor(
        f"{stage.tensor.name}_part",
        stage.tensor.dtype,
        (*(a.extent for a in outer), *stage.tensor.shape),
    )
    # Own variables: each stage binds its axes.
    axes = tuple(map(_twin, (*outer, *stage.axes)))
    at.update({a.var: b.var for a, b in zip(stage.axes, axes[len(outer) :], strict=True)})
    value = substitute(stage.value, at)
    value = substitute(value, {a.var: b.var for a, b in zip(outer, axes, strict=False)})
    parts = Stage(part, axes, value, tuple(inner), "add")
    index = (*(a.var for a in outer), *(a.var for a in stage.axes))
    whole = replace(stage, value=Read(part, index), reduction=tuple(outer))
    stages: list[Stage] = []
    for s in tf.stages:
        stages += [parts, whole] if s is stage else [s]
    return replace(tf, stages=tuple(stages)), whole, parts


def _twin(a: Axis) -> Axis:
    """An axis of the same name, with a variable of its own."""
    return Axis(Var(a.var.name, lo=a.var.lo, hi=a.var.hi), a.extent)


def _axis(name: str, extent: int) -> Axis:
    return Axis(Var(name, hi=extent - 1), Const(extent))


def _cut(stage: Stage) -> tuple[int, int] | None:
    """(k, size): the reduction's axes from k on make a part; `size` > 0: of axis k only so many."""
    extents = [known(a.extent) for a in stage.reduction]
    if stage.combine != "add" or None in extents or not is_float(stage.tensor.dtype):
        return None
    sizes = [e or 0 for e in extents]
    if math.prod(sizes) <= LONG:
        return None
    inner = 1
    for k in reversed(range(len(sizes))):
        if inner * sizes[k] <= MOST:
            inner *= sizes[k]
            continue
        fits = [d for d in range(2, sizes[k]) if sizes[k] % d == 0 and inner * d <= MOST]
        near = min(fits, key=lambda d, i=inner: (abs(i * d - PART), -d), default=1)
        if abs(inner * near - PART) < abs(inner - PART):
            return k, near
        return (k + 1, 0) if inner >= PART // 4 else None
    return None
