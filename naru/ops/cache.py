"""append_rows: the keys or values of an attention's past with new ones written behind those in use.

A kernel by hand: how many rows are in use is data, and a row is copied once, from where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from naru.ir.graph import Node, TensorType
from naru.ir.simplify import floordiv, index, known, mul, sub
from naru.ops.kernel_text import KernelText
from naru.ops.operands import check_equal, check_kind, check_same_dtype, given, operand
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray
LANES = 16  # elements that are copied at once
NAME = "append_rows"


def infer_append_rows(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """past [n, p, d], new [n, s, d], before i64[n] -> [n, size, d]: rows of the past, with the new
    ones from row `before` on (at most p), and zeros behind both. What does not fit is left out."""
    past, new = operand(NAME, types, 0, rank=3), operand(NAME, types, 1, rank=3)
    before = operand(NAME, types, 2, rank=1)
    check_same_dtype(NAME, (past, new))
    check_kind(NAME, past.dtype, "fiu")
    check_kind(NAME, before.dtype, "i")
    for k in (0, 2):
        check_equal(NAME, f"sizes of axis {k}", past.shape[k], new.shape[k])
    check_equal(NAME, "the number of caches", past.shape[0], before.shape[0])
    return (TensorType(past.dtype, (new.shape[0], index(attrs["size"]), new.shape[2])),)


def ref_append_rows(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    past, new, before = (given(arrays, k) for k in range(3))
    size = int(getattr(attrs["size"], "value", attrs["size"]))
    out = np.zeros((past.shape[0], size, past.shape[2]), past.dtype)
    kept = min(past.shape[1], size)
    out[:, :kept] = past[:, :kept]
    for r in range(past.shape[0]):
        first = int(np.clip(before[r], 0, kept))
        rows = min(new.shape[1], size - first)
        out[r, first : first + rows] = new[r, :rows]
    return (out,)


def opaque_append_rows(n: Node, target: Target) -> str:
    """Parameters: past, new, before, out, sizes."""
    past, new, before = (i.type for i in n.inputs if i is not None)
    names = KernelText(past, new, before, n.type)
    width = new.shape[2]
    sizes = {
        "N": new.shape[0], "P": past.shape[1], "S": new.shape[1], "T": n.type.shape[1],
        "whole": floordiv(width, LANES),
        "rest": sub(width, mul(floordiv(width, LANES), LANES)),
        "start": mul(floordiv(width, LANES), LANES),
    }  # fmt: skip
    parts = _parts(known(width))
    lines = [
        "for r in parallel(N):",
        "    kept: index = min(P, T)",
        "    first: index = min(max(index(before[r]), 0), kept)",
        "    rows: index = min(S, T - first)",
        "    behind: index = max(kept - first - rows, 0)",
        *_copy(parts, "first", "past[r, j, {}]", "j"),
        *_copy(parts, "rows", "new[r, j, {}]", "first + j"),
        *_copy(parts, "behind", "past[r, first + rows + j, {}]", "first + rows + j"),
        "    used: index = max(first + rows, kept)",
        *_copy(parts, "T - used", None, "used + j", new.dtype),
    ]
    types = {"past": past, "new": new, "before": before, "out": n.type}
    head = names.head(NAME, *(names.buffer(k, t) for k, t in types.items()))
    return "\n".join([head, *("    " + names.fill(line, sizes) for line in lines), ""])


def _parts(width: int | None) -> Sequence[tuple[str, str, bool]]:
    """How a row is copied: (count, where, as a tile) for its tiles and for what they leave over."""
    tiles = ("whole", f"i * {LANES}:i * {LANES} + {LANES}", True)
    single = ("rest", "start + i", False)
    if width is None:
        return (tiles, single)
    return (*[tiles] * (width >= LANES), *[single] * (width % LANES > 0))


def _copy(
    parts: Sequence[tuple[str, str, bool]],
    count: str,
    source: str | None,
    to: str,
    dtype: str = "",
) -> Sequence[str]:
    """Loops over rows and what is in them; without a source, zeros."""
    zero = f"{dtype}(0.0)" if dtype and dtype[0] in "fb" else f"{dtype}(0)"
    lines = [f"    for j in range({count}):"]
    for many, where, tile in parts:
        value = f"splat({zero}, {LANES})" if tile else zero
        value = source.format(where) if source else value
        lines += [
            f"        for i in range({many}):",
            f"            out[r, {to}, {where}] = {value}",
        ]
    return lines if parts else []


def _append_rows_samples() -> Iterable[Sample]:
    for n, p, s, d, size, before in (
        (2, 5, 2, 3, 7, (5, 2)), (1, 4, 1, 16, 4, (3,)), (3, 6, 2, 35, 6, (0, 4, 5)),
        (2, 0, 3, 4, 5, (0, 2)), (2, 4, 3, 17, 2, (1, -3)), (1, 3, 0, 4, 6, (9,)),
        (0, 3, 1, 4, 4, ()), (1, 1, 1, 1, 1, (1,)),
    ):  # fmt: skip
        rows = (random(n, p, d), random(n, s, d, seed=1), np.array(before, np.int64))
        yield Sample(rows, {"size": size})
    for dtype in ("f16", "bf16", "i8"):
        half = (random(2, 3, 18, dtype=dtype), random(2, 1, 18, dtype=dtype, seed=1))
        yield Sample((*half, np.array([1, 3], np.int32)), {"size": 5})


register(Op(NAME, "opaque", infer_append_rows, ref_append_rows, opaque=opaque_append_rows,
            samples=_append_rows_samples))  # fmt: skip
