"""The kernel of a tree ensemble: a walk over tables, with no branch that depends on data.

A step of a walk is `node += delta[node] + (x[feature[node]] <= split[node])`: the children of a
node lie side by side, the false one first, and a leaf stays where it is (delta 0, split NaN). Every
walk of a tree takes as many steps as the tree is deep, so many of them run side by side: rows of
the batch in one tree, or, where few rows are left, trees for one row. What a walk loads depends on
its step before, and the walks beside it hide that wait.

Votes are added tree by tree in order: results depend neither on threads nor on what runs together.
"""

from __future__ import annotations

from dataclasses import dataclass

from naru.ops.kernel_text import indent
from naru.targets import Target

DEEP = 12  # steps from which a walk looks whether all of its neighbours have arrived


@dataclass(frozen=True)
class Walk:
    """What the kernel is made from. `shift`: where in a node's word the feature begins, None if it
    has a table of its own; `missing`: are there nodes that send NaN to their true child; `single`:
    there is one target only; `slots`: do leaves have numbers of their own, by which their votes are
    found; `depth`: steps to the deepest leaf."""

    dtype: str
    shift: int | None
    missing: bool
    single: bool
    slots: bool
    aggregate: str
    depth: int


@dataclass(frozen=True)
class Width:
    """Walks that run side by side: `groups` tiles of `lanes` (1: scalars)."""

    lanes: int
    groups: int

    @property
    def walks(self) -> int:
        return self.lanes * self.groups

    def at(self, buffer: str, group: str) -> str:
        """A group's part of a buffer that has an element a walk."""
        if self.lanes == 1:
            return f"{buffer}[{group}]"
        start = f"{group} * {self.lanes}"
        return f"{buffer}[{start}:{start} + {self.lanes}]"

    def tile(self, dtype: str) -> str:
        return dtype if self.lanes == 1 else f"{dtype}[{self.lanes}]"

    def splat(self, value: str) -> str:
        return value if self.lanes == 1 else f"splat({value}, {self.lanes})"


def width_of(dtype: str, target: Target) -> Width:
    """Tiles where the target gathers at the speed of loads; elsewhere scalars, which need not be
    put together and taken apart."""
    if "avx512f" in target.features:
        return Width(target.lanes(dtype), 4)
    return Width(1, 8)


def kernel_body(walk: Walk, target: Target) -> list[str]:
    """The lines of the kernel's body. N, TREES, VOTES (of a tree) and TARGETS stand for sizes."""
    width = width_of(walk.dtype, target)
    block = width.walks
    few = block // 4 if width.lanes > 1 else block - 1  # that many rows go one by one
    return [
        f"blocks: index = (N + {block - 1 - few}) // {block}",
        "for b in parallel(blocks):",
        *indent(_block(walk, width)),
        f"first: index = min(blocks * {block}, N)",
        "for i in parallel(N - first):",
        "    row: index = first + i",
        *indent(_row(walk, width)),
    ]


def _start(walk: Walk) -> str:
    """What the votes are combined with at first."""
    return {"sum": "0.0", "min": "inf", "max": "-inf"}[walk.aggregate]


def _combine(walk: Walk, total: str, vote: str) -> str:
    if walk.aggregate == "sum":
        return f"{total} + {vote}"
    sign = "<" if walk.aggregate == "min" else ">"
    return f"select({vote} {sign} {total}, {vote}, {total})"


def _step(walk: Walk, width: Width, row: str) -> list[str]:
    """One step of group w, from the nodes in `at`."""
    here, dtype = width.at("at", "w"), walk.dtype
    node = "index(node)" if width.lanes == 1 else "node"
    lines = [f"node: {width.tile('i32')} = {here}"]
    lines.append(f"word: {width.tile('i32')} = nodes[0, {node}]")
    if walk.shift is None:
        lines.append(f"feature: {width.tile('i32')} = nodes[1, {node}]")
    else:
        lines.append(f"feature: {width.tile('i32')} = word >> {walk.shift}")
    feature = "index(feature)" if width.lanes == 1 else "feature"
    lines.append(f"value: {width.tile(dtype)} = x[{row}, {feature}]")
    lines.append(f"true: {width.tile('bool')} = value <= splits[{node}]")
    bits = (31 if walk.shift is None else walk.shift) - int(walk.missing)
    delta = f"(word & {2**bits - 1})"
    if walk.missing:
        to_true = f"(word >> {bits}) & 1"
        lines.append(f"{here} = node + {delta} + select(isnan(value), {to_true}, i32(true))")
    else:
        lines.append(f"{here} = node + {delta} + i32(true)")
    return lines


def _walk(walk: Walk, width: Width, row: str, depth: str) -> list[str]:
    """All groups to their leaves."""
    step = [f"for w in unroll({width.groups}):", *indent(_step(walk, width, row))]
    if walk.depth < DEEP:
        return [f"for step in range({depth}):", *indent(step)]
    live = [
        "moved = 0",
        f"for w in unroll({width.groups}):",
        *indent(_step(walk, width, row)),
    ]
    before = width.at("at", "w")
    change = f"{before} ^ node"
    change = change if width.lanes == 1 else f"reduce_or({change})"
    live += [f"    moved = moved | index({change})"]
    return [
        f"left: index = {depth}",
        "step = 0",
        "while step < left:",
        *indent(live),
        "    step = select(moved == 0, left, step + 1)",
    ]


def _block(walk: Walk, width: Width) -> list[str]:
    """A block of rows: tree after tree, the rows side by side."""
    each = f"for w in unroll({width.groups}):"
    row = f"b * {width.walks} + w * {width.lanes}"
    if width.lanes > 1:  # rows behind the last one repeat it
        row = f"min({row} + lanes({width.lanes}), N - 1)"
    node = width.at("at", "w")
    node = f"index({node})" if width.lanes == 1 else node
    leaf = f"slots[{node}]" if walk.slots else node
    leaf = f"index({leaf})" if walk.slots and width.lanes == 1 else leaf
    return [
        "for t in range(TARGETS):",
        f"    {each}",
        *indent(_add(walk, width, "t", None), 2),
        "for tree in range(TREES):",
        f"    at: i32[{width.walks}] @ stack @ 64",
        f"    {each}",
        f"        {width.at('at', 'w')} = {width.splat('i32(tree)')}",
        *indent(_walk(walk, width, row, "index(depths[tree])")),
        "    for k in range(VOTES):",
        "        t: index = " + ("0" if walk.single else "index(targets[tree, k])"),
        f"        {each}",
        *indent(_add(walk, width, "t", f"weights[{leaf}, k]"), 3),
    ]


def _add(walk: Walk, width: Width, target: str, vote: str | None) -> list[str]:
    """Combines a target of group w with votes; None: sets it to what it starts from."""
    start = f"b * {width.walks} + w * {width.lanes}"
    if width.lanes == 1:
        place = f"out[{target}, {start}]"
        if vote is None:
            return [f"{place} = {_start(walk)}"]
        return [f"vote: {walk.dtype} = {vote}", f"{place} = {_combine(walk, place, 'vote')}"]
    place = f"out[{target}, {start}:{start} + {width.lanes}]"
    inside = f"inside: bool[{width.lanes}] = {start} + lanes({width.lanes}) < N"
    if vote is None:
        return [inside, f"store({place}, {width.splat(_start(walk))}, inside)"]
    return [
        inside,
        f"vote: {width.tile(walk.dtype)} = {vote}",
        f"total: {width.tile(walk.dtype)} = load({place}, inside)",
        f"store({place}, {_combine(walk, 'total', 'vote')}, inside)",
    ]


def _row(walk: Walk, width: Width) -> list[str]:
    """One row: as many trees side by side."""
    walks = width.walks
    each = f"for w in unroll({width.groups}):"
    at = width.at("at", "w")
    first = f"g * {walks} + w * {width.lanes}"
    roots = f"i32({first})" if width.lanes == 1 else f"i32({first} + lanes({width.lanes}))"
    deepest = width.at("depths", f"(g * {width.groups} + w)")
    deepest = deepest if width.lanes == 1 else f"reduce_max({deepest})"
    leaf = "index(arrived[j])" if not walk.slots else "index(slots[index(arrived[j])])"
    vote = [f"vote: {walk.dtype} = weights[{leaf}, k]"]
    if walk.single:
        vote.append(f"total = {_combine(walk, 'total', 'vote')}")
        before, after = [f"total = {walk.dtype}({_start(walk)})"], ["out[0, row] = total"]
    else:
        vote += [
            "t: index = index(targets[first_tree + j, k])",
            f"out[t, row] = {_combine(walk, 'out[t, row]', 'vote')}",
        ]
        before = ["for t in range(TARGETS):", f"    out[t, row] = {_start(walk)}"]
        after = []
    return [
        *before,
        f"for g in range((TREES + {walks - 1}) // {walks}):",
        f"    first_tree: index = g * {walks}",
        f"    at: i32[{walks}] @ stack @ 64",
        f"    {each}",
        f"        {at} = {roots}",
        "    deepest = 0",
        f"    {each}",
        f"        deepest = max(deepest, index({deepest}))",
        *indent(_walk(walk, width, "row", "deepest")),
        f"    arrived: i32[{walks}] @ stack @ 64",  # (`at` stays in registers)
        f"    {each}",
        f"        {width.at('arrived', 'w')} = {at}",
        f"    for j in range(min({walks}, TREES - first_tree)):",
        "        for k in range(VOTES):",
        *indent(vote, 3),
        *after,
    ]
