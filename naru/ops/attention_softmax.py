"""The softmax of attention, block of keys by block of keys, and its results."""

from __future__ import annotations

from collections.abc import Sequence

from naru.ops.attention_layer import PANEL, Layer, Tile, query
from naru.ops.kernel_text import indent, multiply_add
from naru.targets import Target

LEAST = -88.0  # exp of less is zero
MAGIC = 12583039.0  # 1.5 · 2^23 + 127: what is added to it is rounded to an integer
LOG2_E = 1.4426950408889634
# 2^r for |r| <= 1/2, within 9.2e-8 of it: the highest power first.
POWER = (1.3264727e-3, 9.671513e-3, 5.5507336e-2, 0.24022242, 0.693147, 1.0)


def softmax(layer: Layer, t: Tile, rows: int, target: Target, put: Sequence[str] = ()) -> list[str]:
    """The scores of a tile become exp(score - greatest so far), 0 where a key is not seen; or `put`
    says what becomes of these, `chance`, of row i and panel j. All rows find their greatest before
    the first exponential, so that none waits for another's."""
    several = -(-rows // PANEL) * PANEL
    tile = f"j * {PANEL}:j * {PANEL} + {PANEL}"
    wide = f"f32[{PANEL}]"
    lines = [
        f"base: f32[{rows}] @ stack @ 64",
        f"gone: f32[{several}] @ stack @ 64",
        *(f"gone[{k}:{k + PANEL}] = splat(0.0, {PANEL})" for k in range(0, several, PANEL)),
        f"for i in range({rows}):",
        *indent(query(layer, "at + i")),
        *indent(seen_keys(layer)),
        f"    for j in range(seen, rounds * {PANEL * t.panels}):",
        "        score[i, j] = -inf",
        f"    most = splat(-inf, {PANEL})",
        *indent(masked(layer, t)),
        "    old: f32 = top[at + i]",
        "    new: f32 = larger(reduce_larger(most), old)",
        "    finite: f32 = select(new > -inf, new, 0.0)",
        "    base[i] = finite",
        "    gone[i] = old - finite",
        "    top[at + i] = new",
        *(
            f"factor[{k}:{k + PANEL}] = exp(gone[{k}:{k + PANEL}])"
            for k in range(0, several, PANEL)
        ),
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
        *indent(put or [f"score[i, {tile}] = chance"], 2),
        "        sum = sum + chance",
        f"    total[at + i, 0:{PANEL}] = sum",
    ]


def seen_keys(layer: Layer) -> list[str]:
    """`seen`: how many of the block's keys a query sees."""
    if not layer.causal:
        return ["seen: index = live"]
    return ["seen: index = max(min(live, s + 1 + OFFSET - start), 0)"]


def masked(layer: Layer, t: Tile) -> list[str]:
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


def write_results(layer: Layer) -> list[str]:
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
        *indent(query(layer, "i")),
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
