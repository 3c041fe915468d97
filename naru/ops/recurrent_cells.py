"""The cells of recurrent layers: one step of an LSTM, a GRU and a plain recurrent layer, in numpy
and as text of a kernel. See recurrent.py for the operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from naru.ops.activations import ACTIVATIONS
from naru.ops.recurrent_kernel import PANEL, Sum, element
from naru.ops.registry import Attrs

Array = np.ndarray


@dataclass(frozen=True)
class Step:
    """One step of one direction: x [B, gates, hidden], weights [gates, hidden (of the state),
    hidden], the states before it, and the cell's own operands (None where left out)."""

    attrs: Attrs
    x: Array
    weights: Array
    states: tuple[Array, ...]
    own: Array | None

    def total(self, k: int, h: Array | None = None) -> Array:
        """What the input and a state (the last one) give gate k."""
        return self.x[:, k] + (self.states[0] if h is None else h) @ self.weights[k]

    def activate(self, k: int, value: Array) -> Array:
        """The layer's activation k of a value."""
        activation = ACTIVATIONS[self.attrs["activations"][k]]
        result = activation.ref(value, self.attrs["alpha"][k], self.attrs["beta"][k])
        return result.astype(value.dtype, copy=False)

    def gate(self, k: int, total: Array) -> Array:
        """The layer's activation k of a gate, clipped."""
        bound = self.attrs.get("clip", 0.0)
        return self.activate(k, np.clip(total, -bound, bound) if bound else total)


@dataclass(frozen=True)
class Text:
    """What the text of a step is made from: the layer's attributes, and which operands it has."""

    attrs: Attrs
    dtype: str
    hidden: int
    names: dict[str, str | None]

    def activate(self, k: int, x: str) -> str:
        """The layer's activation k of a name."""
        activation = ACTIVATIONS[self.attrs["activations"][k]]
        return activation.call(x, self.attrs["alpha"][k], self.attrs["beta"][k])

    def gate(self, k: int, x: str) -> str:
        """The layer's activation k of a gate, clipped."""
        bound = float(self.attrs.get("clip", 0.0))
        return self.activate(k, f"max(min({x}, {bound}), {-bound})" if bound else x)

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


@dataclass(frozen=True)
class Cell:
    """What the three ops differ in. `activations` are those of a model that names none; `states`
    the operands with the first states; `extra` the others beside x, weights and lengths. `step`
    computes the next states of one direction in numpy, `sums` the same as text; `buffers` are those
    that a tile needs for it."""

    op: str
    gates: int
    activations: tuple[str, ...]
    states: tuple[str, ...]
    extra: tuple[str, ...]
    step: Callable[[Step], tuple[Array, ...]]
    sums: Callable[[Text], tuple[Sum, ...]]
    buffers: tuple[str, ...] = ()

    @property
    def operands(self) -> tuple[str, ...]:
        """All beside x, weights and lengths, in order."""
        return (*self.states, *self.extra)


# --- lstm -----------------------------------------------------------------------------------------


def _lstm_step(s: Step) -> tuple[Array, ...]:
    """c' = f·c + i·g, h' = o·tanh(c'); peepholes let i, f see c, and o see c'."""
    c = s.states[1]

    def gate(k: int, peephole: int, cell: Array) -> Array:
        return s.total(k) if s.own is None else s.total(k) + s.own[peephole] * cell

    i = s.gate(0, gate(0, 0, c))
    f = 1 - i if s.attrs.get("input_forget") else s.gate(0, gate(2, 2, c))
    new = f * c + i * s.gate(1, s.total(3))
    o = s.gate(0, gate(1, 1, new))
    return o * s.activate(2, new), new


def _lstm_sums(t: Text) -> tuple[Sum, ...]:
    def gate(k: int, peephole: int, cell: str) -> str:
        own = t.names["peepholes"]
        return f"gate{k} + {own}[d, panel, {peephole}, 0:{PANEL}] * {cell}" if own else f"gate{k}"

    forget = [t.let("sum_f", gate(2, 2, "old")), t.let("f", t.gate(0, "sum_f"))]
    lines = [
        t.let("old", f"cell[i, j:j + {PANEL}]"),
        t.let("sum_i", gate(0, 0, "old")),
        t.let("keep", t.gate(0, "sum_i")),
        *([t.let("f", "1.0 - keep")] if t.attrs.get("input_forget") else forget),
        t.let("new", f"f * old + keep * ({t.gate(1, 'gate3')})"),
        t.let("sum_o", gate(1, 1, "new")),
        t.let("o", t.gate(0, "sum_o")),
        t.let("value", f"o * ({t.activate(2, 'new')})"),
        *t.finish(("state", "value"), ("cell", "new")),
    ]
    return (Sum((0, 1, 2, 3), "state", from_input, lines),)


LSTM = Cell(
    "lstm_steps",
    4,
    ("Sigmoid", "Tanh", "Tanh"),
    ("h0", "c0"),
    ("peepholes",),
    _lstm_step,
    _lstm_sums,
    buffers=("cell",),
)


# --- gru ------------------------------------------------------------------------------------------


def _gru_step(s: Step) -> tuple[Array, ...]:
    """h' = (1 - z)·n + z·h; the reset gate r takes from what n sees of h, before or (linear before
    reset) after its product with the weights."""
    (h,) = s.states
    z, r = s.gate(0, s.total(0)), s.gate(0, s.total(1))
    if s.attrs.get("linear_before_reset"):
        seen = h @ s.weights[2] if s.own is None else h @ s.weights[2] + s.own
        n = s.gate(1, s.x[:, 2] + r * seen)
    else:
        n = s.gate(1, s.total(2, r * h))
    return ((1 - z) * n + z * h,)


def _gru_sums(t: Text) -> tuple[Sum, ...]:
    at = f"j:j + {PANEL}"
    mixed = f"(1.0 - z) * n + z * state[now, i, {at}]"
    if not t.attrs.get("linear_before_reset"):
        first = [
            f"update[i, {at}] = {t.gate(0, 'gate0')}",
            f"reset[i, {at}] = ({t.gate(0, 'gate1')}) * state[now, i, {at}]",
        ]
        second = [
            t.let("z", f"update[i, {at}]"),
            t.let("n", t.gate(1, "gate2")),
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
        t.let("z", t.gate(0, "gate0")),
        t.let("r", t.gate(0, "gate1")),
        t.let("sum_n", f"{from_input(2, 'panel')} + r * gate2"),
        t.let("n", t.gate(1, "sum_n")),
        t.let("value", mixed),
        *t.finish(("state", "value")),
    ]
    return (Sum((0, 1, 2), "state", start, lines),)


GRU = Cell(
    "gru_steps",
    3,
    ("Sigmoid", "Tanh"),
    ("h0",),
    ("bias",),
    _gru_step,
    _gru_sums,
    buffers=("update", "reset"),
)


# --- rnn ------------------------------------------------------------------------------------------


def _rnn_step(s: Step) -> tuple[Array, ...]:
    """h' = f(what input and state give)."""
    return (s.gate(0, s.total(0)),)


def _rnn_sums(t: Text) -> tuple[Sum, ...]:
    lines = [t.let("value", t.gate(0, "gate0")), *t.finish(("state", "value"))]
    return (Sum((0,), "state", from_input, lines),)


RNN = Cell("rnn_steps", 1, ("Tanh",), ("h0",), (), _rnn_step, _rnn_sums)
