"""LSTM, GRU and RNN: directions, optional operands, lengths, activations, unusual sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .build import Maker, add_text, weight

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RESULTS = {"LSTM": ("y", "h", "c"), "GRU": ("y", "h"), "RNN": ("y", "h")}
SIZES = ({"t": 1, "n": 1}, {"t": 5, "n": 3})


def lengths_of(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Steps that count: at least one, as ONNX Runtime wants, at most four."""
    return rng.integers(1, 5, shape).astype(np.int32)


def layer(
    name: str,
    op: str,
    attributes: str = "",
    *,
    hidden: int = 6,
    directions: int = 1,
    operands: Sequence[str] = ("b",),
    computed: Sequence[str] = (),
    opset: int = 17,
    sizes: Sequence[Mapping[str, int]] = SIZES,
) -> None:
    """Adds a case of one layer over x [t, n, 5]. `operands`: the optional ones it has; `computed`:
    those that are inputs of the model, and not weights."""
    gates, d = GATES[op], directions
    shapes = {
        "w": (d, gates * hidden, 5),
        "r": (d, gates * hidden, hidden),
        "b": (d, 2 * gates * hidden),
        "lengths": ("n",),
        "h0": (d, "n", hidden),
        "c0": (d, "n", hidden),
        "p": (d, 3 * hidden),
    }
    all_of_them = ("b", "lengths", "h0", "c0", "p") if op == "LSTM" else ("b", "lengths", "h0")
    used = ["x", "w", "r", *(k if k in operands else '""' for k in all_of_them)]
    given = [k for k in ("lengths", "h0", "c0", *computed) if k in used]
    inputs = ["float[t,n,5] x"]
    for k in given:
        dims = ",".join(map(str, shapes[k]))
        inputs.append(f"{'int32' if k == 'lengths' else 'float'}[{dims}] {k}")
    state = f"float[{d},n,{hidden}]"
    outputs = [f"float[t,{d},n,{hidden}] y", *(f"{state} {k}" for k in RESULTS[op][1:])]
    direction = ' , direction = "bidirectional"' if d == 2 else ""
    settings = f"hidden_size = {hidden}{direction}{', ' if attributes else ''}{attributes}"
    values: dict[str, Maker] = {"lengths": lengths_of} if "lengths" in given else {}
    weights = {k: weight(*shapes[k]) for k in used if k in shapes and k not in given}  # type: ignore[arg-type]
    add_text(
        name,
        f"({', '.join(inputs)}) => ({', '.join(outputs)}) "
        f"{{ {', '.join(RESULTS[op])} = {op} <{settings}> ({', '.join(used)}) }}",
        weights,
        opset=opset,
        sizes=({"t": 5, "n": 3},) if "lengths" in given else sizes,
        values=values,
        tolerance=1e-5,
    )


EVERYTHING = ("b", "lengths", "h0", "c0", "p")
REVERSE = 'direction = "reverse"'
layer("lstm_bidirectional", "LSTM", directions=2, sizes=(*SIZES, {"t": 7, "n": 9}))
layer("lstm_initial_state", "LSTM", operands=("h0", "c0"), opset=7)
layer("lstm_everything", "LSTM", "clip = 0.4, input_forget = 1", operands=EVERYTHING, directions=2)
layer("lstm_reverse_lengths", "LSTM", REVERSE, operands=EVERYTHING, hidden=17)
layer(
    "lstm_activations",
    "LSTM",
    'activations = ["Sigmoid", "ScaledTanh", "LeakyRelu", "HardSigmoid", "Elu", "Affine"], '
    "activation_alpha = [1.1, 0.2, 0.3, 0.4, 0.5], activation_beta = [0.6, 0.7, 0.8]",
    operands=EVERYTHING,
    directions=2,
)
layer("lstm_computed_weights", "LSTM", computed=("w", "r", "b", "p"), operands=("b", "p"))
layer("lstm_wide", "LSTM", hidden=96, opset=22)
for before in (0, 1):
    linear = f"linear_before_reset = {before}"
    layer(f"gru_linear_before_reset_{before}", "GRU", linear, opset=14)
    layer(f"gru_wide_{before}", "GRU", linear, hidden=80, directions=2, operands=("b", "h0"))
    everything = f"{linear}, clip = 0.5, {REVERSE}"
    layer(f"gru_lengths_{before}", "GRU", everything, operands=("lengths", "h0"), hidden=17)
    layer(
        f"gru_activations_{before}",
        "GRU",
        f'{linear}, activations = ["Sigmoid", "Tanh", "HardSigmoid", "Softsign"]',
        directions=2,
        computed=("r", "b"),
    )
layer("rnn_reverse", "RNN", REVERSE, operands=())
layer("rnn_wide", "RNN", 'activations = ["Relu"]', hidden=150, operands=("b", "h0"), opset=7)
layer("rnn_lengths", "RNN", operands=("b", "lengths", "h0"), directions=2, hidden=1)
