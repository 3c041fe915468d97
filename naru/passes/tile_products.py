"""Which sums of products are made in matrix registers (AMX), and from how many parts.

Matrices and filters are split and packed here, once; what they meet is split by a kernel of its own
as it comes (ops/tile_product.py), once for all products that read it. The choice is a model's of
shapes alone, nothing is timed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from naru.ir.expr import Const, free_vars
from naru.ir.graph import Attr, Graph, Node, TensorType, make_constant, make_node, toposort
from naru.ir.simplify import known
from naru.ops.attention import How
from naru.ops.operands import ints, sizes
from naru.ops.registry import apply
from naru.ops.tile_product import DEPTH, PAIRS, SIDE, Window, pack_weights, parts_of
from naru.passes.before_views import channels_last, laid
from naru.passes.narrow_weights import is_widened
from naru.passes.registry import graph_pass
from naru.passes.rewrite import rewrite

CYCLES = 16.0  # of an instruction: 16 × 16 sums of 32 products
BUSY = 0.55  # of the time in which products are made, beside loads and what follows them
FUSED = 25.0  # multiply-adds of f32 a cycle, of the 32 there could be
SPLITTING = 0.35  # cycles to split and pack a number, for each part
STORED, COPIED = 0.2, 0.3  # cycles for a result: from a register, from a tile by way of the stack
TURNED = 1.2  # cycles to bring a number of an image next to its other channels
WORTH = 0.8  # of the time of multiply-adds, at most
FIRST = 0.8  # of that, for images of few channels: results are more than caches hold
MOST = 256.0  # a weight
FILLED = 0.4  # of the tiles of attention, at least
WIDEST = 1024  # numbers of a head: packed, they and their results stay below 1 MiB of stack
UNIT = 8  # numbers that are split at a time, at least: the depth is a multiple
FEW = 6  # rows: as many pass while weights come from where they lie
# Relative rms error of a layer, by parts (measured; it does not grow with the length of sums).
ERRORS = {1: 2.3e-3, 2: 4.4e-6, 3: 1e-7}
NAMES = {1: "bf16", 2: "f32x2", 3: "f32x3"}


@dataclass(frozen=True)
class Sizes:
    """Of one product: `rows` by `depth` by `columns`, for each of `taps`; `inputs`: numbers that
    are split, after `turned` have been made to lie as they are read."""

    rows: int
    depth: int
    columns: int
    taps: int
    inputs: int
    turned: int = 0

    def cycles(self, parts: int) -> float:
        """In matrix registers."""
        tiles = -(-self.rows // SIDE) * -(-self.columns // SIDE) * -(-self.depth // DEPTH)
        products = tiles * self.taps * len(PAIRS[parts]) * CYCLES / BUSY
        inputs = self.inputs * parts * SPLITTING + self.turned * TURNED
        return products + inputs + self.rows * self.columns * COPIED

    @property
    def fused(self) -> float:
        """Cycles of multiply-adds."""
        products = self.rows * self.depth * self.columns * self.taps / FUSED
        return products + self.rows * self.columns * STORED


@graph_pass
def tile_products(g: Graph, *, parts: int = 2) -> Graph:
    """Products of matrices and convolutions with constant weights, where that is worth it, become
    `tile_product` of `pack_tiles`. Runs after choose_layout, whose layouts the results keep."""
    return rewrite(g, lambda n: _tiled(n, parts))


def uses_tiles(g: Graph) -> bool:
    """Is any product of a graph, fused or not, made in matrix registers?"""
    for n in toposort(*g.outputs):
        inside = [v for _, v in n.attrs if isinstance(v, Graph)]
        if is_in_tiles(n) or any(map(uses_tiles, inside)):
            return True
    return False


def is_in_tiles(n: Node) -> bool:
    """Is it made in matrix registers?"""
    return n.op == "tile_product" or (n.op == "attention" and bool(n.attr("parts")))


def tiles_reason(n: Node) -> str:
    """What `explain` says of such a product; empty for others."""
    if not is_in_tiles(n) or n.inputs[1] is None:
        return ""
    parts = parts_of(dict(n.attrs))
    count = len(PAIRS[parts])
    text = f"{NAMES[parts]} in AMX tiles: {count} product{'s' * (count > 1)} of bf16 parts"
    if n.op == "attention":
        return f"{text}, error {math.sqrt(2) * ERRORS[parts]:.1e} of two products"
    share = n.attr("share")
    return f"{text}, error {ERRORS[parts]:.1e}, predicted {share} of the time of multiply-adds"


def _tiled(n: Node, parts: int) -> Node:
    if n.op == "attention":
        return _attention(n, parts)
    if n.op not in ("matmul", "conv", "phase_conv") or n.attr("exact") or n.type.dtype != "f32":
        return n
    if n.attr("paired") or n.attr("quads"):
        return n
    w = _weights(n.inputs[1])
    if n.inputs[0] is None or w is None or not w.size:
        return n
    return (
        _matmul(n, n.inputs[0], w, parts) if n.op == "matmul" else _conv(n, n.inputs[0], w, parts)
    )


def _weights(w: Node | None) -> np.ndarray | None:
    """Constant weights in f32; None where they are none, or one is so large that its second part
    times the largest float overflows, with a sign of its own."""
    if w is not None and is_widened(w):
        w = w.inputs[0]
    if w is None or w.op != "constant" or w.data is None or w.type.dtype not in ("f32", "bf16"):
        return None
    values = np.asarray(w.data).astype(np.float32)
    return values if np.all(np.abs(values) <= MOST) else None


def _share(sizes: Sizes, parts: int) -> float | None:
    """The time in tiles by that of multiply-adds, if it is worth it."""
    if sizes.rows < FEW:
        return None
    share = sizes.cycles(parts) / max(sizes.fused, 1.0)
    return share if share < (WORTH * FIRST if sizes.turned else WORTH) else None


def _matmul(n: Node, x: Node, w: np.ndarray, parts: int) -> Node:
    rank, layout = x.type.rank, x.type.layout
    if w.ndim != 2 or rank < 2 or w.shape[0] % UNIT:
        return n
    if layout is not None and (layout.block is not None or layout.order[-1] != rank - 1):
        return n
    lead = [known(d) for d in x.type.shape[:-1]]
    if rank == 2 and len(free_vars(x.type.shape[0])) == 1:  # rows of a batch: often there is one
        return n
    rows = math.prod(SIDE if d is None else d for d in lead)
    share = _share(Sizes(rows, w.shape[0], w.shape[1], 1, rows * w.shape[0]), parts)
    if share is None:
        return n
    packed = apply("pack_tiles", x, parts=parts)
    weights = make_constant(pack_weights(w[None], parts))
    attrs = {"parts": parts, "shape": n.type.shape, "share": f"{share:.2f}"}
    return make_node("tile_product", (packed, weights), attrs, n.types)


def _attention(n: Node, parts: int) -> Node:
    """Attention with both of its products in tiles, where queries and keys fill enough of them."""
    how = How.of(dict(n.attrs))
    if n.inputs[0] is None or n.inputs[1] is None:
        return n
    tokens = (how.tokens(n.inputs[0].type, 0), how.tokens(n.inputs[1].type, 1))
    queries, keys = (2 * SIDE if (t := known(d)) is None else t for d in tokens)
    rows = queries * how.heads[0] // how.heads[1]
    whole = [-(-max(size, 1) // (2 * SIDE)) * 2 * SIDE for size in (rows, keys)]
    filled = rows * keys / math.prod(whole)
    wide = max(known(t.shape[3]) or 0 for t in (n.inputs[0].type, n.type))
    if filled < FILLED or wide > WIDEST:
        return n
    return make_node(n.op, n.inputs, {**dict(n.attrs), "parts": parts}, n.types)


def _conv(n: Node, x: Node, w: np.ndarray, parts: int) -> Node:
    rank = w.ndim - 2
    if rank not in (1, 2) or n.attr("group", 1) != 1:
        return n
    x, attrs = _window(n, x, w.shape[2:])
    size = [known(d) for d in n.type.shape[2:]]
    source = [known(d) for d in x.type.shape[1:]]
    if None in size or None in source or known(x.type.shape[0]) == 0:
        return n
    if w.shape[1] % UNIT:
        found = _lines(x, attrs, w, size[-1] or 1)
        if found is None:
            return n
        x, attrs, w = found
        rank, source = 2, [known(d) for d in x.type.shape[1:]]
    window = Window.of(attrs)
    if window is None or size[-1] == window.places[-1]:
        return n  # neighbours in a line of one pixel do not read neighbours
    plane = [Const(d or 1) for d in (source[1:] if rank == 2 else [1, source[1]])]
    rows = (known(window.counts(plane)[0]) or 0) * (known(window.pitch(plane)) or 0)
    depth = -(-w.shape[1] // DEPTH) * DEPTH if window.run else w.shape[1]
    inputs = (known(window.length(plane)) or 0) * math.prod(window.phases) * depth
    turned = math.prod(d or 1 for d in source) if window.run else 0
    taps, places = math.prod(window.taps), math.prod(window.places)
    share = _share(Sizes(rows * places, w.shape[1], w.shape[0], taps, inputs, turned), parts)
    if share is None:
        return n
    weights = make_constant(_filters(w, window, parts))
    seen = tuple(t + int(f > 0) for t, f in zip(window.taps, window.first, strict=True))
    around = {k: attrs[k] for k in ("strides", "dilations", "pads", "run") if k in attrs}
    packed = apply("pack_tiles", x, parts=parts, taps=seen, **around)
    made = {"parts": parts, "shape": n.type.shape, "share": f"{share:.2f}", **attrs}
    return make_node("tile_product", (packed, weights), made, n.types)


def _window(n: Node, x: Node, filters: tuple[int, ...]) -> tuple[Node, dict[str, Attr]]:
    """The image that a convolution passes over, without its border, and the attributes of how."""
    rank, given = len(filters), dict(n.attrs)
    ones = (1,) * rank
    inside = _padded(x, rank)
    x, pads = inside or (x, (0,) * (2 * rank))
    if n.op == "conv":
        steps = {k: ints(given, k) if n.attr(k) else ones for k in ("strides", "dilations")}
        found = {"taps": filters, **steps}
    else:
        places, first = ints(given, "strides"), ints(given, "first")
        taps = tuple(k // s for k, s in zip(filters, places, strict=True))
        found = {"taps": taps, "strides": ones, "dilations": ones, "places": places, "first": first}
    if rank == 1:
        found = {k: (int(k != "first"), *v) for k, v in found.items()}
        pads = (0, pads[0], 0, pads[1])
    return x, {**found, "pads": pads}


def _lines(
    x: Node, attrs: dict[str, Attr], w: np.ndarray, width: int
) -> tuple[Node, dict[str, Attr], np.ndarray] | None:
    """An image of few channels as lines of numbers, with its border, and filters of those taps that
    lie in other lines (see Window.run)."""
    window = Window.of(attrs)
    if window is None or "places" in attrs or (window.dilations[1] > 1 and window.taps[1] > 1):
        return None
    channels, across = w.shape[1], known(x.type.shape[-1]) or 0
    run, stride = window.taps[1] * channels, window.strides[1] * channels
    read = (width - 1) * stride + -(-run // DEPTH) * DEPTH
    unit = math.lcm(channels, SIDE)  # lines are read in whole vectors
    whole = -(-read // unit) * unit
    top, left, bottom, _ = window.pads
    right = whole // channels - left - across
    axes = range(2, x.type.rank)
    before, after = (top, left)[-len(axes) :], (bottom, right)[-len(axes) :]
    image = apply("pad", x, pads=(0, 0, *before, 0, 0, *after), mode="constant", value=0.0)
    last = laid(image.type, channels_last(image.type.rank))
    image = Node(image.op, image.inputs, image.attrs, (last,))
    perm = (0, *axes, 1)
    view = TensorType("f32", tuple(last.shape[a] for a in perm))
    lines = Node("transpose_view", (image,), (("perm", perm),), (view,))
    down = last.shape[2:-1] or (Const(1),)
    made = apply("reshape", lines, shape=(last.shape[0], Const(1), *down, Const(whole)))
    cut = (width - 1) * stride + run - whole
    around: dict[str, Attr] = {
        "taps": (window.taps[0], 1), "strides": (window.strides[0], stride), "run": run,
        "dilations": (window.dilations[0], 1), "pads": (0, 0, 0, cut),
    }  # fmt: skip
    filters = w.reshape(*w.shape[:2], *window.taps).transpose(0, 3, 1, 2)
    return made, around, filters.reshape(w.shape[0], run, -1, 1)


def _filters(w: np.ndarray, window: Window, parts: int) -> np.ndarray:
    """Filters [M, C, *taps] in tiles, those of each place behind each other."""
    (down, across), (y, x) = window.places, window.taps
    every = w.reshape(*w.shape[:2], y, down, x, across).transpose(3, 5, 2, 4, 1, 0)
    every = every.reshape(down * across, y * x, w.shape[1], w.shape[0])
    return np.concatenate([pack_weights(v, parts) for v in every])


def _padded(x: Node, rank: int) -> tuple[Node, tuple[int, ...]] | None:
    """The image inside of a border of zeros, and how wide that is."""
    image = x.inputs[0] if x.op == "pad" else None
    if image is None or x.attr("mode", "constant") != "constant" or x.attr("value", 0.0) != 0.0:
        return None
    found = [known(p) for p in sizes(dict(x.attrs), "pads")]
    pads = [p for p in found if p is not None]
    if len(pads) < len(found):
        return None
    wide = list(itertools.chain(pads[:2], pads[2 + rank : 4 + rank]))
    around = (*pads[2 : 2 + rank], *pads[4 + rank :])
    same = image.type.layout is x.type.layout
    return (image, around) if same and not any(wide) and min(around) >= 0 else None
