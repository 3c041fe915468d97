"""Operators: importing this package fills the registry."""

from naru.ops import (
    boxes,
    contraction,
    control,
    elementwise,
    movement,
    norm,
    pooling,
    recurrent,
    reduction,
    scatter,
    shape,
    sorting,
    transposed,
    trigonometry,
)
from naru.ops.evaluate import evaluate

__all__ = [
    "boxes",
    "contraction",
    "control",
    "elementwise",
    "evaluate",
    "movement",
    "norm",
    "pooling",
    "recurrent",
    "reduction",
    "scatter",
    "shape",
    "sorting",
    "transposed",
    "trigonometry",
]
