"""`coded_trees`: what trees vote for, from codes (tree_codes.py) and tables (coded_tables.py).

    codes    i8[blocks, V, 128]
    asks, rows, first, leaves, weights, targets: see CodedTables
    begins, which, beside: see Beside; or left out, and
    roots, words, slots, depths: see Records

Attributes: `count` of rows, an index expression; `targets`, how many there are; `aggregate` (sum,
min, max); `shift` of the records; `one`, about how many instructions a row takes that comes alone.
The result is [targets, count].

Votes are added up tree by tree in order: results depend neither on threads nor on what runs
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node, TensorType, make_constant
from naru.ir.simplify import index, known, mul
from naru.ops.coded_tables import (
    ACROSS,
    CUT,
    TOGETHER,
    Beside,
    CodedTables,
    make_coded,
)
from naru.ops.kernel_text import by_hand, indent
from naru.ops.operands import given, operand
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, apply, constant, register
from naru.ops.tree_codes import BLOCK, BLOCKS, ref_codes
from naru.ops.tree_coding import LOW
from naru.ops.tree_samples import EVERY, random_ensemble, random_votes
from naru.targets import Target

Array = np.ndarray
ROLES = (
    "codes", "asks", "rows", "first", "leaves", "weights", "targets",
    "begins", "which", "beside", "roots", "words", "slots", "depths",
)  # fmt: skip
START = {"sum": "0.0", "min": "inf", "max": "-inf"}
# What changes nothing: 0.0 would change the sign of a sum of -0.0.
PASSIVE = {"sum": -0.0, "min": np.inf, "max": -np.inf}
WIDE = 4  # registers of rows at a time: what a node says is read once for them
TABLE = 16  # bytes that one instruction looks up in


def infer_coded(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    name = "coded_trees"
    codes, weights = operand(name, types, 0, rank=3), operand(name, types, 5, rank=1)
    if codes.dtype != "i8" or codes.shape[2] != Const(BLOCK):
        raise ModelError(f"{name}: expected codes i8[blocks, rows, {BLOCK}], got {codes!r}")
    return (TensorType(weights.dtype, (Const(int(attrs["targets"])), index(attrs["count"]))),)


def ref_coded(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    codes, asks = given(arrays), given(arrays, 1).reshape(-1, 2)
    rows, first, leaves = given(arrays, 2), given(arrays, 3), given(arrays, 4)
    weights, targets = given(arrays, 5), given(arrays, 6)
    count = int(attrs["count"])
    block, lane = (v[:, None] for v in np.divmod(np.arange(count), BLOCK))
    stands = np.full((count, leaves.size), LOW, np.int8)
    sizes = np.diff(first)
    for k in range(int(sizes.max(initial=0))):
        trees = np.flatnonzero(sizes > k)
        at = first[trees] + k
        cut, below = asks[at].T
        moves = (codes[block, rows[at], lane] > cut) & (stands[:, trees] >= below)
        stands[:, trees] = np.where(moves, LOW + 1 + k, stands[:, trees])
    out = np.full((int(attrs["targets"]), count), float(START[attrs["aggregate"]]), weights.dtype)
    combine = {"sum": np.add, "min": np.minimum, "max": np.maximum}[attrs["aggregate"]]
    for tree in range(leaves.size):
        t = targets[tree // TOGETHER]
        out[t] = combine(out[t], weights[leaves[tree] + stands[:, tree].astype(np.int64)])
    return (out,)


def opaque_coded(n: Node, target: Target) -> str:
    codes, weights, targets = (given(n.inputs, k).type for k in (0, 5, 6))
    sizes: dict[str, Expr] = {
        "N": n.type.shape[1], "V": codes.shape[1], "GROUPS": targets.shape[0],
        "TARGETS": n.type.shape[0], "ALL": weights.shape[0],
    }  # fmt: skip
    return by_hand(n, ROLES, ("out",), _Kernel(n, target).body(), sizes)


class _Kernel:
    def __init__(self, n: Node, target: Target) -> None:
        self.dtype = n.type.dtype
        self.aggregate = str(n.attr("aggregate"))
        self.shift = int(n.attr("shift"))  # pyright: ignore[reportArgumentType]
        self.lanes = target.lanes("i8")
        self.unit = min(self.lanes * WIDE, BLOCK)
        self.rows = known(given(n.inputs).type.shape[1]) or 0
        self.walks = n.inputs[ROLES.index("roots")] is not None
        nodes = known(given(n.inputs, 2).type.shape[0]) or 0
        trees = TOGETHER * (known(given(n.inputs, 6).type.shape[0]) or 0)
        many = nodes * (5 + 4 * WIDE) + trees * self.unit * 9 // 4
        alone = int(n.attr("one")) * 32 // self.lanes  # pyright: ignore[reportArgumentType]
        self.few = max(0, min(self.unit - 1, many // max(1, alone)))  # rows, faster one by one

    def body(self) -> list[str]:
        return [
            f"units: index = (N + {self.unit - 1 - self.few}) // {self.unit}",
            "for u in parallel(units):",
            *indent(self._unit()),
            f"done: index = min(units * {self.unit}, N)",
            "for i in parallel(N - done):",
            "    row: index = done + i",
            f"    block: index = row // {BLOCK} * (V * {BLOCK}) + row % {BLOCK}",
            "    for t in range(TARGETS):",
            f"        out[t * N + row] = {START[self.aggregate]}",
            *indent(self._walk() if self.walks else self._beside()),
        ]

    def _combine(self, total: str, vote: str) -> str:
        if self.aggregate == "sum":
            return f"{total} + {vote}"
        sign = "<" if self.aggregate == "min" else ">"
        return f"select({vote} {sign} {total}, {vote}, {total})"

    def _votes(self, group: str, row: str, slot: Callable[[int], str]) -> list[str]:
        """Adds to a row the votes of a group; `slot`: where that of its k-th tree is."""
        lines = [f"total: {self.dtype} = out[t * N + {row}]"]
        total = "total"
        for k in range(TOGETHER):
            lines += [
                f"vote{k}: {self.dtype} = weights[{slot(k)}]",
                f"total{k}: {self.dtype} = {self._combine(total, f'vote{k}')}",
            ]
            total = f"total{k}"
        return [*lines, f"out[t * N + {row}] = {total}"]

    def _slot(self, tree: str, stand: str) -> str:
        return f"index(leaves[{tree}]) + index({stand})"

    def _unit(self) -> list[str]:
        """Registers of rows through all nodes of `TOGETHER` trees, and then their votes."""
        unit, lanes = self.unit, self.lanes
        here = f"at[w * {lanes}:w * {lanes} + {lanes}]"
        code = f"codes[code + w * {lanes}:code + w * {lanes} + {lanes}]"
        each = f"for w in unroll({unit // lanes}):"
        return [
            f"begin: index = u * {unit}",
            f"size: index = min({unit}, N - begin)",
            f"block: index = begin // {BLOCK} * (V * {BLOCK}) + begin % {BLOCK}",
            "for t in range(TARGETS):",
            "    for i in range(size):",
            f"        out[t * N + begin + i] = {START[self.aggregate]}",
            f"stands: i8[{TOGETHER * unit}] @ stack @ 64",
            "for g in range(GROUPS):",
            f"    for k in range({TOGETHER}):",
            f"        tree: index = g * {TOGETHER} + k",
            f"        at: i8[{unit}] @ stack @ 64",
            f"        turn: i8[{lanes}] @ stack @ 64",
            f"        turn[0:{lanes}] = splat(i8({LOW}), {lanes})",
            f"        {each}",
            f"            {here} = splat(i8({LOW}), {lanes})",
            "        for node in range(index(first[tree]), index(first[tree + 1])):",
            f"            turn[0:{lanes}] = turn[0:{lanes}] + splat(i8(1), {lanes})",
            f"            code: index = block + index(rows[node]) * {BLOCK}",
            f"            cut: i8[{lanes}] = splat(asks[node * 2], {lanes})",
            f"            below: i8[{lanes}] = splat(asks[node * 2 + 1], {lanes})",
            f"            {each}",
            f"                stand: i8[{lanes}] = {here}",
            f"                moves: bool[{lanes}] = ({code} > cut) & (stand >= below)",
            f"                {here} = select(moves, turn[0:{lanes}], stand)",
            f"        {each}",
            f"            stand_at: index = k * {unit} + w * {lanes}",
            f"            stands[stand_at:stand_at + {lanes}] = {here}",
            "    t: index = index(targets[g])",
            "    for i in range(size):",
            *indent(
                self._votes(
                    "g",
                    "begin + i",
                    lambda k: self._slot(f"g * {TOGETHER} + {k}", f"stands[{k * unit} + i]"),
                ),
                2,
            ),
        ]

    def _beside(self) -> list[str]:
        """One row through `ACROSS` trees side by side."""
        lanes, tables = self.lanes, -(-self.rows // TABLE)
        here = f"stands[w * {lanes}:w * {lanes} + {lanes}]"
        lines: list[str] = []
        for k in range(tables):
            size = min(TABLE, self.rows - k * TABLE)
            lines += [
                f"line{k}: i8[{TABLE}] @ stack @ 16",
                f"for v in unroll({size}):",
                f"    line{k}[v] = codes[block + ({k * TABLE} + v) * {BLOCK}]",
            ]
        place = f"node * {ACROSS} + w * {lanes}"
        ask = f"node * {2 * ACROSS} + w * {lanes}"
        return [
            *lines,
            f"for g in range((GROUPS * {TOGETHER} + {ACROSS - 1}) // {ACROSS}):",
            f"    stands: i8[{ACROSS}] @ stack @ 64",
            f"    turn: i8[{lanes}] @ stack @ 64",
            f"    turn[0:{lanes}] = splat(i8({LOW}), {lanes})",
            f"    for w in unroll({ACROSS // lanes}):",
            f"        {here} = splat(i8({LOW}), {lanes})",
            "    for node in range(index(begins[g]), index(begins[g + 1])):",
            f"        turn[0:{lanes}] = turn[0:{lanes}] + splat(i8(1), {lanes})",
            f"        for w in unroll({ACROSS // lanes}):",
            f"            asked: u8[{lanes}] = which[{place}:{place} + {lanes}]",
            *indent(self._look_up(tables), 3),
            f"            cut: i8[{lanes}] = beside[{ask}:{ask} + {lanes}]",
            f"            below: i8[{lanes}] = beside[{ask} + {ACROSS}:{ask} + {ACROSS} + {lanes}]",
            f"            stand: i8[{lanes}] = {here}",
            f"            moves: bool[{lanes}] = (code > cut) & (stand >= below)",
            f"            {here} = select(moves, turn[0:{lanes}], stand)",
            f"    arrived: i8[{ACROSS}] @ stack @ 64",
            f"    for w in unroll({ACROSS // lanes}):",
            f"        arrived[w * {lanes}:w * {lanes} + {lanes}] = {here}",
            f"    for h in range(min({ACROSS // TOGETHER}, GROUPS - g * {ACROSS // TOGETHER})):",
            f"        group: index = g * {ACROSS // TOGETHER} + h",
            "        t: index = index(targets[group])",
            *indent(
                self._votes(
                    "group",
                    "row",
                    lambda k: self._slot(
                        f"group * {TOGETHER} + {k}", f"arrived[h * {TOGETHER} + {k}]"
                    ),
                ),
                2,
            ),
        ]

    def _look_up(self, tables: int) -> list[str]:
        """`code`, of the rows that `asked` names."""
        lanes = self.lanes
        if tables == 1:
            return [f"code: i8[{lanes}] = line0[asked]"]
        lines = [f"low: u8[{lanes}] = asked & splat(u8({TABLE - 1}), {lanes})"]
        lines += [f"found0_{k}: i8[{lanes}] = line{k}[low]" for k in range(tables)]
        level = 0
        while tables > 1:
            bit = f"asked << splat(u8({level}), {lanes})" if level else "asked"
            lines.append(f"upper{level}: bool[{lanes}] = i8({bit}) < splat(i8(0), {lanes})")
            for k in range(tables // 2):
                a, b = f"found{level}_{2 * k}", f"found{level}_{2 * k + 1}"
                lines.append(f"found{level + 1}_{k}: i8[{lanes}] = select(upper{level}, {b}, {a})")
            if tables % 2:
                last = f"found{level}_{tables - 1}"
                lines.append(f"found{level + 1}_{tables // 2}: i8[{lanes}] = {last}")
            tables, level = -(-tables // 2), level + 1
        return [*lines, f"code: i8[{lanes}] = found{level}_0"]

    def _walk(self) -> list[str]:
        """One row through `TOGETHER` trees side by side."""
        rows = (1 << self.shift) - (1 << CUT)
        step = [
            "word: u32 = words[index(at[w])]",
            f"line: index = index((word & {rows}) >> {CUT}) * {BLOCK}",
            "code: i8 = codes[block + line]",
            f"at[w] = at[w] + (word >> {self.shift}) + u32(code > i8(word))",
        ]
        return [
            "for g in range(GROUPS):",
            f"    at: u32[{TOGETHER}] @ stack @ 64",
            "    deepest = 0",
            f"    for w in unroll({TOGETHER}):",
            f"        at[w] = u32(roots[g * {TOGETHER} + w])",
            f"        deepest = max(deepest, index(depths[g * {TOGETHER} + w]))",
            "    for step in range(deepest):",
            f"        for w in unroll({TOGETHER}):",
            *indent(step, 3),
            "    t: index = index(targets[g])",
            *indent(self._votes("g", "row", lambda k: f"index(slots[index(at[{k}])])")),
        ]


def _flops(n: Node) -> Expr:
    return mul(n.type.shape[1], 2 * int(n.attr("one")))  # pyright: ignore[reportArgumentType]


def apply_coded(x: Node, t: CodedTables, aggregate: str, count: int) -> Node:
    """The votes of all trees for the rows of x: [count, N]."""
    c, one, i32 = t.coding, t.one, np.int32
    tables = [constant(a, i32) for a in (c.features, c.levels, c.starts, c.ranks)]
    ends = [constant(a, i32) for a in (c.rows, c.places)]
    borders, lookup = constant(c.borders, c.borders.dtype), constant(c.lookup, np.int8)
    codes = apply("tree_codes", x, *tables, borders, *ends, lookup)
    if isinstance(one, Beside):
        alone = (constant(one.begins, i32), constant(one.which.reshape(-1), np.uint8),
                 constant(one.asks.reshape(-1), np.int8), *[None] * 4)  # fmt: skip
    else:
        alone = (*[None] * 3, constant(one.roots, i32), constant(one.words, np.uint32),
                 constant(one.slots, i32), constant(one.depths, i32))  # fmt: skip
    return apply(
        "coded_trees",
        codes,
        constant(t.asks.reshape(-1), np.int8),
        *(constant(a, i32) for a in (t.rows, t.first, t.leaves)),
        constant(t.weights, t.weights.dtype),
        constant(t.targets, i32),
        *alone,
        count=x.type.shape[0],
        targets=count,
        aggregate=aggregate,
        shift=0 if isinstance(one, Beside) else one.shift,
        one=t.cost_of_one(),
    )


# --- samples --------------------------------------------------------------------------------------


def _sample(rows: int, trees: int, depth: int, features: int, aggregate: str = "sum") -> Sample:
    """Values are multiples of a half, or NaN, as are the splits. With 3 targets where there are
    many trees."""
    rng = np.random.default_rng(rows + trees)
    nodes = random_ensemble(rng, trees, depth, features, EVERY)
    votes = random_votes(rng, nodes, 1, 1)
    owner = np.searchsorted(nodes.roots, votes.leaves, "right") - 1
    count = 3 if trees > TOGETHER else 1
    votes = replace(votes, targets=owner % count)
    tables = make_coded(nodes, votes, PASSIVE[aggregate])
    assert tables is not None
    x = (rng.integers(-5, 6, (rows, features)) / 2).astype(np.float32)
    x[::3, ::2] = np.nan
    node = apply_coded(make_constant(x), tables, aggregate, count)
    codes = given(node.inputs)
    coded = ref_codes(tuple(None if i is None else i.data for i in codes.inputs), {})
    arrays = tuple(None if i is None else i.data for i in node.inputs[1:])
    return Sample((*coded, *arrays), {**dict(node.attrs), "count": rows})


def _samples() -> Iterable[Sample]:
    yield _sample(1, 1, 1, 3)
    yield _sample(0, 2, 2, 3)
    yield _sample(9, 17, 3, 5)
    yield _sample(3, 70, 3, 40)  # several tables for one row
    yield _sample(140, 3, 4, 4)
    yield _sample(2, 3, 5, 300, "min")  # walks
    yield _sample(300, 9, 3, 90, "max")


register(Op("coded_trees", "opaque", infer_coded, ref_coded, opaque=opaque_coded, flops=_flops,
            sparse=True, samples=_samples, rows=((BLOCKS,), (1,))))  # fmt: skip
