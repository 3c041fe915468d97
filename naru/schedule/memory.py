"""One arena, offsets as formulas over the dims.

    offset(t) = max over earlier buffers u that are alive with t of (offset(u) + size(u))

The order of buffers (largest first) is fixed at the hint sizes; the formula is true at every size,
because it is evaluated at every size. For static shapes it folds to constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from naru.dtypes import DTYPES
from naru.ir.expr import Const, Expr, Var, free_vars
from naru.ir.graph import TensorType
from naru.ir.simplify import INF, add, evaluate, known, maximum, mul, prod, round_up

ALIGN = 64
HINT = 64  # an unknown dim, when the order of buffers is fixed


@dataclass(frozen=True)
class Interval:
    """A buffer of `size` bytes (a multiple of ALIGN), alive from step `start` to step `end`."""

    size: Expr
    start: int
    end: int


def bytes_of(t: TensorType) -> Expr:
    """The bytes of a row-major tensor (or one in a layout without blocks), rounded up to ALIGN."""
    return round_up(mul(prod(t.shape), DTYPES[t.dtype].bytes), ALIGN)


def hint(e: Expr) -> int:
    """An index expression at the sizes that decide the order."""
    return evaluate(e, {v: min(max(HINT, v.lo), v.hi) for v in free_vars(e)})


@dataclass(frozen=True)
class Placement:
    """Byte offsets (constants, or Vars that `lets` define in order) and the bytes in all."""

    offsets: tuple[Expr, ...]
    total: Expr
    lets: tuple[tuple[Var, Expr], ...]


def place(buffers: Sequence[Interval], prefix: str = "at") -> Placement:
    """Offsets by the formula above; where all sizes are constant, holes are filled too."""
    order = sorted(range(len(buffers)), key=lambda k: (-hint(buffers[k].size), buffers[k].start, k))
    offsets: dict[int, Expr] = {}
    below: dict[int, set[int]] = {}  # buffers that a buffer is certainly above
    lets: list[tuple[Var, Expr]] = []
    total: Expr = Const(0)
    for k in order:
        b = buffers[k]
        near = [j for j in offsets if buffers[j].start <= b.end and b.start <= buffers[j].end]
        top = [j for j in near if not any(j in below[i] for i in near)]
        at = _lowest(
            b.size,
            [(offsets[j], buffers[j].size) for j in near],
            [(offsets[j], buffers[j].size) for j in top],
        )
        below[k] = set()
        if known(at) is None:
            below[k] = set(near).union(*(below[j] for j in near))
            lets.append((Var(f"{prefix}{k}", hi=INF), at))
            at = lets[-1][0]
        offsets[k] = at
    for k in offsets:
        if not any(k in below[j] for j in offsets):
            total = maximum(total, add(offsets[k], buffers[k].size))
    if known(total) is None:
        lets.append((Var(f"{prefix}_bytes", hi=INF), total))
        total = lets[-1][0]
    return Placement(tuple(offsets[k] for k in range(len(buffers))), total, tuple(lets))


Placed = tuple[Expr, Expr]  # offset, size


def _lowest(size: Expr, alive: list[Placed], top: list[Placed]) -> Expr:
    """The lowest offset that clears what is alive: a hole if all is constant, else above `top`,
    those of them that no other one is above."""
    fixed = [(known(o), known(s)) for o, s in alive]
    constant = [(o, s) for o, s in fixed if o is not None and s is not None]
    needed = known(size)
    if needed is not None and len(constant) == len(alive):
        at = 0
        for o, s in sorted(constant):
            if at + needed <= o:
                break
            at = max(at, o + s)
        return Const(at)
    out: Expr = Const(0)
    for o, s in top:
        out = maximum(out, add(o, s))
    return out
