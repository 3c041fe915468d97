"""Recurrent layers without what does not recur: `lstm_steps`, `gru_steps`, `rnn_steps`.

What the inputs give a gate (x · W + bias) is one matrix product for all time steps, done before.
An op takes the rest: in each step, what the state gives, the activations, the next state. One or
two directions run at once, each with its own weights.

Hidden units come in panels of 16, padded with zeros, so that all gates of a unit lie together:

    x        [T, B, D, panels, gates, 16]      D directions, T steps, B rows of the batch
    weights  [D, panels, gates, hidden, 16]    of the state; of f32 also as bf16
    lengths  i32[B], optional                  steps of a row that count; behind them y is 0
    h0, c0   [D, B, hidden], optional          the first state; zeros where it is left out

Gates are in ONNX's order: i, o, f, c; z, r, h. Attributes of all: `reverse`, whether a direction
runs backwards; `activations` with `alpha` and `beta`, one each; `clip`, a bound of what activations
get of a gate (0: none). Results: y [T, D, B, hidden], then the last states [D, B, hidden].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import index, known, mul, prod
from naru.ops.activations import ACTIVATIONS
from naru.ops.kernel_text import KernelText, indent
from naru.ops.operands import (
    check_equal,
    check_kind,
    check_same_dtype,
    given,
    operand,
    optional,
    shape_text,
)
from naru.ops.recurrent_cells import GRU, LSTM, RNN, Cell, Step, Text
from naru.ops.recurrent_kernel import PANEL, Carried, Layer, kernel_body
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray


# --- types ----------------------------------------------------------------------------------------


def _infer(cell: Cell, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    name = cell.op
    x, weights = operand(name, types, 0, rank=6), operand(name, types, 1, rank=5)
    check_kind(name, x.dtype, "f")
    narrow = (x.dtype, weights.dtype) == ("f32", "bf16")
    apart = (1, 2) if narrow else (2,)
    check_same_dtype(name, [t for k, t in enumerate(types) if t is not None and k not in apart])
    steps, batch, directions, panels, gates, lanes = x.shape
    hidden = weights.shape[3]
    units = known(hidden)
    if units is None or units < 1:
        raise ModelError(f"{name}: the hidden size must be known and at least 1")
    packed = (directions, panels, gates, hidden, lanes)
    expected = (len(attrs["reverse"]), -(-units // PANEL), cell.gates, PANEL)
    if weights.shape != packed or tuple(map(known, x.shape[2:])) != expected:
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
        inputs = _units(x[:, :, d], hidden, 2)
        plain = _units(weights[d].astype(x.dtype), hidden, 0)
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
        lengths=known_as["lengths"] is not None,
        weights=types["weights"].dtype,
    )
    kernel = KernelText(*types.values(), *results.values())
    head = kernel.head(cell.op, *(kernel.buffer(k, t) for k, t in (types | results).items()))
    body = "\n".join(indent(kernel_body(layer, target)))
    return f"{head}\n{kernel.fill(body, {'T': steps, 'B': batch})}\n"


def _flops(n: Node) -> Expr:
    """Multiply-adds with the weights count twice; the rest is little."""
    x, weights = given(n.inputs).type, given(n.inputs, 1).type
    return mul(2, x.shape[0], x.shape[1], prod(weights.shape))


def _register(cell: Cell, samples: Callable[[], Iterable[Sample]]) -> None:
    register(
        Op(
            cell.op,
            "opaque",
            lambda types, attrs: _infer(cell, types, attrs),
            lambda arrays, attrs: _ref(cell, arrays, attrs),
            opaque=lambda n, target: _opaque(cell, n, target),
            flops=_flops,
            samples=samples,
            rows=((1, None, 0, 1, 1), (2, 1, 1)),
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
    narrow: bool = False,
    **more: Any,
) -> Sample:
    """A layer of random weights; `own`: operands beside x, weights and lengths, how many from the
    first on."""
    zeros = (0.0,) * len(cell.activations)
    usual = {"activations": cell.activations, "alpha": zeros, "beta": zeros}
    attrs = {"reverse": (0,), **usual, **more}
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
    kept = {"weights": "bf16"} if narrow else {}
    made = [
        random(*shapes[k], dtype=kept.get(k, dtype), seed=j, scale=0.5) for j, k in enumerate(names)
    ]
    left_out = [None] * (len(cell.operands) - own)
    ends = None if lengths is None else np.array(lengths, np.int32)
    return Sample((*made[:2], ends, *made[2:], *left_out), attrs)


def _shared_samples(cell: Cell) -> Iterable[Sample]:
    """What can go wrong in any cell: sizes, directions, lengths, NaN and infinity."""
    sizes = ((1, 1, 1), (3, 3, 5), (2, 1, 17), (0, 2, 3), (2, 0, 3), (2, 7, 32))
    for steps, batch, hidden in sizes:
        yield _sample(cell, steps, batch, hidden, own=1)
    yield _sample(cell, 3, 2, 40, reverse=(1,))
    yield _sample(cell, 3, 2, 6, own=1, reverse=(0, 1))
    yield _sample(cell, 4, 3, 6, lengths=(4, 0, 2), reverse=(0, 1))
    yield _sample(cell, 3, 2, 6, own=1, lengths=(1, 3), dtype="f64")
    yield _sample(cell, 2, 1, 5, clip=0.25)
    for batch in (1, 3):
        yield _sample(cell, 3, batch, 21, own=1, narrow=True)
    edgy = _sample(cell, 2, 3, 5)
    x = given(edgy.inputs).copy()
    x[0, 0, ..., 0], x[0, 1, ..., 1], x[0, 2, ..., 2] = np.nan, np.inf, -np.inf
    yield Sample((x, *edgy.inputs[1:]), edgy.attrs)


def _lstm_samples() -> Iterable[Sample]:
    yield from _shared_samples(LSTM)
    yield _sample(LSTM, 3, 2, 20, own=3)
    yield _sample(LSTM, 3, 2, 4, own=2, input_forget=1)
    names = ("HardSigmoid", "ScaledTanh", "Softsign")
    yield _sample(LSTM, 3, 2, 4, activations=names, alpha=(0.3, 0.8, 0.0), beta=(0.4, 1.5, 0.0))


def _gru_samples() -> Iterable[Sample]:
    yield from _shared_samples(GRU)
    for own in (0, 2):
        yield _sample(GRU, 3, 2, 20, own=own, linear_before_reset=1)
    yield _sample(GRU, 2, 7, 36, own=2, linear_before_reset=1, reverse=(0, 1))


def _rnn_samples() -> Iterable[Sample]:
    yield from _shared_samples(RNN)
    for name, a in ACTIVATIONS.items():
        alpha, beta = (a.alpha or 0.0,), (a.beta or 0.0,)
        yield _sample(RNN, 3, 2, 5, activations=(name,), alpha=alpha, beta=beta)


_register(LSTM, _lstm_samples)
_register(GRU, _gru_samples)
_register(RNN, _rnn_samples)
