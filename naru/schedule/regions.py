"""Where a result is made in different ways in different places, each place gets a nest of its own.

Concatenation chooses among its operands by the position, padding between its operand and a number.
Lanes that decided this again for every element would load all operands. So the result is cut along
the positions at which a decision changes; in each region the decisions fold away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from naru.ir.expr import Binary, Const, Expr, Var, walk
from naru.ir.simplify import add, known, sub, substitute, to_poly
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction, reads
from naru.ops.tile_product import DEPTH
from naru.schedule.analysis import block_of

MOST = 64  # regions of one kernel; more would be more code than the decisions are worth

Origin = tuple[Expr, ...]


@dataclass(frozen=True)
class Region:
    """A box of the result: `tf` computes it as a tensor of its own, which lies at `origin`."""

    tf: TensorFunction
    origin: Origin

    def __str__(self) -> str:
        (shape,) = (t.shape for t in self.tf.outputs)
        spans = (
            f"{known(o)}:{(known(o) or 0) + (known(n) or 0)}" if known(n) is not None else ":"
            for o, n in zip(self.origin, shape, strict=True)
        )
        return f"out[{', '.join(spans)}]"


def find_regions(tf: TensorFunction) -> tuple[Region, ...]:
    """The regions of a prepared function's result; none where it is made in one way, or in too
    many, or where a region would need a reduction at places that are not its own (the rows of a
    concatenation, normalised)."""
    found: list[Region] = []
    for region in _cut(tf, tuple(Const(0) for _ in tf.outputs[0].shape)):
        found.append(region)
        if len(found) > MOST or not _is_plain(region.tf):
            return ()
    return tuple(found) if len(found) > 1 else ()


def _is_plain(tf: TensorFunction) -> bool:
    """Does the result read reductions at its own axes only, or at blocks and places in them?"""
    made = {s.tensor for s in tf.stages}
    return all(
        isinstance(i, Var) or block_of(i, s.axes[-1])
        for s in tf.stages
        if s.tensor in tf.outputs
        for r in reads(s.value)
        if r.tensor in made
        for i in r.index
    )


def _cut(tf: TensorFunction, origin: Origin) -> Iterator[Region]:
    """Cuts along the first axis that has places to be cut at, then each piece along the others."""
    out = tf.stage_of(tf.outputs[0])
    assert out is not None
    for k, axis in enumerate(out.axes):
        places = _places(out, axis)
        if not places:
            continue
        extent = known(axis.extent) or 0
        for start, stop in zip((0, *places), (*places, extent), strict=True):
            moved = (*origin[:k], add(origin[k], start), *origin[k + 1 :])
            yield from _cut(_restrict(tf, out, k, start, stop - start), moved)
        return
    yield Region(tf, origin)


def _places(out: Stage, axis: Axis) -> list[int]:
    """The positions at which a comparison of the axis with a constant changes its answer."""
    extent = known(axis.extent)
    whole = out.tensor.dtype == "bf16" and axis is out.axes[-1] and extent == DEPTH
    if extent is None or whole:  # a row of tiles is made as a whole
        return []
    places: set[int] = set()
    for e in walk(out.value):
        if isinstance(e, Binary) and e.op in ("lt", "le", "gt", "ge") and e.a.dtype == "index":
            difference = to_poly(sub(e.a, e.b))
            slope, rest = difference.pop((axis.var,), 0), difference.pop((), 0)
            if abs(slope) != 1 or difference:
                continue
            # slope · i + rest passes 0 at -rest / slope; strict and not strict differ by one.
            at = -rest if slope == 1 else rest
            first_after = at if (e.op in ("lt", "ge")) == (slope == 1) else at + 1
            if 0 < first_after < extent:
                places.add(first_after)
    return sorted(places)


def _restrict(tf: TensorFunction, out: Stage, k: int, start: int, size: int) -> TensorFunction:
    """The function of the elements start, …, start + size - 1 along axis k of the result."""
    old = out.axes[k]
    axis = Axis(Var(old.var.name, hi=size - 1), Const(size))
    value = substitute(out.value, {old.var: add(axis.var, start)})
    shape = (*out.tensor.shape[:k], axis.extent, *out.tensor.shape[k + 1 :])
    tensor = Tensor(out.tensor.name, out.tensor.dtype, shape)
    axes = (*out.axes[:k], axis, *out.axes[k + 1 :])
    made = replace(out, tensor=tensor, axes=axes, value=value)
    stages = tuple(made if s is out else s for s in tf.stages)
    return replace(tf, stages=_needed(stages, made), outputs=(tensor,))


def _needed(stages: tuple[Stage, ...], out: Stage) -> tuple[Stage, ...]:
    """The stages that the result reads, directly or not."""
    wanted = {out.tensor}
    for s in reversed(stages):
        if s.tensor in wanted:
            wanted |= {r.tensor for r in reads(s.value)}
    return tuple(s for s in stages if s.tensor in wanted)
