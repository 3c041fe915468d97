"""Recurrent layers without what does not recur: `lstm_steps`, `gru_steps`, `rnn_steps`.

What the inputs give a gate (x · W + bias) is one matrix product for all time steps, done before.
An op takes the rest: in each step, what the state gives, the activations, the next state. One or
two directions run at once, each with its own weights.

Hidden units come in panels of 16, padded with zeros, so that all gates of a unit lie together:

    x        [T, B, D, panels, gates, 16]      D directions, T steps, B rows of the batch
    weights  [D, panels, gates, hidden, 16]    of the state
    lengths  i32[B], optional                  steps of a row that count; behind them y is 0
    h0, c0   [D, B, hidden], optional          the first state; zeros where it is left out

Gates are in ONNX's order: i, o, f, c; z, r, h. Attributes of all: `reverse`, whether a direction
runs backwards; `activations` with `alpha` and `beta`, one each; `clip`, a bound of what activations
get (0: none). Results: y [T, D, B, hidden], then the last states [D, B, hidden].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from naru.errors import ModelError
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import index, known
from naru.ops.activations import ACTIVATIONS
from naru.ops.kernel_text import KernelText
from naru.ops.operands import (
    check_equal,
    check_kind,
    check_same_dtype,
    given,
    operand,
    optional,
    shape_text,
)
from naru.ops.recurrent_kernel import (
    PANEL,
    Carried,
    Layer,
    Sum,
    element,
    indent,
    kernel_body,
)
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray
Ref = Callable[[Arrays, Attrs], tuple[Array, ...]]


@dataclass(frozen=True)
class Cell:
    """What the three ops differ in. `states` are the operands with the first states; `extra`: its
    other operands beside x, weights and lengths. `step` computes the next states of one direction
    in numpy, `sums` the same as text; `buffers` are those that a tile needs for it."""

    op: str
    gates: int
    activations: int
    states: tuple[str, ...]
    extra: tuple[str, ...]
    step: Callable[[Step], tuple[Array, ...]]
    sums: Callable[[Text], tuple[Sum, ...]]
    buffers: tuple[str, ...] = ()

    @property
    def operands(self) -> tuple[str, ...]:
        """All beside x, weights and lengths, in order."""
        return (*self.states, *self.extra)


# --- types ----------------------------------------------------------------------------------------


def _infer(cell: Cell, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    name = cell.op
    x, weights = operand(name, types, 0, rank=6), operand(name, types, 1, rank=5)
    check_kind(name, x.dtype, "f")
    check_same_dtype(name, [t for k, t in enumerate(types) if t is not None and k != 2])
    steps, batch, directions, panels, gates, lanes = x.shape
    hidden = weights.shape[3]
    units = known(hidden)
    if units is None or units < 1:
        raise ModelError(f"{name}: the hidden size must be known and at least 1")
    packed = (directions, panels, gates, hidden, lanes)
    fits = known(panels) == -(-units // PANEL) and (known(gates), known(lanes)) == (
        cell.gates,
        PANEL,
    )
    if weights.shape != packed or not fits or known(directions) != len(attrs["reverse"]):
        raise ModelError(
            f"{name}: x {shape_text(x.shape)} and weights {shape_text(weights.shape)} don't fit "
            f"{cell.gates} gates and directions {attrs['reverse']}"
        )
    lengths = optional(types, 2)
    if lengths is not None:
        check_equal(name, "the batch of x and of lengths", batch, lengths.shape[0])
    state = (directions, batch, hidden)
    own = {"peepholes": (directions, panels, index(3), lanes), "bias": (directions, panels, lanes)}
    for k, what in enumerate(cell.operands, 3):
        t, wanted = optional(types, k), own.get(what, state)
        if t is not None and t.shape != wanted:
            raise ModelError(
                f"{name}: {what} is {shape_text(t.shape)}, expected {shape_text(wanted)}"
            )
    last = TensorType(x.dtype, state)
    return (TensorType(x.dtype, (steps, directions, batch, hidden)), *[last] * len(cell.states))


# --- meaning --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step of one direction: x [B, gates, hidden], weights [gates, hidden (of the state),
    hidden], the states before it, and the cell's own operands (None where left out)."""

    attrs: Attrs
    x: Array
    weights: Array
    states: tuple[Array, ...]
    own: Array | None

    def gate(self, k: int, h: Array | None = None) -> Array:
        """What the input and a state (the last one) give gate k."""
        return self.x[:, k] + (self.states[0] if h is None else h) @ self.weights[k]

    def activate(self, k: int, value: Array) -> Array:
        """The layer's activation k of a value, clipped."""
        bound = self.attrs.get("clip", 0.0)
        value = np.clip(value, -bound, bound) if bound else value
        activation = ACTIVATIONS[self.attrs["activations"][k]]
        result = activation.ref(value, self.attrs["alpha"][k], self.attrs["beta"][k])
        return result.astype(value.dtype, copy=False)


def _ref(cell: Cell, arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, weights, lengths = given(arrays), given(arrays, 1), arrays[2]
    steps, batch, hidden = x.shape[0], x.shape[1], weights.shape[3]
    own = dict(zip(cell.operands, arrays[3:], strict=True))
    y = np.zeros((steps, len(attrs["reverse"]), batch, hidden), x.dtype)
    last = np.zeros((len(cell.states), len(attrs["reverse"]), batch, hidden), x.dtype)
    for k, name in enumerate(cell.states):
        last[k] = 0 if own[name] is None else own[name]
    extra = own[cell.extra[0]] if cell.extra else None
    for d, backwards in enumerate(attrs["reverse"]):
        inputs, plain = _units(x[:, :, d], hidden, 2), _units(weights[d], hidden, 0)
        mine = None if extra is None else _units(extra[d], hidden, 0)
        for t in reversed(range(steps)) if backwards else range(steps):
            old = tuple(last[:, d])
            with np.errstate(all="ignore"):
                new = cell.step(Step(attrs, inputs[t], plain, old, mine))
            counts = np.full(batch, True) if lengths is None else t < lengths
            last[:, d] = np.where(counts[:, None], np.stack(new), old)
            y[t, d] = np.where(counts[:, None], new[0], 0)
    return (y, *last)


def _units(a: Array, hidden: int, axis: int) -> Array:
    """Panels at `axis` and lanes at the end joined to hidden units at the end."""
    moved = np.moveaxis(a, axis, -2)
    return moved.reshape(*moved.shape[:-2], moved.shape[-2] * PANEL)[..., :hidden]


# --- kernels --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """What the text of a step is made from: the layer's attributes, and which operands it has."""

    attrs: Attrs
    dtype: str
    hidden: int
    names: dict[str, str | None]

    def activate(self, k: int, x: str) -> str:
        """The layer's activation k of a name, clipped."""
        bound = float(self.attrs.get("clip", 0.0))
        value = f"max(min({x}, {bound}), {-bound})" if bound else x
        activation = ACTIVATIONS[self.attrs["activations"][k]]
        return activation.call(value, self.attrs["alpha"][k], self.attrs["beta"][k])

    def let(self, name: str, value: str) -> str:
        """A line that names a panel's values."""
        return f"{name}: {self.dtype}[{PANEL}] = {value}"

    def finish(self, *after: tuple[str, str]) -> list[str]:
        """The lines that end a step. `after`: buffers of the tile with their next values, the first
        one's being the result; behind a row's length all stay as they were."""
        at, value = f"j:j + {PANEL}", after[0][1]
        ends = self.names["lengths"] is not None
        lines = ["counts: bool = i32(t) < lengths[row + i]"] if ends else []
        for buffer, new in after:
            old = element(buffer, "now", at)
            kept = f"select(counts, {new}, {old})" if ends else new
            lines.append(f"{element(buffer, '1 - now', at)} = {kept}")
        result = f"select(counts, {value}, 0.0)" if ends else value
        place = f"y[t, d, row + i, {at}]"
        if self.hidden % PANEL:
            valid = f"lanes({PANEL}) < splat({self.hidden} - j, {PANEL})"
            return [*lines, f"store({place}, {result}, {valid})"]
        return [*lines, f"{place} = {result}"]


def from_input(gate: int, panel: str) -> str:
    """What the input gives a gate."""
    return f"x[t, row + i, d, {panel}, {gate}, 0:{PANEL}]"


def _opaque(cell: Cell, n: Node, target: Target) -> str:
    """Parameters: the operands that are there, each once, y, the last states, sizes."""
    roles = zip(("x", "weights", "lengths", *cell.operands), n.inputs, strict=True)
    taken: dict[Node, str] = {}
    known_as = {r: None if i is None else taken.setdefault(i, r) for r, i in roles}
    types = {name: i.type for i, name in taken.items()}
    results = dict(zip(("y", "h", "c"), n.types, strict=False))
    steps, batch, *_ = types["x"].shape
    text = Text(dict(n.attrs), n.type.dtype, known(types["weights"].shape[3]) or 1, known_as)
    buffers = zip(("state", "cell"), cell.states, ("h", "c"), strict=False)
    layer = Layer(
        text.dtype,
        tuple(bool(r) for r in text.attrs["reverse"]),
        known(batch),
        text.hidden,
        cell.sums(text),
        tuple(Carried(buffer, known_as[first], last) for buffer, first, last in buffers),
        cell.buffers,
    )
    kernel = KernelText(*types.values(), *results.values())
    head = kernel.head(cell.op, *(kernel.buffer(k, t) for k, t in (types | results).items()))
    body = "\n".join(indent(kernel_body(layer, target)))
    return f"{head}\n{kernel.fill(body, {'T': steps, 'B': batch})}\n"


def _register(cell: Cell, samples: Callable[[], Iterable[Sample]]) -> None:
    register(
        Op(
            cell.op,
            "opaque",
            lambda types, attrs: _infer(cell, types, attrs),
            lambda arrays, attrs: _ref(cell, arrays, attrs),
            opaque=lambda n, target: _opaque(cell, n, target),
            samples=samples,
        )
    )


# --- samples --------------------------------------------------------------------------------------


def _sample(
    cell: Cell,
    steps: int,
    batch: int,
    hidden: int,
    *,
    own: int = 0,
    lengths: tuple[int, ...] | None = None,
    dtype: str = "f32",
    **more: Any,
) -> Sample:
    """A layer of random weights; `own`: operands beside x, weights and lengths, how many from the
    first on."""
    zeros = (0.0,) * cell.activations
    usual = ("Tanh",) if cell is RNN else ("Sigmoid", "Tanh", "Tanh")[: cell.activations]
    attrs = {"reverse": (0,), "activations": usual, "alpha": zeros, "beta": zeros, **more}
    directions, panels = len(attrs["reverse"]), -(-hidden // PANEL)
    state = (directions, batch, hidden)
    shapes = {
        "x": (steps, batch, directions, panels, cell.gates, PANEL),
        "weights": (directions, panels, cell.gates, hidden, PANEL),
        "h0": state,
        "c0": state,
        "peepholes": (directions, panels, 3, PANEL),
        "bias": (directions, panels, PANEL),
    }
    names = ("x", "weights", *cell.operands[:own])
    made = [random(*shapes[k], dtype=dtype, seed=j, scale=0.5) for j, k in enumerate(names)]
    left_out = [None] * (len(cell.operands) - own)
    ends = None if lengths is None else np.array(lengths, np.int32)
    return Sample((*made[:2], ends, *made[2:], *left_out), attrs)


def _shared_samples(cell: Cell) -> Iterable[Sample]:
    """What can go wrong in any cell: sizes, directions, lengths, NaN and infinity."""
    for steps, batch, hidden in (
        (1, 1, 1),
        (3, 3, 5),
        (2, 1, 17),
        (0, 2, 3),
        (2, 0, 3),
        (2, 7, 32),
    ):
        yield _sample(cell, steps, batch, hidden, own=1)
    yield _sample(cell, 3, 2, 40, reverse=(1,))
    yield _sample(cell, 3, 2, 6, own=1, reverse=(0, 1))
    yield _sample(cell, 4, 3, 6, lengths=(4, 0, 2), reverse=(0, 1))
    yield _sample(cell, 3, 2, 6, own=1, lengths=(1, 3), dtype="f64")
    yield _sample(cell, 2, 1, 5, clip=0.25)
    edgy = _sample(cell, 2, 3, 5)
    x = given(edgy.inputs).copy()
    x[0, 0, ..., 0], x[0, 1, ..., 1], x[0, 2, ..., 2] = np.nan, np.inf, -np.inf
    yield Sample((x, *edgy.inputs[1:]), edgy.attrs)


# --- lstm -----------------------------------------------------------------------------------------


def _lstm_step(s: Step) -> tuple[Array, ...]:
    """c' = f·c + i·g, h' = o·tanh(c'); peepholes let i, f see c, and o see c'."""
    c = s.states[1]

    def gate(k: int, peephole: int, cell: Array) -> Array:
        return s.gate(k) if s.own is None else s.gate(k) + s.own[peephole] * cell

    i = s.activate(0, gate(0, 0, c))
    f = 1 - i if s.attrs.get("input_forget") else s.activate(0, gate(2, 2, c))
    new = f * c + i * s.activate(1, s.gate(3))
    o = s.activate(0, gate(1, 1, new))
    return o * s.activate(2, new), new


def _lstm_sums(t: Text) -> tuple[Sum, ...]:
    def gate(k: int, peephole: int, cell: str) -> str:
        own = t.names["peepholes"]
        return f"gate{k} + {own}[d, panel, {peephole}, 0:{PANEL}] * {cell}" if own else f"gate{k}"

    forget = [t.let("sum_f", gate(2, 2, "old")), t.let("f", t.activate(0, "sum_f"))]
    lines = [
        t.let("old", f"cell[i, j:j + {PANEL}]"),
        t.let("sum_i", gate(0, 0, "old")),
        t.let("keep", t.activate(0, "sum_i")),
        *([t.let("f", "1.0 - keep")] if t.attrs.get("input_forget") else forget),
        t.let("new", f"f * old + keep * ({t.activate(1, 'gate3')})"),
        t.let("sum_o", gate(1, 1, "new")),
        t.let("o", t.activate(0, "sum_o")),
        t.let("value", f"o * ({t.activate(2, 'new')})"),
        *t.finish(("state", "value"), ("cell", "new")),
    ]
    return (Sum((0, 1, 2, 3), "state", from_input, lines),)


LSTM = Cell(
    "lstm_steps", 4, 3, ("h0", "c0"), ("peepholes",), _lstm_step, _lstm_sums, buffers=("cell",)
)


def _lstm_samples() -> Iterable[Sample]:
    yield from _shared_samples(LSTM)
    yield _sample(LSTM, 3, 2, 20, own=3)
    yield _sample(LSTM, 3, 2, 4, own=2, input_forget=1)
    names = ("HardSigmoid", "ScaledTanh", "Softsign")
    yield _sample(LSTM, 3, 2, 4, activations=names, alpha=(0.3, 0.8, 0.0), beta=(0.4, 1.5, 0.0))


# --- gru ------------------------------------------------------------------------------------------


def _gru_step(s: Step) -> tuple[Array, ...]:
    """h' = (1 - z)·n + z·h; the reset gate r takes from what n sees of h, before or (linear before
    reset) after its product with the weights."""
    (h,) = s.states
    z, r = s.activate(0, s.gate(0)), s.activate(0, s.gate(1))
    if s.attrs.get("linear_before_reset"):
        seen = h @ s.weights[2] if s.own is None else h @ s.weights[2] + s.own
        n = s.activate(1, s.x[:, 2] + r * seen)
    else:
        n = s.activate(1, s.gate(2, r * h))
    return ((1 - z) * n + z * h,)


def _gru_sums(t: Text) -> tuple[Sum, ...]:
    at = f"j:j + {PANEL}"
    mixed = f"(1.0 - z) * n + z * state[now, i, {at}]"
    if not t.attrs.get("linear_before_reset"):
        first = [
            f"update[i, {at}] = {t.activate(0, 'gate0')}",
            f"reset[i, {at}] = ({t.activate(0, 'gate1')}) * state[now, i, {at}]",
        ]
        second = [
            t.let("z", f"update[i, {at}]"),
            t.let("n", t.activate(1, "gate2")),
            t.let("value", mixed),
            *t.finish(("state", "value")),
        ]
        return (
            Sum((0, 1), "state", from_input, first),
            Sum((2,), "reset", from_input, second),
        )

    def start(gate: int, panel: str) -> str:
        if gate < 2:
            return from_input(gate, panel)
        own = t.names["bias"]
        return f"{own}[d, {panel}, 0:{PANEL}]" if own else f"splat(0.0, {PANEL})"

    lines = [
        t.let("z", t.activate(0, "gate0")),
        t.let("r", t.activate(0, "gate1")),
        t.let("sum_n", f"{from_input(2, 'panel')} + r * gate2"),
        t.let("n", t.activate(1, "sum_n")),
        t.let("value", mixed),
        *t.finish(("state", "value")),
    ]
    return (Sum((0, 1, 2), "state", start, lines),)


GRU = Cell("gru_steps", 3, 2, ("h0",), ("bias",), _gru_step, _gru_sums, buffers=("update", "reset"))


def _gru_samples() -> Iterable[Sample]:
    yield from _shared_samples(GRU)
    for own in (0, 2):
        yield _sample(GRU, 3, 2, 20, own=own, linear_before_reset=1)
    yield _sample(GRU, 2, 7, 36, own=2, linear_before_reset=1, reverse=(0, 1))


# --- rnn ------------------------------------------------------------------------------------------


def _rnn_step(s: Step) -> tuple[Array, ...]:
    """h' = f(what input and state give)."""
    return (s.activate(0, s.gate(0)),)


def _rnn_sums(t: Text) -> tuple[Sum, ...]:
    lines = [t.let("value", t.activate(0, "gate0")), *t.finish(("state", "value"))]
    return (Sum((0,), "state", from_input, lines),)


RNN = Cell("rnn_steps", 1, 1, ("h0",), (), _rnn_step, _rnn_sums)


def _rnn_samples() -> Iterable[Sample]:
    yield from _shared_samples(RNN)
    for name, a in ACTIVATIONS.items():
        alpha, beta = (a.alpha or 0.0,), (a.beta or 0.0,)
        yield _sample(RNN, 3, 2, 5, activations=(name,), alpha=alpha, beta=beta)


_register(LSTM, _lstm_samples)
_register(GRU, _gru_samples)
_register(RNN, _rnn_samples)
