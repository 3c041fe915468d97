"""Which convolutions are computed tile by tile (schedule/winograd.py), and in which tiles.

By a model of shapes alone: the levels of an architecture read the same weights. It counts cycles
of a core with two units of 8 multiply-adds, whose weights come from beyond its caches; wider cores
have more use for fewer bytes, and gain a little less.
"""

from __future__ import annotations

from dataclasses import dataclass

from naru.ir.graph import Node
from naru.ir.simplify import known

PANEL = 16
MACS = 14.0  # multiply-adds a cycle, of the 16 there could be
BYTES = 6.0  # of weights a cycle
# Cycles of both transforms for a channel of a tile of m × m pixels, in and out.
TRANSFORMS = {2: (3.5, 2.5), 4: (16.0, 10.0)}
WORTH = 0.85  # of the direct time, at most
LONG = 1000  # channels: longer sums are made in parts, which tiles have no room for


@dataclass(frozen=True)
class Sizes:
    """Those of a 3×3 convolution's result and filters."""

    height: int
    width: int
    channels: int
    filters: int

    def products(self, m: int) -> int:
        """Multiply-adds in tiles of m × m pixels; m = 1: of direct sums."""
        tiles = -(-self.height // m) * -(-self.width // m)
        return tiles * self.weights(m)

    def weights(self, m: int) -> int:
        """Numbers in the filters, in that form."""
        return (m + 2) ** 2 * self.channels * self.filters

    def cycles(self, m: int) -> float:
        """What all of it takes."""
        inward, outward = TRANSFORMS.get(m, (0.0, 0.0))
        tiles = self.products(m) // self.weights(m)
        read = self.weights(m) * 4 / BYTES
        moved = tiles * (inward * self.channels + outward * self.filters)
        return max(self.products(m) / MACS, read) + moved


def is_tiled(n: Node) -> bool:
    """Is the node a convolution that is made tile by tile?"""
    return _form(n) > 0


def _form(n: Node) -> int:
    layout = n.inputs[1].type.layout if n.op == "conv" and n.inputs[1] is not None else None
    return layout.winograd if layout is not None else 0


def winograd_tile(n: Node) -> int:
    """m, for a convolution whose result is best made in tiles of m × m pixels; 0: in none."""
    sizes = _sizes(n)
    return 0 if isinstance(sizes, str) else _best(sizes)


def _best(sizes: Sizes) -> int:
    m = min(TRANSFORMS, key=sizes.cycles)
    return m if sizes.cycles(m) < WORTH * sizes.cycles(1) else 0


def _sizes(n: Node) -> Sizes | str:
    """Of a convolution that tiles could make; else why they could not, or nothing where nobody
    would ask."""
    w = n.inputs[1] if n.op == "conv" else None
    if w is None or n.type.dtype != "f32" or w.type.rank != 4:
        return ""
    filters, channels, *taps = (known(d) or 0 for d in w.type.shape)
    if taps != [3, 3] or not filters or not channels:
        return ""
    if w.op != "constant" and not _is_cast(w):
        return "tiles need constant filters"
    if n.attr("group", 1) != 1:
        return "tiles are for convolutions of all channels"
    if any(n.attr(name, (1, 1)) != (1, 1) for name in ("strides", "dilations")):
        return "tiles are for strides and dilations of 1"
    height, width = (known(d) or 0 for d in n.type.shape[2:])
    if height < 2 or width < 2:
        return "tiles need an image of known height and width"
    if filters % PANEL or channels % PANEL or channels > LONG:
        return f"tiles need whole panels of {PANEL} filters and channels, {LONG} at most of these"
    return Sizes(height, width, channels, filters)


def _is_cast(w: Node) -> bool:
    """Is it a constant that is cast, as narrow filters are?"""
    return w.op == "cast" and w.inputs[0] is not None and w.inputs[0].op == "constant"


def algorithm_reason(n: Node) -> str:
    """Why a 3×3 convolution is made tile by tile, or is not; empty for what else there is."""
    sizes, m = _sizes(n), _form(n)
    if isinstance(sizes, str):
        return f"direct sums: {sizes}" if sizes else ""
    best = min(TRANSFORMS, key=sizes.cycles)
    share = sizes.cycles(m or best) / sizes.cycles(1)
    if m:
        return (
            f"tiles of {m}×{m} pixels (Winograd): {_count(sizes.products(m))} multiply-adds for "
            f"{_count(sizes.products(1))}, filters {_bytes(sizes.weights(m))} for "
            f"{_bytes(sizes.weights(1))}, predicted {share:.2f} of the direct time"
        )
    if _best(sizes):
        return "direct sums: tiles round otherwise, which this class or target leaves out"
    return f"direct sums: tiles would take {share:.2f} of the time, and pay below {WORTH}"


def _count(n: int) -> str:
    return f"{n / 1e6:.3g} M"


def _bytes(numbers: int) -> str:
    return f"{numbers * 4 / 2**10:.4g} KiB"
