"""Support vector machines, Gaussian processes and kernel methods: kernels with fitted vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from naru.frontend.sklearn_base import (
    Call,
    Classified,
    Detected,
    Refused,
    Table,
    add,
    converts,
    div,
    f64,
    flat,
    greatest,
    ints,
    matmul,
    mul,
    numbers,
    op,
    positive,
    rows_of,
    sub,
    table,
    total,
    width_of,
)
from naru.ir.graph import Node
from naru.ir.simplify import ONE
from naru.ops.registry import apply

Array = np.ndarray
SURE = 1e-7  # how near to 0 and 1 libsvm lets the probability of a pair come


# --- kernels --------------------------------------------------------------------------------------


def apart(x: Node, vectors: Array) -> Node:
    """[rows, features, vectors]: differences."""
    wide = apply("reshape", x, shape=(rows_of(x), x.type.shape[1], ONE))
    return sub(wide, vectors.T[None].copy())


def square_distances(x: Node, vectors: Array) -> Node:
    """[rows, vectors], by differences: squares of norms cancel where vectors are near."""
    d = apart(x, vectors)
    return total(mul(d, d))


def kernel(x: Node, vectors: Array, kind: Any, gamma: float, coef0: float, degree: float) -> Node:
    """[rows, vectors]: the kernel of each row with each vector."""
    if kind == "rbf":
        return op("exp", mul(-gamma, square_distances(x, vectors)))
    if kind == "laplacian":
        return op("exp", mul(-gamma, total(op("abs", apart(x, vectors)))))
    if kind == "cosine":
        norm = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
        own = op("sqrt", total(mul(x, x), keep=True))
        safe = op("where", op("equal", own, 0.0), 1.0, own)
        return matmul(div(x, safe), (vectors / np.where(norm == 0, 1, norm)).T.copy())
    if kind not in ("linear", "poly", "polynomial", "sigmoid"):
        raise Refused(
            f"kernel={kind!r}: a kernel of your own", "kernel='rbf', 'poly', 'sigmoid' or 'linear'"
        )
    products = matmul(x, vectors.T.copy())
    if kind == "linear":
        return products
    inner = add(mul(gamma, products), coef0)
    return op("tanh", inner) if kind == "sigmoid" else op("pow", inner, float(degree))


# --- support vector machines ----------------------------------------------------------------------


def _values(c: Call) -> Node:
    e = c.e
    if getattr(e, "_sparse", False):
        vectors = numbers(e.support_vectors_)
    else:
        vectors = np.asarray(e.support_vectors_, np.float64)
    return kernel(c.numbers(), vectors, e.kernel, float(e._gamma), float(e.coef0), float(e.degree))


@converts("regress", "sklearn.svm.SVR", "sklearn.svm.NuSVR")
def svm_regressor(c: Call) -> Node:
    e = c.e
    total_ = flat(matmul(_values(c), numbers(e.dual_coef_).T.copy()))
    return add(total_, float(numbers(e.intercept_)[0]))


@converts("detect", "sklearn.svm.OneClassSVM")
def one_class(c: Call) -> Detected:
    scores = svm_regressor(c)
    label = apply("where", op("greater", scores, 0.0), ints(1), ints(-1))
    return Detected(label, scores)


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


@converts("classify", "sklearn.svm.SVC", "sklearn.svm.NuSVC")
def svm_classifier(c: Call) -> Classified:
    """Each pair of classes has a score; the class that wins most of them is taken."""
    e, count = c.e, len(c.e.classes_)
    per_class = np.asarray(e._n_support)
    coefficients, rho = numbers(e._dual_coef_), numbers(e._intercept_).reshape(-1)
    starts = np.concatenate([[0], np.cumsum(per_class)])
    pairs = _pairs(count)
    weights = np.zeros((int(starts[-1]), len(pairs)))
    for k, (i, j) in enumerate(pairs):
        first, second = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        weights[first, k] = coefficients[j - 1, first]
        weights[second, k] = coefficients[i, second]
    scores = add(matmul(_values(c), weights), rho[None])  # above 0: the first of the pair
    probabilities = _coupled(e, scores, count)
    if count == 2:
        own = op("neg", flat(scores))
        label = sub_int(1, positive(flat(scores)))
        return Classified(label, probabilities, own)
    if e.break_ties and e.decision_function_shape == "ovr":
        ovr = _against_rest(scores, pairs, count)
        return Classified(greatest(ovr), probabilities, ovr)
    label = greatest(_votes(scores, pairs, count))
    shape = e.decision_function_shape
    shown = _against_rest(scores, pairs, count) if shape == "ovr" else scores
    return Classified(label, probabilities, shown)


def sub_int(a: int, b: Node) -> Node:
    return apply("sub", ints(a), b)


def _votes(scores: Node, pairs: list[tuple[int, int]], count: int) -> Node:
    """[rows, classes]: each pair votes for one of its two."""
    change, start = np.zeros((len(pairs), count)), np.zeros((1, count))
    for k, (i, j) in enumerate(pairs):
        change[k, i], change[k, j] = 1, -1
        start[0, j] += 1
    return add(matmul(f64(op("greater", scores, 0.0)), change), start)


def _against_rest(scores: Node, pairs: list[tuple[int, int]], count: int) -> Node:
    """Votes and, within a third of one, the sums of confidences, as decision_function gives."""
    return one_against_rest_of_pairs(scores, f64(op("less", scores, 0.0)), pairs, count, -1.0)


def one_against_rest_of_pairs(
    scores: Node, second: Node, pairs: list[tuple[int, int]], count: int, sign: float
) -> Node:
    """`second`: 1 where a pair votes for its second class; `sign` · scores: its confidence."""
    votes, start = np.zeros((len(pairs), count)), np.zeros((1, count))
    sums = np.zeros((len(pairs), count))
    for k, (i, j) in enumerate(pairs):
        votes[k, i], votes[k, j] = -1, 1
        start[0, i] += 1
        sums[k, i], sums[k, j] = -sign, sign
    counted = add(matmul(second, votes), start)
    confidence = matmul(scores, sums)
    bounded = div(confidence, mul(3.0, add(op("abs", confidence), 1.0)))
    return add(counted, bounded)


def _coupled(e: Any, scores: Node, count: int) -> Node | None:
    """Probabilities of classes from those of pairs."""
    a, b = np.asarray(e._probA, np.float64), np.asarray(e._probB, np.float64)
    if e.probability is not True or not a.size:
        return None
    first = op("sigmoid", op("neg", add(mul(scores, a[None]), b[None])))
    inside = op("clip", first, SURE, 1 - SURE)
    return apply("couple", inside, classes=count)


# --- kernel methods -------------------------------------------------------------------------------


def _named_kernel(e: Any, x: Node, vectors: Array) -> Node:
    """What sklearn.metrics.pairwise calls by these names."""
    if e.kernel_params or callable(e.kernel):
        raise Refused("kernel: a function of your own", "kernel='rbf'")
    gamma = getattr(e, "gamma_", None)
    gamma = e.gamma if gamma is None else gamma
    gamma = 1.0 / vectors.shape[1] if gamma is None else float(gamma)
    coef0, degree = e.coef0, e.degree
    return kernel(
        x, vectors, e.kernel, gamma, 1.0 if coef0 is None else float(coef0),
        3.0 if degree is None else float(degree),
    )  # fmt: skip


@converts("regress", "sklearn.kernel_ridge.KernelRidge")
def kernel_ridge(c: Call) -> Node:
    e = c.e
    values, dual = _named_kernel(e, c.numbers(), numbers(e.X_fit_)), numbers(e.dual_coef_)
    return flat(matmul(values, dual[:, None])) if dual.ndim == 1 else matmul(values, dual)


@converts("transform", "sklearn.decomposition.KernelPCA")
def kernel_pca(c: Call) -> Table:
    e = c.e
    values = _named_kernel(e, c.numbers(), numbers(e.X_fit_))
    means = div(total(values, keep=True), float(e._centerer.K_fit_rows_.shape[0]))
    centred = add(sub(sub(values, numbers(e._centerer.K_fit_rows_)[None]), means),
                  float(e._centerer.K_fit_all_))  # fmt: skip
    kept = numbers(e.eigenvalues_) != 0
    scaled = np.zeros_like(numbers(e.eigenvectors_))
    scaled[:, kept] = numbers(e.eigenvectors_)[:, kept] / np.sqrt(numbers(e.eigenvalues_)[kept])
    return table(matmul(centred, scaled))


@converts("transform", "sklearn.kernel_approximation.Nystroem")
def nystroem(c: Call) -> Table:
    e = c.e
    values = _named_kernel(e, c.numbers(), numbers(e.components_))
    return table(matmul(values, numbers(e.normalization_).T.copy()))


@converts("transform", "sklearn.kernel_approximation.RBFSampler")
def rbf_sampler(c: Call) -> Table:
    e = c.e
    inner = add(matmul(c.numbers(), numbers(e.random_weights_)), numbers(e.random_offset_)[None])
    return table(mul(op("cos", inner), (2.0 / e.n_components) ** 0.5))


# --- Gaussian processes ---------------------------------------------------------------------------


@converts("regress", "sklearn.gaussian_process.GaussianProcessRegressor")
def gaussian_process(c: Call) -> Node:
    e = c.e
    if not hasattr(e, "X_train_"):
        raise Refused("it is not fitted", "fit it before it is compiled")
    values = process_kernel(e.kernel_, c.numbers(), numbers(e.X_train_))
    alpha = numbers(e.alpha_)
    made = matmul(values, alpha.reshape(len(alpha), -1))
    made = add(mul(made, numbers(e._y_train_std).reshape(1, -1)),
               numbers(e._y_train_mean).reshape(1, -1))  # fmt: skip
    return flat(made) if width_of(made) == 1 else made


def process_kernel(k: Any, x: Node, train: Array) -> Node:
    """[rows, train]: a kernel of a Gaussian process, between new rows and those of the fit."""
    name = type(k).__name__
    if name in ("Sum", "Product"):
        both = (process_kernel(p, x, train) for p in (k.k1, k.k2))
        return op("add" if name == "Sum" else "mul", *both)
    if name == "Exponentiation":
        return op("pow", process_kernel(k.kernel, x, train), float(k.exponent))
    if name == "WhiteKernel":
        return mul(0.0, matmul(x, np.zeros_like(train.T)))
    if name == "ConstantKernel":
        return add(mul(0.0, matmul(x, np.zeros_like(train.T))), float(k.constant_value))
    if name == "DotProduct":
        return add(matmul(x, train.T.copy()), float(k.sigma_0) ** 2)
    if name not in ("RBF", "Matern", "RationalQuadratic", "ExpSineSquared"):
        raise Refused(
            f"the kernel {name}", "RBF, Matern, RationalQuadratic, ExpSineSquared, DotProduct"
        )
    scale = np.asarray(k.length_scale, np.float64)
    if name in ("RBF", "Matern"):
        square = square_distances(
            div(x, np.broadcast_to(scale, train.shape[1:])[None]), train / scale
        )
        return op("exp", mul(-0.5, square)) if name == "RBF" else _matern(k.nu, square)
    square = square_distances(x, train)
    if name == "RationalQuadratic":
        inner = div(square, float(2 * k.alpha * scale**2))
        return op("pow", add(1.0, inner), -float(k.alpha))
    wave = op("sin", mul(np.pi / float(k.periodicity), op("sqrt", square)))
    ratio = div(wave, float(scale))
    return op("exp", mul(-2.0, mul(ratio, ratio)))


def _matern(nu: float, square: Node) -> Node:
    d = op("sqrt", square)
    if nu == 0.5:
        return op("exp", op("neg", d))
    if nu == 1.5:
        k = mul(d, float(np.sqrt(3.0)))
        return mul(add(1.0, k), op("exp", op("neg", k)))
    if nu == 2.5:
        k = mul(d, float(np.sqrt(5.0)))
        return mul(add(add(1.0, k), div(mul(k, k), 3.0)), op("exp", op("neg", k)))
    if nu == np.inf:
        return op("exp", mul(-0.5, square))
    raise Refused(f"Matern with nu={nu}", "nu of 0.5, 1.5, 2.5 or inf")
