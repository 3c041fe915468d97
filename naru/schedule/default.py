"""The schedule that a kernel gets without tuning: a small analytic model, no measurement.

Which loop runs in the lanes follows from how memory lies; which tile a contraction gets, from the
register file and from how many loads its multiply-adds need (the score of oneDNN's brgemm blocking).
"""

from __future__ import annotations

from dataclasses import dataclass

from naru.dtypes import DTYPES
from naru.ir.expr import Binary, Expr, Read, Var, walk
from naru.ir.loop import Buffer
from naru.ir.simplify import add, free_of, known, mul, substitute
from naru.ir.tensor import Stage, Tensor, TensorFunction, reads
from naru.schedule.rewrites import copy_operand
from naru.schedule.steps import (
    ComputeAt,
    Order,
    Parallel,
    Rfactor,
    Schedule,
    Split,
    Step,
    Unroll,
    Vectorize,
)
from naru.schedule.vector import Lane, contiguous_base
from naru.targets import Target

VIRTUAL_LANES = 16  # of reductions: the same on every target, so that results are (classes strict, portable)
ASSUMED_ROWS = 128  # an extent that is not known when the tile is chosen
COPY_LIMIT = 128 * 1024  # bytes of stack for the copy of an operand's tile
UNROLL_LIMIT = 8  # a reduction loop this short is unrolled


def access(r: Read, axis: Var, lanes: int) -> str:
    """How a read moves with an axis: uniform, contiguous (in aligned runs of `lanes`), or gather."""
    if all(free_of(i, axis) for i in r.index):
        return "uniform"
    lane = Lane(Var("lane", hi=lanes - 1), lanes)
    at: Expr = add(mul(Var("q"), lanes), lane.var)
    index = tuple(substitute(i, {axis: at}) for i in r.index)
    buffer = Buffer(r.tensor.name, r.tensor.dtype, r.tensor.shape)
    return "gather" if contiguous_base(buffer, index, lane) is None else "contiguous"


def lanes_of(tf: TensorFunction, target: Target) -> int:
    """Lanes of the widest element that the kernel touches."""
    tensors: list[Tensor] = [*tf.inputs, *(s.tensor for s in tf.stages)]
    bits = [DTYPES[t.dtype].bits for t in tensors]
    bits += [DTYPES[e.dtype].bits for s in tf.stages for e in walk(s.value) if e.dtype != "index"]
    return max(1, target.vector_bits // max([*bits, 8]))


def default_schedule(tf: TensorFunction, target: Target) -> tuple[TensorFunction, Schedule]:
    """The default for a prepared TensorFunction (see rewrites.prepare) of one output: the function
    after the algorithm's rewrites, and the steps."""
    out = next(s for s in tf.stages if s.tensor in tf.outputs)
    reductions = [s for s in tf.stages if s.combine is not None]
    lanes = lanes_of(tf, target)
    if len(reductions) == 1:
        plan = find_contraction(out, reductions[0], lanes)
        if plan is not None:
            return schedule_contraction(tf, out, reductions[0], plan, target, lanes)
    return tf, Schedule(tuple(row_steps(out, reductions, lanes)))


# --- contractions -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contraction:
    """Out axes by position: `n` runs in the lanes, `m` (if any) in the rows of the register tile."""

    n: int
    m: int | None
    shared: bool  # the lane operand does not move with m, so a tile reuses it


def axis_positions(stage: Stage, out: Stage) -> list[int] | None:
    """Out's axis for each axis of a reduction that out reads at plain axes; None if it does not."""
    order = {a.var: k for k, a in enumerate(out.axes)}
    for r in reads(out.value):
        if r.tensor is stage.tensor:
            if all(isinstance(i, Var) and i in order for i in r.index):
                return [order[i] for i in r.index if isinstance(i, Var)]
            return None
    return None


def find_contraction(out: Stage, stage: Stage, lanes: int) -> Contraction | None:
    """Does the reduction combine products (or windows) with lanes along one of its own axes?"""
    positions = axis_positions(stage, out)
    found = reads(stage.value)
    if positions is None or not found or not stage.axes:
        return None
    wide = max(lanes, VIRTUAL_LANES) if lanes > 1 else lanes
    for k in reversed(range(len(stage.axes))):
        kinds = [access(r, stage.axes[k].var, wide) for r in found]
        if positions[k] == len(out.axes) - 1 and "contiguous" in kinds and "gather" not in kinds:
            moving = [r for r, kind in zip(found, kinds, strict=True) if kind == "contiguous"]
            return Contraction(positions[k], *_find_rows(stage, positions, k, moving))
    return None


def _find_rows(
    stage: Stage, positions: list[int], n: int, moving: list[Read]
) -> tuple[int | None, bool]:
    """The axis for the rows of a tile: the innermost one that the lane operand does not move with."""
    others = sorted((p, k) for k, p in enumerate(positions) if k != n)
    for p, k in reversed(others):
        if all(free_of(i, stage.axes[k].var) for r in moving for i in r.index):
            return p, True
    return (others[-1][0], False) if others else (None, True)


@dataclass(frozen=True)
class Tile:
    """rows × (vectors · lanes) accumulators."""

    rows: int
    vectors: int


def tile_cost(rows: int, vectors: int) -> float:
    """Cycles for one step of k: two multiply-adds and two loads a cycle, four cycles of latency.
    The small terms rank tiles that are equal otherwise: lane operands come from L2, rows from L1."""
    loads = rows + vectors
    return max(rows * vectors / 2, loads / 2, 4.0) + 0.06 * rows + 0.25 * vectors


def equal_parts(extent: int, most: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divides an extent into tiles of at most `most` whose sizes differ by at most one:
    49 by 12 -> sizes (10, 9), counts (4, 1)."""
    tiles = -(-extent // most)
    size, larger = divmod(extent, tiles)
    if not larger:
        return (size,), (tiles,)
    return (size + 1, size), (larger, tiles - larger)


def choose_tile(m: int | None, n: int | None, target: Target, lanes: int, shared: bool) -> Tile:
    """The cheapest tile for an m × n result whose accumulators, lane operands and one broadcast fit
    the registers. None stands for an extent that is not known."""
    rows_wanted = m or ASSUMED_ROWS
    columns = n or 4 * ASSUMED_ROWS
    unit = max(1, VIRTUAL_LANES // lanes)  # packed panels are 16 wide: a tile takes whole ones
    best, tile = float("inf"), Tile(1, unit)
    most = 4 if rows_wanted > 1 else 12  # one row needs many columns to hide the latency
    for vectors in range(unit, max(most, unit) + 1, unit):
        extra = vectors if shared else 2
        for rows in range(1, (target.registers - 1 - extra) // vectors + 1):
            sizes, counts = equal_parts(rows_wanted, rows)
            whole, rest = divmod(columns, vectors * lanes)
            cost = 0.0
            for size, count in zip(sizes, counts, strict=True):
                cost += count * whole * tile_cost(size, vectors)
                if rest:
                    cost += count * tile_cost(size, -(-rest // lanes))
            if cost < best * 0.999:
                best, tile = cost, Tile(rows, vectors)
    return tile


def schedule_contraction(
    tf: TensorFunction,
    out: Stage,
    stage: Stage,
    plan: Contraction,
    target: Target,
    lanes: int,
) -> tuple[TensorFunction, Schedule]:
    """n.o, m.o around a register tile m.i × n.i; the reduction's loops outside the tile's."""
    n_axis = out.axes[plan.n]
    m_axis = out.axes[plan.m] if plan.m is not None else None
    m_extent = known(m_axis.extent) if m_axis else 1
    tile = choose_tile(m_extent, known(n_axis.extent), target, lanes, plan.shared)
    product = any(isinstance(e, Binary) and e.op == "mul" for e in walk(stage.value))
    if not product or not plan.shared:
        tile = Tile(min(4, m_extent or 4), max(1, VIRTUAL_LANES // lanes))
    blocking = choose_blocking(out, stage, plan, tile, target, lanes) if product else None
    steps = _result_steps(out, plan, tile, lanes, blocking)
    at = next(s for s in steps if isinstance(s, Order)).loops
    where = _tile_loop(out, plan, blocking)
    assert where in at
    algorithm = ("direct",)
    if blocking and blocking.copied is not None:
        name = "A"
        tf = copy_operand(tf, stage, blocking.copied, name)
        stage = next(s for s in tf.stages if s.tensor is stage.tensor)
        copy = next(s for s in tf.stages if s.tensor.name == name)
        steps += _copy_steps(copy, out, plan, lanes)
        algorithm = ("direct", f"copy {blocking.copied.name}")
    steps.append(ComputeAt(stage.tensor.name, out.tensor.name, where))
    steps += _tile_steps(out, stage, plan, lanes)
    return tf, Schedule(tuple(steps), algorithm)


@dataclass(frozen=True)
class Blocking:
    """n in blocks of `columns`, whose weights stay in L2 while all rows pass; `copied`: the operand
    whose rows, a power of two apart, would evict each other, copied tile by tile."""

    columns: int
    copied: Tensor | None


def choose_blocking(
    out: Stage, stage: Stage, plan: Contraction, tile: Tile, target: Target, lanes: int
) -> Blocking | None:
    """Only for plain matrix products whose left operand does not fit L2, or whose rows alias."""
    if plan.m is None or len(stage.reduction) != 1 or not plan.shared:
        return None
    m, n = known(out.axes[plan.m].extent), known(out.axes[plan.n].extent)
    k = known(stage.reduction[0].extent)
    if m is None or n is None or k is None or m < 2 * tile.rows or n < 2 * tile.vectors * lanes:
        return None
    aliased = k * 4 % 2048 == 0 and k * 4 >= 2048
    if m * k * 4 <= target.l2 * 0.6 and not aliased:
        return None
    width = tile.vectors * lanes
    columns = max(width, int(target.l2 * 0.5) // (k * 4) // width * width)
    left = _row_operand(stage, out, plan)
    fits = tile.rows * (k + 16) * 4 <= COPY_LIMIT
    return Blocking(min(columns, n), left if aliased and fits else None)


def _row_operand(stage: Stage, out: Stage, plan: Contraction) -> Tensor | None:
    """The operand that is read at [m, k], plainly."""
    positions = axis_positions(stage, out)
    assert positions is not None
    assert plan.m is not None
    m = stage.axes[positions.index(plan.m)].var
    k = stage.reduction[0].var
    for r in reads(stage.value):
        if len(r.index) == 2 and r.index[0] is m and r.index[1] is k:
            return r.tensor
    return None


def _tile_loop(out: Stage, plan: Contraction, blocking: Blocking | None) -> str:
    """The loop of the result inside which one register tile is computed."""
    n = out.axes[plan.n].var.name
    if blocking:
        return f"{n}.i.o"
    if plan.m is None or not plan.shared:
        return f"{n}.o"
    return f"{out.axes[plan.m].var.name}.o"


def _result_steps(
    out: Stage, plan: Contraction, tile: Tile, lanes: int, blocking: Blocking | None
) -> list[Step]:
    name, n = out.tensor.name, out.axes[plan.n].var.name
    extent, width = known(out.axes[plan.n].extent), tile.vectors * lanes
    steps: list[Step] = []
    outer = [f"{n}.o"]
    if blocking:
        steps.append(Split(name, n, _lane_sizes(extent, blocking.columns, lanes)))
        n, extent = f"{n}.i", blocking.columns
        outer.append(f"{n}.o")
    steps.append(Split(name, n, _lane_sizes(extent, width, lanes)))
    steps += [Split(name, f"{n}.i", (lanes,)), Unroll(name, f"{n}.i.o")]
    steps.append(Vectorize(name, f"{n}.i.i"))
    others = [a.var.name for k, a in enumerate(out.axes) if k not in (plan.n, plan.m)]
    tail = [f"{n}.i.o", f"{n}.i.i"]
    if plan.m is None:
        order = [*others, *outer, *tail]
    else:
        m, rows = out.axes[plan.m].var.name, known(out.axes[plan.m].extent)
        sizes, counts = equal_parts(rows, tile.rows) if rows else (_row_sizes(tile.rows), ())
        steps += [Split(name, m, sizes, counts), Unroll(name, f"{m}.i")]
        loops = [outer[0], f"{m}.o", *outer[1:]] if plan.shared else [f"{m}.o", *outer]
        order = [*others, *loops, f"{m}.i", *tail]
    steps.append(Order(name, tuple(order)))
    return steps + _parallel(out, order, steps)


def _copy_steps(copy: Stage, out: Stage, plan: Contraction, lanes: int) -> list[Step]:
    """The rows of a tile, copied in vectors along k, once for all the column tiles of a block."""
    assert plan.m is not None
    name, k = copy.tensor.name, copy.axes[-1].var.name
    return [
        ComputeAt(name, out.tensor.name, f"{out.axes[plan.m].var.name}.o"),
        Split(name, k, (lanes,)),
        Vectorize(name, f"{k}.i"),
    ]


def _tile_steps(out: Stage, stage: Stage, plan: Contraction, lanes: int) -> list[Step]:
    positions = axis_positions(stage, out)
    assert positions is not None
    inner = stage.tensor.name
    names = {p: a.var.name for p, a in zip(positions, stage.axes, strict=True)}
    n, m = names[plan.n], names.get(plan.m) if plan.m is not None else None
    fixed = [x for x in names.values() if x not in (n, m)]
    loops = [a.var.name for a in stage.reduction]
    steps: list[Step] = [Split(inner, n, (lanes,)), Unroll(inner, f"{n}.o")]
    steps.append(Vectorize(inner, f"{n}.i"))
    rows = [m] if m is not None else []
    steps += [Unroll(inner, x) for x in rows]
    steps.append(Order(inner, (*fixed, *loops, *rows, f"{n}.o", f"{n}.i")))
    short = [a for a in stage.reduction if (known(a.extent) or 99) <= UNROLL_LIMIT]
    if short and len(stage.reduction) > 1 and short[-1] is stage.reduction[-1]:
        steps.append(Unroll(inner, short[-1].var.name))
    return steps


def _lane_sizes(extent: int | None, tile: int, lanes: int) -> tuple[int, ...]:
    if extent is None:
        return (tile, lanes) if tile > lanes else (tile,)
    rest = extent % tile
    covered = -(-rest // lanes) * lanes
    return (tile,) if not rest or covered == tile else (tile, covered) if extent > tile else (covered,)


def _row_sizes(rows: int) -> tuple[int, ...]:
    """A cascade for an extent that is not known: full tiles, then smaller ones, down to one row."""
    sizes = [rows]
    if rows > 4:
        sizes.append(max(2, rows // 3))
    return (*sizes, 1) if rows > 1 else (1,)


def _parallel(out: Stage, order: list[str], steps: list[Step]) -> list[Step]:
    """The outermost loop that runs more than once is shared among the threads."""
    extents = {a.var.name: known(a.extent) for a in out.axes}
    splits = {s.axis: s for s in steps if isinstance(s, Split)}
    for loop in order:
        axis = loop.removesuffix(".o")
        extent = extents.get(axis)
        if loop == f"{axis}.o" and axis in splits and axis in extents:
            size = splits[axis].sizes[0]
            if extent is None or extent >= 2 * size:
                return [Parallel(out.tensor.name, loop)]
        elif axis in extents and loop == axis and (extent is None or extent > 1):
            return [Parallel(out.tensor.name, loop)]
        else:
            break
    return []


# --- everything else: rows, windows, elementwise --------------------------------------------------------


def row_steps(out: Stage, reductions: list[Stage], lanes: int) -> list[Step]:
    """Lanes along the result's last axis; reductions over contiguous axes in virtual lanes."""
    name = out.tensor.name
    steps: list[Step] = []
    order = [a.var.name for a in out.axes]
    if order:
        last = out.axes[-1]
        n, extent = last.var.name, known(last.extent)
        width = 4 * lanes if not reductions and (extent is None or extent >= 4 * lanes) else lanes
        steps.append(Split(name, n, _lane_sizes(extent, width, lanes)))
        steps += [Split(name, f"{n}.i", (lanes,)), Unroll(name, f"{n}.i.o")]
        steps.append(Vectorize(name, f"{n}.i.i"))
        order = [*order[:-1], f"{n}.o", f"{n}.i.o", f"{n}.i.i"]
        if not any(not s.axes for s in reductions):
            steps += _parallel(out, order, steps)
    by_tensor = {s.tensor: s for s in reductions}
    for s in reductions:
        steps += _place_reduction(s, out, by_tensor, order, lanes)
    return steps


def _place_reduction(
    s: Stage, out: Stage, stages: dict[Tensor, Stage], order: list[str], lanes: int
) -> list[Step]:
    inner = s.tensor.name
    positions = through(s, out, stages)
    last = out.axes[-1].var.name if out.axes else ""
    along_lanes = bool(positions) and len(out.axes) - 1 in positions
    at = ""
    if along_lanes:
        at = f"{last}.o"
    elif positions:
        at = out.axes[max(positions)].var.name
    steps: list[Step] = [ComputeAt(inner, out.tensor.name, at)]
    if along_lanes:
        axis = s.axes[positions.index(len(out.axes) - 1)].var.name
        others = [a.var.name for a in s.axes if a.var.name != axis]
        steps += [Split(inner, axis, (lanes,)), Unroll(inner, f"{axis}.o")]
        steps.append(Vectorize(inner, f"{axis}.i"))
        loops = [a.var.name for a in s.reduction]
        steps.append(Order(inner, (*others, *loops, f"{axis}.o", f"{axis}.i")))
        return steps
    innermost = s.reduction[-1]
    found = [r for r in reads(s.value) if r.tensor not in stages]
    if any(access(r, innermost.var, VIRTUAL_LANES) == "contiguous" for r in found) or not found:
        steps.append(Rfactor(inner, innermost.var.name, VIRTUAL_LANES))
    return steps


def through(s: Stage, out: Stage, stages: dict[Tensor, Stage]) -> list[int]:
    """Out's axis for each axis of s, mapped through other reductions where only those read s."""
    direct = axis_positions(s, out)
    if direct is not None:
        return direct
    for other in stages.values():
        inner = axis_positions(s, other)
        if inner is not None:
            outer = through(other, out, stages)
            return [outer[k] for k in inner]
    return []


