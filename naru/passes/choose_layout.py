"""Where tensors lie in memory: channels last for images, packed panels for constant weights.

Logical shapes stay as they are (N, C, H, W); the layout is part of the type, and only index maps
change. A kernel reads and writes any layout; what needs row-major bytes (a reshape, control flow,
an output) gets a copy in front, once.
"""

from __future__ import annotations

from naru.ir.graph import Graph, Layout, Node, TensorType, toposort
from naru.ir.simplify import known
from naru.ops.registry import OPS
from naru.passes.registry import graph_pass

PANEL = 16  # columns of a packed weight panel, the same on every target
FEW_CHANNELS = 8  # below this an image stays as it came: lanes of channels would be mostly empty


def channels_last(rank: int) -> Layout:
    """N, spatial…, C."""
    return Layout((0, *range(2, rank), 1))


def weight_layout(n: Node, operand: int) -> Layout | None:
    """The packed form in which a kernel wants a constant operand; None: as it is."""
    w = n.inputs[operand]
    if w is None or operand != 1:
        return None
    if n.op == "matmul" and w.type.rank == 2:
        return Layout((1, 0), (1, PANEL))
    if n.op == "conv":
        rank, filters = w.type.rank, known(w.type.shape[0])
        group = n.attr("group", 1)
        # No panel may hold filters of two groups.
        if group == 1 or (isinstance(group, int) and filters and filters // group % PANEL == 0):
            return Layout((0, *range(2, rank), 1), (0, PANEL))
        return Layout((*range(2, rank), 1, 0))
    return None


def wants_channels_last(n: Node, inputs: list[Node | None]) -> bool:
    """Whether the result of an image operator (or of elementwise work on one) is channels last."""
    rank = n.type.rank
    if len(n.types) != 1 or rank < 3:
        return False
    spatial = [known(d) for d in n.type.shape[2:]]
    if known(n.type.shape[1]) == 1 or all(s == 1 for s in spatial):
        return False  # the same bytes either way
    if n.op == "conv":
        return True
    last = [
        x is not None and x.type.layout is not None and x.type.rank == rank and x.op != "constant"
        for x in inputs
    ]
    if n.op in ("max_pool", "average_pool", "pad"):
        channels = known(n.type.shape[1])
        return last[0] or (n.op != "pad" and (channels is None or channels >= FEW_CHANNELS))
    return OPS[n.op].kind == "elementwise" and any(last)


@graph_pass
def choose_layout(g: Graph) -> Graph:
    """Gives every tensor its layout. Runs last before fusion, which keeps types as they are."""
    done: dict[Node, Node] = {}
    for n in toposort(*g.outputs):
        done[n] = _with_layout(n, [None if x is None else done[x] for x in n.inputs])
    outputs = [row_major(done[n]) for n in g.outputs]
    notes = {done[n]: name for n, name in g.notes.items() if n in done}
    return g.with_outputs(outputs, notes)


def _with_layout(n: Node, inputs: list[Node | None]) -> Node:
    if n.op in ("input", "constant"):
        return n
    kind = OPS[n.op].kind
    if kind in ("view", "control", "opaque"):
        inputs = [None if x is None else row_major(x) for x in inputs]
        attrs = tuple((k, choose_layout(v) if isinstance(v, Graph) else v) for k, v in n.attrs)
        return Node(n.op, tuple(inputs), attrs, n.types)
    for k, x in enumerate(inputs):
        layout = weight_layout(n, k)
        if layout is not None and x is not None and x.op == "constant":
            inputs[k] = Node(x.op, x.inputs, x.attrs, (_laid(x.type, layout),))
    if not wants_channels_last(n, inputs):
        return Node(n.op, tuple(inputs), n.attrs, n.types)
    return Node(n.op, tuple(inputs), n.attrs, (_laid(n.type, channels_last(n.type.rank)),))


def _laid(t: TensorType, layout: Layout | None) -> TensorType:
    return TensorType(t.dtype, t.shape, layout, t.value)


def row_major(n: Node) -> Node:
    """n, or a copy of it in row-major order."""
    if n.type.layout is None or len(n.types) != 1:
        return n
    if n.op == "constant":
        return Node(n.op, n.inputs, n.attrs, (_laid(n.type, None),))
    return Node("identity", (n,), (), (_laid(n.type, None),))
