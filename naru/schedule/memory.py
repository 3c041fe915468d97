"""One arena, offsets as formulas over the dims.

The order of buffers (largest first) is fixed at the hint sizes. Each gets the lowest place, 0 or
the end of an earlier one, that is free of all earlier ones it is alive with, provided that this can
be proved for every size: multiples of one symbol, as in a batch, can be compared. Where nothing can
be proved it lies above them all:

    offset(t) = max over earlier buffers u that are alive with t of (offset(u) + size(u))

So no formula is ever wrong at a size far from the hint. For static shapes all are constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from naru.dtypes import DTYPES
from naru.ir.expr import Binary, Const, Expr, Var, free_vars, walk
from naru.ir.graph import TensorType
from naru.ir.simplify import (
    INF,
    add,
    bounds,
    evaluate,
    known,
    maximum,
    mul,
    prod,
    round_up,
    sub,
)

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
    """Offsets as said above; `prefix` begins the names of the Vars that stand for formulas."""
    order = sorted(range(len(buffers)), key=lambda k: (-hint(buffers[k].size), buffers[k].start, k))
    arena = _Arena(buffers)
    offsets: dict[int, Expr] = {}
    lets: list[tuple[Var, Expr]] = []
    for k in order:
        at = arena.add(k)
        if known(at) is None:
            lets.append((Var(f"{prefix}{k}", hi=INF), at))
            at = lets[-1][0]
            if not arena.comparable(k):
                arena.spans[k] = replace(arena.spans[k], at=at)
        offsets[k] = at
    total: Expr = Const(0)
    for k in arena.top(offsets):
        total = maximum(total, add(offsets[k], buffers[k].size))
    if known(total) is None:
        lets.append((Var(f"{prefix}_bytes", hi=INF), total))
        total = lets[-1][0]
    return Placement(tuple(offsets[k] for k in range(len(buffers))), total, tuple(lets))


@dataclass(frozen=True)
class Span:
    """Where a buffer lies: from `at` (a polynomial, or a Var that stands for a formula), which is
    from `first` up to `last` at the hint sizes; certainly above the buffers `over`."""

    at: Expr
    first: int
    last: int
    over: frozenset[int]


class _Arena:
    """The buffers placed so far."""

    def __init__(self, buffers: Sequence[Interval]) -> None:
        self.buffers = buffers
        self.spans: dict[int, Span] = {}

    def add(self, k: int) -> Expr:
        """The offset of one more buffer."""
        b = self.buffers[k]
        near = [
            j
            for j in self.spans
            if self.buffers[j].start <= b.end and b.start <= self.buffers[j].end
        ]
        places = [(0, -1), *sorted((self.spans[j].last, j) for j in near)]
        size = hint(b.size)
        for first, after in places:
            free = all(
                self.spans[j].last <= first or first + size <= self.spans[j].first for j in near
            )
            at = self.end(after) if after >= 0 else Const(0)
            over = self.clear(at, b.size, near) if free else None
            if over is not None:
                break
        else:
            first = max(self.spans[j].last for j in near)
            at, over = Const(0), near
            for j in self.top(near):
                at = maximum(at, self.end(j))
        below = frozenset(over).union(*(self.spans[j].over for j in over))
        self.spans[k] = Span(at, first, first + size, below)
        return at

    def end(self, k: int) -> Expr:
        return add(self.spans[k].at, self.buffers[k].size)

    def clear(self, at: Expr, size: Expr, near: Sequence[int]) -> list[int] | None:
        """Those of `near` that end at or before `at`, if the others begin after at + size; None if
        that is not certain."""
        over = [j for j in near if _at_most(self.end(j), at)]
        rest = [j for j in near if j not in over]
        return over if all(_at_most(add(at, size), self.spans[j].at) for j in rest) else None

    def top(self, some: Iterable[int]) -> list[int]:
        """Those that none of the others is certainly above."""
        hidden = frozenset[int]().union(*(self.spans[j].over for j in some))
        return [j for j in some if j not in hidden]

    def comparable(self, k: int) -> bool:
        """Is the offset a polynomial, which can be compared with others?"""
        return not any(isinstance(x, Binary) and x.op == "max" for x in walk(self.spans[k].at))


def _at_most(a: Expr, b: Expr) -> bool:
    """Is a ≤ b at every size?"""
    return a is b or bounds(sub(b, a))[0] >= 0
