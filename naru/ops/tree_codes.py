"""`tree_codes`: numbers as bytes that are all a tree needs to decide.

A node asks `x <= border`, and of all borders of a feature it matters only how many are below x: its
rank. A code is a byte made of the rank, so that the question becomes `code <= cut`: exact whatever
the dtype of x, and 32 rows fit a register. A feature has several rows of codes where it has more
borders than a byte can tell, where nodes disagree on what NaN means, or for a set of numbers.

    x         [N, F], f32 or f64
    features  i32[G]      the features that are asked for
    levels    i32[G]      of the search for a rank, see below
    starts    i32[G, 5]   where in `borders` each level begins
    ranks     i32[G]      the rank of NaN, which is above all others
    borders   [B]
    rows      i32[G + 1]  the first row of codes of each feature
    places    i32[V]      where in `lookup` the codes of a row begin, by rank
    lookup    i8[L]

The search goes down a tree of 17 branches: the lowest level is all borders of a feature in order,
the one above every 17th of them, and so on, up to one of at most 16; each is filled up with at
least one inf to a multiple of 17, the highest to 16. So a comparison of 16 neighbours with x says
which branch to take.

The result is i8 [ceil(N / 128), V, 128]: of 128 rows of x, code by code; 0 behind the last row.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from naru.ir.expr import Const, Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import add, floordiv, mul
from naru.ops.kernel_text import by_hand
from naru.ops.operands import check_equal, check_kind, check_same_dtype, given, operand
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.targets import Target

Array = np.ndarray
BLOCK = 128  # rows of x that lie together
BRANCHES = 17
LEVELS = 5  # at most: that is enough for a million borders of a feature
ROLES = ("x", "features", "levels", "starts", "ranks", "borders", "rows", "places", "lookup")


BLOCKS = -1  # where rows lie in the result: not along one axis


def blocks_of(rows: Expr) -> Expr:
    return floordiv(add(rows, BLOCK - 1), BLOCK)


def infer_codes(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    name = "tree_codes"
    x, borders = operand(name, types, 0, rank=2), operand(name, types, 5, rank=1)
    check_kind(name, check_same_dtype(name, (x, borders)), "f")
    features, rows = operand(name, types, 1, rank=1), operand(name, types, 6, rank=1)
    for k, rank in ((2, 1), (3, 2), (4, 1)):
        found = operand(name, types, k, rank=rank)
        check_equal(name, "features and their tables", features.shape[0], found.shape[0])
    check_equal(name, "features and rows", add(features.shape[0], 1), rows.shape[0])
    count = operand(name, types, 7, rank=1).shape[0]
    return (TensorType("i8", (blocks_of(x.shape[0]), count, Const(BLOCK))),)


def ref_codes(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, features, levels, starts, ranks = (given(arrays, k) for k in range(5))
    borders, rows, places, lookup = (given(arrays, k) for k in range(5, 9))
    blocks = -(-len(x) // BLOCK)
    out = np.zeros((places.size, blocks * BLOCK), np.int8)
    for g, f in enumerate(features.tolist()):
        start = starts[g, levels[g] - 1]
        value = x[:, f]
        rank = np.searchsorted(borders[start : start + ranks[g] - 1], value, "left")
        rank = np.where(np.isnan(value), ranks[g], rank)
        for v in range(rows[g], rows[g + 1]):
            out[v, : len(x)] = lookup[places[v] + rank]
    return (np.ascontiguousarray(out.reshape(places.size, blocks, BLOCK).swapaxes(0, 1)),)


def opaque_codes(n: Node, target: Target) -> str:
    x, features, places = (given(n.inputs, k).type for k in (0, 1, 7))
    lanes, wide = min(target.lanes(x.dtype), BRANCHES - 1), target.lanes("i8")
    body = f"""\
for b in parallel(BLOCKS):
    first: index = b * {BLOCK}
    count: index = min({BLOCK}, N - first)
    rank: i32[{BLOCK}] @ stack @ 64
    for g in range(GROUPS):
        f: index = index(features[g])
        for i in range(count):
            value: {x.dtype} = x[(first + i) * F + f]
            at = 0
            for level in range(index(levels[g])):
                branch: index = index(starts[g * {LEVELS} + level]) + at * {BRANCHES}
                at = at * {BRANCHES}
                for w in unroll({(BRANCHES - 1) // lanes}):
                    near: index = branch + w * {lanes}
                    above: bool[{lanes}] = splat(value, {lanes}) > borders[near:near + {lanes}]
                    at = at + reduce_add(index(above))
            rank[i] = select(isnan(value), ranks[g], i32(at))
        for v in range(index(rows[g]), index(rows[g + 1])):
            place: index = index(places[v])
            row: index = (b * V + v) * {BLOCK}
            if count < {BLOCK}:
                for w in unroll({BLOCK // wide}):
                    out[row + w * {wide}:row + w * {wide} + {wide}] = splat(i8(0), {wide})
            for i in range(count):
                out[row + i] = lookup[place + index(rank[i])]"""
    sizes = {
        "N": x.shape[0], "F": x.shape[1], "GROUPS": features.shape[0], "V": places.shape[0],
        "BLOCKS": n.type.shape[0],
    }  # fmt: skip
    return by_hand(n, ROLES, ("out",), body.splitlines(), sizes)


def _flops(n: Node) -> Expr:
    """As many as take the time of all searches."""
    return mul(given(n.inputs).type.shape[0], given(n.inputs, 1).type.shape[0], 128)


def _samples() -> Iterable[Sample]:
    features, levels, ranks = np.array([1, 3]), np.array([1, 2]), np.array([4, 19])
    starts = np.array([[0, 0, 0, 0, 0], [16, 32, 0, 0, 0]])
    many = np.append(np.arange(18) / 2 - 4, np.full(16, np.inf))
    upper = np.append(many[16::17], np.full(14, np.inf))
    borders = np.concatenate([[-1.0, 0.5, np.inf], np.full(13, np.inf), upper, many])
    rows, places = np.array([0, 2, 3]), np.array([0, 5, 10])
    lookup = np.array([-128, -3, 5, 6, 127, 1, 2, 3, 4, -9, *range(20)])
    tables = [a.astype(np.int32) for a in (features, levels, starts, ranks)]
    ends = [a.astype(np.int32) for a in (rows, places)]
    for count, dtype in ((0, np.float32), (1, np.float64), (300, np.float32), (129, np.float64)):
        x = np.resize(np.array([-2, -1, 0.5, 1, np.nan, np.inf, -np.inf, 9]), (count, 5))
        arrays = (x.astype(dtype), *tables, borders.astype(dtype), *ends, lookup.astype(np.int8))
        yield Sample(arrays, {})


register(Op("tree_codes", "opaque", infer_codes, ref_codes, opaque=opaque_codes, flops=_flops,
            sparse=True, samples=_samples, rows=((0,), (BLOCKS,))))  # fmt: skip
