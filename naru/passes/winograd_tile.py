"""Which convolutions are computed tile by tile (schedule/winograd.py), and in which tiles.

By a model of shapes alone: the levels of an architecture read the same weights. It counts cycles
of a core with two units of 8 multiply-adds, whose weights come from beyond its caches; wider cores
have more use for fewer bytes, and gain a little less.
"""

from __future__ import annotations

from naru.ir.graph import Node
from naru.ir.simplify import known

PANEL = 16
MACS = 14.0  # multiply-adds a cycle, of the 16 there could be
BYTES = 6.0  # of weights a cycle
# Cycles of both transforms for a channel of a tile of m × m pixels, in and out.
TRANSFORMS = {2: (3.5, 2.5), 4: (16.0, 10.0)}
WORTH = 0.85  # of the direct time, at most
LONG = 1000  # channels: longer sums are made in parts, which tiles have no room for


def winograd_tile(n: Node) -> int:
    """m, for a convolution whose result is best made in tiles of m × m pixels; 0: in none."""
    x, w = n.inputs[0], n.inputs[1]
    if n.op != "conv" or x is None or w is None or w.op != "constant" or n.type.dtype != "f32":
        return 0
    if w.type.rank != 4 or n.attr("group", 1) != 1 or n.attr("paired") or n.attr("quads"):
        return 0
    ones = all(n.attr(name, (1, 1)) == (1, 1) for name in ("strides", "dilations"))
    filters, channels, *taps = (known(d) or 0 for d in w.type.shape)
    height, width = (known(d) or 0 for d in n.type.shape[2:])
    if taps != [3, 3] or not ones or height < 2 or width < 2 or channels > LONG:
        return 0
    if filters % PANEL or channels % PANEL:
        return 0
    direct = _direct(height, width, channels, filters)
    cost, m = min((_tiled(m, height, width, channels, filters), m) for m in TRANSFORMS)
    return m if cost < WORTH * direct else 0


def _direct(height: int, width: int, channels: int, filters: int) -> float:
    weights = 9 * channels * filters
    return max(height * width * weights / MACS, weights * 4 / BYTES)


def _tiled(m: int, height: int, width: int, channels: int, filters: int) -> float:
    tiles, weights = -(-height // m) * -(-width // m), (m + 2) ** 2 * channels * filters
    inward, outward = TRANSFORMS[m]
    products = max(tiles * weights / MACS, weights * 4 / BYTES)
    return products + tiles * (inward * channels + outward * filters)
