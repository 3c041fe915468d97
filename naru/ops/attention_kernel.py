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

from naru.ops.attention_layer import (
    PANEL,
    Layer,
    Tile,
    last_key,
    live,
    places,
    query,
)
from naru.ops.attention_softmax import softmax, write_results
from naru.ops.kernel_text import indent, multiply_add
from naru.targets import Target

KEYS = 256  # of a block: packed with their values they stay in L2, a tile's scores in L1
QUERIES = 192  # of a unit, at most: what packing costs is shared by as many
MANY = 6  # times as many, and units are twice as large: enough are left for threads
STACK = 2**17  # bytes that packed keys and values may take, and results
TOGETHER = 4  # panels of results that are summed at a time for one of these
UNROLL = 4  # terms of a sum that one round of its loop adds


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
        *last_key(layer),
        f"for block in range((last + {t.keys - 1}) // {t.keys}):",
        f"    start: index = block * {t.keys}",
        f"    n: index = min({t.keys}, last - start)",
        *indent(places(layer)),
        *indent(body),
        *write_results(layer),
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


def _scaled_query(layer: Layer) -> list[str]:
    """Row i of the unit into `query`, scaled."""
    whole = layer.q.size // PANEL * PANEL
    lines = [
        *query(layer, "i"),
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
        *softmax(layer, t, rows, target),
        *_values(layer, t, rows, target),
    ]


def _start(layer: Layer, t: Tile, rows: int) -> list[str]:
    """Room for what is made of a tile's queries."""
    step = PANEL * t.panels
    return [
        *live(layer, rows),
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
        *softmax(layer, t, 1, target),
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
