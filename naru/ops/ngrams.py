"""ngram_counts: how often each n-gram of a pool is in a sequence (TfIdfVectorizer)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import index, known
from naru.ops.kernel_text import by_hand, indent
from naru.ops.operands import check_equal, check_kind, given, operand
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray


def infer_ngram_counts(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x (i32 or i64) [rows, length], pool i64 [count, n] in ascending order, places i64 [count]
    -> f32 [rows, attr `width`]: at its place, how often an n-gram of the pool is in a row.

    An n-gram of a row may leave out up to attr `skips` elements between neighbours, the same
    number between all of them."""
    op = "ngram_counts"
    x, pool, places = operand(op, types, 0, 2), operand(op, types, 1, 2), operand(op, types, 2, 1)
    check_kind(op, x.dtype, "iu")
    check_equal(op, "sizes of pool and places", pool.shape[0], places.shape[0])
    if pool.dtype != "i64" or places.dtype != "i64" or not known(pool.shape[1]):
        raise ModelError(f"{op}: expected a pool of i64 n-grams, found {pool!r}")
    return (TensorType("f32", (x.shape[0], index(int(attrs["width"])))),)


def ref_ngram_counts(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, pool, places = given(arrays), given(arrays, 1), given(arrays, 2)
    out = np.zeros((len(x), int(attrs["width"])), np.float32)
    n, length = pool.shape[1], x.shape[1]
    where = {tuple(gram): int(place) for gram, place in zip(pool.tolist(), places, strict=True)}
    for row, line in enumerate(x.tolist()):
        for step in range(1, (int(attrs["skips"]) if n > 1 else 0) + 2):
            for first in range(length - (n - 1) * step):
                found = where.get(tuple(line[first : first + (n - 1) * step + 1 : step]))
                if found is not None:
                    out[row, found] += 1
    return (out,)


def opaque_ngram_counts(n: Node, target: Target) -> str:
    """Parameters: x, pool, places, out, sizes. Each n-gram is looked up by halving the pool."""
    x, pool = given(n.inputs).type, given(n.inputs, 1).type
    gram, skips, width = known(pool.shape[1]) or 1, n.attr("skips"), n.attr("width")
    assert isinstance(skips, int)
    assert isinstance(width, int)
    search = [
        "low = 0",
        "high = COUNT",
        "hit = -1",
        "while low < high:",
        "    middle: index = (low + high) // 2",
        "    order = i64(0)",
        "    j = 0",
        f"    while order == 0 and j < {gram}:",
        f"        wanted: i64 = pool[middle * {gram} + j]",
        "        here: i64 = i64(x[line + first + j * step])",
        "        order = select(here < wanted, i64(-1), select(here > wanted, i64(1), i64(0)))",
        "        j = j + 1",
        "    if order == 0:",
        "        hit = middle",
        "        low = high",
        "    elif order > 0:",
        "        low = middle + 1",
        "    else:",
        "        high = middle",
        "if hit >= 0:",
        "    to: index = index(places[hit])",
        f"    if to >= 0 and to < {width}:",
        f"        out[row * {width} + to] = out[row * {width} + to] + 1.0",
    ]
    body = [
        "for row in parallel(ROWS):",
        "    line: index = row * LENGTH",
        f"    for i in range({width}):",
        f"        out[row * {width} + i] = 0.0",
        f"    for step in range(1, {(skips if gram > 1 else 0) + 2}):",
        f"        for first in range(max(LENGTH - step * {gram - 1}, 0)):",
        *indent(search, 3),
    ]
    sizes: dict[str, Expr] = {
        "ROWS": x.shape[0], "LENGTH": x.shape[1], "COUNT": pool.shape[0],
    }  # fmt: skip
    return by_hand(n, ("x", "pool", "places"), ("out",), body, sizes)


def _samples() -> Iterable[Sample]:
    x = np.abs(random(3, 11, dtype="i64")) % 4
    pairs, places = np.array([[0, 1], [1, 1], [2, 0], [3, 2]]), np.array([2, 0, 3, 1])
    for skips in (0, 1, 5, 30):
        yield Sample((x, pairs, places), {"skips": skips, "width": 5})
        yield Sample((x.astype(np.int32), pairs[:, :1].copy(), places),
                     {"skips": skips, "width": 4})  # fmt: skip
    yield Sample((x[:, :1].copy(), pairs, places), {"skips": 1, "width": 4})
    yield Sample((x[:0].copy(), pairs, places), {"skips": 1, "width": 4})
    yield Sample((x, pairs[:0].copy(), places[:0].copy()), {"skips": 1, "width": 2})
    yield Sample((x, np.array([[1, 2, 3], [3, 1, -2**40]])[:1], np.array([0])),
                 {"skips": 2, "width": 1})  # fmt: skip


register(Op("ngram_counts", "opaque", infer_ngram_counts, ref_ngram_counts,
            opaque=opaque_ngram_counts, samples=_samples, rows=((0,), (0,))))  # fmt: skip
