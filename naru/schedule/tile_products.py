"""Sums of products in matrix registers: the schedules of `pack_tiles` and `tile_product`.

Two by two registers of 16 × 16 sums stay while all products of parts pass (kernels take eight
registers: four sums, two for each operand). Panels of 32 columns run outside, rows inside: a panel
of weights comes once from where it lies, while rows, in L2, pass by; of more rows than L2 holds, a
block at a time. The rows of an image run on from line to line, with the pixels that lie between
lines: what these give is not stored.
"""

from __future__ import annotations

import math

from naru.errors import ScheduleError
from naru.ir.expr import Read, Var, free_vars
from naru.ir.simplify import free_of, known
from naru.ir.tensor import Stage, TensorFunction, reads
from naru.ops.tile_product import DEPTH, SIDE
from naru.schedule.analysis import lane_sizes, share, whole_and_rest
from naru.schedule.steps import (
    ComputeAt,
    Expect,
    Order,
    Schedule,
    Split,
    Step,
    Tensorize,
    Unroll,
    Vectorize,
)
from naru.schedule.tile_rows import (
    cross_rows,
    has_parts,
    join_blocks,
    operands,
    places_of,
    products_of,
)
from naru.targets import Target

PAIR = 2 * SIDE  # rows and columns of sums in two registers side by side
NEAR = (
    0.5  # of L2: weights that stay there while rows pass, whose results are then written in whole
)
FILLED = 0.35  # of L2: what a block of rows takes
INSTRUCTION = "amx_bf16"


def schedule_tiles(
    tf: TensorFunction, stage: Stage, target: Target, lanes: int
) -> tuple[TensorFunction, Schedule]:
    """Panels, rows in blocks, two by two registers."""
    name = stage.tensor.name
    tf, stage = cross_rows(join_blocks(tf, stage), stage)
    out = next(s for s in tf.stages if s.tensor in tf.outputs)
    *outer, m, n = out.axes
    part = [outer.pop(0).var.name] if has_parts(out) else []
    places = [] if part else [out.axes[stage.axes.index(a)].var.name for a in places_of(stage)]
    outer = [a.var.name for a in outer if a.var.name not in places]
    row, weights = operands(stage)
    if free_of(row.index[-2], stage.axes[-2].var):
        raise ScheduleError(f"{name!r}: expected rows of packed tiles along {m.var.name!r}")
    rows, columns = known(m.extent), known(n.extent)
    lane = min(lanes, SIDE)
    steps: list[Step] = []
    block = _block(row, rows, target)
    my, ny = m.var.name, n.var.name
    if bytes_of(weights) <= target.l2 * NEAR:
        order = [f"{my}.o", *places, f"{ny}.o"]
        steps.append(Split("out", my, lane_sizes(rows, PAIR, SIDE)))
    elif block:
        steps.append(Split("out", my, lane_sizes(rows, block, SIDE)))
        order = [f"{my}.o", *places, f"{ny}.o", f"{my}.i.o"]
        my = f"{my}.i"
        steps.append(Split("out", my, (PAIR, SIDE)))
    else:
        order = [*places, f"{ny}.o", f"{my}.o"]
        steps.append(Split("out", my, lane_sizes(rows, PAIR, SIDE)))
    steps += [
        Split("out", ny, lane_sizes(columns, PAIR, SIDE)),
        Split("out", f"{ny}.i", (lane,)),
        Unroll("out", f"{ny}.i.o"),
        Vectorize("out", f"{ny}.i.i"),
    ]
    order = [*outer, *order]
    steps += [Unroll("out", x) for x in part]
    steps.append(Order("out", (*order, f"{my}.i", *part, f"{ny}.i.o", f"{ny}.i.i")))
    steps += share(out, order, steps)
    steps.append(ComputeAt(name, "out", order[-1]))
    steps.append(Expect("out", order[-1], f"{my}.i"))
    *fixed, sm, sn = (a.var.name for a in stage.axes)
    *loops, k = (a.var.name for a in stage.reduction)
    pair = loops.pop() if products_of(stage) > 1 else ""
    steps += [Split(name, sm, (SIDE,)), Split(name, sn, (SIDE,))]
    around = (*fixed, *loops, *((pair,) if pair else ()), f"{sm}.o", f"{sn}.o")
    steps.append(Order(name, (*around, f"{sm}.i", f"{sn}.i", k)))
    steps += [Unroll(name, x) for x in around[len(fixed) + len(loops) :]]
    steps.append(Tensorize(name, f"{sm}.i", f"{sn}.i", k, INSTRUCTION))
    return tf, Schedule(tuple(steps), (f"tiles {name}",))


def bytes_of(r: Read) -> int:
    """Of all weights."""
    return 2 * math.prod(known(d) or 1 for d in r.tensor.shape)


def _block(row: Read, rows: int | None, target: Target) -> int:
    """Rows that pass at a time; 0: all."""
    if rows is None:
        return 0
    outer = [known(d) or 1 for d in row.tensor.shape[:-2]] or [1]  # axes of one have no place here
    parts, blocks = outer[0], outer[-1]
    bytes_a_row = 2 * DEPTH * blocks * (parts if parts in (2, 3) else 1)
    room = int(target.l2 * FILLED) // bytes_a_row // PAIR * PAIR
    if rows <= max(room, PAIR):
        return 0
    count = -(-rows // max(room, PAIR))
    return -(-rows // count // PAIR) * PAIR


def schedule_pack(out: Stage, lanes: int) -> Schedule:
    """A few rows at a time, all of their blocks: what is read are whole rows, and what is written
    goes on in each block. All parts of a number are made together."""
    *loops, k = (a.var.name for a in out.axes)
    along = out.axes[-1].var
    found = [r for r in reads(out.value) if not all(free_of(i, along) for i in r.index)]
    lane = math.gcd(min(lanes, SIDE), *(known(r.tensor.shape[-1]) or 1 for r in found))
    part = [loops.pop(0)] if has_parts(out) else []
    steps: list[Step] = [Unroll("out", x) for x in part]
    if known(out.axes[-1].extent) != DEPTH:  # rows of one block, which lie as they come
        steps.append(Split("out", k, (DEPTH,)))
        order, k = [*loops, f"{k}.o"], f"{k}.i"
    elif loops:
        row = loops.pop()
        blocks = [x for r in found for x in beside(r, along) if x in loops][:1]
        steps.append(Split("out", row, whole_and_rest(known(out.axes[-2].extent), SIDE)))
        order = [*(x for x in loops if x not in blocks), f"{row}.o", *blocks, f"{row}.i"]
    else:
        order = []
    steps += [Split("out", k, (lane,)), Unroll("out", f"{k}.o"), Vectorize("out", f"{k}.i")]
    steps.append(Order("out", (*order, *part, f"{k}.o", f"{k}.i")))
    return Schedule((*steps, *share(out, [x for x in order if not x.endswith(".i")], steps)))


def beside(r: Read, k: Var) -> list[str]:
    """The axes that an operand is read at together with k."""
    return [v.name for i in r.index if not free_of(i, k) for v in free_vars(i) if v is not k]
