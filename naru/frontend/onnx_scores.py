"""What classifiers and regressors of ai.onnx.ml do with raw scores [N, C]: transforms, a second
class of binary models, labels.

The standard says little of this; it is done as ONNX Runtime does it, in f32 wherever a function is
applied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode, as_dtype, emit, scalar
from naru.ir.graph import Node
from naru.ir.simplify import ONE, known
from naru.ops.registry import constant

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
NEARLY_ZERO = 1e-7  # SOFTMAX_ZERO leaves what is closer to 0 out
LEAST = float(np.finfo(np.float32).min)


def transform(scores: Node, name: str) -> Node:
    """The post transform of scores [N, C]. Of a single score, PROBIT alone means something."""
    if name == "NONE" or (name != "PROBIT" and known(scores.type.shape[1]) == 1):
        return scores
    x = as_f32(scores)
    if name == "SOFTMAX":
        return emit("softmax", x, axis=1)
    if name == "SOFTMAX_ZERO":
        return softmax_zero(x)
    return logistic(x) if name == "LOGISTIC" else probit(x)


def logistic(x: Node) -> Node:
    """1 / (1 + exp(-x))."""
    return emit("sigmoid", as_f32(x))


def as_f32(x: Node) -> Node:
    return as_dtype(x, "f32")


def softmax_zero(x: Node) -> Node:
    """The softmax of the scores that are not 0; those that are stay 0."""
    plain = emit("where", emit("isnan", x), scalar(LEAST, x), x)
    top = emit("max", emit("reduce_max", plain, axes=(1,), keepdims=True), scalar(LEAST, x))
    zero = emit("less_or_equal", emit("abs", x), scalar(NEARLY_ZERO, x))
    skip = emit("or", zero, emit("isnan", x))
    power = emit("exp", emit("sub", x, top))
    total = emit("reduce_sum", emit("where", skip, scalar(0, x), power), axes=(1,), keepdims=True)
    rest = emit("mul", x, emit("exp", emit("neg", top)))
    return emit("div", emit("where", skip, rest, power), total)


def probit(x: Node) -> Node:
    """sqrt(2) · the inverse of erf at 2 x - 1, by S. Winitzki's formula."""
    y = emit("sub", emit("mul", scalar(2, x), x), scalar(1, x))
    one = scalar(1, x)
    log = emit("log", emit("mul", emit("sub", one, y), emit("add", one, y)))
    half = emit("add", scalar(2 / (3.14159 * 0.147), x), emit("mul", scalar(0.5, x), log))
    inner = emit("sub", emit("mul", half, half), emit("mul", scalar(1 / 0.147, x), log))
    root = emit("sqrt", emit("sub", emit("sqrt", inner), half))
    negative = emit("less", y, scalar(0, x))
    signed = emit("where", negative, emit("neg", root), root)
    return emit("mul", scalar(1.41421356, x), signed)


def opposite(scores: Node) -> Node:
    """[N, 1] -> [N, 2]: (1 - s, s)."""
    return emit("concat", emit("sub", scalar(1, scores), scores), scores, axis=1)


def negative(scores: Node, name: str) -> Node:
    """[N, 1] -> [N, 2]: (-s, s), or the logistic function of both."""
    both = emit("concat", emit("neg", scores), scores, axis=1)
    return logistic(both) if name == "LOGISTIC" else both


def choose(found: Node, labels: Sequence[int]) -> Node:
    """Labels for bools: labels[1] where true, else labels[0]."""
    yes, no = (constant(v, np.int64) for v in (labels[1], labels[0]))
    return emit("where", found, yes, no)


def first_greatest(scores: Node) -> Node:
    """i64[N]: where a row has its first maximum, passing over NaN behind the first score."""
    first = emit("slice", scores, starts=(0,), ends=(1,), axes=(1,), steps=(1,))
    hidden = emit("where", emit("isnan", scores), scalar(-np.inf, scores), scores)
    found = emit("arg_max", hidden, axis=1, keepdims=False, select_last_index=False)
    stays = emit("reshape", emit("isnan", first), shape=(scores.type.shape[0],))
    return emit("where", stays, constant(0, np.int64), found)


def label_at(index: Node, labels: Sequence[int]) -> Node:
    """The labels of classes."""
    if list(labels) == list(range(len(labels))):
        return index
    return emit("gather", constant(list(labels), np.int64), index, axis=0)


def class_labels(c: OnnxNode, ints: str, strings: str) -> tuple[int, ...]:
    """The labels of the classes; of texts their numbers."""
    given = c.get_ints(ints) or c.get_texts(strings) or ()
    if not given:
        raise ModelError(f"expected labels in {ints!r} or {strings!r}, found none")
    return given


def rows_of(x: Node, what: str = "operand") -> Node:
    """x as a matrix [N, F]: one of rank 1 is a single row."""
    if x.type.rank == 1:
        return emit("reshape", x, shape=(ONE, x.type.shape[0]))
    if x.type.rank != 2:
        raise ModelError(f"expected an {what} [N, F] or [F], found rank {x.type.rank}")
    return x
