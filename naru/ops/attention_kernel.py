"""The kernel of attention: block by block, so that scores never leave the cache.

A unit of work, which threads share, is a block of queries of one batch and one head of keys: of all
heads that share it, one under the other. It meets the keys block by block. They are packed into
panels of 16 (turned: keys lie in the lanes), and their values into panels of 16 columns. Then tiles
of a few queries pass: their scores, as many at a time as registers hold; the softmax so far (the
greatest score, the sum, and results yet to be divided by it; what was before is scaled down where a
greater score comes); the product with the values.

Blocks are of fixed sizes and are taken in order, so results do not depend on the threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from naru.ops.kernel_text import indent, multiply_add
from naru.targets import Target

PANEL = 16  # keys, or columns of values, that lie together
KEYS = 256  # of a block: packed with their values they stay in L2, a tile's scores in L1
QUERIES = 192  # of a unit, at most: what packing costs is shared by as many
MANY = 6  # times as many, and units are twice as large: enough are left for threads
STACK = 2**17  # bytes that packed keys and values may take, and results
FEW = 4  # queries for which keys are not packed
TOGETHER = 4  # panels of results that are summed at a time for one of these
UNROLL = 4  # terms of a sum that one round of its loop adds
LEAST = -88.0  # exp of less is zero
MAGIC = 12583039.0  # 1.5 · 2^23 + 127: what is added to it is rounded to an integer
LOG2_E = 1.4426950408889634
# 2^r for |r| <= 1/2, within 9.2e-8 of it: the highest power first.
POWER = (1.3264727e-3, 9.671513e-3, 5.5507336e-2, 0.24022242, 0.693147, 1.0)


@dataclass(frozen=True)
class Heads:
    """A kernel's operand as a matrix: where the row of a batch and head starts, and its column, as
    text over `b` and a head."""

    by_row: bool  # does each head have rows of its own? Otherwise columns
    count: int
    first: int
    length: str
    size: int

    def row(self, head: str) -> str:
        """The row of its first token."""
        if not self.by_row:
            return f"b * {self.length}"
        return f"(b * {self.count} + {self.first} + {head}) * {self.length}"

    def column(self, head: str) -> str:
        """The column of its first number."""
        return "0" if self.by_row else f"({self.first} + {head}) * {self.size}"


@dataclass(frozen=True)
class Layer:
    """What the kernel is made from. `shared`: heads of queries to one of keys; `rows`, `keys`: how
    many queries (of all these) and keys there are, where that is known; `mask`: its dtype; `fill`:
    the score where a bool one hides a key; `causal`: are keys behind a query's own place, by an
    offset, not seen?"""

    q: Heads
    k: Heads
    v: Heads
    out: Heads
    kv_heads: int
    shared: int
    rows: int | None
    keys: int | None
    scale: float
    cap: float
    mask: str | None
    fill: float
    causal: bool
    guard: str

    @property
    def has_panels(self) -> bool:
        """May there be as many keys as a panel has?"""
        return self.keys is None or self.keys >= PANEL

    @property
    def few(self) -> int:
        """So many queries meet keys and values where they lie, one by one."""
        return few_queries(self.k.size, self.v.size)

    @property
    def columns(self) -> int:
        """Columns of values in whole panels."""
        return -(-self.v.size // PANEL) * PANEL


@dataclass(frozen=True)
class Tile:
    """How much of everything is handled at a time on a target. `panels` of `rows` sums each stay in
    registers; `lanes` are turned at a time."""

    rows: int
    panels: int
    lanes: int
    keys: int
    queries: int


def few_queries(size: int, columns: int) -> int:
    """For how many queries keys and values of these sizes are not packed."""
    return 0 if size % PANEL or columns % PANEL else FEW


def tile_of(layer: Layer, target: Target) -> Tile:
    """As `schedule/tiles.py` has it for products: most of the registers are sums."""
    lanes = min(PANEL, target.lanes("f32"))
    vectors = PANEL // lanes
    panels = 2 if target.registers >= 32 * vectors else 1
    held = vectors * panels
    rows = max(1, min(12 // vectors if panels == 2 else 6, (target.registers - 1 - held) // held))
    keys = KEYS
    while keys > 2 * PANEL and keys * (layer.k.size + layer.columns) * 4 > STACK:
        keys //= 2
    many = layer.rows is not None and layer.rows >= MANY * QUERIES
    most = min(QUERIES * (1 + many), STACK // (max(layer.columns, layer.q.size) * 4))
    queries = -(-most // rows) * rows
    if layer.rows is not None:
        parts = max(1, -(-layer.rows // most))
        queries = -(-max(1, -(-layer.rows // parts)) // rows) * rows
    if layer.keys is not None:
        keys = max(PANEL * panels, min(keys, -(-layer.keys // (PANEL * panels)) * PANEL * panels))
    return Tile(rows, panels, lanes, keys, queries)


def kernel_body(layer: Layer, target: Target) -> list[str]:
    """The lines of the body. B, S, T and ROWS stand for the batch, queries of a head, keys, and
    queries of all heads that share one of keys; MB, MH and MS for the factors of batch, head and
    query in the place of a row of the mask; OFFSET for that of the diagonal."""
    t = tile_of(layer, target)
    return [
        f"parts: index = (ROWS + {t.queries - 1}) // {t.queries}",
        f"for unit in parallel(B * {layer.kv_heads} * parts):",
        *indent(_unit(layer, t, target)),
    ]


def _unit(layer: Layer, t: Tile, target: Target) -> list[str]:
    """A block of queries, all keys."""
    width, few = layer.columns, layer.few
    buffers = [
        f"turned: f32[{t.keys // PANEL}, {layer.k.size}, {PANEL}] @ stack @ 64",
        f"packed: f32[{width // PANEL}, {t.keys}, {PANEL}] @ stack @ 64",
    ]
    many = [*_pack(layer, t), *_tiles(layer, t, target)]
    one = _single_queries(layer, t, target) if few else []
    if layer.rows is not None:
        body = one if layer.rows <= few else many
    elif few:
        body = [f"if ROWS <= {few}:", *indent(one), "else:", *indent(many)]
    else:
        body = many
    return [
        f"b: index = unit // parts // {layer.kv_heads}",
        f"h: index = unit // parts % {layer.kv_heads}",
        f"first: index = unit % parts * {t.queries}",
        f"count: index = min({t.queries}, ROWS - first)",
        *(buffers if layer.rows is None or layer.rows > few else []),
        f"query: f32[{t.queries + t.rows}, {layer.q.size}] @ stack @ 64",
        f"result: f32[{t.queries + t.rows}, {width}] @ stack @ 64",
        f"top: f32[{t.queries + t.rows}] @ stack @ 64",
        f"total: f32[{t.queries + t.rows}, {PANEL}] @ stack @ 64",
        f"for i in range(count + {t.rows}):",
        "    top[i] = -inf",
        *indent(_scaled_query(layer)),
        f"    total[i, 0:{PANEL}] = splat(0.0, {PANEL})",
        f"    for c in range({width // PANEL}):",
        f"        result[i, c * {PANEL}:c * {PANEL} + {PANEL}] = splat(0.0, {PANEL})",
        *_last_key(layer),
        f"for block in range((last + {t.keys - 1}) // {t.keys}):",
        f"    start: index = block * {t.keys}",
        f"    n: index = min({t.keys}, last - start)",
        *indent(_places(layer)),
        *indent(body),
        *_write(layer),
    ]


def _last_key(layer: Layer) -> list[str]:
    """`last`: how many keys any of the unit's queries sees."""
    if not layer.causal:
        return ["last: index = T"]
    query = "first + count - 1" if layer.shared == 1 else "S - 1"
    return [f"last: index = max(min(T, {query} + 1 + OFFSET), 0)"]


def _places(layer: Layer) -> list[str]:
    """Where the block's keys and values are."""
    return [
        f"krow: index = {layer.k.row('h')} + start",
        f"kcolumn: index = {layer.k.column('h')}",
        f"vrow: index = {layer.v.row('h')} + start",
        f"vcolumn: index = {layer.v.column('h')}",
    ]


# --- packing --------------------------------------------------------------------------------------


def _pack(layer: Layer, t: Tile) -> list[str]:
    """`n` keys from `start` on into `turned`, and their values into `packed`, with zeros behind
    them: what is not a number may not meet a probability of zero."""
    size, n = layer.k.size, t.lanes
    whole = size // n * n
    lines: list[str] = []
    one = f"turned[p, d, j] = k[krow + p * {PANEL} + j, kcolumn + d]"
    if layer.has_panels:
        lines.append(f"for p in range(n // {PANEL}):")
    if layer.has_panels and whole:
        row, column = f"krow + p * {PANEL} + j * {n}", f"kcolumn + d * {n}"
        lines += [
            f"    for d in range({size // n}):",
            f"        for j in unroll({PANEL // n}):",
            f"            turned[p, d * {n}:d * {n} + {n}, j * {n}:j * {n} + {n}] = "
            f"transposed(k[{row}:{row} + {n}, {column}:{column} + {n}])",
        ]
    if layer.has_panels and whole < size:
        lines += [f"    for j in range({PANEL}):", f"        for d in range({whole}, {size}):"]
        lines.append(f"            {one}")
    if layer.keys is None or layer.keys % PANEL or layer.causal:
        # (Where no key is behind the last panel, that p is a panel must be seen all the same.)
        last = t.keys // PANEL - 1
        lines += [f"for j in range(n % {PANEL}):", f"    p: index = min(n // {PANEL}, {last})"]
        lines += [f"    for d in range({size}):", f"        {one}"]
    return [*lines, *_pack_values(layer, t)]


def _pack_values(layer: Layer, t: Tile) -> list[str]:
    whole, rest = divmod(layer.v.size, PANEL)
    lines = ["for j in range(n):"]
    if whole:
        lines += [
            f"    for c in range({whole}):",
            f"        packed[c, j, 0:{PANEL}] = v[vrow + j, vcolumn + c * {PANEL}:"
            f"vcolumn + c * {PANEL} + {PANEL}]",
        ]
    if rest:
        lines += [
            f"    packed[{whole}, j, 0:{PANEL}] = splat(0.0, {PANEL})",
            f"    for d in range({rest}):",
            f"        packed[{whole}, j, d] = v[vrow + j, vcolumn + {whole * PANEL} + d]",
        ]
    step = PANEL * t.panels
    return [
        *lines,
        f"for j in range(n, (n + {step - 1}) // {step} * {step}):",
        f"    for c in range({layer.columns // PANEL}):",
        f"        packed[c, j, 0:{PANEL}] = splat(0.0, {PANEL})",
    ]


# --- tiles ----------------------------------------------------------------------------------------


def _tiles(layer: Layer, t: Tile, target: Target) -> list[str]:
    """The unit's queries, tile by tile; of a known number, tiles that differ by one at most."""
    if layer.rows is not None and layer.rows <= t.queries:
        count = max(1, -(-layer.rows // t.rows))
        rows, larger = divmod(layer.rows, count)
        lines = [
            f"for tile in range({count if layer.rows else 0}):",
            f"    at: index = tile * {rows} + min(tile, {larger})",
        ]
        if not larger:
            return [*lines, *indent(_tile(layer, t, max(rows, 1), target))]
        lines += [f"    if tile < {larger}:", *indent(_tile(layer, t, rows + 1, target), 2)]
        return [*lines, "    else:", *indent(_tile(layer, t, rows, target), 2)]
    lines = [
        f"for tile in range(count // {t.rows}):",
        f"    at: index = tile * {t.rows}",
        *indent(_tile(layer, t, t.rows, target)),
        f"rest: index = count % {t.rows}",
    ]
    if layer.rows is not None:
        sizes = [layer.rows % t.rows] if layer.rows % t.rows else []
    else:
        sizes = sorted({t.rows, t.rows - t.rows // 3, t.rows // 3} - {0})
    least = 0
    for size in sizes:
        lines += [
            f"if rest > {least} and rest <= {size}:",
            "    at: index = count - rest",
            *indent(_tile(layer, t, size, target)),
        ]
        least = size
    return lines


def _query(layer: Layer, row: str) -> list[str]:
    """`head` and `s`, the query, of a row of the unit; rows behind the last are like it."""
    lines = [f"r: index = min(first + {row}, ROWS - 1)"]
    if layer.shared == 1:
        return [*lines, "head: index = h", "s: index = r"]
    return [*lines, f"head: index = h * {layer.shared} + r // S", "s: index = r % S"]


def _scaled_query(layer: Layer) -> list[str]:
    """Row i of the unit into `query`, scaled."""
    whole = layer.q.size // PANEL * PANEL
    lines = [
        *_query(layer, "i"),
        f"qrow: index = {layer.q.row('head')} + s",
        f"qcolumn: index = {layer.q.column('head')}",
    ]
    for d in range(0, whole, PANEL):
        wide = f"q[qrow, qcolumn + {d}:qcolumn + {d + PANEL}]"
        lines.append(f"query[i, {d}:{d + PANEL}] = {wide} * {layer.scale!r}")
    if whole < layer.q.size:
        lines += [
            f"for d in range({whole}, {layer.q.size}):",
            f"    query[i, d] = q[qrow, qcolumn + d] * {layer.scale!r}",
        ]
    return lines


def _tile(layer: Layer, t: Tile, rows: int, target: Target) -> list[str]:
    """`rows` queries from `at` on: what they get of the block's keys."""
    return [
        *_start(layer, t, rows),
        *_scores(layer, t, rows, target),
        *_softmax(layer, t, rows, target),
        *_values(layer, t, rows, target),
    ]


def _start(layer: Layer, t: Tile, rows: int) -> list[str]:
    """Room for what is made of a tile's queries."""
    step = PANEL * t.panels
    return [
        *_live(layer, rows),
        f"rounds: index = (live + {step - 1}) // {step}",
        f"score: f32[{rows}, {t.keys}] @ stack @ 64",
        f"factor: f32[{PANEL}] @ stack @ 64",
    ]


def _single_queries(layer: Layer, t: Tile, target: Target) -> list[str]:
    """Queries one by one, each with keys and values as they lie: what is read is read once."""
    size = layer.k.size
    dot = [f"dot{size}: f32[{PANEL}] = splat(0.0, {PANEL})"]
    for d in reversed(range(0, size, PANEL)):
        key = f"k[krow + j, kcolumn + {d}:kcolumn + {d + PANEL}]"
        add = multiply_add(target, f"query[at, {d}:{d + PANEL}]", key, f"dot{d + PANEL}")
        dot.append(f"dot{d}: f32[{PANEL}] = {add}")
    lines = [
        *_start(layer, t, 1),
        "for j in range(live):",
        *indent([*dot, "score[0, j] = reduce_add(dot0)"]),
        *_softmax(layer, t, 1, target),
    ]
    for first in range(0, layer.columns, TOGETHER * PANEL):
        panels = min(TOGETHER, (layer.columns - first) // PANEL)
        place = f"result[at, {first} + w * {PANEL}:{first} + w * {PANEL} + {PANEL}]"
        column = f"vcolumn + {first} + w * {PANEL}"
        value = f"v[vrow + j, {column}:{column} + {PANEL}]"
        add = multiply_add(target, "score[0, j]", value, "{sums}")
        start = f"{place} * factor[0]"
        body = _sum(1, panels, start, add, place, ["for j in range(live):"])
        lines += [line.replace("sums", f"sums{first}") for line in body]
    return ["for tile in range(count):", "    at: index = tile", *indent(lines)]


def _live(layer: Layer, rows: int) -> list[str]:
    """`live`: how many of the block's keys any query of the tile sees."""
    if not layer.causal:
        return ["live: index = n"]
    last = f"min(first + at + {rows - 1}, ROWS - 1)"
    if layer.shared > 1:
        last = f"select((first + at) // S == {last} // S, {last} % S, S - 1)"
    return [f"live: index = max(min(n, {last} + 1 + OFFSET - start), 0)"]


def _sum(rows: int, panels: int, start: str, add: str, put: str, loop: Sequence[str]) -> list[str]:
    """Sums of all rows and panels in registers: `start`, `add` and `put` are texts over i, w."""
    each = [f"for i in unroll({rows}):", f"    for w in unroll({panels}):"]
    at = f"sums[i, w * {PANEL}:w * {PANEL} + {PANEL}]"
    depth = len(loop)
    return [
        f"sums: f32[{rows}, {panels * PANEL}] @ stack @ 64",
        *each,
        f"        {at} = {start}",
        *(("    " * k) + line for k, line in enumerate(loop)),
        *indent([*each, f"        {at} = {add.format(sums=at)}"], depth),
        *each,
        f"        {put} = {at}",
    ]


def _scores(layer: Layer, t: Tile, rows: int, target: Target) -> list[str]:
    """Queries times keys."""
    size, step = layer.q.size, PANEL * t.panels
    lines = ["for g in range(rounds):"]
    key = f"turned[g * {t.panels} + w, d, 0:{PANEL}]"
    add = multiply_add(target, "query[at + i, d]", key, "{sums}")
    put = f"score[i, g * {step} + w * {PANEL}:g * {step} + w * {PANEL} + {PANEL}]"
    unroll = next(u for u in (UNROLL, 2, 1) if size % u == 0)
    loop = [f"for e in range({size // unroll}):", f"for u in unroll({unroll}):"]
    body = _sum(rows, t.panels, f"splat(0.0, {PANEL})", add, put, loop)
    named = [
        line.replace("i, d]", f"i, e * {unroll} + u]").replace("w, d, 0", f"w, e * {unroll} + u, 0")
        for line in body
    ]
    return [*lines, *indent(named)]


def _values(layer: Layer, t: Tile, rows: int, target: Target) -> list[str]:
    """Results so far, scaled down, and probabilities times values."""
    panels, step = layer.columns // PANEL, PANEL * t.panels
    lines: list[str] = []
    for wide, first, count in (
        (t.panels, 0, panels // t.panels), (1, panels // t.panels * t.panels, panels % t.panels)
    ):  # fmt: skip
        if not count:
            continue
        at = f"({first} + c * {wide} + w) * {PANEL}"
        place = f"result[at + i, {at}:{at} + {PANEL}]"
        value = f"packed[{first} + c * {wide} + w, e * {UNROLL} + u, 0:{PANEL}]"
        add = multiply_add(target, f"score[i, e * {UNROLL} + u]", value, "{sums}")
        loop = [f"for e in range(rounds * {step // UNROLL}):", f"for u in unroll({UNROLL}):"]
        body = _sum(rows, wide, f"{place} * factor[i]", add, place, loop)
        lines += [f"for c in range({count}):", *indent(body)]
    return lines


# --- softmax --------------------------------------------------------------------------------------


def _softmax(layer: Layer, t: Tile, rows: int, target: Target) -> list[str]:
    """The scores of a tile become exp(score - greatest so far), 0 where a key is not seen. All rows
    find their greatest before the first exponential, so that none waits for another's."""
    tile = f"j * {PANEL}:j * {PANEL} + {PANEL}"
    wide = f"f32[{PANEL}]"
    lines = [
        f"base: f32[{rows}] @ stack @ 64",
        f"gone: f32[{PANEL}] @ stack @ 64",
        f"gone[0:{PANEL}] = splat(0.0, {PANEL})",
        f"for i in range({rows}):",
        *indent(_query(layer, "at + i")),
        *indent(_seen(layer)),
        f"    for j in range(seen, rounds * {PANEL * t.panels}):",
        "        score[i, j] = -inf",
        f"    most = splat(-inf, {PANEL})",
        *indent(_masked(layer, t)),
        "    old: f32 = top[at + i]",
        "    new: f32 = larger(reduce_larger(most), old)",
        "    finite: f32 = select(new > -inf, new, 0.0)",
        "    base[i] = finite",
        "    gone[i] = old - finite",
        "    top[at + i] = new",
        f"factor[0:{PANEL}] = exp(gone[0:{PANEL}])",
        f"for i in range({rows}):",
        f"    sum = total[at + i, 0:{PANEL}] * factor[i]",
        f"    for j in range(rounds * {t.panels}):",
        f"        x: {wide} = larger({LEAST}, score[i, {tile}] - base[i])",
    ]
    near, part = (multiply_add(target, "x", repr(LOG2_E), c) for c in (repr(MAGIC), "-whole"))
    # In pairs (Estrin), which wait for each other half as long as one by one.
    powers = [f"square: {wide} = part * part"]
    for k, (high, low) in enumerate(zip(POWER[::2], POWER[1::2], strict=True)):
        pair = multiply_add(target, "part", f"splat({high!r}, {PANEL})", repr(low))
        powers.append(f"pair{k}: {wide} = {pair}")
    powers.append(f"upper: {wide} = {multiply_add(target, 'square', 'pair0', 'pair1')}")
    powers.append(f"power: {wide} = {multiply_add(target, 'square', 'upper', 'pair2')}")
    return [
        *lines,
        f"        near: {wide} = {near}",
        f"        whole: {wide} = near - {MAGIC}",
        f"        part: {wide} = {part}",
        *indent(powers, 2),
        f"        chance: {wide} = power * bits(bits(near) << 23)",
        f"        score[i, {tile}] = chance",
        "        sum = sum + chance",
        f"    total[at + i, 0:{PANEL}] = sum",
    ]


def _seen(layer: Layer) -> list[str]:
    """`seen`: how many of the block's keys a query sees."""
    if not layer.causal:
        return ["seen: index = live"]
    return ["seen: index = max(min(live, s + 1 + OFFSET - start), 0)"]


def _masked(layer: Layer, t: Tile) -> list[str]:
    """Scores as the softmax takes them, and the greatest of each lane in `most`."""
    tile = f"j * {PANEL}:j * {PANEL} + {PANEL}"
    whole, panels = f"seen // {PANEL}", f"rounds * {t.panels}"
    if layer.mask is None and not layer.cap:
        return [f"for j in range({panels}):", f"    most = larger(score[i, {tile}], most)"]
    lines: list[str] = []
    if layer.mask is not None:
        lines.append("row: index = b * MB + head * MH + s * MS + start")

    def value(at: str, mask: str) -> str:
        text = f"score[i, {at}]"
        if layer.cap:
            text = f"tanh({text} * {1 / layer.cap!r}) * {layer.cap!r}"
        if layer.mask == "bool":
            return f"select(mask[{mask}], {text}, {layer.fill!r})"
        return text if layer.mask is None else f"{text} + mask[{mask}]"

    wide = value(tile, f"row + j * {PANEL}:row + j * {PANEL} + {PANEL}")
    panel = [
        f"for j in range({whole}):",
        f"    x: f32[{PANEL}] = {wide}",
        f"    score[i, {tile}] = x",
        "    most = larger(x, most)",
    ]
    return [
        *lines,
        f"for j in range({whole} * {PANEL}, seen):",
        f"    score[i, j] = {value('j', 'row + j')}",
        *(panel if layer.has_panels else []),
        f"for j in range({whole}, {panels}):",
        f"    most = larger(score[i, {tile}], most)",
    ]


# --- the end --------------------------------------------------------------------------------------


def _write(layer: Layer) -> list[str]:
    """The results of a unit, divided by their sums. The sum is zero where a query sees no key: what
    is not a number comes by itself. Without keys there is nothing to add up, which is zero."""
    whole, rest = divmod(layer.out.size, PANEL)
    part = {
        "none": "1.0 / sum" if layer.keys else "select(T == 0, 0.0, 1.0 / sum)",
        "empty": "select(sum == 0.0, 0.0, 1.0 / sum)",
        "nan": "1.0 / sum",
    }[layer.guard]
    lines = [
        "for i in range(count):",
        *indent(_query(layer, "i")),
        f"    row: index = {layer.out.row('head')} + s",
        f"    column: index = {layer.out.column('head')}",
        f"    sum: f32 = reduce_add(total[i, 0:{PANEL}])",
        f"    part: f32 = {part}",
    ]

    def value(x: str, lanes: str) -> str:
        if layer.guard != "nan":
            return f"{x} * part"
        good, zero = "sum > 0.0", "0.0"
        if lanes:
            good, zero = f"splat({good}, {lanes})", f"splat({zero}, {lanes})"
        return f"select({good}, {x} * part, {zero})"

    if whole:
        at = f"c * {PANEL}:c * {PANEL} + {PANEL}"
        to = f"column + c * {PANEL}:column + c * {PANEL} + {PANEL}"
        lines += [
            f"    for c in range({whole}):",
            f"        out[row, {to}] = {value(f'result[i, {at}]', str(PANEL))}",
        ]
    if rest:
        lines += [
            f"    for d in range({whole * PANEL}, {layer.out.size}):",
            f"        out[row, column + d] = {value('result[i, d]', '')}",
        ]
    return lines
