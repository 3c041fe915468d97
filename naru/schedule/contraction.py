"""The default schedule of sums of products: register tiles, cache blocks, copies.

A tile of `rows` × `vectors` accumulators lives in registers while the whole reduction passes; rows
may come from two axes (the pixels of several image lines). Tiles run n.o, then m.o inside, so that
a panel of weights is fetched once while the rows of the other operand, in L2, pass by. Where those
of a matrix product are more than L2 holds, they pass in blocks, for each of which all panels are
fetched; where the weights are too many for that, in blocks of columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from naru.ir.expr import Binary, Read, Var, walk
from naru.ir.simplify import free_of, known, prod
from naru.ir.tensor import Stage, TensorFunction, reads
from naru.schedule.algorithms import copy_operand
from naru.schedule.analysis import (
    VIRTUAL_LANES,
    access,
    axis_positions,
    lane_sizes,
    lane_steps,
    share,
    whole_and_rest,
)
from naru.schedule.split_sums import split_sum
from naru.schedule.steps import ComputeAt, Order, Schedule, Split, Step, Unroll, Vectorize
from naru.targets import Target

ASSUMED_ROWS = 128  # an extent that is not known when the tile is chosen
UNROLL_LIMIT = 8  # a reduction loop this short is unrolled
# Cycles that a row of a tile costs for one step of k, beside its multiply-adds: its operand comes
# from L1, or from far, where fewer rows (wider tiles) keep it in L1 while the columns pass.
NEAR_ROW, FAR_ROW = 0.06, 0.1
PAGES = 64  # whose addresses a core has at hand
COPY_FROM = 96  # rows that use an operand, for which a dense copy of it pays
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


# --- what it is -----------------------------------------------------------------------------------


def find_contraction(out: Stage, stage: Stage, lanes: int) -> Contraction | None:
    """Does the reduction run its lanes along the result's last axis, one of its own?"""
    positions = axis_positions(stage, out)
    found = reads(stage.value)
    if positions is None or not found or len(out.axes) - 1 not in positions:
        return None
    wide = max(lanes, VIRTUAL_LANES) if lanes > 1 else lanes
    n = len(out.axes) - 1
    lane_axis = stage.axes[positions.index(n)].var
    kinds = [access(r, lane_axis, wide) for r in found]
    if "contiguous" not in kinds or "gather" in kinds:
        return None
    moving = [r for r, kind in zip(found, kinds, strict=True) if kind == "contiguous"]
    product = any(isinstance(e, Binary) and e.op == "mul" for e in walk(stage.value))
    others = sorted((p for p in positions if p != n), reverse=True)
    still = [p for p in others if _is_free(moving, stage.axes[positions.index(p)].var)]
    if still:
        return Contraction(n, still[0], next(iter(still[1:]), None), product=product)
    return Contraction(n, next(iter(others), None), shared=not others, product=product)


def _is_free(moving: list[Read], axis: Var) -> bool:
    return all(free_of(i, axis) for r in moving for i in r.index)


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


def choose_tile(
    m: int | None,
    n: int | None,
    target: Target,
    lanes: int,
    *,
    shared: bool = True,
    p: int | None = None,
    row_cost: float = NEAR_ROW,
) -> Tile:
    """The cheapest tile for an m × n result (p times, if p is given) whose accumulators, lane
    operands and one broadcast fit the registers. None for m or n: an extent that is not known."""
    columns = n or 4 * ASSUMED_ROWS
    unit = max(1, VIRTUAL_LANES // lanes)  # packed panels are 16 wide: a tile takes whole ones
    unit = min(unit, -(-columns // lanes))
    most = 4 if m != 1 or p else 12  # one row needs many columns to hide the latency
    best, chosen = float("inf"), Tile(1, unit)
    for vectors in range(unit, max(most, unit) + 1, unit):
        free = (target.registers - 1 - (vectors if shared else 2)) // vectors
        for rows in range(1, free + 1):
            # Lines are combined only where a whole line is one tile.
            lines = range(1, free // rows + 1) if m == rows and p else (1,)
            for some in lines:
                tile = Tile(rows, vectors, some)
                cost = _total_cost(tile, m or ASSUMED_ROWS, columns, p or 1, lanes, row_cost)
                if cost < best * 0.999:
                    best, chosen = cost, tile
    return chosen


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
    name = _stage_axis(stage, out, plan.n)
    lane = next(a.var for a in stage.axes if a.var.name == name)
    return next(r for r in reads(stage.value) if not all(free_of(i, lane) for i in r.index))


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


def _stage_axis(stage: Stage, out: Stage, position: int | None) -> str | None:
    """The reduction's name for an axis of the result."""
    positions = axis_positions(stage, out)
    if position is None or positions is None or position not in positions:
        return None
    return stage.axes[positions.index(position)].var.name


# --- the steps ------------------------------------------------------------------------------------


def schedule_contraction(
    tf: TensorFunction, out: Stage, stage: Stage, plan: Contraction, target: Target, lanes: int
) -> tuple[TensorFunction, Schedule]:
    """n.o, p.o, m.o around a register tile; the reduction's loops outside the tile's."""
    copied: tuple[str, ...] = ()
    if is_scattered(out, stage, plan):
        operand = lane_operand(out, stage, plan).tensor
        tf, copied = copy_operand(tf, stage, operand, "A"), (f"copy {operand.name}",)
        stage = next(s for s in tf.stages if s.tensor is stage.tensor)
    m = 1 if plan.m is None else known(out.axes[plan.m].extent)
    p = None if plan.p is None else known(out.axes[plan.p].extent)
    if plan.product and plan.shared:
        n = known(out.axes[plan.n].extent)
        row_cost = FAR_ROW if rows_are_far(out, stage, plan, target) else NEAR_ROW
        tile = choose_tile(m, n, target, lanes, p=p, row_cost=row_cost)
    else:
        tile = Tile(min(4, m or 4), max(1, VIRTUAL_LANES // lanes))
    blocks = choose_blocks(out, stage, plan, tile, target, lanes)
    order = _loop_order(out, plan, tile, blocks)
    steps = _result_steps(out, plan, tile, lanes, blocks)
    steps.append(Order(out.tensor.name, tuple(order)))
    outside = [x for x in order if not _in_tile(x, out, plan, blocks)]
    steps += share(out, outside, steps)
    steps.append(ComputeAt(stage.tensor.name, out.tensor.name, outside[-1]))
    lane, rows = _tile_axes(out, stage, plan, tile)
    if copied:
        made = next(s for s in tf.stages if s.tensor.name == "A")
        tiled = (plan.n, plan.m, plan.p)
        around = ["", *(a.var.name for k, a in enumerate(out.axes) if k not in tiled)]
        steps.append(ComputeAt("A", out.tensor.name, around[-1]))
        steps += lane_steps(made, lanes, 4)
    split = split_sum(tf, stage) if plan.product else None
    if split is None:
        steps += _tile_steps(stage, lane, rows, lanes, *_sum_loops(stage, product=plan.product))
        return tf, Schedule(tuple(steps), copied or ("direct",))
    new, whole, parts = split
    passes = [a.var.name for a in whole.reduction]
    steps += _tile_steps(whole, lane, rows, lanes, passes, [])
    steps.append(ComputeAt(parts.tensor.name, whole.tensor.name, passes[-1]))
    steps += _tile_steps(parts, lane, rows, lanes, *_sum_loops(parts, product=True))
    return new, Schedule(tuple(steps), (*(copied or ("direct",)), f"parts {stage.tensor.name}"))


def _names(out: Stage, plan: Contraction, blocks: Blocks) -> tuple[str, str, str]:
    """The result's axes n and m, inside their blocks if blocked, and p; "" where there is none."""
    n = out.axes[plan.n].var.name
    m = "" if plan.m is None else out.axes[plan.m].var.name
    p = "" if plan.p is None else out.axes[plan.p].var.name
    return f"{n}.i" if blocks.columns else n, f"{m}.i" if blocks.rows else m, p


def _in_tile(loop: str, out: Stage, plan: Contraction, blocks: Blocks) -> bool:
    n, m, p = _names(out, plan, blocks)
    return loop in (f"{n}.i.o", f"{n}.i.i", f"{m}.i", f"{p}.i")


def _loop_order(out: Stage, plan: Contraction, tile: Tile, blocks: Blocks) -> list[str]:
    n, m, p = _names(out, plan, blocks)
    lined = tile.lines > 1
    # Under a panel of weights all lines of an image pass, not the other way round.
    taken = [plan.n, plan.m, plan.p if plan.shared else None]
    inner = inner_groups(out, plan)
    others = [a.var.name for k, a in enumerate(out.axes) if k not in taken and k not in inner]
    panels = [f"{n[:-2]}.o", f"{n}.o"] if blocks.columns else [f"{n}.o"]
    lines = [f"{p}.o" if lined else p] if p and plan.shared else []
    rows = [*lines, f"{m}.o"] if m else lines
    inside = [x for x, there in ((f"{p}.i", lined), (f"{m}.i", bool(m))) if there]
    outer = [panels[0], *rows, *panels[1:]] if plan.shared else [*rows, *panels]
    if inner:
        outer = [*rows, *(out.axes[k].var.name for k in inner), *panels]
    if blocks.rows:
        outer = [f"{m[:-2]}.o", *outer]
    return [*others, *outer, *inside, f"{n}.i.o", f"{n}.i.i"]


def inner_groups(out: Stage, plan: Contraction) -> list[int]:
    """Axes that pass inside of the rows' loops: groups so small that several share a cache line."""
    n = known(out.axes[plan.n].extent)
    if n is None or n >= VIRTUAL_LANES or plan.m is None or not plan.shared:
        return []
    return [k for k in range(plan.m + 1, plan.n) if k not in (plan.m, plan.p)]


def _result_steps(
    out: Stage, plan: Contraction, tile: Tile, lanes: int, blocks: Blocks
) -> list[Step]:
    name, extent = out.tensor.name, known(out.axes[plan.n].extent)
    n, m, p = _names(out, plan, blocks)
    steps: list[Step] = []
    columns = blocks.columns
    if columns:
        steps.append(Split(name, n[:-2], lane_sizes(extent, columns, lanes)))
        # Blocks are whole panels but the last: what it leaves decides the panels' own tail.
        extent = columns + (extent or 0) % columns
    steps.append(Split(name, n, lane_sizes(extent, tile.vectors * lanes, lanes)))
    steps += [Split(name, f"{n}.i", (lanes,)), Unroll(name, f"{n}.i.o")]
    steps.append(Vectorize(name, f"{n}.i.i"))
    if plan.p is not None and tile.lines > 1:
        lines = known(out.axes[plan.p].extent) or 1
        steps += [Split(name, p, *equal_parts(lines, tile.lines)), Unroll(name, f"{p}.i")]
    if plan.m is not None:
        rows = known(out.axes[plan.m].extent)
        sizes, counts = equal_parts(rows, tile.rows) if rows else (cascade(tile.rows), ())
        if rows and blocks.rows:
            # Whole tiles in all blocks but the last.
            whole = -(-rows // -(-rows // blocks.rows))
            whole = -(-whole // tile.rows) * tile.rows
            steps.append(Split(name, m[:-2], whole_and_rest(rows, whole)))
            rest = rows % whole % tile.rows
            sizes, counts = ((tile.rows, rest) if rest else (tile.rows,)), ()
        steps += [Split(name, m, sizes, counts), Unroll(name, f"{m}.i")]
    return steps


def cascade(rows: int) -> tuple[int, ...]:
    """Tiles for an extent that is not known: full ones, then smaller ones, down to one row."""
    middle = (max(2, rows // 3),) if rows > 4 else ()
    return (rows, *middle, 1) if rows > 1 else (1,)


def _tile_axes(out: Stage, stage: Stage, plan: Contraction, tile: Tile) -> tuple[str, list[str]]:
    """Names of the reduction's axes in the lanes and in the rows of the tile."""
    rows = [_stage_axis(stage, out, plan.p if tile.lines > 1 else None)]
    rows = [x for x in (*rows, _stage_axis(stage, out, plan.m)) if x is not None]
    return str(_stage_axis(stage, out, plan.n)), rows


def _tile_steps(
    stage: Stage, lane: str, rows: list[str], lanes: int, loops: list[str], unrolled: list[Step]
) -> list[Step]:
    """Inside: the reduction's loops, then the rows and vectors of the tile, all unrolled."""
    inner = stage.tensor.name
    fixed = [a.var.name for a in stage.axes if a.var.name not in (lane, *rows)]
    steps: list[Step] = [Split(inner, lane, (lanes,)), Unroll(inner, f"{lane}.o")]
    steps.append(Vectorize(inner, f"{lane}.i"))
    steps += [Unroll(inner, x) for x in rows]
    order = (*fixed, *loops, *rows, f"{lane}.o", f"{lane}.i")
    return [*steps, *unrolled, Order(inner, order)]


def _sum_loops(stage: Stage, *, product: bool) -> tuple[list[str], list[Step]]:
    """The reduction's loops, and the steps that unroll short ones."""
    inner = stage.tensor.name
    loops = [a.var.name for a in stage.reduction]
    last = known(stage.reduction[-1].extent)
    if last is not None and last <= UNROLL_LIMIT:
        return loops, [Unroll(inner, loops[-1])] if len(loops) > 1 else []
    if last is None or not product:
        return loops, []
    # Two steps of k a round: a taken branch every dozen cycles costs the front end one of them.
    k = loops.pop()
    steps: list[Step] = [Split(inner, k, (2, 1) if last % 2 else (2,))]
    steps.append(Unroll(inner, f"{k}.i"))
    return [*loops, f"{k}.o", f"{k}.i"], steps
