"""The default schedule of sums of products: register tiles, cache blocks, copies.

A tile of `rows` × `vectors` accumulators lives in registers while the whole reduction passes; rows
may come from two axes (the pixels of several image lines). Tiles run n.o, then m.o inside, so that
a panel of weights is fetched once while the rows of the other operand, in L2, pass by. Where those
of a matrix product are more than L2 holds, they pass in blocks, for each of which all panels are
fetched; where the weights are too many for that, in blocks of columns.
"""

from __future__ import annotations

from naru.ir.expr import Binary, Read, Var, walk
from naru.ir.simplify import free_of, known
from naru.ir.tensor import Stage, TensorFunction, reads
from naru.schedule.algorithms import copy_operand, cross_lines
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
from naru.schedule.steps import ComputeAt, Order, Prefetch, Schedule, Split, Step, Unroll, Vectorize
from naru.schedule.tiles import (
    UNROLL_LIMIT,
    Blocks,
    Contraction,
    Tile,
    cascade,
    choose_blocks,
    equal_parts,
    is_scattered,
    is_worth_fetching,
    lane_operand,
    should_cross,
    stage_axis,
    tile_for,
    tile_places,
    unrolls,
)
from naru.targets import Target

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
    product = any(
        isinstance(e, Binary) and e.op in ("mul", "dot2", "dot4") for e in walk(stage.value)
    )
    others = sorted((p for p in positions if p != n), reverse=True)
    still = [p for p in others if _is_free(moving, stage.axes[positions.index(p)].var)]
    if still:
        return Contraction(n, still[0], next(iter(still[1:]), None), product=product)
    return Contraction(n, next(iter(others), None), shared=not others, product=product)


def _is_free(moving: list[Read], axis: Var) -> bool:
    return all(free_of(i, axis) for r in moving for i in r.index)


# --- the steps ------------------------------------------------------------------------------------


def schedule_contraction(
    tf: TensorFunction,
    out: Stage,
    stage: Stage,
    plan: Contraction,
    target: Target,
    lanes: int,
    *,
    whole: bool = True,
) -> tuple[TensorFunction, Schedule]:
    """n.o, p.o, m.o around a register tile; the reduction's loops outside the tile's. `whole`: the
    result is all that its memory holds, no region of it."""
    algorithm: list[str] = []
    crossed = whole and should_cross(out, stage, plan, target, lanes) and cross_lines(tf, stage)
    if crossed:
        tf, stage = crossed
        out = next(s for s in tf.stages if s.tensor in tf.outputs)
        plan = Contraction(plan.n - 1, plan.n - 2)
        algorithm.append(f"lines {stage.tensor.name}")
    copied = is_scattered(out, stage, plan)
    if copied:
        operand = lane_operand(out, stage, plan).tensor
        tf = copy_operand(tf, stage, operand, "A")
        stage = next(s for s in tf.stages if s.tensor is stage.tensor)
        algorithm.append(f"copy {operand.name}")
    tile = tile_for(out, stage, plan, target, lanes)
    blocks = choose_blocks(out, stage, plan, tile, target, lanes)
    order = _loop_order(out, plan, tile, blocks)
    steps = _result_steps(out, plan, tile, lanes, blocks)
    steps.append(Order(out.tensor.name, tuple(order)))
    outside = [x for x in order if not _in_tile(x, out, plan, blocks)]
    steps += share(out, outside[:-1] if crossed else outside, steps)
    if crossed:  # so that where a line begins is known in each tile
        steps.append(Unroll(out.tensor.name, outside[-1]))
    steps.append(ComputeAt(stage.tensor.name, out.tensor.name, outside[-1]))
    lane, rows = _tile_axes(out, stage, plan, tile)
    if copied:
        steps += _copy_steps(tf, out, plan, lanes)
    split = split_sum(tf, stage) if plan.product else None
    if split is not None:
        tf, sums, parts = split
        passes = [a.var.name for a in sums.reduction]
        steps += tile_steps(sums, lane, rows, lanes, passes, [])
        steps.append(ComputeAt(parts.tensor.name, sums.tensor.name, passes[-1]))
        algorithm.append(f"parts {stage.tensor.name}")
    inner = stage if split is None else split[2]
    short = unrolls(inner, tile_places(out, stage, plan, tile, lanes), target)
    alone = tile.rows * tile.lines == 1
    loops, unrolled = sum_loops(inner, target, product=plan.product, short=short, alone=alone)
    steps += tile_steps(inner, lane, rows, lanes, loops, unrolled, wide=tile.is_wide)
    if is_worth_fetching(out, stage, plan, tile, blocks, target):
        loop = loops[-2] if loops[-1].endswith(".i") else loops[-1]
        panels = -(-tile.vectors * lanes // VIRTUAL_LANES)
        ahead = blocks.columns // VIRTUAL_LANES if blocks.columns else panels
        counted = [stage_axis(stage, out, x) for x in (plan.p, plan.m)]
        names = tuple(x for x in counted if x is not None)
        operand = lane_operand(out, stage, plan).tensor.name
        block = _rows_in_block(out, plan, tile, blocks) or 0
        fetched = Prefetch(inner.tensor.name, loop, operand, names, panels, ahead, block=block)
        steps.append(fetched)
    if not algorithm or algorithm[0].startswith("parts"):
        algorithm.insert(0, "direct")
    return tf, Schedule(tuple(steps), tuple(algorithm))


def _copy_steps(tf: TensorFunction, out: Stage, plan: Contraction, lanes: int) -> list[Step]:
    """The copy of the lane operand is made once for each round of the loops around the tiles'."""
    made = next(s for s in tf.stages if s.tensor.name == "A")
    tiled = (plan.n, plan.m, plan.p)
    around = ["", *(a.var.name for k, a in enumerate(out.axes) if k not in tiled)]
    return [ComputeAt("A", out.tensor.name, around[-1]), *lane_steps(made, lanes, 4)]


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
        whole = _rows_in_block(out, plan, tile, blocks)
        if rows and whole:
            steps.append(Split(name, m[:-2], whole_and_rest(rows, whole)))
            rest = rows % whole % tile.rows
            sizes, counts = ((tile.rows, rest) if rest else (tile.rows,)), ()
        steps += [Split(name, m, sizes, counts), Unroll(name, f"{m}.i")]
    return steps


def _rows_in_block(out: Stage, plan: Contraction, tile: Tile, blocks: Blocks) -> int | None:
    """Whole tiles in all blocks but the last; None where all rows pass at a time."""
    rows = None if plan.m is None else known(out.axes[plan.m].extent)
    if not rows or not blocks.rows:
        return None
    even = -(-rows // -(-rows // blocks.rows))
    return -(-even // tile.rows) * tile.rows


def _tile_axes(out: Stage, stage: Stage, plan: Contraction, tile: Tile) -> tuple[str, list[str]]:
    """Names of the reduction's axes in the lanes and in the rows of the tile."""
    rows = [stage_axis(stage, out, plan.p if tile.lines > 1 else None)]
    rows = [x for x in (*rows, stage_axis(stage, out, plan.m)) if x is not None]
    return str(stage_axis(stage, out, plan.n)), rows


def tile_steps(
    stage: Stage,
    lane: str,
    rows: list[str],
    lanes: int,
    loops: list[str],
    unrolled: list[Step],
    *,
    wide: bool = False,
) -> list[Step]:
    """Inside: the reduction's loops, then the rows and vectors of the tile, all unrolled. Vectors
    stand outside in a `wide` tile: the operands of its few rows stay in registers."""
    inner = stage.tensor.name
    fixed = [a.var.name for a in stage.axes if a.var.name not in (lane, *rows)]
    steps: list[Step] = [Split(inner, lane, (lanes,)), Unroll(inner, f"{lane}.o")]
    steps.append(Vectorize(inner, f"{lane}.i"))
    steps += [Unroll(inner, x) for x in rows]
    tile = [*rows, f"{lane}.o"] if not wide else [f"{lane}.o", *rows]
    order = (*fixed, *loops, *tile, f"{lane}.i")
    return [*steps, *unrolled, Order(inner, order)]


def sum_loops(
    stage: Stage, target: Target, *, product: bool, short: bool, alone: bool = False
) -> tuple[list[str], list[Step]]:
    """The reduction's loops, and the steps that unroll the last: a `short` one, or a part of it.
    `alone`: the tile has one row, whose many sums and weights to be widened fill the registers."""
    inner = stage.tensor.name
    loops = [a.var.name for a in stage.reduction]
    last = known(stage.reduction[-1].extent)
    if short:
        return loops, [Unroll(inner, loops[-1])]
    if last is None or last <= UNROLL_LIMIT or not product or target.is_recompiled:
        return loops, []
    if alone and any(r.tensor.dtype == "bf16" for r in reads(stage.value)):
        return loops, []
    # Two steps of k a round: a taken branch every dozen cycles costs the front end one of them.
    k = loops.pop()
    steps: list[Step] = [Split(inner, k, (2, 1) if last % 2 else (2,))]
    steps.append(Unroll(inner, f"{k}.i"))
    return [*loops, f"{k}.o", f"{k}.i"], steps
