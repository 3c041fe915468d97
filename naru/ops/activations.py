"""Activation functions of recurrent layers: as text of loop IR, and in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Activation:
    """`text`: over x (a name), a (alpha) and b (beta). `alpha`, `beta`: what holds where a model
    does not give them; None where the function has none."""

    text: str
    ref: Callable[[Array, float, float], Array]
    alpha: float | None = None
    beta: float | None = None

    def call(self, x: str, alpha: float, beta: float) -> str:
        """The text of its value at x."""
        return self.text.format(x=x, a=alpha, b=beta)


def _elu(x: Array, a: float, b: float) -> Array:
    return np.where(x < 0, a * (np.exp(x) - 1), x)


ACTIVATIONS = {
    "Affine": Activation("{a} * {x} + {b}", lambda x, a, b: a * x + b, 1.0, 0.0),
    "Elu": Activation("select({x} < 0.0, {a} * (exp({x}) - 1.0), {x})", _elu, 1.0),
    "HardSigmoid": Activation(
        "min(max({a} * {x} + {b}, 0.0), 1.0)", lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5
    ),
    "LeakyRelu": Activation(
        "select({x} < 0.0, {a} * {x}, {x})", lambda x, a, b: np.where(x < 0, a * x, x), 0.01
    ),
    "Relu": Activation("max({x}, 0.0)", lambda x, a, b: np.maximum(x, 0)),
    "ScaledTanh": Activation("{a} * tanh({b} * {x})", lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "Sigmoid": Activation("1.0 / (1.0 + exp(-{x}))", lambda x, a, b: 1 / (1 + np.exp(-x))),
    "Softplus": Activation(
        "max({x}, 0.0) + log(1.0 + exp(-abs({x})))", lambda x, a, b: np.logaddexp(x, 0)
    ),
    "Softsign": Activation("{x} / (1.0 + abs({x}))", lambda x, a, b: x / (1 + np.abs(x))),
    "Tanh": Activation("tanh({x})", lambda x, a, b: np.tanh(x)),
    "ThresholdedRelu": Activation(
        "select({x} >= {a}, {x}, 0.0)", lambda x, a, b: np.where(x >= a, x, 0), 1.0
    ),
}
