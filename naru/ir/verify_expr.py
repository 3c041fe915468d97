"""What must hold of an expression wherever it stands; a table of checks for each kind of node.

Most rules hold already when a node is built (expr.py); these are the ones that building cannot see,
or that a hand-made or damaged program breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from naru.dtypes import DTYPES, is_float, is_integer
from naru.ir.expr import (
    BITWISE,
    CALLS,
    COMPARE,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Lanes,
    Load,
    Read,
    Reduce,
    Select,
    Shape,
    Splat,
    Unary,
    Var,
    broadcast,
)
from naru.ir.loop import Buffer
from naru.ir.simplify import Interval, bounds, known, sub, to_poly
from naru.ir.text_expr import REDUCTIONS

Check: TypeAlias = Callable[[Any], Iterator[str]]
MAX_RANK = 2  # of a tile value


def check_expr(e: Expr) -> Iterator[str]:
    """Every violation of a node itself, its operands not included."""
    for check in CHECKS[type(e)]:
        yield from check(e)


def _const(e: Const) -> Iterator[str]:
    if e.dtype not in DTYPES:
        yield f"unknown dtype {e.dtype!r}"
        return
    row = DTYPES[e.dtype]
    expected = {"b": bool, "f": float}.get(row.kind, int)
    if type(e.value) is not expected:
        yield (
            f"a constant of dtype {e.dtype} holds {e.value!r} ({type(e.value).__name__}), "
            f"expected {expected.__name__}"
        )
    elif row.kind in "iu":
        signed = row.kind == "i"
        lo, hi = (-(2 ** (row.bits - 1)) if signed else 0), 2 ** (row.bits - signed)
        if not lo <= e.value < hi:
            yield f"{e.value} does not fit {e.dtype}"


def _unary(e: Unary) -> Iterator[str]:
    if e.op == "not" and is_float(e.x.dtype):
        yield f"not: expected a bool or an integer, found {e.x.dtype}"
    if e.op in ("neg", "abs") and e.x.dtype == "bool":
        yield f"{e.op}: expected a number, found bool"


def _binary(e: Binary) -> Iterator[str]:
    dtype = e.a.dtype
    if e.op in BITWISE and is_float(dtype):
        yield f"{e.op}: expected bools or integers, found {dtype}"
    if e.op not in BITWISE and e.op not in COMPARE and dtype == "bool":
        yield f"{e.op}: expected numbers, found bool"


def _tile(e: Splat | Lanes) -> Iterator[str]:
    yield from tile_shape(e.shape)


def tile_shape(shape: Shape) -> Iterator[str]:
    """A tile value has at most two dims, none of them empty."""
    if len(shape) > MAX_RANK or any(n < 1 for n in shape):
        yield f"a tile of shape {shape}; expected at most {MAX_RANK} dims of at least 1"


def _load(e: Load) -> Iterator[str]:
    yield from tile_shape(e.tile)
    shape = e.index_shape()
    if e.tile and shape:
        yield f"{e.buffer.name}: an index is a tile {shape} and slices ask for a tile {e.tile}"
    if e.mask is not None and e.mask.shape != (e.tile or shape):
        yield f"{e.buffer.name}: the mask is {e.mask.shape}, expected {e.tile or shape}"
    if e.mask is None:
        yield from tile_fits(e.buffer, e.tile)


def tile_fits(buffer: Buffer, tile: Shape) -> Iterator[str]:
    """A tile is no longer than the dims that it extends along (under a mask it may be)."""
    dims = buffer.shape[len(buffer.shape) - len(tile) :] if tile else ()
    for n, d in zip(tile, dims, strict=False):
        size = known(d)
        if size is not None and n > size:
            yield f"{buffer.name}: a tile of {n} along a dim of {size}"


def _reduce(e: Reduce) -> Iterator[str]:
    if e.op not in REDUCTIONS:
        yield f"reduce: unknown operation {e.op!r}"
    elif e.op in ("and", "or") and is_float(e.dtype):
        yield f"reduce_{e.op}: expected bools or integers, found {e.dtype}"
    elif e.op not in ("and", "or") and e.dtype == "bool":
        yield f"reduce_{e.op}: expected numbers, found bool"


def _call(e: Call) -> Iterator[str]:
    if len(e.args) != CALLS[e.fn]:
        yield f"{e.fn}: expected {CALLS[e.fn]} operands, found {len(e.args)}"
    elif e.fn == "fma" and len({a.dtype for a in e.args}) > 1:
        yield f"fma: operands are {', '.join(a.dtype for a in e.args)}; cast to one dtype"
    elif e.fn == "dot":
        yield from _dot(*e.args)
    elif e.fn == "transposed" and len(e.args[0].shape) != 2:
        yield f"transposed: expected a tile of two dims, found {e.args[0].shape}"
    elif e.fn == "interleaved":
        a, b = e.args
        if len(a.shape) != 1 or (a.shape, a.dtype) != (b.shape, b.dtype):
            found = f"{a.dtype}{a.shape} and {b.dtype}{b.shape}"
            yield f"interleaved: expected two alike tiles of one dim, found {found}"


def _dot(a: Expr, b: Expr, c: Expr) -> Iterator[str]:
    shapes = f"{a.shape}, {b.shape}, {c.shape}"
    if not len(a.shape) == len(b.shape) == len(c.shape) == 2:
        yield f"dot: expected three tiles of two dims, found {shapes}"
        return
    k, rows = a.shape[1], b.shape[0]
    group = k // rows if k % rows == 0 else 0
    fits = c.shape[0] == a.shape[0] and b.shape[1] == group * c.shape[1]
    if group not in (1, 2, 4, 8) or not fits:
        expected = "[m, k], [k/g, g*n], [m, n], g of 1, 2, 4, 8"
        yield f"dot: shapes {shapes} do not fit; expected {expected}"


def _shape(e: Any) -> Iterator[str]:
    yield from tile_shape(e.shape)


def _nothing(e: Any) -> Iterator[str]:
    return iter(())


CHECKS: Mapping[type, tuple[Check, ...]] = {
    Const: (_const,),
    Var: (_shape,),
    Unary: (_unary,),
    Binary: (_binary,),
    Select: (_nothing,),
    Cast: (_nothing,),
    Read: (_nothing,),
    Load: (_load,),
    Splat: (_tile,),
    Lanes: (_tile,),
    Reduce: (_reduce,),
    Call: (_call,),
}


def out_of_bounds(
    name: str,
    dims: tuple[Expr, ...],
    index: tuple[Expr, ...],
    tile: Shape,
    ranges: Mapping[Var, Interval],
) -> Iterator[str]:
    """Accesses that are certainly out of bounds. `ranges`: variables that take every value of an
    interval (inclusive), each of them independently of the others."""
    first = len(index) - len(tile)
    for d, (i, n) in enumerate(zip(index, dims, strict=True)):
        size = tile[d - first] if d >= first else 1
        if i.dtype != "index" or i.shape:
            continue
        reached = _reached(i, ranges)
        extent = known(n)
        if bounds(i)[1] < 0 or (reached is not None and reached[0] < 0):
            low = reached[0] if reached is not None else bounds(i)[1]
            yield f"{name}: index {d} is {low}, out of bounds"
        elif reached is not None and extent is not None and reached[1] + size > extent:
            last = reached[1] + size - 1
            yield f"{name}: index {d} reaches {last}, the dim is {extent}"
        elif bounds(sub(n, i))[1] < size:
            yield f"{name}: index {d} is always beyond the dim"


def _reached(e: Expr, ranges: Mapping[Var, Interval]) -> Interval | None:
    """The least and greatest value that a linear expression really takes, if that is known."""
    lo = hi = 0
    seen: set[Expr] = set()
    for m, c in to_poly(e).items():
        if not m:
            lo, hi = lo + c, hi + c
            continue
        var = m[0]
        if len(m) > 1 or var in seen or not isinstance(var, Var) or var not in ranges:
            return None
        seen.add(var)
        a, b = ranges[var]
        lo, hi = lo + min(a * c, b * c), hi + max(a * c, b * c)
    return lo, hi


def index_problem(what: str, e: Expr) -> Iterator[str]:
    """A size or an offset is a scalar of dtype index."""
    if e.dtype != "index" or e.shape:
        shape = f"[{', '.join(map(str, e.shape))}]" if e.shape else ""
        yield f"{what}: expected an index, found {e.dtype}{shape}"


def store_shape(index: tuple[Expr, ...], value: Shape) -> tuple[Shape, Shape]:
    """The shape that a store writes (that of its indices where they are tiles), and its tile."""
    shape: Shape = ()
    for i in index:
        shape = broadcast(shape, i.shape)
    return (shape, ()) if shape else (value, value)


__all__ = [
    "check_expr", "index_problem", "is_integer", "out_of_bounds", "store_shape", "tile_fits",
    "tile_shape",
]  # fmt: skip
