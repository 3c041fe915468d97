"""Operators: importing this package fills the registry."""

from naru.ops import (
    cache,
    contraction,
    control,
    elementwise,
    movement,
    norm,
    pooling,
    recurrent,
    reduction,
    shape,
    transposed,
    trigonometry,
)
from naru.ops.evaluate import evaluate

__all__ = [
    "cache",
    "contraction",
    "control",
    "elementwise",
    "evaluate",
    "movement",
    "norm",
    "pooling",
    "recurrent",
    "reduction",
    "shape",
    "transposed",
    "trigonometry",
]
