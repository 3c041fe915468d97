"""The kernel of attention in matrix registers of bf16 (AMX), from one or two parts of each number
(ops/tile_product.py).

Units and blocks are those of attention_kernel.py. A unit's queries are scaled, split and packed
once; keys and values are, block by block, in pairs: two neighbours of the axis that is summed lie
beside each other. 32 queries pass at a time: two by two registers hold their scores of 32 keys; the
softmax so far; its numbers, at most 1, are split as they are made; the product with the values,
which is added to what results were.
"""

from __future__ import annotations

from dataclasses import replace

from naru.ops.attention_kernel import kernel_body
from naru.ops.attention_layer import PANEL, Layer, Tile, last_key, live, places, query
from naru.ops.attention_softmax import softmax, write_results
from naru.ops.kernel_text import indent
from naru.ops.tile_product import DEPTH, LARGEST, PAIRS
from naru.targets import Target

KEYS = 256  # of a block: scores of a tile and what is made of them stay near
QUERIES = 384  # of a unit, at most
STACK = 2**18  # bytes that queries and results may take, and twice what keys and values may
ROWS = 32  # queries that pass at a time


def tiles_body(layer: Layer, target: Target, parts: int) -> list[str]:
    """The lines of the body, see `attention_kernel.kernel_body`. A few queries of a number that is
    not known meet their keys in f32."""
    t = _tile_of(layer, parts)
    lines = [
        f"parts: index = (ROWS + {t.queries - 1}) // {t.queries}",
        f"for unit in parallel(B * {layer.kv_heads} * parts):",
        *indent(_unit(layer, t, target, parts)),
    ]
    if layer.rows is not None or not layer.few:
        return lines
    few = kernel_body(replace(layer, rows=layer.few), target)
    return [f"if ROWS <= {layer.few}:", *indent(few), "else:", *indent(lines)]


def _tile_of(layer: Layer, parts: int) -> Tile:
    depth, columns = _depth(layer), layer.columns
    room = STACK // (2 * parts * depth + 4 * columns) // ROWS * ROWS
    queries = max(ROWS, min(QUERIES, room))
    if layer.rows is not None:
        shares = max(1, -(-layer.rows // queries))
        queries = -(-max(1, -(-layer.rows // shares)) // ROWS) * ROWS
    keys = KEYS
    while keys > DEPTH and 2 * parts * keys * (depth + columns) > STACK // 2:
        keys //= 2
    if layer.keys is not None:
        keys = max(DEPTH, min(keys, -(-layer.keys // DEPTH) * DEPTH))
    return Tile(ROWS, DEPTH // PANEL, PANEL, keys, queries)


def _unit(layer: Layer, t: Tile, target: Target, parts: int) -> list[str]:
    """A block of queries, all keys."""
    depth, panels = _depth(layer), layer.columns // PANEL
    return [
        f"b: index = unit // parts // {layer.kv_heads}",
        f"h: index = unit // parts % {layer.kv_heads}",
        f"first: index = unit % parts * {t.queries}",
        f"count: index = min({t.queries}, ROWS - first)",
        f"tiles: index = (count + {ROWS - 1}) // {ROWS}",
        f"queries: bf16[{parts}, {depth // DEPTH}, {t.queries}, {DEPTH}] @ stack @ 64",
        f"keys: bf16[{parts}, {t.keys // PANEL}, {depth // DEPTH}, {PANEL}, {DEPTH}] @ stack @ 64",
        f"values: bf16[{parts}, {panels}, {t.keys // DEPTH}, {PANEL}, {DEPTH}] @ stack @ 64",
        f"turned: f32[{depth}, {PANEL}] @ stack @ 64",
        f"pair: f32[2, {layer.columns}] @ stack @ 64",
        f"line: f32[{depth}] @ stack @ 64",
        f"result: f32[{t.queries}, {layer.columns}] @ stack @ 64",
        f"top: f32[{t.queries}] @ stack @ 64",
        f"total: f32[{t.queries}, {PANEL}] @ stack @ 64",
        *_zeros("line", depth),
        f"for d in range({depth}):",
        *indent(_zeros("turned", PANEL, "d, ")),
        f"for i in range(tiles * {ROWS}):",
        "    top[i] = -inf",
        *indent(_zeros("total", PANEL, "i, ")),
        *indent(_zeros("result", layer.columns, "i, ")),
        *indent(_pack_query(layer, parts)),
        *last_key(layer),
        f"for block in range((last + {t.keys - 1}) // {t.keys}):",
        f"    start: index = block * {t.keys}",
        f"    n: index = min({t.keys}, last - start)",
        *indent(places(layer)),
        *indent(_pack_keys(layer, parts)),
        *indent(_pack_values(layer, parts)),
        "    for tile in range(tiles):",
        f"        at: index = tile * {ROWS}",
        *indent(_tile(layer, t, target, parts), 2),
        *write_results(layer),
    ]


def _depth(layer: Layer) -> int:
    """Numbers of a query in whole tiles."""
    return -(-layer.q.size // DEPTH) * DEPTH


def _zeros(buffer: str, size: int, at: str = "") -> list[str]:
    """Zeros in a row of whole panels."""
    place = f"{at}c * {PANEL}:c * {PANEL} + {PANEL}"
    return [f"for c in range({size // PANEL}):", f"    {buffer}[{place}] = splat(0.0, {PANEL})"]


# --- packing --------------------------------------------------------------------------------------


def _split(name: str, x: str, lanes: int, parts: int, *, cut: bool = True) -> list[str]:
    """Names `name0`, `name1`: the parts of x, as `tile_product.split` has them. `cut`: may x be
    beyond the largest part?"""
    lines = [f"{name}: f32[{lanes}] = {x}"]
    if parts == 1:
        return [*lines, f"{name}0: bf16[{lanes}] = bf16(normal({name}))"]
    high = f"max(min({name}, {LARGEST!r}), {-LARGEST!r})" if cut else name
    return [
        *lines,
        f"{name}0: bf16[{lanes}] = bf16(normal({high}))",
        f"{name}1: bf16[{lanes}] = bf16(normal({name} - f32({name}0)))",
    ]


def _pack_query(layer: Layer, parts: int) -> list[str]:
    """Row i of the unit into `queries`, scaled."""
    size = layer.q.size
    lines = [
        *query(layer, "i"),
        f"qrow: index = {layer.q.row('head')} + s",
        f"qcolumn: index = {layer.q.column('head')}",
    ]
    whole = size // DEPTH * DEPTH
    for e in range(size // DEPTH):
        wide = f"q[qrow, qcolumn + {e * DEPTH}:qcolumn + {e * DEPTH + DEPTH}] * {layer.scale!r}"
        lines += _put_query(e, wide, parts)
    if whole < size:
        lines += [
            f"for d in range({whole}, {size}):",
            f"    line[d] = q[qrow, qcolumn + d] * {layer.scale!r}",
            *_put_query(size // DEPTH, f"line[{whole}:{whole + DEPTH}]", parts),
        ]
    return lines


def _put_query(e: int, x: str, parts: int) -> list[str]:
    puts = [f"queries[{p}, {e}, i, 0:{DEPTH}] = x{e}_{p}" for p in range(parts)]
    return [*_split(f"x{e}_", x, DEPTH, parts), *puts]


def _put_pairs(buffer: str, place: str, a: str, b: str, parts: int) -> list[str]:
    """Rows a and b, neighbours of the axis that is summed, as a row of a tile."""
    lines = [*_split("left", a, PANEL, parts), *_split("right", b, PANEL, parts)]
    return lines + [
        f"{buffer}[{p}, {place}, 0:{DEPTH}] = interleaved(left{p}, right{p})" for p in range(parts)
    ]


def _pack_keys(layer: Layer, parts: int) -> list[str]:
    """`n` keys from `start` on; what lies behind them is anything, their scores do not count."""
    size = layer.k.size
    whole = size // PANEL * PANEL if layer.has_panels else 0
    row = f"krow + p * {PANEL}"
    lines = [
        f"for p in range((n + {PANEL - 1}) // {PANEL}):",
        f"    few: index = min(n - p * {PANEL}, {PANEL})",
    ]
    one = ["        for j in range(few):", f"            turned[d, j] = k[{row} + j, kcolumn + d]"]
    if whole:
        column, at = f"kcolumn + c * {PANEL}", f"c * {PANEL}:c * {PANEL} + {PANEL}"
        tile = f"k[{row}:{row} + {PANEL}, {column}:{column} + {PANEL}]"
        lines += [
            f"    if few == {PANEL}:",
            f"        for c in range({whole // PANEL}):",
            f"            turned[{at}, 0:{PANEL}] = transposed({tile})",
            "    else:",
            f"        for d in range({whole}):",
            *indent(one),
        ]
    if whole < size:
        lines += [f"    for d in range({whole}, {size}):", *one]
    pair = [f"turned[{PANEL} * 2 * e + 2 * r + {k}, 0:{PANEL}]" for k in range(2)]
    return [
        *lines,
        f"    for e in range({_depth(layer) // DEPTH}):",
        f"        for r in range({PANEL}):",
        *indent(_put_pairs("keys", "p, e, r", pair[0], pair[1], parts), 3),
    ]


def _pack_values(layer: Layer, parts: int) -> list[str]:
    """Values of the block's keys, with zeros behind them: what is not a number may not meet a
    probability of zero."""
    size, panels = layer.v.size, layer.columns // PANEL
    at = f"c * {PANEL}:c * {PANEL} + {PANEL}"
    column = f"vcolumn + c * {PANEL}"
    place = f"c, j // {PANEL}, j % {PANEL}"
    lines: list[str] = []
    first = "0"
    if size == layer.columns:
        rows = [f"v[vrow + 2 * j + {k}, {column}:{column} + {PANEL}]" for k in range(2)]
        lines = [
            "for j in range(n // 2):",
            f"    for c in range({panels}):",
            *indent(_put_pairs("values", place, rows[0], rows[1], parts), 2),
        ]
        first = "n // 2"
    return [
        *lines,
        f"for j in range({first}, (n + {DEPTH - 1}) // {DEPTH} * {PANEL}):",
        *(f"    {line}" for k in range(2) for line in _zeros("pair", layer.columns, f"{k}, ")),
        "    for i in range(max(min(n - 2 * j, 2), 0)):",
        f"        for d in range({size}):",
        "            pair[i, d] = v[vrow + 2 * j + i, vcolumn + d]",
        f"    for c in range({panels}):",
        *indent(_put_pairs("values", place, f"pair[0, {at}]", f"pair[1, {at}]", parts), 2),
    ]


# --- tiles ----------------------------------------------------------------------------------------


def _tile(layer: Layer, t: Tile, target: Target, parts: int) -> list[str]:
    """32 queries from `at` on: what they get of the block's keys."""
    place = f"j // 2, i, j % 2 * {PANEL}:j % 2 * {PANEL} + {PANEL}"
    put = _split("chance_", "chance", PANEL, parts, cut=False)
    put += [f"chances[{p}, {place}] = chance_{p}" for p in range(parts)]
    return [
        *live(layer, ROWS),
        f"rounds: index = (live + {DEPTH - 1}) // {DEPTH}",
        f"score: f32[{ROWS}, {t.keys}] @ stack @ 64",
        f"factor: f32[{ROWS}] @ stack @ 64",
        f"chances: bf16[{parts}, {t.keys // DEPTH}, {ROWS}, {DEPTH}] @ stack @ 64",
        f"added: f32[{ROWS}, {layer.columns}] @ stack @ 64",
        *_scores(layer, parts),
        *softmax(layer, t, ROWS, target, put),
        *_values(layer, parts),
    ]


def _scores(layer: Layer, parts: int) -> list[str]:
    """Queries times keys."""
    left = f"queries[LEFT, e, at + i * {PANEL}:at + i * {PANEL} + {PANEL}, 0:{DEPTH}]"
    right = f"keys[RIGHT, g * 2 + w, e, 0:{PANEL}, 0:{DEPTH}]"
    column = f"g * {DEPTH} + w * {PANEL}"
    put = f"score[i * {PANEL}:i * {PANEL} + {PANEL}, {column}:{column} + {PANEL}]"
    loop = f"for e in range({_depth(layer) // DEPTH}):"
    return ["for g in range(rounds):", *indent(_product(2, left, right, put, loop, parts))]


def _values(layer: Layer, parts: int) -> list[str]:
    """Results so far, scaled down, and probabilities times values."""
    panels = layer.columns // PANEL
    left = f"chances[LEFT, e, i * {PANEL}:i * {PANEL} + {PANEL}, 0:{DEPTH}]"
    lines: list[str] = []
    for wide, first, count in ((2, 0, panels // 2), (1, panels // 2 * 2, panels % 2)):
        if not count:
            continue
        column = f"{first} + c * {wide} + w"
        right = f"values[RIGHT, {column}, e, 0:{PANEL}, 0:{DEPTH}]"
        at = f"({column}) * {PANEL}"
        put = f"added[i * {PANEL}:i * {PANEL} + {PANEL}, {at}:{at} + {PANEL}]"
        body = _product(wide, left, right, put, "for e in range(rounds):", parts)
        lines += [f"for c in range({count}):", *indent(body)]
    at = f"c * {PANEL}:c * {PANEL} + {PANEL}"
    return [
        *lines,
        f"for i in range({ROWS}):",
        f"    for c in range({panels}):",
        f"        result[at + i, {at}] = result[at + i, {at}] * factor[i] + added[i, {at}]",
    ]


def _product(wide: int, left: str, right: str, put: str, loop: str, parts: int) -> list[str]:
    """Two by `wide` registers of sums of products; texts over i, w and LEFT, RIGHT, the parts."""
    each = [f"for i in unroll({ROWS // PANEL}):", f"    for w in unroll({wide}):"]
    at = f"sums[i * {PANEL}:i * {PANEL} + {PANEL}, w * {PANEL}:w * {PANEL} + {PANEL}]"
    lines = [
        f"sums: f32[{ROWS}, {wide * PANEL}] @ tile",
        *each,
        f"        {at} = splat(0.0, {PANEL}, {PANEL})",
        loop,
    ]
    for a, b in PAIRS[parts]:
        dot = f"dot({left.replace('LEFT', str(a))}, {right.replace('RIGHT', str(b))}, {at})"
        lines += indent([*each, f"        {at} = {dot}"])
    return [*lines, *each, f"        {put} = {at}"]
