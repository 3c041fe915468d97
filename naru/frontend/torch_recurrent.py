"""ATen's recurrent layers, kept whole: each becomes one product over all time steps and the steps
(see onnx_recurrent). PyTorch has the gates in another order, and several layers in one call."""

from __future__ import annotations

from collections.abc import Sequence

from naru.errors import ModelError
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import Unsupported, emit
from naru.frontend.onnx_recurrent import Sizes, from_inputs, in_panels, steps, swapped, wide
from naru.frontend.torch_call import AtenCall, Handler, axis_slice
from naru.frontend.torch_library import items
from naru.ir.expr import Const
from naru.ir.graph import Attr, Node
from naru.ir.simplify import ONE, ZERO, known, mul
from naru.ops.recurrent import GRU, LSTM, PANEL, RNN, Cell

# PyTorch's gates in the order that the steps have: input, output, forget, cell; update, reset, new.
ORDERS = {LSTM.op: (0, 3, 1, 2), GRU.op: (1, 0, 2), RNN.op: (0,)}


def _ordered(n: Node, cell: Cell, hidden: int) -> Node:
    """[gates · hidden, …] with the gates in order, as [1, gates · hidden, …]."""
    order = ORDERS[cell.op]
    parts = [axis_slice(n, 0, k * hidden, (k + 1) * hidden) for k in order]
    joined = emit("concat", *parts, axis=0) if len(parts) > 1 else n
    return emit("reshape", joined, shape=(ONE, *joined.type.shape))


def _stacked(parts: Sequence[Node], cell: Cell, hidden: int) -> Node:
    """One a direction."""
    rows = [_ordered(wide(n), cell, hidden) for n in parts]
    return emit("concat", *rows, axis=0) if len(rows) > 1 else rows[0]


def _layer(
    cell: Cell, x: Node, weights: Sequence[Sequence[Node]], states: Sequence[Node],
    activations: tuple[str, ...],
) -> tuple[Node, list[Node]]:  # fmt: skip
    """x [T, B, I], the weights of each direction, states [D, B, H] -> ([T, B, D · H], states)."""
    hidden = known(weights[0][1].type.shape[1])
    if hidden is None:
        raise Unsupported("a hidden size that is not known")
    t, b, i = x.type.shape
    count = len(weights)
    s = Sizes(t, b, i, count, cell.gates, hidden)
    w, r = (_stacked([d[k] for d in weights], cell, hidden) for k in (0, 1))
    bias: Node | None = None
    of_state: Node | None = None
    if len(weights[0]) > 2:
        first, second = (
            in_panels(_stacked([d[k] for d in weights], cell, hidden), s, s.gates) for k in (2, 3)
        )
        bias, of_state = _biases(cell, s, first, second)
    own = {"clip": 0.0}
    if cell is LSTM:
        own["input_forget"] = 0
    elif cell is GRU:
        own["linear_before_reset"] = 1
    operands = [
        (from_inputs(wide(x), w, bias, s), 2),
        (in_panels(r, s, s.gates), 0),
        (None, -1),
        *((wide(n), 0) for n in states),
        *([] if cell is RNN else [(of_state, 0)]),
    ]
    zeros = (0.0,) * len(activations)
    same: dict[str, Attr] = {"activations": activations, "alpha": zeros, "beta": zeros}
    y, *last = steps(cell, tuple(range(count)), [same] * count, operands, **own)
    joined = emit("transpose", y, perm=(0, 2, 1, 3))
    return emit("reshape", joined, shape=(t, b, mul(count, hidden))), last


def _biases(cell: Cell, s: Sizes, first: Node, second: Node) -> tuple[Node, Node | None]:
    """What is added to the products of the inputs, and what the last gate of a GRU, which is reset
    behind the product, adds to that of the state."""
    if cell is not GRU:
        return emit("add", first, second), None
    two = slice_axis(second, 2, ZERO, Const(2))
    pads = tuple(Const(int(k == 6)) for k in range(8))
    padded = emit("pad", two, pads=pads, mode="constant", value=0.0)
    last = slice_axis(second, 2, Const(2), ONE)
    shape = (Const(s.directions), Const(s.panels), Const(PANEL))
    return emit("add", first, padded), emit("reshape", last, shape=shape)


def _recurrent(cell: Cell, activations: tuple[str, ...] | None = None) -> Handler:
    def handler(c: AtenCall) -> Sequence[Node]:
        if "data" in c.args:
            raise Unsupported("a packed sequence", "padded sequences of one length")
        if c.flag("train") and c.float("dropout", 0.0):
            raise Unsupported("dropout between layers", "model.eval()")
        x = swapped(c["input"], c.flag("batch_first"))
        states: list[Node] = items(c.args["hx"]) or [c["hx"]]
        layers, both = c.int("num_layers"), 1 + int(c.flag("bidirectional"))
        params, each = c.tensors("params"), 4 if c.flag("has_biases") else 2
        if len(params) != each * layers * both:
            raise Unsupported("projections (proj_size)", "proj_size=0, and a Linear behind")
        names = activations or tuple(cell.activations)
        lasts: list[list[Node]] = []
        for k in range(layers):
            first = k * both
            mine = [params[(first + d) * each : (first + d + 1) * each] for d in range(both)]
            some = [axis_slice(n, 0, first, first + both) for n in states]
            x, last = _layer(cell, x, mine, some, names)
            lasts.append(last)
        out = [swapped(x, c.flag("batch_first"))]
        for k in range(len(states)):
            parts = [last[k] for last in lasts]
            out += [emit("concat", *parts, axis=0)] if len(parts) > 1 else parts
        if len(out) != len(c.results):
            raise ModelError(f"expected {len(c.results)} results, found {len(out)}")
        return [c.finish(n, k) for k, n in enumerate(out)]

    return handler


_LAYERS: dict[str, Handler] = {
    "gru": _recurrent(GRU),
    "lstm": _recurrent(LSTM),
    "rnn_relu": _recurrent(RNN, ("Relu",)),
    "rnn_tanh": _recurrent(RNN, ("Tanh",)),
}
# As PyTorch has them, and as `torch_export` keeps them whole.
TABLE: dict[str, Handler] = {**_LAYERS, **{f"naru.{name}": fn for name, fn in _LAYERS.items()}}
