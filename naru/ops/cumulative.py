"""Running sums and products: cumsum, cumprod. attrs axis, exclusive, reverse.

Half floats are accumulated in f32 and rounded where they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from naru.dtypes import is_float
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import ONE, known, prod
from naru.ops.kernel_text import TILE, by_hand, indent
from naru.ops.operands import axis_of, check_kind, compute_dtype, given, operand
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import edges, random

Array = np.ndarray


def _infer(op: str, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = operand(op, types, 0)
    check_kind(op, x.dtype, "fiu")
    axis_of(op, attrs.get("axis", 0), x.rank)
    return (TensorType(x.dtype, x.shape),)


def _ref(fn: Callable[..., Any], start: int, arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays)
    axis = int(attrs.get("axis", 0))
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind in "fV" else x
    wide = np.flip(wide, axis) if attrs.get("reverse") else wide
    with np.errstate(all="ignore"):
        out = fn(wide, axis, dtype=wide.dtype)
    if attrs.get("exclusive"):
        shape = [1 if k == axis % x.ndim else n for k, n in enumerate(x.shape)]
        whole = np.concatenate([np.full(shape, start, out.dtype), out], axis)
        out = np.take(whole, range(x.shape[axis]), axis)
    out = np.flip(out, axis) if attrs.get("reverse") else out
    return (out.astype(x.dtype),)


def _line(n: Node, sign: str, start: str, tile: int) -> list[str]:
    """One running value (or a tile of neighbours) along the axis, from `first` on."""
    dtype = n.type.dtype
    wide = compute_dtype(dtype)
    at = f"at:at + {tile}" if tile > 1 else "at"
    zero = f"splat({wide}({start}), {tile})" if tile > 1 else f"{wide}({start})"
    x = f"x[{at}]" if wide == dtype else f"{wide}(x[{at}])"
    value = "total" if wide == dtype else f"{dtype}(total)"
    step, store = f"total = total {sign} {x}", f"out[{at}] = {value}"
    return [
        f"total = {zero}",
        "for i in range(SIZE):",
        f"    at: index = first + {'(SIZE - 1 - i)' if n.attr('reverse') else 'i'} * INNER",
        *indent([store, step] if n.attr("exclusive") else [step, store]),
    ]


def _opaque(sign: str, start: int, n: Node) -> str:
    """Parameters: x, out, sizes. Each running value goes in order; those of neighbours, where the
    axis is not the last, go side by side in tiles."""
    x = given(n.inputs).type
    axis = axis_of(n.op, n.attr("axis", 0), x.rank)
    inner = prod(x.shape[axis + 1 :])
    first = f"{start}.0" if is_float(x.dtype) else str(start)
    body = ["for o in parallel(OUTER):"]
    if inner is ONE:
        body += indent(["first: index = o * SIZE", *_line(n, sign, first, 1)])
    else:
        body += ["    base: index = o * SIZE * INNER"]
        count = known(inner)
        if count is None or count >= TILE:
            tiles = [f"first: index = base + t * {TILE}", *_line(n, sign, first, TILE)]
            body += indent([f"for t in range(INNER // {TILE}):", *indent(tiles)])
        if count is None or count % TILE:
            single = ["first: index = base + j", *_line(n, sign, first, 1)]
            rest = f"for j in range(INNER // {TILE} * {TILE}, INNER):"
            body += indent([rest, *indent(single)])
    sizes: dict[str, Expr] = {
        "OUTER": prod(x.shape[:axis]), "SIZE": x.shape[axis], "INNER": inner,
    }  # fmt: skip
    return by_hand(n, ("x",), ("out",), body, sizes)


def _samples() -> Iterable[Sample]:
    for exclusive in (0, 1):
        for reverse in (0, 1):
            attrs: dict[str, Any] = {"exclusive": exclusive, "reverse": reverse}
            yield Sample((random(3, 4),), {"axis": 0, **attrs})
            yield Sample((random(2, 3, 2, dtype="i64"),), {"axis": -2, **attrs})
            yield Sample((random(2, 3, 37),), {"axis": 1, **attrs})
            yield Sample((random(3, 16, dtype="f16"),), {"axis": 0, **attrs})
    yield Sample((random(5, dtype="f16"),), {"axis": 0})
    yield Sample((random(5, dtype="u8"),), {"axis": 0})
    yield Sample((edges("f32"),), {"axis": 0})
    yield Sample((random(2, 0),), {"axis": 1})
    yield Sample((random(0, 2),), {"axis": 1})
    yield Sample((random(1, 1),), {"axis": 0, "exclusive": 1})


def _register(name: str, sign: str, start: int, fn: Callable[..., Any]) -> None:
    register(
        Op(
            name,
            "opaque",
            lambda types, attrs: _infer(name, types, attrs),
            lambda arrays, attrs: _ref(fn, start, arrays, attrs),
            opaque=lambda n, target: _opaque(sign, start, n),
            samples=_samples,
        )
    )


_register("cumsum", "+", 0, np.cumsum)
_register("cumprod", "*", 1, np.cumprod)
