"""What is chosen for a sum of products: the register tile, by an analytic score, and the blocks.

Nothing is measured. The tile's accumulators, its lane operands and one broadcast fit the registers;
blocks keep what is used again in L2.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from naru.dtypes import DTYPES
from naru.ir.expr import Const, Read, Var
from naru.ir.simplify import add, free_of, known, prod, rebuild
from naru.ir.tensor import Stage, reads
from naru.schedule.analysis import VIRTUAL_LANES, axis_positions
from naru.targets import Target

UNROLL_LIMIT = 8  # a reduction loop this short is unrolled
ASSUMED_ROWS = 128  # an extent that is not known when the tile is chosen
# Cycles that a row of a tile costs for one step of k, beside its multiply-adds: its operand comes
# from L1, or from far, where fewer rows (wider tiles) keep it in L1 while the columns pass.
NEAR_ROW, FAR_ROW = 0.06, 0.1
WAITING = 4  # rows below which sums of two vectors wait for each other
# Tiles that cross lines, each of them code of its own; the share of the time that they must save.
MOST_CROSSED, WORTH_CROSSING = 12, 0.96
PAGES = 64  # whose addresses a core has at hand
COPY_FROM = 96  # rows that use an operand, for which a dense copy of it pays
MOST_ROWS = 256  # under a panel, for which fetching the next one ahead matters
MOST_COPIED = 2**19  # bytes of stack
FEW_WEIGHTS = 8  # times L2: so many may be fetched again for each block of rows


@dataclass(frozen=True)
class Contraction:
    """Out axes by position: `n` runs in the lanes, `m` in the rows of the register tile, `p` in
    more of its rows where m is short. None: there is no such axis."""

    n: int
    m: int | None = None
    p: int | None = None
    shared: bool = True  # the lane operand does not move with m and p, so a tile reuses it
    product: bool = True  # multiply-adds; else a window (pooling)


@dataclass(frozen=True)
class Tile:
    """(lines · rows) × (vectors · lanes) accumulators; `lines` along p, `rows` along m."""

    rows: int
    vectors: int
    lines: int = 1

    @property
    def is_wide(self) -> bool:
        """Has it more vectors than rows?"""
        return self.vectors > self.rows * self.lines


# --- which tile -----------------------------------------------------------------------------------


def tile_cost(rows: int, vectors: int, row_cost: float = NEAR_ROW) -> float:
    """Cycles for one step of k: two multiply-adds and two loads a cycle, four cycles of latency.
    The small terms rank tiles that are equal otherwise, by where their operands come from."""
    loads = rows + vectors
    return max(rows * vectors / 2, loads / 2, 4.0) + row_cost * rows + 0.25 * vectors


def equal_parts(extent: int, most: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divides an extent into tiles of at most `most` whose sizes differ by at most one:
    49 by 12 -> sizes (10, 9), counts (4, 1)."""
    tiles = -(-extent // most)
    size, larger = divmod(extent, tiles)
    if not larger:
        return (size,), (tiles,)
    return (size + 1, size), (larger, tiles - larger)


def cascade(rows: int) -> tuple[int, ...]:
    """Tiles for an extent that is not known: full ones, then one or two for what is left. Fewer
    than `WAITING` rows take as long as so many: what is left is best not taken apart further."""
    if rows > 6:
        middle = range((rows - 2) // WAITING * WAITING, 0, -WAITING)
    else:
        middle = range(rows - 1, 3, -1)
    return (rows, *middle, *(size for size in (3, 2, 1) if size < rows))


def choose_tile(
    m: int | None,
    n: int | None,
    target: Target,
    lanes: int,
    *,
    shared: bool = True,
    p: int | None = None,
    k: int = 1,
    row_cost: float = NEAR_ROW,
) -> Tile:
    """The cheapest tile for an m × n result (p times, if p is given) whose accumulators, lane
    operands and one broadcast fit the registers. None for m or n: an extent that is not known."""
    columns = n or 4 * ASSUMED_ROWS
    unit = max(1, VIRTUAL_LANES // lanes)  # packed panels are 16 wide: a tile takes whole ones
    unit = min(unit, -(-columns // lanes))
    if target.is_recompiled:  # or a part of one: those of 4 lanes fit no registers otherwise
        unit = min(unit, 2)
    most = 4 if m != 1 or p else 12  # one row needs many columns to hide the latency
    rows_share = m != 1 or p  # rows that use a panel, which must stay in L2
    best, chosen = float("inf"), Tile(1, unit)
    for vectors in range(unit, max(most, unit) + 1, unit):
        if vectors > unit and rows_share and k * vectors * lanes * 4 > target.l2 * 0.75:
            break
        for rows in range(1, target.registers // vectors + 1):
            # Lines are combined only where a whole line is one tile.
            for lines in range(1, p + 1) if m == rows and p else (1,):
                tile = Tile(rows, vectors, lines)
                if not _fits(tile, target, shared=shared):
                    break
                cost = _total_cost(tile, m or ASSUMED_ROWS, columns, p or 1, lanes, row_cost)
                if cost < best * 0.999:
                    best, chosen = cost, tile
    return chosen


def _fits(tile: Tile, target: Target, *, shared: bool) -> bool:
    """Accumulators, and the operands of one step: those of the lanes stay while the rows pass one
    by one, or those of the rows while the lanes pass. Where they are not shared, one of each."""
    rows = tile.rows * tile.lines
    kept = min(rows, tile.vectors) if shared else 2
    if target.is_recompiled:
        kept = rows + tile.vectors
    return rows * tile.vectors + kept + 1 <= target.registers


def tile_for(out: Stage, stage: Stage, plan: Contraction, target: Target, lanes: int) -> Tile:
    """The tile of a kernel."""
    m, n, p, k = extents(out, stage, plan)
    if not (plan.product and plan.shared):
        if target.is_recompiled:
            return _narrow_tile(out, stage, plan, target, lanes)
        return Tile(min(4, m or 4), max(1, VIRTUAL_LANES // lanes))
    row_cost = FAR_ROW if rows_are_far(out, stage, plan, target) else NEAR_ROW
    p = None if plan.p is None else p
    return choose_tile(m, n, target, lanes, p=p, k=k or 1, row_cost=row_cost)


def _narrow_tile(out: Stage, stage: Stage, plan: Contraction, target: Target, lanes: int) -> Tile:
    """One vector wide, and of as many rows as the registers hold with all that they read. Rows side
    by side read much in common (neighbours in a window)."""
    m = extents(out, stage, plan)[0] or 4
    for rows in range(min(4, m), 1, -1):
        tile = Tile(rows, 1)
        if unrolls(stage, tile_places(out, stage, plan, tile, lanes), target):
            return tile
    return Tile(min(2, m), 1)


def tile_places(
    out: Stage, stage: Stage, plan: Contraction, tile: Tile, lanes: int
) -> dict[str, range]:
    """Where the operations of a tile stand, along the reduction's axes by name."""
    counts = {plan.n: range(0, tile.vectors * lanes, lanes), plan.m: range(tile.rows)}
    if tile.lines > 1:
        counts[plan.p] = range(tile.lines)
    named = ((stage_axis(stage, out, k), places) for k, places in counts.items())
    return {name: places for name, places in named if name is not None}


def unrolls(stage: Stage, places: dict[str, range], target: Target) -> bool:
    """Is the last loop of a reduction so short that it is unrolled in a tile (`tile_places`)? Where
    a block begins with all its loads, what they read must fit the registers beside the sums."""
    axis, count = stage.reduction[-1].var, known(stage.reduction[-1].extent)
    if len(stage.reduction) == 1 or count is None or count > UNROLL_LIMIT:
        return False
    if not target.is_recompiled:
        return True
    operands = count_operands(stage, {**places, axis.name: range(count)})
    return math.prod(map(len, places.values())) + operands + 1 <= target.registers


def count_operands(stage: Stage, places: dict[str, range]) -> int:
    """How many different operands a sum reads at places along its axes, these given by name."""
    axes = [a.var for a in (*stage.axes, *stage.reduction) if a.var.name in places]
    found: set[tuple[object, ...]] = set()
    for steps in itertools.product(*(places[v.name] for v in axes)):
        at = {v: add(v, Const(k)) for v, k in zip(axes, steps, strict=True)}
        found |= {(r.tensor, *rebuild(r.index, at)) for r in reads(stage.value)}
    return len(found)


def extents(
    out: Stage, stage: Stage, plan: Contraction
) -> tuple[int | None, int | None, int | None, int | None]:
    """(m, n, p, k) of a contraction, 1 where it has no such axis; None: it is not known."""
    m, p = (Const(1) if x is None else out.axes[x].extent for x in (plan.m, plan.p))
    k = prod([a.extent for a in stage.reduction])
    return known(m), known(out.axes[plan.n].extent), known(p), known(k)


def should_cross(out: Stage, stage: Stage, plan: Contraction, target: Target, lanes: int) -> bool:
    """Are the lines of an image so short that tiles across them would save a part of the time?"""
    m, n, p, k = extents(out, stage, plan)
    last = (plan.p, plan.m) == (plan.n - 2, plan.n - 1)
    if not (last and m and n and p and k and plan.product and plan.shared):
        return False
    lines = choose_tile(m, n, target, lanes, p=p, k=k)
    across = choose_tile(m * p, n, target, lanes, k=k)
    if m * p > MOST_CROSSED * across.rows:
        return False
    before = _total_cost(lines, m, n, p, lanes, NEAR_ROW)
    return _total_cost(across, m * p, n, 1, lanes, NEAR_ROW) < WORTH_CROSSING * before


def _total_cost(tile: Tile, m: int, columns: int, p: int, lanes: int, row_cost: float) -> float:
    whole, rest = divmod(columns, tile.vectors * lanes)
    total = 0.0
    for line, lines in zip(*equal_parts(p, tile.lines), strict=True):
        for size, count in zip(*equal_parts(m, tile.rows), strict=True):
            cost = whole * tile_cost(line * size, tile.vectors, row_cost)
            if rest:
                cost += tile_cost(line * size, -(-rest // lanes), row_cost)
            total += lines * count * cost
    return total


def rows_are_far(out: Stage, stage: Stage, plan: Contraction, target: Target) -> bool:
    """Is the rows' operand of a matrix product too large to stay in L2 beside the weights?"""
    m = None if plan.m is None else known(out.axes[plan.m].extent)
    k = known(stage.reduction[0].extent)
    if m is None or k is None or len(stage.reduction) != 1:
        return False
    return m * k * 4 > target.l2 * 0.4


@dataclass(frozen=True)
class Blocks:
    """What passes at a time: so many columns, or rows; None where all do."""

    columns: int | None = None
    rows: int | None = None


def choose_blocks(
    out: Stage, stage: Stage, plan: Contraction, tile: Tile, target: Target, lanes: int
) -> Blocks:
    """The blocks of a matrix product, such that what is used again stays in L2; all at a time for
    other sums."""
    if plan.m is None or len(stage.reduction) != 1 or not (plan.shared and plan.product):
        return Blocks()
    m, n = known(out.axes[plan.m].extent), known(out.axes[plan.n].extent)
    k = known(stage.reduction[0].extent)
    if m is None or n is None or k is None or m < 2 * tile.rows:
        return Blocks()
    # Bytes: of the rows, of the weights, of a panel of them.
    taken, weights, width = m * k * 4, n * k * 4, tile.vectors * lanes
    if known(lane_operand(out, stage, plan).tensor.shape[-1]) != VIRTUAL_LANES:
        # Not in panels: rows of the lane operand cross all columns, and each may be on a page of
        # its own, so a few rows of the result meet all of it.
        if weights <= target.l2 * 0.75:
            return Blocks(rows=tile.rows if plan.p is None else None)
        return Blocks(columns=_fitting_columns(n, k, width, target))
    if taken > target.l2 * 0.8 and weights > target.l2 * FEW_WEIGHTS:
        return Blocks(columns=_fitting_columns(n, k, width, target))
    large = weights <= target.l2 * 0.75 and m * (k + n) * 4 > target.l2
    if plan.p is not None or not (large or taken > target.l2 * 0.8):
        return Blocks()
    room = target.l2 * 0.8 - 2 * width * k * 4
    rows = max(8, int(room / ((k + n) * 4)) // tile.rows) * tile.rows
    return Blocks(rows=rows if rows < m else None)


def _fitting_columns(n: int, k: int, width: int, target: Target) -> int | None:
    """Columns whose weights fill L2 while all rows pass; None where one pass over n will do."""
    columns = max(width, int(target.l2 * 0.4) // (k * 4) // width * width)
    return columns if columns < n else None


def lane_operand(out: Stage, stage: Stage, plan: Contraction) -> Read:
    """The read that moves with the lanes."""
    lane, row = (stage_axis(stage, out, x) for x in (plan.n, plan.m))
    axes = {a.var.name: a.var for a in stage.axes}
    moving = [r for r in reads(stage.value) if _moves(r, axes[str(lane)])]
    # Where both move, the rows' operand is the one that moves with the rows too.
    return next((r for r in moving if row is None or not _moves(r, axes[row])), moving[0])


def _moves(r: Read, axis: Var) -> bool:
    return any(not free_of(i, axis) for i in r.index)


def is_worth_fetching(
    out: Stage, stage: Stage, plan: Contraction, tile: Tile, blocks: Blocks, target: Target
) -> bool:
    """Do weights come in panels from beyond L2, and is there enough to do with each panel that the
    next one can be fetched meanwhile, and little enough that it matters?"""
    operand = lane_operand(out, stage, plan).tensor
    size, (m, _, p, _) = known(prod(operand.shape)), extents(out, stage, plan)
    if target.is_recompiled:
        return False
    if not (plan.product and plan.shared) or plan.m is None or len(operand.shape) < 3:
        return False
    if known(operand.shape[-1]) != VIRTUAL_LANES or size is None:
        return False
    if size * DTYPES[operand.dtype].bytes <= target.l2:
        return False
    passing = blocks.rows or m
    return passing is None or p is None or tile.rows * tile.lines < passing * p <= MOST_ROWS


def is_scattered(out: Stage, stage: Stage, plan: Contraction) -> bool:
    """Do the rows of the lane operand lie so far apart that each is on a page of its own, and is
    there enough to do with them that a copy, which is dense, is worth it?"""
    if plan.m is None or len(stage.reduction) != 1 or not (plan.shared and plan.product):
        return False
    r = lane_operand(out, stage, plan)
    k, m = stage.reduction[0], known(out.axes[plan.m].extent)
    size, n = known(k.extent), known(out.axes[plan.n].extent)
    plain = all(isinstance(i, Var) for i in r.index) and len(set(r.index)) == len(r.index)
    once = sum(other.tensor is r.tensor for other in reads(stage.value)) == 1
    if not (plain and once and k.var in r.index and m and n and size):
        return False
    pitch = known(prod(r.tensor.shape[r.index.index(k.var) + 1 :]))
    if pitch is None or r.index[-1] is k.var:
        return False
    far = pitch >= 2 * n and size * pitch * 4 > PAGES * 4096
    return far and m >= COPY_FROM and size * n * 4 <= MOST_COPIED


def stage_axis(stage: Stage, out: Stage, position: int | None) -> str | None:
    """The reduction's name for an axis of the result."""
    positions = axis_positions(stage, out)
    if position is None or positions is None or position not in positions:
        return None
    return stage.axes[positions.index(position)].var.name
