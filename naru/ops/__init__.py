"""Operators: importing this package fills the registry."""

from naru.ops import (
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
    trees,
    trigonometry,
)
from naru.ops.evaluate import evaluate

__all__ = [
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
    "trees",
    "trigonometry",
]
