"""The default schedule of what is no sum of products: elementwise work, rows, windows."""

from __future__ import annotations

from naru.dtypes import DTYPES
from naru.ir.expr import Read, Var
from naru.ir.loop import Buffer
from naru.ir.simplify import free_of, known
from naru.ir.tensor import Stage, Tensor, TensorFunction, reads
from naru.schedule.analysis import (
    VIRTUAL_LANES,
    access,
    axis_positions,
    lane_steps,
    share,
    whole_and_rest,
)
from naru.schedule.steps import ComputeAt, Order, Rfactor, Schedule, Split, Step, Unroll, Vectorize
from naru.schedule.vector import Grid, Lane, contiguous_base

LONG_ROW = 4 * VIRTUAL_LANES  # a row that is summed in virtual lanes
STREAMS = 32  # rows that are read side by side: a core fetches ahead for so many


def schedule_terms(
    tf: TensorFunction, terms: Stage, name: str, lanes: int
) -> tuple[TensorFunction, Schedule]:
    """Rows whose terms (see `keep_terms`) are kept in the result's memory, which is made of them.
    `name`: the reduction of the terms."""
    out = next(s for s in tf.stages if s.tensor in tf.outputs)
    steps = row_steps(out, [s for s in tf.stages if s is not out], lanes)
    place = next(s for s in steps if isinstance(s, ComputeAt) and s.stage == name)
    steps.append(ComputeAt(terms.tensor.name, out.tensor.name, place.loop, "result"))
    steps += lane_steps(terms, lanes, 4)
    return tf, Schedule(tuple(steps), ("direct", f"terms {name}"))


def turn_steps(out: Stage, lanes: int) -> list[Step] | None:
    """Square tiles of the last two axes where an operand lies the other way round: its rows are
    loaded and turned in registers. Several tiles side by side, so that they use whole cache lines.
    Tiles of bytes and 16-bit integers have 128 bits in a row. None where no operand lies so."""
    name, kind = out.tensor.name, DTYPES[out.tensor.dtype]
    if lanes < 4 or len(out.axes) < 2 or (kind.bits < 32 and kind.kind not in "iu"):
        return None
    lanes = min(lanes, 128 // kind.bits) if kind.bits < 32 else lanes
    rows, columns = out.axes[-2:]
    kinds = {turned(r, rows.var, columns.var, lanes) for r in reads(out.value)}
    if "turned" not in kinds or "gather" in kinds:
        return None
    steps: list[Step] = []
    m, n = rows.var.name, columns.var.name
    steps.append(Split(name, m, whole_and_rest(known(rows.extent), 2 * lanes)))
    steps.append(Split(name, f"{m}.i", whole_and_rest(known(rows.extent), lanes)))
    outer, width = [f"{m}.o"], known(columns.extent)
    if width is not None and width > STREAMS:
        steps.append(Split(name, n, whole_and_rest(width, STREAMS)))
        outer, n, width = [f"{n}.o", f"{m}.o"], f"{n}.i", STREAMS
    steps.append(Split(name, n, whole_and_rest(width, lanes)))
    steps += [Unroll(name, f"{m}.i.o"), Vectorize(name, f"{m}.i.i"), Vectorize(name, f"{n}.i")]
    order = [*(a.var.name for a in out.axes[:-2]), *outer, f"{n}.o", f"{m}.i.o", f"{m}.i.i"]
    steps.append(Order(name, (*order, f"{n}.i")))
    return [*steps, *share(out, order[:-2], steps)]


def turned(r: Read, row: Var, column: Var, lanes: int) -> str:
    """How a read moves over a tile: "turned" where neighbours in a column of the tile lie side by
    side in memory, "gather" where a tile cannot be read at once, else "plain"."""
    along = [v for v in (row, column) if not all(free_of(i, v) for i in r.index)]
    if len(along) < 2:
        return "plain"
    buffer = Buffer(r.tensor.name, r.tensor.dtype, r.tensor.shape)
    down, across = Lane(row, lanes), Lane(column, lanes)
    if contiguous_base(buffer, r.index, Grid(down, across)) is not None:
        return "plain"
    turn = contiguous_base(buffer, r.index, Grid(across, down))
    return "gather" if turn is None else "turned"


def row_steps(out: Stage, others: list[Stage], lanes: int) -> list[Step]:
    """Lanes along the result's last axis; reductions over contiguous axes in virtual lanes.
    `others`: the stages that the result is made of."""
    by_tensor = {s.tensor: s for s in others}
    reductions = [s for s in others if s.combine is not None]
    positions = [through(s, out, by_tensor) for s in reductions]
    steps: list[Step] = []
    order = [a.var.name for a in out.axes]
    by_rows = _reads_rows(out, reductions, positions, by_tensor, lanes)
    again = _outside(out, positions)
    if order and not by_rows:
        n = out.axes[-1].var.name
        # A reduction in the same lanes has its accumulators in registers: a whole cache line of
        # them where several rows are written from it.
        vectors = (2 if again else 1) if any(len(order) - 1 in p for p in positions) else 4
        steps += lane_steps(out, lanes, vectors)
        order = [*order[:-1], f"{n}.o", f"{n}.i.o", f"{n}.i.i"]
    if again:
        order = [x for x in order if x not in again]
        depth = next((k for k, x in enumerate(order) if x.endswith(".i.o")), len(order))
        order[depth:depth] = again
        steps.append(Order(out.tensor.name, tuple(order)))
    placed = [
        _place_reduction(s, out, p, by_tensor, lanes, by_rows=by_rows)
        for s, p in zip(reductions, positions, strict=True)
    ]
    # Inside of the loop that a reduction is computed in, each thread would compute it.
    places = [s.loop for found in placed for s in found if isinstance(s, ComputeAt)]
    depth = min((order.index(x) + 1 if x in order else 0 for x in places), default=len(order) - 2)
    steps += share(out, order[: max(depth, 0)], steps)
    return [*steps, *(s for found in placed for s in found)]


def _outside(out: Stage, positions: list[list[int]]) -> list[str]:
    """The result's axes that no reduction has but that lie outside of one that some have: in their
    loops each reduction would be computed again and again, so they belong inside of it."""
    used = {k for p in positions for k in p}
    last = max(used, default=0)
    return [a.var.name for k, a in enumerate(out.axes[:last]) if k not in used]


def _reads_rows(
    out: Stage,
    reductions: list[Stage],
    positions: list[list[int]],
    stages: dict[Tensor, Stage],
    lanes: int,
) -> bool:
    """Is each number of the result one of a long row that lies together? Lanes along the result
    would gather from as many rows."""
    last = len(out.axes) - 1
    if not reductions or not all(last in p for p in positions):
        return False
    for s, p in zip(reductions, positions, strict=True):
        found = [r for r in reads(s.value) if r.tensor not in stages]
        across, along = s.axes[p.index(last)].var, s.reduction[-1]
        if not found or (known(along.extent) or 0) < LONG_ROW:
            return False
        for r in found:
            gathers = access(r, across, lanes) == "gather"
            if not gathers or access(r, along.var, VIRTUAL_LANES) != "contiguous":
                return False
    return True


def _place_reduction(
    s: Stage,
    out: Stage,
    positions: list[int],
    stages: dict[Tensor, Stage],
    lanes: int,
    *,
    by_rows: bool,
) -> list[Step]:
    inner = s.tensor.name
    last = out.axes[-1].var.name if out.axes else ""
    along_lanes = bool(positions) and len(out.axes) - 1 in positions and not by_rows
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
    made = {t for t, other in stages.items() if other.combine is not None}
    found = [r for r in reads(s.value) if r.tensor not in made]
    if any(access(r, innermost.var, VIRTUAL_LANES) == "contiguous" for r in found) or not found:
        steps.append(Rfactor(inner, innermost.var.name, VIRTUAL_LANES))
    return steps


def through(s: Stage, out: Stage, stages: dict[Tensor, Stage]) -> list[int]:
    """Out's axis for each axis of s, mapped through other stages where only those read s."""
    direct = axis_positions(s, out)
    if direct is not None:
        return direct
    for other in stages.values():
        inner = axis_positions(s, other)
        if inner is not None:
            outer = through(other, out, stages)
            return [outer[k] for k in inner]
    return []
