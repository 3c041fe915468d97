"""Where tensors lie in memory: channels last for images, packed panels for constant weights.

Logical shapes stay as they are (N, C, H, W); the layout is part of the type, and only index maps
change. A kernel reads and writes any layout; what needs row-major bytes (a reshape, control flow,
an output) gets a copy in front, once.
"""

from __future__ import annotations

from naru.ir.expr import Expr
from naru.ir.graph import Graph, Layout, Node, TensorType, toposort, users
from naru.ir.simplify import ONE, known
from naru.ops.operands import ints
from naru.ops.registry import OPS
from naru.ops.shape import aligned_groups
from naru.passes.before_views import before_reshape, before_view, channels_last, laid
from naru.passes.narrow_weights import is_widened
from naru.passes.registry import graph_pass
from naru.passes.simplify_algebra import operand
from naru.passes.winograd_tile import winograd_tile

PANEL = 16  # columns of a packed weight panel, the same on every target
# Operators whose result lies as their operand does.
FOLLOWING = ("max_pool", "average_pool", "pad", "concat", "slice", "repeat", "gather")
FEW_CHANNELS = 8  # below this an image stays as it came: lanes of channels would be mostly empty


def weight_layout(n: Node, operand: int, *, tiles: bool = False) -> Layout | None:
    """The packed form in which a kernel wants a constant operand; None: as it is. `tiles`: filters
    may be in the form for tiles (winograd_tile.py)."""
    w = n.inputs[operand]
    if w is None or operand != 1:
        return None
    if n.op == "matmul" and w.type.rank == 2:
        return Layout((1, 0), (1, PANEL))
    if n.op in ("conv", "phase_conv"):
        rank, filters = w.type.rank, known(w.type.shape[0])
        group = n.attr("group", 1)
        # A panel holds filters of one group, or whole groups.
        own = filters // group if isinstance(group, int) and filters else 0
        if group == 1 or (own > 1 and (own % PANEL == 0 or PANEL % own == 0)):
            m = winograd_tile(n) if tiles else 0
            return Layout((0, *range(2, rank), 1), (0, PANEL), m)
        return Layout((*range(2, rank), 1, 0))
    return None


def is_image_op(n: Node) -> bool:
    """Does the operator take images as it finds them, in whichever layout?"""
    if n.op == "gather":
        return _is_resampling(n)
    return n.op in ("conv", "phase_conv", *FOLLOWING)


def _is_resampling(n: Node) -> bool:
    """Does a gather take rows or columns of an image at known places (a resize does)?"""
    x, at, axis = n.inputs[0], n.inputs[1], n.attr("axis", 0)
    if x is None or at is None or x.type.rank < 4 or not isinstance(axis, int):
        return False
    return at.op == "constant" and at.type.rank == 1 and axis % x.type.rank >= 2


def wants_channels_last(n: Node, inputs: list[Node | None]) -> bool:
    """Whether the result of an image operator (or of elementwise work on one) is channels last."""
    rank = n.type.rank
    if len(n.types) != 1 or rank < 3:
        return False
    spatial = [known(d) for d in n.type.shape[2:]]
    if known(n.type.shape[1]) == 1 or all(s == 1 for s in spatial):
        return False  # the same bytes either way
    if n.op in ("conv", "phase_conv"):
        return True
    last = [
        x is not None and x.type.layout is not None and x.type.rank == rank and x.op != "constant"
        for x in inputs
    ]
    if n.op in ("max_pool", "average_pool") or (n.op == "gather" and is_image_op(n)):
        return last[0] or has_channels(n)
    return (OPS[n.op].kind == "elementwise" or is_image_op(n)) and any(last)


def has_channels(n: Node) -> bool:
    """Are there enough channels for lanes of them?"""
    channels = known(n.type.shape[1])
    return channels is None or channels >= FEW_CHANNELS


# --- views ----------------------------------------------------------------------------------------


def reshaped_order(old: TensorType, new: TensorType) -> tuple[int, ...] | None:
    """The order of the axes of a reshape's result where its bytes stay as they are: each group of
    old axes that becomes a group of new ones must lie together, and in order. None: it does not."""
    layout = old.layout or Layout(tuple(range(old.rank)))
    if layout.block is not None:
        return None
    real = [a for a in layout.order if old.shape[a] is not ONE]
    found: list[tuple[int, list[int]]] = []
    for i0, i1, j0, j1 in aligned_groups(old.shape, new.shape):
        places = [real.index(a) for a in range(i0, i1) if old.shape[a] is not ONE]
        if places and places != list(range(places[0], places[0] + len(places))):
            return None
        found.append((places[0] if places else -1, list(range(j0, j1))))
    return tuple(a for _, group in sorted(found) for a in group)


def transposed_order(old: TensorType, perm: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of the axes of a transpose's result if its bytes stay as they are."""
    layout = old.layout or Layout(tuple(range(old.rank)))
    return None if layout.block else tuple(perm.index(a) for a in layout.order)


def _is_row_major(order: tuple[int, ...], shape: tuple[Expr, ...]) -> bool:
    real = [a for a in order if shape[a] is not ONE]
    return real == sorted(real)


def _reshape(n: Node, x: Node) -> Node:
    """A view of x as it lies, or of a row-major copy."""
    order = reshaped_order(x.type, n.type)
    if order is None:
        return Node(n.op, (row_major(x),), n.attrs, n.types)
    layout = None if _is_row_major(order, n.type.shape) else Layout(order)
    return Node(n.op, (x,), n.attrs, (laid(n.type, layout),))


def _transpose(n: Node, x: Node, users: list[Node], done: dict[Node, Node]) -> Node:
    """Nothing to do where the bytes stay: an image that is channels last, seen as rows of channels,
    and back. Otherwise a kernel."""
    order = transposed_order(x.type, ints(dict(n.attrs), "perm"))
    view = Node("transpose_view", (x,), n.attrs, n.types)
    if order is not None and _is_row_major(order, n.type.shape):
        return view
    wanted = any(is_image_op(u) or _meets_image(u, done) for u in users)
    if order == channels_last(n.type.rank).order and wanted:
        return Node(view.op, view.inputs, n.attrs, (laid(n.type, channels_last(n.type.rank)),))
    layout = x.type.layout if _moves_channels_only(n, x) else None
    return Node(n.op, (x,), n.attrs, (laid(n.type, layout),))


def _meets_image(n: Node, done: dict[Node, Node]) -> bool:
    """Has elementwise work an operand that is channels last already?"""
    inputs = [done.get(x) for x in n.inputs if x is not None]
    return OPS[n.op].kind == "elementwise" and wants_channels_last(n, list(inputs))


def _named(n: Node, made: Node) -> Node:
    """What bears the name of n: what computes it, not a view of that."""
    inside = made.inputs[0] if made.op in ("transpose_view", "reshape") else None
    return made if inside is None or inside.op != n.op or made.op == n.op else inside


def _moves_channels_only(n: Node, x: Node) -> bool:
    """Does a transpose of an image that is channels last exchange parts of the channels (a channel
    shuffle)? They lie innermost, and the result is best channels last too."""
    perm = ints(dict(n.attrs), "perm")
    moved = {a for k, a in enumerate(perm) if a != k}
    layout = x.type.layout
    return layout is not None and moved == set(layout.order[len(perm) - len(moved) :])


# --- the pass -------------------------------------------------------------------------------------


@graph_pass
def choose_layout(g: Graph, *, tiles: bool = False) -> Graph:
    """Gives every tensor its layout. Runs last before fusion, which keeps types as they are.

    `tiles`: convolutions may be computed tile by tile, with other roundings than sums have."""
    done: dict[Node, Node] = {}
    readers = users(g)
    alone: set[Node] = set()  # what one node reads
    for n in toposort(*g.outputs):
        inputs = [None if x is None else done[x] for x in n.inputs]
        if n.op == "reshape" and inputs[0] is not None:
            done[n] = _reshape(n, inputs[0])
        elif n.op == "transpose" and inputs[0] is not None:
            done[n] = _transpose(n, inputs[0], list(readers[n]), done)
        else:
            done[n] = _with_layout(n, inputs, tiles=tiles)
            if OPS[n.op].kind == "elementwise":
                moved = before_view(done[n], inputs, alone) or before_reshape(done[n], inputs)
                done[n] = moved or done[n]
        if len(readers[n]) == 1 and n not in g.outputs:
            alone.add(done[n])
    outputs = [row_major(done[n]) for n in g.outputs]
    notes = {_named(n, done[n]): name for n, name in g.notes.items() if n in done}
    return g.with_outputs(outputs, notes)


def _with_layout(n: Node, inputs: list[Node | None], *, tiles: bool) -> Node:
    if n.op in ("input", "constant"):
        return n
    kind = OPS[n.op].kind
    if kind in ("view", "control", "opaque"):
        inputs = [None if x is None else row_major(x) for x in inputs]
        attrs = tuple(
            (k, choose_layout(v, tiles=tiles) if isinstance(v, Graph) else v) for k, v in n.attrs
        )
        return Node(n.op, tuple(inputs), attrs, n.types)
    for k, x in enumerate(inputs):
        layout = weight_layout(n, k, tiles=tiles and _lies_plainly(inputs[0]))
        if layout is not None and x is not None:
            inputs[k] = _packed(x, layout)
    if not wants_channels_last(n, inputs):
        return Node(n.op, tuple(inputs), n.attrs, n.types)
    if is_image_op(n) and n.op != "concat" and inputs[0] is not None:
        inputs[0] = _turned(inputs[0])
    return Node(n.op, tuple(inputs), n.attrs, (laid(n.type, channels_last(n.type.rank)),))


def _packed(x: Node, layout: Layout) -> Node:
    """Constant weights in a layout, also those that are widened; what is computed stays."""
    if is_widened(x):
        return Node(x.op, (_packed(operand(x), layout),), x.attrs, (laid(x.type, layout),))
    return Node(x.op, x.inputs, x.attrs, (laid(x.type, layout),)) if x.op == "constant" else x


def _lies_plainly(x: Node | None) -> bool:
    """Is an image channels last, or row-major, so that it will be? Views lie otherwise too."""
    return x is not None and x.type.layout in (None, channels_last(x.type.rank))


def _turned(x: Node) -> Node:
    """An image as its reader wants it: channels last, by a copy that is turned in registers, if it
    is row-major and has channels for whole lanes."""
    small = all(known(d) == 1 for d in x.type.shape[2:])
    if x.type.layout is not None or x.type.rank < 3 or small or not has_channels(x):
        return x
    wanted = laid(x.type, channels_last(x.type.rank))
    if x.op == "pad":  # a border of numbers is written in the same step; others read the image
        image = x.inputs[0]
        if image is not None and x.attr("mode", "constant") != "constant":
            image = _turned(image)
        return Node(x.op, (image, *x.inputs[1:]), x.attrs, (wanted,))
    return Node("identity", (x,), (), (wanted,))


def row_major(n: Node) -> Node:
    """n, or a copy of it in row-major order."""
    if n.type.layout is None or len(n.types) != 1:
        return n
    if n.op == "constant":
        return Node(n.op, n.inputs, n.attrs, (laid(n.type, None),))
    return Node("identity", (n,), (), (laid(n.type, None),))
