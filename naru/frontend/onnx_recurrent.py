"""ONNX recurrent layers: one matrix product for what the inputs give at all time steps, then the
steps (`naru.ops.recurrent`). Constant weights become constants in the form that the steps read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from naru.errors import ModelError
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import OnnxNode, Unsupported, emit
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Const, Expr
from naru.ir.graph import Attr, Node, get_output
from naru.ir.simplify import ONE, ZERO, known
from naru.ops.activations import ACTIVATIONS
from naru.ops.operands import check_equal, compute_dtype, shape_text
from naru.ops.recurrent import GRU, LSTM, PANEL, RNN, Cell

DIRECTIONS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}


@dataclass(frozen=True)
class Sizes:
    """Of a layer; the batch and the number of steps may be symbols."""

    steps: Expr
    batch: Expr
    inputs: Expr
    directions: int
    gates: int
    hidden: int

    @property
    def panels(self) -> int:
        """Of 16 hidden units each, the last one padded."""
        return -(-self.hidden // PANEL)


# --- attributes -----------------------------------------------------------------------------------


def read_activations(c: OnnxNode, cell: Cell, directions: int) -> list[dict[str, Attr]]:
    """The attributes `activations`, `alpha` and `beta` of each direction. ONNX lists functions one
    direction after the other, and parameters in the order of the functions that have one."""
    count = len(cell.activations)
    names = c.get_strs("activations") or cell.activations * directions
    if len(names) != count * directions:
        raise ModelError(
            f"attribute 'activations': expected {count * directions}, {count} a direction, "
            f"found {len(names)}"
        )
    spelled = {name.lower(): name for name in ACTIVATIONS}
    wrong = [name for name in names if name.lower() not in spelled]
    if wrong:
        known_ones = ", ".join(ACTIVATIONS)
        raise ModelError(f"attribute 'activations': expected {known_ones}, found {wrong[0]!r}")
    exact = [spelled[name.lower()] for name in names]
    alpha = _parameters(c.get_floats("activation_alpha"), [ACTIVATIONS[k].alpha for k in exact])
    beta = _parameters(c.get_floats("activation_beta"), [ACTIVATIONS[k].beta for k in exact])
    parts = [slice(d * count, (d + 1) * count) for d in range(directions)]
    return [{"activations": tuple(exact[p]), "alpha": alpha[p], "beta": beta[p]} for p in parts]


def _parameters(given: Sequence[float], usual: Sequence[float | None]) -> tuple[float, ...]:
    """One a function: the next one given where it has a parameter, or its usual value."""
    rest = iter(given)
    return tuple(0.0 if value is None else next(rest, value) for value in usual)


def read_sizes(c: OnnxNode, cell: Cell) -> Sizes:
    """Sizes that operands and attributes agree on."""
    if c.version < 7:
        raise Unsupported(f"{c.op} before opset 7")
    x, r = c[0].type, c[2].type
    for t, what in ((x, "X"), (r, "R")):
        if t.rank != 3:
            raise ModelError(f"{what}: expected rank 3, found {shape_text(t.shape)}")
    hidden = known(r.shape[2])
    if hidden is None:
        raise Unsupported(
            "its hidden size is known only at run time", "give R a fixed shape in the model"
        )
    if c.get_int("hidden_size", hidden) != hidden or not hidden:
        raise ModelError(
            f"attribute 'hidden_size': expected {hidden}, as R {shape_text(r.shape)} has it, "
            f"found {c.get_int('hidden_size', hidden)}"
        )
    steps, batch = x.shape[:2]
    if c.get_flag("layout", False):
        steps, batch = batch, steps
    directions = len(read_direction(c))
    s = Sizes(steps, batch, x.shape[2], directions, cell.gates, hidden)
    expect("W", c[1], directions, cell.gates * hidden, x.shape[2])
    expect("R", c[2], directions, cell.gates * hidden, hidden)
    return s


def read_direction(c: OnnxNode) -> tuple[int, ...]:
    """For each direction, whether it runs backwards."""
    return DIRECTIONS[c.get_str("direction", "forward", tuple(DIRECTIONS))]


# --- operands -------------------------------------------------------------------------------------


def expect(what: str, n: Node | None, *shape: Expr | int) -> Node | None:
    """The operand, whose shape must be this one; None where it is left out."""
    wanted = tuple(Const(d) if isinstance(d, int) else d for d in shape)
    if n is None:
        return None
    if n.type.rank != len(wanted):
        raise ModelError(f"{what}: expected {shape_text(wanted)}, found {shape_text(n.type.shape)}")
    for k, (a, b) in enumerate(zip(n.type.shape, wanted, strict=True)):
        check_equal(what, f"dim {k} and what other operands say", a, b)
    return n


def in_panels(n: Node, s: Sizes, gates: int) -> Node:
    """[D, gates · hidden, …] as [D, panels, gates, …, 16], padded with zeros."""
    behind = n.type.shape[2:]
    split = emit("reshape", n, shape=(Const(s.directions), Const(gates), Const(s.hidden), *behind))
    missing, rank = s.panels * PANEL - s.hidden, split.type.rank
    if missing:
        pads = tuple(Const(missing if k == rank + 2 else 0) for k in range(2 * rank))
        split = emit("pad", split, pads=pads, mode="constant", value=0.0)
    shape = (Const(s.directions), Const(gates), Const(s.panels), Const(PANEL), *behind)
    lanes_last = (0, 2, 1, *range(4, len(shape)), 3)
    return emit("transpose", emit("reshape", split, shape=shape), perm=lanes_last)


def from_inputs(x: Node, w: Node, bias: Node | None, s: Sizes) -> Node:
    """x · W + bias as [T, B, D, panels, gates, 16]; x [T, B, I], W [D, gates · hidden, I], bias
    [D, panels, gates, 16]."""
    columns = Const(s.directions * s.panels * s.gates * PANEL)
    packed = in_panels(w, s, s.gates)  # [D, panels, gates, I, 16]
    inputs_first = emit("transpose", packed, perm=(3, 0, 1, 2, 4))
    out = emit("matmul", x, emit("reshape", inputs_first, shape=(s.inputs, columns)))
    if bias is not None:
        out = emit("add", out, emit("reshape", bias, shape=(columns,)))
    units = (Const(s.directions), Const(s.panels), Const(s.gates), Const(PANEL))
    return emit("reshape", out, shape=(s.steps, s.batch, *units))


def both_biases(c: OnnxNode, s: Sizes) -> tuple[Node, Node] | None:
    """Those of the inputs and of the state in panels, of an operand [D, 2 · gates · hidden]."""
    size = s.gates * s.hidden
    both = expect("B", c.find(3), s.directions, 2 * size)
    if both is None:
        return None
    parts = [slice_axis(wide(both), 1, Const(k * size), Const(size)) for k in range(2)]
    return in_panels(parts[0], s, s.gates), in_panels(parts[1], s, s.gates)


def wide(n: Node) -> Node:
    """Half floats are computed in f32."""
    return emit("cast", n, to=compute_dtype(n.type.dtype))


def swapped(n: Node, batch_first: bool) -> Node:
    """The batch in dim 1 instead of dim 0, or the other way round."""
    return emit("transpose", n, perm=(1, 0, 2)) if batch_first else n


# --- layers ---------------------------------------------------------------------------------------


def steps(
    cell: Cell,
    reverse: tuple[int, ...],
    activations: Sequence[dict[str, Attr]],
    operands: Sequence[tuple[Node | None, int]],
    **own: Attr,
) -> list[Node]:
    """The results of a layer. `operands`: each with its axis of directions (-1: none). Directions
    with activations of their own become layers of one direction."""
    if all(a == activations[0] for a in activations):
        n = emit(cell.op, *(x for x, _ in operands), reverse=reverse, **activations[0], **own)
        return [get_output(n, k) for k in range(len(n.types))]
    parts: list[list[Node]] = []
    for d, mine in enumerate(activations):
        some = [
            (x if x is None or axis < 0 else slice_axis(x, axis, Const(d), ONE), axis)
            for x, axis in operands
        ]
        parts.append(steps(cell, (reverse[d],), [mine], some, **own))
    axes = (1, 0, 0)
    return [
        emit("concat", *p, axis=a) for p, a in zip(zip(*parts, strict=True), axes, strict=False)
    ]


def layer(
    c: OnnxNode, cell: Cell, s: Sizes, bias: Node | None, extra: Sequence[Node | None], **own: Attr
) -> list[Node]:
    """Y, Y_h and, of an LSTM, Y_c. `bias`: of the gates, in panels; `extra`: operands that only
    this cell has."""
    batch_first = c.get_flag("layout", False)
    lengths = expect("sequence_lens", c.find(4), s.batch)
    states: list[Node | None] = []
    for k, name in enumerate(("initial_h", "initial_c")[: len(cell.states)], 5):
        first = c.find(k)
        first = None if first is None else wide(swapped(first, batch_first))
        states.append(expect(name, first, s.directions, s.batch, s.hidden))
    operands = [
        (from_inputs(wide(swapped(c[0], batch_first)), wide(c[1]), bias, s), 2),
        (in_panels(wide(c[2]), s, s.gates), 0),
        (lengths, -1),
        *((n, 0) for n in (*states, *extra)),
    ]
    activations = read_activations(c, cell, s.directions)
    own["clip"] = c.get_float("clip", 0.0)
    y, *last = steps(cell, read_direction(c), activations, operands, **own)
    if batch_first:
        y = emit("transpose", y, perm=(2, 0, 1, 3))
    results = (y, *(swapped(n, batch_first) for n in last))
    return [emit("cast", n, to=c[0].type.dtype) for n in results]


def lstm(c: OnnxNode) -> list[Node]:
    """Operands X, W, R, B, sequence_lens, initial_h, initial_c, P; see the standard."""
    s = read_sizes(c, LSTM)
    bias = both_biases(c, s)
    peepholes = expect("P", c.find(7), s.directions, 3 * s.hidden)
    extra = None if peepholes is None else in_panels(wide(peepholes), s, 3)
    input_forget = c.get_int("input_forget", 0)
    return layer(
        c, LSTM, s, None if bias is None else emit("add", *bias), [extra], input_forget=input_forget
    )


def gru(c: OnnxNode) -> list[Node]:
    """Operands X, W, R, B, sequence_lens, initial_h. Where the reset gate comes after the product,
    it takes from the state's bias of the last gate too, which then is an operand of its own."""
    s = read_sizes(c, GRU)
    bias, after = both_biases(c, s), c.get_flag("linear_before_reset", False)
    if bias is None:
        return layer(c, GRU, s, None, [None], linear_before_reset=int(after))
    if not after:
        return layer(c, GRU, s, emit("add", *bias), [None], linear_before_reset=0)
    of_input, of_hidden = bias
    two = slice_axis(of_hidden, 2, ZERO, Const(2))
    pads = tuple(Const(int(k == 6)) for k in range(8))
    padded = emit("pad", two, pads=pads, mode="constant", value=0.0)
    last = slice_axis(of_hidden, 2, Const(2), ONE)
    shape = (Const(s.directions), Const(s.panels), Const(PANEL))
    return layer(
        c,
        GRU,
        s,
        emit("add", of_input, padded),
        [emit("reshape", last, shape=shape)],
        linear_before_reset=1,
    )


def rnn(c: OnnxNode) -> list[Node]:
    """Operands X, W, R, B, sequence_lens, initial_h."""
    s = read_sizes(c, RNN)
    bias = both_biases(c, s)
    return layer(c, RNN, s, None if bias is None else emit("add", *bias), [])


TABLE: dict[str, Handler] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
