"""The default schedule of what is no sum of products: elementwise work, rows, windows."""

from __future__ import annotations

from naru.ir.simplify import known
from naru.ir.tensor import Stage, Tensor, reads
from naru.schedule.analysis import (
    VIRTUAL_LANES,
    access,
    axis_positions,
    lane_sizes,
    share,
)
from naru.schedule.steps import ComputeAt, Order, Rfactor, Split, Step, Unroll, Vectorize


def row_steps(out: Stage, reductions: list[Stage], lanes: int) -> list[Step]:
    """Lanes along the result's last axis; reductions over contiguous axes in virtual lanes."""
    name = out.tensor.name
    steps: list[Step] = []
    order = [a.var.name for a in out.axes]
    if order:
        last = out.axes[-1]
        n, extent = last.var.name, known(last.extent)
        width = 4 * lanes if not reductions and (extent is None or extent >= 4 * lanes) else lanes
        steps.append(Split(name, n, lane_sizes(extent, width, lanes)))
        steps += [Split(name, f"{n}.i", (lanes,)), Unroll(name, f"{n}.i.o")]
        steps.append(Vectorize(name, f"{n}.i.i"))
        order = [*order[:-1], f"{n}.o", f"{n}.i.o", f"{n}.i.i"]
    by_tensor = {s.tensor: s for s in reductions}
    placed = [_place_reduction(s, out, by_tensor, lanes) for s in reductions]
    # Inside of the loop that a reduction is computed in, each thread would compute it.
    places = [s.loop for found in placed for s in found if isinstance(s, ComputeAt)]
    depth = min((order.index(x) + 1 if x in order else 0 for x in places), default=len(order) - 2)
    steps += share(out, order[: max(depth, 0)], steps)
    return [*steps, *(s for found in placed for s in found)]


def _place_reduction(s: Stage, out: Stage, stages: dict[Tensor, Stage], lanes: int) -> list[Step]:
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
