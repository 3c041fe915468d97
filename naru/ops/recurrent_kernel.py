"""The kernel of a recurrent layer: a loop over time, the gates of 16 hidden units at once.

A tile of batch rows runs through the whole sequence by itself, its state on the stack, so tiles and
directions are independent and threads share them. In a step, each panel of 16 hidden units sums
its gates over the previous state (`pre` = what the input gave + state · weights), as many gates and
panels at a time as there are registers for, and applies the activations right away.

Where there is one tile and steps are long, threads share the panels instead: each has some of its
own, whose weights stay in its cache, and all meet after each step to take over the new state.

A step goes through the panels in the other direction than the one before it. Weights that just do
not fit a cache are then found there for the most part; in one direction, none would be.

The sum of a gate runs over the state in order on every target, so results do not depend on tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from naru.dtypes import DTYPES
from naru.ops.kernel_text import indent, multiply_add
from naru.targets import Target

PANEL = 16  # hidden units whose gates are computed together, the same on every target
ROWS = 6  # of a tile of the batch: weights are used that often for each time they are read
CHAINS = 8  # multiply-adds that do not wait for each other: two a cycle, each taking four
UNROLL = 4  # terms of a sum that one round of its loop adds
STACK = 2**18  # bytes of state that a tile may take
LONG_STEP = 2**17  # bytes of weights that a step reads from which threads share it


@dataclass(frozen=True)
class Sum:
    """A part of a step: the `gates` of every panel are summed over a buffer of the tile.

    `start(gate, panel)` is the text of what a sum starts from. `finish` are the lines that follow
    the sums of a panel and a row: they find a gate in `gate0`, `gate1`, …, the panel in `panel` and
    its first hidden unit in `j`."""

    gates: tuple[int, ...]
    over: str
    start: Callable[[int, str], str]
    finish: Sequence[str]


@dataclass(frozen=True)
class Carried:
    """A buffer of the tile that goes from step to step: it starts as an operand [D, B, hidden]
    (None: as zeros), and ends as a result of that shape."""

    buffer: str
    initial: str | None
    final: str


@dataclass(frozen=True)
class Layer:
    """What the kernel of a layer is made from. `reverse`: for each direction, whether it runs
    backwards; `batch`: None if it is not known; `buffers`: those of a tile beside `state`;
    `weights`: the dtype they are kept in."""

    dtype: str
    reverse: tuple[bool, ...]
    batch: int | None
    hidden: int
    sums: tuple[Sum, ...]
    carried: tuple[Carried, ...]
    buffers: tuple[str, ...] = ()
    lengths: bool = False
    weights: str = "f32"

    @property
    def panels(self) -> int:
        """How many cover the hidden units."""
        return -(-self.hidden // PANEL)

    @property
    def width(self) -> int:
        """Hidden units in whole panels."""
        return self.panels * PANEL

    @property
    def shares_steps(self) -> bool:
        """Do threads share the steps of a tile that is alone? Two directions do well without, side
        by side. The result is where threads find each other's part of the state, and behind a row's
        length it does not hold the state."""
        gates = sum(len(s.gates) for s in self.sums)
        weights = gates * self.hidden * self.width * DTYPES[self.weights].bytes
        return weights >= LONG_STEP and len(self.reverse) == 1 and not self.lengths


# --- how much at a time ---------------------------------------------------------------------------


def vectors_of(layer: Layer, target: Target) -> int:
    """Registers that hold one gate of a panel."""
    return max(1, PANEL // target.lanes(layer.dtype))


def most_rows(layer: Layer, target: Target) -> int:
    """Rows of a tile: as many as leave registers for one gate's weights, and as fit the stack."""
    fitting = (target.registers - 1) // vectors_of(layer, target) - 1
    row = layer.width * DTYPES[layer.dtype].bytes * (2 + len(layer.buffers))
    return max(1, min(ROWS, fitting, STACK // row))


def blocking(gates: int, rows: int, vectors: int, registers: int) -> tuple[int, int]:
    """(gates, panels) that are summed at a time. A single row multiplies weights right from memory;
    for more of them they pass through registers."""
    fitting = (registers - 2) // (vectors * (rows if rows == 1 else rows + 1))
    if fitting < gates:
        parts = -(-gates // max(fitting, 1))
        return -(-gates // parts), 1
    wanted = -(-CHAINS // (rows * gates * vectors))
    return gates, max(1, min(wanted, fitting // gates))


# --- the text -------------------------------------------------------------------------------------


def kernel_body(layer: Layer, target: Target) -> list[str]:
    """The lines of the kernel's body; T and B stand for the number of steps and the batch."""
    most = most_rows(layer, target)
    if layer.batch is None:
        return _any_batch(layer, most, target)
    return _known_batch(layer, layer.batch, most, target)


def _known_batch(layer: Layer, batch: int, most: int, target: Target) -> list[str]:
    """Tiles whose sizes differ by at most one, all in one loop."""
    count = max(1, -(-batch // most))
    rows, larger = divmod(batch, count)
    tiles = len(layer.reverse) * count if batch else 0
    if count == 1 and tiles and layer.shares_steps:
        alone = ["d: index = 0", "row: index = 0"]
        return [*alone, *_own_panels(layer, rows, target), *_shared(layer, rows, target)]
    lines = [
        f"for tile in {'parallel' if tiles > 1 else 'range'}({tiles}):",
        f"    d: index = tile // {count}",
        f"    part: index = tile % {count}",
        f"    row: index = part * {rows} + min(part, {larger})",
    ]
    if not larger:
        return [*lines, *indent(_tile(layer, max(rows, 1), target))]
    lines += [f"    if part < {larger}:", *indent(_tile(layer, rows + 1, target), 2)]
    return [*lines, "    else:", *indent(_tile(layer, rows, target), 2)]


def _any_batch(layer: Layer, most: int, target: Target) -> list[str]:
    """Tiles of the largest size first, then smaller ones for what is left."""
    lines: list[str] = []
    first = "0"
    for rows in sorted({most, max(1, most // 3), 1}, reverse=True):
        alone = rows == 1 and layer.shares_steps
        lines += [
            f"first{rows}: index = {first}",
            f"count{rows}: index = (B - first{rows}) // {rows}",
            *(_own_panels(layer, rows, target) if alone else ()),
            f"for tile in {'range' if alone else 'parallel'}({len(layer.reverse)} * count{rows}):",
            f"    d: index = tile // count{rows}",
            f"    row: index = first{rows} + tile % count{rows} * {rows}",
            *indent((_shared if alone else _tile)(layer, rows, target)),
        ]
        first = f"first{rows} + count{rows} * {rows}"
    return lines


def _tile(layer: Layer, rows: int, target: Target) -> list[str]:
    """Rows from `row` on, in direction `d`: where they start, all steps, where they end."""
    panels = (line for s in layer.sums for line in indent(_panels(layer, s, rows, target)))
    return [*_start(layer, rows), *panels, *_end(layer, rows, f"range({layer.hidden})")]


def _start(layer: Layer, rows: int) -> list[str]:
    """The buffers of a tile, and the head of the loop over time. There are two states, of this step
    and of the one before."""
    dtype, width = layer.dtype, layer.width
    lines = [f"state: {dtype}[2, {rows}, {width}] @ stack @ 64"]
    lines += [f"{name}: {dtype}[{rows}, {width}] @ stack @ 64" for name in layer.buffers]
    lines.append(f"for i in range({rows}):")
    for c in layer.carried:
        here = element(c.buffer, "0", "j")
        lines += [f"    for j in range({width}):", f"        {here} = 0.0"]
        if c.initial:
            lines += [f"    for j in range({layer.hidden}):"]
            lines += [f"        {here} = {c.initial}[d, row + i, j]"]
    return [
        *lines,
        "for step in range(T):",
        "    now: index = step % 2",
        f"    t: index = {_time(layer.reverse)}",
    ]


def _end(layer: Layer, rows: int, units: str) -> list[str]:
    """The states after all steps, of some units."""
    lines = [f"for i in range({rows}):", f"    for j in {units}:"]
    return lines + [
        f"        {c.final}[d, row + i, j] = {element(c.buffer, 'T % 2', 'j')}"
        for c in layer.carried
    ]


# --- shared steps ---------------------------------------------------------------------------------


def _together(layer: Layer, s: Sum, rows: int, target: Target) -> tuple[int, int]:
    """Gates and panels that are summed at a time."""
    return blocking(len(s.gates), rows, vectors_of(layer, target), target.registers)


def _own_panels(layer: Layer, rows: int, target: Target) -> list[str]:
    """Which panels are this thread's: `mine` of them, from `own` on. They are next to each other,
    and as many as are summed at a time stay together."""
    unit = min(_together(layer, s, rows, target)[1] for s in layer.sums)
    panels = layer.panels
    return [
        f"low = {panels}",
        "high = 0",
        f"for part in parallel({-(-panels // unit)}):",
        f"    low = min(low, part * {unit})",
        f"    high = max(high, min(part * {unit} + {unit}, {panels}))",
        "own: index = low",
        "mine: index = max(high - low, 0)",
    ]


def _shared(layer: Layer, rows: int, target: Target) -> list[str]:
    """What `_tile` does, by all threads together. Each computes its own units, and gets those of
    the others through memory: the state by the result, what else is summed over by the place of the
    last state."""
    units = f"range(own * {PANEL}, min((own + mine) * {PANEL}, {layer.hidden}))"
    lines = _start(layer, rows)
    for s, following in zip(layer.sums, (*layer.sums[1:], None), strict=True):
        step = _panels(layer, s, rows, target, shared=True)
        if following is None:
            step += _meet(layer, rows, "state", "y[t, d, row + i")
        else:
            mine, there = element(following.over, "now", "j"), "h[d, row + i"
            step += [f"for i in range({rows}):", f"    for j in {units}:"]
            step += [f"        {there}, j] = {mine}", *_meet(layer, rows, following.over, there)]
        lines += indent(step)
    return [*lines, *_end(layer, rows, units)]


def _meet(layer: Layer, rows: int, buffer: str, there: str) -> list[str]:
    """All threads have written their units of a buffer, and take over those of the others."""
    whole, rest = divmod(layer.hidden, PANEL)
    lines = ["barrier()", f"for i in range({rows}):"]
    if whole:
        at = f"j:j + {PANEL}"
        copy = f"{element(buffer, '1 - now', at)} = {there}, {at}]"
        lines += [f"    for p in range({whole}):", f"        j: index = p * {PANEL}"]
        lines.append(f"        {copy}")
    if rest:
        lines.append(f"    for j in range({whole * PANEL}, {layer.hidden}):")
        lines.append(f"        {element(buffer, '1 - now', 'j')} = {there}, j]")
    return lines


def _time(reverse: Sequence[bool]) -> str:
    """Where in the sequence a step is."""
    if len(reverse) == 1:
        return "T - 1 - step" if reverse[0] else "step"
    return "select(d == 0, step, T - 1 - step)"


def element(buffer: str, which: str, at: str) -> str:
    """Unit `at` of row i of a tile's buffer; of the two states, the one of a step."""
    return f"{buffer}[{which}, i, {at}]" if buffer == "state" else f"{buffer}[i, {at}]"


def _panels(layer: Layer, s: Sum, rows: int, target: Target, *, shared: bool = False) -> list[str]:
    """The sums and what follows them, of all panels or of this thread's: some at a time, then one
    by one."""
    gates, together = _together(layer, s, rows, target)
    whole, rest = divmod(layer.panels, together)
    groups = [(f"{whole}", together, "0"), (f"{rest}", 1, f"{whole * together}")]
    if shared:
        after = f"own + mine // {together} * {together}"
        groups = [(f"(mine // {together})", together, "own"), (f"(mine % {together})", 1, after)]
        groups = groups[: 1 if together == 1 else 2]
    lines: list[str] = []
    for count, some, first in groups:
        if count != "0":
            lines += [
                f"for p in range({count}):",
                f"    at: index = select(now == 0, p, {count} - 1 - p)",
                f"    first: index = {first} + at * {some}",
            ]
            lines += indent(_some_panels(layer, s, rows, gates, some, target))
    return lines


def _some_panels(
    layer: Layer, s: Sum, rows: int, gates: int, panels: int, target: Target
) -> list[str]:
    """`panels` of them from `first` on, `gates` gates at a time."""
    dtype = layer.dtype
    lines = [f"pre: {dtype}[{rows}, {panels}, {len(s.gates)}, {PANEL}] @ stack @ 64"]
    for start in range(0, len(s.gates), gates):
        some = [(q, g) for q in range(panels) for g in range(start, start + gates)]
        some = [(q, g) for q, g in some if g < len(s.gates)]
        lines += _sums(layer, s, rows, f"acc{start}", some, target)
    return [
        *lines,
        f"for i in range({rows}):",
        f"    for q in range({panels}):",
        "        panel: index = first + q",
        f"        j: index = panel * {PANEL}",
        *(
            f"        gate{gate}: {dtype}[{PANEL}] = pre[i, q, {k}, 0:{PANEL}]"
            for k, gate in enumerate(s.gates)
        ),
        *indent(s.finish, 2),
    ]


def _sums(
    layer: Layer, s: Sum, rows: int, acc: str, some: Sequence[tuple[int, int]], target: Target
) -> list[str]:
    """pre[i, q, g] of the pairs (q, g), in registers until they are done."""

    def for_each(text: Callable[[str, int, int], str]) -> list[str]:
        at = [f"{acc}[i, {c * PANEL}:{c * PANEL + PANEL}]" for c in range(len(some))]
        lines = [text(a, q, g) for a, (q, g) in zip(at, some, strict=True)]
        return [f"for i in unroll({rows}):", *indent(lines)]

    def add_product(a: str, q: int, g: int) -> str:
        weights = f"weights[d, first + {q}, {s.gates[g]}, u, 0:{PANEL}]"
        if layer.weights != layer.dtype:
            weights = f"{layer.dtype}({weights})"
        return f"{a} = {multiply_add(target, element(s.over, 'now', 'u'), weights, a)}"

    whole, rest = divmod(layer.hidden, UNROLL)
    lines = [f"{acc}: {layer.dtype}[{rows}, {len(some) * PANEL}] @ stack @ 64"]
    lines += for_each(lambda a, q, g: f"{a} = {s.start(s.gates[g], f'first + {q}')}")
    for loop, count, first in ((f"range({whole})", UNROLL, "k * 4"), ("", rest, f"{whole * 4}")):
        if count and loop != "range(0)":
            inner = [f"for v in unroll({count}):", f"    u: index = {first} + v"]
            inner += indent(for_each(add_product))
            lines += [f"for k in {loop}:", *indent(inner)] if loop else inner
    lines += for_each(lambda a, q, g: f"pre[i, {q}, {g}, 0:{PANEL}] = {a}")
    return lines
