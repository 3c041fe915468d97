"""What puts elements in order: top_k, sort_order, and the groups of equal elements for Unique.

The order of floats is total: a NaN is greater than every number and equal to every NaN; -0 is 0.
Elements that are equal stay in the order in which they are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from naru.dtypes import is_float
from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import ONE, TRUE, ZERO, compare, floordiv, index, known, minimum
from naru.ops.kernel_text import TILE, by_hand, indent
from naru.ops.operands import (
    check_equal,
    check_holds,
    check_kind,
    compute_dtype,
    dim_text,
    given,
    ints,
    operand,
)
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import edges, random
from naru.targets import Target

Array = np.ndarray


def _less(dtype: str, a: str, b: str) -> str:
    """Text of: a comes before b in the order from small to large, and is not equal to it."""
    if not is_float(dtype):
        return f"{a} < {b}"
    return f"({a} < {b} or (isnan({b}) and not isnan({a})))"


def _same(dtype: str, a: str, b: str) -> str:
    return f"({a} == {b} or (isnan({a}) and isnan({b})))" if is_float(dtype) else f"{a} == {b}"


def _widened(dtype: str, x: str) -> str:
    wide = compute_dtype(dtype)
    return x if wide == dtype else f"{wide}({x})"


# --- top_k ----------------------------------------------------------------------------------------


def infer_top_k(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [rows, n] -> the k greatest (attr `largest` False: smallest) of each row, the first one in
    the order first, and their positions (i64), both [rows, k]. attr k: an index expression, at most
    n."""
    x = operand("top_k", types, 0, 2)
    check_kind("top_k", x.dtype, "fiu")
    k = index(attrs["k"])
    count, size = known(k), known(x.shape[1])
    if count is not None and (count < 0 or (size is not None and count > size)):
        raise ModelError(f"top_k: {count} elements of {'?' if size is None else size}")
    if compare("le", k, x.shape[1]) is not TRUE:
        needed = f"{dim_text(k)} <= {dim_text(x.shape[1])}: as many elements as it gives"
        check_holds(lambda: compare("le", k, x.shape[1]), needed)
    return TensorType(x.dtype, (x.shape[0], k)), TensorType("i64", (x.shape[0], k))


def _order(x: Array, largest: bool) -> Array:
    """The positions of each row's elements in the order, equal ones as given."""
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind in "fV" else x
    if not largest:
        return np.argsort(wide, -1, kind="stable")
    return x.shape[-1] - 1 - np.flip(np.argsort(np.flip(wide, -1), -1, kind="stable"), -1)


def ref_top_k(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, (k,) = given(arrays), ints({"k": (attrs["k"],)}, "k")
    at = _order(x, bool(attrs.get("largest", True)))[:, :k].astype(np.int64)
    beyond = ((0, 0), (0, k - at.shape[1]))
    return np.pad(np.take_along_axis(x, at, -1), beyond), np.pad(at, beyond)


def _worse(dtype: str, largest: bool, a: str, ia: str, b: str, ib: str) -> str:
    """Text of: element a at ia comes behind element b at ib."""
    wide_a, wide_b = _widened(dtype, a), _widened(dtype, b)
    order = _less(dtype, wide_a, wide_b) if largest else _less(dtype, wide_b, wide_a)
    return f"({order} or ({_same(dtype, wide_a, wide_b)} and {ia} > {ib}))"


def _sift(dtype: str, worse: str, end: str) -> list[str]:
    """Lets the element (v, vi) sink from `hole` into the heap, whose root is the worst one."""
    return [
        "child = 2 * hole + 1",
        f"while child < {end}:",
        f"    right: index = min(child + 1, {end} - 1)",
        f"    a: {dtype} = values[base + right]",
        "    ia: i64 = order[base + right]",
        f"    b: {dtype} = values[base + child]",
        "    ib: i64 = order[base + child]",
        f"    other: bool = {worse}",
        f"    c: {dtype} = select(other, a, b)",
        "    ci: i64 = select(other, ia, ib)",
        "    at: index = select(other, right, child)",
        f"    if {_renamed(worse, 'c', 'ci', 'v', 'vi')}:",
        "        values[base + hole] = c",
        "        order[base + hole] = ci",
        "        hole = at",
        "        child = 2 * at + 1",
        "    else:",
        f"        child = {end}",
        "values[base + hole] = v",
        "order[base + hole] = vi",
    ]


def _renamed(worse: str, a: str, ia: str, b: str, ib: str) -> str:
    """A comparison of (a, ia) with (b, ib), of other elements."""
    return worse.format(a=a, ia=ia, b=b, ib=ib)


def opaque_top_k(n: Node, target: Target) -> str:
    """Parameters: x, values, order, sizes. A heap of the k best elements so far lies in the result;
    tiles in which nothing is better than its root are passed over."""
    x = given(n.inputs).type
    dtype, largest = x.dtype, bool(n.attr("largest", True))
    pattern = _worse(dtype, largest, "{a}", "{ia}", "{b}", "{ib}")
    sift = _sift(dtype, pattern, "{end}")

    def sink(end: str) -> list[str]:
        made = [line.replace("{end}", end) for line in sift]
        return [_renamed(s, "a", "ia", "b", "ib") for s in made]

    visit = [
        f"w: {dtype} = values[base]",
        f"v: {dtype} = x[row + i]",
        f"if {_less(dtype, *_ordered(dtype, largest, 'w', 'v'))}:",
        "    vi: i64 = i64(i)",
        "    hole = 0",
        *indent(sink("M")),
    ]
    size = known(x.shape[1])
    tiles = size is None or size >= TILE
    body = [
        "for r in parallel(ROWS):",
        "    base: index = r * K",
        "    row: index = r * N",
        "    for i in range(M):",
        "        values[base + i] = x[row + i]",
        "        order[base + i] = i64(i)",
        "    for j in range(M // 2):",
        "        start: index = M // 2 - 1 - j",
        f"        v: {dtype} = values[base + start]",
        "        vi: i64 = order[base + start]",
        "        hole = start",
        *indent(sink("M"), 2),
        "    if M > 0:",
        *indent(_scan(dtype, largest, tiles, visit), 2),
        "    for j in range(M - 1):",
        "        last: index = M - 1 - j",
        f"        v: {dtype} = values[base + last]",
        "        vi: i64 = order[base + last]",
        "        values[base + last] = values[base]",
        "        order[base + last] = order[base]",
        "        hole = 0",
        *indent(sink("last"), 2),
        "    for i in range(M, K):",
        f"        values[base + i] = {'0.0' if is_float(dtype) else '0'}",
        "        order[base + i] = 0",
    ]
    sizes: dict[str, Expr] = {"ROWS": x.shape[0], "N": x.shape[1], "K": n.type.shape[1]}
    sizes["M"] = minimum(sizes["N"], sizes["K"])
    return by_hand(n, ("x",), ("values", "order"), body, sizes)


def _ordered(dtype: str, largest: bool, a: str, b: str) -> tuple[str, str]:
    """The operands of `_less` for: b is better than a."""
    a, b = _widened(dtype, a), _widened(dtype, b)
    return (a, b) if largest else (b, a)


def _scan(dtype: str, largest: bool, tiles: bool, visit: Sequence[str]) -> list[str]:
    """Visits the elements from M on, a tile at a time where that pays."""
    if not tiles:
        return ["for i in range(M, N):", *indent(visit)]
    # A NaN, in the tile or at the root, sends the tile to the exact comparison.
    low, high = _widened(dtype, "splat(root, 16)"), _widened(dtype, "x[row + s:row + s + 16]")
    hit = f"{high} {'>' if largest else '<'} {low}"
    if is_float(dtype):
        hit = f"not ({high} {'<=' if largest else '>='} {low})"
    return [
        f"for t in range((N - M) // {TILE}):",
        f"    s: index = M + t * {TILE}",
        f"    root: {dtype} = values[base]",
        f"    if reduce_or({hit}):",
        f"        for i in range(s, s + {TILE}):",
        *indent(visit, 3),
        f"for i in range(N - (N - M) % {TILE}, N):",
        *indent(visit),
    ]


def _top_k_samples() -> Iterable[Sample]:
    for largest in (True, False):
        for rows, size, k in ((2, 7, 3), (3, 40, 5), (1, 33, 33), (2, 5, 1), (2, 4, 0), (0, 4, 2)):
            yield Sample((random(rows, size),), {"k": k, "largest": largest})
        for dtype in ("f32", "i64", "u8", "f16", "i8"):
            x = edges(dtype)
            yield Sample((np.concatenate([x, x, x])[None],), {"k": 9, "largest": largest})
        ties = np.array([[1, 2, 2, 1, 2, 1, 0]] * 2, np.int32)
        yield Sample((ties,), {"k": 6, "largest": largest})


register(Op("top_k", "opaque", infer_top_k, ref_top_k, opaque=opaque_top_k,
            samples=_top_k_samples, rows=((0,), (0, 0))))  # fmt: skip


# --- unique ---------------------------------------------------------------------------------------


def infer_sort_order(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [n, width] -> i64 [n]: the positions of its rows from the smallest to the greatest, by the
    first element that differs; equal rows as given."""
    x = operand("sort_order", types, 0, 2)
    return (TensorType("i64", (x.shape[0],)),)


def _ranks(x: Array) -> Array:
    """Numbers in the order of the elements, the same for equal ones."""
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind in "fV" else x
    found = np.unique(wide, return_inverse=True)[1].reshape(x.shape)
    return np.asarray(found, np.int64)


def ref_sort_order(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    ranks = _ranks(given(arrays))
    keys = [ranks[:, k] for k in reversed(range(ranks.shape[1]))]
    order = np.lexsort(keys) if keys else np.arange(len(ranks))
    return (order.astype(np.int64),)


def _compare_rows(dtype: str, a: str, b: str) -> list[str]:
    """Finds the first element that differs: sets p and q to it (or to two equal ones)."""
    kind = compute_dtype(dtype)
    read = [f"{v} = {_widened(dtype, f'x[{row} * W + j]')}" for v, row in (("p", a), ("q", b))]
    start = [s.replace(" + j", "") for s in read]
    return [
        *(f"{s[0]} = {s[4:]}" for s in start),
        "j = 1",
        f"while j < W and {_same(kind, 'p', 'q')}:",
        *indent(read),
        "    j = j + 1",
    ]


def opaque_sort_order(n: Node, target: Target) -> str:
    """Parameters: x, order, sizes. A heap sort of the positions."""
    x = given(n.inputs).type
    kind = compute_dtype(x.dtype)
    behind = f"{_less(kind, 'q', 'p')} or ({_same(kind, 'p', 'q')} and ia > ib)"

    def sink(end: str) -> list[str]:
        return [
            "child = 2 * hole + 1",
            f"while child < {end}:",
            f"    ia: i64 = order[min(child + 1, {end} - 1)]",
            "    ib: i64 = order[child]",
            *indent(_compare_rows(x.dtype, "index(ia)", "index(ib)")),
            f"    other: bool = {behind}",
            "    ci: i64 = select(other, ia, ib)",
            f"    at: index = select(other, min(child + 1, {end} - 1), child)",
            *indent(_compare_rows(x.dtype, "index(ci)", "index(vi)")),
            f"    if {behind.replace('ia', 'ci').replace('ib', 'vi')}:",
            "        order[hole] = ci",
            "        hole = at",
            "        child = 2 * at + 1",
            "    else:",
            f"        child = {end}",
            "order[hole] = vi",
        ]

    body = [
        "for i in range(N):",
        "    order[i] = i64(i)",
        "for i in range(HALF):",
        "    vi: i64 = order[HALF - 1 - i]",
        "    hole = HALF - 1 - i",
        *indent(sink("N")),
        "for i in range(N - 1):",
        "    last: index = N - 1 - i",
        "    vi: i64 = order[last]",
        "    order[last] = order[0]",
        "    hole = 0",
        *indent(sink("last")),
    ]
    if x.shape[1] is ZERO:
        body = body[:2]
    sizes: dict[str, Expr] = {"N": x.shape[0], "W": x.shape[1]}
    sizes["HALF"] = floordiv(x.shape[0], 2)
    return by_hand(n, ("x",), ("order",), body, sizes)


def infer_unique_groups(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [n, width], the order of its rows [n] -> the number of each row's group of equal rows, i64
    [n], and how many there are, i64 [1]. attr `sorted`: groups count in the order of the rows, else
    as they come."""
    x, order = operand("unique_groups", types, 0, 2), operand("unique_groups", types, 1, 1)
    check_equal("unique_groups", "numbers of rows", x.shape[0], order.shape[0])
    return TensorType("i64", (x.shape[0],)), TensorType("i64", (ONE,))


def ref_unique_groups(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    ranks, order = _ranks(given(arrays)), given(arrays, 1)
    there = ranks[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (there[1:] != there[:-1]).any(axis=1)
    group = np.zeros(len(order), np.int64)
    group[order] = np.cumsum(new) - 1
    firsts = order[new]
    if not attrs.get("sorted", True):
        group = np.argsort(np.argsort(firsts)).astype(np.int64)[group] if len(firsts) else group
    return group, np.array([len(firsts)], np.int64)


def opaque_unique_groups(n: Node, target: Target) -> str:
    """Parameters: x, order, group, count, sizes."""
    x = given(n.inputs).type
    kind = compute_dtype(x.dtype)
    # Positions are clamped: the order is an operand like any other.
    at = "min(max(index(order[{}]), 0), N - 1)"
    by_order = bool(n.attr("sorted", True))
    body = [
        "k = 0",
        "first = 0",
        "for i in range(N):",
        f"    here: index = {at.format('i')}",
        f"    before: index = {at.format('max(i - 1, 0)')}",
        *indent(_compare_rows(x.dtype, "here", "before") if x.shape[1] is not ZERO else []),
        f"    if i == 0 or not {_same(kind, 'p', 'q') if x.shape[1] is not ZERO else 'True'}:",
        "        k = k + 1",
        "        first = here",
        f"    group[here] = i64({'k - 1' if by_order else 'first'})",
    ]
    if not by_order:
        # A group's first row comes before its others, so its number is there when they ask.
        body += [
            "m = 0",
            "for i in range(N):",
            "    g: index = min(max(index(group[i]), 0), N - 1)",
            "    if g == i:",
            "        group[i] = i64(m)",
            "        m = m + 1",
            "    else:",
            "        group[i] = group[g]",
        ]
    sizes: dict[str, Expr] = {"N": x.shape[0], "W": x.shape[1]}
    return by_hand(n, ("x", "order"), ("group", "count"), [*body, "count[0] = i64(k)"], sizes)


def infer_unique_fill(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """groups [n], bound_dim -> of each group: its first member, how many it has; i64 [symbol]."""
    operand("unique_fill", types, 0, 1)
    size = operand("unique_fill", types, 1)
    if size.value is None:
        raise ModelError("unique_fill: operand 1 must come from bind_dim")
    return (TensorType("i64", (size.value[0],)),) * 2


def ref_unique_fill(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    group = given(arrays)
    _, first, count = np.unique(group, return_index=True, return_counts=True)
    return first.astype(np.int64), count.astype(np.int64)


def opaque_unique_fill(n: Node, target: Target) -> str:
    """Parameters: groups, bound (not read), first, count, sizes."""
    group = given(n.inputs).type
    body = [
        "for i in range(U):",
        "    count[i] = 0",
        "    first[i] = 0",
        "for i in range(N):",
        "    g: index = index(group[i])",
        "    if g >= 0 and g < U:",
        "        if count[g] == 0:",
        "            first[g] = i64(i)",
        "        count[g] = count[g] + 1",
    ]
    sizes: dict[str, Expr] = {"N": group.shape[0], "U": n.type.shape[0]}
    return by_hand(n, ("group", "bound"), ("first", "count"), body, sizes)


def _row_samples() -> Iterable[Array]:
    yield random(7, 1, dtype="i64")
    yield np.array([[1, 0, 0], [1, 0, 0], [2, 3, 4], [1, -1, 9], [1, 0, 0]], np.float32)
    yield np.repeat(edges("f32"), 2)[:, None]
    yield np.repeat(edges("f16"), 2)[::-1].reshape(-1, 1).copy()
    yield random(9, 3, dtype="bool")
    yield random(1, 1)
    yield random(0, 2)
    yield random(3, 0)


def _sort_order_samples() -> Iterable[Sample]:
    for x in _row_samples():
        yield Sample((x,))


def _unique_groups_samples() -> Iterable[Sample]:
    for x in _row_samples():
        for by_order in (True, False):
            yield Sample((x, ref_sort_order([x], {})[0]), {"sorted": by_order})


register(Op("sort_order", "opaque", infer_sort_order, ref_sort_order,
            opaque=opaque_sort_order, samples=_sort_order_samples))  # fmt: skip
register(Op("unique_groups", "opaque", infer_unique_groups, ref_unique_groups,
            opaque=opaque_unique_groups, samples=_unique_groups_samples))  # fmt: skip
register(Op("unique_fill", "opaque", infer_unique_fill, ref_unique_fill,
            opaque=opaque_unique_fill))  # fmt: skip
