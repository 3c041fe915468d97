"""From scalar expressions in one or two loop variables to tiles: lanes, contiguous loads, masks."""

from __future__ import annotations

from dataclasses import dataclass

from naru.errors import ScheduleError
from naru.ir.expr import (
    Binary,
    Call,
    Expr,
    Lanes,
    Load,
    Shape,
    Splat,
    Var,
    children,
    walk,
    with_children,
)
from naru.ir.loop import Buffer
from naru.ir.simplify import Const, free_of, normal, substitute, to_poly, within


@dataclass(frozen=True)
class Lane:
    """The vectorised loop: its variable, how many lanes, and how many of them count (None: all)."""

    var: Var
    count: int
    valid: Expr | None = None

    @property
    def shape(self) -> Shape:
        """Of the tiles."""
        return (self.count,)

    @property
    def variables(self) -> tuple[Var, ...]:
        """Of the vectorised loops."""
        return (self.var,)

    def mask(self) -> Expr | None:
        """lanes < valid; None when all count."""
        if self.valid is None:
            return None
        return Binary("lt", Lanes(self.count), Splat(self.valid, (self.count,)))

    def mask_for(self, buffer: Buffer, index: tuple[Expr, ...]) -> Expr | None:
        """The mask that an access needs; none where padding keeps every lane in bounds."""
        if self.valid is None or within(index[-1], buffer.shape[-1]):
            return None
        return self.mask()


@dataclass(frozen=True)
class Grid:
    """Two vectorised loops, the outer one in the rows and the inner one in the columns of tiles of
    rank 2."""

    rows: Lane
    columns: Lane

    @property
    def shape(self) -> Shape:
        """Of the tiles."""
        return (self.rows.count, self.columns.count)

    @property
    def variables(self) -> tuple[Var, ...]:
        """Of the vectorised loops."""
        return (self.rows.var, self.columns.var)

    def mask(self) -> Expr | None:
        """The lanes that count in both directions; None when all do."""
        return self._both(self.rows.mask(), self.columns.mask())

    def mask_for(self, buffer: Buffer, index: tuple[Expr, ...]) -> Expr | None:
        """The mask that an access along both needs; see Lane."""
        if buffer.space == "tile":  # registers, which are whole
            return None
        down = None if within(index[-2], buffer.shape[-2]) else self.rows.mask()
        across = None if within(index[-1], buffer.shape[-1]) else self.columns.mask()
        return self._both(down, across)

    def _both(self, down: Expr | None, across: Expr | None) -> Expr | None:
        masks = [Splat(m, self.shape, k) for k, m in enumerate((down, across)) if m is not None]
        if len(masks) == 2:
            return Binary("and", *masks)
        return masks[0] if masks else None


def join(outer: Lane | Grid | None, inner: Lane) -> Lane | Grid:
    """The lanes when one more loop is vectorised inside those that are already."""
    if isinstance(outer, Grid):
        raise ScheduleError(
            f"vectorize {inner.var.name!r}: tiles have at most two dims",
            hint="vectorise two loops of a stage",
        )
    return inner if outer is None else Grid(outer, inner)


def moves_by_one(e: Expr, var: Var) -> bool:
    """Does an index grow by one with each step of the variable?"""
    terms = to_poly(e)
    return terms.pop((var,), 0) == 1 and all(free_of(a, var) for m in terms for a in m)


def contiguous_base(
    buffer: Buffer, index: tuple[Expr, ...], lane: Lane | Grid
) -> tuple[Expr, ...] | None:
    """The index of the first lane if lanes are neighbours along the last dim (or the last two);
    else None."""
    along = lane.variables
    if len(index) < len(along):
        return None
    first = len(index) - len(along)
    for k, i in enumerate(index):
        var = along[k - first] if k >= first else None
        if var is not None and not moves_by_one(i, var):
            return None
        if any(not free_of(i, v) for v in along if v is not var):
            return None
    start = {v: Const(0) for v in along}
    return (*index[:first], *(substitute(i, start) for i in index[first:]))


def vectorize(e: Expr, lane: Lane | Grid | None) -> Expr:
    """e for all lanes at once. What does not depend on a lane stays scalar."""
    if lane is None:
        return e
    if isinstance(lane, Grid):
        return _Rank2(lane).value(e)
    done: dict[Expr, Expr] = {}
    for x in walk(e):
        done[x] = _vector_node(x, done, lane)
    return done[e]


def _vector_node(x: Expr, done: dict[Expr, Expr], lane: Lane | Grid) -> Expr:
    """x over operands that are vectorised already."""
    if isinstance(lane, Lane) and x is lane.var:
        return Lanes(lane.count)
    old = children(x)
    new = tuple(done[c] for c in old)
    if all(a is b for a, b in zip(old, new, strict=True)):
        return x
    if isinstance(x, Load):
        base = contiguous_base(x.buffer, x.index, lane)
        if base is not None:
            return Load(x.buffer, base, lane.shape, lane.mask_for(x.buffer, x.index))
        return Load(x.buffer, new, (), lane.mask())
    made = with_children(x, new)
    return made if made.shape else normal(made)


class _Rank2:
    """Vectorises over a grid: a part that moves in one direction only is computed as a tile of
    rank 1, and spread where it meets the other direction."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.lanes = (grid.rows, grid.columns)
        self.done: dict[Expr, Expr] = {}
        self.along: dict[Expr, frozenset[int]] = {}

    def value(self, e: Expr) -> Expr:
        """e as a tile of rank 2, or as a scalar where it is the same everywhere."""
        for x in walk(e):
            own = [k for k, lane in enumerate(self.lanes) if x is lane.var]
            self.along[x] = frozenset(own).union(*(self.along[c] for c in children(x)))
            if len(self.along[x]) < 2:
                lane = self.lanes[min(self.along[x], default=0)]
                self.done[x] = _vector_node(x, self.done, lane)
            elif (turned := self.turned(x)) is not None:
                self.done[x] = turned
            else:
                spread = {c: self.spread(c) for c in children(x)}
                self.done[x] = _vector_node(x, spread, self.grid)
        return self.spread(e)

    def turned(self, x: Expr) -> Expr | None:
        """A load whose rows lie where the grid has columns."""
        if not isinstance(x, Load):
            return None
        grid = Grid(self.grid.columns, self.grid.rows)
        base = contiguous_base(x.buffer, x.index, grid)
        if base is None:
            return None
        mask = grid.mask_for(x.buffer, x.index)
        return Call("transposed", (Load(x.buffer, base, grid.shape, mask),))

    def spread(self, e: Expr) -> Expr:
        """The value of e, one of rank 1 as a tile of rank 2."""
        made = self.done[e]
        if len(made.shape) != 1:
            return made
        return Splat(made, self.grid.shape, min(self.along[e]))
