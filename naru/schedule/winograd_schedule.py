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
from naru.ir.tensor import Stage, TensorFunction, reads
from naru.schedule.analysis import VIRTUAL_LANES, lane_sizes, share, whole_and_rest
from naru.schedule.contraction import sum_loops, tile_steps
from naru.schedule.cook_toom import TAPS
from naru.schedule.steps import ComputeAt, Order, Prefetch, Schedule, Split, Step, Unroll, Vectorize
from naru.schedule.tiles import Tile, choose_tile, tile_cost
from naru.schedule.winograd import winograd
from naru.targets import Target

FILLED, SPILLED = 0.6, 2.4  # times L2: what V takes; at most
STACK = 2**20 - 28 * 2**10  # bytes that V and M of all blocks take at most; the rest is little
# Times L2: so many weights are read once if all tiles can pass in one block; so many are far away.
MANY, FAR = 8, 32
# What blocks of two sizes cost beside those of one: code twice, and nothing for threads to share.
UNEQUAL = 1.03
BEGINNING, FAR_BEGINNING = 1.0, 5.0  # cycles of a block for a channel and panel: filters come again


@dataclass(frozen=True)
class Products:
    """How the products of matrices go: `block` tiles of pixels at a time, by register tiles."""

    block: int
    tile: Tile

    def rows(self, count: int) -> tuple[int, ...]:
        """The heights of register tiles in the blocks: whole ones, and one of what they leave."""
        rests = {n % self.tile.rows for n in (self.block, count % self.block)} - {0}
        return (self.tile.rows, *rests)


def choose_products(
    m: int, count: int, channels: int, filters: int, target: Target, lanes: int
) -> Products:
    """Blocks whose V stays in L2, of equal size if that costs little, and the register tiles that
    fill them best. Blocks are larger, and V comes from beyond L2, where that spares reading many
    weights again."""
    vectors = choose_tile(count, filters, target, lanes, k=channels).vectors
    places = (m + TAPS - 1) ** 2
    each, weights = places * (channels + VIRTUAL_LANES) * 4, places * channels * filters * 4
    once = weights > target.l2 * MANY and count * each <= target.l2 * SPILLED
    far = weights > target.l2 * FAR
    room = min(count, max(1, int(target.l2 * (SPILLED if once or far else FILLED)) // each))
    most = (target.registers - vectors - 1) // vectors
    on_stack = each + places * vectors * lanes * 4
    best, chosen = float("inf"), Products(1, Tile(1, vectors))
    for block in range(room, 0, -1):
        if (block + count % block) * on_stack > STACK:
            continue
        for rows in range(min(most, block), 0, -1):
            made = Products(block, Tile(rows, vectors))
            if len(made.rows(count)) > 2:
                continue
            cost = _cost(made, count, FAR_BEGINNING if far else BEGINNING)
            cost *= 1 if count % block == 0 else UNEQUAL
            if cost < best * 0.999:
                best, chosen = cost, made
    return chosen


def _cost(products: Products, count: int, beginning: float) -> float:
    """Cycles of all products for one channel and panel, and what it takes to begin each block."""
    blocks, last = divmod(count, products.block)
    total = blocks * _rows_cost(products.block, products.tile) + _rows_cost(last, products.tile)
    return total + beginning * -(-count // products.block)


def _rows_cost(count: int, tile: Tile) -> float:
    whole, rest = divmod(count, tile.rows)
    cost = whole * tile_cost(tile.rows, tile.vectors)
    return cost + (tile_cost(rest, tile.vectors) if rest else 0.0)


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
    steps += _transform("V", "c", lanes, (*lead, "t", "c.o", "u", "v", "c.i"), "uv")
    steps += _transform("D", "c", lanes, (*lead, "t", "c.o", "j", "u", "c.i"), "ju")
    steps += [ComputeAt("M", "out", "n.o"), Split("M", "t", products.rows(count))]
    kept = (*lead, "u", "v", "t.o", "t.i", "n.o", "n.i")
    steps += _transform("M", "n", lanes, kept, ("t.i", "n.o"))
    steps.append(ComputeAt(name, "M", "t.o"))
    loops, unrolled = sum_loops(sums, target, product=True, short=False)
    steps += tile_steps(sums, "n", ["t"], lanes, loops, unrolled)
    if products.block == count and width == VIRTUAL_LANES:
        steps.append(_fetch_ahead(tf, sums, loops))
    steps.append(ComputeAt("Z", "out", "n.i.o"))
    steps += _transform("Z", "n", lanes, (*lead, "t", "n.o", "v", "r", "n.i"), "vr")
    return tf, Schedule(tuple(steps), (f"winograd {name}",))


def _fetch_ahead(tf: TensorFunction, sums: Stage, loops: Sequence[str]) -> Step:
    """While all rows meet one matrix of filters, the next one comes."""
    operand = next(r.tensor for r in reads(sums.value) if r.tensor in tf.inputs)
    loop = loops[-2] if loops[-1].endswith(".i") else loops[-1]
    return Prefetch(sums.tensor.name, loop, operand.name, ("t",), 1, 1, dims=3)


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
