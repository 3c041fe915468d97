"""What schedules ask of a TensorFunction: how reads move with an axis, which axes correspond."""

from __future__ import annotations

from naru.dtypes import DTYPES
from naru.ir.expr import Const, Expr, Read, Var, walk
from naru.ir.loop import Buffer
from naru.ir.simplify import add, free_of, known, mul, sub, substitute, to_poly
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction, reads
from naru.schedule.steps import Parallel, Split, Step, Unroll, Vectorize
from naru.schedule.vector import Lane, contiguous_base
from naru.targets import Target

# Of reductions: the same on every target, so that results are too (classes strict and portable).
VIRTUAL_LANES = 16
SLOW_OPS = ("exp", "log", "tanh", "erf", "sin", "cos")  # tens of instructions each
EVEN_FROM = 12  # iterations from which on a few threads get nearly equal parts
FEW = 4  # fewer are worth less than a loop of unknown length


def access(r: Read, axis: Var, lanes: int) -> str:
    """How a read moves with an axis: uniform, contiguous (in aligned runs of lanes), block (lanes
    come from one aligned run, in another order), or gather."""
    if all(free_of(i, axis) for i in r.index):
        return "uniform"
    lane = Lane(Var("lane", hi=lanes - 1), lanes)
    at: Expr = add(mul(Var("q"), lanes), lane.var)
    index = tuple(substitute(i, {axis: at}) for i in r.index)
    buffer = Buffer(r.tensor.name, r.tensor.dtype, r.tensor.shape)
    if contiguous_base(buffer, index, lane) is not None:
        return "contiguous"
    return "block" if _in_block(r.tensor, index, lane) else "gather"


def _in_block(t: Tensor, index: tuple[Expr, ...], lane: Lane) -> bool:
    """See llvm_memory._block, which makes it a load and a shuffle."""
    if any(not free_of(i, lane.var) for i in index[:-1]) or (known(t.shape[-1]) or 1) % lane.count:
        return False
    places = [to_poly(substitute(index[-1], {lane.var: Const(k)})) for k in range(lane.count)]
    starts = [p.pop((), 0) for p in places]
    if any(p != places[0] for p in places):
        return False
    low, high = min(starts), max(starts)
    for m, c in places[0].items():  # a short loop, such as that over the channels of a group
        if c % lane.count:
            span = (m[0].lo * c, m[0].hi * c) if len(m) == 1 and isinstance(m[0], Var) else (-1, 0)
            low, high = low + min(span), high + max(span)
    return low // lane.count == high // lane.count


def lanes_of(tf: TensorFunction, target: Target) -> int:
    """Lanes of the widest element that the kernel touches."""
    tensors: list[Tensor] = [*tf.inputs, *(s.tensor for s in tf.stages)]
    bits = [DTYPES[t.dtype].bits for t in tensors]
    bits += [DTYPES[e.dtype].bits for s in tf.stages for e in walk(s.value) if e.dtype != "index"]
    return max(1, target.vector_bits // max([*bits, 8]))


def block_of(i: Expr, inner: Axis) -> Var | None:
    """The axis b where an index is b · n + k, the axis k having n elements."""
    match list(to_poly(sub(i, inner.var)).items()):
        case [((Var() as b,), count)] if count == known(inner.extent):
            return b
        case _:
            return None


def axis_positions(stage: Stage, out: Stage) -> list[int] | None:
    """Out's axis for each axis of a reduction that out reads at plain axes; None if it does not."""
    order = {a.var: k for k, a in enumerate(out.axes)}
    for r in reads(out.value):
        if r.tensor is stage.tensor:
            if all(isinstance(i, Var) and i in order for i in r.index):
                return [order[i] for i in r.index if isinstance(i, Var)]
            return None
    return None


def lane_sizes(extent: int | None, tile: int, lanes: int) -> tuple[int, ...]:
    """Sizes that cover an extent in tiles and then whole vectors, the last of them masked."""
    if extent is None:
        return (tile, lanes) if tile > lanes else (tile,)
    rest = extent % tile
    covered = -(-rest // lanes) * lanes
    return (
        (tile,) if not rest or covered == tile else (tile, covered) if extent > tile else (covered,)
    )


def lane_steps(stage: Stage, lanes: int, vectors: int) -> list[Step]:
    """The stage's last axis in lanes, several vectors a round where it has as many elements."""
    name, last = stage.tensor.name, stage.axes[-1]
    n, extent = last.var.name, known(last.extent)
    width = vectors * lanes if extent is None or extent >= vectors * lanes else lanes
    return [
        Split(name, n, lane_sizes(extent, width, lanes)),
        Split(name, f"{n}.i", (lanes,)),
        Unroll(name, f"{n}.i.o"),
        Vectorize(name, f"{n}.i.i"),
    ]


def whole_and_rest(extent: int | None, size: int) -> tuple[int, ...]:
    """Whole tiles, and one of what is left; of an extent that is not known, tiles of one."""
    if extent is None:
        return (size, 1)
    whole, rest = divmod(extent, size)
    return (*((size,) if whole or not rest else ()), *((rest,) if rest else ()))


def share(out: Stage, loops: list[str], steps: list[Step]) -> list[Step]:
    """The loop of the result that threads share, of `loops` from outermost to innermost: the first
    that runs often enough to be divided evenly, else the one that runs most often. How often a
    loop over a size that is not known runs (a batch, say) is worth little beside that."""
    trips = [(_trips(out, loop, steps), loop) for loop in loops]
    often = [loop for count, loop in trips if count is not None and count >= EVEN_FROM]
    unknown = [loop for count, loop in trips if count is None]
    most = max(((count or 1, loop) for count, loop in trips), default=(1, ""), key=lambda t: t[0])
    if often:
        return [Parallel(out.tensor.name, often[0])]
    if unknown and most[0] < FEW:
        return [Parallel(out.tensor.name, unknown[0])]
    return [Parallel(out.tensor.name, most[1])] if most[0] > 1 else []


def _trips(out: Stage, loop: str, steps: list[Step]) -> int | None:
    """How often a loop runs; None where a size is not known."""
    extents = {a.var.name: known(a.extent) for a in out.axes}
    splits = {s.axis: s for s in steps if isinstance(s, Split)}
    axis = loop.removesuffix(".o")
    if loop == axis:
        return extents[axis]
    split = splits[axis]
    if split.counts:
        return max(split.counts)
    inner = axis.removesuffix(".i")
    extent = extents[axis] if axis in extents else splits[inner].sizes[0]
    return None if extent is None else max(1, extent // split.sizes[0])
