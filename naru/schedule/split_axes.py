"""Rewrites that make one axis two, where a stage divides it by a constant.

*Groups.* A grouped convolution reads channel `(m // F) · C + c` for filter m. Lanes along m would
have to gather; lanes along the filters of one group read one channel and broadcast it.

*Phases.* A transposed convolution reads its sums at `i // stride` and `i % stride`. Lanes and rows
of a tile need windows side by side, and one phase of them at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from naru.ir.expr import Binary, Const, Expr, Read, Var, walk
from naru.ir.simplify import add, floordiv, known, mul, substitute
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction, reads
from naru.schedule.analysis import VIRTUAL_LANES
from naru.schedule.rewrites import map_reads

FEWEST = 4  # filters of a group from which on a vector of them is worth having

Dims = Mapping[Tensor, int]  # of each tensor of a stage that is concerned, the dim that is split


# --- the mechanism --------------------------------------------------------------------------------


def split_axis(tf: TensorFunction, dims: Dims, size: Const) -> TensorFunction:
    """The dims become two each, the inner one of `size` elements, which divides them: the same
    memory. Where a stage reads one of the tensors, its own axis is split too."""
    new = {t: Tensor(t.name, t.dtype, _split_shape(t, k, size)) for t, k in dims.items()}
    stages: list[Stage] = []
    for s in tf.stages:
        k = dims.get(s.tensor)
        if k is None:
            stages.append(s)
            continue
        old = s.axes[k]
        outer = _axis(f"{old.var.name}o", floordiv(old.extent, size))
        inner = _axis(f"{old.var.name}i", size)

        def read(r: Read, pair: tuple[Expr, ...] = (outer.var, inner.var)) -> Expr:
            at = dims.get(r.tensor)
            if at is None:
                return r
            return Read(new[r.tensor], (*r.index[:at], *pair, *r.index[at + 1 :]))

        value = map_reads(s.value, read)
        value = substitute(value, {old.var: add(mul(outer.var, size), inner.var)})
        axes = (*s.axes[:k], outer, inner, *s.axes[k + 1 :])
        stages.append(replace(s, tensor=new[s.tensor], axes=axes, value=value))
    return replace(tf, stages=tuple(stages), outputs=tuple(new.get(t, t) for t in tf.outputs))


def _split_shape(t: Tensor, k: int, size: Const) -> tuple[Expr, ...]:
    return (*t.shape[:k], floordiv(t.shape[k], size), size, *t.shape[k + 1 :])


def _axis(name: str, extent: Expr) -> Axis:
    return Axis(Var(name, hi=max((known(extent) or 2**31 - 1) - 1, 0)), extent)


# --- groups ---------------------------------------------------------------------------------------


def split_groups(tf: TensorFunction) -> TensorFunction:
    """Splits axes that a sum of products divides by a constant, as grouped convolutions do."""
    for s in tf.stages:
        for k, axis in enumerate(s.axes):
            size = _group_size(s, axis)
            dims = None if size is None else _concerned(tf, s.tensor, k)
            if size is not None and dims is not None:
                return split_groups(split_axis(tf, dims, Const(size)))
    return tf


def _group_size(s: Stage, axis: Axis) -> int | None:
    """F, where the stage sums products over `axis // F` and F divides the axis."""
    extent = known(axis.extent)
    if s.combine != "add" or extent is None:
        return None
    found = [_divisors(r, axis.var) for r in reads(s.value)]
    # A panel of packed weights is read at its number and at the place in it, a group by its number.
    size = max((max(by["floordiv"]) for by in found if by["floordiv"] and not by["mod"]), default=0)
    # Smaller groups, a few of which fill the lanes, stay side by side: see analysis.access.
    several = 0 < size < VIRTUAL_LANES and VIRTUAL_LANES % size == 0
    fits = FEWEST <= size < extent and extent % size == 0 and not several
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
    dims: dict[Tensor, int] = {}
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


# --- phases ---------------------------------------------------------------------------------------


def split_phases(tf: TensorFunction) -> TensorFunction:
    """Splits axes of the result along which a reduction is read at i // s and i % s. The result
    takes the shape that its axes have: the same memory."""
    for s in tf.stages:
        if s.tensor not in tf.outputs:
            continue
        for k, axis in enumerate(s.axes):
            stride = _phase_stride(tf, s, axis)
            if stride is not None:
                return split_phases(split_axis(tf, {s.tensor: k}, stride))
    return tf


def _phase_stride(tf: TensorFunction, stage: Stage, axis: Axis) -> Const | None:
    """The s of i % s in reads of a reduction, where it divides the axis."""
    for r in reads(stage.value):
        for i in r.index if r.tensor not in tf.inputs else ():
            if isinstance(i, Binary) and i.op == "mod" and i.a is axis.var:
                divides = isinstance(i.b, Const) and mul(floordiv(axis.extent, i.b), i.b)
                return i.b if isinstance(i.b, Const) and divides is axis.extent else None
    return None
