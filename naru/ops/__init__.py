"""Operators: importing this package fills the registry."""

from naru.ops import (
    contraction,
    control,
    deformed,
    elementwise,
    movement,
    norm,
    pooling,
    recurrent,
    reduction,
    rois,
    sampling,
    shape,
    stored,
    transposed,
    trigonometry,
)
from naru.ops.evaluate import evaluate

__all__ = [
    "contraction",
    "control",
    "deformed",
    "elementwise",
    "evaluate",
    "movement",
    "norm",
    "pooling",
    "recurrent",
    "reduction",
    "rois",
    "sampling",
    "shape",
    "stored",
    "transposed",
    "trigonometry",
]
