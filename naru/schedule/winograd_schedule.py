"""The schedule of convolutions by Winograd's filtering (winograd.py).

A block of tiles passes at a time, such that its V stays in L2. In it, panels of filters: the
products of matrices of one panel, in register tiles as other products have them, then the result of
each tile of pixels with all that fusion put behind it. The transforms of 8 or 16 channels of a tile
are straight code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from naru.errors import ScheduleError
from naru.ir.simplify import known
from naru.ir.tensor import Stage, TensorFunction
from naru.schedule.analysis import lane_sizes, share, whole_and_rest
from naru.schedule.contraction import sum_loops, tile_steps
from naru.schedule.cook_toom import TAPS
from naru.schedule.steps import ComputeAt, Order, Schedule, Split, Step, Unroll, Vectorize
from naru.schedule.tiles import Tile, choose_tile, tile_cost
from naru.schedule.winograd import winograd
from naru.targets import Target

FILLED = 0.6  # of L2, by V


@dataclass(frozen=True)
class Products:
    """How the products of matrices go: `block` tiles of pixels at a time, by register tiles."""

    block: int
    tile: Tile

    def rows(self, count: int) -> tuple[int, ...]:
        """The heights of register tiles in the blocks: whole ones, and one of what the last block
        leaves."""
        last = count % self.block or self.block
        rest = last % self.tile.rows
        return (self.tile.rows, rest) if rest else (self.tile.rows,)


def choose_products(
    m: int, count: int, channels: int, filters: int, target: Target, lanes: int
) -> Products:
    """Blocks whose V fills most of L2, and register tiles that fill them best."""
    vectors = choose_tile(count, filters, target, lanes, k=channels).vectors
    most = (target.registers - vectors - 1) // vectors
    each = (m + TAPS - 1) ** 2 * (channels + 16) * 4
    room = max(1, int(target.l2 * FILLED) // each)
    best, chosen = float("inf"), Products(1, Tile(1, vectors))
    for rows in range(min(most, count), 0, -1):
        block = min(count, max(rows, room // rows * rows))
        made = Products(block, Tile(rows, vectors))
        blocks, last = divmod(count, block)
        cost = blocks * _rows_cost(block, rows, vectors) + _rows_cost(last, rows, vectors)
        if cost < best * 0.999:
            best, chosen = cost, made
    return chosen


def _rows_cost(count: int, rows: int, vectors: int) -> float:
    whole, rest = divmod(count, rows)
    return whole * tile_cost(rows, vectors) + (tile_cost(rest, vectors) if rest else 0.0)


def schedule_winograd(
    tf: TensorFunction, stage: Stage, target: Target, lanes: int
) -> tuple[TensorFunction, Schedule]:
    """Blocks of tiles, panels of filters in them, tiles and vectors in those."""
    name = stage.tensor.name
    made = winograd(tf, stage)
    if made is None:
        raise ScheduleError(f"{name!r} has filters in a form for tiles, and cannot be made of them")
    tf, sums = made
    out = tf.stages[-1]
    *_, count, channels = (known(a.extent) or 1 for a in tf.stages[1].axes)
    m, filters = known(out.axes[-2].extent) or 1, known(out.axes[-1].extent) or 1
    products = choose_products(m, count, channels, filters, target, lanes)
    lead = [a.var.name for a in out.axes[:-4]]
    width = products.tile.vectors * lanes
    steps: list[Step] = [
        Split("out", "t", whole_and_rest(count, products.block)),
        Split("out", "n", lane_sizes(filters, width, lanes)),
        Split("out", "n.i", (lanes,)),
        Vectorize("out", "n.i.i"),
        Unroll("out", "r"),
        Unroll("out", "s"),
        Order("out", (*lead, "t.o", "n.o", "t.i", "n.i.o", "r", "s", "n.i.i")),
    ]
    steps += share(out, [*lead, "t.o", "n.o"], steps)
    steps += [ComputeAt("V", "out", "t.o"), ComputeAt("D", "V", "c.o")]
    steps += [
        ComputeAt("M", "out", "n.o"),
        ComputeAt(name, "M", "t.o"),
        ComputeAt("Z", "out", "n.i.o"),
    ]
    steps += _transform("V", "c", lanes, (*lead, "t", "c.o", "u", "v", "c.i"), "uv")
    steps += _transform("D", "c", lanes, (*lead, "t", "c.o", "j", "u", "c.i"), "ju")
    steps += _transform("Z", "n", lanes, (*lead, "t", "n.o", "v", "r", "n.i"), "vr")
    steps += [Split("M", "t", products.rows(count)), Unroll("M", "t.i"), Unroll("M", "n.o")]
    kept = (*lead, "u", "v", "t.o", "t.i", "n.o", "n.i")
    steps[-1:] = _transform("M", "n", lanes, kept, ("n.o",))
    loops, unrolled = sum_loops(sums, target, product=True, short=False)
    steps += tile_steps(sums, "n", ["t"], lanes, loops, unrolled)
    return tf, Schedule(tuple(steps), (f"winograd {name}",))


def _transform(
    stage: str, lane: str, lanes: int, order: tuple[str, ...], unrolled: Sequence[str]
) -> list[Step]:
    """A stage with one of its axes in lanes, some loops unrolled."""
    return [
        Split(stage, lane, (lanes,)),
        Vectorize(stage, f"{lane}.i"),
        *(Unroll(stage, loop) for loop in unrolled),
        Order(stage, order),
    ]
