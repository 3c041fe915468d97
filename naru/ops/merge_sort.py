"""Sorting whole rows of integers: a merge sort, whose merges run from both ends at once and take
elements without jumps. (Of floats a select would be a jump, so they are sorted by integer keys.)"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import index, known, mul
from naru.ops.kernel_text import TILE, by_hand, indent
from naru.ops.operands import check_kind, given, operand
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import edges, random
from naru.ops.sorting import ref_top_k
from naru.targets import Target

Array = np.ndarray


def infer_sort(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [rows, n] -> its rows from small to large (attr `largest`: from large to small), the
    positions (i64) that the elements had, equal ones as given, both [rows, n]; and what the sort
    leaves in its memory, twice as many of both: the rows before and after the last merge."""
    x = operand("sort", types, 0, 2)
    check_kind("sort", x.dtype, "iu")
    twice = (x.shape[0], mul(x.shape[1], index(2)))
    return tuple(
        TensorType(dtype, shape) for shape in (x.shape, twice) for dtype in (x.dtype, "i64")
    )


def ref_sort(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays)
    size, largest = x.shape[1], bool(attrs.get("largest", False))
    run = 1
    rounds = 0
    while run < size:
        run, rounds = 2 * run, rounds + 1
    values, order = _sorted(x, largest)
    runs = [_sorted(part, largest) for part in (x[:, : run // 2], x[:, run // 2 :])]
    before = [np.concatenate(parts, 1) for parts in zip(*runs, strict=True)]
    before[1][:, run // 2 :] += run // 2
    if size == 1:
        before = [values, order]
    halves = [
        (b, a)[:: -1 if rounds % 2 == 0 else 1]
        for b, a in zip(before, (values, order), strict=True)
    ]
    return values, order, *(np.concatenate(h, 1) for h in halves)


def _sorted(x: Array, largest: bool) -> tuple[Array, ...]:
    return ref_top_k([x], {"k": x.shape[1], "largest": largest})


def _merged(first: str, second: str, to: str, takes_second: str, step: int) -> list[str]:
    """One element of a merge: from one of two places, which then moves by a step."""
    return [
        f"{first}v: DTYPE = parts[source + {first}]",
        f"{second}v: DTYPE = parts[source + {second}]",
        f"{first}o: i64 = places[source + {first}]",
        f"{second}o: i64 = places[source + {second}]",
        f"{to}taken: bool = {takes_second}",
        f"parts[goal + {to}] = select({to}taken, {second}v, {first}v)",
        f"places[goal + {to}] = select({to}taken, {second}o, {first}o)",
        f"{first} = {first} + select({to}taken, 0, {step})",
        f"{second} = {second} + select({to}taken, {step}, 0)",
    ]


def _merges(largest: bool) -> tuple[list[str], list[str]]:
    """Of two whole runs half of the result comes from their beginnings and half from their ends:
    neither ends before, and the processor does both at once. Then the merge of what is left."""

    def before(a: str, b: str) -> str:
        """Text of: b comes before a, and is not equal to it."""
        return f"{b} > {a}" if largest else f"{b} < {a}"

    whole = [
        "a = begin",
        "b = begin + width",
        "c = begin + width - 1",
        "d = begin + 2 * width - 1",
        "for k in range(width):",
        "    low: index = begin + k",
        "    high: index = begin + 2 * width - 1 - k",
        *indent(_merged("a", "b", "low", before("av", "bv"), 1)),
        *indent(_merged("d", "c", "high", before("cv", "dv"), -1)),
    ]
    inside = f"(b < N and (a >= middle or {before('av', 'bv')}))"
    tail = _merged("a", "b", "low", inside, 1)
    rest = [
        "middle: index = min(begin + width, N)",
        "a = begin",
        "b = middle",
        "for k in range(N - begin):",
        "    low: index = begin + k",
        *indent([line.replace("source + b]", "source + min(b, N - 1)]") for line in tail]),
    ]
    return whole, rest


def opaque_sort(n: Node, target: Target) -> str:
    """Parameters: x, values, order, parts, places, sizes. Runs of 1, 2, 4, … elements are merged
    from one half of the memory to the other."""
    x = given(n.inputs).type
    dtype = x.dtype
    whole, rest = _merges(bool(n.attr("largest", False)))
    body = [
        "for r in parallel(ROWS):",
        "    for i in range(N):",
        "        parts[2 * r * N + i] = x[r * N + i]",
        "        parts[2 * r * N + N + i] = x[r * N + i]",
        "        places[2 * r * N + i] = i64(i)",
        "        places[2 * r * N + N + i] = i64(i)",
        "    source = 2 * r * N",
        "    goal = 2 * r * N + N",
        "    width = 1",
        "    while width < N:",
        "        for block in range(N // (2 * width)):",
        "            begin: index = block * 2 * width",
        *indent(whole, 3),
        "        if N % (2 * width) > 0:",
        "            begin: index = N // (2 * width) * 2 * width",
        *indent(rest, 3),
        "        was: index = source",
        "        source = goal",
        "        goal = was",
        "        width = 2 * width",
        f"    for t in range(N // {TILE}):",
        *(
            f"        {o}[r * N + t * {TILE}:r * N + t * {TILE} + {TILE}] = "
            f"{p}[source + t * {TILE}:source + t * {TILE} + {TILE}]"
            for o, p in (("values", "parts"), ("order", "places"))
        ),
        f"    for i in range(N - N % {TILE}, N):",
        "        values[r * N + i] = parts[source + i]",
        "        order[r * N + i] = places[source + i]",
    ]
    if (known(x.shape[1]) or TILE) < TILE:
        body = [*body[:-6], "    for i in range(N):", *body[-2:]]
    sizes: dict[str, Expr] = {"ROWS": x.shape[0], "N": x.shape[1]}
    text = [line.replace("DTYPE", dtype) for line in body]
    return by_hand(n, ("x",), ("values", "order", "parts", "places"), text, sizes)


def _samples() -> Iterable[Sample]:
    for largest in (True, False):
        for rows, size in ((2, 7), (3, 40), (1, 33), (2, 64), (2, 1), (2, 0), (0, 4), (1, 100)):
            yield Sample((random(rows, size, dtype="i32"),), {"largest": largest})
        for dtype in ("i64", "u8", "i8", "u32", "u64"):
            x = edges(dtype)
            yield Sample((np.concatenate([x, x, x])[None],), {"largest": largest})
        ties = np.array([[1, 2, 2, 1, 2, 1, 0] * 3] * 2, np.int32)
        yield Sample((ties,), {"largest": largest})


register(Op("sort", "opaque", infer_sort, ref_sort, opaque=opaque_sort, samples=_samples))
