"""Support vector machines of ai.onnx.ml: SVMClassifier, SVMRegressor.

The standard says little of them; they do what ONNX Runtime does. A row's kernel values with all
support vectors are one product of matrices, the scores of all pairs of classes another: the
coefficients of a pair are a column, with zeros for the vectors of other classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode, Unsupported, emit, scalar
from naru.frontend.onnx_scores import (
    TRANSFORMS,
    as_f32,
    class_labels,
    first_greatest,
    label_at,
    negative,
    opposite,
    rows_of,
    transform,
)
from naru.frontend.onnx_signatures import Handler
from naru.ir.graph import Node
from naru.ir.simplify import ONE, known
from naru.ops.registry import constant

Array = np.ndarray
KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")
SURE = 1e-7  # how near to 0 and 1 the probability of a pair may be


def floats(c: OnnxNode, name: str) -> Array:
    """The numbers of an attribute."""
    return np.array(c.get_floats(name), np.float32)


# --- kernels --------------------------------------------------------------------------------------


def kernel_values(c: OnnxNode, x: Node, vectors: Array) -> Node:
    """[N, V]: the kernel of each row of x with each of the vectors [V, F]."""
    kind = c.get_str("kernel_type", "LINEAR", KERNELS)
    given = c.get_floats("kernel_params")
    if given and len(given) != 3:
        raise ModelError(f"attribute 'kernel_params': expected 3 numbers, found {len(given)}")
    gamma, coef0, degree = given or (0.0, 0.0, 0.0)
    if kind == "RBF":
        # By differences: squares of norms would cancel where vectors are near to each other.
        wide = emit("reshape", x, shape=(x.type.shape[0], x.type.shape[1], ONE))
        apart = emit("sub", wide, constant(vectors.T[None].copy()))
        square = emit("reduce_sum", emit("mul", apart, apart), axes=(1,), keepdims=False)
        return emit("exp", emit("mul", scalar(-gamma, x), square))
    products = emit("matmul", x, constant(vectors.T.copy()), exact=True)
    if kind == "LINEAR":
        return products
    inner = emit("add", emit("mul", scalar(gamma, x), products), scalar(coef0, x))
    return emit("tanh", inner) if kind == "SIGMOID" else emit("pow", inner, scalar(degree, x))


def _features(c: OnnxNode, numbers: Array, vectors: int, what: str) -> tuple[Node, Array]:
    """x [N, F] in f32, and the numbers as [vectors, F]."""
    x = as_f32(rows_of(c[0]))
    size = known(x.type.shape[1])
    if not numbers.size or numbers.size % vectors:
        raise ModelError(f"attribute {what!r}: {numbers.size} numbers for {vectors} vectors")
    if size is not None and numbers.size != vectors * size:
        raise ModelError(
            f"attribute {what!r}: expected {vectors} vectors of {size} features, "
            f"found {numbers.size} numbers"
        )
    return x, numbers.reshape(vectors, -1)


# --- regression -----------------------------------------------------------------------------------


def svm_regressor(c: OnnxNode) -> Node:
    """[N, 1]. Without support vectors the coefficients are weights of the features. `one_class`: 1
    above 0, else -1."""
    count, rho = c.get_int("n_supports", 0), floats(c, "rho")
    coefficients = floats(c, "coefficients")
    c.get_str("post_transform", "NONE", TRANSFORMS)
    if not rho.size:
        raise ModelError("attribute 'rho': expected a number, found none")
    if count > 0:
        if coefficients.size != count:
            raise ModelError(f"expected {count} coefficients, found {coefficients.size}")
        x, vectors = _features(c, floats(c, "support_vectors"), count, "support_vectors")
        total = emit(
            "matmul", kernel_values(c, x, vectors), constant(coefficients[:, None]), exact=True
        )
    else:
        x, weights = _features(c, coefficients, 1, "coefficients")
        total = emit("matmul", x, constant(weights.T.copy()), exact=True)
    out = emit("add", total, scalar(float(rho[0]), total))
    if not c.get_flag("one_class", False):
        return out
    return emit("where", emit("greater", out, scalar(0, out)), scalar(1, out), scalar(-1, out))


# --- classification -------------------------------------------------------------------------------


def svm_classifier(c: OnnxNode) -> Sequence[Node]:
    """(label of each row, scores): of each pair of classes, or probabilities of each class where
    prob_a and prob_b are given; of a linear model, of each class."""
    labels = class_labels(c, "classlabels_ints", "classlabels_strings")
    post = c.get_str("post_transform", "NONE", TRANSFORMS)
    per_class, rho = c.get_ints("vectors_per_class") or (), floats(c, "rho")
    coefficients = floats(c, "coefficients")
    if not rho.size or not coefficients.size:
        raise ModelError("expected numbers in 'rho' and 'coefficients', found none")
    if sum(per_class) <= 0:
        scores = _linear(c, coefficients, float(rho[0]), labels)
        label = _linear_label(scores, labels, bool(coefficients.min() >= 0))
        return label, transform(scores, post)
    scores = _pair_scores(c, per_class, rho, coefficients, len(labels))
    label = label_at(first_greatest(_votes(scores, len(labels))), labels)
    a, b = floats(c, "prob_a"), floats(c, "prob_b")
    if a.size != b.size or a.size not in (0, rho.size):
        raise ModelError(f"expected {rho.size} of prob_a and prob_b, found {a.size} and {b.size}")
    if a.size:
        return label, transform(_probabilities(scores, a, b, len(labels)), post)
    return label, _two(scores, post) if len(labels) == 2 else transform(scores, post)


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def _pair_scores(
    c: OnnxNode, per_class: Sequence[int], rho: Array, coefficients: Array, count: int
) -> Node:
    """[N, pairs]: above 0 for the first class of a pair."""
    total, pairs = sum(per_class), _pairs(count)
    if len(per_class) != count or min(per_class) < 0 or count < 2:
        raise ModelError(f"expected vectors of {count} classes, 2 or more, found {per_class}")
    if rho.size != len(pairs) or coefficients.size != total * (count - 1):
        raise ModelError(
            f"expected {len(pairs)} of rho and {total * (count - 1)} coefficients, "
            f"found {rho.size} and {coefficients.size}"
        )
    x, vectors = _features(c, floats(c, "support_vectors"), total, "support_vectors")
    rows = coefficients.reshape(count - 1, total)
    starts = np.concatenate([[0], np.cumsum(per_class)])
    matrix = np.zeros((total, len(pairs)), np.float32)
    for k, (i, j) in enumerate(pairs):
        first, second = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        matrix[first, k], matrix[second, k] = rows[j - 1, first], rows[i, second]
    out = emit("matmul", kernel_values(c, x, vectors), constant(matrix), exact=True)
    return emit("add", out, constant(rho))


def _votes(scores: Node, count: int) -> Node:
    """[N, classes]: each pair votes for one of its two."""
    change, start = np.zeros((len(_pairs(count)), count), np.float32), np.zeros(count, np.float32)
    for k, (i, j) in enumerate(_pairs(count)):
        change[k, i], change[k, j] = 1, -1
        start[j] += 1
    for_first = emit("cast", emit("greater", scores, scalar(0, scores)), to="f32")
    return emit("add", emit("matmul", for_first, constant(change), exact=True), constant(start))


def _probabilities(scores: Node, a: Array, b: Array, count: int) -> Node:
    """[N, classes], from those of pairs, which are logistic functions of the scores."""
    inner = emit("add", emit("mul", scores, constant(a)), constant(b))
    first = emit("sigmoid", emit("neg", inner))
    inside = emit("clip", first, scalar(SURE, first), scalar(1 - SURE, first))
    return emit("couple", inside, classes=count)


def _linear(c: OnnxNode, coefficients: Array, rho: float, labels: Sequence[int]) -> Node:
    """[N, classes]: a score for each."""
    x, weights = _features(c, coefficients, len(labels), "coefficients")
    scores = emit("matmul", x, constant(weights.T.copy()), exact=True)
    return emit("add", scores, scalar(rho, scores))


def _linear_label(scores: Node, labels: Sequence[int], positive: bool) -> Node:
    """The class of the greatest score; of two, the second if that is above 0 (where no weight is
    negative: at least 0.5)."""
    found = label_at(first_greatest(scores), labels)
    if len(labels) != 2:
        return found
    top = emit("reduce_max", scores, axes=(1,), keepdims=False)
    limit = ("greater_or_equal", 0.5) if positive else ("greater", 0.0)
    second = emit(limit[0], top, scalar(limit[1], top))
    return emit("where", second, constant(labels[1], np.int64), found)


def _two(scores: Node, post: str) -> Node:
    """[N, 1] -> [N, 2]: the scores of two classes."""
    if post == "PROBIT":
        raise Unsupported("PROBIT of a single score of two classes")
    return opposite(scores) if post.startswith("SOFTMAX") else negative(scores, post)


TABLE: dict[str, Handler] = {"SVMClassifier": svm_classifier, "SVMRegressor": svm_regressor}
