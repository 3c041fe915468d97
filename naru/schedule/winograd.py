"""3×3 convolutions by Winograd's minimal filtering (matrices: cook_toom.py; Lavin and Gray, 2015).

    R0[y, x, n] = sum over ky, kx, c of image[y + ky, x + kx, c] * w[n, c, ky, kx]

becomes, for tiles t of m × m pixels and with m + 2 steps of u and v,

    D[t, u, j, c]   = sum over i of B'[u, i] image[y(t) + i, x(t) + j, c]     y(t), x(t): its corner
    V[u, v, t, c]   = sum over j of B'[v, j] D[t, u, j, c]
    R0[u, v, t, n]  = sum over c of V[u, v, t, c] * w'[u, v, n, c]            products of matrices
    M[u, v, t, n]   = R0[u, v, t, n]
    Z[t, r, v, n]   = sum over u of A'[r, u] M[u, v, t, n]
    out[t, r, s, n] = sum over v of A'[s, v] Z[t, r, v, n]                lies at y(t) + r, x(t) + s

with 4 (m = 4) or 2.25 (m = 2) times fewer multiplications. Filters come as w' (Layout.winograd).
The sums of the transforms are written out: what chooses one of them are variables of loops that a
schedule unrolls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from naru.ir.expr import Binary, Call, Const, Expr, Read, Var
from naru.ir.graph import Layout
from naru.ir.simplify import (
    add,
    ceildiv,
    compare,
    floordiv,
    free_of,
    known,
    minimum,
    mod,
    mul,
    select,
    sub,
    substitute,
)
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction, reads
from naru.schedule.cook_toom import TAPS
from naru.schedule.rewrites import map_reads, physical_index, physical_shape

# --- the transforms -------------------------------------------------------------------------------


def _plus(a: Expr, b: Expr) -> Expr:
    return Binary("add", a, b)


def _minus(a: Expr, b: Expr) -> Expr:
    return Binary("sub", a, b)


def _more(factor: float, a: Expr, b: Expr) -> Expr:
    """factor · a + b."""
    return Call("fma", (Const(factor, a.dtype), a, b))


def input_sums(m: int, d: Sequence[Expr]) -> list[Expr]:
    """B' d for m + 2 inputs, with what its rows have in common once."""
    if m == 2:
        return [_minus(d[2], d[0]), _plus(d[1], d[2]), _minus(d[2], d[1]), _minus(d[3], d[1])]
    odd, even = _minus(d[3], d[1]), _minus(d[4], d[2])
    return [
        _more(1.5, odd, _more(-2.0, d[2], _plus(d[0], d[4]))),
        _more(2.5, d[3], _more(0.5, d[2], _minus(d[4], d[1]))),
        _more(0.5, d[3], _more(-2.5, d[2], _plus(d[4], d[1]))),
        _more(2.0, odd, even),
        _more(-0.5, odd, even),
        _more(1.5, even, _more(-2.0, d[3], _plus(d[1], d[5]))),
    ]


def output_sums(m: int, p: Sequence[Expr]) -> list[Expr]:
    """A' p for m + 2 products, likewise."""
    both, apart = _plus(p[1], p[2]), _minus(p[1], p[2])
    if m == 2:
        return [_plus(p[0], both), _plus(apart, p[3])]
    return [
        _plus(_plus(p[0], both), _plus(p[3], p[4])),
        _more(0.5, p[3], _more(-2.0, p[4], apart)),
        _more(0.25, p[3], _more(4.0, p[4], both)),
        _more(0.125, p[3], _more(-8.0, p[4], _plus(apart, p[5]))),
    ]


def _chosen(k: Expr, values: Sequence[Expr]) -> Expr:
    """values[k]."""
    made = values[-1]
    for i in reversed(range(len(values) - 1)):
        made = select(compare("eq", k, i), values[i], made)
    return made


# --- the rewrite ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiles:
    """Those of the result: m × m pixels each, `columns` side by side."""

    m: int
    columns: Expr

    def corner(self, t: Expr) -> tuple[Expr, Expr]:
        """The first line and pixel of tile t."""
        return mul(floordiv(t, self.columns), self.m), mul(mod(t, self.columns), self.m)


def is_form(t: Tensor) -> bool:
    """Are these filters in the form for tiles?"""
    return t.layout is not None and t.layout.winograd > 0


def find_winograd(tf: TensorFunction) -> Stage | None:
    """The convolution whose filters come in a form for it."""
    return next((s for s in tf.stages if any(is_form(r.tensor) for r in reads(s.value))), None)


def winograd(tf: TensorFunction, stage: Stage) -> tuple[TensorFunction, Stage] | None:
    """The function with the stage made tile by tile, and the stage as it then is; None where it is
    no convolution with filters in that form, or the result is not made of it pixel by pixel."""
    out = next(s for s in tf.stages if s.tensor in tf.outputs)
    filters = [r for r in reads(stage.value) if is_form(r.tensor)]
    images = [r for r in reads(stage.value) if not is_form(r.tensor)]
    at = tuple(a.var for a in out.axes)
    if len(filters) != 1 or len(images) != 1 or len(at) < 3 or len(tf.stages) != 2:
        return None
    if any(r.index != at for r in reads(out.value) if r.tensor is stage.tensor):
        return None
    if not _slides(stage, images[0], filters[0]):
        return None
    old, layout = filters[0].tensor, filters[0].tensor.layout
    assert layout is not None
    m, size = layout.winograd, layout.winograd + TAPS - 1
    *lead, y, x, last = stage.axes
    tiles = Tiles(m, ceildiv(x.extent, m))
    t = _axis("t", mul(ceildiv(y.extent, m), tiles.columns))
    u, v, j = (_axis(name, Const(size)) for name in "uvj")
    channels = next(a for a in stage.reduction if a.var is filters[0].index[1])
    n, c = _axis("n", last.extent), _axis("c", channels.extent)
    stored = Tensor(old.name, old.dtype, physical_shape(old.shape, layout))
    plain = Layout(layout.order, layout.block)

    half = _stage("D", (*lead, t, u, j, c), lambda at: _half(images[0], stage, tiles, at))
    whole = _stage("V", (*lead, u, v, t, c), lambda at: _whole(half.tensor, m, at))

    def product(at: Sequence[Var], k: Sequence[Var]) -> Expr:
        (*outer, u, v, t, n), (c,) = at, k
        w = Read(stored, physical_index((n, c, u, v), plain))
        return Binary("mul", Read(whole.tensor, (*outer, u, v, t, c)), w)

    sums = _sum(stage.tensor.name, (*lead, u, v, t, n), (c,), product)
    kept = _stage("M", (*lead, u, v, t, n), lambda at: Read(sums.tensor, tuple(at)))
    r, s = (_axis(name, Const(m)) for name in "rs")
    back = _stage("Z", (*lead, t, r, v, n), lambda at: _back(kept.tensor, m, at))
    result = _result(out, stage, back, tiles, (*lead, t, r, s, n))
    stages = (half, whole, sums, kept, back, result)
    inputs = tuple(stored if x is old else x for x in tf.inputs)
    outputs = tuple(result.tensor if x is out.tensor else x for x in tf.outputs)
    return replace(tf, inputs=inputs, stages=stages, outputs=outputs), sums


def _slides(stage: Stage, image: Read, filters: Read) -> bool:
    """Does the stage sum image[…, y + ky, x + kx, c] * filters[n, c, ky, kx] at its axes …, y, x, n
    and over ky, kx, c, and nothing else?"""
    taps = {a.var for a in stage.reduction}
    y, x, n = (a.var for a in stage.axes[-3:])
    first, channel, *steps = filters.index
    if first is not n or set(filters.index[1:]) != taps or stage.combine != "add":
        return False
    row, column, last = image.index[-3:]
    apart = [sub(row, add(y, steps[0])), sub(column, add(x, steps[1]))]
    still = all(free_of(i, y, x, n, *taps) for i in (*apart, *image.index[:-3]))
    return (
        last is channel
        and still
        and stage.value
        in (
            Binary("mul", image, filters),
            Binary("mul", filters, image),
        )
    )


def _half(image: Read, stage: Stage, tiles: Tiles, at: Sequence[Var]) -> Expr:
    """D: the lines of a tile's window, combined. Where a tile reaches beyond the image, its last
    pixels stand for those that are not there; no pixel that counts is made of them."""
    *lead, t, u, j, c = at
    moved = dict(zip((a.var for a in stage.axes[:-3]), lead, strict=True))
    *outer, y, x, _ = image.index
    first = {a.var: Const(0) for a in (*stage.axes[-3:-1], *stage.reduction)}
    top, left = (substitute(i, {**first, **moved}) for i in (y, x))
    row, column = tiles.corner(t)
    rows, columns = image.tensor.shape[-3:-1]
    across = minimum(add(column, left, j), sub(columns, 1))
    fixed = [substitute(i, moved) for i in outer]
    lines = [minimum(add(row, top, i), sub(rows, 1)) for i in range(tiles.m + TAPS - 1)]
    pixels = [Read(image.tensor, (*fixed, i, across, c)) for i in lines]
    return _chosen(u, input_sums(tiles.m, pixels))


def _whole(half: Tensor, m: int, at: Sequence[Var]) -> Expr:
    """V: the columns, combined."""
    *lead, u, v, t, c = at
    parts = [Read(half, (*lead, t, u, Const(j), c)) for j in range(m + TAPS - 1)]
    return _chosen(v, input_sums(m, parts))


def _back(products: Tensor, m: int, at: Sequence[Var]) -> Expr:
    """Z: the lines of a tile of the result."""
    *lead, t, r, v, n = at
    parts = [Read(products, (*lead, Const(u), v, t, n)) for u in range(m + TAPS - 1)]
    return _chosen(r, output_sums(m, parts))


def _result(out: Stage, stage: Stage, back: Stage, tiles: Tiles, axes: Sequence[Axis]) -> Stage:
    """The result tile by tile. What it reads beside, beyond the image, it reads at its edge."""
    made = tuple(_axis(a.var.name, a.extent) for a in axes)
    *lead, t, r, s, n = (a.var for a in made)
    parts = [Read(back.tensor, (*lead, t, r, Const(v), n)) for v in range(tiles.m + TAPS - 1)]
    pixel = _chosen(s, output_sums(tiles.m, parts))
    row, column = tiles.corner(t)
    place = (*lead, add(row, r), add(column, s), n)
    value = map_reads(out.value, lambda x: pixel if x.tensor is stage.tensor else x)
    at: dict[Var, Expr] = {}
    for a, i in zip(out.axes, place, strict=True):
        at[a.var] = i if isinstance(i, Var) else minimum(i, sub(a.extent, 1))
    return Stage(out.tensor, made, substitute(value, at), place=place)


def _axis(name: str, extent: Expr) -> Axis:
    size = known(extent)
    return Axis(Var(name, hi=2**31 - 2 if size is None else max(size - 1, 0)), extent)


def _stage(name: str, axes: Sequence[Axis], value: Callable[[Sequence[Var]], Expr]) -> Stage:
    """A plain stage over axes of its own."""
    made = tuple(_axis(a.var.name, a.extent) for a in axes)
    e = value([a.var for a in made])
    return Stage(Tensor(name, e.dtype, tuple(a.extent for a in made)), made, e)


def _sum(
    name: str,
    axes: Sequence[Axis],
    over: Sequence[Axis],
    value: Callable[[Sequence[Var], Sequence[Var]], Expr],
) -> Stage:
    made, inner = (tuple(_axis(a.var.name, a.extent) for a in some) for some in (axes, over))
    e = value([a.var for a in made], [a.var for a in inner])
    return Stage(Tensor(name, e.dtype, tuple(a.extent for a in made)), made, e, inner, "add")
