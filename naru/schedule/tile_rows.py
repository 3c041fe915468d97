"""Packed sums of products (ops/tile_product.py): what they are, and the rewrite of their rows."""

from __future__ import annotations

from dataclasses import replace

from naru.ir.expr import Binary, Cast, Const, Expr, Read, Select, Unary, Var, walk
from naru.ir.simplify import floordiv, free_of, known, minimum, mod, mul, sub, substitute
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction, reads
from naru.ops.tile_product import DEPTH, LARGEST
from naru.schedule.analysis import block_of
from naru.schedule.rewrites import map_reads
from naru.schedule.split_axes import split_axis


def find_tiles(tf: TensorFunction) -> Stage | None:
    """The sum of products of packed operands whose last axes are rows and columns, if the function
    has one."""
    return next((s for s in tf.stages if is_packed(s) and _has_rows(s)), None)


def _has_rows(s: Stage) -> bool:
    a, w = operands(s)
    rows = [x for x in s.axes[:-1] if x not in places_of(s)]
    if not rows or len(a.index) < 2 or not _is_free(a, s) or _is_free(w, s):
        return False
    k = s.reduction[-1].var  # at [k // 2, … + k % 2] of weights
    interleaved = len(w.index) > 1 and not any(free_of(i, k) for i in w.index[-2:])
    lanes = any(not free_of(i, s.axes[-1].var) for i in w.index[-1:])
    return interleaved and lanes and not free_of(a.index[-2], rows[-1].var)


def places_of(s: Stage) -> list[Axis]:
    """The axes but the columns that choose weights: the places of a transposed convolution's
    windows."""
    _, w = operands(s)
    return [a for a in s.axes[:-1] if not all(free_of(i, a.var) for i in w.index)]


def is_packed(s: Stage) -> bool:
    """Is it a sum of products of packed operands?"""
    match s.value:
        case Binary(op="mul", a=Cast(x=Read() as a), b=Cast(x=Read() as b)):
            dtypes = {a.tensor.dtype, b.tensor.dtype}
            deep = bool(s.reduction) and known(s.reduction[-1].extent) == DEPTH
            return s.combine == "add" and dtypes == {"bf16"} and deep
        case _:
            return False


def products_of(s: Stage) -> int:
    """Products of parts for each multiplication: the extent of the axis that chooses the part."""
    chosen = operands(s)[0].index[0]
    if len(s.reduction) < 2 or not isinstance(chosen, Select):
        return 1
    return known(s.reduction[-2].extent) or 1


def operands(s: Stage) -> tuple[Read, Read]:
    """The packed rows and the weights."""
    a, b = reads(s.value)
    return (a, b) if _is_free(a, s) else (b, a)


def _is_free(r: Read, s: Stage) -> bool:
    """Does a read not move with the columns?"""
    return all(free_of(i, s.axes[-1].var) for i in r.index)


def is_pack(out: Stage) -> bool:
    """Are its elements parts of numbers, packed for tiles?"""
    return out.tensor.dtype == "bf16" and any(
        isinstance(e, Unary) and e.op == "normal" for e in walk(out.value)
    )


def has_parts(out: Stage) -> bool:
    """Does the first axis of packed tiles choose among several parts?"""
    return any(isinstance(e, Const) and e.value == LARGEST for e in walk(out.value))


def split_lines(tf: TensorFunction) -> TensorFunction:
    """Packed pixels of an image as whole lines (and phases in both directions): out[q] of
    (q // pitch, q mod pitch) becomes out[y, x]. What lies around the image are then regions;
    without a border lines become one again."""
    out = tf.stage_of(tf.outputs[0])
    if out is None or not is_pack(out):
        return tf
    for k, axis in enumerate(out.axes[:-1]):
        for e in walk(out.value):
            if isinstance(e, Binary) and e.op == "mod" and e.a is axis.var:
                size = known(e.b)
                if size and (known(axis.extent) or 1) % size == 0:
                    return split_lines(split_axis(tf, {out.tensor: k}, Const(size)))
    return tf


def join_blocks(tf: TensorFunction, stage: Stage) -> TensorFunction:
    """The blocks of columns that a result has where it is packed, and the columns in a block, are
    one axis, that of the sums:

        out[p, b, y, k] of R0[y, 32 b + k]  ->  out[p, y, n] of R0[y, n] at [p, n // 32, y, n % 32]
    """
    out = next(s for s in tf.stages if s.tensor in tf.outputs)
    k = out.axes[-1]
    found = {r.index[-1] for r in reads(out.value) if r.tensor is stage.tensor}
    block = block_of(found.pop(), k) if len(found) == 1 and is_pack(out) else None
    if block is None:
        return tf
    extent = stage.axes[-1].extent
    n = Axis(Var(k.var.name, hi=max((known(extent) or 1) - 1, 0)), extent)
    at: dict[Var, Expr] = {block: floordiv(n.var, DEPTH), k.var: mod(n.var, DEPTH)}
    place = tuple(at.get(a.var, a.var) for a in out.axes)
    value = substitute(out.value, {block: Const(0), k.var: n.var})
    axes = (*(a for a in out.axes[:-1] if a.var is not block), n)
    made = replace(out, axes=axes, value=value, place=place)
    return replace(tf, stages=tuple(made if s is out else s for s in tf.stages))


def cross_rows(tf: TensorFunction, stage: Stage) -> tuple[TensorFunction, Stage]:
    """All axes that number the rows of the packed operand become one:

        R0[y, x, n] = sum of a[…, y · pitch + x + …, k] · w[…]
        ->  R0[q, n] with q = y · pitch + x

    The result is stored where x = q mod pitch is a pixel. Places of windows lie outside of rows. As
    it is where there are no two such axes, or the result does not read the sums at its own."""
    out = old = next(s for s in tf.stages if s.tensor in tf.outputs)
    at = tuple(a.var for a in out.axes)
    own = at[-len(stage.axes) :]
    plain = all(r.index == own for r in reads(out.value) if r.tensor is stage.tensor)
    if len(tf.stages) != 2 or not plain:
        return tf, stage
    place = list(out.place or at)
    stage, out = _places_outside(stage, out)
    while len(stage.axes) >= 3:
        made = _cross(stage, out, place)
        if made is None:
            break
        stage, out, place = made
    return (tf if out is old else replace(tf, stages=(stage, out))), stage


def _places_outside(stage: Stage, out: Stage) -> tuple[Stage, Stage]:
    """Each place of all windows by itself:

    R0[y, a, x, b, n]  ->  R0[a, b, y, x, n], stored where it was
    """
    places = places_of(stage)
    if not places:
        return stage, out
    row = operands(stage)[0].index[-2]
    *front, _ = stage.axes
    rows = [a for a in front if a not in places and not free_of(row, a.var)]
    others = [a for a in front if a not in places and a not in rows]
    order = [stage.axes.index(a) for a in (*others, *places, *rows, stage.axes[-1])]
    axes, outer = ([s.axes[k] for k in order] for s in (stage, out))
    sums = Tensor(stage.tensor.name, stage.tensor.dtype, tuple(a.extent for a in axes))
    read = Read(sums, tuple(a.var for a in outer))
    value = map_reads(out.value, lambda r: r if r.tensor is not stage.tensor else read)
    place = tuple(a.var for a in out.axes)
    made = replace(stage, tensor=sums, axes=tuple(axes))
    return made, replace(out, axes=tuple(outer), value=value, place=place)


def _cross(stage: Stage, out: Stage, place: list[Expr]) -> tuple[Stage, Stage, list[Expr]] | None:
    """The last two axes of rows as one."""
    *outer, y, x, n = stage.axes
    row = operands(stage)[0].index[-2]
    if y in places_of(stage) or free_of(row, y.var) or free_of(row, x.var):
        return None
    pitch = sub(substitute(row, {y.var: Const(1)}), substitute(row, {y.var: Const(0)}))
    if sub(substitute(row, {x.var: Const(1)}), substitute(row, {x.var: Const(0)})) != Const(1):
        return None
    extent = mul(y.extent, pitch)
    size = known(extent)
    q = Axis(Var(x.var.name, hi=2**31 - 2 if size is None else max(size - 1, 0)), extent)
    axes = (*outer, q, n)
    sums = Tensor(stage.tensor.name, stage.tensor.dtype, tuple(a.extent for a in axes))
    value = substitute(stage.value, {y.var: Const(0), x.var: q.var})
    made = replace(stage, tensor=sums, axes=axes, value=value)

    *outer_out, oy, ox, on = out.axes
    p = Axis(Var(ox.var.name, hi=q.var.hi), extent)
    line, pixel = floordiv(p.var, pitch), mod(p.var, pitch)
    inside: dict[Var, Expr] = {oy.var: line, ox.var: minimum(pixel, sub(ox.extent, 1))}
    read = Read(sums, tuple(a.var for a in (*outer_out, p, on))[-len(sums.shape) :])
    moved = map_reads(out.value, lambda r: r if r.tensor is not stage.tensor else read)
    stored = [substitute(i, {oy.var: line, ox.var: pixel}) for i in place]
    axes = (*outer_out, p, on)
    new = replace(out, axes=axes, value=substitute(moved, inside), place=tuple(stored))
    return made, new, stored
