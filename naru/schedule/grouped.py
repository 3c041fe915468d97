"""A rewrite for grouped convolutions: the axis of all filters becomes one of groups and one of the
filters in a group.

The lowering of a grouped convolution reads channel `(m // F) · C + c` for filter m. Lanes along m
would have to gather; lanes along the filters of one group read one channel and broadcast it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from naru.ir.expr import Binary, Const, Expr, Read, Var, walk
from naru.ir.simplify import add, known, mul, substitute
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction, reads
from naru.schedule.rewrites import map_reads

FEWEST = 4  # filters of a group from which on a vector of them is worth having

Dims = dict[Tensor, int]  # of each tensor of a stage that is concerned, the dim that is split


def split_groups(tf: TensorFunction) -> TensorFunction:
    """Splits axes that a sum of products divides by a constant, as grouped convolutions do."""
    for s in tf.stages:
        for k, axis in enumerate(s.axes):
            size = _group_size(s, axis)
            dims = None if size is None else _concerned(tf, s.tensor, k)
            if size is not None and dims is not None:
                return split_groups(_split(tf, dims, size))
    return tf


def _group_size(s: Stage, axis: Axis) -> int | None:
    """F, where the stage sums products over `axis // F` and F divides the axis."""
    extent = known(axis.extent)
    if s.combine != "add" or extent is None:
        return None
    found = [_divisors(r, axis.var) for r in reads(s.value)]
    # A panel of packed weights is read at its number and at the place in it, a group by its number.
    size = max((max(by["floordiv"]) for by in found if by["floordiv"] and not by["mod"]), default=0)
    fits = FEWEST <= size < extent and extent % size == 0
    parts = {d for by in found for d in (*by["floordiv"], *by["mod"])}
    return size if fits and all(size % d == 0 for d in parts) else None


def _divisors(r: Read, axis: Var) -> dict[str, set[int]]:
    """By which constants a read divides an axis, for the quotient and for the remainder."""
    found: dict[str, set[int]] = {"floordiv": set(), "mod": set()}
    for e in _indices(r):
        if isinstance(e, Binary) and e.op in found and e.a is axis and isinstance(e.b, Const):
            found[e.op].add(int(e.b.value))
    return found


def _concerned(tf: TensorFunction, tensor: Tensor, dim: int) -> Dims | None:
    """The dims that must be split together with one: wherever a stage passes the axis on to the
    next. None where it is read in another way than at a plain axis."""
    dims: Dims = {}
    todo = [(tensor, dim)]
    while todo:
        t, at = todo.pop()
        if dims.setdefault(t, at) != at:
            return None
        for s in tf.stages:
            for r in reads(s.value):
                if r.tensor is not t:
                    continue
                # A reader of some of the elements only would end inside of a group.
                extent = t.shape[at]
                places = [
                    k
                    for k, a in enumerate(s.axes)
                    if a.var is r.index[at] and known(a.extent) == known(extent)
                ]
                if not places:
                    return None
                if dims.get(s.tensor) != places[0]:
                    todo.append((s.tensor, places[0]))
    made = {s.tensor for s in tf.stages}
    for s in tf.stages:
        var = s.axes[dims[s.tensor]].var if s.tensor in dims else None
        if any(r.tensor in made - set(dims) and var in _indices(r) for r in reads(s.value)):
            return None
    return dims


def _indices(r: Read) -> set[Expr]:
    """All expressions in the indices of a read."""
    return {e for i in r.index for e in walk(i)}


def _split(tf: TensorFunction, dims: Mapping[Tensor, int], size: int) -> TensorFunction:
    new = {
        t: Tensor(t.name, t.dtype, (*t.shape[:k], *_parts(t.shape[k], size), *t.shape[k + 1 :]))
        for t, k in dims.items()
    }
    stages: list[Stage] = []
    for s in tf.stages:
        k = dims.get(s.tensor)
        if k is None:
            stages.append(s)
            continue
        old = s.axes[k]
        groups, inside = _parts(old.extent, size)
        g = Axis(Var(f"{old.var.name}g", hi=(known(groups) or 1) - 1), groups)
        i = Axis(Var(f"{old.var.name}i", hi=size - 1), inside)

        def read(r: Read, pair: tuple[Expr, ...] = (g.var, i.var)) -> Expr:
            at = dims.get(r.tensor)
            if at is None:
                return r
            return Read(new[r.tensor], (*r.index[:at], *pair, *r.index[at + 1 :]))

        value = map_reads(s.value, read)
        value = substitute(value, {old.var: add(mul(g.var, size), i.var)})
        axes = (*s.axes[:k], g, i, *s.axes[k + 1 :])
        stages.append(replace(s, tensor=new[s.tensor], axes=axes, value=value))
    return replace(tf, stages=tuple(stages), outputs=tuple(new.get(t, t) for t in tf.outputs))


def _parts(extent: Expr, size: int) -> tuple[Expr, Expr]:
    return Const((known(extent) or 0) // size), Const(size)
