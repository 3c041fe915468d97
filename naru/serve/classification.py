"""The classification extension: the best classes of an output, as texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naru.serve.refusals import INVALID, Refusal

Array = NDArray[Any]


def classify(array: Array, classes: int, labels: Sequence[str] = ()) -> Array:
    """Of scores[..., C] the best as texts[..., min(classes, C)], each `score:class` or
    `score:class:label`, the best first and of equals the first (Triton's classification
    extension). Raises a Refusal for what is no scores."""
    if array.ndim == 0 or array.dtype.kind not in "fiuV":
        raise Refusal(INVALID, "classification: the output is no list of scores of classes")
    scores = array.astype(np.float64)
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :classes]
    best = np.take_along_axis(scores, order, -1)
    texts = np.empty(order.shape, object)
    pairs = zip(best.ravel().tolist(), order.ravel().tolist(), strict=True)
    texts.reshape(-1)[:] = [
        f"{score:f}:{k}:{labels[k]}" if k < len(labels) else f"{score:f}:{k}" for score, k in pairs
    ]
    return texts
